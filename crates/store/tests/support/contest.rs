//! Processes that change the same accounts, and processes that fork.

use std::process::Child;

use keystrata_hierarchy::{Creation, KekState, KekStore, Rotation, Shred, StoreError};
#[cfg(unix)]
use keystrata_memory::test_util::in_forked_child;

use super::{path, record};

pub(crate) const CONTESTANTS: usize = 6;
const ACCOUNTS: usize = 5;
const ROTATIONS: u32 = 20;

/// One of the processes: it creates, rotates and shreds, and prints what it won.
pub(crate) async fn contest(store: &impl KekStore) {
    for number in 0..ACCOUNTS {
        let name = format!("account {number}");
        match store.create(&record(&name)).await {
            Ok(Creation::Created) => println!("created {number}"),
            Ok(Creation::Exists) => {}
            // A process that comes late finds the last one ended already.
            Err(StoreError::Shredded { .. }) if number == ACCOUNTS - 1 => continue,
            Err(error) => panic!("{error}"),
        }
        for _ in 0..ROTATIONS {
            let primary = match store.primary(&path(&name)).await {
                Ok(primary) => primary.unwrap(),
                Err(StoreError::Shredded { .. }) => break,
                Err(error) => panic!("{error}"),
            };
            assert_eq!(primary.state, KekState::Primary);
            let mut next = record(&name);
            next.identity.version = primary.identity.version.next().unwrap();
            match store.rotate(primary.identity.id, &next).await {
                Ok(Rotation::Rotated) => println!("rotated {number}"),
                Ok(Rotation::Superseded) => {}
                Err(StoreError::Shredded { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
        // The last account is ended under the others' hands.
        if number == ACCOUNTS - 1 && matches!(store.shred(&path(&name), 1).await.unwrap(), Shred::Shredded(_)) {
            println!("shredded {number}");
        }
    }
}

/// What children printed that all ended well.
pub(crate) fn printed_by(children: Vec<Child>) -> Vec<String> {
    let mut lines = Vec::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        lines.extend(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned));
    }
    lines
}

/// Panics unless the store is as the contestants' `printed` lines say.
pub(crate) async fn has_one_winner_each(store: &impl KekStore, printed: &[String]) {
    let count = |line: String| printed.iter().filter(|printed| **printed == line).count();
    for number in 0..ACCOUNTS {
        assert_eq!(count(format!("created {number}")), 1);
        let records = store.records(&path(&format!("account {number}"))).await.unwrap();
        let rotated = count(format!("rotated {number}"));
        assert_eq!(records.len(), rotated + 1, "every rotation that was confirmed is there, and no other");
        let versions: Vec<u32> = records.iter().map(|record| record.identity.version.get()).collect();
        assert_eq!(versions, (1..=u32::try_from(records.len()).unwrap()).collect::<Vec<_>>());
        if number == ACCOUNTS - 1 {
            assert_eq!(count(format!("shredded {number}")), 1);
            assert!(records.iter().all(|record| record.state == KekState::Destroyed && record.wraps.is_empty()));
        } else {
            let primaries = records.iter().filter(|record| record.state == KekState::Primary).count();
            assert_eq!((primaries, records.last().unwrap().state), (1, KekState::Primary));
            assert!(rotated >= usize::try_from(ROTATIONS).unwrap(), "rotations that go on beside each other");
        }
    }
}

/// Forks with a store that has connections open, and uses it on both sides. To be called in a process where no other test
/// runs: a fork takes no other thread's locks along.
#[cfg(unix)]
pub(crate) fn forks<S: KekStore>(given: impl AsyncFn() -> Option<S>) {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let parent = runtime();
    let Some(store) = parent.block_on(given()) else { return };
    parent.block_on(store.create(&record("before"))).unwrap();
    let of_child = record("of the child");
    let went_well = in_forked_child(|| {
        let child = runtime();
        let created = child.block_on(store.create(&of_child));
        let found = child.block_on(store.primary(&path("before")));
        matches!(created, Ok(Creation::Created)) && matches!(found, Ok(Some(_)))
    });
    assert!(went_well, "a child has connections of its own");
    assert_eq!(parent.block_on(store.primary(&path("of the child"))).unwrap(), Some(of_child));
    assert_eq!(parent.block_on(store.create(&record("after"))).unwrap(), Creation::Created);
}
