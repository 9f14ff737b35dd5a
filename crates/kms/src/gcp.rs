//! A root key in Google Cloud KMS.

mod config;
mod error;
mod service_account;
mod token;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use keystrata_hierarchy::{GeneratedKey, RootContext, RootKey, RootKeyError, RootKeyId, SecretKey};
use reqwest::Url;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use self::config::{GcpAuth, GcpKmsConfig};
use self::{
    error::{Operation, classify},
    token::{AccessToken, Tokens},
};
use crate::{
    attempt::Attempt,
    base64_key::{self, SecretText},
    budget::further_request,
    http::{Answer, Http, with_json},
    open::OpenRootError,
    sent::not_sent,
    uri::GCP,
};

/// A symmetric key (purpose `ENCRYPT_DECRYPT`) in Google Cloud KMS.
///
/// Each method is one request: `encrypt` or `decrypt`. A secret is generated here and encrypted there, since Cloud KMS makes
/// no data keys. Now and then a request for an access token comes before; a token that is refused is replaced once, and the
/// request sent again.
///
/// Checksums (CRC-32C) go with every plaintext, ciphertext and additional data, both ways. An answer that does not confirm
/// ours, or whose own is missing or wrong, is not used: a bit that flips on the way must not end in a stored record.
///
/// # Id
/// `gcp-kms:` and the key's resource name. A version is not part of it: Cloud KMS encrypts with the primary version and
/// finds the one that decrypts.
///
/// # Wrapped form
/// Cloud KMS's ciphertext as it is. The [`RootContext`], [encoded](RootContext::to_aad), is its additional authenticated
/// data. It does not appear in audit logs, and no policy can match it.
///
/// # Forks and runtimes
/// A forked child, and each runtime, opens connections of its own; a child gets a token of its own too.
///
/// # Secrets in memory
/// Request and answer bodies, and the service account's key as it is read, are wiped on drop. The buffers of HTTP and TLS
/// below are freed and not wiped, nor is the access token in a header.
pub struct GcpKmsRootKey {
    id: RootKeyId,
    http: Http,
    tokens: Tokens,
    /// `projects/…/cryptoKeys/…`
    name: String,
    encrypt: Url,
    decrypt: Url,
}

