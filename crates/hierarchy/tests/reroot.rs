//! KEKs under other root keys and other parents: what it costs, what stays valid, and what interrupts it.
#![allow(clippy::unwrap_used)] // test code outside a #[test]

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use async_trait::async_trait;
use common::{
    TTL, exact, row,
    tree::path,
    tricky::{Hold, Tricky, TrickyRoot, settle},
};
use keystrata_hierarchy::{
    Hierarchy, KekState, KekStore, KeyError, KeyPath, LifecycleError, OpenError, Placement, Reroot, RootContext,
    RootKey, RootKeyError, RootKeyId, Roots, SecretKey, Update, Wrapper, test_util::ScriptedRootKey,
};

fn on(tricky: &Tricky, roots: Roots) -> Hierarchy {
    tricky.builder().roots(roots).build().unwrap()
}

fn moving(to: &Arc<TrickyRoot>, from: &Arc<TrickyRoot>) -> Roots {
    Roots::builder().current(Arc::clone(to)).former(Arc::clone(from)).build().unwrap()
}

async fn wrappers(tricky: &Tricky, of: &KeyPath) -> Vec<Vec<String>> {
    let records = tricky.store.inner.records(of).await.unwrap();
    let name = |wrapper: &Wrapper| match wrapper {
        Wrapper::Root(id) => id.to_string(),
        Wrapper::Parent { path, .. } => path.to_string(),
        _ => panic!(),
    };
    records.iter().map(|record| record.wraps.iter().map(|wrap| name(&wrap.wrapper)).collect()).collect()
}

/// An account of three versions, one of them disabled, under `tricky.root`, and an envelope of each.
async fn three_versions(tricky: &Tricky) -> Vec<Vec<u8>> {
    let acme = tricky.process(exact()).account("acme").unwrap();
    let mut sealed = vec![acme.seal(b"x", &row(1)).await.unwrap()];
    for _ in 0..2 {
        acme.rotate().await.unwrap();
        sealed.push(acme.seal(b"x", &row(1)).await.unwrap());
    }
    let records = tricky.store.inner.records(&path(["acme"])).await.unwrap();
    acme.disable_version(records[0].identity.id).await.unwrap();
    sealed
}

#[tokio::test]
async fn each_kek_costs_two_calls_and_what_is_done_costs_none() {
    let tricky = Tricky::new();
    let sealed = three_versions(&tricky).await;
    let new = Arc::new(TrickyRoot::named("test:new"));
    let keys = on(&tricky, moving(&new, &tricky.root));
    let acme = keys.account("acme").unwrap();
    let calls = || (tricky.root.calls(), new.calls());
    let before = calls();
    let plan = acme.reroot_plan(Reroot::Add).await.unwrap();
    assert_eq!((plan.keks, plan.changed, plan.added), (3, 3, 3));
    assert_eq!(calls(), before, "a plan is free");
    let refused = acme.reroot(Reroot::Retire).await.unwrap_err();
    assert!(matches!(refused, LifecycleError::NotAdded { .. }), "{refused}");
    let done = acme.reroot(Reroot::Add).await.unwrap();
    assert_eq!((done.keks, done.changed, done.added, done.dropped), (3, 3, 3, 0));
    assert_eq!(calls(), (before.0 + 3, before.1 + 3));
    assert_eq!(wrappers(&tricky, acme.path()).await, vec![["test:new", "test:root"]; 3]);
    for step in [Reroot::Add, Reroot::Add] {
        assert_eq!(acme.reroot(step).await.unwrap().changed, 0);
    }
    assert_eq!(calls(), (before.0 + 3, before.1 + 3));
    // Both are valid meanwhile: for processes of the old topology, of the new, and of the one between.
    for roots in [Roots::new(Arc::clone(&tricky.root)), Roots::new(Arc::clone(&new)), moving(&new, &tricky.root)] {
        on(&tricky, roots).account("acme").unwrap().open(&sealed[1], &row(1)).await.unwrap();
    }
    let before = calls();
    let done = acme.reroot(Reroot::Retire).await.unwrap();
    assert_eq!((done.changed, done.dropped), (3, 3));
    assert_eq!(calls(), before, "dropping is free");
    assert_eq!(wrappers(&tricky, acme.path()).await, vec![["test:new"]; 3]);
    let there = on(&tricky, Roots::new(new)).account("acme").unwrap();
    for sealed in &sealed[1..] {
        there.open(sealed, &row(1)).await.unwrap();
    }
    let OpenError::Key(refused) = there.open(&sealed[0], &row(1)).await.unwrap_err() else { panic!() };
    assert!(matches!(refused, KeyError::WrongState { state: KekState::Disabled, .. }), "{refused}");
    there.enable().await.unwrap();
    there.open(&sealed[0], &row(1)).await.unwrap();
}

