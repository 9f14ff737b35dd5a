//! What an operator sees and does: warming, health, counts and metrics.
#![allow(clippy::unwrap_used, clippy::unchecked_time_subtraction)] // test code outside a #[test], constants

mod common;

use std::{collections::HashMap, sync::atomic::Ordering, time::Duration};

use common::{
    TTL, exact, row,
    tricky::{Hold, Tricky, settle},
};
use keystrata_hierarchy::{
    Clock, Hierarchy, KekRecord, KekStore, KeyError, KeyPath, OpenError, RootKeyError, Stats, Urgency,
};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

fn path(name: &str) -> KeyPath {
    KeyPath::account(name).unwrap()
}

#[tokio::test]
async fn warming_loads_each_account_with_one_call_and_makes_none() {
    let tricky = Tricky::new();
    let names: Vec<_> = (0..50).map(|n| format!("account {n}")).collect();
    let mut envelopes = Vec::new();
    for name in &names {
        envelopes.push(tricky.sealed_for(name).await);
    }
    let keys = tricky.process(exact());
    let calls = tricky.root.calls();
    let all = || names.iter().map(|name| path(name)).chain([path("nobody"), path("nothing")]);
    let warmed = keys.warm(all()).await.unwrap();
    let mut unknown = warmed.unknown.clone();
    unknown.sort();
    assert_eq!((warmed.ready, unknown, warmed.failed.len()), (50, vec![path("nobody"), path("nothing")], 0));
    assert_eq!((tricky.root.calls(), keys.cached_keks()), (calls + 50, 50));
    assert_eq!(tricky.root.last_demand().urgency(), Urgency::Background);
    assert_eq!(tricky.store.versions("nobody").await, 0);
    for (name, envelope) in names.iter().zip(&envelopes) {
        let account = keys.account(name.as_str()).unwrap();
        account.try_open(envelope, &row(1)).unwrap().expect("warm");
        account.try_seal(b"x", &row(1)).unwrap().expect("warm");
    }
    let reads = tricky.store.reads();
    assert_eq!(keys.warm(all().take(50)).await.unwrap().ready, 50);
    assert_eq!((tricky.root.calls(), tricky.store.reads()), (calls + 50, reads), "what is hot costs nothing");
    let warmed = keys.warm([path(&names[0]), path(&names[0])]).await.unwrap();
    assert_eq!(warmed.ready, 2);
}

#[tokio::test]
async fn warming_says_which_accounts_failed_and_why_and_goes_on_with_the_others() {
    let tricky = Tricky::new();
    for name in ["a", "b", "c"] {
        tricky.sealed_for(name).await;
    }
    let keys = tricky.process(exact());
    tricky.root.fail_next(RootKeyError::denied("revoked"));
    tricky.root.fail_next(RootKeyError::throttled("slow down"));
    let warmed = keys.warm(["a", "b", "c"].map(path)).await.unwrap();
    assert_eq!((warmed.ready, warmed.failed.len(), keys.cached_keks()), (1, 2, 1));
    let denied = warmed.failed.iter().filter(|(_, error)| matches!(error, KeyError::Denied(_))).count();
    let throttled = warmed.failed.iter().filter(|(_, error)| matches!(error, KeyError::Throttled(_))).count();
    assert_eq!((denied, throttled), (1, 1));
    // A denial is remembered here too.
    let calls = tricky.root.calls();
    let warmed = keys.warm(["a", "b", "c"].map(path)).await.unwrap();
    assert_eq!((warmed.ready, warmed.failed.len(), tricky.root.calls()), (2, 1, calls + 1));
    tricky.store.set_down(true);
    keys.invalidate_all();
    let warmed = keys.warm(["a", "b", "c"].map(path)).await.unwrap();
    assert!(warmed.failed.iter().all(|(_, error)| matches!(error, KeyError::StoreUnavailable(_))));
    assert_eq!(warmed.failed.len(), 3);
    assert_eq!(keys.warm([]).await.unwrap().ready, 0);
}

#[tokio::test]
async fn warming_has_few_loads_under_way_and_leaves_off_when_it_is_dropped() {
    let tricky = Tricky::new();
    for n in 0..40 {
        tricky.sealed_for(&n.to_string()).await;
    }
    let keys = tricky.process(exact());
    tricky.root.hold(Hold::Everything);
    let warming = tokio::spawn({
        let keys = keys.clone();
        async move { keys.warm((0..40).map(|n| path(&n.to_string()))).await.map(|warmed| warmed.ready) }
    });
    settle().await;
    assert_eq!(tricky.root.calls(), 40 + 16);
    warming.abort();
    settle().await;
    tricky.root.hold(Hold::Nothing);
    settle().await;
    assert_eq!((tricky.root.calls(), keys.cached_keks()), (40 + 16, 16));
}

