//! Groups of which nothing is cached: what callers share all the same, and what follows the topology.
#![allow(clippy::unwrap_used)] // test code outside a #[test]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{
    TTL, exact, row,
    tree::{builder, one_group, path},
    tricky::{Hold, Tricky, TrickyRoot, settle},
};
use keystrata_hierarchy::{
    Account, Hierarchy, KeyPath, Placement, Policy, Reroot, RootKeyError, Roots, Urgency, jobs::Task,
};

/// Nothing of `group` is cached, nor so of what is below it.
fn nothing_of_groups(path: &KeyPath) -> Option<Policy> {
    (path.segments().next() == Some("group")).then(|| exact().kek_ttl(Duration::ZERO).build().unwrap())
}

fn process(tricky: &Tricky) -> Hierarchy {
    builder(tricky, one_group).policy_by_account(nothing_of_groups).build().unwrap()
}

fn open(account: Account, sealed: Vec<u8>) -> tokio::task::JoinHandle<Vec<u8>> {
    tokio::spawn(async move { account.open(&sealed, &row(1)).await.unwrap() })
}

#[tokio::test]
async fn all_who_wait_for_a_groups_kek_at_one_time_share_one_call() {
    let tricky = Tricky::new();
    let keys = process(&tricky);
    let mut sealed = Vec::new();
    for n in 0..50 {
        let account = keys.account(format!("account {n}")).unwrap();
        sealed.push((account.clone(), account.seal(b"x", &row(1)).await.unwrap()));
    }
    for round in 0..3 {
        let calls = tricky.root.calls();
        tricky.root.hold(Hold::Everything);
        let opening: Vec<_> = sealed
            .iter()
            .cycle()
            .take(200)
            .map(|(account, envelope)| open(account.clone(), envelope.clone()))
            .collect();
        settle().await;
        assert_eq!(tricky.root.calls(), calls + 1, "round {round}");
        // Some leave; the others have their answer of the same call.
        for leaving in opening.iter().step_by(3) {
            leaving.abort();
        }
        tricky.root.hold(Hold::Nothing);
        for (n, opened) in opening.into_iter().enumerate() {
            match opened.await {
                Ok(opened) => assert_eq!(opened, b"x"),
                Err(error) => assert!(n % 3 == 0 && error.is_cancelled()),
            }
        }
        assert_eq!(tricky.root.calls(), calls + 1);
        assert_eq!((keys.cached_keks(), keys.memory().slots_used), (0, 0), "nothing is kept");
    }
    // Whoever comes later asks anew, and hears of what was taken back.
    tricky.root.fail(Some(RootKeyError::denied("revoked")));
    let (account, envelope) = &sealed[0];
    account.open(envelope, &row(1)).await.unwrap_err();
}

#[tokio::test]
async fn a_groups_first_kek_is_made_once_for_all_who_wait_for_it() {
    let tricky = Tricky::new();
    let keys = process(&tricky);
    tricky.root.hold(Hold::Everything);
    let sealing: Vec<_> = (0..50)
        .map(|n| {
            let account = keys.account(format!("account {n}")).unwrap();
            tokio::spawn(async move { account.seal(b"x", &row(1)).await.unwrap() })
        })
        .collect();
    settle().await;
    assert_eq!(tricky.root.calls(), 1, "one makes it");
    tricky.root.hold(Hold::Nothing);
    for sealed in sealing {
        sealed.await.unwrap();
    }
    assert_eq!(tricky.store.versions("group").await, 1);
}

#[tokio::test]
async fn a_cache_with_too_little_room_shares_what_is_asked_for_once() {
    let tricky = Tricky::new();
    let keys = builder(&tricky, one_group).capacity(1).build().unwrap();
    let mut sealed = Vec::new();
    for n in 0..30 {
        let account = keys.account(format!("account {n}")).unwrap();
        sealed.push((account.clone(), account.seal(b"x", &row(1)).await.unwrap()));
    }
    let calls = tricky.root.calls();
    let opening: Vec<_> = sealed.iter().map(|(account, envelope)| open(account.clone(), envelope.clone())).collect();
    for opened in opening {
        assert_eq!(opened.await.unwrap(), b"x");
    }
    let made = tricky.root.calls() - calls;
    assert!(made < 30, "{made} calls for one group's KEK");
}

#[tokio::test]
async fn a_creation_in_the_background_is_lifted_by_whoever_comes_to_wait_for_it() {
    for group in ["group", "cached group"] {
        let tricky = Tricky::new();
        tricky.process(exact()).account("acme").unwrap().seal(b"x", &row(1)).await.unwrap();
        let of_group = Arc::new(TrickyRoot::named("test:of-group"));
        let top = Roots::new(Arc::clone(&of_group));
        let place = move |path: &KeyPath, roots: &Roots| match path.segments().next() {
            Some(name) if name == group => Placement::account(&top),
            _ => Placement::group(KeyPath::account(group).unwrap()).formerly(Placement::account(roots)),
        };
        let keys = builder(&tricky, place).policy_by_account(nothing_of_groups).build().unwrap();
        of_group.hold(Hold::Everything);
        let job = tokio::spawn({
            let job = keys.job(Task::Reroot { step: Reroot::Add, under: None });
            async move { job.run(|_| {}).await.unwrap() }
        });
        settle().await;
        let demand = of_group.last_demand();
        assert_eq!((of_group.calls(), demand.urgency()), (1, Urgency::Background), "{group}");
        let other = keys.account("other").unwrap();
        let sealing = tokio::spawn(async move { other.seal(b"x", &row(1)).await.unwrap() });
        settle().await;
        assert_eq!((of_group.calls(), demand.urgency()), (1, Urgency::Foreground), "{group}");
        of_group.hold(Hold::Nothing);
        sealing.await.unwrap();
        assert_eq!(job.await.unwrap().failed, 0);
    }
}

#[tokio::test]
async fn whether_an_account_is_cached_follows_the_topology() {
    let tricky = Tricky::new();
    let in_group = Arc::new(AtomicBool::new(false));
    let place = {
        let in_group = Arc::clone(&in_group);
        move |path: &KeyPath, roots: &Roots| {
            let (root, group) = (Placement::account(roots), Placement::group(self::path(["group"])));
            match path.segments().next() {
                Some("group") => root,
                _ if in_group.load(Ordering::SeqCst) => group.formerly(root),
                _ => root,
            }
        }
    };
    let keys = builder(&tricky, place).policy_by_account(nothing_of_groups).build().unwrap();
    // The handle is held all the time.
    let acme = keys.account("acme").unwrap();
    acme.seal(b"x", &row(1)).await.unwrap();
    assert_eq!(keys.cached_keks(), 1);
    in_group.store(true, Ordering::SeqCst);
    tricky.clock.advance(TTL);
    for _ in 0..3 {
        let calls = tricky.root.calls();
        acme.seal(b"x", &row(1)).await.unwrap();
        assert_eq!((tricky.root.calls(), keys.cached_keks()), (calls + 1, 0), "from its next load on");
    }
    let calls = tricky.root.calls();
    acme.rotate().await.unwrap();
    assert_eq!(keys.cached_keks(), 0);
    acme.seal(b"x", &row(1)).await.unwrap();
    assert!(tricky.root.calls() > calls + 1);
}
