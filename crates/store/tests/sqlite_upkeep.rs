//! What an operator does to an SQLite store: backups while it is in use, and schema migrations with a plan.
#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod support;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use keystrata_hierarchy::{Creation, KekStore, StoreError};
use keystrata_store::SqliteKekStore;
use tempfile::TempDir;

use self::support::{path, record};

async fn filled(accounts: usize) -> (TempDir, PathBuf, SqliteKekStore) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    let store = SqliteKekStore::open(&file).await.unwrap();
    for n in 0..accounts {
        assert_eq!(store.create(&record(&format!("account {n}"))).await.unwrap(), Creation::Created);
    }
    (folder, file, store)
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

async fn same_accounts(one: &SqliteKekStore, other: &SqliteKekStore) -> usize {
    let heads = other.accounts(None, 10_000).await.unwrap();
    for head in &heads {
        assert_eq!(one.export(&head.path).await.unwrap(), other.export(&head.path).await.unwrap());
    }
    heads.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_whole_while_others_write() {
    let (folder, file, store) = filled(20).await;
    let store = Arc::new(store);
    let is_done = Arc::new(AtomicBool::new(false));
    let (writer, stop) = (SqliteKekStore::open_existing(&file).await.unwrap(), Arc::clone(&is_done));
    let writing = tokio::spawn(async move {
        let mut written = 0_usize;
        while !stop.load(Ordering::SeqCst) {
            writer.create(&record(&format!("later {written}"))).await.unwrap();
            written += 1;
        }
        written
    });
    let mut accounts = 20;
    for nth in 0..5 {
        let to = folder.path().join(format!("backup-{nth}.db"));
        let backup = SqliteKekStore::back_up(&file, &to).await.unwrap();
        assert!(backup.accounts >= accounts, "{backup:?}");
        accounts = backup.accounts;
        assert_eq!(backup.bytes, std::fs::metadata(&to).unwrap().len());
        let restored = SqliteKekStore::open_existing(&to).await.unwrap();
        assert_eq!(same_accounts(&store, &restored).await as u64, backup.accounts);
    }
    is_done.store(true, Ordering::SeqCst);
    let written = writing.await.unwrap() as u64;
    assert!((20..=20 + written).contains(&accounts));
    drop(store);
    let expected = ["backup-0.db", "backup-1.db", "backup-2.db", "backup-3.db", "backup-4.db", "keys.db"];
    assert_eq!(names(folder.path()), expected, "nothing is left beside them");
}

#[tokio::test]
async fn a_backup_is_private_and_overwrites_nothing() {
    let (folder, file, store) = filled(2).await;
    let to = folder.path().join("backup.db");
    SqliteKekStore::back_up(&file, &to).await.unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let before = std::fs::read(&to).unwrap();
    store.create(&record("more")).await.unwrap();
    for taken in [&to, &folder.path().join("keys.db")] {
        let refused = SqliteKekStore::back_up(&file, taken).await.unwrap_err();
        assert!(matches!(refused, StoreError::Incompatible { .. }), "{refused:?}");
        assert!(refused.to_string().contains("already there"), "{refused}");
    }
    assert_eq!(std::fs::read(&to).unwrap(), before);
    #[cfg(unix)]
    {
        let link = folder.path().join("link.db");
        std::os::unix::fs::symlink(folder.path().join("nowhere.db"), &link).unwrap();
        assert!(SqliteKekStore::back_up(&file, &link).await.is_err());
        std::fs::remove_file(&link).unwrap();
    }
    let refused = SqliteKekStore::back_up(&file, folder.path().join("no/such/backup.db")).await.unwrap_err();
    assert!(refused.to_string().contains("make the folder"), "{refused}");
    drop(store);
    assert_eq!(names(folder.path()), ["backup.db", "keys.db"]);
}

#[tokio::test]
async fn a_backup_of_an_older_store_is_as_old() {
    let folder = tempfile::tempdir().unwrap();
    let (file, to) = (folder.path().join("keys.db"), folder.path().join("backup.db"));
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/schema-1.db"), &file).unwrap();
    assert_eq!(SqliteKekStore::back_up(&file, &to).await.unwrap().accounts, 3);
    for file in [&file, &to] {
        assert_eq!(SqliteKekStore::plan_migration(file).await.unwrap().from, 1);
    }
}

#[tokio::test]
async fn a_backup_holds_no_secret_that_was_shredded_before() {
    let (folder, file, store) = filled(1).await;
    let mut doomed = record("doomed");
    let secret: Vec<u8> = (0..200).map(|n| 0x80 | n).collect();
    doomed.wraps[0].ciphertext.clone_from(&secret);
    store.create(&doomed).await.unwrap();
    let holds = |file: &Path| std::fs::read(file).unwrap().windows(50).any(|window| window == &secret[10..60]);
    let (before, after) = (folder.path().join("before.db"), folder.path().join("after.db"));
    SqliteKekStore::back_up(&file, &before).await.unwrap();
    store.shred(&path("doomed"), 5).await.unwrap();
    SqliteKekStore::back_up(&file, &after).await.unwrap();
    assert!(holds(&before), "else this finds nothing at all");
    assert!(!holds(&after));
}

#[tokio::test]
async fn a_migration_is_told_before_it_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    let uri = format!("sqlite:{}", file.display());
    let old = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/schema-1.db")).unwrap();
    std::fs::write(&file, &old).unwrap();
    for plan in
        [SqliteKekStore::plan_migration(&file).await.unwrap(), keystrata_store::plan_migration(&uri).await.unwrap()]
    {
        assert_eq!((plan.from, plan.to, plan.steps.len()), (1, 2, 4));
        assert_eq!(std::fs::read(&file).unwrap(), old, "nothing was done");
    }
    let done = keystrata_store::migrate(&uri).await.unwrap();
    assert_eq!((done.from, done.steps.len()), (1, 4));
    let store = keystrata_store::open(&uri).await.unwrap();
    assert_eq!(store.accounts(None, 10).await.unwrap().len(), 3);
    let again = keystrata_store::migrate(&uri).await.unwrap();
    assert_eq!((again.from, again.to, again.steps.len()), (2, 2, 0));
}

#[tokio::test]
async fn what_cannot_be_migrated_is_refused_and_nothing_is_made() {
    let (folder, file, store) = filled(1).await;
    drop(store);
    let missing = SqliteKekStore::plan_migration(folder.path().join("missing.db")).await.unwrap_err();
    assert!(missing.to_string().contains("there is no KEK store"), "{missing}");
    rusqlite::Connection::open(&file).unwrap().execute_batch("PRAGMA user_version = 3").unwrap();
    let newer = SqliteKekStore::plan_migration(&file).await.unwrap_err();
    assert!(newer.to_string().contains("update keystrata"), "{newer}");
    assert_eq!(names(folder.path()), ["keys.db"]);
}
