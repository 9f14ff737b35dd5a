//! What rests on a KEK falls with it: by an invalidation, by a denial, at once, and loads under way bring nothing back.
#![allow(clippy::unwrap_used, clippy::unchecked_time_subtraction)] // test code outside a #[test], constants

mod common;

use std::time::Duration;

use common::{
    TTL, exact, row,
    tree::{builder, one_group, path, process, services},
    tricky::{Hold, Tricky, settle},
};
use keystrata_hierarchy::{
    Account, Hierarchy, KeyError, KeyPath, OpenError, Placement, RootKeyError, Roots, SealError,
};
use tokio::task::JoinHandle;

/// Two groups under the root, an account in each, a service in each account, and an account of its own.
fn forest(path: &KeyPath, roots: &Roots) -> Placement {
    let segments: Vec<&str> = path.segments().collect();
    match segments[..] {
        ["group a" | "group b" | "alone"] => Placement::account(roots),
        ["a"] => Placement::group(self::path(["group a"])),
        ["b"] => Placement::group(self::path(["group b"])),
        _ => Placement::service(),
    }
}

const FOREST: [&[&str]; 8] =
    [&["group a"], &["group b"], &["alone"], &["a"], &["b"], &["a", "mail"], &["a", "mail", "archive"], &["b", "mail"]];

struct Envelopes(Vec<(KeyPath, Vec<u8>)>);

impl Envelopes {
    async fn of_all(keys: &Hierarchy) -> Self {
        let mut all = Vec::new();
        for segments in FOREST {
            let path = KeyPath::new(segments).unwrap();
            let sealed = keys.account(&path).unwrap().seal(b"x", &row(1)).await.unwrap();
            all.push((path, sealed));
        }
        Self(all)
    }

    /// Which open without waiting.
    fn at_hand(&self, keys: &Hierarchy) -> Vec<String> {
        let opens = |path: &KeyPath, sealed: &[u8]| keys.account(path).unwrap().try_open(sealed, &row(1)).unwrap();
        self.0.iter().filter(|(path, sealed)| opens(path, sealed).is_some()).map(|(path, _)| path.to_string()).collect()
    }

    async fn open_all(&self, keys: &Hierarchy) {
        for (path, sealed) in &self.0 {
            assert_eq!(keys.account(path).unwrap().open(sealed, &row(1)).await.unwrap(), b"x");
        }
    }

    fn of(&self, path: &KeyPath) -> &[u8] {
        &self.0.iter().find(|(of, _)| of == path).unwrap().1
    }
}

#[tokio::test]
async fn an_invalidation_overwrites_all_that_rests_on_a_path_or_is_inside_it_and_nothing_else() {
    let table: [(&[&str], &[&str]); 6] = [
        (&["group a"], &["group b", "alone", "b", "b/mail"]),
        (&["a"], &["group a", "group b", "alone", "b", "b/mail"]),
        (&["a", "mail"], &["group a", "group b", "alone", "a", "b", "b/mail"]),
        (&["a", "mail", "archive"], &["group a", "group b", "alone", "a", "b", "a/mail", "b/mail"]),
        (&["alone"], &["group a", "group b", "a", "b", "a/mail", "a/mail/archive", "b/mail"]),
        (&["nobody"], &["group a", "group b", "alone", "a", "b", "a/mail", "a/mail/archive", "b/mail"]),
    ];
    for (invalidated, left) in table {
        let tricky = Tricky::new();
        let keys = process(&tricky, exact(), forest);
        let envelopes = Envelopes::of_all(&keys).await;
        let calls = tricky.root.calls();
        assert_eq!(keys.invalidate(KeyPath::new(invalidated).unwrap()).unwrap(), FOREST.len() - left.len());
        assert_eq!(envelopes.at_hand(&keys), left, "{invalidated:?}");
        assert_eq!((keys.cached_keks(), keys.memory().slots_used), (left.len(), left.len()));
        envelopes.open_all(&keys).await;
        // What went was asked for anew, if it is of the root's; what is between needs no call.
        let of_root = ["group a", "alone"].contains(&invalidated[0]) && invalidated.len() == 1;
        assert_eq!(tricky.root.calls() - calls, usize::from(of_root), "{invalidated:?}");
        keys.invalidate_all();
        assert_eq!((keys.cached_keks(), envelopes.at_hand(&keys).len()), (0, 0));
    }
}

