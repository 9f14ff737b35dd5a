//! KEKs under KEKs: what each topology costs, how long each level lives, and that moving strands nothing.
#![allow(clippy::unwrap_used, clippy::unchecked_time_subtraction)] // test code outside a #[test], constants

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
    tree::{builder, one_group, path, process, services},
    tricky::{Hold, Tricky, settle},
};
use keystrata_hierarchy::{
    Account, Hierarchy, KekStore, KeyError, KeyPath, OpenError, Placement, PlacementFault, Policy, RootKeyError, Roots,
    SealError,
};
use keystrata_primitives::Wrapper;

const NANOSECOND: Duration = Duration::from_nanos(1);
const SECOND: Duration = Duration::from_secs(1);
/// Within this after its deadline a key is overwritten.
const SWEPT: Duration = Duration::from_millis(100);

type Place = fn(&KeyPath, &Roots) -> Placement;

fn groups_of_20(path: &KeyPath, roots: &Roots) -> Placement {
    let name = path.segments().next().unwrap();
    match name.strip_prefix("account ") {
        Some(number) => {
            let group = number.parse::<usize>().unwrap() / 20;
            Placement::group(KeyPath::new(["groups", &group.to_string()]).unwrap())
        }
        None => Placement::account(roots),
    }
}

/// Each path of 2 to 8 segments under its parent, and each account in a group: as deep as can be.
fn deep(path: &KeyPath, roots: &Roots) -> Placement {
    match (path.segments().next(), path.segments().count()) {
        (Some("group"), _) => Placement::account(roots),
        (_, 1) => Placement::group(self::path(["group"])),
        _ => Placement::service(),
    }
}

fn on_account(path: &KeyPath, roots: &Roots) -> Placement {
    let _ = path;
    Placement::account(roots)
}

fn named(count: usize) -> Vec<KeyPath> {
    (0..count).map(|n| KeyPath::account(&format!("account {n}")).unwrap()).collect()
}

fn inside(count: usize, services: usize) -> Vec<KeyPath> {
    let of =
        |n: usize| (0..services).map(move |s| KeyPath::new([format!("account {n}"), format!("service {s}")]).unwrap());
    (0..count).flat_map(of).collect()
}

/// The table of docs: topology, paths with traffic, KMS calls.
#[tokio::test]
async fn each_topology_costs_exactly_what_is_above_it() {
    let levels = (2..=7).map(|n| KeyPath::new(vec!["account"; n]).unwrap()).collect::<Vec<_>>();
    let table: [(&str, Place, Vec<KeyPath>, usize); 7] = [
        ("200 accounts under the root", on_account, named(200), 200),
        ("200 accounts in groups of 20", groups_of_20, named(200), 10),
        ("200 accounts in one group", one_group, named(200), 1),
        ("3 services of each of 200 accounts", services, inside(200, 3), 200),
        ("200 services of one account", services, inside(1, 200), 1),
        ("2 services of each of 100 accounts in one group", deep, inside(100, 2), 1),
        ("7 levels below a group", deep, levels, 1),
    ];
    for (what, place, paths, expected) in table {
        for refresh in [false, true] {
            let tricky = Tricky::new();
            let policy = || exact().refresh_ahead(refresh);
            let keys = process(&tricky, policy(), place);
            let mut envelopes = Vec::new();
            for path in &paths {
                envelopes.push((path, keys.account(path).unwrap().seal(b"x", &row(1)).await.unwrap()));
            }
            assert_eq!(tricky.root.calls(), expected, "{what}: made");
            let use_all = async |keys: &Hierarchy| {
                for (path, envelope) in &envelopes {
                    let account = keys.account(*path).unwrap();
                    assert_eq!(account.open(envelope, &row(1)).await.unwrap(), b"x");
                    account.seal(b"y", &row(1)).await.unwrap();
                }
                settle().await;
            };
            use_all(&keys).await;
            assert_eq!(tricky.root.calls(), expected, "{what}: used");
            // Other processes, and then the next lives: one call each for the same.
            let keys = process(&tricky, policy(), place);
            use_all(&keys).await;
            assert_eq!(tricky.root.calls(), 2 * expected, "{what}: elsewhere");
            tricky.clock.advance(if refresh { TTL * 9 / 10 } else { TTL });
            use_all(&keys).await;
            assert_eq!(tricky.root.calls(), 3 * expected, "{what}: renewed, ahead: {refresh}");
            tricky.clock.advance(TTL / 10);
            use_all(&keys).await;
            assert_eq!(tricky.root.calls(), 3 * expected, "{what}: the new lives go on, ahead: {refresh}");
            let stats = keys.stats();
            assert_eq!((stats.loads, stats.failed_loads), (2 * expected as u64, 0), "{what}");
            assert!(expected == paths.len() || stats.child_loads >= 2 * paths.len() as u64, "{what}: {stats:?}");
        }
    }
}

