//! Tables that are not there, are others', or were changed by other means.

use std::collections::HashMap;

use aws_sdk_dynamodb::{
    primitives::Blob,
    types::{AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType},
};
use keystrata_hierarchy::{Creation, KekRecord, KekState, KekStore, KekVersion, Shred, StoreError, Tombstone};
use keystrata_store::DynamoDbKekStore;

use super::{
    dynamodb_service::Service,
    support::{path, record},
};

type Item = HashMap<String, AttributeValue>;

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

async fn make_table(service: &Service, table: &str, keys: &[(&str, KeyType)]) {
    let mut request = service.client().create_table().table_name(table).billing_mode(BillingMode::PayPerRequest);
    for (name, kind) in keys {
        let key = KeySchemaElement::builder().attribute_name(*name).key_type(kind.clone()).build().unwrap();
        let attribute = AttributeDefinition::builder().attribute_name(*name);
        let attribute = attribute.attribute_type(ScalarAttributeType::S).build().unwrap();
        request = request.key_schema(key).attribute_definitions(attribute);
    }
    request.send().await.unwrap();
}

async fn put(service: &Service, table: &str, item: Item) {
    service.client().put_item().table_name(table).set_item(Some(item)).send().await.unwrap();
}

fn text(item: &Item, name: &str) -> String {
    item[name].as_s().unwrap().clone()
}

#[tokio::test]
#[ignore = "needs moto, which `cargo xtask test` installs"]
async fn a_table_without_a_store_is_refused() {
    let service = Service::start().await;
    let table = Service::table();
    let missing = unavailable(DynamoDbKekStore::open(service.config(&table)).await);
    assert!(missing.contains("no KEK store") && missing.contains("store migrate"), "{missing}");
    let own = [("pk", KeyType::Hash), ("sk", KeyType::Range)];
    make_table(&service, &table, &own).await;
    let missing = unavailable(DynamoDbKekStore::open(service.config(&table)).await);
    assert!(missing.contains("no KEK store"), "{missing}");
    // A table that somebody made by other tools is taken as it is.
    assert_eq!(DynamoDbKekStore::migrate(service.config(&table)).await.unwrap(), 1);
    service.open(&table).await.create(&record("acme")).await.unwrap();

    let other = Service::table();
    make_table(&service, &other, &[("id", KeyType::Hash)]).await;
    for refused in [
        DynamoDbKekStore::open(service.config(&other)).await.map(drop),
        DynamoDbKekStore::migrate(service.config(&other)).await.map(drop),
        DynamoDbKekStore::plan_migration(service.config(&other)).await.map(drop),
    ] {
        assert!(incompatible(refused).contains("not that of a KEK store"));
    }
}

#[tokio::test]
#[ignore = "needs moto, which `cargo xtask test` installs"]
async fn a_newer_release_that_takes_over_is_not_written_to() {
    let service = Service::start().await;
    let (store, table) = service.store().await;
    let acme = record("acme");
    store.create(&acme).await.unwrap();
    let set_version = async |version: &str| {
        let item = [("pk", "schema"), ("sk", "version")].map(|(n, v)| (n.to_owned(), AttributeValue::S(v.to_owned())));
        let item = item.into_iter().chain([("version".to_owned(), AttributeValue::N(version.to_owned()))]);
        put(&service, &table, item.collect()).await;
    };
    set_version("2").await;
    let mut next = record("acme");
    next.identity.version = KekVersion::new(2).unwrap();
    let mut copy = store.export(&path("acme")).await.unwrap().unwrap();
    copy.path = path("copy");
    copy.records[0].identity.path = path("copy");
    for refused in [
        store.create(&record("globex")).await.map(drop),
        store.rotate(acme.identity.id, &next).await.map(drop),
        store.update(&acme, &acme).await.map(drop),
        store.raise_min_version(&path("acme"), KekVersion::FIRST).await.map(drop),
        store.shred(&path("acme"), 1).await.map(drop),
        store.import(&copy).await.map(drop),
        DynamoDbKekStore::open(service.config(&table)).await.map(drop),
        DynamoDbKekStore::migrate(service.config(&table)).await.map(drop),
    ] {
        let message = incompatible(refused);
        assert!(message.contains("schema version 2") && message.contains("update keystrata"), "{message}");
    }
    set_version("1").await;
    assert_eq!(store.records(&path("acme")).await.unwrap(), [acme]);
    assert!(store.head(&path("copy")).await.unwrap().is_none());
}