#[tokio::test]
async fn what_is_inside_a_path_falls_with_it_whatever_wraps_it() {
    let tricky = Tricky::new();
    let keys = tricky.process(exact());
    for path in [path(["acme", "mail"]), path(["acmes"]), path(["acme", "mail", "archive"])] {
        keys.account(&path).unwrap().seal(b"x", &row(1)).await.unwrap();
    }
    assert_eq!((keys.invalidate("acme").unwrap(), keys.cached_keks()), (2, 1));
    assert_eq!((keys.invalidate("acm").unwrap(), keys.cached_keks()), (0, 1));
}

#[tokio::test]
async fn a_denial_overwrites_all_that_rests_on_the_denied_kek() {
    let tricky = Tricky::new();
    let keys = process(&tricky, exact(), forest);
    let envelopes = Envelopes::of_all(&keys).await;
    tricky.clock.advance(TTL / 2);
    tricky.root.fail_next(RootKeyError::denied("revoked"));
    keys.account("group a").unwrap().rotate().await.unwrap_err();
    assert_eq!(envelopes.at_hand(&keys), ["group b", "alone", "b", "b/mail"]);
    let calls = tricky.root.calls();
    for path in [path(["a", "mail", "archive"]), path(["a"]), path(["group a"])] {
        let account = keys.account(&path).unwrap();
        let refused = account.open(envelopes.of(&path), &row(1)).await.unwrap_err();
        assert!(matches!(refused, OpenError::Key(KeyError::Denied(_))), "{refused}");
        let refused = account.seal(b"x", &row(1)).await.unwrap_err();
        assert!(matches!(refused, SealError::Key(KeyError::Denied(_))), "{refused}");
    }
    let new = keys.account(["a", "new"]).unwrap().seal(b"x", &row(1)).await.unwrap_err();
    assert!(matches!(new, SealError::Key(KeyError::Denied(_))), "{new}");
    assert_eq!(tricky.root.calls(), calls, "the denial is remembered of the group, for all below");
    tricky.clock.advance(Duration::from_secs(30));
    envelopes.open_all(&keys).await;
    assert_eq!(tricky.root.calls(), calls + 1);
}

#[tokio::test]
async fn what_rests_on_a_path_falls_with_it_though_what_is_between_was_evicted() {
    let tricky = Tricky::new();
    let keys = builder(&tricky, forest).capacity(1).build().unwrap();
    let archive = keys.account(["a", "mail", "archive"]).unwrap();
    let sealed = archive.seal(b"x", &row(1)).await.unwrap();
    for above in [&["group a"][..], &["a"], &["a", "mail"]] {
        archive.open(&sealed, &row(1)).await.unwrap();
        assert!(archive.try_open(&sealed, &row(1)).unwrap().is_some(), "the only KEK there is");
        assert_eq!(keys.invalidate(KeyPath::new(above).unwrap()).unwrap(), 1);
        assert!(archive.try_open(&sealed, &row(1)).unwrap().is_none() && keys.memory().slots_used == 0);
    }
}

fn open(account: &Account, envelope: &[u8]) -> JoinHandle<Result<Vec<u8>, OpenError>> {
    let (account, envelope) = (account.clone(), envelope.to_vec());
    tokio::spawn(async move { account.open(&envelope, &row(1)).await })
}

#[tokio::test]
async fn loads_under_way_below_put_nothing_back_and_begin_anew() {
    type Invalidate = fn(&Hierarchy) -> usize;
    let ways: [Invalidate; 3] =
        [|keys| keys.invalidate("group").unwrap(), |keys| keys.invalidate("acme").unwrap(), Hierarchy::invalidate_all];
    for ttl in [TTL, Duration::ZERO] {
        for (way, invalidate) in ways.into_iter().enumerate() {
            let tricky = Tricky::new();
            let sealed =
                process(&tricky, exact(), one_group).account("acme").unwrap().seal(b"x", &row(1)).await.unwrap();
            let keys = process(&tricky, exact().kek_ttl(ttl), one_group);
            let acme = keys.account("acme").unwrap();
            let calls = tricky.root.calls();
            tricky.root.hold(Hold::Everything);
            let opening = open(&acme, &sealed);
            settle().await;
            assert_eq!(tricky.root.calls(), calls + 1, "the group's KEK is asked for");
            invalidate(&keys);
            tricky.root.hold(Hold::Nothing);
            assert_eq!(opening.await.unwrap().unwrap(), b"x");
            settle().await;
            // The group's KEK that was asked for before the account alone was invalidated is as good as it was.
            let is_kept = way == 1 && !ttl.is_zero();
            assert_eq!(tricky.root.calls() - calls, if is_kept { 1 } else { 2 }, "{ttl:?}");
            assert_eq!(keys.cached_keks(), if ttl.is_zero() { 0 } else { 2 });
            assert_eq!(keys.memory().slots_used, keys.cached_keks());
        }
    }
}