#[tokio::test]
async fn nothing_is_dropped_from_a_kek_that_lacks_what_it_is_to_keep() {
    let tricky = Tricky::new();
    three_versions(&tricky).await;
    let (first, second) = (Arc::new(TrickyRoot::named("test:1")), Arc::new(TrickyRoot::named("test:2")));
    let half = Roots::builder().current(Arc::clone(&first)).former(Arc::clone(&tricky.root)).build().unwrap();
    on(&tricky, half).account("acme").unwrap().reroot(Reroot::Add).await.unwrap();
    let both = Roots::builder().current(first).current(second).former(Arc::clone(&tricky.root)).build().unwrap();
    let acme = on(&tricky, both).account("acme").unwrap();
    for step in [Reroot::Retire, Reroot::VerifyAndRetire] {
        let refused = acme.reroot(step).await.unwrap_err();
        assert!(matches!(&refused, LifecycleError::NotAdded { lacks, .. } if lacks == "test:2"), "{refused}");
        let refused = acme.reroot_plan(step).await.unwrap_err();
        assert!(matches!(refused, LifecycleError::NotAdded { .. }), "{refused}");
    }
    assert_eq!(wrappers(&tricky, acme.path()).await, vec![["test:1", "test:root"]; 3]);
    assert_eq!(acme.reroot(Reroot::Add).await.unwrap().added, 3);
    assert_eq!(acme.reroot(Reroot::VerifyAndRetire).await.unwrap().dropped, 3);
}