#[tokio::test]
async fn where_nothing_is_cached_every_operation_asks_for_the_top_of_its_branch() {
    for place in [one_group as Place, deep] {
        // Of the account alone, of what is above it alone, of both.
        for zero in ["account", "group", ""] {
            let tricky = Tricky::new();
            let policy = move |path: &KeyPath| {
                let is_zero = path.segments().next().unwrap().starts_with(zero);
                let ttl = if is_zero { Duration::ZERO } else { TTL };
                Some(exact().kek_ttl(ttl).build().unwrap())
            };
            let keys = builder(&tricky, place).policy_by_account(policy).build().unwrap();
            let account = keys.account("account").unwrap();
            let sealed = account.seal(b"x", &row(1)).await.unwrap();
            let calls = tricky.root.calls();
            for n in 1..=5 {
                assert_eq!(account.open(&sealed, &row(1)).await.unwrap(), b"x");
                account.seal(b"x", &row(1)).await.unwrap();
                assert_eq!((tricky.root.calls() - calls, keys.cached_keks()), (2 * n, 0), "{zero}");
            }
            assert_eq!(account.rotate().await.unwrap().get(), 2);
            assert_eq!(tricky.root.calls() - calls, 11);
            let records = tricky.store.inner.records(account.path()).await.unwrap();
            assert!(records.iter().all(|record| matches!(record.wraps[0].wrapper, Wrapper::Parent { .. })));
        }
    }
}

#[tokio::test]
async fn moving_into_a_group_and_back_changes_no_envelope_and_strands_nothing() {
    for ttl in [TTL, Duration::ZERO] {
        let tricky = Tricky::new();
        let in_group = Arc::new(AtomicBool::new(false));
        let place = {
            let in_group = Arc::clone(&in_group);
            move |path: &KeyPath, roots: &Roots| {
                let (root, group) = (Placement::account(roots), Placement::group(self::path(["group"])));
                match path.segments().next() {
                    Some("group") => root,
                    _ if in_group.load(Ordering::SeqCst) => group.formerly(root),
                    _ => root.formerly(group),
                }
            }
        };
        let keys = process(&tricky, exact().kek_ttl(ttl), place.clone());
        let account = keys.account("acme").unwrap();
        let mut envelopes = Vec::new();
        for is_in in [false, true, false, true] {
            in_group.store(is_in, Ordering::SeqCst);
            if envelopes.is_empty() {
                envelopes.push(account.seal(b"0", &row(1)).await.unwrap());
            } else {
                account.rotate().await.unwrap();
                envelopes.push(account.seal(b"0", &row(1)).await.unwrap());
            }
            let primary = tricky.store.inner.primary(account.path()).await.unwrap().unwrap();
            let [wrap] = &primary.wraps[..] else { panic!("one wrap") };
            assert_eq!(matches!(wrap.wrapper, Wrapper::Parent { .. }), is_in);
            // In this process, and in one that knows nothing yet.
            for keys in [keys.clone(), process(&tricky, exact().kek_ttl(ttl), place.clone())] {
                for envelope in &envelopes {
                    let opened = keys.account("acme").unwrap().open(envelope, &row(1)).await.unwrap();
                    assert_eq!(opened, b"0");
                }
            }
        }
        // Forget where it was, and it is refused, without a call.
        for (forgetful, stranded, kept) in [(on_account as Place, 1, 0), (one_group, 0, 1)] {
            let keys = process(&tricky, exact(), forgetful);
            let (account, calls) = (keys.account("acme").unwrap(), tricky.root.calls());
            let refused = account.open(&envelopes[stranded], &row(1)).await.unwrap_err();
            let text = refused.to_string();
            let is_typed = matches!(refused, OpenError::Key(KeyError::WrongRoot { .. } | KeyError::WrongParent { .. }));
            assert!(is_typed && text.contains("group") && text.contains("test:root"), "{text}");
            assert_eq!(tricky.root.calls(), calls, "{text}");
            let again =
                process(&tricky, exact(), forgetful).account("acme").unwrap().open(&envelopes[kept], &row(1)).await;
            assert_eq!(again.unwrap(), b"0");
        }
    }
}

