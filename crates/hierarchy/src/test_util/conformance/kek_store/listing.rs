//! Records by what wraps them, and accounts by page.

use keystrata_primitives::{KekId, KekRecord, KekState, KekVersion, KeyPath, RootKeyId, WrappedSecret, Wrapper};

use super::{check, create, given, kek_id, next, path, record, root};
use crate::store::{Creation, KekStore, PathHead, WrapperQuery};

pub(super) async fn run<S: KekStore + 'static>(make: &impl AsyncFn() -> S) {
    accounts_are_listed_by_their_heads(&make().await).await;
    records_are_found_by_what_wraps_them(&make().await).await;
    records_are_found_by_what_wraps_them_now(&make().await).await;
    wrappers_are_kept_apart(&make().await).await;
    pages_of_wrapped_records_are_in_order_and_complete(&make().await).await;
}

async fn accounts_are_listed_by_their_heads<S: KekStore>(store: &S) {
    check(given(store.accounts(None, 10).await, "accounts").is_empty(), "an empty store lists no account");
    let mut heads = Vec::new();
    for name in ["z", "aa", "a", "ab", "b"] {
        let first = record(path(&[name]));
        create(store, &first, Creation::Created).await;
        let primary = if name == "ab" {
            let second = next(&first, 2);
            given(store.rotate(first.identity.id, &second).await, "rotate");
            second
        } else {
            first
        };
        let path = primary.identity.path.clone();
        heads.push(PathHead { path, primary: Some(primary), min_version: KekVersion::FIRST, tombstone: None });
    }
    heads.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    for limit in [1, 2, 3, 5, 6, usize::MAX] {
        let mut listed: Vec<PathHead> = Vec::new();
        loop {
            let after = listed.last().map(|head| &head.path).cloned();
            let page = given(store.accounts(after.as_ref(), limit).await, "accounts");
            check(page.len() == limit.min(heads.len() - listed.len()), "a page is full unless it is the last");
            if page.is_empty() {
                break;
            }
            listed.extend(page);
        }
        check(listed == heads, &format!("pages of {limit} list every account by its head, in order"));
    }
    check(given(store.accounts(None, 0).await, "accounts").is_empty(), "a limit of 0 lists nothing");
}

fn root_query(id: &str) -> WrapperQuery {
    WrapperQuery::Root(RootKeyId::new(id).expect("a valid id"))
}

fn wrapped(path: KeyPath, wrappers: &[Wrapper]) -> KekRecord {
    let wrap = |wrapper: &Wrapper| WrappedSecret { wrapper: wrapper.clone(), ciphertext: vec![1; 72] };
    KekRecord { wraps: wrappers.iter().map(wrap).collect(), ..record(path) }
}

async fn are_wrapped<S: KekStore>(store: &S, query: &WrapperQuery, expected: &[&KekRecord]) {
    let mut expected: Vec<KekRecord> = expected.iter().copied().cloned().collect();
    sort(&mut expected);
    let found = given(store.by_wrapper(query, None, 100).await, "by_wrapper");
    check(found == expected, &format!("{query:?} finds {} record(s), and found {}", expected.len(), found.len()));
}

fn sort(records: &mut [KekRecord]) {
    records.sort_by_key(|record| (record.identity.path.as_bytes().to_vec(), *record.identity.id.as_bytes()));
}

async fn records_are_found_by_what_wraps_them<S: KekStore>(store: &S) {
    let (old, new) = (kek_id(), kek_id());
    let group = |kek_id: KekId| Wrapper::Parent { path: path(&["group"]), kek_id };
    let by_root = wrapped(path(&["a"]), &[root("test:1")]);
    let by_both = wrapped(path(&["b"]), &[root("test:1"), root("test:2"), root("test:1")]);
    let by_old = wrapped(path(&["c"]), &[group(old)]);
    let by_new = wrapped(path(&["d"]), &[group(new), root("test:2")]);
    let by_two = wrapped(path(&["e"]), &[group(old), group(new)]);
    for record in [&by_root, &by_both, &by_old, &by_new, &by_two] {
        create(store, record, Creation::Created).await;
    }
    are_wrapped(store, &root_query("test:1"), &[&by_root, &by_both]).await;
    are_wrapped(store, &root_query("test:2"), &[&by_both, &by_new]).await;
    let kek = |kek_id: KekId| WrapperQuery::Kek { path: path(&["group"]), kek_id };
    are_wrapped(store, &kek(old), &[&by_old, &by_two]).await;
    are_wrapped(store, &kek(new), &[&by_new, &by_two]).await;
    are_wrapped(store, &kek(kek_id()), &[]).await;
    are_wrapped(store, &WrapperQuery::Path(path(&["group"])), &[&by_old, &by_new, &by_two]).await;
    are_wrapped(store, &WrapperQuery::Path(path(&["a"])), &[]).await;
}

