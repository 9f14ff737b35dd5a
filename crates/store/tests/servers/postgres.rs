//! The PostgreSQL store: what it keeps, and what it refuses.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use keystrata_hierarchy::{
    AccountCopy, Context, Creation, Hierarchy, Import, KekId, KekRecord, KekState, KekStore, KekVersion, KeyPath,
    PathHead, Raise, RootKeyId, Rotation, Shred, StoreError, Tombstone, Update, WrapperQuery, check_store,
    test_util::conformance,
};
use keystrata_kms::LocalRootKey;
use keystrata_primitives::KekIdentity;
use keystrata_store::PostgresKekStore;
use tokio::sync::RwLock;

use super::{
    postgres_database::{Database, alone, connect, server},
    support::{path, record},
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL"]
async fn it_conforms() {
    conformance::kek_store(async || Database::new().await.open().await).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn it_conforms_when_shared_on_one_thread_with_one_connection() {
    conformance::kek_store(async || {
        let database = Database::new().await;
        let store = PostgresKekStore::open(database.config("&pool_size=1&call_timeout=60")).await.unwrap();
        Arc::new(store) as Arc<dyn KekStore>
    })
    .await;
}

/// Every tenth call finds all connections ended by the server.
#[derive(Debug)]
struct Ended {
    inner: PostgresKekStore,
    database: DebugDatabase,
    calls: AtomicU64,
    /// Only idle connections are ended: what an interrupted call comes to is another test's.
    under_way: RwLock<()>,
}

struct DebugDatabase(Database);

impl std::fmt::Debug for DebugDatabase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.schema)
    }
}

impl Ended {
    async fn new() -> Self {
        let database = Database::new().await;
        let inner = database.open().await;
        Self { inner, database: DebugDatabase(database), calls: AtomicU64::new(0), under_way: RwLock::new(()) }
    }

    async fn call(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        if self.calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(10) {
            let _alone = self.under_way.write().await;
            self.database.0.kill("idle%").await;
        }
        self.under_way.read().await
    }
}

macro_rules! forward {
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl KekStore for Ended {
            $(async fn $name(&self, $($argument: $type),*) -> Result<$answer, StoreError> {
                let _call = self.call().await;
                self.inner.$name($($argument),*).await
            })*
        }
    };
}

