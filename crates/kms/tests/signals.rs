//! The metrics: those of the table in docs/operations.md, with those labels, and no account among them.
#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod common;

use std::{collections::BTreeSet, sync::Arc};

use keystrata_hierarchy::{RootKey, RootKeyError, SecretKey};
use keystrata_kms::{BreakerPolicy, RetryPolicy};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};

use self::common::{Down, MILLISECOND, SECOND, World, context};

/// The names and labels that the documentation lists: lines of a table that begin with a name in backticks.
fn documented() -> BTreeSet<(String, BTreeSet<String>)> {
    let text = include_str!("../../../docs/operations.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `keystrata_"));
    let cells = |row: &str| {
        let mut cells = row.split('|');
        let name = format!("keystrata_{}", cells.next().unwrap().trim().trim_end_matches('`'));
        let labels = cells.nth(1).unwrap().split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (name, labels)
    };
    rows.map(cells).collect()
}

#[test]
fn every_metric_is_documented_and_none_names_an_account() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(some_of_everything()));

    let mut seen = BTreeSet::new();
    let mut waiting = None;
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let key = key.key();
        for label in key.labels() {
            assert!(!label.value().contains("secret-tenant"), "{key}");
        }
        seen.insert((key.name().to_owned(), key.labels().map(|label| label.key().to_owned()).collect()));
        if key.name() == "keystrata_budget_waiting" {
            waiting = Some(value);
        }
    }
    assert_eq!(seen, documented());
    assert_eq!(waiting, Some(DebugValue::Gauge(0.0.into())), "the queue is empty, and the gauge says so");
}

async fn some_of_everything() {
    let world = World::new();
    let kms = world.kms("test:root", MILLISECOND);
    let budget = Arc::new(world.budget(2, 2).max_wait(SECOND).adaptive());
    let breaker = BreakerPolicy { failures: 1, ..BreakerPolicy::default() };
    let retry = RetryPolicy { seed: Some(1), ..RetryPolicy::default() };
    let root = Arc::new(world.guard("test", &budget).breaker(breaker).retry(retry).around(Arc::clone(&kms)));
    kms.says(&RootKeyError::throttled("slow down"));
    let call = || {
        let root = Arc::clone(&root);
        tokio::spawn(async move { root.wrap_key(&SecretKey::generate().unwrap(), &context("secret-tenant")).await })
    };
    let calls: Vec<_> = (0..5).map(|_| call()).collect();
    world.settle().await;
    calls[1].abort(); // the first was sent, this one waits
    world.pass(30 * SECOND).await;
    kms.set(None);
    kms.sends_twice(true);
    call();
    world.pass(30 * SECOND).await;
    kms.sends_twice(false);
    kms.set(Some(Down::IsNotAsked));
    call();
    world.pass(30 * SECOND).await;
    kms.says(&RootKeyError::unavailable("down"));
    call();
    world.pass(10 * MILLISECOND).await;
    call();
    world.pass(30 * SECOND).await;
}
