//! What DynamoDB says, in the classes of [`StoreError`], with what to do. `docs/stores.md` has the table.

use std::{error::Error, sync::Arc};

use aws_sdk_dynamodb::{
    error::{ProvideErrorMetadata, SdkError},
    operation::RequestId,
};
use keystrata_hierarchy::{Cause, StoreError};
use tracing::{instrument::WithSubscriber, subscriber::NoSubscriber};

/// Runs a call of the SDK without its log: at the finer levels that holds whole requests, credentials included.
pub(super) async fn unlogged<T>(call: impl Future<Output = T>) -> T {
    call.with_subscriber(NoSubscriber::default()).await
}

/// Why a request failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    pub(super) error: StoreError,
}

/// What it means for trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A condition does not hold: nothing was done, and what is there has to be read again.
    Condition,
    /// Another transaction is in the way, or the service asks to slow down: nothing was done.
    Busy,
    /// No answer, or one that does not say: it may have been done.
    Lost,
    /// There is no such table.
    Missing,
    /// There is a table of that name.
    Exists,
    /// The table's backups cannot be switched on yet.
    NotYet,
    /// The service, a stand-in, does not know the operation.
    Unsupported,
    /// Something else: trying again does not help.
    Final,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self { kind: Kind::Final, error }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// The words of the service or of its client, in one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Said(String);

fn said(text: &str) -> Cause {
    Arc::new(Said(one_line(text)))
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect()
}

/// An error answer.
struct Told<'a> {
    operation: &'static str,
    code: &'a str,
    status: u16,
    message: Option<&'a str>,
    request: Option<&'a str>,
    /// Of a transaction, why each of its items did not go.
    reasons: &'a [String],
}

/// The one place where an error of the SDK becomes one of ours. `at` says where, `reasons` why a transaction was cancelled.
///
/// The SDK's error is not kept as the cause: its `Debug` shows whole answers.
pub(super) fn failure<E>(at: &str, operation: &'static str, error: &SdkError<E>, reasons: &[String]) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let lost = |what: &str| Failure {
        kind: Kind::Lost,
        error: StoreError::Unavailable { message: format!("{at}: {what} ({operation})"), source: None },
    };
    match error {
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            if (200..300).contains(&status) {
                return lost(NONSENSE);
            }
            let code = answer.err().code().unwrap_or_default();
            let request = answer.err().meta().request_id();
            of_answer(at, &Told { operation, code, status, message: answer.err().message(), request, reasons })
        }
        SdkError::TimeoutError(_) => lost("no answer in time: check the network, then call_timeout"),
        SdkError::ResponseError(_) => lost(NONSENSE),
        // Failed before an answer: no credentials, no network, no certificate. The chain tells.
        SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) => before_answer(at, operation, error),
        _ => lost("no answer"),
    }
}

const NONSENSE: &str = "what answers is not DynamoDB, or broke off: check the endpoint, then try again";