#[tokio::test]
async fn a_child_whose_caller_has_gone_is_not_put_in_after_its_group_was_invalidated() {
    let tricky = Tricky::new();
    let sealed = process(&tricky, exact(), one_group).account("acme").unwrap().seal(b"x", &row(1)).await.unwrap();
    let keys = process(&tricky, exact(), one_group);
    // The group's KEK is here; the account's load waits for the store, which is asked before.
    keys.account("other").unwrap().seal(b"x", &row(1)).await.unwrap();
    assert_eq!(keys.cached_keks(), 2);
    tricky.root.hold(Hold::Everything);
    keys.invalidate("group").unwrap();
    let opening = open(&keys.account("acme").unwrap(), &sealed);
    settle().await;
    opening.abort();
    settle().await;
    keys.invalidate("group").unwrap();
    tricky.root.hold(Hold::Nothing);
    settle().await;
    assert_eq!((keys.cached_keks(), keys.memory().slots_used), (0, 0));
}

#[tokio::test]
async fn a_creation_under_way_below_is_of_a_group_asked_for_after_the_invalidation() {
    for ttl in [TTL, Duration::ZERO] {
        let tricky = Tricky::new();
        let keys = process(&tricky, exact().kek_ttl(ttl), services);
        tricky.root.hold(Hold::Everything);
        let account = keys.account(["acme", "mail"]).unwrap();
        let sealing = tokio::spawn(async move { account.seal(b"x", &row(1)).await });
        settle().await;
        assert_eq!(tricky.root.calls(), 1);
        keys.invalidate("acme").unwrap();
        tricky.root.hold(Hold::Nothing);
        let sealed = sealing.await.unwrap().unwrap();
        assert_eq!((tricky.store.versions("acme").await, keys.memory().slots_used), (1, keys.cached_keks()));
        let elsewhere = process(&tricky, exact(), services);
        assert_eq!(elsewhere.account(["acme", "mail"]).unwrap().open(&sealed, &row(1)).await.unwrap(), b"x");
    }
}

#[tokio::test]
async fn closing_ends_every_level() {
    let tricky = Tricky::new();
    let keys = process(&tricky, exact(), forest);
    let envelopes = Envelopes::of_all(&keys).await;
    keys.invalidate("group a").unwrap();
    tricky.root.hold(Hold::Everything);
    let below = path(["a", "mail", "archive"]);
    let opening = open(&keys.account(&below).unwrap(), envelopes.of(&below));
    settle().await;
    keys.close();
    tricky.root.hold(Hold::Nothing);
    let refused = opening.await.unwrap().unwrap_err();
    assert!(matches!(refused, OpenError::Key(KeyError::Closed)), "{refused}");
    assert_eq!((keys.cached_keks(), keys.memory().slots_used), (0, 0));
}

/// Many threads load accounts of two groups while one of the groups is invalidated: whatever is at hand right after was
/// asked for after.
#[test]
fn on_many_threads_nothing_below_survives_an_invalidation() {
    const ACCOUNTS: usize = 40;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
    runtime.block_on(async {
        let tricky = Tricky::new();
        let keys = builder(&tricky, one_group).runtime(runtime.handle().clone()).build().unwrap();
        let mut sealed = Vec::new();
        for n in 0..ACCOUNTS {
            let account = keys.account(format!("account {n}")).unwrap();
            sealed.push((account.clone(), account.seal(b"x", &row(1)).await.unwrap()));
        }
        for round in 0..200 {
            let opening: Vec<_> = sealed.iter().map(|(account, envelope)| open(account, envelope)).collect();
            if round % 2 == 0 {
                tokio::task::yield_now().await;
            }
            let calls = tricky.root.calls();
            keys.invalidate("group").unwrap();
            let at_hand =
                |(account, envelope): &(Account, Vec<u8>)| account.try_open(envelope, &row(1)).unwrap().is_some();
            let survivors = sealed.iter().filter(|one| at_hand(one)).count();
            assert!(survivors == 0 || tricky.root.calls() > calls, "{survivors} without a call in round {round}");
            for opened in opening {
                assert_eq!(opened.await.unwrap().unwrap(), b"x");
            }
        }
        assert_eq!(keys.memory().slots_used, keys.cached_keks());
    });
}
