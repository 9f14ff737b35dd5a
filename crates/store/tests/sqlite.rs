//! The SQLite store through its public methods: what it keeps, and what it refuses.
#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod support;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use keystrata_hierarchy::{
    Context as Pairs, Creation, Hierarchy, KekStore, KekVersion, KeyPath, StoreError, test_util::conformance,
};
use keystrata_kms::LocalRootKey;
use keystrata_store::SqliteKekStore;
use rusqlite::{Connection, params};
use tempfile::TempDir;

use self::support::{path, record};

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    (folder, file)
}

/// A store at `file` with the accounts `acme` and `globex`, closed again.
async fn filled(file: &Path) {
    let store = SqliteKekStore::open(file).await.unwrap();
    for account in ["acme", "globex"] {
        assert_eq!(store.create(&record(account)).await.unwrap(), Creation::Created);
    }
}

/// Runs SQL on a store that nobody has open.
fn tamper(file: &Path, sql: &str) {
    Connection::open(file).unwrap().execute_batch(sql).unwrap();
}

/// The message of a refusal that says what is wrong with the database.
fn incompatible<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> String {
    let error = answer.unwrap_err();
    assert!(matches!(error, StoreError::Incompatible { .. }), "{error:?}");
    one_line(&error)
}

/// The message of a refusal that says what the system lacks.
fn unavailable<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> String {
    let error = answer.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    one_line(&error)
}

fn one_line(error: &StoreError) -> String {
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms() {
    let (folder, number) = (tempfile::tempdir().unwrap(), std::cell::Cell::new(0));
    conformance::kek_store(async || {
        number.set(number.get() + 1);
        SqliteKekStore::open(folder.path().join(format!("{}.db", number.get()))).await.unwrap()
    })
    .await;
}

#[tokio::test]
async fn it_conforms_when_shared_on_one_thread() {
    let (folder, number) = (tempfile::tempdir().unwrap(), std::cell::Cell::new(0));
    conformance::kek_store(async || {
        number.set(number.get() + 1);
        let store = SqliteKekStore::open(folder.path().join(format!("{}.db", number.get()))).await.unwrap();
        Arc::new(store) as Arc<dyn KekStore>
    })
    .await;
}

#[tokio::test]
async fn what_was_created_is_there_after_reopening() {
    let (folder, file) = folder();
    let acme = record("acme");
    let store = SqliteKekStore::open(&file).await.unwrap();
    store.create(&acme).await.unwrap();
    let beside = SqliteKekStore::open_existing(&file).await.unwrap();
    assert_eq!(beside.primary(&path("acme")).await.unwrap(), Some(acme.clone()), "another store sees it at once");
    drop((store, beside));
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["keys.db"], "nothing is left beside a closed store");
    let store = SqliteKekStore::open(&file).await.unwrap();
    assert_eq!(store.records(&path("acme")).await.unwrap(), [acme]);
}

