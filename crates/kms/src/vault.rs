//! A root key in the transit engine of Vault or OpenBao.

mod ciphertext;
mod config;
mod error;
mod login;

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use keystrata_hierarchy::{GeneratedKey, RootContext, RootKey, RootKeyError, RootKeyId, SecretKey};
use keystrata_memory::ProcessLocal;
use reqwest::Url;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::Instant;

pub use self::config::{VaultAuth, VaultSecret, VaultTransitConfig};
use self::{
    error::{Operation, classify},
    login::{Login, Token},
};
use crate::{
    attempt::Attempt,
    base64_key::{self, SecretText},
    budget::further_request,
    http::{Answer, Http, with_json},
    open::OpenRootError,
    sent::not_sent,
    turn::Turn,
    uri::VAULT,
};

/// A key of the transit engine of HashiCorp Vault or OpenBao.
///
/// The key must be a *derived* one (`bao write transit/keys/NAME derived=true`): the [`RootContext`] is the context that its
/// working keys are derived with. For any other key Vault takes a context and ignores it, so this is asked once, by a
/// `datakey` without a context that has to fail, and a key that is not derived is refused. (Not by `encrypt`, which makes a
/// key that is missing, if the policy has `create`.)
///
/// Each method is one request (`datakey/plaintext`, `encrypt`, `decrypt`, `rewrap`), and now and then one more: that question,
/// a login, a token's renewal, and after a refusal one that asks whether the token or the policy was at fault; a token that
/// has ended is replaced by one login, and the request sent once more.
///
/// # Id
/// `vault-transit:`, then the namespace, the mount and the name of the key as in a path: `team/transit/keys/NAME`. The
/// address is not in it, since one cluster has several and they change. Two clusters with keys of one name are told apart by
/// [`cluster`](VaultTransitConfig::cluster), which stands in front of it with an `@`.
///
/// # Wrapped form
/// The version `0x01`, the key's version as `u32le`, and the bytes that Vault writes in base64 after `vault:vN:`. (Vault's
/// text is not canonical: a reader of base64 in Go passes over stray bits and line breaks, and `v0` means `v1`.)
///
/// # Rotation
/// After `bao write -f transit/keys/NAME/rotate` new wraps take the new version, and old ones unwrap until
/// `min_decryption_version` forbids it. [`rewrap_key`](RootKey::rewrap_key) brings a wrapped key to the new version.
///
/// # Forks and runtimes
/// A forked child, and each runtime, opens connections of its own; a child gets a token of its own too.
///
/// # Secrets in memory
/// Request and answer bodies are wiped on drop. The buffers of HTTP and TLS below, and the token in a header, are freed and
/// not wiped.
pub struct VaultTransitRootKey {
    id: RootKeyId,
    http: Http,
    login: Login,
    /// `https://vault.example:8200/v1/transit/`
    mount: Url,
    key: String,
    /// A forked child asks anew.
    derivation: ProcessLocal<Derivation>,
}

/// Whether the key is known to be derived, and whose turn it is to ask.
struct Derivation {
    is_known: AtomicBool,
    turn: Turn,
}

/// Beside the context, a request's JSON has at most this many bytes.
const REQUEST_BYTES: usize = 512;

#[derive(Serialize)]
struct Request<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    plaintext: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ciphertext: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bits: Option<u32>,
}

impl Request<'_> {
    const EMPTY: Self = Self { plaintext: None, ciphertext: None, context: None, bits: None };
}

/// What is used of an answer.
#[derive(Deserialize)]
struct Reply<T> {
    data: T,
}

#[derive(Deserialize)]
struct Ciphertext {
    ciphertext: String,
}

#[derive(Deserialize)]
struct Plaintext {
    plaintext: SecretText,
}

#[derive(Deserialize)]
struct DataKey {
    plaintext: SecretText,
    ciphertext: String,
}

