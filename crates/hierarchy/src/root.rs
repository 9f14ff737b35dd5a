//! The seam to a KMS: a root key wraps and unwraps the secrets that KEKs are derived from.

mod demand;

use std::{error::Error, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use keystrata_primitives::{KekIdentity, KeyPath, RandomnessError, RootKeyId, SecretKey, wire};

pub(crate) use self::demand::Waiter;
pub use self::demand::{Demand, Urgency};

/// What a lower layer said, kept for the error's chain. Shared, because one failed load answers many callers.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// A key that stays in a KMS (or, for development, in a file) and wraps 32-byte secrets.
///
/// Implementations are called from many tasks at once. A call that is dropped may still reach the KMS. Nothing here
/// retries: one method call is one attempt.
#[async_trait]
pub trait RootKey: fmt::Debug + Send + Sync {
    /// Which key this is. Records name it, and a record that names another is refused without a call.
    fn id(&self) -> &RootKeyId;

    /// Wraps `secret`. Unwrapping will need the same `context`.
    ///
    /// # Errors
    /// [`RootKeyError`], by class.
    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError>;

    /// Unwraps what [`wrap_key`](Self::wrap_key) or [`generate_key`](Self::generate_key) made.
    ///
    /// # Errors
    /// [`RootKeyError`], by class; [`RootKeyError::Rejected`] for altered bytes, another context or another key.
    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError>;

    /// Makes a fresh secret and wraps it, in one call where the KMS can do that.
    ///
    /// # Errors
    /// As [`wrap_key`](Self::wrap_key).
    async fn generate_key(&self, context: &RootContext) -> Result<GeneratedKey, RootKeyError> {
        let secret = SecretKey::generate()?;
        let wrapped = self.wrap_key(&secret, context).await?;
        Ok(GeneratedKey { secret, wrapped })
    }

    /// Wraps under this key what the root key `from` wrapped, without the secret leaving the KMS. `None`, without a call,
    /// where the service cannot do that for this pair of keys; then the caller unwraps and wraps.
    ///
    /// # Errors
    /// As [`unwrap_key`](Self::unwrap_key).
    async fn rewrap_key(
        &self,
        from: &RootKeyId,
        wrapped: &[u8],
        context: &RootContext,
    ) -> Result<Option<Vec<u8>>, RootKeyError> {
        let _ = (from, wrapped, context);
        Ok(None)
    }
}

/// A fresh secret and its wrapped form.
#[derive(Debug)]
pub struct GeneratedKey {
    /// The secret; wiped on drop.
    pub secret: SecretKey,
    /// The same under the root key, for the store.
    pub wrapped: Vec<u8>,
}

/// Why a root key did not do what was asked. The class says what a caller can do about it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootKeyError {
    /// The KMS asks to slow down. Trying later helps.
    #[error("the KMS is throttling: {message}")]
    Throttled {
        /// What happened and what to do.
        message: String,
        /// What the KMS client said.
        #[source]
        source: Option<Cause>,
    },
    /// The KMS refuses this key: access denied, disabled or pending deletion. Trying again does not help.
    #[error("the KMS denies the root key: {message}")]
    Denied {
        /// What happened and what to do.
        message: String,
        /// What the KMS client said.
        #[source]
        source: Option<Cause>,
    },
    /// No answer, an answer that makes no sense, or no credentials. Trying later may help.
    #[error("the root key is unavailable: {message}")]
    Unavailable {
        /// What happened and what to do.
        message: String,
        /// What the KMS client said.
        #[source]
        source: Option<Cause>,
    },
    /// Refused here, before anything was sent: the calls that this process may make are used up, or too many wait.
    #[error("too many calls to the KMS: {message}")]
    Overloaded {
        /// Which limit, and what to do.
        message: String,
        /// How long to wait before the next try has a chance.
        retry_after: Duration,
    },
    /// Nobody waited for the call any more, so it was not sent.
    #[error("the call to the KMS was withdrawn before it was sent: nobody waited for it any more")]
    Withdrawn,
    /// Another key, another context or altered bytes, deliberately one outcome.
    #[error("the root key rejects the wrapped key: another key or account wrapped it, or its bytes were altered")]
    Rejected,
}

impl RootKeyError {
    /// [`RootKeyError::Throttled`] without a cause.
    pub fn throttled(message: impl Into<String>) -> Self {
        Self::Throttled { message: message.into(), source: None }
    }

    /// [`RootKeyError::Denied`] without a cause.
    pub fn denied(message: impl Into<String>) -> Self {
        Self::Denied { message: message.into(), source: None }
    }

    /// [`RootKeyError::Unavailable`] without a cause.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::Unavailable { message: message.into(), source: None }
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Throttled { .. } | Self::Unavailable { .. } | Self::Overloaded { .. } | Self::Withdrawn)
    }
}