#[tokio::test]
async fn open_existing_makes_nothing() {
    let (folder, file) = folder();
    let message = unavailable(SqliteKekStore::open_existing(&file).await);
    assert!(message.contains("no KEK store at") && message.contains("keystrata init"), "{message}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_store_that_vanished_is_not_made_again() {
    let (_folder, file) = folder();
    filled(&file).await;
    let store = SqliteKekStore::open(&file).await.unwrap();
    assert!(store.primary(&path("acme")).await.unwrap().is_some());
    std::fs::remove_file(&file).unwrap();
    assert!(unavailable(store.primary(&path("acme")).await).contains("no KEK store at"));
    assert!(unavailable(store.create(&record("new")).await).contains("no KEK store at"));
    assert!(!file.exists());
}

#[tokio::test]
async fn a_store_that_was_replaced_is_used_as_it_is_now() {
    let (folder, file) = folder();
    let store = SqliteKekStore::open(&file).await.unwrap();
    store.create(&record("before")).await.unwrap();
    assert!(store.primary(&path("before")).await.unwrap().is_some());

    let restored = folder.path().join("restored.db");
    filled(&restored).await;
    std::fs::rename(&file, folder.path().join("old.db")).unwrap();
    for suffix in ["-wal", "-shm"] {
        std::fs::remove_file(folder.path().join(format!("keys.db{suffix}"))).unwrap();
    }
    std::fs::rename(&restored, &file).unwrap();

    assert!(store.primary(&path("before")).await.unwrap().is_none());
    assert!(store.primary(&path("acme")).await.unwrap().is_some());
    assert_eq!(store.create(&record("after")).await.unwrap(), Creation::Created);
    drop(store);
    let reopened = SqliteKekStore::open_existing(&file).await.unwrap();
    assert!(reopened.primary(&path("after")).await.unwrap().is_some(), "it went into the file that is there");
}

#[tokio::test]
async fn a_restored_copy_is_put_into_write_ahead_mode() {
    let (folder, file) = folder();
    filled(&file).await;
    let copy = folder.path().join("copy.db");
    Connection::open(&file).unwrap().execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    let store = SqliteKekStore::open_existing(&copy).await.unwrap();
    assert!(store.primary(&path("acme")).await.unwrap().is_some());
    drop(store);
    let mode: String =
        Connection::open(&copy).unwrap().pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}

#[tokio::test]
async fn other_files_are_refused_and_stay_as_they_are() {
    let (_folder, file) = folder();
    let long = vec![0xa5; 100_000];
    for other in [&b"x"[..], b"accounts: none\n", b"SQLite format 3", &long] {
        std::fs::write(&file, other).unwrap();
        let message = incompatible(SqliteKekStore::open(&file).await);
        assert!(message.contains("not an SQLite database") && message.contains("keys.db"), "{message}");
        assert_eq!(std::fs::read(&file).unwrap(), other);
    }
    std::fs::write(&file, b"").unwrap();
    assert!(incompatible(SqliteKekStore::open(&file).await).contains("is empty"));
    assert_eq!(std::fs::read(&file).unwrap(), b"");
}

#[tokio::test]
async fn databases_of_other_programs_are_refused_and_stay_as_they_are() {
    let (_folder, file) = folder();
    for sql in [
        "CREATE TABLE bookmarks (url TEXT);",
        "CREATE TABLE kek (path BLOB); PRAGMA user_version = 1;",
        "PRAGMA application_id = 252006674; PRAGMA user_version = 1;",
        "PRAGMA journal_mode = WAL; CREATE TABLE bookmarks (url TEXT);",
    ] {
        tamper(&file, sql);
        let before = std::fs::read(&file).unwrap();
        let message = incompatible(SqliteKekStore::open(&file).await);
        assert!(message.contains("of another program"), "{message}");
        assert_eq!(std::fs::read(&file).unwrap(), before, "{sql}");
        std::fs::remove_file(&file).unwrap();
    }
}

#[tokio::test]
async fn a_schema_from_a_newer_release_is_refused() {
    let (_folder, file) = folder();
    filled(&file).await;
    tamper(&file, "PRAGMA user_version = 3");
    for answer in [SqliteKekStore::open(&file).await, SqliteKekStore::open_existing(&file).await] {
        let message = incompatible(answer);
        assert!(message.contains("schema version 3") && message.contains("update keystrata"), "{message}");
    }
    tamper(&file, "PRAGMA user_version = 0");
    assert!(incompatible(SqliteKekStore::open(&file).await).contains("schema version 0"));
}

#[tokio::test]
async fn a_newer_release_that_takes_over_an_open_store_is_not_written_to() {
    let (_folder, file) = folder();
    let store = SqliteKekStore::open(&file).await.unwrap();
    store.create(&record("acme")).await.unwrap();
    tamper(&file, "PRAGMA user_version = 3");
    let message = incompatible(store.create(&record("globex")).await);
    assert!(message.contains("update keystrata"), "{message}");
}

#[tokio::test]
async fn truncated_files_are_refused() {
    let (_folder, file) = folder();
    filled(&file).await;
    let whole = std::fs::read(&file).unwrap();
    for len in [0, 1, 15, 16, 99, 100, 511, 512, 4095, 4096, whole.len() / 2, whole.len() - 4096, whole.len() - 1] {
        std::fs::write(&file, &whole[..len]).unwrap();
        let refused = match SqliteKekStore::open(&file).await {
            Err(error) => error,
            Ok(store) => match store.primaries(None, 10).await {
                Err(error) => error,
                Ok(_) => panic!("a file cut to {len} of {} bytes is not refused", whole.len()),
            },
        };
        let message = incompatible(Err::<(), _>(refused));
        assert!(message.contains("backup"), "{len}: {message}");
    }
}

#[tokio::test]
async fn paths_that_lead_to_no_file_are_refused() {
    let (folder, file) = folder();
    std::fs::create_dir(&file).unwrap();
    assert!(incompatible(SqliteKekStore::open(&file).await).contains("is not a file"));
    let no_folder = folder.path().join("missing").join("keys.db");
    let message = unavailable(SqliteKekStore::open(&no_folder).await);
    assert!(message.contains("does not exist: make the folder"), "{message}");
    assert!(unavailable(SqliteKekStore::open("").await).contains("is not the path of a file"));
    assert!(SqliteKekStore::open("nul\0byte.db").await.is_err());
    assert!(SqliteKekStore::open("/").await.is_err());
    #[cfg(unix)]
    {
        let link = folder.path().join("link.db");
        std::os::unix::fs::symlink(folder.path().join("nowhere.db"), &link).unwrap();
        assert!(unavailable(SqliteKekStore::open(&link).await).contains("cannot be opened"));
        assert!(!folder.path().join("nowhere.db").exists());
    }
}

#[tokio::test]
async fn odd_names_are_only_names() {
    let (folder, _) = folder();
    for name in [":memory:", "file:keys.db?mode=memory", "a'b\"c;--.db", "größe.db"] {
        let file = folder.path().join(name);
        let store = SqliteKekStore::open(&file).await.unwrap();
        store.create(&record("acme")).await.unwrap();
        drop(store);
        assert!(file.is_file(), "{name}");
    }
}

#[tokio::test]
async fn a_broken_record_is_corrupt_and_names_the_account() {
    let (_folder, file) = folder();
    for (what, sql) in [
        ("cut", "UPDATE kek SET record = substr(record, 1, 100) WHERE hex(path) LIKE '%61636D65'"),
        ("nothing", "UPDATE kek SET record = x'' WHERE hex(path) LIKE '%61636D65'"),
        ("the other account's", "UPDATE kek SET record = (SELECT record FROM kek ORDER BY path DESC LIMIT 1)"),
        ("under another id", "UPDATE kek SET kek_id = zeroblob(16) WHERE hex(path) LIKE '%61636D65'"),
        ("under another version", "UPDATE kek SET version = 7 WHERE hex(path) LIKE '%61636D65'"),
        ("in another state", "UPDATE kek SET state = 2 WHERE hex(path) LIKE '%61636D65'"),
    ] {
        filled(&file).await;
        tamper(&file, sql);
        let store = SqliteKekStore::open(&file).await.unwrap();
        let error = store.records(&path("acme")).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Corrupt { path: named, .. } if *named == path("acme")),
            "{what}: {error:?}"
        );
        assert!(one_line(&error).contains("account acme"), "{error}");
        assert!(store.primary(&path("globex")).await.unwrap().is_some(), "{what}: other accounts are not affected");
        drop(store);
        std::fs::remove_file(&file).unwrap();
    }
}

