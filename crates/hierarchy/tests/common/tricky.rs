//! A root key and a store that misbehave on cue and remember what they were asked.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use async_trait::async_trait;
use keystrata_hierarchy::{
    AccountCopy, Clock, Creation, Demand, Hierarchy, HierarchyBuilder, Import, KekId, KekRecord, KekState, KekStore,
    KekVersion, KeyPath, MemoryKekStore, PathHead, PolicyBuilder, Raise, RootContext, RootKey, RootKeyError, RootKeyId,
    Rotation, SecretKey, Shred, StoreError, Update, WrapperQuery,
    test_util::{ManualClock, ScriptedRootKey},
};
use tokio::sync::watch;

/// A hierarchy's surroundings, of which everything can go wrong.
pub struct Tricky {
    pub root: Arc<TrickyRoot>,
    pub store: Arc<TrickyStore>,
    pub clock: ManualClock,
}

impl Tricky {
    pub fn new() -> Self {
        Self { root: Arc::new(TrickyRoot::new()), store: Arc::default(), clock: ManualClock::new() }
    }

    pub fn builder(&self) -> HierarchyBuilder {
        Hierarchy::builder()
            .root_key(Arc::clone(&self.root))
            .store(Arc::clone(&self.store))
            .clock(self.clock.clone())
            .policy(super::exact().build().unwrap())
    }

    pub fn process(&self, policy: PolicyBuilder) -> Hierarchy {
        self.builder().policy(policy.build().unwrap()).build().unwrap()
    }

    /// What the clock shows; it begins at 1,000.
    pub fn clock_seconds(&self) -> u64 {
        self.clock.now().boot.as_secs()
    }

    /// An envelope of `account`, made by a process that is gone.
    pub async fn sealed_for(&self, account: &str) -> Vec<u8> {
        let keys = self.process(super::exact());
        keys.account(account).unwrap().seal(b"x", &super::row(1)).await.unwrap()
    }
}

/// Lets every task of a runtime of one thread do what it can do without the test.
pub async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Which calls wait until they are let go.
#[derive(Clone, Debug, PartialEq)]
pub enum Hold {
    Nothing,
    Everything,
    Unwraps,
    /// The unwraps of one KEK.
    Kek([u8; 16]),
}

#[derive(Debug, Default)]
struct Script {
    failure: Option<RootKeyError>,
    secret: Option<[u8; 32]>,
    panics: bool,
    demands: Vec<Demand>,
}

/// Something to do at each call.
type Hook = Box<dyn Fn() + Send>;

pub struct TrickyRoot {
    inner: ScriptedRootKey,
    script: Mutex<Script>,
    held: watch::Sender<Hold>,
    generates: AtomicU64,
    /// Whether a call that waits ends when nobody wants it any more, as behind a budget.
    pub withdraws: AtomicBool,
    hook: Mutex<Option<Hook>>,
}

impl std::fmt::Debug for TrickyRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrickyRoot").finish_non_exhaustive()
    }
}

impl TrickyRoot {
    fn new() -> Self {
        Self::named("test:root")
    }

    pub fn named(id: &str) -> Self {
        Self {
            inner: ScriptedRootKey::new(id),
            script: Mutex::default(),
            held: watch::Sender::new(Hold::Nothing),
            generates: AtomicU64::new(0),
            withdraws: AtomicBool::new(false),
            hook: Mutex::new(None),
        }
    }

    /// How many calls arrived, held and failed ones included.
    pub fn calls(&self) -> usize {
        self.script.lock().unwrap().demands.len()
    }

    pub fn generates(&self) -> u64 {
        self.generates.load(Ordering::SeqCst)
    }

    pub fn hold(&self, hold: Hold) {
        self.held.send_replace(hold);
    }

    /// Fails every call from now on; `None` ends that.
    pub fn fail(&self, failure: Option<RootKeyError>) {
        self.script.lock().unwrap().failure = failure;
    }

    /// Fails the next call that is not held, and no other.
    pub fn fail_next(&self, failure: RootKeyError) {
        self.inner.fail_next(failure);
    }

    /// Unwraps everything to this from now on.
    pub fn answer(&self, secret: Option<[u8; 32]>) {
        self.script.lock().unwrap().secret = secret;
    }

    pub fn panic(&self, panics: bool) {
        self.script.lock().unwrap().panics = panics;
    }

    /// Does this at each call, once it is let go.
    pub fn at_each_call(&self, hook: Option<Hook>) {
        *self.hook.lock().unwrap() = hook;
    }

    /// The demand of the last call.
    pub fn last_demand(&self) -> Demand {
        self.script.lock().unwrap().demands.last().unwrap().clone()
    }