#[tokio::test]
async fn another_root_that_fails_or_denies_ends_it_and_touches_nothing_that_works() {
    let tricky = Tricky::new();
    let sealed = three_versions(&tricky).await;
    let new = Arc::new(TrickyRoot::named("test:new"));
    let keys = on(&tricky, moving(&new, &tricky.root));
    let acme = keys.account("acme").unwrap();
    acme.open(&sealed[1], &row(1)).await.unwrap();
    for error in [RootKeyError::denied("no grant"), RootKeyError::unavailable("no route")] {
        new.fail(Some(error));
        let failed = acme.reroot(Reroot::Add).await.unwrap_err();
        assert!(matches!(failed, LifecycleError::Key(KeyError::Denied(_) | KeyError::RootUnavailable(_))), "{failed}");
    }
    assert_eq!(keys.cached_keks(), 1, "a denial of what is not in use overwrites nothing");
    assert_eq!(wrappers(&tricky, acme.path()).await, vec![["test:root"]; 3]);
    // Two KEKs in, the third fails; asking again goes on from there.
    new.fail(None);
    let (counted, fails) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(true)));
    let hook = (Arc::clone(&counted), Arc::clone(&new), Arc::clone(&fails));
    new.at_each_call(Some(Box::new(move || {
        if hook.0.fetch_add(1, Ordering::SeqCst) == 2 && hook.2.swap(false, Ordering::SeqCst) {
            hook.1.fail_next(RootKeyError::throttled("slow down"));
        }
    })));
    assert!(acme.reroot(Reroot::Add).await.unwrap_err().is_retryable());
    assert_eq!(acme.reroot(Reroot::Add).await.unwrap().added, 1);
    assert_eq!(counted.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_reroot_that_nobody_waits_for_any_more_goes_on() {
    let tricky = Tricky::new();
    three_versions(&tricky).await;
    let new = Arc::new(TrickyRoot::named("test:new"));
    let keys = on(&tricky, moving(&new, &tricky.root));
    let acme = keys.account("acme").unwrap();
    new.hold(Hold::Everything);
    let rerooting = tokio::spawn({
        let acme = acme.clone();
        async move { acme.reroot(Reroot::Add).await }
    });
    settle().await;
    rerooting.abort();
    new.hold(Hold::Nothing);
    settle().await;
    assert_eq!(wrappers(&tricky, acme.path()).await, vec![["test:new", "test:root"]; 3]);
}

/// What changes a record between its read and its update changes the update, and costs no second call.
#[tokio::test]
async fn a_state_that_changes_meanwhile_is_kept_with_the_wrap_that_was_paid_for() {
    let tricky = Tricky::new();
    three_versions(&tricky).await;
    let new = Arc::new(TrickyRoot::named("test:new"));
    let keys = on(&tricky, moving(&new, &tricky.root));
    let acme = keys.account("acme").unwrap();
    new.hold(Hold::Everything);
    let rerooting = tokio::spawn({
        let acme = acme.clone();
        async move { acme.reroot(Reroot::Add).await }
    });
    settle().await;
    acme.disable().await.unwrap();
    let calls = new.calls();
    new.hold(Hold::Nothing);
    let done = rerooting.await.unwrap().unwrap();
    assert_eq!((done.added, new.calls() - calls), (3, 2), "the first was under way");
    let records = tricky.store.inner.records(acme.path()).await.unwrap();
    assert!(records.iter().all(|record| record.state == KekState::Disabled && record.wraps.len() == 2));
}

/// A root key that can take over another's wraps by itself.
#[derive(Debug)]
struct Rewrapping {
    new: ScriptedRootKey,
    old: ScriptedRootKey,
    calls: AtomicU64,
    answers_garbage: AtomicBool,
}

#[async_trait]
impl RootKey for Rewrapping {
    fn id(&self) -> &RootKeyId {
        self.new.id()
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.new.wrap_key(secret, context).await
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.new.unwrap_key(wrapped, context).await
    }

    async fn rewrap_key(
        &self,
        from: &RootKeyId,
        wrapped: &[u8],
        context: &RootContext,
    ) -> Result<Option<Vec<u8>>, RootKeyError> {
        if from != self.old.id() {
            return Ok(None);
        }
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.answers_garbage.load(Ordering::SeqCst) {
            return Ok(Some(vec![7; 72]));
        }
        let secret = self.old.unwrap_key(wrapped, context).await?;
        self.new.wrap_key(&secret, context).await.map(Some)
    }
}

#[tokio::test]
async fn where_the_kms_rewraps_each_kek_costs_one_call_and_is_verified_on_demand() {
    let tricky = Tricky::new();
    let sealed = three_versions(&tricky).await;
    let new = Arc::new(Rewrapping {
        new: ScriptedRootKey::new("test:new"),
        old: ScriptedRootKey::new("test:root"),
        calls: AtomicU64::new(0),
        answers_garbage: AtomicBool::new(true),
    });
    let roots = || Roots::builder().current(Arc::clone(&new)).former(Arc::clone(&tricky.root)).build().unwrap();
    let before = tricky.root.calls();
    let acme = on(&tricky, roots()).account("acme").unwrap();
    acme.reroot(Reroot::Add).await.unwrap();
    assert_eq!((new.calls.load(Ordering::SeqCst), tricky.root.calls() - before), (3, 0));
    // It answered with something else: found before what works is dropped.
    let refused = acme.reroot(Reroot::VerifyAndRetire).await.unwrap_err();
    assert!(matches!(refused, LifecycleError::Key(KeyError::Corrupt { .. })), "{refused}");
    assert!(wrappers(&tricky, acme.path()).await.iter().all(|wraps| wraps.len() == 2));
    // Back to the old root, and once more.
    let back = Roots::builder().current(Arc::clone(&tricky.root)).former(Arc::clone(&new)).build().unwrap();
    on(&tricky, back).account("acme").unwrap().reroot(Reroot::Retire).await.unwrap();
    new.answers_garbage.store(false, Ordering::SeqCst);
    let acme = on(&tricky, roots()).account("acme").unwrap();
    acme.reroot(Reroot::Add).await.unwrap();
    assert_eq!((new.calls.load(Ordering::SeqCst), tricky.root.calls() - before), (3 + 3 + 3, 0));
    acme.reroot(Reroot::VerifyAndRetire).await.unwrap();
    assert_eq!(new.calls.load(Ordering::SeqCst), 3 + 3 + 3 + 3);
    let there = on(&tricky, Roots::new(new)).account("acme").unwrap();
    there.open(&sealed[2], &row(1)).await.unwrap();
}

#[tokio::test]
async fn into_a_group_and_back_changes_no_envelope_and_strands_nothing() {
    let tricky = Tricky::new();
    let sealed = three_versions(&tricky).await;
    let roots = Roots::new(Arc::clone(&tricky.root));
    let group = path(["group"]);
    let alone = {
        let roots = roots.clone();
        move |_: &KeyPath| Placement::account(&roots)
    };
    let grouped = {
        let (roots, group) = (roots.clone(), group.clone());
        move |path: &KeyPath| {
            let alone = Placement::account(&roots);
            if *path == group { alone } else { Placement::group(group.clone()).formerly(alone) }
        }
    };
    let back = {
        let (roots, group) = (roots.clone(), group.clone());
        move |path: &KeyPath| {
            let alone = Placement::account(&roots);
            if *path == group { alone } else { alone.formerly(Placement::group(group.clone())) }
        }
    };
    let in_group = tricky.builder().topology(grouped.clone()).build().unwrap();
    let acme = in_group.account("acme").unwrap();
    let calls = tricky.root.calls();
    assert_eq!(acme.reroot(Reroot::Add).await.unwrap().added, 3);
    assert_eq!(tricky.root.calls() - calls, 4, "an unwrap for each KEK, and the group's KEK once");
    assert_eq!(acme.reroot(Reroot::Add).await.unwrap().changed, 0);
    acme.reroot(Reroot::Retire).await.unwrap();
    assert_eq!(wrappers(&tricky, acme.path()).await, vec![["group"]; 3]);
    // One call opens it now, the group's.
    let (fresh, calls) = (tricky.builder().topology(grouped).build().unwrap(), tricky.root.calls());
    for sealed in &sealed[1..] {
        fresh.account("acme").unwrap().open(sealed, &row(1)).await.unwrap();
    }
    assert_eq!(tricky.root.calls() - calls, 1);
    // The group's rotation leaves it behind until it is rerooted.
    in_group.account("group").unwrap().rotate().await.unwrap();
    assert_eq!(acme.reroot_plan(Reroot::Add).await.unwrap().added, 3);
    acme.reroot(Reroot::Add).await.unwrap();
    assert_eq!(wrappers(&tricky, acme.path()).await, vec![["group", "group"]; 3]);
    acme.reroot(Reroot::Retire).await.unwrap();
    assert_eq!(wrappers(&tricky, acme.path()).await, vec![["group"]; 3]);
    // And out again.
    let out = tricky.builder().topology(back).build().unwrap();
    let acme = out.account("acme").unwrap();
    let calls = tricky.root.calls();
    acme.reroot(Reroot::Add).await.unwrap();
    assert_eq!(tricky.root.calls() - calls, 4, "the group's KEK once, and a wrap for each");
    acme.reroot(Reroot::Retire).await.unwrap();
    out.account("group").unwrap().shred().await.unwrap();
    let alone = tricky.builder().topology(alone).build().unwrap().account("acme").unwrap();
    alone.enable().await.unwrap();
    for sealed in &sealed {
        assert_eq!(alone.open(sealed, &row(1)).await.unwrap(), b"x");
    }
}

#[tokio::test]
async fn a_record_that_a_stranger_wrapped_is_not_rerooted() {
    let tricky = Tricky::new();
    let stranger = Arc::new(TrickyRoot::named("test:stranger"));
    on(&tricky, Roots::new(Arc::clone(&stranger))).account("acme").unwrap().seal(b"x", &row(1)).await.unwrap();
    let calls = stranger.calls();
    let acme = tricky.process(exact()).account("acme").unwrap();
    let refused = acme.reroot(Reroot::Add).await.unwrap_err();
    assert!(matches!(refused, LifecycleError::Key(KeyError::WrongRoot { .. })), "{refused}");
    assert_eq!((tricky.root.calls(), stranger.calls()), (0, calls));
}

#[tokio::test]
async fn cached_keks_stay_valid_while_their_wraps_change() {
    let tricky = Tricky::new();
    let keys = tricky.process(exact());
    let acme = keys.account("acme").unwrap();
    let sealed = acme.seal(b"x", &row(1)).await.unwrap();
    let new = Arc::new(TrickyRoot::named("test:new"));
    let moved = on(&tricky, moving(&new, &tricky.root)).account("acme").unwrap();
    moved.reroot(Reroot::Add).await.unwrap();
    moved.reroot(Reroot::Retire).await.unwrap();
    acme.open(&sealed, &row(1)).await.unwrap();
    assert_eq!(keys.cached_keks(), 1);
    tricky.clock.advance(TTL);
    let OpenError::Key(refused) = acme.open(&sealed, &row(1)).await.unwrap_err() else { panic!() };
    assert!(matches!(refused, KeyError::WrongRoot { .. }), "its topology is of yesterday, and it says so: {refused}");
}

#[tokio::test]
async fn a_kek_that_cannot_be_had_keeps_no_other_from_its_wrap() {
    let tricky = Tricky::new();
    let sealed = three_versions(&tricky).await;
    let (lost, new) = (Arc::new(ScriptedRootKey::new("test:lost")), Arc::new(ScriptedRootKey::new("test:new")));
    // The oldest is under a root key that nobody names any more.
    let path = KeyPath::account("acme").unwrap();
    let oldest = tricky.store.export(&path).await.unwrap().unwrap().records[0].clone();
    let mut stray = oldest.clone();
    stray.wraps[0].wrapper = Wrapper::Root(lost.id().clone());
    assert_eq!(tricky.store.update(&oldest, &stray).await.unwrap(), Update::Updated);
    let roots = Roots::builder().current(Arc::clone(&new)).former(Arc::clone(&tricky.root)).build().unwrap();
    let failed = on(&tricky, roots).account("acme").unwrap().reroot(Reroot::Add).await.unwrap_err();
    assert!(matches!(failed, LifecycleError::Key(KeyError::WrongRoot { .. })), "{failed}");
    let counts: Vec<_> = wrappers(&tricky, &path).await.iter().map(Vec::len).collect();
    assert_eq!(counts, [1, 2, 2]);
    on(&tricky, Roots::new(new)).account("acme").unwrap().open(&sealed[2], &row(1)).await.unwrap();
}