#[tokio::test]
async fn a_record_from_a_newer_release_asks_for_an_update() {
    let (_folder, file) = folder();
    filled(&file).await;
    let db = Connection::open(&file).unwrap();
    let mut newer = record("acme").encode().unwrap();
    newer[2] = 2;
    db.execute("UPDATE kek SET record = ?1 WHERE path = ?2", params![newer, path("acme").as_bytes()]).unwrap();
    drop(db);
    let store = SqliteKekStore::open(&file).await.unwrap();
    let error = store.primary(&path("acme")).await.unwrap_err();
    assert!(matches!(&error, StoreError::UnknownForm { path: named, .. } if *named == path("acme")), "{error:?}");
    let message = one_line(&error);
    assert!(message.contains("acme") && message.contains("update keystrata"), "{message}");
}

#[tokio::test]
async fn rows_and_tables_that_are_none_are_incompatible() {
    let (_folder, file) = folder();
    for sql in [
        "UPDATE account SET path = x'00' WHERE hex(path) LIKE '%61636D65'",
        "DROP TABLE kek",
        "ALTER TABLE kek RENAME COLUMN record TO other",
        "DROP TABLE account",
        // Typed otherwise.
        "DROP TABLE kek; CREATE TABLE kek (path, kek_id, version, state, record); INSERT INTO kek SELECT path, primary_id, 3, 1, 4 FROM account",
        "UPDATE kek SET record = zeroblob(1000000)",
    ] {
        filled(&file).await;
        tamper(&file, sql);
        let store = SqliteKekStore::open(&file).await.unwrap();
        let error = store.primaries(None, 10).await;
        assert!(incompatible(error).contains("backup"), "{sql}");
        drop(store);
        std::fs::remove_file(&file).unwrap();
    }
}

