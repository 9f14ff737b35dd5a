//! Requests, and when they are sent again.
//!
//! The SDK's own retries are off. A request that was refused because the service is busy or another transaction is in the
//! way goes again after a pause, a read without an answer once more. A change without an answer is looked into: the
//! revision that it would have given its account says whether it was done; if not, it is sent once more.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::{transact_get_items::TransactGetItemsError, transact_write_items::TransactWriteItemsError},
    types::{AttributeValue, CancellationReason, Get, KeysAndAttributes, TransactGetItem},
};
use keystrata_hierarchy::StoreError;
use keystrata_memory::ProcessLocal;
use tokio::{runtime::Handle, time::timeout};

use super::{
    config::DynamoDbConfig,
    error::{Failure, Kind, failure, unlogged},
    items::{Item, key_of, keyed},
    keys::Key,
};

/// Keys in one batch of reads at most.
const BATCH: usize = 100;
/// How often a request is sent while the service is busy.
const ATTEMPTS: u32 = 8;
/// How often a read or a change is sent that got no answer.
pub(super) const LOST_ATTEMPTS: u32 = 2;

pub(super) struct Table {
    /// A forked child must not write into its parent's sockets.
    client: ProcessLocal<Client>,
    config: DynamoDbConfig,
    /// Where it is, for messages.
    pub(super) at: Arc<str>,
}

impl Table {
    pub(super) async fn new(config: DynamoDbConfig) -> Result<Self, StoreError> {
        runtime()?;
        let sdk = Box::pin(config.load()).await?;
        let at = config.shown().into();
        Ok(Self { client: ProcessLocal::new(move || Client::from_conf(sdk.clone())), config, at })
    }

    pub(super) fn config(&self) -> &DynamoDbConfig {
        &self.config
    }

    pub(super) fn client(&self) -> &Client {
        self.client.get()
    }

    pub(super) fn name(&self) -> &str {
        &self.config.table
    }

    /// A whole call, which ends when its time is over.
    pub(super) async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        runtime()?;
        let time = self.config.call_timeout;
        match timeout(time, Box::pin(call)).await {
            Ok(answer) => answer,
            Err(late) => {
                let message =
                    format!("{}: not done within {time:?}: look at the table's throttling, then try again", self.at);
                Err(StoreError::unavailable(message, late))
            }
        }
    }

    /// The item as of all writes that were answered before.
    pub(super) async fn get(&self, key: &Key) -> Result<Option<Item>, Failure> {
        let request =
            || self.client().get_item().table_name(self.name()).set_key(Some(keyed(key))).consistent_read(true).send();
        Ok(self.read("GetItem", request).await?.item)
    }

    /// Items, each as of all writes that were answered before, by key; those that are not there are left out.
    pub(super) async fn get_all(&self, keys: &[Key]) -> Result<HashMap<Key, Item>, Failure> {
        let mut found = HashMap::with_capacity(keys.len());
        for keys in keys.chunks(BATCH) {
            let mut left: Vec<Item> = keys.iter().map(keyed).collect();
            let mut attempt = 0;
            while !left.is_empty() {
                let wanted = KeysAndAttributes::builder().set_keys(Some(left)).consistent_read(true).build();
                let wanted = wanted.map_err(|error| self.unavailable("no request can be made of it", error))?;
                let request = || self.client().batch_get_item().request_items(self.name(), wanted.clone()).send();
                let answer = self.read("BatchGetItem", request).await?;
                let items = answer.responses.and_then(|mut tables| tables.remove(self.name())).unwrap_or_default();
                let has_some = !items.is_empty();
                found.extend(items.into_iter().filter_map(|item| Some((key_of(&item)?, item))));
                left = answer
                    .unprocessed_keys
                    .and_then(|mut tables| tables.remove(self.name()))
                    .map(|rest| rest.keys)
                    .unwrap_or_default();
                // An answer is full at 16 MB; one without any item is a busy table.
                attempt = if has_some { 0 } else { attempt + 1 };
                if !left.is_empty() && attempt > 0 {
                    if attempt == ATTEMPTS {
                        return Err(self.busy().into());
                    }
                    pause(attempt).await;
                }
            }
        }
        Ok(found)
    }

    /// Items as of one moment.
    pub(super) async fn get_together(&self, keys: &[Key]) -> Result<Vec<Option<Item>>, Failure> {
        let mut items = Vec::with_capacity(keys.len());
        for key in keys {
            let get = Get::builder().table_name(self.name()).set_key(Some(keyed(key))).build();
            let get = get.map_err(|error| self.unavailable("no request can be made of it", error))?;
            items.push(TransactGetItem::builder().get(get).build());
        }
        let request = || self.client().transact_get_items().set_transact_items(Some(items.clone())).send();
        let answer = self.read("TransactGetItems", request).await?.responses.unwrap_or_default();
        Ok(answer.into_iter().map(|response| response.item.filter(|item| !item.is_empty())).collect())
    }

    /// At most `limit` items of one `pk`, in the order of their `sk`; those after `after`, or all.
    pub(super) async fn query(&self, pk: &str, after: Option<&str>, limit: usize) -> Result<Vec<Item>, Failure> {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let mut items = Vec::new();
        let mut start = None;
        while items.len() < limit {
            let left = i32::try_from(limit - items.len()).unwrap_or(i32::MAX);
            let request = || {
                let request = self.client().query().table_name(self.name()).consistent_read(true);
                let request = request.expression_attribute_values(":pk", text(pk));
                let request = match after {
                    Some(after) => request
                        .key_condition_expression("pk = :pk AND sk > :after")
                        .expression_attribute_values(":after", text(after)),
                    None => request.key_condition_expression("pk = :pk"),
                };
                request.limit(left).set_exclusive_start_key(start.clone()).send()
            };
            let page = self.read("Query", request).await?;
            items.extend(page.items.unwrap_or_default());
            start = page.last_evaluated_key.filter(|key| !key.is_empty());
            if start.is_none() {
                break;
            }
        }
        items.truncate(limit);
        Ok(items)
    }

    async fn read<T, E, F>(&self, operation: &'static str, request: impl Fn() -> F) -> Result<T, Failure>
    where
        E: Reasons,
        F: Future<Output = Result<T, SdkError<E>>>,
    {
        self.ask(operation, request, LOST_ATTEMPTS).await
    }

    /// Sends a request until it is answered, or often enough.
    pub(super) async fn ask<T, E, F>(
        &self,
        operation: &'static str,
        request: impl Fn() -> F,
        lost_attempts: u32,
    ) -> Result<T, Failure>
    where
        E: Reasons,
        F: Future<Output = Result<T, SdkError<E>>>,
    {
        let (mut attempt, mut lost) = (0, 0);
        loop {
            attempt += 1;
            // Boxed: the SDK's futures have kilobytes, and every caller's would have them too.
            let error = match unlogged(Box::pin(request())).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let reasons = error.as_service_error().map(Reasons::reasons).unwrap_or_default();
            let failure = failure(&self.at, operation, &error, &reasons);
            lost += u32::from(failure.kind == Kind::Lost);
            let may_go_again = match failure.kind {
                Kind::Busy => attempt < ATTEMPTS,
                Kind::Lost => lost < lost_attempts,
                _ => false,
            };
            if !may_go_again {
                return Err(failure);
            }
            pause(attempt).await;
        }
    }

    /// After more changes of one account by others than anybody makes.
    pub(super) fn busy(&self) -> StoreError {
        let message = format!("{}: too busy for this: try again", self.at);
        StoreError::Unavailable { message, source: None }
    }

    pub(super) fn unavailable(&self, what: &str, error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
        StoreError::unavailable(format!("{}: {what}", self.at), error)
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Table").field(&self.at).finish()
    }
}

