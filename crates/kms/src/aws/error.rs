//! What AWS says, sorted by what a caller can do about it.

use std::error::Error;

use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use keystrata_hierarchy::RootKeyError;

use super::class::{AwsErrorClass, class_of_answer};
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

/// Whether the request did not leave this machine, as far as the SDK tells: it could not be made or signed, or there was no
/// connection.
pub(super) fn never_left<E: Error + 'static>(error: &SdkError<E>) -> bool {
    match error {
        SdkError::ConstructionFailure(_) => true,
        SdkError::DispatchFailure(_) => {
            let said = chain(error);
            is_about_credentials(&said) || said.contains("client error (Connect)")
        }
        _ => false,
    }
}

fn is_about_credentials(said: &str) -> bool {
    ["credential", "identity", "token", "profile"].iter().any(|word| said.contains(word))
}

fn before_answer(operation: Operation, key: &str, error: &(dyn Error + 'static)) -> RootKeyError {
    let said = chain(error);
    let is_about_credentials = is_about_credentials(&said);
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

fn of_answer(operation: Operation, key: &str, told: &Told<'_>) -> RootKeyError {
    use AwsErrorClass as Class;
    let code = one_line(if told.code.is_empty() { "an error without a code" } else { told.code });
    let end = format!("({operation:?}, {code}, status {}{})", told.status, with_request_id(told.request));
    // KMS's own words, for the classes in which they tell more than the code and cannot hold a part of the request.
    let source = told.message.map(Said::cause);
    match class_of_answer(told.code, told.status, told.message) {
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
    }

    #[test]
    fn a_key_whose_store_is_away_is_not_denied() {
        let code = "CustomKeyStoreInvalidStateException";
        assert!(matches!(of(code, Operation::Decrypt), RootKeyError::Unavailable { .. }));
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
