//! A root key in AWS KMS.

mod arn;
mod class;
mod client;
mod config;
mod error;

use std::{collections::HashMap, error::Error, fmt, time::Duration};

use async_trait::async_trait;
use aws_sdk_kms::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::RequestId,
    primitives::Blob,
    types::{DataKeySpec, KeyState, KeyUsageType},
};
use keystrata_hierarchy::{GeneratedKey, RootContext, RootKey, RootKeyError, RootKeyId, SecretKey};
use secrecy::ExposeSecret;
use tracing::{instrument::WithSubscriber, subscriber::NoSubscriber};
use zeroize::Zeroizing;

use self::{
    arn::KeyArn,
    client::AwsClients,
    error::{Asked, Operation, never_left},
};
pub use self::{
    class::{AwsErrorClass, class_of as aws_error_class},
    config::AwsKmsConfig,
};
use crate::{
    attempt::{Attempt, request_id as plain_request_id},
    open::OpenRootError,
    sent::not_sent,
    uri::{AWS, DEFAULT_TIMEOUT},
};

/// Most bytes of a wrapped key that KMS takes.
const MAX_CIPHERTEXT_BYTES: usize = 6144;

/// A symmetric key in AWS KMS.
///
/// Each method is one request: `GenerateDataKey`, `Encrypt`, `Decrypt`, `ReEncrypt`. The SDK's own retries are off and an
/// attempt has a deadline, so attempts can be counted and paid for one by one. Every request names the key by its ARN, and
/// an answer that names another key is refused, a multi-region key in another region excepted where its key id is the same.
///
/// # Id
/// `aws-kms:` and the key's ARN. In that of a multi-region key (`mrk-…`) a `*` stands for the region, so that what a
/// process wrapped in one region another unwraps in the next. An alias is resolved once, when the key is opened: records
/// name the key, never the alias, and moving the alias takes effect when a process starts.
///
/// # Wrapped form
/// KMS's ciphertext blob as it is. The [`RootContext`] is KMS's encryption context, in clear in CloudTrail and within reach
/// of `kms:EncryptionContext:…` conditions.
///
/// # Credentials, region, endpoint
/// As the AWS SDKs and their command line find them: environment, profile, web identity, container, instance. The region
/// of an ARN wins over the configured one. `AWS_ENDPOINT_URL` and `AWS_ENDPOINT_URL_KMS` apply.
///
/// # Forks and runtimes
/// A forked child, and each runtime, has a client with connections of its own; a child reads the AWS configuration again.
///
/// # Secrets in memory
/// What this adapter holds is wiped on drop. The SDK's and the TLS library's buffers, in which plaintext keys travel as JSON,
/// are freed and not wiped.
pub struct AwsKmsRootKey {
    id: RootKeyId,
    arn: KeyArn,
    arn_text: String,
    clients: AwsClients,
}

/// What KMS says about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AwsKeyFacts {
    /// Its ARN.
    pub arn: String,
    /// `Enabled`, or what keeps it from being used, in KMS's words.
    pub state: String,
    /// Whether it can encrypt and decrypt at all; `false` if KMS calls it a key for something else.
    pub encrypts: bool,
    /// Whether it is one of several, related keys in different regions.
    pub multi_region: bool,
}

impl AwsKmsRootKey {
    /// Opens the key with the usual AWS configuration. A key that is not named by its key ARN is looked up, with one call
    /// of `kms:DescribeKey`.
    ///
    /// # Errors
    /// [`OpenRootError::Malformed`] for a name that is none, [`OpenRootError::Unusable`] without a region, and
    /// [`OpenRootError::Kms`] if the lookup fails.
    pub async fn open(config: AwsKmsConfig) -> Result<Self, OpenRootError> {
        let key = config.key.clone();
        Self::of(AwsClients::open(config).await?, &key).await
    }

