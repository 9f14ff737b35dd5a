//! The engine in several processes on one SQLite store: killed at any moment, all at once, and obeying each other.
#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod soak;

use std::path::Path;

use self::soak::{Site, fleet, kills, lives, setting, traffic};

async fn site(folder: &Path) -> Site {
    Site::new(folder, format!("sqlite:{}", folder.join("keys.db").display())).await
}

#[tokio::test]
#[ignore = "a child of another test"]
async fn child_lives_until_killed() {
    let Some((site, role)) = Site::given() else { return };
    lives::live(&site, &role).await;
}

#[tokio::test]
async fn whatever_a_kill_comes_into_nothing_is_lost_and_jobs_are_taken_up() {
    let mut folders = Vec::new();
    let new_site = async || {
        folders.clear(); // the one before
        folders.push(tempfile::tempdir().unwrap());
        site(folders[0].path()).await
    };
    let copy = |site: &Site, round: u64| format!("sqlite:{}", site.folder.join(format!("copy-{round}.db")).display());
    let figures = kills::survives(kills::rounds(), "child_lives_until_killed", new_site, copy).await;
    println!("SQLite: {figures:?}");
}

#[tokio::test]
#[ignore = "a child of another test"]
async fn child_works_with_others() {
    let Some((site, role)) = Site::given() else { return };
    traffic::work(&site, &role).await;
}

#[tokio::test]
async fn eight_processes_at_once_have_one_primary_at_a_time_and_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let seconds = setting("KEYSTRATA_TRAFFIC_SECONDS", 2);
    let counts = traffic::survives(&site(folder.path()).await, "child_works_with_others", seconds).await;
    println!("SQLite, {seconds} s: {counts:?}");
}

#[tokio::test]
#[ignore = "a child of another test"]
async fn child_watches() {
    let Some((site, role)) = Site::given() else { return };
    fleet::watch(&site, &role).await;
}

#[tokio::test]
async fn every_process_obeys_within_its_ttl_or_the_time_of_its_primary() {
    let folder = tempfile::tempdir().unwrap();
    let lives = if setting("KEYSTRATA_THOROUGH", 0) > 0 { fleet::thorough() } else { fleet::quick() };
    for (lives, [seals, opens]) in fleet::obeys(&site(folder.path()).await, "child_watches", &lives).await {
        println!("SQLite, {lives}: sealed for {seals:?} after a change, opened for {opens:?}");
    }
}
