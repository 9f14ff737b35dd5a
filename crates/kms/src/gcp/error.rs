//! What Cloud KMS says, sorted by what a caller can do about it.

use keystrata_hierarchy::RootKeyError;
use serde::Deserialize;

use crate::{
    http::Answer,
    text::{Said, one_line},
};

/// A request to Cloud KMS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Encrypt,
    Decrypt,
}

impl Operation {
    fn permission(self) -> &'static str {
        match self {
            Self::Encrypt => "cloudkms.cryptoKeyVersions.useToEncrypt",
            Self::Decrypt => "cloudkms.cryptoKeyVersions.useToDecrypt",
        }
    }
}

#[derive(Deserialize)]
struct Body {
    error: Told,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    status: String,
    message: String,
}

/// The one place where an error answer becomes one of ours.
///
/// | status | of HTTP | class |
/// |---|---|---|
/// | `RESOURCE_EXHAUSTED` | 429 | throttled |
/// | `PERMISSION_DENIED` | 403 | denied |
/// | `NOT_FOUND` | 404 | denied |
/// | `FAILED_PRECONDITION`: the key's version is disabled or destroyed | 400 | denied |
/// | `INVALID_ARGUMENT` to `decrypt` | 400 | rejected; unavailable if it is about a checksum |
/// | `INVALID_ARGUMENT` to `encrypt`, and other 4xx | 400 | denied |
/// | `UNAUTHENTICATED`, with a token that is new | 401 | unavailable |
/// | `INTERNAL`, `UNAVAILABLE`, `DEADLINE_EXCEEDED`, others | 5xx, 408, 499 | unavailable |
pub(super) fn classify(operation: Operation, key: &str, answer: &Answer) -> RootKeyError {
    let told = answer.json::<Body>().map(|body| body.error).unwrap_or_default();
    let end = format!("({operation:?}, {}, status {})", one_line(&told.status), answer.status);
    let source = (!told.message.is_empty()).then(|| Said::cause(&told.message));
    let denied = |message: String| RootKeyError::Denied { message, source: source.clone() };
    let unavailable = |message: String| RootKeyError::Unavailable { message, source: source.clone() };
    match (told.status.as_str(), answer.status) {
        ("RESOURCE_EXHAUSTED", _) | (_, 429) => {
            RootKeyError::Throttled { message: format!("Cloud KMS asks to slow down {end}"), source }
        }
        ("UNAUTHENTICATED", _) | (_, 401) => {
            unavailable(format!("Google refuses the access token: check the service account and the clock {end}"))
        }
        ("PERMISSION_DENIED", _) | (_, 403) => denied(format!(
            "Google does not allow {} on {key}: grant roles/cloudkms.cryptoKeyEncrypterDecrypter on the key {end}",
            operation.permission()
        )),
        ("NOT_FOUND", _) | (_, 404) => {
            denied(format!("Cloud KMS knows no key {key}: check project, location and names {end}"))
        }
        ("FAILED_PRECONDITION", _) => denied(format!(
            "the primary version of {key} is disabled or destroyed: enable it or make another primary {end}"
        )),
        (_, 400) if told.message.contains("crc32c") => {
            unavailable(format!("what was sent did not reach Cloud KMS unchanged: try again {end}"))
        }
        (_, 400) if operation == Operation::Decrypt => RootKeyError::Rejected,
        (_, 408 | 499) => unavailable(format!("Cloud KMS fails: try again later {end}")),
        (_, 400..=499) => {
            denied(format!("Cloud KMS does not accept the request: {key} must have the purpose ENCRYPT_DECRYPT {end}"))
        }
        _ => unavailable(format!("Cloud KMS fails: try again later {end}")),
    }
}