/// Seals for `account` and gives the time for which `try_open` works from now on, and the keys there are just then.
async fn life_of(tricky: &Tricky, account: &Account) -> Duration {
    let sealed = account.seal(b"x", &row(1)).await.unwrap();
    let start = tricky.clock.now_boot();
    while account.try_open(&sealed, &row(1)).unwrap().is_some() {
        tricky.clock.advance(SECOND);
    }
    tricky.clock.now_boot() - start
}

trait NowBoot {
    fn now_boot(&self) -> Duration;
}

impl NowBoot for keystrata_hierarchy::test_util::ManualClock {
    fn now_boot(&self) -> Duration {
        keystrata_hierarchy::Clock::now(self).boot
    }
}

#[tokio::test]
async fn a_kek_lives_for_its_own_ttl_and_never_longer_than_what_is_above_it() {
    let seconds = Duration::from_secs;
    // TTLs of the group and the account; how long the group has lived; what is left for the account.
    for (group, account, waited, expected) in [
        (300, 300, 0, 300),
        (300, 300, 100, 200),
        (300, 60, 100, 60),
        (300, 60, 270, 30),
        (60, 300, 0, 60),
        (60, 300, 59, 1),
    ] {
        for max_stale in [0, 600] {
            let tricky = Tricky::new();
            let policy = move |path: &KeyPath| {
                let is_group = path.segments().next() == Some("group");
                let (ttl, stale) = if is_group { (group, 0) } else { (account, max_stale) };
                Some(exact().kek_ttl(seconds(ttl)).max_stale(seconds(stale)).build().unwrap())
            };
            let keys = builder(&tricky, one_group).policy_by_account(policy).build().unwrap();
            keys.account("first").unwrap().seal(b"x", &row(1)).await.unwrap();
            tricky.clock.advance(seconds(waited));
            let acme = keys.account("acme").unwrap();
            assert_eq!(life_of(&tricky, &acme).await, seconds(expected), "{group} {account} {waited}");
            assert_eq!(tricky.root.calls(), 1);
            if waited + expected == group {
                // The group's deadline ends all that rests on it, whatever an account's policy allows beyond its own.
                tricky.root.fail(Some(RootKeyError::unavailable("down")));
                acme.seal(b"x", &row(1)).await.unwrap_err();
                tricky.clock.advance(SWEPT);
                assert_eq!((keys.cached_keks(), keys.memory().slots_used), (0, 0), "{group} {account} {waited}");
            }
        }
    }
}

#[tokio::test]
async fn use_extends_no_level() {
    let tricky = Tricky::new();
    let keys = process(&tricky, exact(), deep);
    let paths: Vec<KeyPath> = (1..=7).map(|n| KeyPath::new(vec!["account"; n]).unwrap()).collect();
    let accounts: Vec<Account> = paths.iter().map(|path| keys.account(path).unwrap()).collect();
    for step in 0..10 {
        for account in &accounts {
            account.seal(b"x", &row(1)).await.unwrap();
        }
        assert_eq!(tricky.root.calls(), 1, "{step}");
        tricky.clock.advance(TTL / 10 - NANOSECOND);
    }
    tricky.clock.advance(10 * NANOSECOND + SWEPT);
    assert_eq!(keys.cached_keks(), 0);
    accounts[6].seal(b"x", &row(1)).await.unwrap();
    assert_eq!(tricky.root.calls(), 2);
}

