//! What a check of a whole store finds, and what a trial of all its KEKs does.
#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

#[path = "common/shelf.rs"]
#[allow(dead_code)] // what the test of copying needs
mod shelf;

use std::{collections::BTreeSet, sync::Arc};

use keystrata_hierarchy::{
    AccountCopy, CheckEvent, CheckReport, Context, Fault, Finding, Heads, Hierarchy, KekId, KekRecord, KekState,
    KekStore, KekVersion, KeyPath, MemoryKekStore, Placement, RootKey, RootKeyError, RootKeyId, Roots, StoreError,
    Suite, UnwrapAllError, UnwrapReport, WrappedBy, WrapperQuery, check_store, test_util::ScriptedRootKey, unwrap_all,
};
use keystrata_primitives::{KekCheck, KekIdentity, RecordError, WrappedSecret, Wrapper};

use self::shelf::Shelf;

fn path(name: &str) -> KeyPath {
    KeyPath::account(name).unwrap()
}

fn by_root(id: &str) -> Wrapper {
    Wrapper::Root(RootKeyId::new(id).unwrap())
}

fn record(account: &str, version: u32, state: KekState) -> KekRecord {
    let identity = KekIdentity {
        suite: Suite::default(),
        version: KekVersion::new(version).unwrap(),
        id: KekId::generate().unwrap(),
        path: path(account),
    };
    let wraps = match state {
        KekState::Destroyed => Vec::new(),
        _ => vec![WrappedSecret { wrapper: by_root("test:root"), ciphertext: vec![1; 72] }],
    };
    KekRecord { identity, state, check: KekCheck::from_bytes([7; 32]), created_at: 1, retired_at: 0, wraps }
}

/// The last record is the primary.
fn copy(records: Vec<KekRecord>) -> AccountCopy {
    let last = records.last().unwrap().identity.clone();
    AccountCopy { path: last.path, records, primary: Some(last.id), min_version: KekVersion::FIRST, tombstone: None }
}

fn healthy(account: &str) -> AccountCopy {
    copy(vec![record(account, 1, KekState::Retired), record(account, 2, KekState::Primary)])
}

async fn check(store: &Arc<dyn KekStore>, roots: Option<&[RootKeyId]>) -> (CheckReport, Vec<Finding>, Vec<KeyPath>) {
    let (mut findings, mut seen) = (Vec::new(), Vec::new());
    let report = check_store(store, roots, |event| match event {
        CheckEvent::Finding(finding) => findings.push(finding),
        CheckEvent::Account(path) => seen.push(path),
        _ => {}
    });
    let report = report.await.unwrap();
    assert_eq!(report.findings, findings.len() as u64);
    assert_eq!(report.accounts, seen.len() as u64);
    (report, findings, seen)
}

/// Every fault once, each in an account of its name.
fn one_of_each(shelf: &Shelf) -> BTreeSet<&'static str> {
    use KekState::{Destroyed, Primary, Retired};
    let broken = StoreError::corrupt(&path("unreadable"), RecordError::Malformed("it is cut short"));
    shelf.put_error(&path("unreadable"), broken);
    let mut without = healthy("no-primary");
    without.records.pop();
    shelf.put(without);
    shelf.put(copy(vec![record("primary-state", 1, Destroyed)]));
    shelf.put(copy(vec![record("second-primary", 1, Primary), record("second-primary", 2, Primary)]));
    let mut old = healthy("old-primary");
    old.records[0].state = Primary;
    old.records[1].state = Retired;
    old.primary = Some(old.records[0].identity.id);
    shelf.put(old);
    let mut low = healthy("primary-below-min-version");
    low.min_version = KekVersion::new(3).unwrap();
    shelf.put(low);
    let mut foreign = healthy("foreign-record");
    foreign.records[0].identity.path = path("healthy");
    shelf.put(foreign);
    let disordered = |version| record("version-order", version, Retired);
    shelf.put(copy(vec![disordered(2), disordered(1), record("version-order", 3, Primary)]));
    let mut twice = healthy("id-twice");
    twice.records.insert(0, record("id-twice", 1, Retired));
    twice.records[1].identity.version = KekVersion::new(2).unwrap();
    twice.records[2].identity.version = KekVersion::new(3).unwrap();
    twice.records[1].identity.id = twice.records[0].identity.id;
    shelf.put(twice);
    let mut planted = healthy("unknown-root");
    planted.records[1].wraps[0].wrapper = by_root("test:planted");
    shelf.put(planted);
    let gone = record("group", 1, Destroyed);
    for (name, kek_id) in [("missing-parent", KekId::from_bytes([0; 16])), ("destroyed-parent", gone.identity.id)] {
        let mut child = healthy(name);
        child.records[1].wraps[0].wrapper = Wrapper::Parent { path: path("group"), kek_id };
        shelf.put(child);
    }
    shelf.put(copy(vec![gone, record("group", 2, Primary)]));
    let mut back = healthy("not-shredded").clone().shredded(5);
    back.records[1] = record("not-shredded", 2, Retired);
    shelf.put(back);
    BTreeSet::from([
        "destroyed-parent",
        "foreign-record",
        "id-twice",
        "missing-parent",
        "no-primary",
        "not-shredded",
        "old-primary",
        "primary-below-min-version",
        "primary-state",
        "second-primary",
        "unknown-root",
        "unreadable",
        "version-order",
    ])
}

