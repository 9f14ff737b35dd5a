//! What a denial takes where there are several root keys, and what an operator's recovery keeps from it.
#![allow(clippy::unwrap_used, clippy::unchecked_time_subtraction)] // test code outside a #[test], constants

mod common;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use common::{
    TTL, exact, row,
    tree::path,
    tricky::{Hold, Tricky, TrickyRoot, settle},
};
use keystrata_hierarchy::{
    Account, Hierarchy, KeyError, KeyPath, OpenError, Placement, PolicyBuilder, RootKeyError, Roots, RootsBuilder,
    SealError,
};

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

    fn process(&self, roots: RootsBuilder, policy: PolicyBuilder) -> Hierarchy {
        self.tricky.builder().roots(roots.build().unwrap()).policy(policy.build().unwrap()).build().unwrap()
    }

    /// `near` is current, `far` the one before.
    fn moved(&self) -> RootsBuilder {
        Roots::builder().current(Arc::clone(&self.near)).former(Arc::clone(&self.far))
    }

    fn before(&self) -> RootsBuilder {
        Roots::builder().current(Arc::clone(&self.far))
    }

    fn calls(&self) -> [usize; 2] {
        [self.near.calls(), self.far.calls()]
    }
}

fn denied() -> RootKeyError {
    RootKeyError::denied("revoked")
}

async fn is_denied(account: &Account, envelope: &[u8]) {
    let refused = account.open(envelope, &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Key(KeyError::Denied(_))), "{refused}");
}

fn is_at_hand(account: &Account, envelope: &[u8]) -> bool {
    account.try_open(envelope, &row(1)).unwrap().is_some()
}

/// A version by each root: the old one by `far`, the primary by `near`.
async fn two_versions(site: &Site, keys: &Hierarchy) -> (Account, Vec<u8>, Vec<u8>) {
    let first = site.process(site.before(), exact());
    let old = first.account("acme").unwrap().seal(b"old", &row(1)).await.unwrap();
    let account = keys.account("acme").unwrap();
    account.rotate().await.unwrap();
    let new = account.seal(b"new", &row(1)).await.unwrap();
    (account, old, new)
}

#[tokio::test]
async fn a_former_root_that_denies_takes_nothing_that_a_current_one_granted() {
    let site = Site::new();
    let keys = site.process(site.moved(), exact());
    let (account, old, new) = two_versions(&site, &keys).await;
    account.open(&old, &row(1)).await.unwrap();
    assert_eq!(keys.cached_keks(), 2);
    // One more KEK, by the former root alone, that is not in memory.
    let third = site.process(site.before(), exact()).account("acme").unwrap();
    third.rotate().await.unwrap();
    let stray = third.seal(b"stray", &row(1)).await.unwrap();
    site.far.fail(Some(denied()));
    let calls = site.calls();
    is_denied(&account, &stray).await;
    assert!(is_at_hand(&account, &new), "the current root granted it");
    assert!(!is_at_hand(&account, &old), "it rested on the root that denies");
    assert_eq!((keys.cached_keks(), keys.memory().slots_used), (1, 1));
    is_denied(&account, &old).await;
    assert_eq!(
        site.calls(),
        [calls[0], calls[1] + 1],
        "what was denied is remembered, and nothing else is asked for again"
    );
}

#[tokio::test]
async fn a_current_root_that_denies_takes_what_it_granted_and_leaves_what_a_former_one_did() {
    let site = Site::new();
    let keys = site.process(site.moved(), exact());
    let (account, old, new) = two_versions(&site, &keys).await;
    account.open(&old, &row(1)).await.unwrap();
    site.near.fail(Some(denied()));
    assert!(matches!(account.rotate().await, Err(KeyError::Denied(_))));
    assert!(is_at_hand(&account, &old) && !is_at_hand(&account, &new));
    assert_eq!((keys.cached_keks(), keys.memory().slots_used), (1, 1));
}

#[tokio::test]
async fn what_another_root_stood_in_for_falls_with_the_one_that_was_out_of_reach() {
    let site = Site::new();
    let both = || Roots::builder().current(Arc::clone(&site.near)).current(Arc::clone(&site.far));
    let sealed = site.process(both(), exact()).account("acme").unwrap().seal(b"x", &row(1)).await.unwrap();
    let keys = site.process(both(), exact());
    let account = keys.account("acme").unwrap();
    site.near.fail(Some(RootKeyError::unavailable("down")));
    account.open(&sealed, &row(1)).await.unwrap();
    // It is back, and says no.
    site.near.fail(Some(denied()));
    assert!(matches!(account.rotate().await, Err(KeyError::Denied(_))));
    assert!(!is_at_hand(&account, &sealed));
    assert_eq!(keys.memory().slots_used, 0);
}

#[tokio::test]
async fn a_renewal_that_a_current_root_denies_ends_the_kek_whoever_granted_it() {
    let site = Site::new();
    let sealed = site.process(site.before(), exact()).account("acme").unwrap().seal(b"x", &row(1)).await.unwrap();
    let keys = site.process(site.moved(), exact().refresh_ahead(true));
    let account = keys.account("acme").unwrap();
    account.open(&sealed, &row(1)).await.unwrap();
    account.reroot(keystrata_hierarchy::Reroot::Add).await.unwrap();
    site.near.fail(Some(denied()));
    site.tricky.clock.advance(TTL * 9 / 10);
    assert!(is_at_hand(&account, &sealed), "and that asks for its renewal");
    settle().await;
    assert!(!is_at_hand(&account, &sealed));
}

