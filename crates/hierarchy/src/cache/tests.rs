use std::time::Duration;

use keystrata_primitives::{KekVersion, RootKeyId, SecretKey, Suite};

use super::*;
use crate::{clock::SystemClock, test_util::ManualClock};

fn identity(n: u8) -> KekIdentity {
    let (id, path) = (KekId::from_bytes([n; 16]), KeyPath::account("acme").unwrap());
    KekIdentity { suite: Suite::default(), version: KekVersion::FIRST, id, path }
}

fn authority() -> Authority {
    Authority::by_root(RootNumbers::default().of(&RootKeyId::new("test:root").unwrap()))
}

fn life(requested_at: Moment, ttl: Duration) -> Life {
    let (max_stale, spread) = (Duration::ZERO, (0.0, 0.0));
    Life { requested_at, ttl, refresh: None, max_stale, spread, authority: authority(), parent: None }
}

fn cache(clock: impl Clock + 'static) -> KekCache {
    KekCache::new(Arc::new(clock), ArenaConfig::default(), 10, Arc::new(Signals::new()), false)
}

fn account(cache: &KekCache) -> Arc<AccountState> {
    cache.account(&KeyPath::account("acme").unwrap(), Policy::default)
}

fn try_install(cache: &KekCache, n: u8, ttl: Duration) -> Result<Arc<CachedKek>, NotInstalled> {
    let derived = identity(n).derive(&SecretKey::from_slice(&[n; 32]).unwrap());
    let requested_at = cache.shared.clock.now();
    let life = life(requested_at, ttl);
    let account = account(cache);
    cache.install(&account, &identity(n), &derived, &life, cache.epoch(&account))
}

fn install(cache: &KekCache, n: u8, ttl: Duration) -> Arc<CachedKek> {
    try_install(cache, n, ttl).unwrap()
}

/// Waits for what another thread is about to do, and fails if it does not.
fn eventually(is_so: impl Fn() -> bool) {
    let patience = std::time::Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(std::time::Instant::now() < patience, "it did not happen");
        std::thread::yield_now();
    }
}

#[test]
fn debug_shows_no_byte_of_a_key() {
    let cache = cache(ManualClock::new());
    let secret = SecretKey::from_slice(&[7; 32]).unwrap();
    let derived = identity(7).derive(&secret);
    let kek = install(&cache, 7, Duration::from_secs(1));
    let shown = format!("{cache:?} {kek:?} {:?} {derived:?} {secret:?}", kek.slot).to_lowercase();
    let key = derived.expose_secret();
    for [a, b, c] in key.array_windows() {
        assert!(!shown.contains(&format!("{a}, {b}, {c}")), "{shown}");
        assert!(!shown.contains(&format!("{a:02x}{b:02x}{c:02x}")), "{shown}");
    }
}

#[test]
fn a_discarded_kek_is_overwritten_and_another_of_its_name_is_not() {
    let cache = cache(ManualClock::new());
    let first = install(&cache, 1, Duration::from_secs(1));
    let second = install(&cache, 1, Duration::from_secs(2));
    assert!(!first.slot.is_live(), "the second took its place");
    cache.discard(&first);
    assert!(second.slot.is_live() && cache.len() == 1);
    cache.discard(&second);
    assert!(!second.slot.is_live() && cache.len() == 0);
}

#[test]
fn what_is_put_into_a_closed_cache_is_overwritten() {
    let cache = cache(ManualClock::new());
    let before = install(&cache, 1, Duration::from_secs(1));
    cache.close();
    let refused = try_install(&cache, 2, Duration::from_secs(1)).unwrap_err();
    assert!(matches!(refused, NotInstalled::Failed(KeyError::Closed)), "{refused:?}");
    assert!(!before.slot.is_live() && cache.len() == 0);
    assert_eq!(cache.memory().slots_used, 0);
}

#[test]
fn the_system_clocks_sweeper_wakes_for_what_came_while_it_slept() {
    let cache = cache(SystemClock);
    for n in 0..3 {
        // Between rounds it sleeps without an end.
        let kek = install(&cache, n, Duration::from_millis(5));
        eventually(|| !kek.slot.is_live());
    }
}

/// A clock whose sweeper's first look panics.
#[derive(Debug)]
struct Panicking(ManualClock, std::sync::atomic::AtomicBool);

impl Clock for Panicking {
    fn now(&self) -> Moment {
        let is_sweeper = std::thread::current().name() == Some("keystrata-sweep");
        let panics = is_sweeper && self.1.swap(false, std::sync::atomic::Ordering::SeqCst);
        assert!(!panics, "as the test wants it to");
        self.0.now()
    }

    fn expect_sleeper(&self, alarm: &Arc<Alarm>) {
        self.0.expect_sleeper(alarm);
    }

    fn forget_sleeper(&self, alarm: &Arc<Alarm>) {
        self.0.forget_sleeper(alarm);
    }

    fn wait(&self, alarm: &Arc<Alarm>, until: Option<Moment>) {
        self.0.wait(alarm, until);
    }
}