#[tokio::test]
async fn warming_survives_a_caller_who_leaves_the_load_it_joined_and_an_invalidation() {
    let tricky = Tricky::new();
    let sealed = tricky.sealed_for("acme").await;
    let keys = tricky.process(exact());
    let acme = keys.account("acme").unwrap();
    tricky.root.withdraws.store(true, Ordering::SeqCst);
    tricky.root.hold(Hold::Everything);
    let opening = tokio::spawn(async move { acme.open(&sealed, &row(1)).await });
    settle().await;
    let warming = tokio::spawn({
        let keys = keys.clone();
        async move { keys.warm([path("acme")]).await.unwrap() }
    });
    settle().await;
    assert_eq!(tricky.root.calls(), 2, "it joined");
    opening.abort();
    settle().await;
    assert_eq!(tricky.root.calls(), 3, "one of its own");
    keys.invalidate_all();
    tricky.root.hold(Hold::Nothing);
    let warmed = warming.await.unwrap();
    assert_eq!((warmed.ready, warmed.failed.len(), tricky.root.calls()), (1, 0, 4));
}

#[test]
fn without_a_runtime_what_is_in_memory_is_used_and_nothing_else() {
    let tricky = Tricky::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // Renewal ahead of the deadline needs a runtime too, and is left undone.
    let keys = tricky.process(exact().refresh_ahead(true));
    let (acme, cold) = (keys.account("acme").unwrap(), keys.account("cold").unwrap());
    let sealed = runtime.block_on(acme.seal(b"x", &row(1))).unwrap();
    drop(runtime);
    let again = acme.try_seal(b"y", &row(2)).unwrap().expect("in memory");
    assert_eq!(acme.try_open(&again, &row(2)).unwrap().unwrap(), b"y");
    assert!(cold.try_seal(b"x", &row(1)).unwrap().is_none() && cold.try_open(&sealed, &row(1)).unwrap().is_none());
    assert!(matches!(acme.try_open(&sealed, &row(2)), Err(OpenError::Rejected)));
    assert!(matches!(acme.try_open(b"nonsense", &row(1)), Err(OpenError::Envelope(_))));
    tricky.clock.advance(TTL - Duration::from_nanos(1));
    assert_eq!(acme.try_open(&sealed, &row(1)).unwrap().unwrap(), b"x");
    tricky.clock.advance(Duration::from_nanos(1));
    assert!(acme.try_open(&sealed, &row(1)).unwrap().is_none() && acme.try_seal(b"x", &row(1)).unwrap().is_none());
    assert_eq!((tricky.root.calls(), keys.stats().refreshes), (1, 0));
}

#[tokio::test]
async fn health_unwraps_a_test_key_and_renews_no_kek() {
    let tricky = Tricky::new();
    let keys = tricky.process(exact());
    let health = keys.health().await;
    assert!(health.is_ready() && !health.is_closed && !health.is_degraded());
    assert_eq!((tricky.root.calls(), health.oldest_authorisation, health.cached_keks), (2, None, 0));
    let sealed = keys.account("acme").unwrap().seal(b"x", &row(1)).await.unwrap();
    tricky.clock.advance(Duration::from_secs(100));
    keys.account("other").unwrap().seal(b"x", &row(1)).await.unwrap();
    tricky.clock.advance(Duration::from_secs(50));
    for polls in 1..=10 {
        let health = keys.health().await;
        assert_eq!(health.root_key.unwrap(), Duration::ZERO, "by the engine's clock");
        assert_eq!(tricky.root.calls(), 4 + polls);
        assert_eq!((health.oldest_authorisation, health.cached_keks), (Some(Duration::from_secs(150)), 2));
        assert_eq!(health.memory.slots_used, 2);
    }
    tricky.clock.advance(TTL - Duration::from_secs(150));
    assert!(keys.account("acme").unwrap().try_open(&sealed, &row(1)).unwrap().is_none(), "not renewed");
    assert_eq!(keys.health().await.oldest_authorisation, Some(Duration::from_secs(200)));
    let stored = tricky.store.inner.primaries(None, 10).await.unwrap();
    assert_eq!(stored.len(), 2, "the test key is nobody's and is not stored");
}

