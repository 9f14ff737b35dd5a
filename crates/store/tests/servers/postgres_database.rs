//! A schema of a test's own on the server that all tests share.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use keystrata_store::{PostgresConfig, PostgresKekStore};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio_postgres::{Client, NoTls, Row, types::ToSql};

/// Held for writing by the one test that changes the server's settings.
static SERVER: RwLock<()> = RwLock::const_new(());
static SCHEMAS: AtomicU32 = AtomicU32::new(0);

/// How long a test waits for something that another session does.
const PATIENCE: Duration = Duration::from_secs(20);

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: `cargo xtask test` starts a server and sets it"))
}

/// The superuser's URL, as `postgres://user:password@localhost:port`.
pub(crate) fn server() -> String {
    variable("KEYSTRATA_TEST_POSTGRES").rsplit_once('/').unwrap().0.to_owned()
}

/// The authority that the server's certificate is by.
pub(crate) fn authority() -> String {
    variable("KEYSTRATA_TEST_POSTGRES_CA")
}

pub(crate) struct Database {
    pub(crate) schema: String,
    pub(crate) admin: Client,
    /// Asks while the other is in a transaction, within which a session sees the others' states of its beginning.
    watcher: Client,
    _shared: RwLockReadGuard<'static, ()>,
}

impl Database {
    /// With an empty store in a schema of its own.
    pub(crate) async fn new() -> Self {
        let database = Self::without_store().await;
        assert_eq!(PostgresKekStore::migrate(database.config("")).await.unwrap(), 1);
        database
    }

    pub(crate) async fn without_store() -> Self {
        let shared = SERVER.read().await;
        let number = SCHEMAS.fetch_add(1, Ordering::Relaxed);
        let schema = format!("test_{}_{number}", std::process::id());
        Self { schema, admin: connect("postgres").await, watcher: connect("postgres").await, _shared: shared }
    }

    /// The store's URL; `more` is `&name=value…`.
    pub(crate) fn url(&self, more: &str) -> String {
        format!("{}/postgres?sslmode=disable&schema={1}&application_name={1}{more}", server(), self.schema)
    }

    pub(crate) fn config(&self, more: &str) -> PostgresConfig {
        PostgresConfig::from_url(&self.url(more)).unwrap()
    }

    pub(crate) async fn open(&self) -> PostgresKekStore {
        PostgresKekStore::open(self.config("")).await.unwrap()
    }

    /// A role of this name and password that may do nothing yet, and its URL of the store.
    pub(crate) async fn role(&self, name: &str, rest: &str) -> String {
        let role = format!("{}_{name}", self.schema);
        self.run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'hunter2' {rest}")).await;
        let (_, place) = server().rsplit_once('@').map(|(user, place)| (user.to_owned(), place.to_owned())).unwrap();
        format!("postgres://{role}:hunter2@{place}/postgres?sslmode=disable&schema={}", self.schema)
    }

    /// Runs SQL as the superuser, in the store's schema.
    pub(crate) async fn run(&self, sql: &str) {
        self.admin.batch_execute(&format!("SET search_path = {}, public; {sql}", self.schema)).await.unwrap();
    }

    pub(crate) async fn ask(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Vec<Row> {
        self.watcher.query(sql, params).await.unwrap()
    }

    /// Ends the store's sessions; gives their number.
    pub(crate) async fn kill(&self, state: &str) -> usize {
        let sql = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
            WHERE application_name = $1 AND state LIKE $2";
        self.ask(sql, &[&self.schema, &state]).await.len()
    }

    /// Waits until that many of the store's sessions wait for a lock.
    pub(crate) async fn wait_for_waiting(&self, sessions: i64) {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'";
        let deadline = Instant::now() + PATIENCE;
        while self.ask(sql, &[&self.schema]).await[0].get::<_, i64>(0) < sessions {
            assert!(Instant::now() < deadline, "no session waits for a lock");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A plain session of the superuser.
pub(crate) async fn connect(database: &str) -> Client {
    let (client, connection) =
        tokio_postgres::connect(&format!("{}/{database}?sslmode=disable", server()), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Nobody else uses the server as long as this is held.
pub(crate) async fn alone() -> RwLockWriteGuard<'static, ()> {
    SERVER.write().await
}