#[test]
fn a_sweeper_that_died_is_replaced_before_the_next_key_is_taken() {
    let clock = ManualClock::new();
    let panicking = Panicking(clock.clone(), true.into());
    let cache = cache(panicking);
    install(&cache, 1, Duration::from_secs(1));
    eventually(|| cache.sweeper.lock().unwrap().as_ref().is_some_and(JoinHandle::is_finished));
    install(&cache, 2, Duration::from_secs(1));
    clock.advance(Duration::from_secs(1));
    assert_eq!(cache.memory().slots_used, 0);
}

#[test]
fn an_account_is_forgotten_with_its_last_handle_and_kek() {
    let clock = ManualClock::new();
    let cache = cache(clock.clone());
    let listed = || cache.shared.shard_at(0).accounts();
    let handle = account(&cache);
    assert_eq!(listed(), 1);
    install(&cache, 1, Duration::from_secs(1));
    drop(handle);
    assert_eq!(listed(), 1, "its KEK is here");
    assert!(Arc::ptr_eq(&account(&cache), &account(&cache)));
    clock.advance(Duration::from_secs(1));
    assert_eq!((cache.len(), listed()), (0, 0));
}

#[test]
fn what_was_asked_for_before_an_invalidation_is_not_put_in_after_it() {
    let cache = cache(ManualClock::new());
    let account = account(&cache);
    let derived = identity(1).derive(&SecretKey::from_slice(&[1; 32]).unwrap());
    let life = life(cache.shared.clock.now(), Duration::from_secs(1));
    let invalidations: [&dyn Fn() -> usize; 2] = [&|| cache.invalidate(&account.path), &|| cache.invalidate_all()];
    for invalidate in invalidations {
        let epoch = cache.epoch(&account);
        invalidate();
        let refused = cache.install(&account, &identity(1), &derived, &life, epoch).unwrap_err();
        assert!(matches!(refused, NotInstalled::Outdated), "{refused:?}");
        assert_eq!((cache.len(), cache.memory().slots_used), (0, 0));
        let kek = install(&cache, 1, Duration::from_secs(1));
        assert_eq!(invalidate(), 1);
        assert!(!kek.slot.is_live());
    }
}

#[test]
fn a_sweep_takes_out_all_that_is_due_of_one_account_however_much() {
    let clock = ManualClock::new();
    let (config, signals) = (ArenaConfig::default(), Arc::new(Signals::new()));
    let cache = KekCache::new(Arc::new(clock.clone()), config, 5_000, signals, true);
    let (account, derived) = (account(&cache), identity(1).derive(&SecretKey::from_slice(&[1; 32]).unwrap()));
    for n in 0..1_200_u128 {
        let identity = KekIdentity { id: KekId::from_bytes(n.to_be_bytes()), ..identity(1) };
        let life = life(clock.now(), Duration::from_secs(1));
        cache.install(&account, &identity, &derived, &life, cache.epoch(&account)).unwrap();
    }
    clock.advance(Duration::from_secs(1));
    cache.sweep_by_hand();
    assert_eq!((cache.len(), cache.memory().slots_used), (0, 0));
}

#[test]
fn the_sweeper_of_a_cache_that_was_emptied_sleeps_until_something_is_put_in() {
    let clock = ManualClock::new();
    let (config, signals) = (ArenaConfig::default(), Arc::new(Signals::new()));
    let cache = KekCache::new(Arc::new(clock.clone()), config, 10, signals, true);
    install(&cache, 1, Duration::from_secs(60));
    assert_ne!(sweeper::sweep(&cache.shared, clock.now()), u64::MAX);
    cache.invalidate_all();
    assert_eq!(sweeper::sweep(&cache.shared, clock.now()), u64::MAX);
    install(&cache, 2, Duration::from_secs(1));
    assert_ne!(sweeper::sweep(&cache.shared, clock.now()), u64::MAX);
}

#[test]
fn a_sweep_finds_what_came_after_the_last_one_and_is_due_before_all_that_was_there() {
    let clock = ManualClock::new();
    let (config, signals) = (ArenaConfig::default(), Arc::new(Signals::new()));
    let cache = KekCache::new(Arc::new(clock.clone()), config, 10, signals, true);
    let late = install(&cache, 1, Duration::from_secs(60));
    cache.sweep_by_hand();
    let early = install(&cache, 2, Duration::from_secs(1));
    clock.advance(Duration::from_secs(1));
    cache.sweep_by_hand();
    assert!(!early.slot.is_live() && late.slot.is_live() && cache.len() == 1);
    clock.advance(Duration::from_secs(59));
    cache.sweep_by_hand();
    assert!(!late.slot.is_live() && cache.len() == 0);
}

