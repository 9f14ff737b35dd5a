//! What Cloud KMS says, sorted by what a caller can do about it.

use keystrata_hierarchy::RootKeyError;
use serde::Deserialize;

use super::token::Source;
use crate::{
    attempt::with_request_id,
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
    /// The word in logs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
        }
    }

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
    details: serde_json::Value,
}

impl Told {
    /// What happened on the way to a key manager outside of Google, in Google's word (its "error domain"); `None` for a key
    /// that is not kept by one.
    fn of_external_manager(&self) -> Option<&str> {
        let details = self.details.as_array()?.iter();
        let violations = details.filter_map(|detail| detail.get("violations")?.as_array()).flatten();
        violations.filter_map(|violation| violation.get("type")?.as_str()).find(|kind| kind.starts_with("EXTERNAL_"))
    }
}

/// The one place where an error answer becomes one of ours.
///
/// | status | of HTTP | class |
/// |---|---|---|
/// | `RESOURCE_EXHAUSTED` | 429 | throttled |
/// | `PERMISSION_DENIED` | 403 | denied |
/// | `NOT_FOUND` | 404 | denied |
/// | `FAILED_PRECONDITION` with a violation `EXTERNAL_PERMISSION_DENIED` or `EXTERNAL_NOT_FOUND` | 400 | denied, by the external key manager |
/// | `FAILED_PRECONDITION` with another violation `EXTERNAL_…`: it cannot be reached, or fails | 400 | unavailable |
/// | `FAILED_PRECONDITION` to `encrypt`: the primary version is disabled or destroyed | 400 | denied |
/// | `FAILED_PRECONDITION` to `decrypt`: the version that wrapped this is | 400 | rejected: others may be enabled |
/// | `INVALID_ARGUMENT` to `decrypt` | 400 | rejected; unavailable if it is about a checksum |
/// | `INVALID_ARGUMENT` to `encrypt` | 400 | denied; unavailable if it is about a checksum |
/// | none: not Google's JSON, so a proxy or an ingress answered | 4xx | unavailable; throttled with 429 |
/// | `UNAUTHENTICATED`, with a token that is new | 401 | unavailable |
/// | `INTERNAL`, `UNAVAILABLE`, `DEADLINE_EXCEEDED`, others | 5xx, 408, 499 | unavailable |
pub(super) fn classify(operation: Operation, key: &str, answer: &Answer) -> RootKeyError {
    let told = answer.json::<Body>().map(|body| body.error).unwrap_or_default();
    let request = with_request_id(answer.request_id().as_deref());
    let end = format!("({operation:?}, {}, status {}{request})", one_line(&told.status), answer.status);
    let source = (!told.message.is_empty()).then(|| Said::cause(&told.message));
    let denied = |message: String| RootKeyError::Denied { message, source: source.clone() };
    let unavailable = |message: String| RootKeyError::Unavailable { message, source: source.clone() };
    // By status of Google's, never by that of HTTP alone: anything in between may answer 403 or 404, and *denied* makes
    // callers forget keys.
    match (told.status.as_str(), answer.status) {
        ("RESOURCE_EXHAUSTED", _) | (_, 429) => {
            RootKeyError::Throttled { message: format!("Cloud KMS asks to slow down {end}"), source }
        }
        ("UNAUTHENTICATED", _) | (_, 401) => {
            unavailable(format!("Google refuses the access token: check the service account and the clock {end}"))
        }
        ("PERMISSION_DENIED", _) => denied(format!(
            "Google does not allow {} on {key}: grant roles/cloudkms.cryptoKeyEncrypterDecrypter on the key {end}",
            operation.permission()
        )),
        ("NOT_FOUND", _) => denied(format!("Cloud KMS knows no key {key}: check project, location and names {end}")),
        ("FAILED_PRECONDITION", _) if told.of_external_manager().is_some() => match told.of_external_manager() {
            Some("EXTERNAL_PERMISSION_DENIED" | "EXTERNAL_NOT_FOUND") => {
                denied(format!("the external key manager refuses {key}: see to its permissions there {end}"))
            }
            _ => unavailable(format!("the external key manager of {key} does not answer as it should {end}")),
        },
        ("FAILED_PRECONDITION", _) if operation == Operation::Decrypt => RootKeyError::Rejected,
        ("FAILED_PRECONDITION", _) => denied(format!(
            "the primary version of {key} is disabled or destroyed: enable it or make another primary {end}"
        )),
        ("INVALID_ARGUMENT", _) if told.message.contains("crc32c") => {
            unavailable(format!("what was sent did not reach Cloud KMS unchanged: try again {end}"))
        }
        ("INVALID_ARGUMENT", _) if operation == Operation::Decrypt => RootKeyError::Rejected,
        ("INVALID_ARGUMENT", _) => {
            denied(format!("Cloud KMS does not accept the request: {key} must have the purpose ENCRYPT_DECRYPT {end}"))
        }
        ("", 400..=499) => {
            unavailable(format!("what answered is not Cloud KMS: check the endpoint, and what stands between {end}"))
        }
        _ => unavailable(format!("Cloud KMS fails: try again later {end}")),
    }
}

