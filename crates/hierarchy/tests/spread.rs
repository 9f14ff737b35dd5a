//! KEKs that their parent's end cuts short do not all end in one instant.
#![allow(clippy::unwrap_used, clippy::unchecked_time_subtraction)] // test code outside a #[test], constants

mod common;

use std::collections::BTreeSet;

use common::{
    TTL, row,
    tree::{builder, one_group},
    tricky::{Tricky, settle},
};
use keystrata_hierarchy::{Account, Hierarchy, Policy};

const ACCOUNTS: usize = 100;

/// All accounts of one group, with the default policy but for the group's jitter, so that its end is known.
fn process(tricky: &Tricky) -> Hierarchy {
    let policy = |path: &keystrata_hierarchy::KeyPath| {
        let policy = Policy::builder().kek_ttl(TTL);
        let jitter = if path.segments().next() == Some("group") { 0.0 } else { 0.05 };
        Some(policy.ttl_jitter(jitter).build().unwrap())
    };
    builder(tricky, one_group).policy_by_account(policy).jitter_seed(7).build().unwrap()
}

/// Accounts that come into use in the middle of the group's life.
async fn accounts(tricky: &Tricky, keys: &Hierarchy) -> Vec<(Account, Vec<u8>)> {
    keys.account("first").unwrap().seal(b"x", &row(1)).await.unwrap();
    tricky.clock.advance(TTL / 2);
    let mut accounts = Vec::new();
    for n in 0..ACCOUNTS {
        let account = keys.account(format!("account {n}")).unwrap();
        let sealed = account.seal(b"x", &row(1)).await.unwrap();
        accounts.push((account, sealed));
    }
    accounts
}

fn at_hand(accounts: &[(Account, Vec<u8>)]) -> usize {
    accounts.iter().filter(|(account, sealed)| account.try_open(sealed, &row(1)).unwrap().is_some()).count()
}

#[tokio::test]
async fn accounts_of_a_group_end_one_after_the_other_and_none_after_the_group() {
    let tricky = Tricky::new();
    let keys = process(&tricky);
    let accounts = accounts(&tricky, &keys).await;
    // Nothing is renewed while this looks: whoever is due asks for it in a task that gets no turn.
    let step = TTL / 2_000;
    tricky.clock.advance(TTL / 2 - 30 * step);
    let mut counts = vec![at_hand(&accounts)];
    for _ in 0..29 {
        tricky.clock.advance(step);
        counts.push(at_hand(&accounts));
    }
    assert_eq!(counts[0], ACCOUNTS, "spread over a fortieth of what the group left them");
    assert!(counts.is_sorted_by(|a, b| a >= b), "{counts:?}");
    assert!(counts.array_windows().all(|[a, b]| a - b <= ACCOUNTS / 8), "no herd: {counts:?}");
    assert!(counts[29] < ACCOUNTS / 10, "{counts:?}");
    tricky.clock.advance(step);
    assert_eq!(at_hand(&accounts), 0, "the group's end");
}

#[tokio::test]
async fn under_steady_traffic_nobody_waits_and_each_is_renewed_once_in_a_life_of_the_group() {
    const LIVES: usize = 3;
    let tricky = Tricky::new();
    let keys = process(&tricky);
    let accounts = accounts(&tricky, &keys).await;
    let (misses, loads, calls) = (keys.stats().misses, keys.stats().child_loads, tricky.root.calls());
    let mut renewed_at = BTreeSet::new();
    // Each renewal begins a new life, nine tenths of one after the last.
    for step in 0..(LIVES * 900) {
        tricky.clock.advance(TTL / 1_000);
        let before = keys.stats().child_loads;
        assert_eq!(at_hand(&accounts), ACCOUNTS, "in step {step}");
        settle().await;
        if keys.stats().child_loads > before {
            renewed_at.insert(step);
        }
    }
    assert_eq!(keys.stats().misses, misses, "nobody waited");
    assert_eq!(tricky.root.calls() - calls, LIVES);
    let each = (keys.stats().child_loads - loads) / ACCOUNTS as u64;
    assert!(each <= 1 + LIVES as u64, "{each} renewals of each in {LIVES} lives");
    assert!(renewed_at.len() >= 10 * (LIVES - 1), "over {} steps", renewed_at.len());
    assert_eq!(keys.health().await.oldest_authorisation.map(|age| age <= TTL), Some(true));
}
