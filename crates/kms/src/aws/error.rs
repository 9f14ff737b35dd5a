//! What AWS says, sorted by what a caller can do about it.

use std::error::Error;

use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use keystrata_hierarchy::RootKeyError;

use crate::{
    attempt::with_request_id,
    text::{Said, chain, one_line},
};

/// A request to KMS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    GenerateDataKey,
    Encrypt,
    Decrypt,
    ReEncrypt,
    DescribeKey,
}

impl Operation {
    /// The word in logs: the request's name in AWS's own.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::GenerateDataKey => "GenerateDataKey",
            Self::Encrypt => "Encrypt",
            Self::Decrypt => "Decrypt",
            Self::ReEncrypt => "ReEncrypt",
            Self::DescribeKey => "DescribeKey",
        }
    }

    /// The IAM actions it needs.
    fn action(self) -> &'static str {
        match self {
            Self::GenerateDataKey => "kms:GenerateDataKey",
            Self::Encrypt => "kms:Encrypt",
            Self::Decrypt => "kms:Decrypt",
            Self::ReEncrypt => "kms:ReEncryptFrom on the old key and kms:ReEncryptTo on the new one",
            Self::DescribeKey => "kms:DescribeKey",
        }
    }

    fn takes_ciphertext(self) -> bool {
        matches!(self, Self::Decrypt | Self::ReEncrypt)
    }
}

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

/// A request that was sent, for messages.
pub(super) struct Asked<'a> {
    pub(super) operation: Operation,
    pub(super) key: &'a str,
    pub(super) request_id: Option<&'a str>,
}

impl Asked<'_> {
    /// The one place where an error of the SDK becomes one of ours.
    ///
    /// The SDK's error is not kept as the cause: its `Debug` shows whole answers.
    pub(super) fn classify<E>(&self, error: &SdkError<E>) -> RootKeyError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let Self { operation, key, request_id } = *self;
        match error {
            SdkError::ServiceError(answer) => {
                let code = answer.err().code().unwrap_or_default();
                let status = answer.raw().status().as_u16();
                if (200..300).contains(&status) {
                    return self.nonsense("it is not an answer of KMS: check the endpoint");
                }
                of_answer(operation, key, &Told { code, status, message: answer.err().message(), request: request_id })
            }
            SdkError::TimeoutError(_) => RootKeyError::unavailable(format!(
                "AWS KMS did not answer {operation:?} for {key} in time: check the network, then the attempt timeout"
            )),
            SdkError::ResponseError(_) => self.nonsense("it is not an answer of KMS: check the endpoint"),
            // Failed before an answer: no credentials, no network, no certificate. The chain tells.
            SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) => before_answer(operation, key, error),
            _ => RootKeyError::unavailable(format!("AWS KMS did not answer {operation:?} for {key}")),
        }
    }

    /// An answer that KMS would not give.
    pub(super) fn nonsense(&self, what: &str) -> RootKeyError {
        let Self { operation, key, request_id } = self;
        let end = with_request_id(*request_id);
        RootKeyError::unavailable(format!("the answer of AWS KMS to {operation:?} for {key} is not used: {what}{end}"))
    }
}

fn before_answer(operation: Operation, key: &str, error: &(dyn Error + 'static)) -> RootKeyError {
    let said = chain(error);
    let is_about_credentials = ["credential", "identity", "token", "profile"].iter().any(|word| said.contains(word));
    let advice = if is_about_credentials {
        "no usable AWS credentials: set AWS_PROFILE or AWS_ACCESS_KEY_ID, or give this machine a role"
    } else {
        "no connection: check the network, the region, the endpoint and its certificate"
    };
    let message = format!("{advice} ({operation:?} for {key})");
    // What a credential process writes is told in the chain, and may be a secret.
    RootKeyError::Unavailable { message, source: (!is_about_credentials).then(|| Said::cause(&said)) }
}

/// An error answer of KMS.
struct Told<'a> {
    code: &'a str,
    status: u16,
    message: Option<&'a str>,
    request: Option<&'a str>,
}