    /// Opens the key through a client of yours, whose retries and timeouts are replaced. `key` is what KMS takes as a key
    /// id: ARN, alias ARN, `alias/…` or id; `attempt_timeout` as in [`AwsKmsConfig`].
    ///
    /// An HTTP client or a provider of credentials that you set on it is shared with other runtimes and forked children.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn with_client(client: Client, key: &str, attempt_timeout: Duration) -> Result<Self, OpenRootError> {
        Self::of(AwsClients::given(&client, attempt_timeout), key).await
    }

    async fn of(clients: AwsClients, key: &str) -> Result<Self, OpenRootError> {
        let arn = match KeyArn::parse(key) {
            Some(arn) => arn,
            None => look_up(&clients.get().await?, key).await?,
        };
        let id = RootKeyId::new(&format!("aws-kms:{}", arn.without_region_if_shared()))
            .map_err(|_| AWS.malformed("the ARN is too long"))?;
        Ok(Self { id, arn_text: arn.to_string(), arn, clients })
    }

    /// The key's ARN.
    pub fn arn(&self) -> &str {
        &self.arn_text
    }

    /// Asks KMS about the key; needs `kms:DescribeKey`.
    ///
    /// # Errors
    /// [`RootKeyError`], by class.
    pub async fn describe(&self) -> Result<AwsKeyFacts, RootKeyError> {
        describe(&self.clients.get().await?, &self.arn_text).await
    }

    /// One request about this key, and what is made of its answer. `request` is to be boxed: the SDK's futures have
    /// kilobytes, and each of the wrappers around this would have and move them too.
    async fn ask<T, E, U>(
        &self,
        operation: Operation,
        request: impl Future<Output = Result<T, SdkError<E>>>,
        used: impl FnOnce(&Asked<'_>, T) -> Result<U, RootKeyError>,
    ) -> Result<U, RootKeyError>
    where
        T: RequestId,
        E: ProvideErrorMetadata + Error + 'static,
    {
        ask(operation, &self.arn_text, request, used).await
    }

    /// That the key which answered is ours.
    fn check_key(&self, asked: &Asked<'_>, answered: Option<&str>) -> Result<(), RootKeyError> {
        if answered.and_then(KeyArn::parse).is_some_and(|answered| answered.is_same_key(&self.arn)) {
            return Ok(());
        }
        Err(asked.nonsense("it names another key than the one it was asked for"))
    }
}

/// One request, told of in the log, and what is made of its answer.
async fn ask<T, E, U>(
    operation: Operation,
    key: &str,
    request: impl Future<Output = Result<T, SdkError<E>>>,
    used: impl FnOnce(&Asked<'_>, T) -> Result<U, RootKeyError>,
) -> Result<U, RootKeyError>
where
    T: RequestId,
    E: ProvideErrorMetadata + Error + 'static,
{
    let attempt = Attempt::begin(AWS.name, operation.name());
    let answer = unlogged(request).await;
    if answer.as_ref().is_err_and(never_left) {
        attempt.did_not_leave();
    }
    let request_id = answer.request_id().map(str::to_owned);
    let asked = Asked { operation, key, request_id: request_id.as_deref() };
    let outcome = match answer {
        Ok(answer) => used(&asked, answer),
        Err(error) => Err(asked.classify(&error)),
    };
    attempt.end(&outcome, asked.request_id.and_then(plain_request_id));
    outcome
}

/// The key that an alias or a bare id stands for.
async fn look_up(client: &Client, key: &str) -> Result<KeyArn, OpenRootError> {
    let facts = describe(client, key).await?;
    let unusable = |what: String| OpenRootError::Unusable { what, source: None };
    if !facts.encrypts {
        return Err(unusable(format!(
            "the AWS KMS key {key} cannot encrypt: give a symmetric key with the usage ENCRYPT_DECRYPT"
        )));
    }
    let arn = KeyArn::parse(&facts.arn);
    arn.ok_or_else(|| unusable(format!("AWS KMS answered no key ARN for {key}: check the endpoint")))
}

async fn describe(client: &Client, key: &str) -> Result<AwsKeyFacts, RootKeyError> {
    let request = Box::pin(client.describe_key().key_id(key).send());
    ask(Operation::DescribeKey, key, request, |asked, answer| {
        let facts = answer.key_metadata.ok_or_else(|| asked.nonsense("it describes no key"))?;
        Ok(AwsKeyFacts {
            arn: facts.arn().unwrap_or_default().to_owned(),
            state: facts.key_state().map_or("unknown", KeyState::as_str).to_owned(),
            encrypts: facts.key_usage().is_none_or(|usage| *usage == KeyUsageType::EncryptDecrypt),
            multi_region: facts.multi_region() == Some(true),
        })
    })
    .await
}

impl fmt::Debug for AwsKmsRootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsKmsRootKey").field("id", &self.id).field("arn", &self.arn_text).finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RootKey for AwsKmsRootKey {
    fn id(&self) -> &RootKeyId {
        &self.id
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        not_sent();
        let request = self
            .clients
            .get()
            .await?
            .encrypt()
            .key_id(&self.arn_text)
            .set_encryption_context(pairs(context))
            .plaintext(Blob::new(secret.expose_secret().to_vec()));
        self.ask(Operation::Encrypt, Box::pin(request.send()), |asked, answer| {
            self.check_key(asked, answer.key_id())?;
            wrapped(asked, answer.ciphertext_blob)
        })
        .await
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        not_sent();
        if wrapped.is_empty() || wrapped.len() > MAX_CIPHERTEXT_BYTES {
            return Err(RootKeyError::Rejected); // KMS made no such blob, and would call it a malformed request
        }
        let request = self
            .clients
            .get()
            .await?
            .decrypt()
            .key_id(&self.arn_text)
            .set_encryption_context(pairs(context))
            .ciphertext_blob(Blob::new(wrapped));
        self.ask(Operation::Decrypt, Box::pin(request.send()), |asked, answer| {
            // Owned first: whatever is wrong with the rest of the answer, the plaintext in it is wiped.
            let plaintext = answer.plaintext.map(|blob| Zeroizing::new(blob.into_inner()));
            self.check_key(asked, answer.key_id.as_deref())?;
            secret(asked, plaintext)
        })
        .await
    }

    async fn generate_key(&self, context: &RootContext) -> Result<GeneratedKey, RootKeyError> {
        not_sent();
        let request = self
            .clients
            .get()
            .await?
            .generate_data_key()
            .key_id(&self.arn_text)
            .key_spec(DataKeySpec::Aes256)
            .set_encryption_context(pairs(context));
        self.ask(Operation::GenerateDataKey, Box::pin(request.send()), |asked, answer| {
            let plaintext = answer.plaintext.map(|blob| Zeroizing::new(blob.into_inner()));
            self.check_key(asked, answer.key_id.as_deref())?;
            let secret = secret(asked, plaintext)?;
            Ok(GeneratedKey { secret, wrapped: wrapped(asked, answer.ciphertext_blob)? })
        })
        .await
    }

    /// For a key of AWS KMS in the same region; needs `kms:ReEncryptFrom` on the old key and `kms:ReEncryptTo` on this one.
    async fn rewrap_key(
        &self,
        from: &RootKeyId,
        wrapped_by_other: &[u8],
        context: &RootContext,
    ) -> Result<Option<Vec<u8>>, RootKeyError> {
        not_sent();
        let Some(source) = from.as_str().strip_prefix("aws-kms:").and_then(KeyArn::parse_id) else { return Ok(None) };
        let Some(source) = source.in_region_of(&self.arn) else { return Ok(None) };
        if wrapped_by_other.is_empty() || wrapped_by_other.len() > MAX_CIPHERTEXT_BYTES {
            return Err(RootKeyError::Rejected);
        }
        let request = self
            .clients
            .get()
            .await?
            .re_encrypt()
            .source_key_id(source.to_string())
            .destination_key_id(&self.arn_text)
            .set_source_encryption_context(pairs(context))
            .set_destination_encryption_context(pairs(context))
            .ciphertext_blob(Blob::new(wrapped_by_other));
        self.ask(Operation::ReEncrypt, Box::pin(request.send()), |asked, answer| {
            self.check_key(asked, answer.key_id())?;
            if !answer.source_key_id().and_then(KeyArn::parse).is_some_and(|answered| answered.is_same_key(&source)) {
                return Err(asked.nonsense("it names another source key than the one it was asked for"));
            }
            wrapped(asked, answer.ciphertext_blob).map(Some)
        })
        .await
    }
}

