//! What an SQLite store makes of an older file, and what it leaves of a shredded account.
#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod support;

use std::path::{Path, PathBuf};

use keystrata_hierarchy::{
    Creation, KekId, KekRecord, KekState, KekStore, KekVersion, KeyPath, RootKeyId, Rotation, Shred, StoreError,
    Tombstone, WrapperQuery,
};
use keystrata_store::SqliteKekStore;
use rusqlite::Connection;
use tempfile::TempDir;

use self::support::{path, record};

/// Written by the release of schema version 1: `acme` with versions 1 to 3 (KEK ids of bytes 1 to 3) wrapped by
/// `test:old`, by `test:old` and `test:new`, and by `test:new`; `globex` (4) by `test:new`; and `child` (5) by `acme`'s
/// third KEK.
const VERSION_1: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/schema-1.db");

fn old_file() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    std::fs::copy(VERSION_1, &file).unwrap();
    (folder, file)
}

fn ids(records: &[KekRecord]) -> Vec<u8> {
    records.iter().map(|record| record.identity.id.as_bytes()[0]).collect()
}

fn root(id: &str) -> WrapperQuery {
    WrapperQuery::Root(RootKeyId::new(id).unwrap())
}

fn user_version(file: &Path) -> i64 {
    Connection::open(file).unwrap().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_store_of_schema_version_1_is_carried_over() {
    let (_folder, file) = old_file();
    assert_eq!(user_version(&file), 1);
    let store = SqliteKekStore::open_existing(&file).await.unwrap();
    assert_eq!(user_version(&file), 2);

    let acme = store.export(&path("acme")).await.unwrap().unwrap();
    assert_eq!(ids(&acme.records), [1, 2, 3]);
    assert_eq!(
        acme.records.iter().map(|record| record.state).collect::<Vec<_>>(),
        [KekState::Retired, KekState::Retired, KekState::Primary]
    );
    assert_eq!((acme.primary, acme.min_version), (Some(KekId::from_bytes([3; 16])), KekVersion::FIRST));
    assert_eq!(acme.tombstone, None);
    let heads = store.accounts(None, 10).await.unwrap();
    assert_eq!(heads.iter().map(|head| head.path.to_string()).collect::<Vec<_>>(), ["acme", "child", "globex"]);
    assert_eq!(heads[0], acme.head());

    let acme_kek = WrapperQuery::Kek { path: path("acme"), kek_id: KekId::from_bytes([3; 16]) };
    for (query, expected) in [
        (root("test:old"), &[1, 2][..]),
        (root("test:new"), &[2, 3, 4]),
        (acme_kek, &[5]),
        (WrapperQuery::Path(path("acme")), &[5]),
    ] {
        assert_eq!(ids(&store.by_wrapper(&query, None, 10).await.unwrap()), expected, "{query:?}");
    }
    let mut new = record("acme");
    new.identity.version = KekVersion::new(4).unwrap();
    assert_eq!(store.rotate(acme.records[2].identity.id, &new).await.unwrap(), Rotation::Rotated);
    assert_eq!(store.create(&record("globex")).await.unwrap(), Creation::Exists);
    assert_eq!(store.create(&record("new")).await.unwrap(), Creation::Created);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_carried_over_once_by_whoever_opens_it() {
    let (_folder, file) = old_file();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let file = file.clone();
        tasks.spawn(async move {
            let store = SqliteKekStore::open(&file).await.unwrap();
            ids(&store.by_wrapper(&root("test:new"), None, 10).await.unwrap())
        });
    }
    for found in tasks.join_all().await {
        assert_eq!(found, [2, 3, 4]);
    }
}

/// Such a path must not pass for one that has no account: its objects would be lost behind a new KEK.
#[tokio::test]
async fn an_older_account_without_primary_stays_without() {
    let (_folder, file) = old_file();
    Connection::open(&file).unwrap().execute("DELETE FROM kek WHERE state = 1 AND version = 3", []).unwrap();
    let store = SqliteKekStore::open_existing(&file).await.unwrap();
    let head = store.head(&path("acme")).await.unwrap().unwrap();
    assert_eq!((head.primary, head.tombstone), (None, None));
    assert_eq!(store.create(&record("acme")).await.unwrap(), Creation::Exists);
    assert_eq!(ids(&store.records(&path("acme")).await.unwrap()), [1, 2]);
}

#[tokio::test]
async fn a_broken_older_record_is_carried_over_broken() {
    let (_folder, file) = old_file();
    Connection::open(&file).unwrap().execute("UPDATE kek SET record = x'00' WHERE version = 2", []).unwrap();
    let store = SqliteKekStore::open_existing(&file).await.unwrap();
    let broken = store.record(&path("acme"), KekId::from_bytes([2; 16])).await.unwrap_err();
    assert!(matches!(broken, StoreError::Corrupt { .. }), "{broken}");
    assert!(store.record(&path("acme"), KekId::from_bytes([1; 16])).await.unwrap().is_some());
}

/// Occurrences of `needle` in what lies in `folder`, as another process sees it: to open the file here and close it again
/// would release SQLite's locks.
fn occurrences(folder: &Path, needle: &[u8]) -> usize {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let bytes = std::process::Command::new("cat").args(files).output().unwrap().stdout;
    bytes.windows(needle.len()).filter(|window| *window == needle).count()
}

#[cfg(unix)]
#[tokio::test]
async fn a_shredding_overwrites_the_wrapped_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteKekStore::open(folder.path().join("keys.db")).await.unwrap();
    let mut acme = record("acme");
    // More than a page, so that it lies outside the row too.
    acme.wraps[0].ciphertext = b"wrapped secret of acme ".repeat(300);
    let mut second = KekRecord { wraps: acme.wraps.clone(), ..record("acme") };
    second.identity.version = KekVersion::new(2).unwrap();
    store.create(&acme).await.unwrap();
    store.rotate(acme.identity.id, &second).await.unwrap();
    for number in 0..50 {
        let mut other = record(&format!("other {number}"));
        other.wraps[0].ciphertext = b"wrapped secret of others".repeat(3);
        store.create(&other).await.unwrap();
    }
    let secret = b"wrapped secret of acme";
    assert!(occurrences(folder.path(), secret) >= 600, "the scan finds what is there");
    let tombstone = Tombstone { at: 7, keks: 2 };
    assert_eq!(store.shred(&path("acme"), 7).await.unwrap(), Shred::Shredded(tombstone));
    assert_eq!(occurrences(folder.path(), secret), 0, "in the file and in the log beside it");
    assert!(occurrences(folder.path(), b"wrapped secret of others") >= 150);
}

