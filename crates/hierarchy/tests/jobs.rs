//! Jobs over whole stores: what they cost, what stops them, and from where they go on.
#![allow(clippy::unwrap_used)] // test code outside a #[test]

mod common;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use common::{
    Fixture, exact, row,
    tree::path,
    tricky::{Hold, Tricky, TrickyRoot, settle},
};
use keystrata_hierarchy::{
    Hierarchy, KekState, KekStore, KekVersion, KeyPath, LifecycleError, MemoryKekStore, Placement, Reroot, RootKey,
    RootKeyError, Roots, Urgency, Wrapper, WrapperQuery,
    jobs::{Checkpoint, CheckpointError, JobError, Task},
};

const ADD: Task = Task::Reroot { step: Reroot::Add, under: None };
const RETIRE: Task = Task::Reroot { step: Reroot::Retire, under: None };

/// So many accounts under `tricky.root`.
async fn accounts(tricky: &Tricky, count: usize) -> Vec<Vec<u8>> {
    let keys = tricky.process(exact());
    let mut sealed = Vec::new();
    for n in 0..count {
        sealed.push(keys.account(name(n)).unwrap().seal(b"x", &row(1)).await.unwrap());
    }
    sealed
}

fn name(n: usize) -> String {
    format!("account {n:05}")
}

fn moving(tricky: &Tricky, to: &Arc<TrickyRoot>) -> Hierarchy {
    let roots = Roots::builder().current(Arc::clone(to)).former(Arc::clone(&tricky.root)).build().unwrap();
    tricky.builder().roots(roots).build().unwrap()
}

#[tokio::test]
async fn a_reroot_of_all_costs_two_calls_an_account_in_the_background_and_caches_nothing() {
    let tricky = Tricky::new();
    let sealed = accounts(&tricky, 1_000).await;
    let new = Arc::new(TrickyRoot::named("test:new"));
    let keys = moving(&tricky, &new);
    let before = tricky.root.calls();
    let mut reports = Vec::new();
    let plan = keys.job(ADD).dry_run().run(|_| {}).await.unwrap();
    assert_eq!((plan.accounts, plan.changed, plan.added, plan.failed), (1_000, 1_000, 1_000, 0));
    assert_eq!((tricky.root.calls() - before, new.calls()), (0, 0), "a dry run makes no call");
    assert_eq!(keys.job(ADD).dry_run().run(|_| {}).await.unwrap(), plan, "and writes nothing");
    let done = keys.job(ADD).run(|progress| reports.push(progress.tally)).await.unwrap();
    assert_eq!(done, plan, "what was planned is what is done");
    assert_eq!((tricky.root.calls() - before, new.calls()), (1_000, 1_000));
    assert_eq!(new.last_demand().urgency(), Urgency::Background);
    assert_eq!(reports.iter().map(|tally| tally.accounts).collect::<Vec<_>>(), [256, 512, 768, 1_000]);
    assert_eq!(keys.cached_keks(), 0, "nothing pushes out what is in use");
    let again = keys.job(ADD).run(|_| {}).await.unwrap();
    assert_eq!((again.unchanged, again.changed), (1_000, 0));
    let retired = keys.job(RETIRE).run(|_| {}).await.unwrap();
    assert_eq!((retired.changed, retired.dropped), (1_000, 1_000));
    assert_eq!((tricky.root.calls() - before, new.calls()), (1_000, 1_000));
    let moved = tricky.builder().root_key(new).build().unwrap();
    for (n, sealed) in sealed.iter().enumerate() {
        moved.account(name(n)).unwrap().open(sealed, &row(1)).await.unwrap();
    }
}

/// Dropped after every possible number of calls, and gone on with from the last checkpoint that was reported.
#[tokio::test]
async fn a_job_that_is_dropped_anywhere_is_gone_on_with_and_loses_nothing() {
    let tricky = Tricky::new();
    let sealed = accounts(&tricky, 600).await;
    let new = Arc::new(TrickyRoot::named("test:new"));
    let keys = moving(&tricky, &new);
    let one = NonZeroUsize::MIN;
    let (mut saved, mut drops) = (None::<String>, 0);
    let done = loop {
        let mut job = keys.job(ADD).at_once(one.saturating_add(drops % 5));
        if let Some(saved) = &saved {
            job = job.resume(saved.parse().unwrap());
        }
        let limit = new.calls() + 37;
        let stop = async {
            while new.calls() < limit {
                tokio::task::yield_now().await;
            }
        };
        let run = job.run(|progress| saved = Some(progress.checkpoint.to_string()));
        tokio::select! {
            biased;
            () = stop => drops += 1,
            done = run => break done.unwrap(),
        }
        settle().await;
    };
    assert!(drops >= 10, "{drops}");
    assert_eq!((done.accounts, done.changed + done.unchanged, done.failed), (600, 600, 0));
    assert_eq!(new.calls(), 600, "what was done was done once");
    for (n, sealed) in sealed.iter().enumerate() {
        let wraps = tricky.store.inner.records(&path([&name(n)])).await.unwrap()[0].wraps.len();
        assert_eq!(wraps, 2);
        tricky.process(exact()).account(name(n)).unwrap().open(sealed, &row(1)).await.unwrap();
    }
}