forward! {
    head(path: &KeyPath) -> Option<PathHead>;
    record(path: &KeyPath, id: KekId) -> Option<KekRecord>;
    export(path: &KeyPath) -> Option<AccountCopy>;
    create(record: &KekRecord) -> Creation;
    rotate(previous: KekId, record: &KekRecord) -> Rotation;
    update(expected: &KekRecord, new: &KekRecord) -> Update;
    raise_min_version(path: &KeyPath, to: KekVersion) -> Raise;
    shred(path: &KeyPath, at: u64) -> Shred;
    import(copy: &AccountCopy) -> Import;
    accounts(after: Option<&KeyPath>, limit: usize) -> Vec<PathHead>;
    by_wrapper(wrapper: &WrapperQuery, after: Option<(&KeyPath, KekId)>, limit: usize) -> Vec<KekRecord>;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL"]
async fn it_conforms_though_its_connections_are_ended_all_the_time() {
    conformance::kek_store(Ended::new).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn what_an_engine_sealed_another_opens() {
    let database = Database::new().await;
    let folder = tempfile::tempdir().unwrap();
    let root = Arc::new(LocalRootKey::create(folder.path().join("root.key")).unwrap());
    let engine =
        async || Hierarchy::builder().root_key(Arc::clone(&root)).store(database.open().await).build().unwrap();
    let context = Context::new().with("row", "1");
    let first = engine().await.account("acme").unwrap();
    let sealed = first.seal(b"secret", &context).await.unwrap();
    first.rotate().await.unwrap();
    let opened = engine().await.account("acme").unwrap().open(&sealed, &context).await.unwrap();
    assert_eq!(opened, b"secret");
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn schemas_of_one_database_are_stores_of_their_own() {
    let (one, other) = (Database::new().await, Database::new().await);
    let (one, other) = (one.open().await, other.open().await);
    one.create(&record("acme")).await.unwrap();
    assert!(other.head(&path("acme")).await.unwrap().is_none());
    assert_eq!(other.create(&record("acme")).await.unwrap(), Creation::Created);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL"]
async fn any_number_of_processes_may_migrate_at_once() {
    let database = Database::without_store().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        tasks.spawn(PostgresKekStore::migrate(database.config("")));
    }
    assert!(tasks.join_all().await.into_iter().all(|version| version.unwrap() == 1));
    database.open().await.create(&record("acme")).await.unwrap();
    PostgresKekStore::migrate(database.config("")).await.unwrap();
    assert!(database.open().await.head(&path("acme")).await.unwrap().is_some(), "what is there stays");
}

fn unavailable<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> String {
    let error = answer.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    error.to_string()
}

fn incompatible<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> String {
    let error = answer.unwrap_err();
    assert!(matches!(error, StoreError::Incompatible { .. }), "{error:?}");
    error.to_string()
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_schema_without_a_store_is_refused() {
    let database = Database::without_store().await;
    let missing = unavailable(PostgresKekStore::open(database.config("")).await);
    assert!(missing.contains("no KEK store") && missing.contains("store migrate"), "{missing}");
    database.run(&format!("CREATE SCHEMA {}", database.schema)).await;
    let missing = unavailable(PostgresKekStore::open(database.config("")).await);
    assert!(missing.contains("no KEK store"), "{missing}");
}

/// As from SQLite: an update is what helps, and no backup. Every way to the row says so, and hides no other account.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_record_of_a_newer_form_asks_for_an_update() {
    let database = Database::new().await;
    let store: Arc<dyn KekStore> = Arc::new(database.open().await);
    let (acme, globex) = (record("acme"), record("globex"));
    store.create(&acme).await.unwrap();
    store.create(&globex).await.unwrap();
    // Version of the record, suite, state; what wraps it stands behind the path and the check.
    for byte in [2, 3, 4] {
        let newer = format!("UPDATE {}.kek SET record = set_byte(record, {byte}, 99) WHERE path = $1", database.schema);
        database.admin.execute(&newer, &[&acme.identity.path.as_bytes()]).await.unwrap();
        let root = WrapperQuery::Root(RootKeyId::new("test:root").unwrap());
        for refused in [
            store.primary(&acme.identity.path).await.map(drop),
            store.record(&acme.identity.path, acme.identity.id).await.map(drop),
            store.head(&acme.identity.path).await.map(drop),
            store.export(&acme.identity.path).await.map(drop),
            store.accounts(None, 10).await.map(drop),
            store.by_wrapper(&root, None, 10).await.map(drop),
        ] {
            let error = refused.unwrap_err();
            assert!(matches!(&error, StoreError::UnknownForm { path: of, .. } if *of == path("acme")), "{error:?}");
            assert!(error.to_string().contains("update keystrata"), "{error}");
        }
        assert_eq!(store.primary(&path("globex")).await.unwrap().as_ref(), Some(&globex));
        let report = check_store(&store, None, |_| {}).await.unwrap();
        assert_eq!((report.accounts, report.findings), (2, 1));
        let back = format!("UPDATE {}.kek SET record = $2 WHERE path = $1", database.schema);
        database.admin.execute(&back, &[&acme.identity.path.as_bytes(), &acme.encode().unwrap()]).await.unwrap();
    }
    assert_eq!(store.primary(&acme.identity.path).await.unwrap(), Some(acme));
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_newer_release_that_takes_over_is_not_written_to() {
    let database = Database::new().await;
    let store = database.open().await;
    let acme = record("acme");
    store.create(&acme).await.unwrap();
    let copy = AccountCopy { path: path("copy"), ..store.export(&path("acme")).await.unwrap().unwrap() };
    let copied = KekRecord { identity: record("copy").identity, ..acme.clone() };
    let copy = AccountCopy { primary: Some(copied.identity.id), records: vec![copied], ..copy };
    database.run("UPDATE keystrata_schema SET version = 2").await;
    let mut next = record("acme");
    next.identity.version = KekVersion::new(2).unwrap();
    for refused in [
        store.create(&record("globex")).await.map(drop),
        store.rotate(acme.identity.id, &next).await.map(drop),
        store.update(&acme, &acme).await.map(drop),
        store.raise_min_version(&path("acme"), KekVersion::FIRST).await.map(drop),
        store.shred(&path("acme"), 1).await.map(drop),
        PostgresKekStore::open(database.config("")).await.map(drop),
        PostgresKekStore::migrate(database.config("")).await.map(drop),
    ] {
        let message = incompatible(refused);
        assert!(message.contains("schema version 2") && message.contains("update keystrata"), "{message}");
    }
    assert!(store.import(&copy).await.is_ok_and(|import| import != Import::Imported));
    database.run("UPDATE keystrata_schema SET version = 0").await;
    assert!(incompatible(PostgresKekStore::open(database.config("")).await).contains("store migrate"));
    database.run("UPDATE keystrata_schema SET version = 1").await;
    assert_eq!(store.records(&path("acme")).await.unwrap(), [acme]);
    assert!(store.head(&path("copy")).await.unwrap().is_none());
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn rows_that_somebody_changed_are_refused() {
    for sql in [
        "UPDATE kek SET record = substr(record, 1, 100)",
        "UPDATE kek SET record = (SELECT record FROM kek ORDER BY path DESC LIMIT 1)",
        "UPDATE kek SET version = 7",
        "UPDATE kek SET state = 2",
        "UPDATE account SET primary_id = decode('00000000000000000000000000000000', 'hex')",
    ] {
        let database = Database::new().await;
        let store = database.open().await;
        let acme = record("acme");
        store.create(&acme).await.unwrap();
        store.create(&record("globex")).await.unwrap();
        database.run(&format!("{sql} WHERE path = decode('010000000400000061636d65', 'hex')")).await;
        for answer in [store.primary(&path("acme")).await.map(drop), store.accounts(None, 9).await.map(drop)] {
            let error = answer.unwrap_err();
            assert!(matches!(&error, StoreError::Corrupt { path: named, .. } if *named == path("acme")), "{error:?}");
        }
        assert!(store.primary(&path("globex")).await.unwrap().is_some(), "{sql}");
        // Nor does it keep the account from being shredded.
        let shred = store.shred(&path("acme"), 5).await.unwrap();
        assert_eq!(shred, Shred::Shredded(Tombstone { at: 5, keks: 1 }), "{sql}");
        let left = store.records(&path("acme")).await.unwrap();
        assert!(left.iter().all(|record| record.state == KekState::Destroyed), "{sql}");
    }
    let database = Database::new().await;
    let store = database.open().await;
    database.run("ALTER TABLE kek RENAME COLUMN record TO other").await;
    assert!(incompatible(store.create(&record("acme")).await).contains("backup"));
}

/// As `docs/stores.md` has it.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_dump_restores_the_store() {
    let database = Database::new().await;
    let store = database.open().await;
    let first = record("acme");
    store.create(&first).await.unwrap();
    let second = KekRecord {
        identity: KekIdentity { version: KekVersion::new(2).unwrap(), ..record("acme").identity },
        ..record("acme")
    };
    store.rotate(first.identity.id, &second).await.unwrap();
    store.create(&record("globex")).await.unwrap();
    store.shred(&path("globex"), 3).await.unwrap();
    let before = [store.export(&path("acme")).await.unwrap(), store.export(&path("globex")).await.unwrap()];

    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("keys.dump");
    let url = format!("{}/postgres", server());
    let run = |program: &str, arguments: &[&str]| {
        let done = std::process::Command::new(program).args(arguments).output().unwrap();
        assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
    };
    let dump = dump.to_str().unwrap();
    run("pg_dump", &[&format!("--schema={}", database.schema), "--format=custom", &format!("--file={dump}"), &url]);
    database.run(&format!("DROP SCHEMA {} CASCADE", database.schema)).await;
    assert!(PostgresKekStore::open(database.config("")).await.is_err());
    run("pg_restore", &[&format!("--dbname={url}"), dump]);

    let restored = database.open().await;
    let after = [restored.export(&path("acme")).await.unwrap(), restored.export(&path("globex")).await.unwrap()];
    assert_eq!(before, after);
    let again = restored.create(&record("globex")).await.unwrap_err();
    assert!(matches!(again, StoreError::Shredded { .. }), "{again}");
    assert_eq!(restored.create(&record("new")).await.unwrap(), Creation::Created);
}

/// Durability is the store's, whatever the session was given.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn every_write_waits_for_the_disk() {
    for (given, used) in [("off", "on"), ("local", "on"), ("remote_write", "on"), ("remote_apply", "remote_apply")] {
        let database = Database::new().await;
        database
            .run(
                "CREATE TABLE seen (setting text);
                CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
                CREATE TRIGGER see AFTER INSERT ON account EXECUTE FUNCTION see();",
            )
            .await;
        let config = database.config(&format!("&options=-c%20synchronous_commit%3D{given}"));
        let store = PostgresKekStore::open(config).await.unwrap();
        store.create(&record("acme")).await.unwrap();
        let seen: String = database.ask(&format!("SELECT setting FROM {}.seen", database.schema), &[]).await[0].get(0);
        assert_eq!(seen, used, "{given}");
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_server_that_may_lose_what_it_confirms_is_refused() {
    let database = Database::new().await;
    let url = database.url("");
    drop(database);
    let _alone = alone().await;
    let admin = connect("postgres").await;
    for setting in ["fsync", "full_page_writes"] {
        let set = async |value: &str| {
            admin.execute(&format!("ALTER SYSTEM SET {setting} = {value}"), &[]).await.unwrap();
            admin.execute("SELECT pg_reload_conf()", &[]).await.unwrap();
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
            while connect("postgres")
                .await
                .query_one("SELECT current_setting($1)", &[&setting])
                .await
                .unwrap()
                .get::<_, String>(0)
                != value
            {
                assert!(std::time::Instant::now() < deadline);
            }
        };
        set("off").await;
        let refused = PostgresKekStore::open(keystrata_store::PostgresConfig::from_url(&url).unwrap()).await;
        set("on").await;
        let message = incompatible(refused);
        assert!(message.contains(&format!("has {setting} off")), "{message}");
    }
}

#[test]
fn without_a_runtime_it_refuses_and_does_not_panic() {
    let config = keystrata_store::PostgresConfig::from_url("postgres://app:hunter2@localhost/keys").unwrap();
    let mut open = std::pin::pin!(PostgresKekStore::open(config));
    let poll = open.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    let std::task::Poll::Ready(answer) = poll else { panic!("there is nothing to wait for") };
    assert!(unavailable(answer).contains("tokio runtime"));
}
