//! Several root keys: which wrap a new KEK, which is asked, and when the next one is.
#![allow(clippy::unwrap_used, clippy::unchecked_time_subtraction)] // test code outside a #[test], constants

mod common;

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{
    TTL, exact, row,
    tricky::{Hold, Tricky, TrickyRoot, TrickyStore, settle},
};
use keystrata_hierarchy::{
    Hierarchy, KekRecord, KekState, KekStore, KeyError, KeyPath, OpenError, Placement, PolicyBuilder, RootKeyError,
    Roots, RootsBuilder, SealError,
};
use keystrata_primitives::Wrapper;

const NANOSECOND: Duration = Duration::from_nanos(1);

/// A store, a clock and two regions.
struct Site {
    tricky: Tricky,
    near: Arc<TrickyRoot>,
    far: Arc<TrickyRoot>,
}

impl Site {
    fn new() -> Self {
        let root = |id| Arc::new(TrickyRoot::named(id));
        Self { tricky: Tricky::new(), near: root("test:near"), far: root("test:far") }
    }

    fn store(&self) -> &TrickyStore {
        &self.tricky.store
    }

    fn both(&self) -> RootsBuilder {
        Roots::builder().current(Arc::clone(&self.near)).current(Arc::clone(&self.far))
    }

    fn process(&self, roots: RootsBuilder, policy: PolicyBuilder) -> Hierarchy {
        self.tricky.builder().roots(roots.build().unwrap()).policy(policy.build().unwrap()).build().unwrap()
    }

    async fn sealed(&self) -> Vec<u8> {
        self.process(self.both(), exact()).account("acme").unwrap().seal(b"x", &row(1)).await.unwrap()
    }

    /// What calls there were, near and far, since this was last asked.
    fn calls(&self, before: &mut [usize; 2]) -> [usize; 2] {
        let now = [self.near.calls(), self.far.calls()];
        let since = [now[0] - before[0], now[1] - before[1]];
        *before = now;
        since
    }
}

fn acme() -> KeyPath {
    KeyPath::account("acme").unwrap()
}

fn wrappers(record: &KekRecord) -> Vec<String> {
    let name = |wrapper: &Wrapper| match wrapper {
        Wrapper::Root(id) => id.to_string(),
        other => panic!("{other:?}"),
    };
    record.wraps.iter().map(|wrap| name(&wrap.wrapper)).collect()
}

fn out_of_reach() -> [RootKeyError; 3] {
    let retry_after = Duration::from_secs(1);
    [
        RootKeyError::throttled("slow down"),
        RootKeyError::unavailable("no route"),
        RootKeyError::Overloaded { message: "used up".into(), retry_after },
    ]
}

#[tokio::test]
async fn every_current_root_wraps_a_new_kek_with_one_call_each() {
    for ttl in [TTL, Duration::ZERO] {
        let site = Site::new();
        let keys = site.process(site.both(), exact().kek_ttl(ttl));
        let account = keys.account("acme").unwrap();
        account.seal(b"x", &row(1)).await.unwrap();
        let unwraps = usize::from(ttl.is_zero()); // where nothing is cached, what was made is unwrapped again
        assert_eq!([site.near.calls(), site.far.calls()], [1 + unwraps, 1]);
        account.rotate().await.unwrap();
        for record in site.store().inner.records(&acme()).await.unwrap() {
            assert_eq!(wrappers(&record), ["test:near", "test:far"]);
        }
    }
}

#[tokio::test]
async fn the_next_root_is_asked_only_when_one_is_out_of_reach_and_in_the_order_of_the_list() {
    for ttl in [TTL, Duration::ZERO] {
        for failure in out_of_reach() {
            let site = Site::new();
            let sealed = site.sealed().await;
            let mut calls = [1, 1];
            // The record says far first; that counts for nothing.
            site.store().show(|mut record| {
                record.wraps.reverse();
                Some(record)
            });
            let open = async |keys: &Hierarchy| keys.account("acme").unwrap().open(&sealed, &row(1)).await;
            let process = || site.process(site.both(), exact().kek_ttl(ttl));
            assert_eq!(open(&process()).await.unwrap(), b"x");
            assert_eq!(site.calls(&mut calls), [1, 0]);
            site.near.fail(Some(failure.clone()));
            let keys = process();
            assert_eq!(open(&keys).await.unwrap(), b"x");
            assert_eq!((site.calls(&mut calls), keys.stats().failovers), ([1, 1], 1));
            assert_eq!((keys.stats().loads, keys.stats().failed_loads), (1, 1));
            // Both: the first failure is what is said.
            site.far.fail(Some(RootKeyError::throttled("this one too")));
            let refused = open(&process()).await.unwrap_err();
            assert!(refused.to_string().contains(&failure.to_string()), "{refused}");
            assert!(matches!(&refused, OpenError::Key(error) if error.is_retryable()));
        }
    }
}