/// Timers and connections are the runtime's.
fn runtime() -> Result<Handle, StoreError> {
    Handle::try_current()
        .map_err(|error| StoreError::unavailable("the DynamoDB store is used from a tokio runtime alone", error))
}

/// Before the next attempt: 20 ms at most, then twice as long each time, and a random part of that, so that those who were
/// in each other's way are not again.
pub(super) async fn pause(attempt: u32) {
    let longest = Duration::from_millis(20) * 2_u32.pow(attempt.clamp(1, 7) - 1);
    tokio::time::sleep(longest.mul_f64(fastrand::f64())).await;
}

/// Why the items of a transaction did not go; nothing for other requests.
pub(super) trait Reasons: ProvideErrorMetadata + std::error::Error + 'static {
    fn reasons(&self) -> Vec<String> {
        Vec::new()
    }
}

fn codes(reasons: &[CancellationReason]) -> Vec<String> {
    reasons.iter().filter_map(|reason| reason.code().map(str::to_owned)).collect()
}

impl Reasons for TransactWriteItemsError {
    fn reasons(&self) -> Vec<String> {
        match self {
            Self::TransactionCanceledException(cancelled) => codes(cancelled.cancellation_reasons()),
            _ => Vec::new(),
        }
    }
}

impl Reasons for TransactGetItemsError {
    fn reasons(&self) -> Vec<String> {
        match self {
            Self::TransactionCanceledException(cancelled) => codes(cancelled.cancellation_reasons()),
            _ => Vec::new(),
        }
    }
}

macro_rules! no_reasons {
    ($($operation:ident::$error:ident),*) => {
        $(impl Reasons for aws_sdk_dynamodb::operation::$operation::$error {})*
    };
}

no_reasons!(
    get_item::GetItemError,
    batch_get_item::BatchGetItemError,
    query::QueryError,
    create_table::CreateTableError,
    describe_table::DescribeTableError,
    update_continuous_backups::UpdateContinuousBackupsError
);