impl From<RandomnessError> for RootKeyError {
    fn from(error: RandomnessError) -> Self {
        Self::Unavailable { message: "a key could not be generated".into(), source: Some(Arc::new(error)) }
    }
}

/// What a KMS is told about the secret it wraps, and checks when it unwraps: its *encryption context*.
///
/// It travels in clear and stands in the KMS's audit log, so that a policy can match it. For a KEK it holds
/// [`ACCOUNT`](Self::ACCOUNT) and [`KEK_ID`](Self::KEK_ID); for a data key of `Enveloped` nothing.
///
/// Beside it travels the call's [`Demand`], which no KMS sees and which does not count when contexts are compared.
#[derive(Clone, Debug)]
pub struct RootContext {
    /// Sorted by name.
    pairs: Vec<(&'static str, String)>,
    demand: Demand,
}

impl PartialEq for RootContext {
    fn eq(&self, other: &Self) -> bool {
        self.pairs == other.pairs
    }
}

impl Eq for RootContext {}

impl RootContext {
    /// The name under which a KMS sees whose KEK it is: the path's segments joined by `/`.
    ///
    /// A segment of `A-Z a-z 0-9 . _ @ : = + -` stands as it is, any other as `~` and its base64url, so a policy can
    /// match on it with wildcards and no two paths look alike.
    pub const ACCOUNT: &'static str = "keystrata:account";
    /// The name under which a KMS sees the KEK id, 32 hexadecimal digits.
    pub const KEK_ID: &'static str = "keystrata:kek-id";

    /// No pairs.
    pub fn none() -> Self {
        Self { pairs: Vec::new(), demand: Demand::foreground() }
    }

    /// The context of a KEK.
    pub fn of_kek(identity: &KekIdentity) -> Self {
        let pairs = vec![(Self::ACCOUNT, policy_text(&identity.path)), (Self::KEK_ID, identity.id.to_string())];
        Self { pairs, demand: Demand::foreground() }
    }

    /// The same context for a call that is wanted as `demand` says. Without this, a call is in the foreground and wanted.
    pub fn with_demand(mut self, demand: Demand) -> Self {
        self.demand = demand;
        self
    }

    /// How much the call is wanted.
    pub fn demand(&self) -> &Demand {
        &self.demand
    }

    /// The value of [`ACCOUNT`](Self::ACCOUNT); `None` for a data key of `Enveloped`.
    pub fn account(&self) -> Option<&str> {
        self.pairs().find_map(|(name, value)| (name == Self::ACCOUNT).then_some(value))
    }

    /// The pairs, sorted by name.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// One canonical encoding, `u32le(n) ‖ (str name ‖ str value)…`: for a root key that takes bytes, not pairs.
    pub fn to_aad(&self) -> Vec<u8> {
        let mut aad = Vec::new();
        wire::put_len(&mut aad, self.pairs.len());
        for (name, value) in self.pairs() {
            wire::put_str(&mut aad, name.as_bytes());
            wire::put_str(&mut aad, value.as_bytes());
        }
        aad
    }
}

fn policy_text(path: &KeyPath) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._@:=+-".contains(&b);
    let segments = path.segments().map(|segment| {
        if segment.bytes().all(is_plain) { segment.to_owned() } else { format!("~{}", URL_SAFE_NO_PAD.encode(segment)) }
    });
    segments.collect::<Vec<_>>().join("/")
}

#[async_trait]
#[deny(clippy::missing_trait_methods)] // a default not forwarded would cost the adapter its own way of doing it
impl<R: RootKey + ?Sized> RootKey for Arc<R> {
    fn id(&self) -> &RootKeyId {
        (**self).id()
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        (**self).wrap_key(secret, context).await
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        (**self).unwrap_key(wrapped, context).await
    }

    async fn generate_key(&self, context: &RootContext) -> Result<GeneratedKey, RootKeyError> {
        (**self).generate_key(context).await
    }

    async fn rewrap_key(
        &self,
        from: &RootKeyId,
        wrapped: &[u8],
        context: &RootContext,
    ) -> Result<Option<Vec<u8>>, RootKeyError> {
        (**self).rewrap_key(from, wrapped, context).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_text_is_readable_where_it_can_be_and_never_ambiguous() {
        let text = |segments: &[&str]| policy_text(&KeyPath::new(segments).unwrap());
        assert_eq!(text(&["acme"]), "acme");
        assert_eq!(text(&["acme", "billing"]), "acme/billing");
        assert_eq!(text(&["acme/billing"]), "~YWNtZS9iaWxsaW5n");
        assert_eq!(text(&["~YWNtZS9iaWxsaW5n"]), "~fllXTnRaUzlpYVd4c2FXNW4");
        assert_eq!(text(&["*"]), "~Kg");
        assert_eq!(text(&["größe"]), "~Z3LDtsOfZQ");
    }
}