#[tokio::test]
async fn after_a_denial_or_a_rejection_no_other_root_is_asked() {
    for ttl in [TTL, Duration::ZERO] {
        for failure in [RootKeyError::denied("revoked"), RootKeyError::Rejected] {
            let site = Site::new();
            let sealed = site.sealed().await;
            let mut calls = [1, 1];
            site.near.fail(Some(failure));
            let keys = site.process(site.both(), exact().kek_ttl(ttl));
            for _ in 0..3 {
                keys.account("acme").unwrap().open(&sealed, &row(1)).await.unwrap_err();
                keys.account("acme").unwrap().seal(b"x", &row(1)).await.unwrap_err();
            }
            assert_eq!((site.calls(&mut calls), keys.stats().failovers), ([1, 0], 0));
        }
    }
}

#[tokio::test]
async fn losing_one_root_leaves_everything_readable() {
    let site = Site::new();
    let sealed = site.sealed().await;
    for (lost, left) in [(&site.near, &site.far), (&site.far, &site.near)] {
        // It is down.
        lost.fail(Some(RootKeyError::unavailable("the region is down")));
        let keys = site.process(site.both(), exact());
        let account = keys.account("acme").unwrap();
        assert_eq!(account.open(&sealed, &row(1)).await.unwrap(), b"x");
        account.seal(b"y", &row(1)).await.unwrap();
        // It is gone, and its service says so: then it is taken out of the list.
        lost.fail(Some(RootKeyError::denied("pending deletion")));
        let keys = site.process(Roots::builder().current(Arc::clone(left)), exact());
        assert_eq!(keys.account("acme").unwrap().open(&sealed, &row(1)).await.unwrap(), b"x");
        lost.fail(None);
    }
}

#[tokio::test]
async fn a_kek_is_made_only_if_all_roots_wrap_it_unless_fewer_are_allowed() {
    let one = NonZeroUsize::new(1).unwrap();
    for failure in out_of_reach() {
        for lost in [0, 1] {
            let site = Site::new();
            let root = [&site.near, &site.far][lost];
            root.fail(Some(failure.clone()));
            let keys = site.process(site.both(), exact());
            let refused = keys.account("acme").unwrap().seal(b"x", &row(1)).await.unwrap_err();
            assert!(matches!(&refused, SealError::Key(error) if error.is_retryable()), "{refused}");
            assert_eq!((site.store().versions("acme").await, keys.cached_keks()), (0, 0));
            assert_eq!([site.near.calls(), site.far.calls()], [1, lost], "nothing is paid for that comes to nothing");

            let keys = site.process(site.both().accept_at_least(one), exact());
            let sealed = keys.account("acme").unwrap().seal(b"x", &row(1)).await.unwrap();
            assert_eq!((keys.stats().partial_wraps, keys.stats().failovers), (1, 0));
            let record = site.store().inner.records(&acme()).await.unwrap().remove(0);
            assert_eq!(wrappers(&record), [["test:far"], ["test:near"]][lost]);
            let keys = site.process(site.both().accept_at_least(one), exact());
            assert_eq!(keys.account("acme").unwrap().open(&sealed, &row(1)).await.unwrap(), b"x");
            site.near.fail(Some(failure.clone()));
            site.far.fail(Some(failure.clone()));
            let refused = keys.account("other").unwrap().seal(b"x", &row(1)).await.unwrap_err();
            assert!(matches!(&refused, SealError::Key(error) if error.is_retryable()), "{refused}");
        }
    }
}

#[tokio::test]
async fn whoever_denies_an_account_stops_a_new_kek_whatever_the_others_say() {
    let one = NonZeroUsize::new(1).unwrap();
    for denies in [0, 1] {
        let site = Site::new();
        let root = [&site.near, &site.far][denies];
        root.fail(Some(RootKeyError::denied("revoked")));
        let keys = site.process(site.both().accept_at_least(one), exact());
        for _ in 0..3 {
            let refused = keys.account("acme").unwrap().seal(b"x", &row(1)).await.unwrap_err();
            assert!(matches!(refused, SealError::Key(KeyError::Denied(_))), "{refused}");
        }
        assert_eq!((root.calls(), site.near.calls(), site.store().versions("acme").await), (1, 1, 0));
    }
}