#[tokio::test]
async fn what_is_above_is_renewed_first_and_once_for_all_below_and_nobody_waits() {
    let tricky = Tricky::new();
    let keys = process(&tricky, exact().refresh_ahead(true), one_group);
    let accounts: Vec<Account> = named(30).iter().map(|path| keys.account(path).unwrap()).collect();
    for account in &accounts {
        account.seal(b"x", &row(1)).await.unwrap();
    }
    let use_all = async || {
        for account in &accounts {
            account.seal(b"x", &row(1)).await.unwrap();
        }
        settle().await;
    };
    use_all().await;
    for lives in 1..6 {
        // In its last tenth: all below ask for it.
        tricky.clock.advance(TTL * 9 / 10);
        use_all().await;
        assert_eq!(tricky.root.calls(), 2 * lives);
        // Past the old deadline, and while the KMS answers nobody.
        tricky.clock.advance(TTL / 10);
        tricky.root.hold(Hold::Everything);
        use_all().await;
        assert_eq!((tricky.root.calls(), keys.cached_keks()), (2 * lives, 31));
        tricky.root.hold(Hold::Nothing);
        // A renewed life began a tenth ago; wait for the next to begin where this one did.
        tricky.clock.advance(TTL * 9 / 10);
        keys.invalidate_all();
        use_all().await;
        assert_eq!(tricky.root.calls(), 2 * lives + 1);
    }
}

#[tokio::test]
async fn a_kms_that_fails_is_asked_once_a_second_to_renew_a_group_however_many_are_below() {
    let tricky = Tricky::new();
    let keys = process(&tricky, exact().refresh_ahead(true), one_group);
    let accounts: Vec<Account> = named(50).iter().map(|path| keys.account(path).unwrap()).collect();
    for account in &accounts {
        account.seal(b"x", &row(1)).await.unwrap();
    }
    tricky.clock.advance(TTL * 9 / 10);
    tricky.root.fail(Some(RootKeyError::unavailable("down")));
    for second in 1..=20 {
        for _ in 0..3 {
            for account in &accounts {
                account.seal(b"x", &row(1)).await.unwrap();
            }
            settle().await;
        }
        assert!(tricky.root.calls() <= 1 + second, "{} calls in second {second}", tricky.root.calls());
        tricky.clock.advance(SECOND);
    }
    assert!(tricky.root.calls() >= 10);
    tricky.root.fail(None);
    tricky.clock.advance(SECOND);
    let calls = tricky.root.calls();
    for account in &accounts {
        account.seal(b"x", &row(1)).await.unwrap();
    }
    settle().await;
    assert_eq!(tricky.root.calls(), calls + 1);
}

#[tokio::test]
async fn what_is_above_is_made_once_however_many_come_first() {
    for ttl in [TTL, Duration::ZERO] {
        for place in [one_group as Place, deep] {
            let tricky = Tricky::new();
            let processes: Vec<Hierarchy> = (0..3).map(|_| process(&tricky, exact().kek_ttl(ttl), place)).collect();
            let seal = |account: Account| tokio::spawn(async move { account.seal(b"x", &row(1)).await.unwrap() });
            let mut sealing = Vec::new();
            tricky.root.hold(Hold::Everything);
            for path in named(100) {
                for keys in &processes {
                    sealing.push((path.clone(), seal(keys.account(&path).unwrap())));
                }
            }
            settle().await;
            if !ttl.is_zero() {
                assert_eq!(tricky.root.calls(), processes.len(), "one each");
            }
            tricky.root.hold(Hold::Nothing);
            for (path, sealed) in sealing {
                let sealed = sealed.await.unwrap();
                let opened = processes[0].account(&path).unwrap().open(&sealed, &row(1)).await.unwrap();
                assert_eq!(opened, b"x");
            }
            assert_eq!(tricky.store.versions("group").await, 1);
            for path in named(100) {
                assert_eq!(tricky.store.inner.records(&path).await.unwrap().len(), 1);
            }
            if !ttl.is_zero() {
                // The winner's was made by one; the others unwrap it.
                assert_eq!(tricky.root.calls(), 2 * processes.len() - 1);
            }
        }
    }
}