/// What is done to the items of an account of two KEKs, and whether the head cannot be read afterwards.
type Damage = (&'static str, fn(&mut Item, &mut Item, &Item), bool);

const DAMAGES: [Damage; 7] = [
    ("the primary's record is cut", |head, _, _| cut(head), true),
    ("the primary's record is another account's", |head, _, other| copy(head, other, "record"), true),
    ("the primary's version is another", |head, _, _| set(head, "version", "7"), true),
    ("the primary's state is another", |head, _, _| set(head, "state", "2"), true),
    ("the old record is cut", |_, old, _| cut(old), false),
    ("the old record is another account's", |_, old, other| copy(old, other, "record"), false),
    ("the old record's state is another", |_, old, _| set(old, "state", "3"), false),
];

fn cut(item: &mut Item) {
    let bytes = item["record"].as_b().unwrap().as_ref()[..100].to_vec();
    item.insert("record".into(), AttributeValue::B(Blob::new(bytes)));
}

fn copy(item: &mut Item, other: &Item, name: &str) {
    item.insert(name.into(), other[name].clone());
}

fn set(item: &mut Item, name: &str, number: &str) {
    item.insert(name.into(), AttributeValue::N(number.into()));
}

fn names_acme<T: std::fmt::Debug>(answer: Result<T, StoreError>, what: &str) {
    let error = answer.unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt { path: named, .. } if *named == path("acme")), "{what}: {error:?}");
}

#[tokio::test]
#[ignore = "needs moto, which `cargo xtask test` installs"]
async fn items_that_somebody_changed_are_refused() {
    let service = Service::start().await;
    for (what, damage, is_head) in DAMAGES {
        let (store, table) = service.store().await;
        let first = record("acme");
        let mut second = record("acme");
        second.identity.version = KekVersion::new(2).unwrap();
        store.create(&first).await.unwrap();
        store.rotate(first.identity.id, &second).await.unwrap();
        store.create(&record("globex")).await.unwrap();
        let of = |items: &[Item], account: &str, kind: &str| {
            let is_it = |item: &&Item| text(item, "pk").ends_with(account) && text(item, "sk").starts_with(kind);
            items.iter().find(is_it).unwrap().clone()
        };
        let items = service.items(&table).await;
        let (mut head, mut old) = (of(&items, "acme", "head"), of(&items, "acme", "kek "));
        damage(&mut head, &mut old, &of(&items, "globex", "head"));
        put(&service, &table, head).await;
        put(&service, &table, old).await;
        if is_head {
            names_acme(store.primary(&path("acme")).await, what);
            names_acme(store.accounts(None, 9).await, what);
        } else {
            names_acme(store.record(&path("acme"), first.identity.id).await, what);
            assert_eq!(store.primary(&path("acme")).await.unwrap(), Some(second), "{what}");
        }
        names_acme(store.export(&path("acme")).await, what);
        assert!(store.primary(&path("globex")).await.unwrap().is_some(), "{what}");
        // Nor does it keep the account from being shredded.
        let shred = store.shred(&path("acme"), 5).await.unwrap();
        assert_eq!(shred, Shred::Shredded(Tombstone { at: 5, keks: 2 }), "{what}");
        let left = store.records(&path("acme")).await.unwrap();
        assert!(left.len() == 1 && left[0].state == KekState::Destroyed, "{what}");
    }
}

#[tokio::test]
#[ignore = "needs moto, which `cargo xtask test` installs"]
async fn a_record_that_is_lost_is_missed() {
    let service = Service::start().await;
    let (store, table) = service.store().await;
    let first = record("acme");
    let mut second = record("acme");
    second.identity.version = KekVersion::new(2).unwrap();
    store.create(&first).await.unwrap();
    store.rotate(first.identity.id, &second).await.unwrap();
    let delete = async |sk: &str| {
        let items = service.items(&table).await;
        let item = items.iter().find(|item| text(item, "sk").starts_with(sk)).unwrap();
        let request = service.client().delete_item().table_name(&table);
        request.key("pk", item["pk"].clone()).key("sk", item["sk"].clone()).send().await.unwrap();
    };
    delete("kek ").await;
    names_acme(store.export(&path("acme")).await, "its old record is lost");
    assert_eq!(store.primary(&path("acme")).await.unwrap(), Some(second.clone()), "which is there all the same");
    delete("head").await;
    names_acme(store.accounts(None, 9).await, "it is listed, and lost");
}

/// What a creation left behind that came to nothing is not taken for a record, and goes with the account.
#[tokio::test]
#[ignore = "needs moto, which `cargo xtask test` installs"]
async fn strays_are_not_read_and_go_when_the_account_is_shredded() {
    let service = Service::start().await;
    let (store, table) = service.store().await;
    let first = record("acme");
    store.create(&first).await.unwrap();
    let stray: KekRecord = record("acme");
    let items = service.items(&table).await;
    let mut item = items.into_iter().find(|item| text(item, "sk") == "head").unwrap();
    let pk = item["pk"].clone();
    item.insert("sk".into(), AttributeValue::S(format!("kek other {}", stray.identity.id)));
    put(&service, &table, item).await;
    assert_eq!(store.records(&path("acme")).await.unwrap(), std::slice::from_ref(&first));
    let mut second = record("acme");
    second.identity.version = KekVersion::new(2).unwrap();
    store.rotate(first.identity.id, &second).await.unwrap();
    let shred = store.shred(&path("acme"), 5).await.unwrap();
    assert_eq!(shred, Shred::Shredded(Tombstone { at: 5, keks: 2 }));
    let left = service.items(&table).await.into_iter().filter(|item| item["pk"] == pk);
    assert_eq!(left.count(), 3, "the head and two records");
    assert_eq!(store.create(&record("globex")).await.unwrap(), Creation::Created);
}
