//! Which error codes of AWS mean what.

#[cfg(doc)]
use keystrata_hierarchy::RootKeyError;

/// What an error code of KMS means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AwsErrorClass {
    /// [`RootKeyError::Throttled`].
    Throttled,
    /// [`RootKeyError::Denied`]: permission is missing.
    Forbidden,
    /// [`RootKeyError::Denied`]: the key is not in a state to be used.
    Unfit,
    /// [`RootKeyError::Denied`]: there is no such key.
    NoKey,
    /// [`RootKeyError::Denied`]: KMS does not accept such a request for this key.
    Refused,
    /// [`RootKeyError::Rejected`].
    Rejected,
    /// [`RootKeyError::Unavailable`]: credentials are missing, expired or wrong.
    Credentials,
    /// [`RootKeyError::Unavailable`]: the clock of this machine or of AWS is off.
    Clock,
    /// [`RootKeyError::Unavailable`]: the custom key store that holds the key is disconnected or fails.
    KeyStore,
    /// [`RootKeyError::Unavailable`]: KMS or something behind it fails.
    Down,
}

/// Sorts an error code and an HTTP status of KMS.
///
/// | code | class |
/// |---|---|
/// | `ThrottlingException`, `Throttling`, `ThrottledException`, `RequestThrottled`, `RequestThrottledException`, `TooManyRequestsException`, `LimitExceededException`, `RequestLimitExceeded`, `SlowDown`, `BandwidthLimitExceeded`; any other with status 429 | throttled |
/// | `AccessDeniedException`, `AccessDenied`, `OptInRequired`, `NotAuthorized` | denied: permission |
/// | `DisabledException`, `KMSInvalidStateException` (pending deletion, pending import) | denied: the key's state |
/// | `KMSInvalidStateException` whose words are about a custom key store, which this function does not see; `CustomKeyStoreInvalidStateException` | unavailable: the key store |
/// | `NotFoundException` | denied: no such key |
/// | `InvalidKeyUsageException`, `InvalidArnException`, `InvalidGrantTokenException`, `UnsupportedOperationException`, `ValidationException`, `DryRunOperationException` | denied: the request |
/// | `IncorrectKeyException`, `InvalidCiphertextException` | rejected |
/// | `ExpiredTokenException`, `ExpiredToken`, `UnrecognizedClientException`, `InvalidClientTokenId`, `InvalidSignatureException`, `SignatureDoesNotMatch`, `IncompleteSignature`, `IncompleteSignatureException`, `MissingAuthenticationToken`, `MissingAuthenticationTokenException`, `InvalidAccessKeyId`, `AuthFailure` | unavailable: credentials |
/// | `RequestExpired`, `RequestTimeTooSkewed` | unavailable: the clock |
/// | `DependencyTimeoutException`, `KMSInternalException`, `KeyUnavailableException`, `InternalFailure`, `ServiceUnavailable`, every other code, and every answer that has none | unavailable |
///
/// Expired credentials are *unavailable* and not *denied*: they are renewed without anybody granting anything, and a key
/// in the cache stays good meanwhile. `KeyUnavailableException` is AWS's own word for "try again".
pub fn class_of(code: &str, status: u16) -> AwsErrorClass {
    use AwsErrorClass as Class;
    match code {
        "ThrottlingException"
        | "Throttling"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "TooManyRequestsException"
        | "LimitExceededException"
        | "RequestLimitExceeded"
        | "SlowDown"
        | "BandwidthLimitExceeded" => Class::Throttled,
        "AccessDeniedException" | "AccessDenied" | "OptInRequired" | "NotAuthorized" => Class::Forbidden,
        "DisabledException" | "KMSInvalidStateException" => Class::Unfit,
        "CustomKeyStoreInvalidStateException" => Class::KeyStore,
        "NotFoundException" => Class::NoKey,
        "InvalidKeyUsageException"
        | "InvalidArnException"
        | "InvalidGrantTokenException"
        | "UnsupportedOperationException"
        | "ValidationException"
        | "DryRunOperationException" => Class::Refused,
        "IncorrectKeyException" | "InvalidCiphertextException" => Class::Rejected,
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
        | "AuthFailure" => Class::Credentials,
        "RequestExpired" | "RequestTimeTooSkewed" => Class::Clock,
        _ if status == 429 => Class::Throttled,
        _ => Class::Down,
    }
}

/// AWS gives one code to a key that somebody scheduled for deletion and to one whose custom key store (`CloudHSM`, or an
/// external one) does not answer, and tells the two apart in words alone. The second passes when the store is back.
pub(super) fn class_of_answer(code: &str, status: u16, message: Option<&str>) -> AwsErrorClass {
    let class = class_of(code, status);
    if class == AwsErrorClass::Unfit && message.is_some_and(is_about_a_key_store) {
        return AwsErrorClass::KeyStore;
    }
    class
}

fn is_about_a_key_store(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    let is_about_the_key = ["pending deletion", "pendingdeletion", "pending import", "pendingimport", "disabled"]
        .iter()
        .any(|words| message.contains(words));
    let is_about_a_store = ["key store", "keystore", "cloudhsm", "external key", "xks", "is unavailable"]
        .iter()
        .any(|words| message.contains(words));
    is_about_a_store && !is_about_the_key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_a_code_is_sorted_by_its_status() {
        assert_eq!(class_of("", 429), AwsErrorClass::Throttled);
        assert_eq!(class_of("", 503), AwsErrorClass::Down);
    }

    #[test]
    fn a_key_whose_store_is_away_is_not_a_key_that_was_disabled() {
        let of = |message| class_of_answer("KMSInvalidStateException", 400, Some(message));
        for message in [
            "The custom key store is disconnected.",
            "KMS cannot communicate with the external key store proxy.",
            "The request failed because the AWS CloudHSM cluster is not active.",
            "arn:k is unavailable.",
        ] {
            assert_eq!(of(message), AwsErrorClass::KeyStore, "{message}");
        }
        for message in [
            "arn:k is pending deletion.",
            "arn:k in a custom key store is pending deletion.",
            "arn:k is pending import.",
            "The key is not in a state for this.",
        ] {
            assert_eq!(of(message), AwsErrorClass::Unfit, "{message}");
        }
        assert_eq!(class_of("CustomKeyStoreInvalidStateException", 400), AwsErrorClass::KeyStore);
    }
}