/// AWS gives one code to a key that somebody scheduled for deletion and to one whose custom key store (`CloudHSM`, or an
/// external one) does not answer, and tells the two apart in words alone. The second passes when the store is back.
fn class_of_told(told: &Told<'_>) -> AwsErrorClass {
    let class = class_of(told.code, told.status);
    if class == AwsErrorClass::Unfit && told.message.is_some_and(is_about_a_key_store) {
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

fn of_answer(operation: Operation, key: &str, told: &Told<'_>) -> RootKeyError {
    use AwsErrorClass as Class;
    let code = one_line(if told.code.is_empty() { "an error without a code" } else { told.code });
    let end = format!("({operation:?}, {code}, status {}{})", told.status, with_request_id(told.request));
    // KMS's own words, for the classes in which they tell more than the code and cannot hold a part of the request.
    let source = told.message.map(Said::cause);
    match class_of_told(told) {
        Class::Throttled => RootKeyError::Throttled { message: format!("AWS KMS asks to slow down {end}"), source },
        Class::Forbidden => RootKeyError::Denied {
            message: format!(
                "AWS does not allow {} on {key} to these credentials: grant it in the key's policy or by IAM, and check \
                 conditions on the encryption context {end}",
                operation.action()
            ),
            source,
        },
        Class::Unfit => RootKeyError::Denied {
            message: format!(
                "the AWS KMS key {key} is disabled, pending deletion or without material: enable it {end}"
            ),
            source,
        },
        Class::NoKey => RootKeyError::Denied {
            message: format!("AWS KMS knows no key {key}: check the ARN, its account and its region {end}"),
            source,
        },
        Class::Refused => RootKeyError::Denied {
            message: format!("AWS KMS refuses the request for {key}: it must be a symmetric key for encryption {end}"),
            source,
        },
        Class::Rejected if operation.takes_ciphertext() => RootKeyError::Rejected,
        // A wrong signature is told with the signed request, session token included: no source.
        Class::Credentials => {
            RootKeyError::unavailable(format!("the AWS credentials are missing, expired or wrong: renew them {end}"))
        }
        Class::Clock => {
            RootKeyError::unavailable(format!("AWS finds the request's time wrong: set this machine's clock {end}"))
        }
        Class::KeyStore => RootKeyError::Unavailable {
            message: format!("the custom key store of the AWS KMS key {key} does not answer: connect it {end}"),
            source,
        },
        Class::Rejected | Class::Down => {
            RootKeyError::Unavailable { message: format!("AWS KMS fails for {key}: try again later {end}"), source }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: &str, operation: Operation) -> RootKeyError {
        let told = Told { code, status: 400, message: Some("words\nof KMS"), request: Some("r-1") };
        of_answer(operation, "arn:k", &told)
    }

    #[test]
    fn codes_fall_into_the_classes_of_the_table() {
        for code in ["ThrottlingException", "LimitExceededException", "RequestLimitExceeded"] {
            assert!(matches!(of(code, Operation::Decrypt), RootKeyError::Throttled { .. }), "{code}");
        }
        for code in [
            "AccessDeniedException",
            "DisabledException",
            "KMSInvalidStateException",
            "NotFoundException",
            "ValidationException",
        ] {
            assert!(matches!(of(code, Operation::Decrypt), RootKeyError::Denied { .. }), "{code}");
        }
        for code in ["IncorrectKeyException", "InvalidCiphertextException"] {
            assert!(matches!(of(code, Operation::Decrypt), RootKeyError::Rejected), "{code}");
            assert!(matches!(of(code, Operation::ReEncrypt), RootKeyError::Rejected), "{code}");
            assert!(matches!(of(code, Operation::Encrypt), RootKeyError::Unavailable { .. }), "{code}");
        }
        for code in [
            "ExpiredTokenException",
            "UnrecognizedClientException",
            "RequestExpired",
            "KMSInternalException",
            "",
            "New",
        ] {
            assert!(matches!(of(code, Operation::Decrypt), RootKeyError::Unavailable { .. }), "{code}");
        }
        assert_eq!(class_of("", 429), AwsErrorClass::Throttled);
        assert_eq!(class_of("", 503), AwsErrorClass::Down);
    }

    #[test]
    fn a_key_whose_store_is_away_is_not_denied() {
        let told =
            |message| Told { code: "KMSInvalidStateException", status: 400, message: Some(message), request: None };
        let of = |message| of_answer(Operation::Decrypt, "arn:k", &told(message));
        for message in [
            "The custom key store is disconnected.",
            "KMS cannot communicate with the external key store proxy.",
            "The request failed because the AWS CloudHSM cluster is not active.",
            "arn:k is unavailable.",
        ] {
            assert!(matches!(of(message), RootKeyError::Unavailable { .. }), "{message}");
        }
        for message in [
            "arn:k is pending deletion.",
            "arn:k in a custom key store is pending deletion.",
            "arn:k is pending import.",
            "The key is not in a state for this.",
        ] {
            assert!(matches!(of(message), RootKeyError::Denied { .. }), "{message}");
        }
        assert_eq!(class_of("CustomKeyStoreInvalidStateException", 400), AwsErrorClass::KeyStore);
    }

    #[test]
    fn a_refusal_names_the_action_that_is_missing_and_the_request() {
        let message = of("AccessDeniedException", Operation::GenerateDataKey).to_string();
        assert!(message.contains("kms:GenerateDataKey") && message.contains("r-1"), "{message}");
        assert!(!message.contains('\n'));
    }

    #[test]
    fn what_is_said_of_credentials_is_not_repeated() {
        let error = before_answer(Operation::Decrypt, "arn:k", &std::io::Error::other("credential process: hunter2"));
        assert!(error.source().is_none() && !error.to_string().contains("hunter2"), "{error:?}");
        let error = before_answer(Operation::Decrypt, "arn:k", &std::io::Error::other("connection refused"));
        assert!(error.source().is_some());
    }

    #[test]
    fn a_wrong_signature_does_not_repeat_the_request_that_was_signed() {
        let error = of("InvalidSignatureException", Operation::Decrypt);
        assert!(error.source().is_none() && !error.to_string().contains("words"), "{error:?}");
    }
}