/// Whoever can write the file must not be able to keep an account from being shredded.
#[tokio::test]
async fn broken_records_are_shredded_too() {
    for sql in [
        "UPDATE kek SET record = x'00' WHERE path = x'010000000400000061636D65'",
        "UPDATE kek SET record = zeroblob(200) WHERE version = 2",
        "UPDATE kek SET version = version + 7 WHERE path = x'010000000400000061636D65'",
        "DELETE FROM kek WHERE version = 3",
        "DELETE FROM account",
    ] {
        let (folder, file) = old_file();
        SqliteKekStore::open_existing(&file).await.unwrap();
        // The tampering itself must leave no copies behind.
        Connection::open(&file).unwrap().execute_batch(&format!("PRAGMA secure_delete = ON; {sql}")).unwrap();
        let store = SqliteKekStore::open_existing(&file).await.unwrap();
        let acme = path("acme");
        let shred = store.shred(&acme, 9).await.unwrap();
        assert!(matches!(shred, Shred::Shredded(Tombstone { at: 9, keks: 2 | 3 })), "{sql}: {shred:?}");
        is_shredded(&store, &acme).await;
        for byte in [0x11, 0x12, 0x13, 0x14] {
            assert_eq!(occurrences(folder.path(), &[byte; 73]), 0, "{sql}");
        }
        assert!(occurrences(folder.path(), &[0x16; 72]) > 0, "{sql}: other accounts are as they were");
    }
}

async fn is_shredded(store: &SqliteKekStore, path: &KeyPath) {
    let left = store.records(path).await.unwrap();
    assert!(left.iter().all(|record| record.state == KekState::Destroyed));
    let refused = store.primary(path).await.unwrap_err();
    assert!(matches!(refused, StoreError::Shredded { .. }), "{refused}");
    let wrapped = store.by_wrapper(&root("test:old"), None, 10).await.unwrap();
    assert!(wrapped.is_empty(), "{wrapped:?}");
}

#[tokio::test]
async fn heads_that_somebody_changed_are_corrupt() {
    for (what, sql) in [
        ("a primary that is not there", "UPDATE account SET primary_id = zeroblob(16)"),
        (
            "another account's KEK",
            "UPDATE account SET primary_id = (SELECT kek_id FROM kek ORDER BY path DESC LIMIT 1)",
        ),
        ("the primary's record gone", "DELETE FROM kek WHERE state = 1"),
    ] {
        let (_folder, file) = old_file();
        SqliteKekStore::open_existing(&file).await.unwrap();
        Connection::open(&file).unwrap().execute_batch(sql).unwrap();
        let store = SqliteKekStore::open_existing(&file).await.unwrap();
        for answer in [store.primary(&path("acme")).await.map(drop), store.accounts(None, 10).await.map(drop)] {
            let error = answer.unwrap_err();
            assert!(
                matches!(&error, StoreError::Corrupt { path: named, .. } if *named == path("acme")),
                "{what}: {error:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_primary_rolled_back_below_the_floor_is_refused() {
    let (_folder, file) = old_file();
    let store = SqliteKekStore::open_existing(&file).await.unwrap();
    store.raise_min_version(&path("acme"), KekVersion::new(3).unwrap()).await.unwrap();
    drop(store);
    let back = "DELETE FROM kek WHERE version = 3; UPDATE account SET primary_id = x'02020202020202020202020202020202'
        WHERE min_version = 3;";
    Connection::open(&file).unwrap().execute_batch(back).unwrap();
    let store = SqliteKekStore::open_existing(&file).await.unwrap();
    let refused = store.primary(&path("acme")).await.unwrap_err();
    assert!(matches!(refused, StoreError::BelowMinVersion { .. }), "{refused}");
}
