//! All of one store into another, whatever comes between.
#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

#[path = "common/shelf.rs"]
#[allow(dead_code)] // what the test of checking needs
mod shelf;

use std::sync::Arc;

use keystrata_hierarchy::{
    Context, CopyError, CopyEvent, CopyMode, CopyReport, Hierarchy, KekStore, KekVersion, KeyPath, MemoryKekStore,
    StoreError, copy_store, test_util::ScriptedRootKey,
};
use keystrata_primitives::RecordError;

use self::shelf::{Lost, Shelf};

fn path(name: &str) -> KeyPath {
    KeyPath::account(name).unwrap()
}

/// Twenty accounts: some rotated, one with a floor, one shredded.
async fn source() -> (Arc<dyn KekStore>, Arc<ScriptedRootKey>) {
    let (root, store) = (Arc::new(ScriptedRootKey::new("test:root")), Arc::new(MemoryKekStore::new()));
    let keys = Hierarchy::builder().root_key(Arc::clone(&root)).store(Arc::clone(&store)).build().unwrap();
    for n in 0..20 {
        let account = keys.account(format!("account {n:02}")).unwrap();
        account.seal(b"x", &Context::none()).await.unwrap();
        for _ in 0..n % 3 {
            account.rotate().await.unwrap();
        }
    }
    store.raise_min_version(&path("account 02"), KekVersion::new(3).unwrap()).await.unwrap();
    store.shred(&path("account 05"), 1_800_000_000).await.unwrap();
    (store, root)
}

async fn copy(
    from: &Arc<dyn KekStore>,
    to: &dyn KekStore,
    mode: CopyMode,
) -> (Result<CopyReport, CopyError>, Vec<CopyEvent>) {
    let mut events = Vec::new();
    let report = copy_store(from, to, mode, |event| events.push(event)).await;
    (report, events)
}

fn counts(report: CopyReport) -> [u64; 5] {
    let CopyReport { accounts, copied, same, differ, failed, .. } = report;
    [accounts, copied, same, differ, failed]
}

async fn all_of(store: &dyn KekStore) -> Vec<keystrata_hierarchy::AccountCopy> {
    let mut copies = Vec::new();
    for head in store.accounts(None, 1000).await.unwrap() {
        copies.push(store.export(&head.path).await.unwrap().unwrap());
    }
    copies
}

#[tokio::test]
async fn all_is_copied_once_and_no_root_key_is_asked() {
    let (from, root) = source().await;
    let (to, calls) = (MemoryKekStore::new(), root.calls());
    let (report, _) = copy(&from, &to, CopyMode::DryRun).await;
    assert_eq!(counts(report.unwrap()), [20, 20, 0, 0, 0]);
    assert!(all_of(&to).await.is_empty());
    let (report, events) = copy(&from, &to, CopyMode::Write).await;
    assert_eq!(counts(report.unwrap()), [20, 20, 0, 0, 0]);
    assert!(events.iter().all(|event| matches!(event, CopyEvent::Copied(_))));
    assert_eq!(all_of(&to).await, all_of(&*from).await);
    for mode in [CopyMode::DryRun, CopyMode::Write] {
        assert_eq!(counts(copy(&from, &to, mode).await.0.unwrap()), [20, 0, 20, 0, 0]);
    }
    assert_eq!(root.calls(), calls);
}

#[tokio::test]
async fn a_copy_that_was_interrupted_anywhere_is_taken_up() {
    let (from, _) = source().await;
    let expected = all_of(&*from).await;
    for imports in 0..20 {
        for lost in [Lost::Request, Lost::Answer] {
            let to = Shelf::default();
            to.fail_after(imports, lost);
            let (report, events) = copy(&from, &to, CopyMode::Write).await;
            assert!(matches!(report, Err(CopyError::To(_))), "{report:?}");
            assert_eq!(events.len(), imports);
            let there = (imports + usize::from(lost == Lost::Answer)) as u64;
            let (report, _) = copy(&from, &to, CopyMode::Write).await;
            assert_eq!(counts(report.unwrap()), [20, 20 - there, there, 0, 0]);
            assert_eq!(to.copies(), expected);
        }
    }
}

#[tokio::test]
async fn what_is_there_is_never_overwritten() {
    let (from, _) = source().await;
    let to = Shelf::default();
    let mut other = from.export(&path("account 01")).await.unwrap().unwrap();
    other.records.pop();
    other.records[0].state = keystrata_hierarchy::KekState::Primary;
    other.primary = Some(other.records[0].identity.id);
    to.put(other.clone());
    for mode in [CopyMode::DryRun, CopyMode::Write] {
        let (report, events) = copy(&from, &to, mode).await;
        assert_eq!(counts(report.unwrap()), [20, 19, 0, 1, 0]);
        let differs = events.iter().find(|event| matches!(event, CopyEvent::Differs(_)));
        assert!(matches!(differs, Some(CopyEvent::Differs(of)) if *of == path("account 01")));
    }
    assert_eq!(to.export(&path("account 01")).await.unwrap(), Some(other));
}

#[tokio::test]
async fn what_reads_back_otherwise_than_it_was_written_is_told() {
    let (from, _) = source().await;
    let mut to = Shelf::default();
    to.is_forgetful = true;
    let (report, _) = copy(&from, &to, CopyMode::Write).await;
    assert_eq!(counts(report.unwrap()), [20, 0, 0, 20, 0]);
}

#[tokio::test]
async fn a_broken_account_holds_no_other_up() {
    let (good, _) = source().await;
    let from = Shelf::default();
    for copy in all_of(&*good).await {
        from.put(copy);
    }
    from.put_error(&path("account 03"), StoreError::corrupt(&path("account 03"), RecordError::Malformed("cut short")));
    let mut two_primaries = good.export(&path("account 07")).await.unwrap().unwrap();
    two_primaries.records[0].state = keystrata_hierarchy::KekState::Primary;
    from.put(two_primaries);
    let from: Arc<dyn KekStore> = Arc::new(from);
    for mode in [CopyMode::DryRun, CopyMode::Write] {
        let (report, events) = copy(&from, &MemoryKekStore::new(), mode).await;
        assert_eq!(counts(report.unwrap()), [20, 18, 0, 0, 2]);
        let failed: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                CopyEvent::Failed(path, error) => Some((path.to_string(), error.unreadable().is_some())),
                _ => None,
            })
            .collect();
        assert_eq!(failed, [("account 03".to_owned(), true), ("account 07".to_owned(), true)]);
    }
}