#[tokio::test]
async fn what_was_recovered_stays_whatever_the_roots_say_that_an_operator_went_round() {
    let site = Site::new();
    let recovery = Arc::new(TrickyRoot::named("test:recovery"));
    let near = || Roots::builder().current(Arc::clone(&site.near));
    let oldest = site.process(near(), exact()).account("acme").unwrap().seal(b"oldest", &row(1)).await.unwrap();
    let aged = || exact().max_age(Duration::from_secs(60)).refresh_ahead(true);
    let keys = site.process(near().recovery(Arc::clone(&recovery)), aged());
    let account = keys.account("acme").unwrap();
    account.rotate().await.unwrap();
    let sealed = account.seal(b"x", &row(1)).await.unwrap();
    keys.invalidate_all();
    site.near.fail(Some(denied()));
    is_denied(&account, &sealed).await;
    assert_eq!(account.recover().await.unwrap().keks, 1);
    let calls = site.near.calls();
    // What is not recovered is refused, and takes nothing with it.
    is_denied(&account, &oldest).await;
    assert!(is_at_hand(&account, &sealed));
    // The primary is older than its policy allows, and its next is not asked of who denies.
    for _ in 0..4 {
        site.tricky.clock.advance(Duration::from_secs(61));
        account.seal(b"y", &row(1)).await.unwrap();
        settle().await;
    }
    assert_eq!(site.near.calls(), calls, "nobody asked the root that denies");
    // An operator who does is told no, and keeps what he has.
    assert!(matches!(account.rotate().await, Err(KeyError::Denied(_))));
    assert!(is_at_hand(&account, &sealed));
    account.seal(b"z", &row(1)).await.unwrap();
    assert_eq!(keys.cached_keks(), 1);
}

#[tokio::test]
async fn a_recovery_root_is_not_asked_for_a_kek_that_too_few_others_wrap() {
    let site = Site::new();
    let recovery = Arc::new(TrickyRoot::named("test:recovery"));
    let roots = |least| {
        let both = Roots::builder().current(Arc::clone(&site.near)).current(Arc::clone(&site.far));
        both.recovery(Arc::clone(&recovery)).accept_at_least(NonZeroUsize::new(least).unwrap())
    };
    let down = || Some(RootKeyError::unavailable("down"));
    for (least, far) in [(1, down()), (2, down()), (2, None)] {
        site.near.fail(down());
        site.far.fail(far);
        let keys = site.process(roots(least), exact());
        let account = keys.account("acme").unwrap();
        let refused = account.seal(b"x", &row(1)).await.unwrap_err();
        assert!(matches!(refused, SealError::Key(KeyError::RootUnavailable(_))), "{refused}");
        account.create().await.unwrap_err();
        assert_eq!((recovery.calls(), keys.cached_keks(), site.tricky.store.versions("acme").await), (0, 0, 0));
    }
    // Enough of them: it wraps the KEK too.
    let keys = site.process(roots(1), exact());
    keys.account("acme").unwrap().seal(b"x", &row(1)).await.unwrap();
    assert_eq!((recovery.calls(), site.tricky.store.versions("acme").await), (1, 1));
}

#[tokio::test]
async fn a_former_root_that_answers_nobody_holds_up_no_renewal_by_a_current_one() {
    const STUCK: usize = 100;
    let site = Site::new();
    let before = site.process(site.before(), exact());
    let mut stuck = Vec::new();
    for n in 0..STUCK {
        stuck.push(before.account(format!("old {n}")).unwrap().seal(b"x", &row(1)).await.unwrap());
    }
    // Those in a group are renewed in the lane of what is at the top.
    let (near, far) = (Roots::new(Arc::clone(&site.near)), Roots::new(Arc::clone(&site.far)));
    let topology = move |path: &KeyPath| match path.segments().next() {
        Some("member" | "other") => Placement::group(self::path(["group"])),
        _ => Placement::account(&near).formerly(Placement::account(&far)),
    };
    let policy = exact().refresh_ahead(true).build().unwrap();
    let keys = site.tricky.builder().topology(topology).policy(policy).build().unwrap();
    let new: Vec<_> = (0..20).map(|n| keys.account(format!("new {n}")).unwrap()).collect();
    for account in &new {
        account.seal(b"x", &row(1)).await.unwrap();
    }
    for (n, sealed) in stuck.iter().enumerate() {
        keys.account(format!("old {n}")).unwrap().open(sealed, &row(1)).await.unwrap();
    }
    keys.account("member").unwrap().seal(b"x", &row(1)).await.unwrap();
    let granted = site.near.calls();
    site.far.hold(Hold::Everything);
    site.tricky.clock.advance(TTL * 9 / 10);
    for (n, sealed) in stuck.iter().enumerate() {
        assert!(is_at_hand(&keys.account(format!("old {n}")).unwrap(), sealed));
    }
    settle().await;
    for account in &new {
        account.seal(b"x", &row(1)).await.unwrap();
    }
    keys.account("member").unwrap().seal(b"x", &row(1)).await.unwrap();
    settle().await;
    assert_eq!(site.near.calls() - granted, new.len() + 1, "each is renewed ahead of its end, and the group");
    site.far.hold(Hold::Nothing);
    settle().await;
}