#[test]
fn eviction_takes_what_nobody_used_before_what_somebody_did() {
    let cache = cache(ManualClock::new());
    // Those that are due in one instant have no order.
    let ttl = |n: u8| Duration::from_secs(1 + u64::from(n));
    let keks: Vec<_> = (0..10).map(|n| install(&cache, n, ttl(n))).collect();
    for n in [0, 1, 3] {
        keks[n].note_use();
    }
    let is_here = || keks.iter().map(|kek| kek.slot.is_live()).collect::<Vec<_>>();
    install(&cache, 10, ttl(10));
    assert_eq!(is_here().iter().position(|here| !here), Some(2), "the first that was not used");
    install(&cache, 11, ttl(11));
    assert!(!is_here()[0], "its use was a while ago: it was passed over once");
    assert_eq!(cache.len(), 10);
}

#[test]
fn with_many_shards_the_capacity_holds_over_all_of_them() {
    let signals = Arc::new(Signals::new());
    let cache = KekCache::new(Arc::new(ManualClock::new()), ArenaConfig::default(), 5_000, Arc::clone(&signals), false);
    assert_eq!(cache.shared.shard_count(), 29);
    for n in 0..6_000_u32 {
        let path = KeyPath::account(&n.to_string()).unwrap();
        let account = cache.account(&path, Policy::default);
        let mut id = [0; 16];
        id[..4].copy_from_slice(&n.to_le_bytes());
        let identity = KekIdentity { path, id: KekId::from_bytes(id), ..identity(1) };
        let derived = identity.derive(&SecretKey::from_slice(&[1; 32]).unwrap());
        let life = Life::new(&Policy::default(), cache.shared.clock.now(), authority(), None, 0.0);
        cache.install(&account, &identity, &derived, &life, cache.epoch(&account)).unwrap();
        assert!(cache.len() <= 5_000);
    }
    assert_eq!((cache.len(), cache.memory().slots_used), (5_000, 5_000));
    assert_eq!(signals.stats().evictions, 1_000);
}

/// The life of a KEK that one of `parent` unwraps, whose warrant was taken just now.
fn life_below(cache: &KekCache, parent: &KeyPath) -> Life {
    let warrant = cache.warrant(parent);
    let now = cache.shared.clock.now();
    let end = crate::clock::Nanos::from(now.after(Duration::from_secs(1)));
    let lineage = cache.lineage(parent, &warrant, None);
    let root = authority().root;
    let parent = Parentage { requested_at: 0, deadline: end, end, is_renewed: false, root, lineage };
    Life { parent: Some(parent), ..life(now, Duration::from_secs(9)) }
}

#[test]
fn what_a_parent_unwrapped_before_it_was_invalidated_is_not_put_in_after_it() {
    let cache = cache(ManualClock::new());
    let group = cache.account(&KeyPath::account("group").unwrap(), Policy::default);
    let account = account(&cache);
    let derived = identity(1).derive(&SecretKey::from_slice(&[1; 32]).unwrap());
    let put_in = |life: &Life| cache.install(&account, &identity(1), &derived, life, cache.epoch(&account));
    let invalidations: [&dyn Fn(); 3] = [
        &|| _ = cache.invalidate(&group.path),
        &|| _ = cache.invalidate_since(&group, cache.epoch(&group), |_| true).unwrap(),
        &|| _ = cache.invalidate_all(),
    ];
    for invalidate in invalidations {
        // On its way when the parent falls, and there when it falls: gone both times.
        let life = life_below(&cache, &group.path);
        invalidate();
        assert!(matches!(put_in(&life).unwrap_err(), NotInstalled::Outdated));
        let kek = put_in(&life_below(&cache, &group.path)).unwrap();
        assert!(kek.is_live(cache.shared.clock.now()));
        invalidate();
        assert!(!kek.is_live(cache.shared.clock.now()));
        assert_eq!((cache.len(), cache.memory().slots_used), (0, 0));
    }
}

/// Which of the KEKs are gone, once so much of a parent's last second is left, and none of them used.
#[test]
fn what_one_parent_cuts_short_ends_over_a_time_and_never_after_it() {
    let group = KeyPath::account("group").unwrap();
    for (jitter, is_renewed, expected) in [(0.5, true, 25), (0.01, true, 10), (0.5, false, 0), (0.0, true, 0)] {
        let cache = cache(ManualClock::new());
        let ends = (0..=100).map(|chance| {
            let below = life_below(&cache, &group);
            let parent = below.parent.map(|parent| Parentage { is_renewed, ..parent });
            let spread = (jitter, f64::from(chance) / 100.0);
            let life = Life { refresh: Some(Duration::from_millis(900)), spread, parent, ..below };
            let end = life.parent.as_ref().unwrap().deadline;
            let deadline = life.deadline();
            assert_eq!(end.boot - deadline.boot, end.real - deadline.real, "on both clocks");
            if let Some(from) = life.refresh_from() {
                assert!(from >= end.boot - 100_000_000, "not before what is above it is due");
                assert!(deadline.boot - from >= 50_000_000, "and with time for it");
            }
            end.boot - deadline.boot
        });
        let ends: Vec<u64> = ends.collect();
        assert!(ends.is_sorted() && ends[0] == 0, "{ends:?}");
        assert_eq!(ends[100], expected * 1_000_000);
        let apart = ends.array_windows().map(|[a, b]| b - a).max();
        assert!(apart <= Some(expected * 10_001), "evenly: {apart:?}");
    }
}
