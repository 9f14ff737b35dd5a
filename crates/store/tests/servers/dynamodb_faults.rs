//! A DynamoDB that fails: each fault is a class and a line, and is tried again as often as is told.

use std::time::Duration;

use keystrata_hierarchy::{Creation, KekStore, KekVersion, Rotation, StoreError};
use keystrata_store::{DynamoDbConfig, DynamoDbKekStore};

use super::{
    dynamodb_service::{Fault, Service},
    process::free_port,
    support::{path, record},
};

fn unavailable<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> String {
    let error = answer.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    let message = error.to_string();
    assert!(!message.contains('\n') && !format!("{error:?}").contains("hunter2"), "{error:?}");
    message
}

#[tokio::test]
#[ignore = "needs moto, which `cargo xtask test` installs"]
async fn each_fault_is_a_class_and_so_many_requests() {
    let service = Service::start().await;
    let (_, table) = service.store().await;
    let quick = service.config(&table).call_timeout(Duration::from_secs(9)).unwrap();
    let store = DynamoDbKekStore::open(quick).await.unwrap();
    let all = |fault: Fault| std::iter::repeat_n(fault, 20);
    for (fault, reads, writes, words) in [
        (Fault::Refuse(400, "ThrottlingException"), 8, 8, "slow down"),
        (Fault::Refuse(400, "ProvisionedThroughputExceededException"), 8, 8, "slow down"),
        (Fault::Refuse(400, "TransactionConflictException"), 8, 8, "try again"),
        (Fault::Cancel("TransactionConflict"), 8, 8, "try again"),
        (Fault::Cancel("ThrottlingError"), 8, 8, "slow down"),
        (Fault::Refuse(400, "AccessDeniedException"), 1, 1, "docs/stores.md"),
        (Fault::Refuse(400, "ExpiredTokenException"), 1, 1, "renew"),
        (Fault::Refuse(400, "RequestTimeTooSkewed"), 1, 1, "clock"),
        (Fault::Refuse(500, "InternalServerError"), 2, 2, "r-42"),
        (Fault::Nonsense, 2, 2, "not DynamoDB"),
        (Fault::Drop, 2, 2, "connection"),
        (Fault::Silence, 2, 2, "in time"),
    ] {
        // A cancelled read is one of several items.
        if !matches!(fault, Fault::Cancel(_)) {
            let before = service.seen("GetItem");
            service.then("GetItem", all(fault.clone()));
            let message = unavailable(store.head(&path("acme")).await);
            assert!(message.contains(words), "{fault:?}: {message}");
            assert_eq!(service.seen("GetItem") - before, reads, "{fault:?}");
            service.then("GetItem", []);
        }
        let before = service.seen("TransactWriteItems");
        service.then("TransactWriteItems", all(fault.clone()));
        let message = unavailable(store.create(&record("acme")).await);
        assert!(message.contains(words), "{fault:?}: {message}");
        assert_eq!(service.seen("TransactWriteItems") - before, writes, "{fault:?}");
        service.then("TransactWriteItems", []);
        assert!(store.head(&path("acme")).await.unwrap().is_none(), "{fault:?}");
    }
    let error = {
        service.then("GetItem", [Fault::Refuse(400, "ValidationException")]);
        store.head(&path("acme")).await.unwrap_err()
    };
    assert!(matches!(error, StoreError::Incompatible { .. }), "{error:?}");
    assert_eq!(store.create(&record("acme")).await.unwrap(), Creation::Created);
}

#[tokio::test]
#[ignore = "needs moto, which `cargo xtask test` installs"]
async fn what_passes_soon_is_not_noticed() {
    let service = Service::start().await;
    let (store, _) = service.store().await;
    for fault in [
        Fault::Refuse(400, "ThrottlingException"),
        Fault::Cancel("TransactionConflict"),
        Fault::Cancel("ProvisionedThroughputExceeded"),
    ] {
        service.then("TransactWriteItems", [fault.clone(), fault.clone()]);
        service.then("GetItem", [Fault::Refuse(500, "InternalServerError")]);
        service.then("BatchGetItem", [Fault::Drop]);
        let own = record(&format!("{fault:?}"));
        assert_eq!(store.create(&own).await.unwrap(), Creation::Created, "{fault:?}");
        assert_eq!(store.primary(&own.identity.path).await.unwrap(), Some(own), "{fault:?}");
    }
}

/// It was done and nobody was told so: the revision of the account says it.
#[tokio::test]
#[ignore = "needs moto, which `cargo xtask test` installs"]
async fn a_lost_answer_is_looked_into() {
    let service = Service::start().await;
    let (store, _) = service.store().await;
    let first = record("acme");
    service.then("TransactWriteItems", [Fault::Swallow]);
    assert_eq!(store.create(&first).await.unwrap(), Creation::Created);
    assert_eq!(store.create(&first).await.unwrap(), Creation::Exists);
    let mut second = record("acme");
    second.identity.version = KekVersion::new(2).unwrap();
    service.then("TransactWriteItems", [Fault::Swallow]);
    assert_eq!(store.rotate(first.identity.id, &second).await.unwrap(), Rotation::Rotated);

    // It was not done, and is sent again.
    let third = record("third");
    service.then("TransactWriteItems", [Fault::Drop]);
    assert_eq!(store.create(&third).await.unwrap(), Creation::Created);

    // Where that cannot be seen either, the KEK id says it later.
    let other = record("globex");
    service.then("TransactWriteItems", [Fault::Swallow]);
    service.then("GetItem", [Fault::Drop, Fault::Drop, Fault::Drop, Fault::Drop]);
    let message = unavailable(store.create(&other).await);
    assert!(message.contains("try again"), "{message}");
    assert_eq!(
        store.record(&path("globex"), other.identity.id).await.unwrap(),
        Some(other),
        "it was stored all the same"
    );
}

#[tokio::test]
#[ignore = "needs moto, which `cargo xtask test` installs"]
async fn a_call_ends_when_its_time_is_over() {
    let service = Service::start().await;
    let (_, table) = service.store().await;
    let quick = service.config(&table).call_timeout(Duration::from_secs(1)).unwrap();
    let store = DynamoDbKekStore::open(quick).await.unwrap();
    for number in 0..4 {
        store.create(&record(&format!("account {number}"))).await.unwrap();
    }
    service.always(&[(1, Fault::Silence)]);
    let begun = std::time::Instant::now();
    let message = unavailable(store.export(&path("account 1")).await);
    assert!(begun.elapsed() < Duration::from_secs(3), "{message}");
    service.always(&[]);
    assert!(store.head(&path("account 1")).await.unwrap().is_some(), "other connections are made");
}

#[tokio::test]
#[ignore = "needs nothing, and is slow where a machine's metadata service is looked for"]
async fn nobody_there_and_nobody_to_be_are_unavailable() {
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let config = DynamoDbConfig::new("keystrata").unwrap().region("eu-west-1").unwrap();
    let config = config.endpoint(&endpoint).unwrap().profile("keystrata-test-that-nobody-has");
    let message = unavailable(DynamoDbKekStore::open(config).await);
    assert!(message.contains("credentials"), "{message}");
}
