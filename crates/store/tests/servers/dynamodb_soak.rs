//! The engine in several processes on one DynamoDB table: all at once, and obeying each other.
//!
//! Each test is carried out by a child, which has the credentials in its environment, and so have the children of that.

use std::process::Command;

use tokio::task::block_in_place;

use super::{
    dynamodb_processes,
    dynamodb_service::Service,
    soak::{Site, fleet, setting, traffic},
    support::STORE,
};

/// Runs the test `name` of this file in a process that finds an empty table.
async fn carried_out_by(name: &str) {
    let service = Service::start().await;
    let mut test: Command = dynamodb_processes::child("dynamodb_soak", name, &service.uri(&Service::table()));
    let done = block_in_place(|| test.output().unwrap());
    let printed = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{printed}\n{}", String::from_utf8_lossy(&done.stderr));
    printed.lines().filter(|line| line.starts_with("DynamoDB")).for_each(|line| println!("{line}"));
}

/// In the child of a test: its site, which has no store yet, and the folder that goes with it.
async fn given() -> Option<(tempfile::TempDir, Site)> {
    let uri = std::env::var(STORE).ok()?;
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path(), uri).await;
    Some((folder, site))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs moto, which `cargo xtask test` installs"]
async fn eight_processes_at_once_have_one_primary_at_a_time_and_lose_nothing() {
    carried_out_by("child_that_lets_eight_work").await;
}

#[tokio::test]
#[ignore = "a child of another test"]
async fn child_that_lets_eight_work() {
    let Some((_folder, site)) = given().await else { return };
    let seconds = setting("KEYSTRATA_TRAFFIC_SECONDS", 2);
    let counts = traffic::survives(&site, "dynamodb_soak::child_works_with_others", seconds).await;
    println!("\nDynamoDB, {seconds} s: {counts:?}");
}

#[tokio::test]
#[ignore = "a child of another test"]
async fn child_works_with_others() {
    let Some((site, role)) = Site::given() else { return };
    traffic::work(&site, &role).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs moto, which `cargo xtask test` installs"]
async fn every_process_obeys_within_its_ttl_or_the_time_of_its_primary() {
    carried_out_by("child_that_lets_a_fleet_watch").await;
}

#[tokio::test]
#[ignore = "a child of another test"]
async fn child_that_lets_a_fleet_watch() {
    let Some((_folder, site)) = given().await else { return };
    for (lives, [seals, opens]) in fleet::obeys(&site, "dynamodb_soak::child_watches", &fleet::quick()).await {
        println!("\nDynamoDB, {lives}: sealed for {seals:?} after a change, opened for {opens:?}");
    }
}

#[tokio::test]
#[ignore = "a child of another test"]
async fn child_watches() {
    let Some((site, role)) = Site::given() else { return };
    fleet::watch(&site, &role).await;
}