#[tokio::test]
async fn a_denial_is_remembered_of_the_root_that_denied_and_of_no_other() {
    let site = Site::new();
    let first = site.process(Roots::builder().current(Arc::clone(&site.far)), exact());
    let old = first.account("acme").unwrap().seal(b"x", &row(1)).await.unwrap();
    let roots = || Roots::builder().current(Arc::clone(&site.near)).former(Arc::clone(&site.far));
    let keys = site.process(roots(), exact());
    let account = keys.account("acme").unwrap();
    account.rotate().await.unwrap();
    let new = account.seal(b"y", &row(1)).await.unwrap();
    account.open(&old, &row(1)).await.unwrap();
    let mut calls = [site.near.calls(), site.far.calls()];
    tokio::task::yield_now().await;
    keys.invalidate("acme").unwrap();
    site.near.fail(Some(RootKeyError::denied("revoked")));
    let refused = account.open(&new, &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Key(KeyError::Denied(_))), "{refused}");
    assert_eq!(account.open(&old, &row(1)).await.unwrap(), b"x", "another root vouches for it");
    assert!(matches!(account.open(&new, &row(1)).await, Err(OpenError::Key(KeyError::Denied(_)))));
    assert_eq!(site.calls(&mut calls), [1, 1]);
    site.near.fail(None);
    site.tricky.clock.advance(Duration::from_secs(30));
    assert_eq!(account.open(&new, &row(1)).await.unwrap(), b"y");
}

#[tokio::test]
async fn a_former_root_unwraps_and_wraps_nothing_new() {
    let site = Site::new();
    let before = site.process(Roots::builder().current(Arc::clone(&site.far)), exact());
    let old = before.account("acme").unwrap().seal(b"x", &row(1)).await.unwrap();
    let roots = Roots::builder().current(Arc::clone(&site.near)).former(Arc::clone(&site.far));
    let keys = site.process(roots, exact());
    let account = keys.account("acme").unwrap();
    assert_eq!(account.open(&old, &row(1)).await.unwrap(), b"x");
    account.rotate().await.unwrap();
    let record = site.store().inner.primary(&acme()).await.unwrap().unwrap();
    assert_eq!((wrappers(&record), site.far.generates()), (vec!["test:near".to_owned()], 1));
}

#[tokio::test]
async fn a_recovery_root_wraps_and_unwraps_when_an_operator_says_so_only() {
    let site = Site::new();
    let recovery = Arc::new(TrickyRoot::named("test:recovery"));
    let roots = || site.both().recovery(Arc::clone(&recovery));
    let keys = site.process(roots(), exact());
    let sealed = keys.account("acme").unwrap().seal(b"x", &row(1)).await.unwrap();
    assert_eq!(recovery.calls(), 1, "it wrapped it");
    let keys = site.process(roots(), exact().refresh_ahead(true));
    let account = keys.account("acme").unwrap();
    for failure in out_of_reach().into_iter().chain([RootKeyError::denied("gone")]) {
        site.near.fail(Some(failure.clone()));
        site.far.fail(Some(failure));
        account.open(&sealed, &row(1)).await.unwrap_err();
        assert_eq!(recovery.calls(), 1);
    }
    assert_eq!(account.recover().await.unwrap().keks, 1);
    assert_eq!((recovery.calls(), keys.cached_keks()), (2, 1));
    assert_eq!(account.try_open(&sealed, &row(1)).unwrap().unwrap(), b"x");
    let calls = [site.near.calls(), site.far.calls()];
    site.tricky.clock.advance(TTL - NANOSECOND);
    assert_eq!(account.try_open(&sealed, &row(1)).unwrap().unwrap(), b"x");
    settle().await;
    assert_eq!([site.near.calls(), site.far.calls()], calls, "nobody renews what was recovered");
    site.tricky.clock.advance(NANOSECOND);
    assert!(account.try_open(&sealed, &row(1)).unwrap().is_none());
    let other = keys.account("other").unwrap();
    assert_eq!(other.recover().await.unwrap().keks, 0);
    // Where there is none, it says so.
    let refused = site.process(site.both(), exact()).account("acme").unwrap().recover().await.unwrap_err();
    assert!(matches!(&refused, KeyError::WrongRoot { .. }) && refused.to_string().contains("no recovery root"));
}

