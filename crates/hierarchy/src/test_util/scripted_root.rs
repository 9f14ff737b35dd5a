//! A root key that does as it is told.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use keystrata_primitives::{RootKeyId, SecretKey, wrap};

use crate::root::{GeneratedKey, RootContext, RootKey, RootKeyError};

/// A [`RootKey`] with a fixed key in memory that counts its calls and can be told to fail or to wait.
///
/// One call that fails:
///
/// ```
/// # use keystrata_hierarchy::MemoryKekStore;
/// # use std::sync::Arc;
/// use keystrata_hierarchy::{Context, Hierarchy, KeyError, RootKeyError, SealError, test_util::ScriptedRootKey};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// # let store = MemoryKekStore::new();
/// let root = Arc::new(ScriptedRootKey::new("test:root"));
/// let keys = Hierarchy::builder().root_key(Arc::clone(&root)).store(store).build()?;
/// root.fail_next(RootKeyError::throttled("by the script"));
/// let refused = keys.account("acme")?.seal(b"x", &Context::none()).await;
/// assert!(matches!(refused, Err(SealError::Key(KeyError::Throttled(_)))) && root.calls() == 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A tenant whose key is revoked while others go on, and a KMS that fails at every third call:
///
/// ```
/// use keystrata_hierarchy::{RootKeyError, test_util::ScriptedRootKey};
///
/// let root = ScriptedRootKey::new("test:root");
/// root.script(|call| match call.context.account() {
///     Some("globex") => Err(RootKeyError::denied("revoked")),
///     _ if call.number % 3 == 0 => Err(RootKeyError::unavailable("every third call")),
///     _ => Ok(()),
/// });
/// root.script(|_| Ok(())); // all is well again
/// ```
pub struct ScriptedRootKey {
    id: RootKeyId,
    key: SecretKey,
    can_rewrap: bool,
    calls: AtomicU64,
    calls_to: [AtomicU64; ScriptedOperation::ALL.len()],
    failures: Mutex<VecDeque<RootKeyError>>,
    script: Mutex<Box<Script>>,
    /// Calls hold the gate shared; a test that holds it closed keeps them waiting.
    gate: tokio::sync::RwLock<()>,
}

/// Says of each call whether it fails.
type Script = dyn FnMut(&ScriptedCall<'_>) -> Result<(), RootKeyError> + Send;

/// A call to a [`ScriptedRootKey`], as its [script](ScriptedRootKey::script) sees it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ScriptedCall<'a> {
    /// Which call to this root key it is, from 1.
    pub number: u64,
    /// What was called.
    pub operation: ScriptedOperation,
    /// The context that it was called with.
    pub context: &'a RootContext,
}

/// What a [`ScriptedRootKey`] can be asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the methods of `RootKey`
pub enum ScriptedOperation {
    Wrap,
    Unwrap,
    Generate,
    Rewrap,
}

impl ScriptedOperation {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Wrap, Self::Unwrap, Self::Generate, Self::Rewrap];
}

impl ScriptedRootKey {
    /// A root key of this id. Two of the same id are the same key.
    ///
    /// # Panics
    /// If `id` breaks the rules of [`RootKeyId`].
    pub fn new(id: &str) -> Self {
        Self {
            id: RootKeyId::new(id).expect("a test chooses a valid id"),
            key: key_of(id),
            can_rewrap: false,
            calls: AtomicU64::new(0),
            calls_to: [const { AtomicU64::new(0) }; ScriptedOperation::ALL.len()],
            failures: Mutex::default(),
            script: Mutex::new(Box::new(|_| Ok(()))),
            gate: tokio::sync::RwLock::new(()),
        }
    }

    /// Lets it rewrap by itself what scripted root keys wrapped whose ids have the same scheme, the part before the first
    /// colon: as a KMS does for its own keys. Without this it cannot.
    pub fn that_rewraps(mut self) -> Self {
        self.can_rewrap = true;
        self
    }

    /// How many calls arrived, failed ones included.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// How many of them were of this kind.
    pub fn calls_to(&self, operation: ScriptedOperation) -> u64 {
        self.calls_to[operation as usize].load(Ordering::SeqCst)
    }

    /// Lets the next call fail with `error`; several queue up. Calls beyond them go by the [script](Self::script).
    pub fn fail_next(&self, error: RootKeyError) {
        lock(&self.failures).push_back(error);
    }

    /// Asks `script` from now on whether a call fails. It replaces the script before it, which at first lets all succeed.
    ///
    /// It runs within the call: it must not set another script. Where it panics, the call does.
    pub fn script(&self, script: impl FnMut(&ScriptedCall<'_>) -> Result<(), RootKeyError> + Send + 'static) {
        *lock(&self.script) = Box::new(script);
    }

    /// Keeps every call waiting, counted, until the guard is dropped.
    pub async fn hold(&self) -> impl Drop + use<'_> {
        self.gate.write().await
    }

    async fn begin(&self, operation: ScriptedOperation, context: &RootContext) -> Result<(), RootKeyError> {
        self.calls_to[operation as usize].fetch_add(1, Ordering::SeqCst);
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        drop(self.gate.read().await);
        let failure = lock(&self.failures).pop_front();
        match failure {
            Some(error) => Err(error),
            None => lock(&self.script)(&ScriptedCall { number, operation, context }),
        }
    }

    fn wrap(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        Ok(wrap::wrap_key(&self.key, &context.to_aad(), secret)?.to_vec())
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Different for ids that differ, also after their first 32 letters.
fn key_of(id: &str) -> SecretKey {
    let mut key = [0x5a; SecretKey::LEN];
    for (index, letter) in id.bytes().enumerate() {
        let byte = &mut key[index % SecretKey::LEN];
        *byte = if index < SecretKey::LEN { letter } else { byte.wrapping_mul(31).wrapping_add(letter) };
    }
    SecretKey::from_slice(&key).expect("32 bytes")
}

fn unwrap(key: &SecretKey, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
    wrap::unwrap_key(key, &context.to_aad(), wrapped).map_err(|_| RootKeyError::Rejected)
}

impl fmt::Debug for ScriptedRootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedRootKey").field("id", &self.id).field("calls", &self.calls()).finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RootKey for ScriptedRootKey {
    fn id(&self) -> &RootKeyId {
        &self.id
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        self.begin(ScriptedOperation::Wrap, context).await?;
        self.wrap(secret, context)
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        self.begin(ScriptedOperation::Unwrap, context).await?;
        unwrap(&self.key, wrapped, context)
    }

    async fn generate_key(&self, context: &RootContext) -> Result<GeneratedKey, RootKeyError> {
        self.begin(ScriptedOperation::Generate, context).await?;
        let secret = SecretKey::generate()?;
        let wrapped = self.wrap(&secret, context)?;
        Ok(GeneratedKey { secret, wrapped })
    }

    async fn rewrap_key(
        &self,
        from: &RootKeyId,
        wrapped: &[u8],
        context: &RootContext,
    ) -> Result<Option<Vec<u8>>, RootKeyError> {
        let scheme = |id: &RootKeyId| id.as_str().split(':').next().map(str::to_owned);
        if !self.can_rewrap || scheme(from) != scheme(&self.id) {
            return Ok(None);
        }
        self.begin(ScriptedOperation::Rewrap, context).await?;
        let secret = unwrap(&key_of(from.as_str()), wrapped, context)?;
        self.wrap(&secret, context).map(Some)
    }
}
