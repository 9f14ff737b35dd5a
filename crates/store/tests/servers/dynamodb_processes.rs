//! Several processes on one DynamoDB table.

use std::{
    env,
    process::{Command, Stdio},
};

use keystrata_hierarchy::KekStore;
use keystrata_store::{DynamoDbConfig, DynamoDbKekStore};
use tokio::task::{block_in_place, spawn_blocking};

#[cfg(unix)]
use super::support::contest::forks;
use super::{
    dynamodb_service::Service,
    support::{
        STORE,
        contest::{CONTESTANTS, contest, has_one_winner_each, printed_by},
        has_survived, kill_after, kills, live, path,
    },
};

/// This file's tests.
const HERE: &str = "dynamodb_processes";

/// Runs one of this program's tests with credentials as a service has them, and nothing else of this machine's AWS configuration.
pub(crate) fn child(module: &str, name: &str, uri: &str) -> Command {
    let mut child = Command::new(env::current_exe().unwrap());
    child
        .args(["--ignored", "--exact", "--nocapture", &format!("{module}::{name}")])
        .env(STORE, uri)
        .env("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", "hunter2")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .stdout(Stdio::piped());
    child
}

/// The store that a parent test gave; `None` where the test runs by itself.
async fn given() -> Option<DynamoDbKekStore> {
    let uri = env::var(STORE).ok()?;
    Some(DynamoDbKekStore::open(DynamoDbConfig::from_uri(&uri).unwrap()).await.unwrap())
}

#[tokio::test]
#[ignore = "a child of another test"]
async fn child_that_rotates_the_same_accounts() {
    let Some(store) = given().await else { return };
    contest(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs moto, which `cargo xtask test` installs"]
async fn processes_that_change_the_same_accounts_end_with_one_winner_each() {
    let service = Service::start().await;
    let (store, table) = service.store().await;
    let uri = service.uri(&table);
    let children = (0..CONTESTANTS).map(|_| child(HERE, "child_that_rotates_the_same_accounts", &uri).spawn().unwrap());
    let children = children.collect();
    let printed = spawn_blocking(|| printed_by(children)).await.unwrap();
    has_one_winner_each(&store, &printed).await;
}

#[tokio::test]
#[ignore = "a child of another test"]
async fn child_that_lives_until_killed() {
    let Some(store) = given().await else { return };
    live(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs moto, which `cargo xtask test` installs"]
async fn what_was_reported_done_survives_a_kill() {
    let service = Service::start().await;
    let (store, table) = service.store().await;
    for round in 0..kills() {
        // Another place in an account's life each time.
        let child = child(HERE, "child_that_lives_until_killed", &service.uri(&table)).spawn().unwrap();
        let printed = block_in_place(|| kill_after(child, 7 + round % 23));
        has_survived(&store, round, &printed).await;
    }
}

#[cfg(unix)]
#[test]
#[ignore = "a child of another test"]
fn child_that_forks() {
    forks(given);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs moto, which `cargo xtask test` installs"]
async fn a_forked_child_has_connections_of_its_own() {
    let service = Service::start().await;
    let (store, table) = service.store().await;
    let forks = block_in_place(|| child(HERE, "child_that_forks", &service.uri(&table)).output().unwrap());
    assert!(forks.status.success(), "{}", String::from_utf8_lossy(&forks.stdout));
    assert!(store.head(&path("after")).await.unwrap().is_some(), "the child ran");
}
