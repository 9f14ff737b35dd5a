//! Very many accounts in an SQLite store: listed and gone through in constant memory.
#![cfg(target_os = "linux")] // where a process can be asked how much memory it has
#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod support;

use std::{path::Path, sync::Arc, time::Duration};

use keystrata_hierarchy::{Hierarchy, KekStore, KeyPath, jobs::Task, test_util::ScriptedRootKey};
use keystrata_store::SqliteKekStore;
use rusqlite::{Connection, params};

use self::support::record;

/// How many accounts; a million, unless the environment says otherwise.
fn accounts() -> usize {
    std::env::var("KEYSTRATA_ACCOUNTS").map_or(1_000_000, |count| count.parse().unwrap())
}

/// Resident memory of this process now, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

fn name(n: usize) -> KeyPath {
    KeyPath::account(&format!("account {n:07}")).unwrap()
}

/// In one transaction: a million of the store's own take hours.
fn fill(file: &Path, count: usize) {
    let mut db = Connection::open(file).unwrap();
    let all = db.transaction().unwrap();
    {
        let mut kek = all.prepare("INSERT INTO kek VALUES (?1, ?2, 1, 1, ?3)").unwrap();
        let mut account = all.prepare("INSERT INTO account VALUES (?1, ?2, 1, NULL, NULL)").unwrap();
        for n in 0..count {
            let mut record = record("any");
            record.identity.path = name(n);
            let (path, id) = (record.identity.path.as_bytes(), *record.identity.id.as_bytes());
            kek.execute(params![path, id, record.encode().unwrap()]).unwrap();
            account.execute(params![path, id]).unwrap();
        }
    }
    all.commit().unwrap();
}

#[tokio::test]
#[ignore = "takes a minute: a million accounts"]
async fn a_million_accounts_are_listed_and_gone_through_in_constant_memory() {
    /// What SQLite keeps of a file, and the allocator of what was used.
    const MOST_GROWTH: u64 = 16 << 20;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    drop(SqliteKekStore::open(&file).await.unwrap());
    let count = accounts();
    fill(&file, count);
    let store = Arc::new(SqliteKekStore::open_existing(&file).await.unwrap());
    let (mut listed, mut after, mut before, mut most) = (0, None, 0, 0);
    loop {
        let page = store.accounts(after.as_ref(), 1_000).await.unwrap();
        let Some(last) = page.last() else { break };
        assert_eq!(page[0].path, name(listed));
        listed += page.len();
        after = Some(last.path.clone());
        match listed {
            ..20_000 => before = resident(),
            _ => most = most.max(resident()),
        }
    }
    assert_eq!(listed, count);
    println!("{count} accounts listed: {before} bytes resident after 20 pages, {most} at most");
    assert!(most < before + MOST_GROWTH, "{most} bytes, {before} after the first pages");

    // A job over them that finds nothing to do.
    let keys = Hierarchy::builder().root_key(ScriptedRootKey::new("test:root")).store(store).build().unwrap();
    let mut most = 0;
    let job = keys.job(Task::RotateOlderThan(Duration::from_secs(u64::from(u32::MAX)))).dry_run();
    let done = job.run(|_| most = most.max(resident())).await.unwrap();
    assert_eq!((done.accounts, done.changed, done.failed), (count as u64, 0, 0));
    println!("{count} accounts gone through by a job: {most} bytes at most");
    assert!(most < before + MOST_GROWTH, "{most} bytes, {before} after the first pages");
}