async fn records_are_found_by_what_wraps_them_now<S: KekStore>(store: &S) {
    let first = wrapped(path(&["acme"]), &[root("test:1")]);
    create(store, &first, Creation::Created).await;
    let second = KekRecord { wraps: wrapped(path(&["acme"]), &[root("test:2")]).wraps, ..next(&first, 2) };
    given(store.rotate(first.identity.id, &second).await, "rotate");
    let retired = KekRecord { state: KekState::Retired, retired_at: second.created_at, ..first };
    are_wrapped(store, &root_query("test:1"), &[&retired]).await;
    are_wrapped(store, &root_query("test:2"), &[&second]).await;
    let both =
        KekRecord { wraps: wrapped(path(&["acme"]), &[root("test:3"), root("test:1")]).wraps, ..retired.clone() };
    given(store.update(&retired, &both).await, "update");
    are_wrapped(store, &root_query("test:1"), &[&both]).await;
    are_wrapped(store, &root_query("test:3"), &[&both]).await;
    let moved = KekRecord { wraps: second.wraps.clone(), ..both.clone() };
    given(store.update(&both, &moved).await, "update");
    are_wrapped(store, &root_query("test:1"), &[]).await;
    are_wrapped(store, &root_query("test:3"), &[]).await;
    are_wrapped(store, &root_query("test:2"), &[&moved, &second]).await;
    let destroyed = KekRecord { state: KekState::Destroyed, wraps: Vec::new(), ..moved.clone() };
    given(store.update(&moved, &destroyed).await, "update");
    are_wrapped(store, &root_query("test:2"), &[&second]).await;
}

async fn wrappers_are_kept_apart<S: KekStore>(store: &S) {
    let id = kek_id();
    let longest = "r".repeat(RootKeyId::MAX_BYTES);
    let nearly_longest = format!("{}s", "r".repeat(RootKeyId::MAX_BYTES - 1));
    let parents =
        [path(&["a", "b"]), path(&["a"]), path(&["ab"]), path(&["a/b"]), path(&["x".repeat(128).as_str(); 8])];
    let mut records = Vec::new();
    for root_id in ["a", "A", "ab", "a%", "a_", longest.as_str(), nearly_longest.as_str()] {
        records.push((root_query(root_id), wrapped(path(&["root", &records.len().to_string()]), &[root(root_id)])));
    }
    for parent in parents {
        let wrapper = Wrapper::Parent { path: parent.clone(), kek_id: id };
        let name = records.len().to_string();
        records.push((WrapperQuery::Path(parent), wrapped(path(&["parent", &name]), &[wrapper])));
    }
    for (_, record) in &records {
        create(store, record, Creation::Created).await;
    }
    for (query, record) in &records {
        are_wrapped(store, query, &[record]).await;
    }
}

async fn pages_of_wrapped_records_are_in_order_and_complete<S: KekStore>(store: &S) {
    let mut all = Vec::new();
    for name in ["z", "aa", "a", "ab"] {
        let mut versions = vec![record(path(&[name]))];
        create(store, &versions[0], Creation::Created).await;
        for number in 2..=3 {
            let previous = versions.len() - 1;
            let new = next(&versions[previous], number);
            given(store.rotate(versions[previous].identity.id, &new).await, "rotate");
            (versions[previous].state, versions[previous].retired_at) = (KekState::Retired, new.created_at);
            versions.push(new);
        }
        all.append(&mut versions);
        create(store, &wrapped(path(&[name, "other"]), &[root("test:other")]), Creation::Created).await;
    }
    sort(&mut all);
    let query = root_query("test:root");
    for limit in 1..=all.len() + 1 {
        let mut listed: Vec<KekRecord> = Vec::new();
        loop {
            let after = listed.last().map(|record| record.identity.clone());
            let after = after.as_ref().map(|identity| (&identity.path, identity.id));
            let page = given(store.by_wrapper(&query, after, limit).await, "by_wrapper");
            check(page.len() == limit.min(all.len() - listed.len()), "a page is full unless it is the last");
            if page.is_empty() {
                break;
            }
            listed.extend(page);
        }
        check(listed == all, &format!("pages of {limit} list what is wrapped, by path and KEK id, each once"));
    }
    check(given(store.by_wrapper(&query, None, 0).await, "by_wrapper").is_empty(), "a limit of 0 lists nothing");
}
