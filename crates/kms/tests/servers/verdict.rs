//! What a call came to, checked as an operator would read it.

use std::{error::Error, fmt::Debug};

use keystrata_hierarchy::RootKeyError;

/// The error's class and its message with its causes, which must be one line without anything secret in it.
pub(crate) fn of<T: Debug>(outcome: Result<T, RootKeyError>) -> (&'static str, String) {
    let error = outcome.expect_err("this call cannot succeed");
    let class = match &error {
        RootKeyError::Throttled { .. } => "throttled",
        RootKeyError::Denied { .. } => "denied",
        RootKeyError::Unavailable { .. } => "unavailable",
        RootKeyError::Rejected => "rejected",
        _ => "other",
    };
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    assert!(!message.contains('\n') && message.len() < 1500, "{message}");
    let shown = format!("{message} {error:?}");
    for secret in SECRETS {
        assert!(!shown.contains(secret), "{shown}");
    }
    (class, message)
}

/// Every secret in these tests holds one of these.
pub(crate) const SECRETS: [&str; 2] = ["hunter2", "aHVudGVyMi"];
