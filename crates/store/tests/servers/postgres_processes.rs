//! Several processes on one PostgreSQL store.

use std::{
    env,
    process::{Command, Stdio},
};

use keystrata_hierarchy::KekStore;
use keystrata_store::{PostgresConfig, PostgresKekStore};

#[cfg(unix)]
use super::support::contest::forks;
use super::{
    postgres_database::Database,
    support::{
        STORE,
        contest::{CONTESTANTS, contest, has_one_winner_each, printed_by},
        has_survived, kill_after, kills, live, path,
    },
};

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
    contest(&store).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn processes_that_change_the_same_accounts_end_with_one_winner_each() {
    let database = Database::new().await;
    let url = database.url("&pool_size=2");
    let children = (0..CONTESTANTS).map(|_| child("child_that_rotates_the_same_accounts", &url).spawn().unwrap());
    let printed = printed_by(children.collect());
    has_one_winner_each(&database.open().await, &printed).await;
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
    forks(given);
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
