//! A PostgreSQL table of envelopes brought under new KEKs in batches, while it is in use, by a job that can be killed.
//!
//! `cargo run -p keystrata-examples --features postgres --example rewrap_table`, with a server that it asks for.

use std::{collections::BTreeMap, time::Duration};

use anyhow::ensure;
use keystrata_hierarchy::{
    Change, Context, Hierarchy, KekId, RewrapScan, Rewrapped,
    test_util::{ManualClock, ScriptedRootKey},
};
use keystrata_store::{PostgresConfig, PostgresKekStore};
use tokio_postgres::{Client, NoTls};

const ROWS: i64 = 2_000;
const TENANTS: [&str; 5] = ["acme", "globex", "hooli", "initech", "umbrella"];

/// Rows in one transaction: enough that round trips do not count, few enough that nobody waits for its locks.
const BATCH: i64 = 200;

const TABLES: &str = "
    DROP SCHEMA IF EXISTS keystrata_example_rewrap CASCADE;
    DROP SCHEMA IF EXISTS keystrata_example_rewrap_keys CASCADE;
    CREATE SCHEMA keystrata_example_rewrap;
    SET search_path TO keystrata_example_rewrap;
    CREATE TABLE document (id BIGINT PRIMARY KEY, tenant TEXT NOT NULL, envelope BYTEA NOT NULL);
    -- How far a job is, and when it began: written in the transaction of each batch.
    CREATE TABLE rewrap_job (name TEXT PRIMARY KEY, started_at BIGINT NOT NULL, done_up_to BIGINT NOT NULL);
";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = keystrata_examples::postgres();
    let (mut database, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    database.batch_execute(TABLES).await?;

    let config = PostgresConfig::from_url(&url)?.schema("keystrata_example_rewrap_keys")?;
    PostgresKekStore::migrate(config.clone()).await?;
    let clock = ManualClock::new();
    let keys = Hierarchy::builder()
        .root_key(ScriptedRootKey::new("test:root"))
        .store(PostgresKekStore::open(config).await?)
        .clock(clock.clone())
        .build()?;

    database.batch_execute("BEGIN").await?;
    for id in 1..=ROWS {
        write(&database, &keys, id, "first text").await?;
    }
    database.batch_execute("COMMIT").await?;
    let old = keks(&database).await?;
    for tenant in TENANTS {
        keys.account(tenant)?.rotate().await?;
    }
    // Processes that knew the old primary sealed under it for a while. A scan that begins after that misses nothing.
    clock.advance(Duration::from_secs(15 * 60));

    // Killed after three batches.
    let first = rewrap(&mut database, &keys, "spring", Some(3)).await?;
    println!("stopped in the middle: {first:?}, {} rows still under old KEKs", still_under(&database, &old).await?);
    assert_eq!((first.rewrapped, still_under(&database, &old).await?), (600, 1_400));

    // The table is in use meanwhile.
    write(&database, &keys, 1_742, "second text").await?;

    let second = rewrap(&mut database, &keys, "spring", None).await?;
    println!("gone on with: {second:?}, {} rows under old KEKs", still_under(&database, &old).await?);
    assert_eq!((second.rewrapped, second.unchanged), (1_399, 1)); // row 1,742 was under the new primary already
    assert_eq!(still_under(&database, &old).await?, 0);

    // A second job meets a writer between its read and its write: what he wrote stays.
    lost_update(&mut database, &keys).await?;

    for id in 1..=ROWS {
        let expected = if id == 1_742 { "second text" } else { "first text" };
        assert_eq!(read(&database, &keys, id).await?, expected);
    }
    println!("all {ROWS} rows open; destroyed, since nothing is under them:");

    // Now nothing is under the old KEKs, and the job's own record says when the looking began.
    let started_at: i64 = database.query_one("SELECT started_at FROM rewrap_job", &[]).await?.get(0);
    let scan = RewrapScan { started_at: u64::try_from(started_at)? };
    for (tenant, ids) in &old {
        for id in ids {
            assert_eq!(keys.account(&**tenant)?.destroy_version(*id, scan).await?, Change::Made);
            println!("    {tenant}: {id}");
        }
    }
    assert_eq!(read(&database, &keys, 1).await?, "first text");
    database.batch_execute("DROP SCHEMA keystrata_example_rewrap, keystrata_example_rewrap_keys CASCADE").await?;
    Ok(())
}

/// What a run of the job did.
#[derive(Debug, Default)]
struct Tally {
    rewrapped: u64,
    /// Under the primary already.
    unchanged: u64,
    /// Something else stood there when the new header was to be stored: sealed lately, so under the primary.
    changed_meanwhile: u64,
}

/// Brings all rows under the primaries of their tenants. Begins where the job of this name stopped; `most` batches, or all.
async fn rewrap(database: &mut Client, keys: &Hierarchy, job: &str, most: Option<u32>) -> anyhow::Result<Tally> {
    // Before the first row is read. A job that goes on keeps the time of its beginning.
    let scan = keys.account(TENANTS[0])?.begin_rewrap_scan();
    database
        .execute(
            "INSERT INTO rewrap_job VALUES ($1, $2, 0) ON CONFLICT DO NOTHING",
            &[&job, &i64::try_from(scan.started_at)?],
        )
        .await?;
    let mut tally = Tally::default();
    for _ in 0..most.unwrap_or(u32::MAX) {
        let Some(headers) = next_batch(database, job).await? else { break };
        let changes = rewrapped(keys, headers, &mut tally).await?;
        store(database, job, &changes, &mut tally).await?;
    }
    Ok(tally)
}

/// A batch by its place in the table; the whole rows stay there.
struct Headers {
    last: i64,
    rows: Vec<(i64, String, Vec<u8>)>,
}