#[tokio::test]
async fn health_says_why_the_root_key_fails_and_how_long_it_takes() {
    let tricky = Tricky::new();
    let keys = tricky.process(exact());
    let acme = keys.account("acme").unwrap();
    acme.seal(b"x", &row(1)).await.unwrap();
    for _ in 0..2 {
        tricky.root.fail(Some(RootKeyError::denied("revoked")));
        let health = keys.health().await;
        assert!(matches!(health.root_key, Err(KeyError::Denied(_))) && !health.is_ready());
        assert_eq!(health.cached_keks, 1, "what is in memory is still used");
        acme.try_seal(b"x", &row(1)).unwrap().unwrap();
        tricky.root.fail(None);
        assert!(keys.health().await.is_ready());
    }
    tricky.root.answer(Some([7; 32]));
    let health = keys.health().await;
    assert!(matches!(health.root_key, Err(KeyError::RootUnavailable(_))), "{:?}", health.root_key);
    tricky.root.answer(None);
    tricky.root.hold(Hold::Everything);
    let polled = tokio::spawn({
        let keys = keys.clone();
        async move { keys.health().await }
    });
    settle().await;
    tricky.clock.advance(Duration::from_secs(3));
    tricky.root.hold(Hold::Nothing);
    assert_eq!(polled.await.unwrap().root_key.unwrap(), Duration::from_secs(3));
}

#[cfg(unix)]
#[test]
fn health_shows_memory_that_cannot_be_locked() {
    use keystrata_memory::test_util::{forbid_locking, in_forked_child};
    assert!(in_forked_child(|| {
        assert!(forbid_locking());
        let tricky = Tricky::new();
        let keys = tricky.process(exact());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            assert!(!keys.health().await.is_degraded(), "nothing is kept yet");
            keys.account("acme").unwrap().seal(b"x", &row(1)).await.unwrap();
            let health = keys.health().await;
            health.is_degraded() && health.memory.unlocked_bytes > 0 && health.is_ready()
        })
    }));
}

/// What the recorder was told: by name and labels.
#[derive(Debug, Default)]
struct Seen {
    counts: HashMap<String, u64>,
    gauges: HashMap<String, usize>,
    ages: Vec<f64>,
}

impl Seen {
    /// Counters start from zero again with each look, so this adds to an earlier one.
    fn look(&mut self, snapshotter: &Snapshotter) {
        for (key, _, _, value) in snapshotter.snapshot().into_vec() {
            let (name, labels) = key.key().clone().into_parts();
            let labels: Vec<_> = labels.iter().map(|label| format!("{{{}={}}}", label.key(), label.value())).collect();
            let name = format!("{}{}", name.as_str(), labels.concat());
            match value {
                DebugValue::Counter(n) => *self.counts.entry(name).or_default() += n,
                DebugValue::Gauge(n) => {
                    self.gauges.insert(name, n.to_string().parse().unwrap()); // a whole number
                }
                DebugValue::Histogram(ages) => {
                    assert_eq!(name, "keystrata_kek_age_at_use_seconds");
                    self.ages.extend(ages.into_iter().map(f64::from));
                }
            }
        }
    }
}

/// Something of everything that is counted, for accounts whose names are told from all else.
async fn live(tricky: &Tricky, keys: &Hierarchy) {
    let secret = |n: u32| keys.account(format!("account-of-somebody-{n}")).unwrap();
    for n in [0, 1, 2, 4] {
        secret(n).seal(b"x", &row(1)).await.unwrap();
    }
    for _ in 0..200 {
        secret(2).seal(b"x", &row(1)).await.unwrap();
    }
    let sealed = secret(2).seal(b"x", &row(1)).await.unwrap();
    secret(2).rotate().await.unwrap();
    // A renewal.
    tricky.clock.advance(TTL * 9 / 10);
    secret(2).open(&sealed, &row(1)).await.unwrap();
    settle().await;
    tricky.clock.advance(TTL / 10);
    // One stale use, which a failed call came before.
    tricky.root.fail(Some(RootKeyError::throttled("slow down")));
    secret(1).seal(b"x", &row(1)).await.unwrap();
    tricky.root.fail(None);
    for n in 0..3 {
        keys.invalidate(secret(n).path().clone()).unwrap();
    }
    // Refused, and once from memory.
    for failure in [RootKeyError::denied("revoked"), RootKeyError::Rejected, RootKeyError::unavailable("no route")] {
        tricky.root.fail_next(failure);
        secret(1).seal(b"x", &row(1)).await.unwrap_err();
        let _ = secret(1).seal(b"x", &row(1)).await;
        keys.invalidate(secret(1).path().clone()).unwrap();
    }
    // Three who wait for one load.
    let (a, context) = (secret(0), row(1));
    let (x, y, z) = tokio::join!(a.seal(b"x", &context), a.seal(b"x", &context), a.seal(b"x", &context));
    for sealed in [x, y, z] {
        sealed.unwrap();
    }
    // One expires at the end of its time, stale time included, and then there are more than there is room for.
    tricky.clock.advance(Duration::from_secs(61));
    for n in 10..17 {
        secret(n).seal(b"x", &row(1)).await.unwrap();
    }
}

