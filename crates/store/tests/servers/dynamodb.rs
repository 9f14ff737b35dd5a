//! The DynamoDB store: what it keeps.

use std::sync::Arc;

use keystrata_hierarchy::{
    AccountCopy, Context, Creation, Hierarchy, Import, KekRecord, KekState, KekStore, KekVersion, KeyPath, Shred,
    StoreError, Tombstone, WrapperQuery, test_util::conformance,
};
use keystrata_kms::LocalRootKey;
use keystrata_store::{DynamoDbConfig, DynamoDbKekStore};
use tokio::task::JoinSet;

use super::{
    dynamodb_service::{Fault, Service},
    support::{path, record},
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs moto, which `cargo xtask test` installs"]
async fn it_conforms() {
    let service = Service::start().await;
    conformance::kek_store(async || service.store().await.0).await;
}

#[tokio::test]
#[ignore = "needs moto, which `cargo xtask test` installs"]
async fn it_conforms_when_shared_on_one_thread() {
    let service = Service::start().await;
    conformance::kek_store(async || Arc::new(service.store().await.0) as Arc<dyn KekStore>).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs moto, which `cargo xtask test` installs"]
async fn it_conforms_though_requests_fail_all_the_time() {
    let service = Service::start().await;
    conformance::kek_store(async || {
        // What is tried is the store in use, not the making of its table.
        service.always(&[]);
        let (store, _) = service.store().await;
        service.always(&[
            // So seldom that no request meets it again when it is sent once more.
            (211, Fault::Swallow),
            (13, Fault::Refuse(400, "ProvisionedThroughputExceededException")),
            (7, Fault::Cancel("TransactionConflict")),
        ]);
        store
    })
    .await;
}

#[tokio::test]
#[ignore = "needs moto, which `cargo xtask test` installs"]
async fn what_an_engine_sealed_another_opens() {
    let service = Service::start().await;
    let (_, table) = service.store().await;
    let folder = tempfile::tempdir().unwrap();
    let root = Arc::new(LocalRootKey::create(folder.path().join("root.key")).unwrap());
    let engine = async || {
        let store = service.open(&table).await;
        Hierarchy::builder().root_key(Arc::clone(&root)).store(store).build().unwrap()
    };
    let context = Context::new().with("row", "1");
    let first = engine().await.account("acme").unwrap();
    let sealed = first.seal(b"secret", &context).await.unwrap();
    first.rotate().await.unwrap();
    let opened = engine().await.account("acme").unwrap().open(&sealed, &context).await.unwrap();
    assert_eq!(opened, b"secret");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs moto, which `cargo xtask test` installs"]
async fn any_number_of_processes_may_migrate_at_once() {
    let service = Service::start().await;
    let table = Service::table();
    let plan = DynamoDbKekStore::plan_migration(service.config(&table)).await.unwrap();
    assert_eq!((plan.from, plan.to, plan.steps.len()), (0, 1, 3));
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        tasks.spawn(DynamoDbKekStore::migrate(service.config(&table)));
    }
    assert!(tasks.join_all().await.into_iter().all(|version| version.unwrap() == 1));
    service.open(&table).await.create(&record("acme")).await.unwrap();
    DynamoDbKekStore::migrate(service.config(&table)).await.unwrap();
    assert!(service.open(&table).await.head(&path("acme")).await.unwrap().is_some(), "what is there stays");
    let plan = DynamoDbKekStore::plan_migration(service.config(&table)).await.unwrap();
    assert_eq!((plan.from, plan.steps.len()), (1, 0));

    let made = service.client().describe_table().table_name(&table).send().await.unwrap().table.unwrap();
    assert_eq!(made.deletion_protection_enabled(), Some(true));
    if std::env::var_os("KEYSTRATA_TEST_DYNAMODB").is_none() {
        let backups = service.client().describe_continuous_backups().table_name(&table).send().await.unwrap();
        let backups = backups.continuous_backups_description.unwrap().point_in_time_recovery_description.unwrap();
        assert_eq!(backups.point_in_time_recovery_status.unwrap().as_str(), "ENABLED");
    }
}

/// A copy of an account of that many KEKs, the last of them primary.
fn large(name: &str, keks: u32) -> AccountCopy {
    let of_version = |version| {
        let mut record = record(name);
        record.identity.version = KekVersion::new(version).unwrap();
        if version < keks {
            (record.state, record.retired_at) = (KekState::Retired, record.created_at);
        }
        record
    };
    let records: Vec<KekRecord> = (1..=keks).map(of_version).collect();
    let primary = records.last().map(|record| record.identity.id);
    AccountCopy { path: path(name), records, primary, min_version: KekVersion::FIRST, tombstone: None }
}

/// DynamoDB takes 100 items in a transaction.
#[tokio::test]
#[ignore = "needs moto, which `cargo xtask test` installs"]
async fn an_account_may_have_more_keks_than_a_transaction() {
    let service = Service::start().await;
    let (store, table) = service.store().await;
    let copy = large("acme", 250);
    let query = &WrapperQuery::all_of(&copy.records[0].wraps[0].wrapper)[0];
    assert_eq!(store.import(&copy).await.unwrap(), Import::Imported);
    assert_eq!(store.import(&copy).await.unwrap(), Import::Same);
    assert_eq!(store.export(&path("acme")).await.unwrap(), Some(copy.clone()));
    assert_eq!(store.by_wrapper(query, None, usize::MAX).await.unwrap().len(), 250);
    let mut next = record("acme");
    next.identity.version = KekVersion::new(251).unwrap();
    store.rotate(copy.primary.unwrap(), &next).await.unwrap();

    let tombstone = Tombstone { at: 7, keks: 251 };
    assert_eq!(store.shred(&path("acme"), 7).await.unwrap(), Shred::Shredded(tombstone));
    let left = store.records(&path("acme")).await.unwrap();
    assert_eq!(left.len(), 251);
    assert!(left.iter().all(|record| record.state == KekState::Destroyed && record.wraps.is_empty()));
    assert!(store.by_wrapper(query, None, usize::MAX).await.unwrap().is_empty());
    no_secret_is_left(&service, &table).await;
}

/// Nor in an item that nobody reads.
async fn no_secret_is_left(service: &Service, table: &str) {
    let secret = record("any").wraps.swap_remove(0).ciphertext;
    for item in service.items(table).await {
        let Some(bytes) = item.get("record").and_then(|record| record.as_b().ok()) else { continue };
        assert!(!bytes.as_ref().windows(secret.len()).any(|part| part == secret), "{item:?}");
    }
}

/// Each leaves the store in the middle of a call that takes several transactions.
#[tokio::test]
#[ignore = "needs moto, which `cargo xtask test` installs"]
async fn what_was_interrupted_is_taken_up() {
    let service = Service::start().await;
    let (store, table) = service.store().await;
    let copy = large("acme", 150);
    // The first of two transactions is done, the second never arrives.
    service.then("TransactWriteItems", [Fault::Swallow]);
    assert!(matches!(store.import(&copy).await, Err(StoreError::Unavailable { .. })));
    assert!(store.head(&path("acme")).await.unwrap().is_none(), "half an import is none");
    assert!(store.accounts(None, 10).await.unwrap().is_empty());
    assert_eq!(store.import(&copy).await.unwrap(), Import::Imported);
    assert_eq!(store.export(&path("acme")).await.unwrap(), Some(copy.clone()));

    let before = service.seen("TransactWriteItems");
    let acme = path("acme");
    let shredding = store.shred(&acme, 7);
    // Done as far as one transaction goes, and given up there.
    tokio::select! {
        _ = shredding => panic!("it takes more than one transaction"),
        () = async { while service.seen("TransactWriteItems") < before + 2 { tokio::task::yield_now().await } } => {}
    }
    let tombstone = Tombstone { at: 7, keks: 150 };
    let left = store.records(&path("acme")).await.unwrap();
    assert!(
        left.iter().all(|record| record.state == KekState::Destroyed && record.wraps.is_empty()),
        "nobody gets them"
    );
    assert_eq!(store.shred(&path("acme"), 8).await.unwrap(), Shred::Already(tombstone));
    no_secret_is_left(&service, &table).await;
    let again = store.create(&record("acme")).await.unwrap_err();
    assert!(matches!(again, StoreError::Shredded { .. }), "{again}");
}

#[tokio::test]
#[ignore = "needs moto, which `cargo xtask test` installs"]
async fn the_longest_paths_are_listed_in_their_order() {
    let service = Service::start().await;
    let (store, _) = service.store().await;
    let (long, other) = ("x".repeat(128), format!("{}y", "x".repeat(127)));
    let mut paths = vec![path("a"), path("z")];
    for first in [&long, &other] {
        for last in ["a", "b", &long, &other] {
            let mut segments = [long.as_str(); 8];
            (segments[6], segments[7]) = (first, last);
            paths.push(KeyPath::new(segments).unwrap());
            paths.push(KeyPath::new(&segments[..7 - usize::from(last == "a")]).unwrap());
        }
    }
    paths.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    paths.dedup();
    for path in &paths {
        let mut own = record("any");
        own.identity.path = path.clone();
        assert_eq!(store.create(&own).await.unwrap(), Creation::Created);
    }
    let query = &WrapperQuery::all_of(&record("any").wraps[0].wrapper)[0];
    for limit in [1, 2, 3, 100] {
        let (mut accounts, mut wrapped) = (Vec::<KeyPath>::new(), Vec::<KekRecord>::new());
        loop {
            let page = store.accounts(accounts.last(), limit).await.unwrap();
            let after = wrapped.last().map(|record| (&record.identity.path, record.identity.id));
            let of_wrapper = store.by_wrapper(query, after, limit).await.unwrap();
            if page.is_empty() && of_wrapper.is_empty() {
                break;
            }
            accounts.extend(page.into_iter().map(|head| head.path));
            wrapped.extend(of_wrapper);
        }
        assert_eq!(accounts, paths, "{limit}");
        assert!(wrapped.iter().map(|record| &record.identity.path).eq(&paths), "{limit}");
    }
}

#[test]
fn without_a_runtime_it_refuses_and_does_not_panic() {
    let config = DynamoDbConfig::from_uri("dynamodb:keystrata?region=eu-west-1").unwrap();
    let mut open = std::pin::pin!(DynamoDbKekStore::open(config));
    let poll = open.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    let std::task::Poll::Ready(answer) = poll else { panic!("there is nothing to wait for") };
    assert!(answer.unwrap_err().to_string().contains("tokio runtime"));
}