#[tokio::test]
async fn the_database_itself_allows_one_primary_for_each_path() {
    let (_folder, file) = folder();
    filled(&file).await;
    let db = Connection::open(&file).unwrap();
    let insert = "INSERT INTO kek VALUES (?1, ?2, ?3, ?4, x'00')";
    let acme = path("acme");
    let (second, first) = (KekVersion::FIRST.next().unwrap().get(), KekVersion::FIRST.get());
    assert!(db.execute(insert, params![acme.as_bytes(), [9_u8; 16], second, 1]).is_err(), "a second primary");
    assert!(db.execute(insert, params![acme.as_bytes(), [9_u8; 16], first, 2]).is_err(), "a second version 1");
    assert_eq!(db.execute(insert, params![acme.as_bytes(), [9_u8; 16], second, 2]).unwrap(), 1);
}

#[tokio::test]
async fn a_dropped_creation_is_carried_out_once_begun() {
    let (_folder, file) = folder();
    let store = SqliteKekStore::open(&file).await.unwrap();
    let dropped = record("acme");
    let poll = store.create(&dropped).as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(poll.is_pending());
    // Creations take turns, so this one comes after.
    assert_eq!(store.create(&record("acme")).await.unwrap(), Creation::Exists);
    assert_eq!(store.primary(&path("acme")).await.unwrap(), Some(dropped));
}

#[test]
fn without_a_runtime_it_refuses_and_does_not_panic() {
    let (_folder, file) = folder();
    let mut open = std::pin::pin!(SqliteKekStore::open(&file));
    let Poll::Ready(answer) = open.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("there is nothing to wait for");
    };
    assert!(unavailable(answer).contains("tokio runtime"));
}

#[tokio::test]
async fn debug_shows_the_path() {
    let (_folder, file) = folder();
    let store = SqliteKekStore::open(&file).await.unwrap();
    assert!(format!("{store:?}").contains("keys.db"));
}

#[tokio::test]
async fn a_path_of_eight_long_segments_pages_and_reads() {
    let (_folder, file) = folder();
    let store = SqliteKekStore::open(&file).await.unwrap();
    let mut long = record("x");
    long.identity.path = KeyPath::new([&"s".repeat(128); 8]).unwrap();
    store.create(&long).await.unwrap();
    drop(store);
    let store = SqliteKekStore::open_existing(&file).await.unwrap();
    assert_eq!(store.primaries(None, 1).await.unwrap(), [long]);
}

#[tokio::test]
async fn what_an_engine_sealed_another_opens_after_a_restart() {
    let (folder, file) = folder();
    let key_file = folder.path().join("root.key");
    LocalRootKey::create(&key_file).unwrap();
    let pairs = Pairs::new().with("row", "42");
    let mut sealed = Vec::new();
    for process in 0..2 {
        let root = Arc::new(LocalRootKey::open(&key_file).unwrap());
        let store = SqliteKekStore::open(&file).await.unwrap();
        let keys = Hierarchy::builder().root_key(Arc::clone(&root)).store(store).build().unwrap();
        let acme = keys.account("acme").unwrap();
        if process == 0 {
            sealed = acme.seal(b"secret", &pairs).await.unwrap();
        }
        assert_eq!(acme.open(&sealed, &pairs).await.unwrap(), b"secret");
        assert_eq!(root.calls(), 1);
    }
}