#[tokio::test]
async fn a_checkpoint_of_another_job_store_or_version_is_refused_before_anything_is_done() {
    let tricky = Tricky::new();
    accounts(&tricky, 10).await;
    let new = Arc::new(TrickyRoot::named("test:new"));
    let keys = moving(&tricky, &new);
    let mut saved = String::new();
    keys.job(ADD).run(|progress| saved = progress.checkpoint.to_string()).await.unwrap();
    let checkpoint = || saved.parse::<Checkpoint>().unwrap();
    assert_eq!(checkpoint().tally().changed, 10);
    let under = Some(WrapperQuery::Root(tricky.root.id().clone()));
    for other in [
        keys.job(RETIRE),
        keys.job(Task::Reroot { step: Reroot::Add, under }),
        keys.job(Task::RotateOlderThan(Duration::from_secs(1))),
        keys.job(ADD).dry_run(),
    ] {
        let refused = other.resume(checkpoint()).run(|_| panic!("nothing is done")).await.unwrap_err();
        assert!(matches!(refused, JobError::Checkpoint(CheckpointError::OtherJob { .. })), "{refused}");
    }
    let elsewhere = Tricky::new();
    accounts(&elsewhere, 10).await; // the same names, and other KEKs
    let refused = moving(&elsewhere, &new).job(ADD).resume(checkpoint()).run(|_| panic!()).await.unwrap_err();
    assert!(matches!(refused, JobError::Checkpoint(CheckpointError::OtherStore { .. })), "{refused}");
    let newer = saved.replacen("kscp1", "kscp7", 1).parse::<Checkpoint>().unwrap_err();
    assert_eq!(newer, CheckpointError::UnknownVersion("7".into()));
    // Whatever becomes of the account that it names, the store stays the same one.
    keys.account(name(9)).unwrap().rotate().await.unwrap();
    keys.account(name(9)).unwrap().shred().await.unwrap();
    keys.job(ADD).resume(checkpoint()).run(|_| {}).await.unwrap();
}

#[tokio::test]
async fn an_account_that_fails_stops_no_other_and_is_named() {
    let tricky = Tricky::new();
    accounts(&tricky, 300).await;
    let new = Arc::new(TrickyRoot::named("test:new"));
    let keys = moving(&tricky, &new);
    keys.account(name(7)).unwrap().shred().await.unwrap();
    keys.account(name(8)).unwrap().disable().await.unwrap();
    new.fail_next(RootKeyError::throttled("slow down"));
    let mut failed = Vec::new();
    let done = keys
        .job(ADD)
        .at_once(NonZeroUsize::MIN)
        .run(|progress| failed.extend(progress.failed.iter().map(|(path, error)| (path.clone(), error.to_string()))))
        .await
        .unwrap();
    assert_eq!(
        (done.accounts, done.changed, done.failed),
        (299, 298, 1),
        "the shredded one is none, the disabled one is"
    );
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].0, path([&name(0)]));
    let again = keys.job(ADD).run(|_| {}).await.unwrap();
    assert_eq!((again.changed, again.unchanged, again.failed), (1, 298, 0));
}

#[tokio::test]
async fn only_those_under_one_root_key_are_looked_at() {
    let tricky = Tricky::new();
    accounts(&tricky, 300).await;
    let new = Arc::new(TrickyRoot::named("test:new"));
    let keys = moving(&tricky, &new);
    for n in 0..50 {
        keys.account(name(n)).unwrap().reroot(Reroot::Add).await.unwrap();
        keys.account(name(n)).unwrap().reroot(Reroot::Retire).await.unwrap();
    }
    let reads = tricky.store.reads();
    let under = Some(WrapperQuery::Root(tricky.root.id().clone()));
    let done = keys.job(Task::Reroot { step: Reroot::Add, under: under.clone() }).run(|_| {}).await.unwrap();
    assert_eq!((done.accounts, done.changed), (250, 250));
    let done = keys.job(Task::Reroot { step: Reroot::Retire, under: under.clone() }).run(|_| {}).await.unwrap();
    assert_eq!((done.accounts, done.changed), (250, 250), "those that leave the listing hide none that come after");
    let done = keys.job(Task::Reroot { step: Reroot::Retire, under }).run(|_| {}).await.unwrap();
    assert_eq!(done.accounts, 0);
    assert!(tricky.store.reads() >= reads);
}