/// Why there is no access token, by what the token's endpoint answered: never *denied*, which is about the key.
///
/// | answer | class, and what the message says to do |
/// |---|---|
/// | 429 | throttled: another quota than that of Cloud KMS |
/// | `invalid_grant` about `iat`, `exp` or a time frame | unavailable: set this machine's clock |
/// | `invalid_grant`, `invalid_client`, `unauthorized_client` | unavailable: the account or its key |
/// | 404 of a metadata server | unavailable: the machine has no service account |
/// | others | unavailable |
pub(super) fn no_token(source: &Source, answer: &Answer) -> RootKeyError {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Refusal {
        error: String,
        error_description: String,
    }
    let Refusal { error, error_description: said } = answer.json().unwrap_or_default();
    let end = if error.is_empty() {
        format!("(status {})", answer.status)
    } else {
        format!("({}, status {})", one_line(&error), answer.status)
    };
    let cause = (!said.is_empty()).then(|| Said::cause(&said));
    let unavailable = |message: String| RootKeyError::Unavailable { message, source: cause.clone() };
    match (error.as_str(), answer.status) {
        (_, 429) => RootKeyError::throttled(format!("Google gives out no more access tokens for now {end}")),
        // Told apart by words alone: the code is the same as for a wrong key.
        ("invalid_grant", _) if ["iat", "exp", "timeframe"].iter().any(|word| has_word(&said, word)) => unavailable(
            format!("Google finds the time of the service account's assertion wrong: set this machine's clock {end}"),
        ),
        ("invalid_grant" | "invalid_client" | "unauthorized_client", _) => unavailable(format!(
            "Google does not accept the service account or its key: see that the account is enabled, or make another key {end}"
        )),
        (_, 404) if matches!(source, Source::Metadata(_)) => unavailable(format!(
            "the metadata server knows no service account: attach one to this machine, or name a credentials_file {end}"
        )),
        _ => unavailable(format!("Google gives no access token: try again later, then check the credentials {end}")),
    }
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric()).any(|part| part == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(operation: Operation, status: u16, body: &str) -> RootKeyError {
        classify(operation, "k", &Answer::of(status, body))
    }

    fn told(operation: Operation, status: u16, name: &str) -> RootKeyError {
        of(operation, status, &format!(r#"{{"error":{{"code":{status},"status":"{name}","message":"words"}}}}"#))
    }

    #[test]
    fn only_google_itself_denies_and_rejects() {
        for status in [400, 403, 404, 405, 407, 408, 413, 425] {
            for body in ["<html>Forbidden</html>", "", "{}", r#"{"error":{"code":403}}"#, r#"{"error":"forbidden"}"#] {
                for operation in [Operation::Decrypt, Operation::Encrypt] {
                    let error = of(operation, status, body);
                    assert!(matches!(error, RootKeyError::Unavailable { .. }), "{status} {body}: {error}");
                }
            }
        }
        assert!(matches!(of(Operation::Decrypt, 429, "<html>"), RootKeyError::Throttled { .. }));
        for (status, name) in [(403, "PERMISSION_DENIED"), (404, "NOT_FOUND")] {
            assert!(matches!(told(Operation::Decrypt, status, name), RootKeyError::Denied { .. }), "{name}");
        }
        assert!(matches!(told(Operation::Decrypt, 400, "INVALID_ARGUMENT"), RootKeyError::Rejected));
        assert!(matches!(told(Operation::Encrypt, 400, "INVALID_ARGUMENT"), RootKeyError::Denied { .. }));
        assert!(matches!(told(Operation::Decrypt, 400, "OUT_OF_RANGE"), RootKeyError::Unavailable { .. }));
    }

    #[test]
    fn an_external_key_manager_that_is_out_of_reach_is_no_refusal() {
        let told = |kind: &str| {
            let violations = format!(r#"[{{"type":"KEY_STATE","subject":"k"}},{{"type":"{kind}","subject":"k"}}]"#);
            let details = format!(
                r#"[{{"@type":"type.googleapis.com/google.rpc.PreconditionFailure","violations":{violations}}}]"#
            );
            format!(
                r#"{{"error":{{"code":400,"status":"FAILED_PRECONDITION","message":"words","details":{details}}}}}"#
            )
        };
        for operation in [Operation::Decrypt, Operation::Encrypt] {
            for kind in ["EXTERNAL_TIMEOUT", "EXTERNAL_UNREACHABLE", "EXTERNAL_OTHER"] {
                let error = of(operation, 400, &told(kind));
                assert!(matches!(error, RootKeyError::Unavailable { .. }), "{kind}: {error}");
            }
            for kind in ["EXTERNAL_PERMISSION_DENIED", "EXTERNAL_NOT_FOUND"] {
                let error = of(operation, 400, &told(kind));
                assert!(matches!(error, RootKeyError::Denied { .. }), "{kind}: {error}");
            }
        }
        let odd = r#"{"error":{"code":400,"status":"FAILED_PRECONDITION","details":"none"}}"#;
        assert!(matches!(of(Operation::Decrypt, 400, odd), RootKeyError::Rejected));
    }

    #[test]
    fn a_version_that_is_disabled_concerns_its_records_alone() {
        assert!(matches!(told(Operation::Decrypt, 400, "FAILED_PRECONDITION"), RootKeyError::Rejected));
        assert!(matches!(told(Operation::Encrypt, 400, "FAILED_PRECONDITION"), RootKeyError::Denied { .. }));
    }

    #[test]
    fn a_token_that_is_refused_says_whose_fault_it_is() {
        let machine = Source::Metadata("http://metadata.example/".parse().unwrap());
        let refusal = |error: &str, said: &str| format!(r#"{{"error":"{error}","error_description":"{said}"}}"#);
        let skew = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your \
                    iat and exp values in the JWT claim.";
        for (status, body, words) in [
            (400, refusal("invalid_grant", skew), "clock"),
            (400, refusal("invalid_grant", "Invalid JWT Signature."), "make another key"),
            (400, refusal("invalid_grant", "Invalid grant: account not found"), "make another key"),
            (401, refusal("invalid_client", ""), "make another key"),
            (404, String::new(), "attach one"),
            (503, "<html>".into(), "later"),
        ] {
            let error = no_token(&machine, &Answer::of(status, &body));
            assert!(matches!(error, RootKeyError::Unavailable { .. }), "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
        assert!(matches!(no_token(&Source::None, &Answer::of(429, "")), RootKeyError::Throttled { .. }));
    }
}
