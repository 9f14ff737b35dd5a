//! A forked child has a budget and a timer of its own.
#![cfg(unix)]
#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::num::NonZeroU32;

use keystrata_hierarchy::RootContext;
use keystrata_kms::Budget;
use keystrata_memory::test_util::in_forked_child;

#[test]
fn a_child_begins_with_a_whole_budget_and_a_timer_that_runs() {
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    // A thousand a second and one at once: the second call waits for the timer's thread, in either process.
    let budget = Budget::per_second(NonZeroU32::new(1_000).unwrap(), NonZeroU32::MIN);
    let use_twice = || {
        let none = RootContext::none();
        runtime().block_on(async { budget.admit(&none).await.is_ok() && budget.admit(&none).await.is_ok() })
    };
    assert!(use_twice());
    assert!(in_forked_child(|| budget.stats().admitted == 0 && use_twice() && budget.stats().admitted == 2));
    assert_eq!(budget.stats().admitted, 2, "the child's calls are the child's");
}