fn chain(length: usize) -> impl Fn(&KeyPath, &Roots) -> Placement + Send + Sync + Clone + 'static {
    move |path, roots| {
        let number: usize = path.segments().next().unwrap().parse().unwrap();
        if number == length {
            Placement::account(roots)
        } else {
            Placement::group(KeyPath::account(&(number + 1).to_string()).unwrap())
        }
    }
}

fn circle(path: &KeyPath, roots: &Roots) -> Placement {
    let next = match path.segments().next().unwrap() {
        "a" => "b",
        "b" => "c",
        "c" => "a",
        "self" => "self",
        _ => return Placement::account(roots),
    };
    Placement::group(self::path([next]))
}

#[tokio::test]
async fn a_place_that_cannot_be_is_a_typed_refusal_without_a_call() {
    for ttl in [TTL, Duration::ZERO] {
        let tricky = Tricky::new();
        let is_refused = async |keys: Hierarchy, name: &str, fault: PlacementFault| {
            let account = keys.account(name).unwrap();
            let refused = account.seal(b"x", &row(1)).await.unwrap_err();
            let SealError::Key(KeyError::Misplaced { path, fault: found }) = &refused else { panic!("{refused}") };
            assert_eq!((path, found), (account.path(), &fault));
            assert_eq!((tricky.root.calls(), tricky.store.versions(name).await), (0, 0));
        };
        let policy = || exact().kek_ttl(ttl);
        for name in ["a", "b", "c", "self"] {
            let through = KeyPath::account(name).unwrap();
            is_refused(process(&tricky, policy(), circle), name, PlacementFault::Cycle { through }).await;
        }
        let no_parent = |_: &KeyPath, _: &Roots| Placement::service();
        is_refused(process(&tricky, policy(), no_parent), "acme", PlacementFault::NoParent).await;
        is_refused(process(&tricky, policy(), chain(8)), "0", PlacementFault::TooDeep).await;
        // One level less is just right.
        let keys = process(&tricky, policy(), chain(7));
        let sealed = keys.account("0").unwrap().seal(b"x", &row(1)).await.unwrap();
        let elsewhere = process(&tricky, policy(), chain(7));
        assert_eq!(elsewhere.account("0").unwrap().open(&sealed, &row(1)).await.unwrap(), b"x");
        if !ttl.is_zero() {
            assert_eq!((tricky.root.calls(), elsewhere.cached_keks()), (2, 8));
        }
    }
}

#[tokio::test]
async fn a_cache_too_small_for_a_branch_costs_calls_and_no_progress() {
    for capacity in 1..4 {
        let tricky = Tricky::new();
        let keys = builder(&tricky, deep).capacity(capacity).build().unwrap();
        for round in 0..3 {
            for path in inside(5, 2) {
                let account = keys.account(&path).unwrap();
                let sealed = account.seal(b"x", &row(1)).await.unwrap();
                assert_eq!(account.open(&sealed, &row(1)).await.unwrap(), b"x", "{round}");
                assert!(keys.cached_keks() <= capacity && keys.memory().slots_used == keys.cached_keks());
            }
        }
    }
}

#[tokio::test]
async fn children_outlive_an_evicted_parent_until_their_own_end() {
    let tricky = Tricky::new();
    let keys = builder(&tricky, one_group).capacity(2).build().unwrap();
    let (a, b) = (keys.account("a").unwrap(), keys.account("b").unwrap());
    let of_a = a.seal(b"x", &row(1)).await.unwrap();
    tricky.clock.advance(SECOND);
    let of_b = b.seal(b"x", &row(1)).await.unwrap();
    // Room for two: whichever went, what is left works without the group.
    assert_eq!(keys.cached_keks(), 2);
    let opens = |account: &Account, sealed: &[u8]| account.try_open(sealed, &row(1)).unwrap().is_some();
    assert!(opens(&b, &of_b));
    tricky.clock.advance(TTL - SECOND - NANOSECOND);
    assert!(opens(&b, &of_b));
    tricky.clock.advance(NANOSECOND);
    assert!(!opens(&a, &of_a) && !opens(&b, &of_b), "the group's deadline");
}

