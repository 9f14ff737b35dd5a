//! What Vault says, sorted by what a caller can do about it.

use keystrata_hierarchy::RootKeyError;
use serde::Deserialize;

use crate::{
    attempt::with_request_id,
    http::Answer,
    text::{Said, one_line},
};

/// A request to transit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    DataKey,
    Encrypt,
    Decrypt,
    Rewrap,
}

impl Operation {
    /// Below the mount, and as a policy names it.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::DataKey => "datakey/plaintext",
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Rewrap => "rewrap",
        }
    }

    /// The word in logs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::DataKey => "datakey",
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Rewrap => "rewrap",
        }
    }

    fn takes_ciphertext(self) -> bool {
        matches!(self, Self::Decrypt | Self::Rewrap)
    }
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<String>,
}

/// `None` for a body that is not Vault's: something in front of it answered.
fn said(answer: &Answer) -> Option<String> {
    answer.json::<Errors>().map(|body| one_line(&body.errors.join("; ")))
}

/// Whether a request without a context was refused for that, which transit does with a derived key alone. Its words, and
/// no others that speak of a context: they are the proof that the key is derived.
pub(super) fn says_context_is_missing(answer: &Answer) -> bool {
    answer.status == 400 && said(answer).is_some_and(|said| said.contains("missing 'context' for key derivation"))
}

/// The one place where an error answer becomes one of ours.
///
/// | status | Vault says | class |
/// |---|---|---|
/// | 429 | a rate limit quota | throttled |
/// | 403 | with a token that is good: the policy lacks `update` on the path | denied |
/// | 404 | nothing is mounted there | denied |
/// | 400 | `… message authentication failed`, `invalid ciphertext …` | rejected |
/// | 400 | `… disallowed by policy (too old)`: `min_decryption_version` | rejected: newer records of the account open |
/// | 400, 405 | `encryption key not found`, and whatever else | denied |
/// | 4xx but 429 | not Vault's JSON: a balancer or an ingress | unavailable |
/// | 307, 308 | go to another node | unavailable |
/// | 503 | sealed, or no active node | unavailable |
/// | 412, 5xx, others | | unavailable |
///
/// A token that has ended, and a login that fails, are *unavailable*, and never reach this table.
pub(super) fn classify(operation: Operation, key: &str, answer: &Answer) -> RootKeyError {
    let told = said(answer);
    let is_vault = told.is_some();
    let (status, said) = (answer.status, told.unwrap_or_default());
    let request = with_request_id(answer.request_id().as_deref());
    let end = format!("({} of {key}, status {status}{request})", operation.path());
    let source = (!said.is_empty()).then(|| Said::cause(&said));
    let denied = |message: String| RootKeyError::Denied { message, source: source.clone() };
    match status {
        429 => RootKeyError::Throttled { message: format!("Vault's rate limit quota is used up {end}"), source },
        // *Denied* makes callers forget keys, so it is for what Vault itself has said.
        400..=499 if !is_vault => RootKeyError::Unavailable {
            message: format!("what answered is not Vault: check the address, and what stands in front of it {end}"),
            source,
        },
        403 => denied(format!(
            "Vault's policy does not allow this: grant \"update\" on MOUNT/{}/{key} to the token's policy {end}",
            operation.path()
        )),
        404 => denied(format!("Vault has no transit engine there: check the mount and the namespace {end}")),
        400 if operation.takes_ciphertext() && is_rejection(&said) => RootKeyError::Rejected,
        400 if said.contains("key not found") => {
            denied(format!("Vault has no transit key of this name: make it with derived=true, or check the name {end}"))
        }
        400 | 405 => denied(format!("Vault does not accept the request: check the key's type {end}")),
        300..=399 => RootKeyError::Unavailable {
            message: format!(
                "Vault sends to another node, where a token is not sent on: name the active node, or let nodes forward {end}"
            ),
            source,
        },
        503 => RootKeyError::Unavailable {
            message: format!("Vault is sealed or has no active node: unseal it {end}"),
            source,
        },
        _ => RootKeyError::Unavailable { message: format!("Vault fails: try again later {end}"), source },
    }
}

/// About this ciphertext, and not about the key.
fn is_rejection(said: &str) -> bool {
    ["message authentication failed", "invalid ciphertext", "disallowed by policy (too old)"]
        .iter()
        .any(|words| said.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(operation: Operation, status: u16, body: &str) -> RootKeyError {
        classify(operation, "k", &Answer::of(status, body))
    }

    #[test]
    fn only_vault_itself_denies_and_rejects() {
        for status in [400, 403, 404, 405, 407, 408, 413, 425] {
            for body in ["<html>Forbidden</html>", "", "{}", r#"{"message":"invalid ciphertext"}"#] {
                let error = of(Operation::Decrypt, status, body);
                assert!(matches!(error, RootKeyError::Unavailable { .. }), "{status} {body}: {error}");
            }
        }
        assert!(matches!(of(Operation::Decrypt, 429, "<html>"), RootKeyError::Throttled { .. }));
        for (status, body) in [
            (403, r#"{"errors":["1 error occurred: permission denied"]}"#),
            (404, r#"{"errors":["no handler for route"]}"#),
            (400, r#"{"errors":["encryption key not found"]}"#),
        ] {
            assert!(matches!(of(Operation::Decrypt, status, body), RootKeyError::Denied { .. }), "{status}");
        }
    }

    #[test]
    fn a_version_that_is_forbidden_concerns_its_records_alone() {
        let body = r#"{"errors":["ciphertext or signature version is disallowed by policy (too old)"]}"#;
        for operation in [Operation::Decrypt, Operation::Rewrap] {
            assert!(matches!(of(operation, 400, body), RootKeyError::Rejected));
        }
    }

    #[test]
    fn a_version_that_there_is_not_is_altered_bytes_as_far_as_can_be_told() {
        let body = r#"{"errors":["invalid ciphertext: version is too new"]}"#;
        assert!(matches!(of(Operation::Decrypt, 400, body), RootKeyError::Rejected));
    }

    #[test]
    fn only_the_words_about_derivation_prove_it() {
        let says = |body: &str| says_context_is_missing(&Answer::of(400, body));
        assert!(says(
            r#"{"errors":["missing 'context' for key derivation; the key was created using a derived key"]}"#
        ));
        for other in
            [r#"{"errors":["context deadline exceeded"]}"#, r#"{"errors":["failed to base64-decode context"]}"#]
        {
            assert!(!says(other), "{other}");
        }
    }
}