#[tokio::test]
async fn stats_and_metrics_count_the_same_and_name_no_account() {
    let tricky = Tricky::new();
    let recorder = DebuggingRecorder::new();
    let policy = exact().refresh_ahead(true).max_stale(Duration::from_secs(60)).build().unwrap();
    let keys = metrics::with_local_recorder(&recorder, || tricky.builder().policy(policy).capacity(6).build().unwrap());
    live(&tricky, &keys).await;
    tricky.clock.advance(Duration::from_secs(1));
    let mut seen = Seen::default();
    seen.look(&recorder.snapshotter());
    let stats = keys.stats();
    let memory = keys.memory();
    let count = |name: &str| seen.counts.get(&format!("keystrata_kek_{name}_total")).copied().unwrap_or_default();
    let load = |outcome: &str| count_of_load(&seen, outcome);
    let told = {
        let mut told = Stats::default();
        (told.hits, told.misses, told.shared_waits) = (count("hits"), count("misses"), count("shared_waits"));
        (told.refreshes, told.expiries, told.evictions) = (count("refreshes"), count("expiries"), count("evictions"));
        (told.invalidations, told.denials, told.remembered) =
            (count("invalidations"), count("denials"), count("remembered_refusals"));
        (told.wiped, told.stale_uses, told.rotations) = (count("wiped"), count("stale_uses"), count("rotations"));
        told.loads = load("ok");
        let failures = ["throttled", "denied", "unavailable", "overloaded", "corrupt", "late", "other"];
        told.failed_loads = failures.iter().map(|outcome| load(outcome)).sum();
        told
    };
    assert_eq!(told, stats);
    assert_eq!(stats.loads + stats.failed_loads, tricky.root.calls() as u64, "every call is counted once");
    assert_eq!([load("throttled"), load("denied"), load("unavailable"), load("corrupt")], [1, 1, 1, 1]);
    let ones = [stats.stale_uses, stats.rotations, stats.denials, stats.refreshes, stats.expiries];
    assert_eq!(ones, [1; 5], "{stats:?}");
    let others = [stats.hits, stats.shared_waits, stats.evictions, stats.invalidations, stats.remembered];
    assert_eq!(others, [202, 2, 2, 7, 2], "{stats:?}");
    let gauges = |name: &str| seen.gauges[&format!("keystrata_{name}")];
    assert_eq!([gauges("keks"), gauges("memory_slots_used")], [6, 6]);
    let bytes = ["secret", "locked", "unlocked"].map(|kind| gauges(&format!("memory_{kind}_bytes")));
    assert_eq!(bytes, [memory.secret_bytes, memory.locked_bytes, memory.unlocked_bytes]);
    assert!(bytes.iter().sum::<usize>() > 0);
    assert!(seen.ages.len() as u64 >= stats.misses && seen.ages.iter().all(|age| (0.0..=360.0).contains(age)));
    let records: Vec<KekRecord> = tricky.store.inner.primaries(None, 100).await.unwrap();
    for name in seen.counts.keys().chain(seen.gauges.keys()) {
        assert!(!name.contains("somebody"), "{name}");
        assert!(records.iter().all(|record| !name.contains(&record.identity.id.to_string())), "{name}");
        let labels = ["kek_loads_total{outcome=", "kek_child_loads_total{outcome=", "kek_failovers_total{cause="];
        let is_labelled = |label: &&str| name.starts_with(&format!("keystrata_{label}"));
        assert!(!name.contains('{') || labels.iter().any(is_labelled), "{name}");
    }
}

fn count_of_load(seen: &Seen, outcome: &str) -> u64 {
    seen.counts.get(&format!("keystrata_kek_loads_total{{outcome={outcome}}}")).copied().unwrap_or_default()
}

#[tokio::test]
async fn when_a_hierarchy_ends_the_recorder_learns_what_it_had_not_heard_yet() {
    let tricky = Tricky::new();
    let recorder = DebuggingRecorder::new();
    let keys = metrics::with_local_recorder(&recorder, || tricky.process(exact()));
    let acme = keys.account("acme").unwrap();
    for _ in 0..10 {
        acme.seal(b"x", &row(1)).await.unwrap();
    }
    let start = tricky.clock.now();
    drop((keys, acme)); // its sweeper has ended when this returns
    assert_eq!(tricky.clock.now(), start);
    let mut seen = Seen::default();
    seen.look(&recorder.snapshotter());
    assert_eq!(seen.counts["keystrata_kek_hits_total"], 9);
    assert_eq!([seen.gauges["keystrata_keks"], seen.gauges["keystrata_memory_slots_used"]], [0, 0]);
}
