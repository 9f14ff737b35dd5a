//! The connections of one process, and what a call may do with one.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use deadpool::{
    Runtime,
    managed::{Manager, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult, TimeoutType},
};
use keystrata_hierarchy::StoreError;
use keystrata_memory::ProcessLocal;
use tokio::{runtime::Handle, time::timeout};
use tokio_postgres::{Client, IsolationLevel, NoTls, Row, Statement, Transaction, types::ToSql};

use super::{config::PostgresConfig, error::Failure, schema, tls::Rustls};

pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

pub(super) struct Connections {
    connector: Connector,
    /// A forked child must not write into its parent's sockets.
    pool: ProcessLocal<Pool<Connector>>,
}

impl Connections {
    /// Reads the certificates; connects to nothing yet.
    pub(super) async fn new(config: PostgresConfig) -> Result<Self, StoreError> {
        let tls = config.tls.clone();
        let tls = runtime()?.spawn_blocking(move || Rustls::new(&tls)).await;
        let tls = tls.map_err(|error| StoreError::unavailable("the tokio runtime shuts down", error))??;
        let connector = Connector { at: config.shown().into(), config: Arc::new(config), tls };
        let of_process = connector.clone();
        let pool = ProcessLocal::new(move || {
            let config = &of_process.config;
            // Before the whole call is out of time, so that its error says what was waited for.
            let patience = config.call_timeout * 3 / 4;
            Pool::builder(of_process.clone())
                .max_size(config.pool_size)
                .wait_timeout(Some(patience))
                .create_timeout(Some(patience))
                .runtime(Runtime::Tokio1)
                .build()
                .expect("a runtime is given, and nothing else can be missing")
        });
        Ok(Self { connector, pool })
    }

    pub(super) fn config(&self) -> &PostgresConfig {
        &self.connector.config
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Connects, if nobody has, and sees to it that the store is there.
    pub(super) async fn check(&self) -> Result<(), StoreError> {
        self.read(|lease| async { (lease, Ok(())) }).await
    }

    /// Runs `job` on a connection, and once more on another if that one breaks.
    pub(super) async fn read<T, F>(&self, job: impl Fn(Lease) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = (Lease, Result<T, Failure>)>,
    {
        self.in_time(async {
            match self.once(&job, Proof::None).await {
                Err(failure) if failure.is_lost() => self.once(&job, Proof::Alive).await,
                answer => answer,
            }
        })
        .await
    }

    /// Runs `job` once, on a connection that has just answered: after a failure nobody can tell whether it wrote.
    pub(super) async fn write<T, F>(&self, job: impl FnOnce(Lease) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = (Lease, Result<T, Failure>)>,
    {
        self.in_time(self.once(job, Proof::Alive)).await
    }

    async fn in_time<T>(&self, call: impl Future<Output = Result<T, Failure>>) -> Result<T, StoreError> {
        runtime()?;
        let (at, time) = (&self.connector.at, self.config().call_timeout);
        match timeout(time, call).await {
            Ok(answer) => answer.map_err(|failure| failure.into_store_error(at)),
            Err(late) => {
                let message =
                    format!("{at}: no answer within {time:?}: look at the server and the network, then try again");
                Err(StoreError::unavailable(message, late))
            }
        }
    }

    async fn once<T, F>(&self, job: impl FnOnce(Lease) -> F, proof: Proof) -> Result<T, Failure>
    where
        F: Future<Output = (Lease, Result<T, Failure>)>,
    {
        let lease = self.lease(proof).await?;
        let (lease, answer) = job(lease).await;
        // A connection that failed is closed, not kept: what is wrong with it may not pass.
        if !matches!(answer, Err(Failure::Postgres(_))) {
            lease.keep();
        }
        answer
    }

    async fn lease(&self, proof: Proof) -> Result<Lease, Failure> {
        // As many broken ones as there can be, and a fresh one.
        for _ in 0..self.config().pool_size {
            let mut lease = Lease(Some(self.get().await?));
            if proof == Proof::None || lease.ping().await {
                return Ok(lease);
            }
        }
        Ok(Lease(Some(self.get().await?)))
    }

    async fn get(&self) -> Result<Object<Connector>, StoreError> {
        let Connector { at, config, .. } = &self.connector;
        let unavailable = |what: String| StoreError::Unavailable { message: format!("{at}: {what}"), source: None };
        self.pool.get().get().await.map_err(|error| match error {
            PoolError::Backend(error) => error,
            PoolError::Timeout(TimeoutType::Wait) => unavailable(format!(
                "all {} connections of this process were busy for too long: try again, or raise pool_size",
                config.pool_size
            )),
            other => unavailable(format!("no connection in time ({other}): look at the server and the network")),
        })
    }
}

/// Whether a connection must show that it is alive before it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    None,
    Alive,
}

/// Timers and connections are the runtime's.
fn runtime() -> Result<Handle, StoreError> {
    Handle::try_current()
        .map_err(|error| StoreError::unavailable("the PostgreSQL store is used from a tokio runtime alone", error))
}

/// Opens connections.
#[derive(Clone)]
pub(super) struct Connector {
    /// Where to, for messages.
    pub(super) at: Arc<str>,
    pub(super) config: Arc<PostgresConfig>,
    tls: Option<Rustls>,
}

impl Connector {
    /// A session on a server that takes writes and keeps what it confirms.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        // The client's own future is large, and every caller's would be.
        let config = Box::new(self.config.for_client());
        let client = match &self.tls {
            None => {
                let (client, connection) = Box::pin(config.connect(NoTls)).await?;
                tokio::spawn(connection);
                client
            }
            Some(tls) => {
                let (client, connection) = Box::pin(config.connect(tls.clone())).await?;
                tokio::spawn(connection);
                client
            }
        };
        let limit = self.config.call_timeout.as_millis();
        // No statement here reads more than a page, which other processes would not read sooner. Temporary tables last, so that none passes for one of the schema's.
        let session = format!(
            "SET search_path = \"{}\", pg_temp; SET statement_timeout = {limit}; SET lock_timeout = {limit};
             SET idle_in_transaction_session_timeout = {limit}; SET max_parallel_workers_per_gather = 0",
            self.config.schema
        );
        client.batch_execute(&session).await?;
        self.make_durable(&client).await?;
        Ok(client)
    }

    async fn make_durable(&self, client: &Client) -> Result<(), Failure> {
        let sql = "SELECT current_setting('synchronous_commit'), current_setting('fsync'),
            current_setting('full_page_writes')";
        let row = client.query_one(sql, &[]).await?;
        for (column, name) in [(1, "fsync"), (2, "full_page_writes")] {
            if row.try_get::<_, &str>(column)? != "on" {
                let at = &self.at;
                let message = format!("{at}: the server has {name} off and may lose what it has confirmed: turn it on");
                return Err(StoreError::incompatible(message).into());
            }
        }
        // `on` waits for the disks of all synchronous replicas; `remote_apply` for more; all others for less.
        if !matches!(row.try_get(0)?, "on" | "remote_apply") {
            client.batch_execute("SET synchronous_commit = on").await?;
        }
        Ok(())
    }
}

impl Manager for Connector {
    type Type = Link;
    type Error = StoreError;

