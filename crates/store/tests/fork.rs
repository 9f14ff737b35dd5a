//! The store across a fork. One test in a program of its own: what counts is what the whole process has open.
#![cfg(unix)]
#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod support;

use keystrata_hierarchy::{Creation, KekStore, StoreError};
use keystrata_memory::test_util::in_forked_child;
use keystrata_store::SqliteKekStore;
use tokio::runtime::Runtime;

use self::support::{path, record};

/// A runtime's threads do not follow a process into a child: each makes its own.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

fn is_refused<T>(answer: Result<T, StoreError>) -> bool {
    answer.is_err_and(|error| matches!(&error, StoreError::Unavailable { message, .. } if message.contains("forked")))
}

#[test]
fn a_child_has_connections_of_its_own_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    let store = runtime().block_on(SqliteKekStore::open(&file)).unwrap();

    // Opened and not yet used: parent and child go on by themselves.
    let of_child = record("child");
    assert!(in_forked_child(|| {
        let created = runtime().block_on(store.create(&of_child));
        matches!(created, Ok(Creation::Created)) && runtime().block_on(store.primary(&path("child"))).is_ok()
    }));
    runtime().block_on(async {
        assert_eq!(store.primary(&path("child")).await.unwrap(), Some(of_child.clone()));
        assert_eq!(store.create(&record("parent")).await.unwrap(), Creation::Created);
    });

    // In use: the child is refused, by this store and by a new one, and harms nothing by trying or by dropping.
    let mut slot = Some(store);
    assert!(in_forked_child(|| {
        let store = slot.take().unwrap();
        let child = runtime();
        let refused = is_refused(child.block_on(store.primary(&path("parent"))))
            && is_refused(child.block_on(store.create(&record("lost"))))
            && is_refused(child.block_on(SqliteKekStore::open(&file)));
        drop(store);
        refused && is_refused(child.block_on(SqliteKekStore::open_existing(&file)))
    }));
    let store = slot.unwrap();
    runtime().block_on(async {
        assert_eq!(store.create(&record("after")).await.unwrap(), Creation::Created);
        assert!(store.primary(&path("lost")).await.unwrap().is_none());
        assert_eq!(store.primaries(None, 10).await.unwrap().len(), 3);
    });

    // Dropped before the fork: the child opens the file as any process does.
    drop(store);
    assert!(in_forked_child(|| {
        runtime().block_on(async {
            let Ok(store) = SqliteKekStore::open_existing(&file).await else { return false };
            matches!(store.primary(&path("after")).await, Ok(Some(_)))
        })
    }));
}
