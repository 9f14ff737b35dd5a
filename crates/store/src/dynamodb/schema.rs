//! The table: how it is made, and what is refused before anything is read from it.

use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, PointInTimeRecoverySpecification,
    ScalarAttributeType, TableStatus,
};
use keystrata_hierarchy::StoreError;

use super::{
    commit::{Base, Write},
    error::{Failure, Kind, MISSING},
    items::{Item, keyed, number},
    keys::Key,
    table::{Table, pause},
};
use crate::Migration;

/// What the item of the schema says. A release that changes the items raises it.
pub(super) const VERSION: i32 = 1;

/// How long a new table may take until it can be used, and until its backups can be switched on.
const PATIENCE: Duration = Duration::from_mins(2);

const MAKE: &str = "make the table, unless it is there: paid by request, protected from deletion";
const BACK_UP: &str = "switch on its point-in-time recovery, where the service has that";
const MARK: &str = "write down the schema version";

/// Nothing, if a store of this release is there. `item` is that of the schema.
pub(super) fn check(at: &str, item: Option<&Item>) -> Result<(), StoreError> {
    match version(at, item)? {
        VERSION => Ok(()),
        0 => Err(StoreError::Unavailable { message: format!("{at}: {MISSING}"), source: None }),
        found => Err(not_this_version(at, found)),
    }
}

/// 0 if no store is there.
fn version(at: &str, item: Option<&Item>) -> Result<i32, StoreError> {
    let Some(item) = item else { return Ok(0) };
    let found = number(item, "version").and_then(|version| i32::try_from(version).ok()).filter(|found| *found > 0);
    found.ok_or_else(|| StoreError::incompatible(format!("{at}: its schema version is none: restore it from a backup")))
}

fn not_this_version(at: &str, found: i32) -> StoreError {
    StoreError::incompatible(format!(
        "{at}: schema version {found}, and this release knows version {VERSION}: update keystrata"
    ))
}

/// Reads the schema version, and with it sees that the table is one of these keys.
pub(super) async fn open(table: &Table) -> Result<(), StoreError> {
    let item = table.get(&Key::schema()).await?;
    check(&table.at, item.as_ref())
}

/// What [`migrate`] would do.
pub(super) async fn plan(table: &Table) -> Result<Migration, StoreError> {
    let item = match table.get(&Key::schema()).await {
        Ok(item) => item,
        Err(failure) if failure.kind == Kind::Missing => None,
        Err(failure) => return Err(failure.into()),
    };
    let from = version(&table.at, item.as_ref())?;
    let steps = match from {
        0 => vec![MAKE, BACK_UP, MARK],
        VERSION => Vec::new(),
        found => return Err(not_this_version(&table.at, found)),
    };
    Ok(Migration { from, to: VERSION, steps })
}

/// Any number of processes may do it at once: each step does nothing where it was done.
pub(super) async fn migrate(table: &Table) -> Result<i32, StoreError> {
    if plan(table).await?.steps.is_empty() {
        return Ok(VERSION);
    }
    let deadline = Instant::now() + PATIENCE;
    make(table).await?;
    wait_until_active(table, deadline).await?;
    back_up(table, deadline).await?;
    let mut item = keyed(&Key::schema());
    item.insert("version".into(), AttributeValue::N(VERSION.to_string()));
    match table.transact(&[Write::Put { item, only_if: Base::Nothing }]).await {
        Err(failure) if failure.kind != Kind::Condition => Err(failure.into()),
        _ => open(table).await.map(|()| VERSION),
    }
}

async fn make(table: &Table) -> Result<(), Failure> {
    let mut request = table.client().create_table().table_name(table.name());
    for (name, kind) in [("pk", KeyType::Hash), ("sk", KeyType::Range)] {
        let key = KeySchemaElement::builder().attribute_name(name).key_type(kind).build();
        let attribute =
            AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S).build();
        let (Ok(key), Ok(attribute)) = (key, attribute) else {
            return Err(StoreError::incompatible("no request can be made of a key").into());
        };
        request = request.key_schema(key).attribute_definitions(attribute);
    }
    let request = request.billing_mode(BillingMode::PayPerRequest).deletion_protection_enabled(true);
    match table.ask("CreateTable", || request.clone().send(), 1).await {
        // Made by somebody: whether with these keys shows when it is first read.
        Err(failure) if failure.kind == Kind::Exists => Ok(()),
        answer => answer.map(drop),
    }
}

async fn wait_until_active(table: &Table, deadline: Instant) -> Result<(), StoreError> {
    for attempt in 1.. {
        let request = || table.client().describe_table().table_name(table.name()).send();
        let status = match table.ask("DescribeTable", request, 2).await {
            Ok(answer) => answer.table.and_then(|table| table.table_status),
            // It has just been made, and is not known everywhere.
            Err(failure) if failure.kind == Kind::Missing => None,
            Err(failure) => return Err(failure.into()),
        };
        if matches!(status, Some(TableStatus::Active | TableStatus::Updating)) {
            break;
        }
        if Instant::now() > deadline {
            return Err(not_yet(table, "the table is not ready"));
        }
        pause(attempt).await;
    }
    Ok(())
}

async fn back_up(table: &Table, deadline: Instant) -> Result<(), StoreError> {
    for attempt in 1.. {
        let on = PointInTimeRecoverySpecification::builder().point_in_time_recovery_enabled(true).build();
        let on = on.map_err(|error| StoreError::unavailable("no request can be made of it", error))?;
        let request = || {
            let request = table.client().update_continuous_backups().table_name(table.name());
            request.point_in_time_recovery_specification(on.clone()).send()
        };
        match table.ask("UpdateContinuousBackups", request, 2).await {
            Err(failure) if failure.kind == Kind::NotYet => {}
            // A stand-in that has no backups.
            Err(failure) if failure.kind == Kind::Unsupported => break,
            answer => return answer.map(drop).map_err(Into::into),
        }
        if Instant::now() > deadline {
            return Err(not_yet(table, "its point-in-time recovery cannot be switched on yet"));
        }
        pause(attempt).await;
    }
    Ok(())
}

fn not_yet(table: &Table, what: &str) -> StoreError {
    let message = format!("{}: {what}: run `keystrata store migrate` again in a minute", table.at);
    StoreError::Unavailable { message, source: None }
}