#[tokio::test]
async fn recovery_goes_on_after_a_kek_that_it_cannot_have_and_lets_the_account_seal_again() {
    let site = Site::new();
    let recovery = Arc::new(TrickyRoot::named("test:recovery"));
    let oldest = site.sealed().await; // before there was a recovery root
    let with_recovery = || site.both().recovery(Arc::clone(&recovery));
    let newer = {
        let account = site.process(with_recovery(), exact()).account("acme").unwrap();
        account.rotate().await.unwrap();
        account.seal(b"newer", &row(1)).await.unwrap()
    };
    let keys = site.process(with_recovery(), exact());
    let account = keys.account("acme").unwrap();
    for root in [&site.near, &site.far] {
        root.fail(Some(RootKeyError::denied("revoked")));
    }
    account.seal(b"x", &row(1)).await.unwrap_err();
    account.open(&oldest, &row(1)).await.unwrap_err();
    let recovered = account.recover().await.unwrap();
    assert_eq!((recovered.keks, recovered.failed.len(), keys.cached_keks()), (1, 1, 1));
    assert!(matches!(recovered.failed[0].1, KeyError::WrongRoot { .. }), "{:?}", recovered.failed);
    assert_eq!(account.open(&newer, &row(1)).await.unwrap(), b"newer");
    let sealed = account.seal(b"x", &row(1)).await.unwrap();
    assert_eq!(account.open(&sealed, &row(1)).await.unwrap(), b"x");
}

#[tokio::test]
async fn what_was_disabled_while_its_recovery_was_under_way_does_not_come_back() {
    let site = Site::new();
    let recovery = Arc::new(TrickyRoot::named("test:recovery"));
    let keys = site.process(site.both().recovery(Arc::clone(&recovery)), exact());
    let account = keys.account("acme").unwrap();
    account.seal(b"x", &row(1)).await.unwrap();
    keys.invalidate_all();
    recovery.hold(Hold::Unwraps);
    let recovering = tokio::spawn({
        let account = account.clone();
        async move { account.recover().await }
    });
    settle().await;
    let primary = site.store().inner.primary(&acme()).await.unwrap().unwrap();
    let disabled = KekRecord { state: KekState::Disabled, ..primary.clone() };
    site.store().inner.update(&primary, &disabled).await.unwrap();
    keys.invalidate("acme").unwrap();
    recovery.hold(Hold::Nothing);
    let refused = recovering.await.unwrap().unwrap_err();
    assert!(matches!(refused, KeyError::WrongState { .. }), "{refused}");
    assert_eq!(keys.cached_keks(), 0);
}

#[tokio::test]
async fn a_root_that_denies_only_to_wrap_takes_nothing_back() {
    let site = Site::new();
    let keys = site.process(site.both(), exact());
    let account = keys.account("acme").unwrap();
    let sealed = account.seal(b"x", &row(1)).await.unwrap();
    site.far.fail(Some(RootKeyError::denied("no permission to encrypt")));
    assert!(matches!(account.rotate().await, Err(KeyError::Denied(_))));
    assert_eq!(account.try_open(&sealed, &row(1)).unwrap().unwrap(), b"x");
    let calls = [site.near.calls(), site.far.calls()];
    assert!(matches!(account.rotate().await, Err(KeyError::Denied(_))), "remembered");
    assert_eq!([site.near.calls(), site.far.calls()], calls);
}