/// What the SDK does with nobody's log looking on: at the level *trace* it logs requests and answers with their headers
/// and bodies, and those hold session tokens and plaintext keys. What there is to say, an [`Attempt`] and the error say.
async fn unlogged<T>(call: impl Future<Output = T>) -> T {
    call.with_subscriber(NoSubscriber::default()).await
}

/// KMS's encryption context; none at all where there are no pairs.
fn pairs(context: &RootContext) -> Option<HashMap<String, String>> {
    let pairs: HashMap<_, _> = context.pairs().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    (!pairs.is_empty()).then_some(pairs)
}

fn wrapped(asked: &Asked<'_>, blob: Option<Blob>) -> Result<Vec<u8>, RootKeyError> {
    let bytes = blob.map(Blob::into_inner).unwrap_or_default();
    if bytes.is_empty() || bytes.len() > MAX_CIPHERTEXT_BYTES {
        return Err(asked.nonsense("its ciphertext is missing or too long"));
    }
    Ok(bytes)
}

fn secret(asked: &Asked<'_>, bytes: Option<Zeroizing<Vec<u8>>>) -> Result<SecretKey, RootKeyError> {
    let bytes = bytes.ok_or_else(|| asked.nonsense("it holds no plaintext"))?;
    // KMS vouches for what it decrypts, so a plaintext of another length was wrapped as something else than a KEK.
    SecretKey::from_slice(&bytes).map_err(|_| match asked.operation {
        Operation::Decrypt => RootKeyError::Rejected,
        _ => asked.nonsense("its plaintext is not a key of 32 bytes"),
    })
}

impl Default for AwsKmsConfig {
    fn default() -> Self {
        Self { key: String::new(), region: None, endpoint: None, profile: None, attempt_timeout: DEFAULT_TIMEOUT }
    }
}
