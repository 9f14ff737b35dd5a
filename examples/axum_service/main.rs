//! A web service that keeps its tenants' documents encrypted: axum, PostgreSQL, metrics, health, refusals with a
//! `Retry-After`, and a shutdown that overwrites all keys.
//!
//! `cargo run -p keystrata-examples --features service --example axum_service`, with a server that it asks for. It is its own
//! client and ends by itself.

mod client;
mod refusal;
mod routes;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use keystrata_hierarchy::{Context, Hierarchy, KeyError, SealError, test_util::ScriptedRootKey};
use keystrata_kms::{Budget, Guard};
use keystrata_store::{PostgresConfig, PostgresKekStore};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::{net::TcpListener, sync::oneshot};
use tokio_postgres::NoTls;

/// What every request needs. Cheap to clone.
#[derive(Clone)]
struct Service {
    keys: Hierarchy,
    database: Pool,
    metrics: PrometheusHandle,
}

const TABLES: &str = "
    DROP SCHEMA IF EXISTS keystrata_example_service CASCADE;
    DROP SCHEMA IF EXISTS keystrata_example_service_keys CASCADE;
    CREATE SCHEMA keystrata_example_service;
    CREATE TABLE keystrata_example_service.document (
        tenant TEXT NOT NULL, id TEXT NOT NULL, envelope BYTEA NOT NULL, PRIMARY KEY (tenant, id)
    );
";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = keystrata_examples::postgres();
    let database = pool(&url)?;
    database.get().await?.batch_execute(TABLES).await?;

    // Before the hierarchy is built: it looks for a recorder then.
    let metrics = PrometheusBuilder::new().install_recorder()?;
    tokio::spawn(upkeep(metrics.clone()));
    // In a service: `keystrata_kms::open("aws-kms:alias/keystrata")`. This one fails when it is told to.
    let kms = Arc::new(ScriptedRootKey::new("test:root"));
    let keys = hierarchy(&url, Arc::clone(&kms)).await?;
    let service = Service { keys: keys.clone(), database: database.clone(), metrics };

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let client = client::Client::of(listener.local_addr()?);
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = axum::serve(listener, routes::all(service)).with_graceful_shutdown(async {
        // Ctrl-C, or this example's own client; a service listens to SIGTERM too.
        tokio::select! { _ = stopped => {}, _ = tokio::signal::ctrl_c() => {} }
    });
    let serving = tokio::spawn(serving.into_future());
    client.use_service(&kms).await?;

    // Requests that were begun are answered, then no key stays behind.
    drop(stop);
    serving.await??;
    assert_eq!(keys.cached_keks(), 3);
    keys.close();
    assert_eq!(keys.cached_keks(), 0);
    let refused = keys.account("acme")?.seal(b"late", &Context::none()).await;
    assert!(matches!(refused, Err(SealError::Key(KeyError::Closed))));
    println!("shut down: 3 keys overwritten, none left");

    let drop_all = "DROP SCHEMA keystrata_example_service, keystrata_example_service_keys CASCADE";
    database.get().await?.batch_execute(drop_all).await?;
    Ok(())
}

/// Histograms gather what they are told until somebody sums it up, and a scraper may not come for long.
async fn upkeep(metrics: PrometheusHandle) {
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        metrics.run_upkeep();
    }
}

/// The documents' database. Over a network: with `tokio-postgres-rustls` instead of [`NoTls`].
fn pool(url: &str) -> anyhow::Result<Pool> {
    let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_config(url.parse()?, NoTls, config);
    Ok(Pool::builder(manager).max_size(8).build()?)
}

/// One for the whole process: its cache is what saves the calls.
async fn hierarchy(url: &str, kms: Arc<ScriptedRootKey>) -> anyhow::Result<Hierarchy> {
    // The KEKs are in the same database here, in a schema of their own. `keystrata store migrate` does this in a deployment.
    let config = PostgresConfig::from_url(url)?.schema("keystrata_example_service_keys")?;
    PostgresKekStore::migrate(config.clone()).await?;

    let number = |n| NonZeroU32::new(n).expect("not zero");
    let budget = Budget::per_second(number(50), number(20)).max_wait(Duration::from_secs(2)).named("kms");
    Ok(Hierarchy::builder()
        .root_key(Guard::new("root", Arc::new(budget)).around(kms))
        .store(PostgresKekStore::open(config).await?)
        .kek_ttl(Duration::from_secs(300))
        .build()?)
}
