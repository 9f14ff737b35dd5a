//! The engine in several processes on one PostgreSQL store: killed at any moment, all at once, and obeying each other.

use super::{
    postgres_database::Database,
    soak::{Site, fleet, kills, lives, setting, traffic},
};

/// A store in a schema of its own, and the folder that is the rest of its site.
struct Place {
    folder: tempfile::TempDir,
    database: Database,
}

impl Place {
    async fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), database: Database::without_store().await }
    }

    async fn site(&self) -> Site {
        Site::new(self.folder.path(), self.database.url("&pool_size=2")).await
    }
}

#[tokio::test]
#[ignore = "a child of another test"]
async fn child_lives_until_killed() {
    let Some((site, role)) = Site::given() else { return };
    lives::live(&site, &role).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn whatever_a_kill_comes_into_nothing_is_lost_and_jobs_are_taken_up() {
    let mut places = Vec::new();
    let new_site = async || {
        places.clear();
        places.push(Place::new().await);
        places[0].site().await
    };
    let copy = |site: &Site, round: u64| site.uri.replace("schema=", &format!("schema=copy_{round}_"));
    let figures = kills::survives(kills::rounds(), "postgres_soak::child_lives_until_killed", new_site, copy).await;
    println!("PostgreSQL: {figures:?}");
}

#[tokio::test]
#[ignore = "a child of another test"]
async fn child_works_with_others() {
    let Some((site, role)) = Site::given() else { return };
    traffic::work(&site, &role).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn eight_processes_at_once_have_one_primary_at_a_time_and_lose_nothing() {
    let place = Place::new().await;
    let seconds = setting("KEYSTRATA_TRAFFIC_SECONDS", 2);
    let test = "postgres_soak::child_works_with_others";
    let counts = traffic::survives(&place.site().await, test, seconds).await;
    println!("PostgreSQL, {seconds} s: {counts:?}");
}

#[tokio::test]
#[ignore = "a child of another test"]
async fn child_watches() {
    let Some((site, role)) = Site::given() else { return };
    fleet::watch(&site, &role).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn every_process_obeys_within_its_ttl_or_the_time_of_its_primary() {
    let place = Place::new().await;
    let lives = if setting("KEYSTRATA_THOROUGH", 0) > 0 { fleet::thorough() } else { fleet::quick() };
    for (lives, [seals, opens]) in fleet::obeys(&place.site().await, "postgres_soak::child_watches", &lives).await {
        println!("PostgreSQL, {lives}: sealed for {seals:?} after a change, opened for {opens:?}");
    }
}
