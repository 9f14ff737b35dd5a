//! The tables: how they are made and brought forward, and what is refused before anything is read from them.

use keystrata_hierarchy::StoreError;
use tokio_postgres::{Client, error::SqlState};

use super::{
    connections::{Connections, Connector},
    error::Failure,
};
use crate::Migration;

/// Of the last of [`MIGRATIONS`].
pub(super) const VERSION: i32 = 1;

/// One for each version, from 1. A release that changes the tables adds one and never edits another.
///
/// `account` is the head of a path: the primary, which may be disabled, the lowest version that is used, and the tombstone
/// of a path that was shredded; its time is an unsigned number in a signed column. Whoever changes anything of a path
/// locks its row here first. `record` is a whole KEK record; the columns before it are copies of its fields that it is found
/// by. State 1 is primary. `wrap` finds the records by what wraps them; see `crate::wrappers`.
const MIGRATIONS: [&str; VERSION as usize] = ["
    CREATE TABLE keystrata_schema (
        is_the_only_row boolean PRIMARY KEY DEFAULT true CHECK (is_the_only_row),
        version         integer NOT NULL
    );
    INSERT INTO keystrata_schema (version) VALUES (1);
    CREATE TABLE account (
        path          bytea PRIMARY KEY,
        primary_id    bytea CHECK (length(primary_id) = 16),
        min_version   bigint NOT NULL CHECK (min_version BETWEEN 1 AND 4294967295),
        shredded_at   bigint,
        shredded_keks bigint CHECK (shredded_keks BETWEEN 0 AND 4294967295),
        CHECK ((shredded_at IS NULL) = (shredded_keks IS NULL)),
        CHECK (shredded_at IS NULL OR primary_id IS NULL)
    );
    CREATE TABLE kek (
        path    bytea NOT NULL REFERENCES account,
        kek_id  bytea NOT NULL CHECK (length(kek_id) = 16),
        version bigint NOT NULL CHECK (version BETWEEN 1 AND 4294967295),
        state   smallint NOT NULL CHECK (state BETWEEN 1 AND 4),
        record  bytea NOT NULL CHECK (length(record) <= 131072),
        PRIMARY KEY (path, kek_id),
        UNIQUE (path, version)
    );
    CREATE UNIQUE INDEX kek_primary ON kek (path) WHERE state = 1;
    CREATE TABLE wrap (
        wrapper bytea NOT NULL CHECK (length(wrapper) = 32),
        path    bytea NOT NULL,
        kek_id  bytea NOT NULL,
        PRIMARY KEY (wrapper, path, kek_id),
        FOREIGN KEY (path, kek_id) REFERENCES kek
    );
    CREATE INDEX wrap_record ON wrap (path, kek_id);
"];

/// What each of them does, for the operator.
const STEPS: [&str; VERSION as usize] = ["make the schema, unless it is there, and the tables of a KEK store in it"];

/// Nothing, if a store of this release is there.
pub(super) async fn check(client: &Client, connector: &Connector) -> Result<(), Failure> {
    let (at, schema) = (&connector.at, &connector.config.schema);
    let unavailable = |what: &str| StoreError::Unavailable { message: format!("{at}: {what}"), source: None };
    let sql = "SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = $1";
    match client.query_opt(sql, &[schema]).await?.map(|row| row.try_get(0)).transpose()? {
        Some(true) => {}
        Some(false) => {
            return Err(unavailable("the user may not use the schema: grant it what docs/stores.md lists").into());
        }
        None => return Err(unavailable(MISSING).into()),
    }
    match version(client).await? {
        Some(VERSION) => Ok(()),
        None => Err(unavailable(MISSING).into()),
        Some(found) => Err(not_this_version(at, found).into()),
    }
}

const MISSING: &str = "there is no KEK store: check the URL and the schema, or make one with `keystrata store migrate`";

/// The refusal of a store that another release has made or taken over.
pub(super) fn not_this_version(at: &str, found: i32) -> StoreError {
    StoreError::incompatible(if found > VERSION {
        format!("{at}: schema version {found}, and this release knows version {VERSION}: update keystrata")
    } else {
        format!("{at}: schema version {found}, and this release uses version {VERSION}: run `keystrata store migrate`")
    })
}

/// `None` if no store is there.
async fn version(client: &Client) -> Result<Option<i32>, Failure> {
    match client.query_opt("SELECT version FROM keystrata_schema", &[]).await {
        Ok(row) => Ok(row.map(|row| row.try_get(0)).transpose()?),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What [`migrate`] would do.
pub(super) async fn plan(connections: &Connections) -> Result<Migration, StoreError> {
    let connector = connections.connector();
    let found = async { version(&connector.connect().await?).await };
    let from = found.await.map_err(|failure: Failure| failure.into_store_error(&connector.at))?.unwrap_or(0);
    let steps = usize::try_from(from).ok().and_then(|done| STEPS.get(done..));
    let steps = steps.ok_or_else(|| not_this_version(&connector.at, from))?.to_vec();
    Ok(Migration { from, to: VERSION, steps })
}

pub(super) async fn migrate(connections: &Connections) -> Result<i32, StoreError> {
    let connector = connections.connector();
    let migrated = migrate_with(connector).await;
    migrated.map_err(|failure| failure.into_store_error(&connector.at))
}

async fn migrate_with(connector: &Connector) -> Result<i32, Failure> {
    let mut client = connector.connect().await?;
    let schema = &connector.config.schema;
    let change = client.transaction().await?;
    // A table of millions takes its time.
    change.batch_execute("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0").await?;
    // One at a time in each schema; the lock goes with the transaction.
    change.execute("SELECT pg_advisory_xact_lock(1264809074, hashtext($1))", &[schema]).await?;
    // Not `IF NOT EXISTS`, which asks for the right to make schemas even where there is nothing to make.
    let exists = change.query_opt("SELECT 1 FROM pg_namespace WHERE nspname = $1", &[schema]).await?.is_some();
    if !exists {
        change.batch_execute(&format!("CREATE SCHEMA \"{schema}\"")).await?;
    }
    let is_made = change.query_one("SELECT to_regclass('keystrata_schema') IS NOT NULL", &[]).await?.try_get(0)?;
    let found =
        if is_made { change.query_one("SELECT version FROM keystrata_schema", &[]).await?.try_get(0)? } else { 0 };
    let Some(steps) = usize::try_from(found).ok().and_then(|done| MIGRATIONS.get(done..)) else {
        return Err(not_this_version(&connector.at, found).into());
    };
    for step in steps {
        change.batch_execute(step).await?;
    }
    if !steps.is_empty() {
        change.execute("UPDATE keystrata_schema SET version = $1", &[&VERSION]).await?;
    }
    change.commit().await?;
    Ok(VERSION)
}