#[tokio::test]
async fn a_root_that_nobody_configured_is_refused_by_name_and_without_a_call() {
    let site = Site::new();
    let planted = Arc::new(TrickyRoot::named("test:mallory"));
    let mallory = site.process(Roots::builder().current(Arc::clone(&planted)), exact());
    let sealed = mallory.account("acme").unwrap().seal(b"x", &row(1)).await.unwrap();
    // Also a tenant's own root in another tenant's record: configured, and not for this account.
    let (near, far) = (Roots::new(Arc::clone(&site.near)), Roots::new(Arc::clone(&site.far)));
    let mallorys = Roots::new(Arc::clone(&planted));
    let by_tenant = site.tricky.builder().topology(move |path| {
        Placement::account(if path.as_bytes().ends_with(b"mallory") { &mallorys } else { &near })
            .formerly(Placement::account(&far))
    });
    for keys in [site.process(site.both(), exact()), by_tenant.build().unwrap()] {
        let account = keys.account("acme").unwrap();
        let refused = account.open(&sealed, &row(1)).await.unwrap_err();
        let text = refused.to_string();
        assert!(matches!(refused, OpenError::Key(KeyError::WrongRoot { .. })), "{text}");
        assert!(text.contains("test:mallory") && text.contains("test:near, test:far"), "{text}");
        let refused = account.seal(b"x", &row(1)).await.unwrap_err();
        assert!(matches!(refused, SealError::Key(KeyError::WrongRoot { .. })), "{refused}");
    }
    assert_eq!([site.near.calls(), site.far.calls(), planted.calls()], [0, 0, 1]);
}

#[tokio::test]
async fn a_dead_root_slows_no_account_of_another() {
    const DEAD: usize = 200;
    let site = Site::new();
    let (near, far) = (Roots::new(Arc::clone(&site.near)), Roots::new(Arc::clone(&site.far)));
    let build = || {
        let (near, far) = (near.clone(), far.clone());
        let is_far = |path: &KeyPath| path.segments().next().is_some_and(|name| name.starts_with("far"));
        let builder =
            site.tricky.builder().topology(move |path| Placement::account(if is_far(path) { &far } else { &near }));
        builder.policy(exact().refresh_ahead(true).build().unwrap()).build().unwrap()
    };
    let keys = build();
    let dead: Vec<_> = (0..DEAD).map(|n| keys.account(format!("far {n}")).unwrap()).collect();
    let alive: Vec<_> = (0..20).map(|n| keys.account(format!("near {n}")).unwrap()).collect();
    for account in dead.iter().chain(&alive) {
        account.seal(b"x", &row(1)).await.unwrap();
    }
    // Every renewal of the dead root hangs; then come those of the other.
    site.far.hold(Hold::Everything);
    site.tricky.clock.advance(TTL * 9 / 10);
    for account in dead.iter().chain(&alive) {
        account.seal(b"x", &row(1)).await.unwrap();
    }
    settle().await;
    let near_calls = site.near.calls();
    assert_eq!(near_calls, 2 * alive.len(), "each was renewed");
    site.tricky.clock.advance(TTL / 10);
    let foreground: Vec<_> =
        dead.iter().cloned().map(|account| tokio::spawn(async move { account.seal(b"x", &row(1)).await })).collect();
    settle().await;
    for account in &alive {
        account.seal(b"x", &row(1)).await.unwrap();
    }
    assert_eq!(site.near.calls(), near_calls, "no one waited for a key");
    let paths =
        |names: &'static str, count| (0..count).map(move |n| KeyPath::account(&format!("{names} {n}")).unwrap());
    let others = build();
    let warming = Arc::new(Mutex::new(0));
    let warmed = tokio::spawn({
        let (keys, all) = (others.clone(), paths("far", DEAD).chain(paths("near", 20)).collect::<Vec<_>>());
        let warming = Arc::clone(&warming);
        async move {
            let warmed = keys.warm(all).await.unwrap();
            *warming.lock().unwrap() = warmed.ready;
        }
    });
    settle().await;
    assert_eq!((others.cached_keks(), *warming.lock().unwrap()), (20, 0), "all that can be warm is");
    site.far.hold(Hold::Nothing);
    warmed.await.unwrap();
    assert_eq!(*warming.lock().unwrap(), DEAD + 20);
    for waiting in foreground {
        waiting.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn health_tells_each_root_and_is_ready_while_one_answers() {
    let site = Site::new();
    let keys = site.process(site.both(), exact());
    let health = keys.health().await;
    assert!(health.is_ready() && health.root_keys.iter().all(|(_, answer)| answer.is_ok()));
    let ids: Vec<_> = health.root_keys.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["test:near", "test:far"]);
    site.near.fail(Some(RootKeyError::unavailable("down")));
    let health = keys.health().await;
    assert!(health.is_ready() && health.is_degraded() && health.root_keys[0].1.is_err());
    site.far.fail(Some(RootKeyError::throttled("slow down")));
    let health = keys.health().await;
    assert!(!health.is_ready() && matches!(health.root_key, Err(KeyError::RootUnavailable(_))));
}