    async fn create(&self) -> Result<Link, StoreError> {
        let opened = async {
            let client = self.connect().await?;
            schema::check(&client, self).await?;
            Ok(Link { client, statements: Statements::default() })
        };
        opened.await.map_err(|failure: Failure| failure.into_store_error(&self.at))
    }

    async fn recycle(&self, link: &mut Link, _: &Metrics) -> RecycleResult<StoreError> {
        if link.client.is_closed() { Err(RecycleError::message("it was closed")) } else { Ok(()) }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connector").field(&self.at).finish()
    }
}

/// A connection and the statements that the server has prepared on it.
pub(super) struct Link {
    client: Client,
    statements: Statements,
}

/// A connection for one call. Dropped before the call's end, by its caller or by a time limit, it is closed, and the
/// server rolls back.
pub(super) struct Lease(Option<Object<Connector>>);

impl Lease {
    fn keep(mut self) {
        drop(self.0.take());
    }

    fn link(&mut self) -> &mut Link {
        self.0.as_deref_mut().expect("taken by `keep` and `drop` alone")
    }

    async fn ping(&mut self) -> bool {
        let ping = self.link().client.simple_query("");
        timeout(PING, ping).await.is_ok_and(|answer| answer.is_ok())
    }

    /// Begins a transaction whose statements each see what was committed before them.
    pub(super) async fn begin(&mut self) -> Result<Change<'_>, Failure> {
        let Link { client, statements } = self.link();
        let transaction = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?;
        Ok(Change { transaction, statements })
    }
}

/// Longer than any round trip, and short beside the time of a call.
const PING: Duration = Duration::from_secs(2);

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}

/// A transaction under way; rolled back unless committed.
pub(super) struct Change<'a> {
    transaction: Transaction<'a>,
    statements: &'a mut Statements,
}

impl Change<'_> {
    pub(super) async fn execute(&mut self, sql: &'static str, params: Params<'_>) -> Result<u64, Failure> {
        let statement = self.statements.get(sql, self.transaction.client()).await?;
        Ok(self.transaction.execute(&statement, params).await?)
    }

    pub(super) async fn commit(self) -> Result<(), Failure> {
        Ok(self.transaction.commit().await?)
    }
}

/// What can be asked, inside a transaction and outside.
pub(super) trait Queries: Send {
    fn query(
        &mut self,
        sql: &'static str,
        params: Params<'_>,
    ) -> impl Future<Output = Result<Vec<Row>, Failure>> + Send;
}

impl Queries for Lease {
    async fn query(&mut self, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>, Failure> {
        let Link { client, statements } = self.link();
        let statement = statements.get(sql, client).await?;
        Ok(client.query(&statement, params).await?)
    }
}

impl Queries for Change<'_> {
    async fn query(&mut self, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>, Failure> {
        let statement = self.statements.get(sql, self.transaction.client()).await?;
        Ok(self.transaction.query(&statement, params).await?)
    }
}

#[derive(Default)]
struct Statements(HashMap<&'static str, Statement>);

impl Statements {
    async fn get(&mut self, sql: &'static str, client: &Client) -> Result<Statement, Failure> {
        if let Some(statement) = self.0.get(sql) {
            return Ok(statement.clone());
        }
        let statement = client.prepare(sql).await?;
        self.0.insert(sql, statement.clone());
        Ok(statement)
    }
}