    async fn begin(&self, context: &RootContext, is_unwrap: bool) -> Result<(), RootKeyError> {
        self.script.lock().unwrap().demands.push(context.demand().clone());
        let kek = context.pairs().find(|(name, _)| *name == RootContext::KEK_ID).map(|(_, id)| id.to_owned());
        let mut held = self.held.subscribe();
        let let_go = held.wait_for(|hold| match hold {
            Hold::Nothing => true,
            Hold::Everything => false,
            Hold::Unwraps => !is_unwrap,
            Hold::Kek(id) => !is_unwrap || kek != Some(KekId::from_bytes(*id).to_string()),
        });
        tokio::select! {
            biased;
            _ = let_go => {}
            () = context.demand().unwanted(), if self.withdraws.load(Ordering::SeqCst) => {
                return Err(RootKeyError::Withdrawn);
            }
        }
        if let Some(hook) = &*self.hook.lock().unwrap() {
            hook();
        }
        let panics = self.script.lock().unwrap().panics;
        assert!(!panics, "the adapter panics, as the test wants it to");
        self.script.lock().unwrap().failure.clone().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl RootKey for TrickyRoot {
    fn id(&self) -> &RootKeyId {
        self.inner.id()
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        self.generates.fetch_add(1, Ordering::SeqCst);
        self.begin(context, false).await?;
        self.inner.wrap_key(secret, context).await
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        self.begin(context, true).await?;
        let answer = self.script.lock().unwrap().secret;
        match answer {
            Some(secret) => Ok(SecretKey::from_slice(&secret).unwrap()),
            None => self.inner.unwrap_key(wrapped, context).await,
        }
    }
}

/// What a store shows in place of a record.
type Edit = Box<dyn Fn(KekRecord) -> Option<KekRecord> + Send>;

#[derive(Default)]
pub struct TrickyStore {
    pub inner: MemoryKekStore,
    is_down: AtomicBool,
    reads: AtomicU64,
    edit: Mutex<Option<Edit>>,
    held: watch::Sender<bool>,
    rotations_held: watch::Sender<bool>,
    rotating: AtomicU64,
}

impl std::fmt::Debug for TrickyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrickyStore").finish_non_exhaustive()
    }
}

impl TrickyStore {
    pub fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::SeqCst);
    }

    /// How many reads arrived.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    /// Keeps reads waiting, or lets them go.
    pub fn hold(&self, hold: bool) {
        self.held.send_replace(hold);
    }

    /// Keeps rotations waiting, or lets them go.
    pub fn hold_rotations(&self, hold: bool) {
        self.rotations_held.send_replace(hold);
    }

    /// How many rotations arrived.
    pub fn rotating(&self) -> u64 {
        self.rotating.load(Ordering::SeqCst)
    }

    /// Shows every record as `edit` gives it, from now on.
    pub fn show(&self, edit: impl Fn(KekRecord) -> Option<KekRecord> + Send + 'static) {
        *self.edit.lock().unwrap() = Some(Box::new(edit));
    }

    pub fn show_the_truth(&self) {
        *self.edit.lock().unwrap() = None;
    }

    pub async fn versions(&self, account: &str) -> usize {
        self.inner.records(&KeyPath::account(account).unwrap()).await.unwrap().len()
    }

    async fn read(&self) -> Result<(), StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let _ = self.held.subscribe().wait_for(|held| !held).await;
        if self.is_down.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable("the test took it down", std::io::Error::other("down")));
        }
        Ok(())
    }

    fn shown(&self, record: KekRecord) -> Option<KekRecord> {
        match &*self.edit.lock().unwrap() {
            Some(edit) => edit(record),
            None => Some(record),
        }
    }
}

#[async_trait]
impl KekStore for TrickyStore {
    async fn record(&self, path: &KeyPath, id: KekId) -> Result<Option<KekRecord>, StoreError> {
        self.read().await?;
        Ok(self.inner.record(path, id).await?.and_then(|record| self.shown(record)))
    }

    async fn primary(&self, path: &KeyPath) -> Result<Option<KekRecord>, StoreError> {
        self.read().await?;
        let Some(head) = self.inner.head(path).await? else { return Ok(None) };
        head.refuse_if_shredded()?;
        let records = self.inner.records(path).await?;
        let shown: Vec<_> = records.into_iter().filter_map(|record| self.shown(record)).collect();
        if let Some(primary) = shown.iter().find(|record| record.state == KekState::Primary) {
            return Ok(Some(primary.clone()));
        }
        // One that is disabled or only opens, if that is the truth.
        Ok(head.primary.filter(|primary| primary.state != KekState::Primary))
    }

    async fn create(&self, record: &KekRecord) -> Result<Creation, StoreError> {
        self.inner.create(record).await
    }

    async fn rotate(&self, previous: KekId, record: &KekRecord) -> Result<Rotation, StoreError> {
        self.rotating.fetch_add(1, Ordering::SeqCst);
        let _ = self.rotations_held.subscribe().wait_for(|held| !held).await;
        self.inner.rotate(previous, record).await
    }

    async fn records(&self, path: &KeyPath) -> Result<Vec<KekRecord>, StoreError> {
        self.read().await?;
        let records = self.inner.records(path).await?;
        Ok(records.into_iter().filter_map(|record| self.shown(record)).collect())
    }

    async fn primaries(&self, after: Option<&KeyPath>, limit: usize) -> Result<Vec<KekRecord>, StoreError> {
        self.inner.primaries(after, limit).await
    }

    async fn head(&self, path: &KeyPath) -> Result<Option<PathHead>, StoreError> {
        self.inner.head(path).await
    }

    async fn export(&self, path: &KeyPath) -> Result<Option<AccountCopy>, StoreError> {
        self.inner.export(path).await
    }

    async fn update(&self, expected: &KekRecord, new: &KekRecord) -> Result<Update, StoreError> {
        self.inner.update(expected, new).await
    }

    async fn raise_min_version(&self, path: &KeyPath, to: KekVersion) -> Result<Raise, StoreError> {
        self.inner.raise_min_version(path, to).await
    }

    async fn shred(&self, path: &KeyPath, at: u64) -> Result<Shred, StoreError> {
        self.inner.shred(path, at).await
    }

    async fn import(&self, copy: &AccountCopy) -> Result<Import, StoreError> {
        self.inner.import(copy).await
    }

    async fn accounts(&self, after: Option<&KeyPath>, limit: usize) -> Result<Vec<PathHead>, StoreError> {
        self.inner.accounts(after, limit).await
    }

    async fn by_wrapper(
        &self,
        wrapper: &WrapperQuery,
        after: Option<(&KeyPath, KekId)>,
        limit: usize,
    ) -> Result<Vec<KekRecord>, StoreError> {
        self.inner.by_wrapper(wrapper, after, limit).await
    }
}