async fn next_batch(database: &Client, job: &str) -> anyhow::Result<Option<Headers>> {
    let rows = database
        .query(
            "SELECT id, tenant, substring(envelope FOR 124) FROM document
              WHERE id > (SELECT done_up_to FROM rewrap_job WHERE name = $1) ORDER BY id LIMIT $2",
            &[&job, &BATCH],
        )
        .await?;
    let rows: Vec<_> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    Ok(rows.last().map(|(last, ..)| *last).map(|last| Headers { last, rows }))
}

/// What is to be stored, and where.
struct Changes {
    last: i64,
    ids: Vec<i64>,
    old: Vec<Vec<u8>>,
    new: Vec<Vec<u8>>,
}

/// Both KEKs of a tenant are in memory after its first row: from then on a header takes microseconds, and no KMS call.
async fn rewrapped(keys: &Hierarchy, headers: Headers, tally: &mut Tally) -> anyhow::Result<Changes> {
    let mut changes = Changes { last: headers.last, ids: Vec::new(), old: Vec::new(), new: Vec::new() };
    for (id, tenant, header) in headers.rows {
        match keys.account(&*tenant)?.rewrap(&header).await? {
            Rewrapped::Unchanged => tally.unchanged += 1,
            Rewrapped::New(new) => {
                changes.ids.push(id);
                changes.old.push(header);
                changes.new.push(new.to_vec());
            }
        }
    }
    Ok(changes)
}

/// Writes each new header where the old one still stands, and with it how far the job is: all of it or nothing.
async fn store(database: &mut Client, job: &str, changes: &Changes, tally: &mut Tally) -> anyhow::Result<()> {
    let transaction = database.transaction().await?;
    let stored = transaction
        .execute(
            "UPDATE document SET envelope = overlay(envelope PLACING change.new FROM 1)
               FROM unnest($1::BIGINT[], $2::BYTEA[], $3::BYTEA[]) AS change (id, old, new)
              WHERE document.id = change.id AND substring(envelope FOR 124) = change.old",
            &[&changes.ids, &changes.old, &changes.new],
        )
        .await?;
    transaction.execute("UPDATE rewrap_job SET done_up_to = $2 WHERE name = $1", &[&job, &changes.last]).await?;
    transaction.commit().await?;
    tally.rewrapped += stored;
    tally.changed_meanwhile += changes.ids.len() as u64 - stored;
    Ok(())
}

/// The compare-and-set at work: a header that was read before a row was written anew is not stored.
async fn lost_update(database: &mut Client, keys: &Hierarchy) -> anyhow::Result<()> {
    keys.account("acme")?.rotate().await?;
    database.execute("INSERT INTO rewrap_job VALUES ('summer', 0, 0)", &[]).await?;
    let headers = next_batch(database, "summer").await?.expect("there are rows");
    let row = headers.rows.iter().find(|(_, tenant, _)| tenant == "acme").map(|(id, ..)| *id).expect("one of acme's");
    write(database, keys, row, "written in between").await?;
    let mut tally = Tally::default();
    let changes = rewrapped(keys, headers, &mut tally).await?;
    store(database, "summer", &changes, &mut tally).await?;
    ensure!(tally.changed_meanwhile == 1 && read(database, keys, row).await? == "written in between");
    println!("a row that was written between read and write keeps what was written: {tally:?}");
    write(database, keys, row, "first text").await?;
    database.execute("DELETE FROM rewrap_job WHERE name = 'summer'", &[]).await?;
    Ok(())
}

fn tenant_of(id: i64) -> &'static str {
    TENANTS[usize::try_from(id).unwrap_or_default() % TENANTS.len()]
}

fn context(id: i64) -> Context {
    Context::new().with("document", id.to_string())
}

async fn write(database: &Client, keys: &Hierarchy, id: i64, text: &str) -> anyhow::Result<()> {
    let envelope = keys.account(tenant_of(id))?.seal(text.as_bytes(), &context(id)).await?;
    database
        .execute(
            "INSERT INTO document VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET envelope = excluded.envelope",
            &[&id, &tenant_of(id), &envelope],
        )
        .await?;
    Ok(())
}

async fn read(database: &Client, keys: &Hierarchy, id: i64) -> anyhow::Result<String> {
    let row = database.query_one("SELECT tenant, envelope FROM document WHERE id = $1", &[&id]).await?;
    let (tenant, envelope): (String, Vec<u8>) = (row.get(0), row.get(1));
    Ok(String::from_utf8(keys.account(&*tenant)?.open(&envelope, &context(id)).await?)?)
}

/// Which KEKs each tenant's rows are under: the id stands in each envelope's bytes 4 to 20, which SQL can read too.
async fn keks(database: &Client) -> anyhow::Result<BTreeMap<String, Vec<KekId>>> {
    let sql = "SELECT DISTINCT tenant, substring(envelope FROM 5 FOR 16) FROM document";
    let mut keks: BTreeMap<String, Vec<KekId>> = BTreeMap::new();
    for row in database.query(sql, &[]).await? {
        let id: [u8; 16] = row.get::<_, &[u8]>(1).try_into()?;
        keks.entry(row.get(0)).or_default().push(KekId::from_bytes(id));
    }
    Ok(keks)
}

async fn still_under(database: &Client, old: &BTreeMap<String, Vec<KekId>>) -> anyhow::Result<i64> {
    let ids: Vec<Vec<u8>> = old.values().flatten().map(|id| id.as_bytes().to_vec()).collect();
    let sql = "SELECT count(*) FROM document WHERE substring(envelope FROM 5 FOR 16) = ANY ($1)";
    Ok(database.query_one(sql, &[&ids]).await?.get(0))
}
