//! A service that forks after it has used its keys.
#![cfg(unix)]

mod common;

use std::time::Duration;

use common::{Fixture, row};
use keystrata_hierarchy::{KeyError, SealError};
use keystrata_memory::test_util::in_forked_child;

/// Until the sweeper sleeps: the clock of the tests has a lock, and one that is held at the fork stays held in the child.
fn settle(fixture: &Fixture) {
    fixture.clock.advance(Duration::ZERO);
}

#[test]
fn a_forked_child_goes_on_with_a_cache_of_its_own_and_leaves_its_parents_alone() {
    let fixture = Fixture::new();
    let keys = fixture.process();
    let acme = keys.account("acme").unwrap();
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    let sealed = runtime().block_on(acme.seal(b"x", &row(1))).unwrap();
    assert_eq!((keys.cached_keks(), fixture.root.calls()), (1, 1));

    settle(&fixture);
    assert!(in_forked_child(|| {
        let is_empty = keys.cached_keks() == 0 && keys.memory().slots_used == 0;
        let opened = runtime().block_on(acme.open(&sealed, &row(1))).unwrap();
        let sealed_by_child = runtime().block_on(acme.seal(b"y", &row(2))).unwrap();
        is_empty
            && opened == b"x"
            && sealed_by_child[4..20] == sealed[4..20]
            // One unwrap of its own; the parent's call is in the count it inherited.
            && (keys.cached_keks(), fixture.root.calls()) == (1, 2)
    }));

    assert_eq!(runtime().block_on(acme.open(&sealed, &row(1))).unwrap(), b"x");
    assert_eq!((keys.cached_keks(), fixture.root.calls()), (1, 1));
}

#[test]
fn a_child_finds_closed_what_its_parent_closed() {
    let fixture = Fixture::new();
    let keys = fixture.process();
    let acme = keys.account("acme").unwrap();
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime().block_on(acme.seal(b"x", &row(1))).unwrap();
    keys.close();
    settle(&fixture);
    assert!(in_forked_child(|| {
        let refused = runtime().block_on(acme.seal(b"x", &row(1)));
        matches!(refused, Err(SealError::Key(KeyError::Closed)))
    }));
}

#[test]
fn a_forked_child_does_not_wait_for_its_parents_runtime() {
    let fixture = Fixture::new();
    let loads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let acme = fixture.builder().runtime(loads.handle().clone()).build().unwrap().account("acme").unwrap();
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    let sealed = runtime().block_on(acme.seal(b"x", &row(1))).unwrap();
    settle(&fixture);
    assert!(in_forked_child(|| runtime().block_on(acme.open(&sealed, &row(1))).unwrap() == b"x"));
}