impl VaultTransitRootKey {
    /// Makes ready what the calls need. Nothing is sent: login comes with the first call.
    ///
    /// # Errors
    /// [`OpenRootError`] if the address, a file or the credentials are not there or not usable.
    pub async fn open(config: VaultTransitConfig) -> Result<Self, OpenRootError> {
        let id = RootKeyId::new(&config.id()).map_err(|_| VAULT.malformed("its names are too long"))?;
        let parts = config.into_parts().await?;
        let mount =
            parts.api.join(&format!("{}/", parts.mount)).map_err(|_| VAULT.malformed("the mount is not a path"))?;
        // The question may take as long as it takes to get two tokens, and to ask with each.
        let limit = parts.http.timeout().saturating_mul(8);
        let derivation =
            ProcessLocal::new(move || Derivation { is_known: AtomicBool::new(false), turn: Turn::new(limit) });
        Ok(Self {
            id,
            login: Login::new(parts.http.clone(), parts.api, parts.namespace, parts.credentials),
            http: parts.http,
            mount,
            key: parts.key,
            derivation,
        })
    }

    /// One request for this key, after whatever it needs first, and what is made of its answer.
    async fn call<T: DeserializeOwned, U>(
        &self,
        operation: Operation,
        request: &Request<'_>,
        used: impl FnOnce(&Answer, T) -> Result<U, RootKeyError>,
    ) -> Result<U, RootKeyError> {
        self.know_derived().await?;
        let used = |answer: &Answer| {
            if !answer.is_success() {
                return Err(classify(operation, &self.key, answer));
            }
            let reply: Reply<T> = self.http.parse(answer)?;
            used(answer, reply.data)
        };
        self.authorised(operation, request, used).await
    }

    /// Asks once, one for all, whether the key is derived.
    async fn know_derived(&self) -> Result<(), RootKeyError> {
        let derivation = self.derivation.get();
        if derivation.is_known.load(Ordering::Relaxed) {
            return Ok(());
        }
        let began = Instant::now();
        let claim = derivation.turn.take().await;
        if derivation.is_known.load(Ordering::Relaxed) {
            return Ok(());
        }
        if let Some(error) = claim.failure_since(began) {
            return Err(error);
        }
        claim.noted(self.check_derived().await)?;
        derivation.is_known.store(true, Ordering::Relaxed);
        // The question has used up what this call was admitted for.
        further_request()
    }

    /// A derived key does nothing without a context; Vault lets any other key ignore ours.
    async fn check_derived(&self) -> Result<(), RootKeyError> {
        let operation = Operation::DataKey;
        let request = Request { bits: Some(256), ..Request::EMPTY };
        self.authorised(operation, &request, |answer| {
            if answer.is_success() {
                let _: Reply<DataKey> = self.http.parse(answer)?; // a page of something in between proves nothing
                return Err(RootKeyError::denied(format!(
                    "the transit key {} is not derived, so it would ignore which account a key belongs to: make another \
                     with derived=true",
                    self.key
                )));
            }
            if error::says_context_is_missing(answer) { Ok(()) } else { Err(classify(operation, &self.key, answer)) }
        })
        .await
    }

    /// One request with a token, and once more with another if the first has ended.
    async fn authorised<T>(
        &self,
        operation: Operation,
        request: &Request<'_>,
        used: impl FnOnce(&Answer) -> Result<T, RootKeyError>,
    ) -> Result<T, RootKeyError> {
        let mut token = self.login.token().await?;
        let mut is_second = false;
        loop {
            let (attempt, answer) = self.send(operation, request, &token).await?;
            let request_id = answer.request_id();
            // A refusal is the policy's word only if the token is good, be it the first or the one after it.
            let replaced = if answer.status == 403 { self.login.replace(&token).await } else { Ok(None) };
            match replaced {
                Ok(None) => {
                    let outcome = used(&answer);
                    attempt.end(&outcome, request_id.as_deref());
                    return outcome;
                }
                Ok(Some(other)) if !is_second => {
                    attempt.end_with_token(request_id.as_deref());
                    further_request()?;
                    (token, is_second) = (other, true);
                }
                Ok(Some(_)) => {
                    attempt.end_with_token(request_id.as_deref());
                    return Err(RootKeyError::unavailable(
                        "Vault's token was replaced twice and refused each time: try again",
                    ));
                }
                Err(error) => {
                    attempt.end_with_token(request_id.as_deref());
                    return Err(error);
                }
            }
        }
    }