#[tokio::test]
async fn warming_loads_each_group_once_and_tells_what_has_no_kek() {
    let tricky = Tricky::new();
    let keys = process(&tricky, exact(), groups_of_20);
    for path in named(100) {
        keys.account(&path).unwrap().seal(b"x", &row(1)).await.unwrap();
    }
    let keys = process(&tricky, exact(), groups_of_20);
    let calls = tricky.root.calls();
    let warmed = keys.warm(named(101)).await.unwrap();
    assert_eq!((warmed.ready, warmed.unknown.len(), warmed.failed.len()), (100, 1, 0));
    assert_eq!((tricky.root.calls() - calls, keys.cached_keks()), (5, 105));
    let health = keys.health().await;
    assert!(health.is_ready() && health.oldest_authorisation.unwrap() <= TTL);
}

#[tokio::test]
async fn the_age_of_a_kek_counts_from_when_the_kms_was_asked_for_what_is_above_it() {
    let tricky = Tricky::new();
    let keys = process(&tricky, exact(), one_group);
    keys.account("first").unwrap().seal(b"x", &row(1)).await.unwrap();
    tricky.clock.advance(TTL / 2);
    keys.account("second").unwrap().seal(b"x", &row(1)).await.unwrap();
    assert_eq!(keys.health().await.oldest_authorisation, Some(TTL / 2));
}

#[tokio::test]
async fn a_group_that_is_rotated_wraps_what_comes_later_and_still_opens_what_came_before() {
    let tricky = Tricky::new();
    let keys = process(&tricky, exact(), one_group);
    let before = keys.account("before").unwrap();
    let old = before.seal(b"x", &row(1)).await.unwrap();
    keys.account("group").unwrap().rotate().await.unwrap();
    keys.account("after").unwrap().seal(b"x", &row(1)).await.unwrap();
    let parent_of = async |name| {
        let record = tricky.store.inner.primary(&KeyPath::account(name).unwrap()).await.unwrap().unwrap();
        let Wrapper::Parent { path, kek_id } = &record.wraps[0].wrapper else { panic!() };
        assert_eq!(*path, self::path(["group"]));
        tricky.store.inner.record(path, *kek_id).await.unwrap().unwrap().identity.version.get()
    };
    assert_eq!((parent_of("before").await, parent_of("after").await), (1, 2));
    let elsewhere = process(&tricky, exact(), one_group);
    assert_eq!(elsewhere.account("before").unwrap().open(&old, &row(1)).await.unwrap(), b"x");
    before.rotate().await.unwrap();
    assert_eq!(parent_of("before").await, 2);
}

#[tokio::test]
async fn a_group_is_rotated_when_it_has_wrapped_as_many_keks_as_its_policy_says() {
    let tricky = Tricky::new();
    let policy = |path: &KeyPath| {
        let wraps = std::num::NonZeroU64::new(10).unwrap();
        (path.segments().next() == Some("group")).then(|| exact().max_wraps(wraps).build().unwrap())
    };
    let keys = builder(&tricky, one_group).policy_by_account(policy).build().unwrap();
    for path in named(25) {
        keys.account(&path).unwrap().seal(b"x", &row(1)).await.unwrap();
        settle().await;
    }
    assert_eq!(tricky.store.versions("group").await, 3);
}

#[tokio::test]
async fn stale_keks_below_end_with_what_their_parents_policy_allows() {
    let tricky = Tricky::new();
    let seconds = Duration::from_secs;
    let policy = move |path: &KeyPath| -> Option<Policy> {
        let is_group = path.segments().next() == Some("group");
        Some(exact().max_stale(seconds(if is_group { 30 } else { 600 })).build().unwrap())
    };
    let keys = builder(&tricky, one_group).policy_by_account(policy).build().unwrap();
    let acme = keys.account("acme").unwrap();
    acme.seal(b"x", &row(1)).await.unwrap();
    tricky.root.fail(Some(RootKeyError::unavailable("down")));
    tricky.clock.advance(TTL + seconds(30) - NANOSECOND);
    acme.seal(b"x", &row(1)).await.unwrap();
    assert_eq!(keys.stats().stale_uses, 1);
    tricky.clock.advance(NANOSECOND);
    acme.seal(b"x", &row(1)).await.unwrap_err();
    tricky.clock.advance(SWEPT);
    assert_eq!((keys.cached_keks(), keys.memory().slots_used), (0, 0));
}