/// Most bytes of a wrapped key: a record holds no more.
const MAX_CIPHERTEXT_BYTES: usize = 8192;
/// Beside ciphertext and additional data, a request's JSON has at most this many bytes.
const REQUEST_BYTES: usize = 512;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Encrypt<'a> {
    plaintext: &'a str,
    plaintext_crc32c: String,
    additional_authenticated_data: &'a str,
    additional_authenticated_data_crc32c: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Encrypted {
    name: String,
    ciphertext: String,
    ciphertext_crc32c: Checksum,
    #[serde(default)]
    verified_plaintext_crc32c: bool,
    #[serde(default)]
    verified_additional_authenticated_data_crc32c: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Decrypt<'a> {
    ciphertext: &'a str,
    ciphertext_crc32c: String,
    additional_authenticated_data: &'a str,
    additional_authenticated_data_crc32c: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Decrypted {
    #[serde(default)]
    plaintext: Option<SecretText>,
    plaintext_crc32c: Checksum,
}

/// A 64-bit integer, which JSON has as a string.
#[derive(Deserialize)]
struct Checksum(String);

impl Checksum {
    fn is_of(&self, bytes: &[u8]) -> bool {
        self.0.parse() == Ok(crc32c::crc32c(bytes))
    }
}

impl GcpKmsRootKey {
    /// Makes ready what the calls need. Nothing is sent.
    ///
    /// # Errors
    /// [`OpenRootError`] if the name, the endpoint or the credentials are not there or not usable.
    pub async fn open(config: GcpKmsConfig) -> Result<Self, OpenRootError> {
        let id =
            RootKeyId::new(&format!("gcp-kms:{}", config.key)).map_err(|_| GCP.malformed("the name is too long"))?;
        let parts = config.into_parts().await?;
        let url = |method: &str| {
            let url = parts.endpoint.join(&format!("/v1/{}:{method}", parts.key));
            url.map_err(|_| GCP.malformed("the endpoint is not a URL"))
        };
        let (encrypt, decrypt) = (url("encrypt")?, url("decrypt")?);
        let tokens = Tokens::new(parts.token_http, parts.source);
        Ok(Self { id, http: parts.http, tokens, name: parts.key, encrypt, decrypt })
    }

    /// One request with a token, and once more with another if the first has ended, and what is made of its answer.
    async fn call<T: DeserializeOwned, U>(
        &self,
        operation: Operation,
        body: &impl Serialize,
        len: usize,
        used: impl FnOnce(&Answer, T) -> Result<U, RootKeyError>,
    ) -> Result<U, RootKeyError> {
        let token = self.tokens.get().await?;
        let (mut attempt, mut answer) = self.send(operation, body, len, token.as_ref()).await?;
        if answer.status == 401
            && let Some(token) = &token
        {
            attempt.end_with_token(answer.request_id().as_deref());
            let other = self.tokens.replace(token).await?;
            further_request()?;
            (attempt, answer) = self.send(operation, body, len, Some(&other)).await?;
        }
        let outcome = if answer.is_success() {
            self.http.parse(&answer).and_then(|reply| used(&answer, reply))
        } else {
            Err(classify(operation, &self.name, &answer))
        };
        attempt.end(&outcome, answer.request_id().as_deref());
        outcome
    }

    async fn send(
        &self,
        operation: Operation,
        body: &impl Serialize,
        len: usize,
        token: Option<&Arc<AccessToken>>,
    ) -> Result<(Attempt, Answer), RootKeyError> {
        let url = match operation {
            Operation::Encrypt => &self.encrypt,
            Operation::Decrypt => &self.decrypt,
        };
        let mut request = self.http.post(url.clone())?;
        if let Some(token) = token {
            request = request.header(reqwest::header::AUTHORIZATION, token.header());
        }
        let attempt = Attempt::begin(GCP.name, operation.name());
        attempt.until_answered(self.http.send(with_json(request, body, len))).await
    }

    /// Whether `version` is a version of our key.
    fn is_ours(&self, version: &str) -> bool {
        let number = version.strip_prefix(&self.name).and_then(|rest| rest.strip_prefix("/cryptoKeyVersions/"));
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    }
}

impl fmt::Debug for GcpKmsRootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GcpKmsRootKey").field("id", &self.id).finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RootKey for GcpKmsRootKey {
    fn id(&self) -> &RootKeyId {
        &self.id
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        not_sent();
        let (plaintext, aad) = (base64_key::encode(secret), context.to_aad());
        let aad_text = STANDARD.encode(&aad);
        let body = Encrypt {
            plaintext: &plaintext,
            plaintext_crc32c: crc32c::crc32c(secret.expose_secret()).to_string(),
            additional_authenticated_data: &aad_text,
            additional_authenticated_data_crc32c: crc32c::crc32c(&aad).to_string(),
        };
        self.call(Operation::Encrypt, &body, REQUEST_BYTES + aad_text.len(), |answer, reply: Encrypted| {
            let nonsense = |what| self.http.nonsense(answer, what);
            if !self.is_ours(&reply.name) {
                return Err(nonsense("it names another key than the one it was asked for"));
            }
            if !(reply.verified_plaintext_crc32c && reply.verified_additional_authenticated_data_crc32c) {
                return Err(nonsense("it does not confirm the checksums that were sent"));
            }
            let ciphertext = STANDARD.decode(&reply.ciphertext).unwrap_or_default();
            if !reply.ciphertext_crc32c.is_of(&ciphertext) {
                return Err(nonsense("its ciphertext does not match its checksum"));
            }
            if ciphertext.is_empty() || ciphertext.len() > MAX_CIPHERTEXT_BYTES {
                return Err(nonsense("its ciphertext is missing or too long"));
            }
            Ok(ciphertext)
        })
        .await
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        not_sent();
        if wrapped.is_empty() || wrapped.len() > MAX_CIPHERTEXT_BYTES {
            return Err(RootKeyError::Rejected);
        }
        let (ciphertext, aad) = (STANDARD.encode(wrapped), context.to_aad());
        let aad_text = STANDARD.encode(&aad);
        let body = Decrypt {
            ciphertext: &ciphertext,
            ciphertext_crc32c: crc32c::crc32c(wrapped).to_string(),
            additional_authenticated_data: &aad_text,
            additional_authenticated_data_crc32c: crc32c::crc32c(&aad).to_string(),
        };
        let len = REQUEST_BYTES + aad_text.len() + ciphertext.len();
        self.call(Operation::Decrypt, &body, len, |answer, reply: Decrypted| {
            let text = reply.plaintext.as_ref().map_or("", |text| text.0.as_str());
            // First whether the answer came through unharmed: a damaged one says nothing about the record.
            let bytes =
                base64_key::decode(text).ok_or_else(|| self.http.nonsense(answer, "its plaintext is not base64"))?;
            if !reply.plaintext_crc32c.is_of(&bytes) {
                return Err(self.http.nonsense(answer, "its plaintext does not match its checksum"));
            }
            // Cloud KMS vouches for what it decrypts, so another length was wrapped as something else than a KEK.
            SecretKey::from_slice(&bytes).map_err(|_| RootKeyError::Rejected)
        })
        .await
    }

    async fn generate_key(&self, context: &RootContext) -> Result<GeneratedKey, RootKeyError> {
        not_sent();
        let secret = SecretKey::generate()?;
        let wrapped = self.wrap_key(&secret, context).await?;
        Ok(GeneratedKey { secret, wrapped })
    }

    /// Cloud KMS has no request for it.
    async fn rewrap_key(&self, _: &RootKeyId, _: &[u8], _: &RootContext) -> Result<Option<Vec<u8>>, RootKeyError> {
        not_sent();
        Ok(None)
    }
}
