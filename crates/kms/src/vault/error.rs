//! What Vault says, sorted by what a caller can do about it.

use keystrata_hierarchy::RootKeyError;
use serde::Deserialize;

use crate::{
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

    fn takes_ciphertext(self) -> bool {
        matches!(self, Self::Decrypt | Self::Rewrap)
    }
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<String>,
}

fn said(answer: &Answer) -> String {
    answer.json::<Errors>().map_or_else(String::new, |body| one_line(&body.errors.join("; ")))
}

/// Whether a request without a context was refused for that.
pub(super) fn says_context_is_missing(answer: &Answer) -> bool {
    answer.status == 400 && said(answer).contains("context")
}

/// The one place where an error answer becomes one of ours.
///
/// | status | Vault says | class |
/// |---|---|---|
/// | 429 | a rate limit quota | throttled |
/// | 403 | with a token that is good: the policy lacks `update` on the path | denied |
/// | 404 | nothing is mounted there | denied |
/// | 400 | `… message authentication failed`, `invalid ciphertext …` | rejected |
/// | 400 | `… disallowed by policy (too old)`: `min_decryption_version` | denied |
/// | 400 | `encryption key not found`, and whatever else | denied |
/// | 307, 308 | go to another node | unavailable |
/// | 503 | sealed, or no active node | unavailable |
/// | 412, 5xx, others | | unavailable |
///
/// A token that has ended, and a login that fails, are *unavailable*, and never reach this table.
pub(super) fn classify(operation: Operation, key: &str, answer: &Answer) -> RootKeyError {
    let (status, said) = (answer.status, said(answer));
    let end = format!("({} of {key}, status {status})", operation.path());
    let source = (!said.is_empty()).then(|| Said::cause(&said));
    let denied = |message: String| RootKeyError::Denied { message, source: source.clone() };
    match status {
        429 => RootKeyError::Throttled { message: format!("Vault's rate limit quota is used up {end}"), source },
        403 => denied(format!(
            "Vault's policy does not allow this: grant \"update\" on MOUNT/{}/{key} to the token's policy {end}",
            operation.path()
        )),
        404 => denied(format!("Vault has no transit engine there: check the mount and the namespace {end}")),
        400 if operation.takes_ciphertext() && is_rejection(&said) => RootKeyError::Rejected,
        400 if said.contains("too old") => denied(format!(
            "the key's min_decryption_version forbids the version that wrapped this: lower it, rewrap, and raise it again {end}"
        )),
        400 if said.contains("key not found") => {
            denied(format!("Vault has no transit key of this name: make it with derived=true, or check the name {end}"))
        }
        400..=499 if status != 412 => denied(format!("Vault does not accept the request: check the key's type {end}")),
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

fn is_rejection(said: &str) -> bool {
    said.contains("message authentication failed") || said.contains("invalid ciphertext")
}
