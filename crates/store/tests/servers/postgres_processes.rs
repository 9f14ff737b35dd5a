//! Several processes on one PostgreSQL store.

use std::{
    env,
    process::{Command, Stdio},
};

use keystrata_hierarchy::{Creation, KekState, KekStore, Rotation, Shred, StoreError};
#[cfg(unix)]
use keystrata_memory::test_util::in_forked_child;
use keystrata_store::{PostgresConfig, PostgresKekStore};

use super::{
    postgres_database::Database,
    support::{STORE, has_survived, kill_after, kills, live, path, record},
};

const PROCESSES: usize = 6;
const ACCOUNTS: usize = 5;
const ROTATIONS: u32 = 20;

fn child(name: &str, url: &str) -> Command {
    let mut child = Command::new(env::current_exe().unwrap());
    child
        .args(["--ignored", "--exact", "--nocapture", &format!("postgres_processes::{name}")])
        .env(STORE, url)
        .stdout(Stdio::piped());
    child
}

/// The store that a parent test gave; `None` where the test runs by itself.
async fn given() -> Option<PostgresKekStore> {
    let url = env::var(STORE).ok()?;
    Some(PostgresKekStore::open(PostgresConfig::from_url(&url).unwrap()).await.unwrap())
}

#[tokio::test]
#[ignore = "a child of another test"]
async fn child_that_rotates_the_same_accounts() {
    let Some(store) = given().await else { return };
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

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn processes_that_change_the_same_accounts_end_with_one_winner_each() {
    let database = Database::new().await;
    let url = database.url("&pool_size=2");
    let children: Vec<_> =
        (0..PROCESSES).map(|_| child("child_that_rotates_the_same_accounts", &url).spawn().unwrap()).collect();
    let mut lines = Vec::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        lines.extend(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned));
    }
    let count = |line: String| lines.iter().filter(|printed| **printed == line).count();
    let store = database.open().await;
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

#[tokio::test]
#[ignore = "a child of another test"]
async fn child_that_lives_until_killed() {
    let Some(store) = given().await else { return };
    live(&store).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn what_was_reported_done_survives_a_kill() {
    let database = Database::new().await;
    let url = database.url("&pool_size=1");
    let store = database.open().await;
    for round in 0..kills() {
        // Another place in an account's life each time.
        let child = child("child_that_lives_until_killed", &url).spawn().unwrap();
        let printed = kill_after(child, 7 + round % 23);
        has_survived(&store, round, &printed).await;
    }
}

/// In a process where no other test runs: a fork takes no other thread's locks along.
#[cfg(unix)]
#[test]
#[ignore = "a child of another test"]
fn child_that_forks() {
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

#[cfg(unix)]
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_forked_child_has_connections_of_its_own() {
    let database = Database::new().await;
    let forks = child("child_that_forks", &database.url("&pool_size=1&call_timeout=20")).output().unwrap();
    assert!(forks.status.success(), "{}", String::from_utf8_lossy(&forks.stdout));
    assert!(database.open().await.head(&path("after")).await.unwrap().is_some(), "the child ran");
}