#[tokio::test]
async fn a_groups_accounts_follow_its_rotation_with_one_call() {
    let tricky = Tricky::new();
    let roots = Roots::new(Arc::clone(&tricky.root));
    let place = move |path: &KeyPath| match path.segments().next() {
        Some("group") => Placement::account(&roots),
        _ => Placement::group(common::tree::path(["group"])),
    };
    let keys = tricky.builder().topology(place).build().unwrap();
    let mut sealed = Vec::new();
    for n in 0..300 {
        sealed.push(keys.account(name(n)).unwrap().seal(b"x", &row(1)).await.unwrap());
    }
    let old = tricky.store.inner.primary(&path(["group"])).await.unwrap().unwrap().identity.id;
    keys.account("group").unwrap().rotate().await.unwrap();
    let calls = tricky.root.calls();
    let under = Some(WrapperQuery::Kek { path: path(["group"]), kek_id: old });
    for step in [Reroot::Add, Reroot::Retire] {
        let done = keys.job(Task::Reroot { step, under: under.clone() }).run(|_| {}).await.unwrap();
        assert_eq!((done.accounts, done.changed), (300, 300), "{step:?}");
    }
    assert_eq!(tricky.root.calls(), calls, "both of the group's KEKs are in memory");
    let records = tricky.store.inner.records(&path([&name(5)])).await.unwrap();
    let by = |wrapper: &Wrapper| matches!(wrapper, Wrapper::Parent { kek_id, .. } if *kek_id != old);
    assert!(records[0].wraps.len() == 1 && by(&records[0].wraps[0].wrapper));
    for (n, sealed) in sealed.iter().enumerate() {
        keys.account(name(n)).unwrap().open(sealed, &row(1)).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_old_is_rotated_once_and_what_does_not_seal_is_passed_over() {
    let tricky = Tricky::new();
    accounts(&tricky, 20).await;
    let keys = tricky.process(exact());
    keys.account(name(3)).unwrap().open_only().await.unwrap();
    keys.account(name(4)).unwrap().disable().await.unwrap();
    keys.account(name(5)).unwrap().shred().await.unwrap();
    tricky.clock.advance(Duration::from_secs(100));
    keys.account(name(6)).unwrap().rotate().await.unwrap();
    let (calls, task) = (tricky.root.calls(), Task::RotateOlderThan(Duration::from_secs(100)));
    let plan = keys.job(task.clone()).dry_run().run(|_| {}).await.unwrap();
    let done = keys.job(task.clone()).run(|_| {}).await.unwrap();
    assert_eq!((plan, done.accounts, done.changed, done.unchanged), (done, 19, 16, 3));
    assert_eq!(tricky.root.calls() - calls, 16);
    assert_eq!(keys.cached_keks(), 1, "the one that was rotated by hand");
    assert_eq!(keys.job(task).run(|_| {}).await.unwrap().changed, 0);
    for n in 0..20 {
        let versions = tricky.store.versions(&name(n)).await;
        assert_eq!(versions, if matches!(n, 3..=5) { 1 } else { 2 }, "{n}");
    }
    let primary = tricky.store.inner.primary(&path([&name(4)])).await.unwrap().unwrap();
    assert_eq!((primary.state, primary.identity.version), (KekState::Disabled, KekVersion::FIRST));
}

#[tokio::test]
async fn somebody_who_waits_is_served_while_a_job_waits_for_its_calls() {
    let tricky = Tricky::new();
    let sealed = accounts(&tricky, 40).await;
    let new = Arc::new(TrickyRoot::named("test:new"));
    let keys = moving(&tricky, &new);
    new.hold(Hold::Everything);
    let job = tokio::spawn(keys.job(ADD).run(|_| {}));
    settle().await;
    keys.account(name(30)).unwrap().open(&sealed[30], &row(1)).await.unwrap();
    assert_eq!(tricky.root.last_demand().urgency(), Urgency::Foreground);
    new.hold(Hold::Nothing);
    assert_eq!(job.await.unwrap().unwrap().changed, 40);
}

#[tokio::test]
async fn an_empty_store_is_done_at_once_and_a_closed_hierarchy_refuses() {
    let fixture = Fixture::new();
    let keys = fixture.builder().store(MemoryKekStore::new()).build().unwrap();
    let mut reports = 0;
    let done = keys.job(ADD).run(|_| reports += 1).await.unwrap();
    assert_eq!((done.accounts, reports), (0, 1));
    keys.close();
    assert!(matches!(keys.job(ADD).run(|_| {}).await.unwrap_err(), JobError::Key(_)));
    let refused = keys.account("acme").unwrap().disable().await.unwrap_err();
    assert!(matches!(refused, LifecycleError::Key(_)), "{refused}");
}