#[tokio::test]
async fn each_fault_is_found_once_and_in_its_account_alone() {
    let shelf = Shelf::default();
    let kinds = one_of_each(&shelf);
    shelf.put(healthy("healthy"));
    shelf.put(healthy("shredded").shredded(5));
    let store: Arc<dyn KekStore> = Arc::new(shelf);
    let roots = [RootKeyId::new("test:root").unwrap()];
    let (report, findings, _) = check(&store, Some(&roots)).await;
    for finding in &findings {
        assert_eq!(finding.path.to_string(), finding.fault.kind(), "{finding:?}");
        let message = finding.fault.to_string();
        assert!(!message.contains('\n') && !message.ends_with('.'), "{message}");
    }
    let found: Vec<_> = findings.iter().map(|finding| finding.fault.kind()).collect();
    assert_eq!(found.iter().copied().collect::<BTreeSet<_>>(), kinds);
    assert_eq!(found.len(), kinds.len(), "{found:?}");
    assert_eq!((report.accounts, report.shredded), (kinds.len() as u64 + 3, 2));

    let (_, findings, _) = check(&store, None).await;
    assert_eq!(findings.len(), kinds.len() - 1, "any root key will do");
}

#[tokio::test]
async fn a_primary_that_is_named_and_not_there_is_none() {
    let shelf = Shelf::default();
    let mut lost = healthy("acme");
    lost.primary = Some(KekId::from_bytes([9; 16]));
    lost.records[1].state = KekState::Retired;
    shelf.put(lost);
    let (_, findings, _) = check(&(Arc::new(shelf) as Arc<dyn KekStore>), None).await;
    assert!(matches!(&findings[..], [Finding { fault: Fault::NoPrimary { keks: 2 }, .. }]), "{findings:?}");
}

#[tokio::test]
async fn accounts_that_cannot_be_read_hide_no_other() {
    let shelf = Shelf::default();
    let mut expected = Vec::new();
    for n in 0..1000 {
        let name = format!("account {n:04}");
        expected.push(path(&name));
        if n % 7 == 0 || (300..330).contains(&n) || n == 999 {
            let error = StoreError::UnknownForm { path: path(&name), source: Arc::new(RecordError::UnknownState(9)) };
            shelf.put_error(&path(&name), error);
        } else {
            shelf.put(healthy(&name));
        }
    }
    let store: Arc<dyn KekStore> = Arc::new(shelf);
    let (report, findings, seen) = check(&store, None).await;
    assert_eq!(seen, expected);
    let unreadable = (0..1000).filter(|n| n % 7 == 0 || (300..330).contains(n) || *n == 999).count() as u64;
    assert_eq!((report.accounts, report.findings), (1000, unreadable));
    assert!(findings.iter().all(|finding| matches!(finding.fault, Fault::Unreadable(StoreError::UnknownForm { .. }))));
}

#[tokio::test]
async fn what_an_account_wraps_is_listed_past_one_that_cannot_be_read() {
    let shelf = Shelf::default();
    let group = healthy("group");
    let kek_id = group.records[1].identity.id;
    let mut expected = Vec::new();
    for n in 0..600 {
        let mut child = healthy(&format!("child {n:04}"));
        for record in &mut child.records {
            record.wraps[0].wrapper = Wrapper::Parent { path: path("group"), kek_id };
        }
        expected.extend((0..2).map(|_| child.path.clone()));
        shelf.put(child);
    }
    for n in [0, 299, 300, 599] {
        let name = path(&format!("child {n:04}"));
        shelf.put_error(&name, StoreError::corrupt(&name, RecordError::Malformed("it is cut short")));
        // Named once, for both of its KEKs.
        expected.remove(expected.iter().position(|child| *child == name).unwrap());
    }
    let mut children = WrappedBy::new(Arc::new(shelf), WrapperQuery::Path(path("group")));
    let (mut found, mut unreadable) = (Vec::new(), 0);
    while let Some(child) = children.next().await.unwrap() {
        found.push(match child {
            Ok(record) => record.identity.path,
            Err(broken) => {
                unreadable += 1;
                broken.path
            }
        });
    }
    assert_eq!((found, unreadable), (expected, 4));
}

#[tokio::test]
async fn a_store_that_lists_in_circles_is_refused() {
    let shelf = Shelf::default();
    for account in ["a", "b"] {
        shelf.put(healthy(account));
    }
    shelf.always_from_the_start();
    let store: Arc<dyn KekStore> = Arc::new(shelf);
    let mut heads = Heads::new(Arc::clone(&store), None);
    for _ in 0..2 {
        heads.next().await.unwrap().unwrap().unwrap();
    }
    assert!(matches!(heads.next().await, Err(StoreError::Incompatible { .. })));
    let root = WrapperQuery::Root(RootKeyId::new("test:root").unwrap());
    let mut wrapped = WrappedBy::new(store, root);
    for _ in 0..4 {
        wrapped.next().await.unwrap().unwrap().unwrap();
    }
    assert!(matches!(wrapped.next().await, Err(StoreError::Incompatible { .. })));
}