fn before_answer(at: &str, operation: &str, error: &(dyn Error + 'static)) -> Failure {
    let mut chain = error.to_string();
    let mut rest = error.source();
    while let Some(cause) = rest {
        chain = format!("{chain}: {cause}");
        rest = cause.source();
    }
    let is_about_credentials = ["credential", "identity", "token", "profile"].iter().any(|word| chain.contains(word));
    let (kind, advice) = if is_about_credentials {
        (Kind::Final, "no usable AWS credentials: set AWS_PROFILE or AWS_ACCESS_KEY_ID, or give this machine a role")
    } else {
        (Kind::Lost, "no connection, or it broke off: check the network, the region and the endpoint, then try again")
    };
    // What a credential process writes is told in the chain, and may be a secret.
    let source = (!is_about_credentials).then(|| said(&chain));
    Failure { kind, error: StoreError::Unavailable { message: format!("{at}: {advice} ({operation})"), source } }
}

/// What an answer means, by its code; of a cancelled transaction, by the reasons of its items.
fn class_of(told: &Told<'_>) -> (Kind, Option<&'static str>) {
    match told.code {
        "TransactionCanceledException" => {
            let has = |reason: &str| told.reasons.iter().any(|found| found == reason);
            if has("ValidationError") || has("ItemCollectionSizeLimitExceeded") {
                (Kind::Final, None)
            } else if has("ConditionalCheckFailed") {
                (Kind::Condition, Some(IN_THE_WAY))
            } else if has("TransactionConflict") {
                (Kind::Busy, Some(IN_THE_WAY))
            } else if has("ThrottlingError") || has("ProvisionedThroughputExceeded") {
                (Kind::Busy, Some(SLOWER))
            } else {
                (Kind::Lost, Some(FAILS))
            }
        }
        "ConditionalCheckFailedException" => (Kind::Condition, Some(IN_THE_WAY)),
        "TransactionConflictException" | "TransactionInProgressException" | "ReplicatedWriteConflictException" => {
            (Kind::Busy, Some(IN_THE_WAY))
        }
        "ProvisionedThroughputExceededException"
        | "ThrottlingException"
        | "Throttling"
        | "RequestLimitExceeded"
        | "LimitExceededException"
        | "TooManyRequestsException" => (Kind::Busy, Some(SLOWER)),
        "ResourceNotFoundException" | "TableNotFoundException" => (Kind::Missing, Some(MISSING)),
        "ResourceInUseException" | "TableAlreadyExistsException" => (Kind::Exists, Some(IN_THE_WAY)),
        "ContinuousBackupsUnavailableException" => (Kind::NotYet, Some(IN_THE_WAY)),
        "UnknownOperationException" | "NotImplemented" => (Kind::Unsupported, Some(FAILS)),
        "AccessDeniedException" | "AccessDenied" | "NotAuthorized" | "OptInRequired" => {
            (Kind::Final, Some("AWS does not allow that to these credentials: grant it what docs/stores.md lists"))
        }
        "ExpiredTokenException"
        | "ExpiredToken"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "IncompleteSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "InvalidAccessKeyId"
        | "AuthFailure" => (Kind::Final, Some(CREDENTIALS)),
        "RequestExpired" | "RequestTimeTooSkewed" => {
            (Kind::Final, Some("AWS finds the request's time wrong: set this machine's clock"))
        }
        "ValidationException" | "SerializationException" | "ItemCollectionSizeLimitExceededException" => {
            (Kind::Final, None)
        }
        _ if told.status == 429 => (Kind::Busy, Some(SLOWER)),
        _ => (Kind::Lost, Some(FAILS)),
    }
}

pub(super) const MISSING: &str =
    "there is no KEK store: check the table's name and region, or make it with `keystrata store migrate`";
const IN_THE_WAY: &str = "other changes of the account are in the way: try again";
const SLOWER: &str = "DynamoDB asks to slow down: try again, and raise the table's limits if it goes on";
const CREDENTIALS: &str = "the AWS credentials are missing, expired or wrong: renew them";
const FAILS: &str = "DynamoDB fails: try again";

fn of_answer(at: &str, told: &Told<'_>) -> Failure {
    let code = one_line(if told.code.is_empty() { "an error without a code" } else { told.code });
    let request = told.request.map(|id| format!(", request id {}", one_line(id))).unwrap_or_default();
    let end = format!("({}, {code}, status {}{request})", told.operation, told.status);
    let (kind, may_pass) = class_of(told);
    // A wrong signature is told with the signed request, session token included: no source.
    let source = told.message.filter(|_| may_pass != Some(CREDENTIALS)).map(said);
    let error = if let Some(what) = may_pass {
        StoreError::Unavailable { message: format!("{at}: {what} {end}"), source }
    } else {
        let what = "the table is not that of a KEK store: check its name, or restore it from a backup";
        StoreError::Incompatible { message: format!("{at}: {what} {end}"), source }
    };
    Failure { kind, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: &str, reasons: &[&str]) -> Failure {
        let reasons: Vec<_> = reasons.iter().map(|&reason| reason.to_owned()).collect();
        let told = Told {
            operation: "TransactWriteItems",
            code,
            status: 400,
            message: Some("words\nof DynamoDB"),
            request: Some("r-1"),
            reasons: &reasons,
        };
        of_answer("DynamoDB table \"keys\"", &told)
    }

    #[test]
    fn codes_fall_into_the_classes_of_the_table() {
        for (code, kind) in [
            ("ConditionalCheckFailedException", Kind::Condition),
            ("TransactionConflictException", Kind::Busy),
            ("TransactionInProgressException", Kind::Busy),
            ("ProvisionedThroughputExceededException", Kind::Busy),
            ("ThrottlingException", Kind::Busy),
            ("RequestLimitExceeded", Kind::Busy),
            ("ResourceNotFoundException", Kind::Missing),
            ("AccessDeniedException", Kind::Final),
            ("ExpiredTokenException", Kind::Final),
            ("InternalServerError", Kind::Lost),
            ("", Kind::Lost),
            ("New", Kind::Lost),
        ] {
            let Failure { kind: found, error } = of(code, &[]);
            assert_eq!(found, kind, "{code}");
            assert!(matches!(error, StoreError::Unavailable { .. }), "{code}: {error:?}");
            assert!(error.to_string().contains("r-1") && !error.to_string().contains('\n'), "{error}");
        }
        for code in ["ValidationException", "SerializationException"] {
            let Failure { kind, error } = of(code, &[]);
            assert!(kind == Kind::Final && matches!(error, StoreError::Incompatible { .. }), "{code}: {error:?}");
        }
    }

    #[test]
    fn a_cancelled_transaction_is_what_its_worst_item_says() {
        for (reasons, kind) in [
            (&["None", "ConditionalCheckFailed"][..], Kind::Condition),
            (&["TransactionConflict", "ConditionalCheckFailed"], Kind::Condition),
            (&["None", "TransactionConflict"], Kind::Busy),
            (&["ThrottlingError"], Kind::Busy),
            (&["ProvisionedThroughputExceeded", "None"], Kind::Busy),
            (&["ConditionalCheckFailed", "ValidationError"], Kind::Final),
            (&[], Kind::Lost),
        ] {
            assert_eq!(of("TransactionCanceledException", reasons).kind, kind, "{reasons:?}");
        }
    }

    #[test]
    fn what_is_said_of_credentials_is_not_repeated() {
        let of_chain = |text: &str| before_answer("t", "Query", &std::io::Error::other(text.to_owned()));
        let found = of_chain("credential process: hunter2");
        assert!(found.kind == Kind::Final && !format!("{found:?}").contains("hunter2"), "{found:?}");
        assert_eq!(of_chain("connection refused").kind, Kind::Lost);
        assert!(!format!("{:?}", of("InvalidSignatureException", &[])).contains("words"));
    }
}
