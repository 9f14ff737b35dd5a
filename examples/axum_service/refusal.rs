//! From typed errors to what an HTTP client can act on.

use std::time::Duration;

use axum::{
    http::{StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use keystrata_hierarchy::{KeyError, OpenError, RootKeyError, SealError};
use keystrata_kms::BreakerOpen;

/// Why a request was not done.
pub(crate) enum Refusal {
    NoSuchDocument,
    TooLong,
    Key(KeyError),
    /// Something is not in order here, and not the client's business.
    Here(Box<dyn std::error::Error>),
    Database(Box<dyn std::error::Error>),
}

impl From<SealError> for Refusal {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Key(error) => Self::Key(error),
            SealError::TooLong { .. } => Self::TooLong,
            other => Self::Here(other.into()),
        }
    }
}

impl From<OpenError> for Refusal {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Key(error) => Self::Key(error),
            // The envelope in the database is not the one that was stored there.
            other => Self::Here(other.into()),
        }
    }
}

impl From<tokio_postgres::Error> for Refusal {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

impl From<deadpool_postgres::PoolError> for Refusal {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        Self::Database(error.into())
    }
}

/// How long a client should wait when nothing says it more precisely.
const A_WHILE: Duration = Duration::from_secs(1);

impl Refusal {
    /// The status, when to come back if that helps, and what the client is told. What is not his business goes to the log.
    fn answer(&self) -> (StatusCode, Option<Duration>, &'static str) {
        match self {
            Self::NoSuchDocument => (StatusCode::NOT_FOUND, None, "no such document"),
            Self::TooLong => (StatusCode::PAYLOAD_TOO_LARGE, None, "the document is too long"),
            Self::Here(_) => (StatusCode::INTERNAL_SERVER_ERROR, None, "the document cannot be used"),
            Self::Database(_) => (StatusCode::SERVICE_UNAVAILABLE, Some(A_WHILE), "the database does not answer"),
            Self::Key(error) => Self::of_key(error),
        }
    }

    fn of_key(error: &KeyError) -> (StatusCode, Option<Duration>, &'static str) {
        match error {
            // Less would help: this process's calls are used up, or all of them at the KMS.
            KeyError::Overloaded(RootKeyError::Overloaded { retry_after, .. }) => {
                (StatusCode::TOO_MANY_REQUESTS, Some(*retry_after), "too much at once")
            }
            KeyError::Throttled(_) => (StatusCode::TOO_MANY_REQUESTS, Some(A_WHILE), "too much at once"),
            KeyError::RootUnavailable(error) => {
                let pause = BreakerOpen::of(error).map_or(A_WHILE, |breaker| breaker.retry_after);
                (StatusCode::SERVICE_UNAVAILABLE, Some(pause), "the keys cannot be had at the moment")
            }
            // The tenant, or whoever looks after the KMS, has to act first.
            KeyError::Denied(_) | KeyError::SealingDisabled { .. } | KeyError::WrongState { .. } => {
                (StatusCode::FORBIDDEN, None, "the keys of this tenant were disabled")
            }
            KeyError::Shredded(_) => (StatusCode::GONE, None, "the keys of this tenant were destroyed"),
            KeyError::Parent { source, .. } => Self::of_key(source),
            other if other.is_retryable() => {
                (StatusCode::SERVICE_UNAVAILABLE, Some(A_WHILE), "the keys cannot be had at the moment")
            }
            _ => (StatusCode::INTERNAL_SERVER_ERROR, None, "the keys of this tenant are not in order"),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, retry_after, message) = self.answer();
        match self {
            // No key and no plaintext is ever in these messages.
            Self::Here(error) | Self::Database(error) => eprintln!("log: {error}"),
            Self::Key(error) if status == StatusCode::INTERNAL_SERVER_ERROR => eprintln!("log: {error}"),
            Self::Key(_) | Self::NoSuchDocument | Self::TooLong => {}
        }
        let mut response = (status, format!("{message}\n")).into_response();
        if let Some(wait) = retry_after {
            // Whole seconds, and never early.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(RETRY_AFTER, seconds.max(1).into());
        }
        response
    }
}