/// Two accounts under the root key, a group under it with three accounts, and a service of one of these.
async fn grown(root: &Arc<ScriptedRootKey>) -> Arc<MemoryKekStore> {
    let store = Arc::new(MemoryKekStore::new());
    let (roots, group) = (Roots::new(Arc::clone(root)), KeyPath::new(["groups", "free"]).unwrap());
    let place = move |path: &KeyPath| match path.segments().collect::<Vec<_>>()[..] {
        ["groups", _] | ["acme" | "globex"] => Placement::account(&roots),
        [_] => Placement::group(group.clone()),
        _ => Placement::service(),
    };
    let keys = Hierarchy::builder().topology(place).store(Arc::clone(&store)).build().unwrap();
    for account in [&["acme"][..], &["globex"], &["one"], &["two"], &["three"], &["three", "billing"]] {
        let account = keys.account(KeyPath::new(account).unwrap()).unwrap();
        account.seal(b"x", &Context::none()).await.unwrap();
    }
    keys.account("acme").unwrap().rotate().await.unwrap();
    store
}

async fn try_all(
    store: Arc<dyn KekStore>,
    root: &Arc<ScriptedRootKey>,
) -> (Result<UnwrapReport, UnwrapAllError>, Vec<Finding>) {
    let mut findings = Vec::new();
    let roots = [Arc::clone(root) as Arc<dyn RootKey>];
    let report = unwrap_all(&store, &roots, |event| {
        if let CheckEvent::Finding(finding) = event {
            findings.push(finding);
        }
    });
    (report.await, findings)
}

#[tokio::test]
async fn every_kek_is_unwrapped_with_as_many_calls_as_were_counted() {
    let root = Arc::new(ScriptedRootKey::new("test:root"));
    let store = grown(&root).await;
    let (report, findings, _) = check(&(Arc::clone(&store) as Arc<dyn KekStore>), None).await;
    assert!(findings.is_empty(), "{findings:?}");
    assert_eq!((report.accounts, report.keks, report.root_wraps, report.parent_wraps), (7, 8, 4, 4));
    let before = root.calls();
    let (tried, findings) = try_all(store, &root).await;
    let tried = tried.unwrap();
    assert!(findings.is_empty(), "{findings:?}");
    assert_eq!((tried.root_wraps, tried.parent_wraps, tried.unwrapped, tried.findings), (4, 4, 8, 0));
    assert_eq!(root.calls() - before, report.root_wraps);
}

#[tokio::test]
async fn a_kek_that_is_not_the_one_that_was_stored_is_found() {
    let root = Arc::new(ScriptedRootKey::new("test:root"));
    let store = grown(&root).await;
    let shelf = Shelf::default();
    for head in store.accounts(None, 100).await.unwrap() {
        let mut copy = store.export(&head.path).await.unwrap().unwrap();
        match copy.path.to_string().as_str() {
            "acme" | "two" => copy.records[0].wraps[0].ciphertext[30] ^= 1,
            // The service of `three` cannot be had either, and is not tried.
            "globex" | "three" => copy.records[0].check = KekCheck::from_bytes([0; 32]),
            _ => {}
        }
        shelf.put(copy);
    }
    let broken = StoreError::corrupt(&path("thrash"), RecordError::Malformed("it is cut short"));
    shelf.put_error(&path("thrash"), broken);
    let (tried, findings) = try_all(Arc::new(shelf), &root).await;
    let tried = tried.unwrap();
    assert_eq!((tried.root_wraps, tried.parent_wraps, tried.unwrapped, tried.findings), (4, 3, 3, 4));
    let found: BTreeSet<_> = findings.iter().map(|finding| (finding.path.to_string(), finding.fault.kind())).collect();
    let kind = "not-unwrapped";
    let expected = ["acme", "globex", "three", "two"].map(|account| (account.to_owned(), kind));
    assert_eq!(found, BTreeSet::from(expected));
}

#[tokio::test]
async fn a_denial_is_a_finding_and_silence_ends_the_trial() {
    let root = Arc::new(ScriptedRootKey::new("test:root"));
    let store = grown(&root).await;
    root.fail_next(RootKeyError::denied("revoked"));
    let (tried, findings) = try_all(Arc::clone(&store) as _, &root).await;
    assert_eq!((tried.unwrap().findings, findings.len()), (1, 1));
    assert!(matches!(findings[0].fault, Fault::NotUnwrapped { .. }));

    root.fail_next(RootKeyError::unavailable("no answer"));
    let before = root.calls();
    let (tried, _) = try_all(store, &root).await;
    assert!(matches!(tried, Err(UnwrapAllError::Root { .. })), "{tried:?}");
    assert_eq!(root.calls() - before, 1);
}