    async fn send(
        &self,
        operation: Operation,
        request: &Request<'_>,
        token: &Token,
    ) -> Result<(Attempt, Answer), RootKeyError> {
        let url = self.mount.join(&format!("{}/{}", operation.path(), self.key)).expect("names were checked");
        let capacity = REQUEST_BYTES + request.context.map_or(0, str::len) + request.ciphertext.map_or(0, str::len);
        let request = with_json(self.login.with_token(self.http.post(url)?, token), request, capacity);
        let attempt = Attempt::begin(VAULT.name, operation.name());
        attempt.until_answered(self.http.send(request)).await
    }

    fn wrapped(&self, answer: &Answer, text: &str) -> Result<Vec<u8>, RootKeyError> {
        ciphertext::to_bytes(text).ok_or_else(|| self.http.nonsense(answer, "its ciphertext is not one of transit"))
    }
}

impl fmt::Debug for VaultTransitRootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultTransitRootKey").field("id", &self.id).finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RootKey for VaultTransitRootKey {
    fn id(&self) -> &RootKeyId {
        &self.id
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        not_sent();
        let (plaintext, context) = (base64_key::encode(secret), STANDARD.encode(context.to_aad()));
        let request = Request { plaintext: Some(&plaintext), context: Some(&context), ..Request::EMPTY };
        let used = |answer: &Answer, data: Ciphertext| self.wrapped(answer, &data.ciphertext);
        self.call(Operation::Encrypt, &request, used).await
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        not_sent();
        let ciphertext = ciphertext::to_text(wrapped).ok_or(RootKeyError::Rejected)?;
        let context = STANDARD.encode(context.to_aad());
        let request = Request { ciphertext: Some(&ciphertext), context: Some(&context), ..Request::EMPTY };
        let used = |answer: &Answer, data: Plaintext| {
            // Vault vouches for what it decrypts, so another length was wrapped as something else than a KEK.
            let bytes = base64_key::decode(&data.plaintext.0)
                .ok_or_else(|| self.http.nonsense(answer, "its plaintext is not base64"))?;
            SecretKey::from_slice(&bytes).map_err(|_| RootKeyError::Rejected)
        };
        self.call(Operation::Decrypt, &request, used).await
    }

    async fn generate_key(&self, context: &RootContext) -> Result<GeneratedKey, RootKeyError> {
        not_sent();
        let context = STANDARD.encode(context.to_aad());
        let request = Request { context: Some(&context), bits: Some(256), ..Request::EMPTY };
        let used = |answer: &Answer, data: DataKey| {
            let secret = base64_key::decode(&data.plaintext.0)
                .and_then(|bytes| SecretKey::from_slice(&bytes).ok())
                .ok_or_else(|| self.http.nonsense(answer, "its plaintext is not a key of 32 bytes"))?;
            Ok(GeneratedKey { secret, wrapped: self.wrapped(answer, &data.ciphertext)? })
        };
        self.call(Operation::DataKey, &request, used).await
    }

    /// To this key's newest version.
    async fn rewrap_key(
        &self,
        from: &RootKeyId,
        wrapped: &[u8],
        context: &RootContext,
    ) -> Result<Option<Vec<u8>>, RootKeyError> {
        not_sent();
        if *from != self.id {
            return Ok(None);
        }
        let ciphertext = ciphertext::to_text(wrapped).ok_or(RootKeyError::Rejected)?;
        // As a context, which derives the key. Additional data would be ignored here.
        let context = STANDARD.encode(context.to_aad());
        let request = Request { ciphertext: Some(&ciphertext), context: Some(&context), ..Request::EMPTY };
        let used = |answer: &Answer, data: Ciphertext| self.wrapped(answer, &data.ciphertext).map(Some);
        self.call(Operation::Rewrap, &request, used).await
    }
}
