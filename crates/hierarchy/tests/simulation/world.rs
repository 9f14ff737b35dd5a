//! What is outside the engine: a KMS that answers when the simulation lets it, and a store that can be down.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use keystrata_hierarchy::{
    AccountCopy, Clock, Creation, Import, KekId, KekRecord, KekStore, KekVersion, KeyPath, MemoryKekStore, PathHead,
    Raise, RootContext, RootKey, RootKeyError, RootKeyId, Rotation, SecretKey, Shred, StoreError, Update, WrapperQuery,
    clock::Moment, test_util::ManualClock,
};
use keystrata_primitives::{Wrapper, wrap};
use tokio::sync::oneshot;

/// What the KMS does with one account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    #[default]
    Up,
    Throttled,
    Unavailable,
    Denied,
    /// Answers with the bytes of another key.
    Wrong,
}

/// One call to the KMS.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) process: usize,
    pub(crate) account: String,
    pub(crate) kek: String,
    pub(crate) sent: Moment,
    /// Its place in the order of all that happened.
    pub(crate) order: u64,
    /// `None` while it has no answer.
    pub(crate) answer: Option<Mood>,
}

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    waiting: BTreeMap<usize, oneshot::Sender<()>>,
    moods: BTreeMap<String, Mood>,
    answers_at_once: bool,
    store_is_down: bool,
    /// Counts everything that happens.
    order: u64,
    /// By process and account: the order of the last invalidation. What was sent before it counts for nobody.
    invalidated: BTreeMap<(usize, String), u64>,
    invalidated_all: BTreeMap<usize, u64>,
    /// Of denials that count, by process and account: when they were answered.
    denials: BTreeMap<(usize, String), (u64, Moment)>,
}

impl State {
    fn next(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    /// The order of the last invalidation, by request or by a denial.
    fn invalidated(&self, process: usize, account: &str) -> u64 {
        let key = (process, account.to_owned());
        let requested = self.invalidated.get(&key).copied();
        let denied = self.denials.get(&key).map(|(order, _)| *order);
        [requested, self.invalidated_all.get(&process).copied(), denied].into_iter().flatten().max().unwrap_or_default()
    }
}

/// Shared by all processes.
#[derive(Clone)]
pub(crate) struct World {
    state: Arc<Mutex<State>>,
    pub(crate) clock: ManualClock,
    store: Arc<MemoryKekStore>,
}

impl World {
    pub(crate) fn new(answers_at_once: bool) -> Self {
        let state = State { answers_at_once, ..State::default() };
        let clock = ManualClock::new();
        Self { state: Arc::new(Mutex::new(state)), clock, store: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A process invalidates an account, or all of them.
    pub(crate) fn note_invalidation(&self, process: usize, account: Option<&str>) {
        let mut state = self.state();
        let order = state.next();
        match account {
            Some(account) => state.invalidated.insert((process, account.to_owned()), order),
            None => state.invalidated_all.insert(process, order),
        };
    }

    /// When the account was last invalidated in the process, by request or by a denial.
    pub(crate) fn invalidated(&self, process: usize, account: &str) -> u64 {
        self.state().invalidated(process, account)
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    pub(crate) fn call_count(&self) -> usize {
        self.state().calls.len()
    }

    /// The last denial that counts for a process and an account.
    pub(crate) fn denial(&self, process: usize, account: &str) -> Option<(u64, Moment)> {
        self.state().denials.get(&(process, account.to_owned())).copied()
    }

    pub(crate) fn set_mood(&self, account: &str, mood: Mood) {
        self.state().moods.insert(account.to_owned(), mood);
    }

    pub(crate) fn set_store_down(&self, is_down: bool) {
        self.state().store_is_down = is_down;
    }

    pub(crate) fn waiting(&self) -> usize {
        self.state().waiting.len()
    }

    /// The KEK at the top of the branch that this one stands in, as the KMS sees it.
    pub(crate) fn top(&self, path: &KeyPath, id: KekId) -> (String, String) {
        let record = at_once(self.store.record(path, id)).unwrap().unwrap();
        match &record.wraps[0].wrapper {
            Wrapper::Parent { path, kek_id } => self.top(path, *kek_id),
            _ => (path.segments().collect::<Vec<_>>().join("/"), id.to_string()),
        }
    }

    /// All KEKs of `path`.
    pub(crate) fn keks(&self, path: &KeyPath) -> Vec<KekId> {
        at_once(self.store.records(path)).unwrap().into_iter().map(|record| record.identity.id).collect()
    }

    /// Lets one of the waiting calls be answered.
    pub(crate) fn answer(&self, which: usize) {
        let mut state = self.state();
        let index = *state.waiting.keys().nth(which).unwrap();
        let _ = state.waiting.remove(&index).unwrap().send(());
    }

    async fn call(&self, process: usize, context: &RootContext) -> Mood {
        let value = |name| context.pairs().find(|(pair, _)| *pair == name).unwrap().1.to_owned();
        let (account, kek) = (value(RootContext::ACCOUNT), value(RootContext::KEK_ID));
        let sent = self.clock.now();
        let (index, answer) = {
            let mut state = self.state();
            let order = state.next();
            state.calls.push(Call { process, account: account.clone(), kek, sent, order, answer: None });
            let index = state.calls.len() - 1;
            let (gate, answer) = oneshot::channel();
            if state.answers_at_once {
                let _ = gate.send(());
            } else {
                state.waiting.insert(index, gate);
            }
            (index, answer)
        };
        answer.await.unwrap();
        let mut state = self.state();
        let mood = state.moods.get(&account).copied().unwrap_or_default();
        state.calls[index].answer = Some(mood);
        if mood == Mood::Denied && state.calls[index].order > state.invalidated(process, &account) {
            let order = state.next();
            state.denials.insert((process, account), (order, self.clock.now()));
        }
        mood
    }

    pub(crate) fn root_key(&self, process: usize) -> SimulatedRoot {
        SimulatedRoot { world: self.clone(), process, id: RootKeyId::new("sim:root").unwrap() }
    }

    pub(crate) fn store(&self) -> SimulatedStore {
        SimulatedStore(self.clone())
    }
}

/// What a future gives that waits for nothing.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(answer) => answer,
        std::task::Poll::Pending => panic!("it waits"),
    }
}

/// One process's way to the KMS.
pub(crate) struct SimulatedRoot {
    world: World,
    process: usize,
    id: RootKeyId,
}

impl SimulatedRoot {
    async fn call(&self, context: &RootContext) -> Result<bool, RootKeyError> {
        match self.world.call(self.process, context).await {
            Mood::Up => Ok(true),
            Mood::Wrong => Ok(false),
            Mood::Throttled => Err(RootKeyError::throttled("simulated")),
            Mood::Unavailable => Err(RootKeyError::unavailable("simulated")),
            Mood::Denied => Err(RootKeyError::denied("simulated")),
        }
    }
}

fn key() -> SecretKey {
    SecretKey::from_slice(&[42; 32]).unwrap()
}

#[async_trait]
impl RootKey for SimulatedRoot {
    fn id(&self) -> &RootKeyId {
        &self.id
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        // A KMS that makes a key and gives back another is found out at the next unwrap; here it stays honest.
        self.call(context).await?;
        Ok(wrap::wrap_key(&key(), &context.to_aad(), secret)?.to_vec())
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        if self.call(context).await? {
            return wrap::unwrap_key(&key(), &context.to_aad(), wrapped).map_err(|_| RootKeyError::Rejected);
        }
        Ok(SecretKey::from_slice(&[7; 32]).unwrap())
    }
}

impl fmt::Debug for SimulatedRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimulatedRoot")
    }
}

/// The store that all processes share.
pub(crate) struct SimulatedStore(World);

impl SimulatedStore {
    fn up(&self) -> Result<&MemoryKekStore, StoreError> {
        if self.0.state().store_is_down {
            return Err(StoreError::unavailable("simulated", std::io::Error::other("down")));
        }
        Ok(&self.0.store)
    }
}

#[async_trait]
impl KekStore for SimulatedStore {
    async fn record(&self, path: &KeyPath, id: KekId) -> Result<Option<KekRecord>, StoreError> {
        self.up()?.record(path, id).await
    }

    async fn primary(&self, path: &KeyPath) -> Result<Option<KekRecord>, StoreError> {
        self.up()?.primary(path).await
    }

    async fn create(&self, record: &KekRecord) -> Result<Creation, StoreError> {
        self.up()?.create(record).await
    }

    async fn rotate(&self, previous: KekId, record: &KekRecord) -> Result<Rotation, StoreError> {
        self.up()?.rotate(previous, record).await
    }

    async fn records(&self, path: &KeyPath) -> Result<Vec<KekRecord>, StoreError> {
        self.up()?.records(path).await
    }

    async fn primaries(&self, after: Option<&KeyPath>, limit: usize) -> Result<Vec<KekRecord>, StoreError> {
        self.up()?.primaries(after, limit).await
    }

    async fn head(&self, path: &KeyPath) -> Result<Option<PathHead>, StoreError> {
        self.up()?.head(path).await
    }

    async fn export(&self, path: &KeyPath) -> Result<Option<AccountCopy>, StoreError> {
        self.up()?.export(path).await
    }

    async fn update(&self, expected: &KekRecord, new: &KekRecord) -> Result<Update, StoreError> {
        self.up()?.update(expected, new).await
    }

    async fn raise_min_version(&self, path: &KeyPath, to: KekVersion) -> Result<Raise, StoreError> {
        self.up()?.raise_min_version(path, to).await
    }

    async fn shred(&self, path: &KeyPath, at: u64) -> Result<Shred, StoreError> {
        self.up()?.shred(path, at).await
    }

    async fn import(&self, copy: &AccountCopy) -> Result<Import, StoreError> {
        self.up()?.import(copy).await
    }

    async fn accounts(&self, after: Option<&KeyPath>, limit: usize) -> Result<Vec<PathHead>, StoreError> {
        self.up()?.accounts(after, limit).await
    }

    async fn by_wrapper(
        &self,
        wrapper: &WrapperQuery,
        after: Option<(&KeyPath, KekId)>,
        limit: usize,
    ) -> Result<Vec<KekRecord>, StoreError> {
        self.up()?.by_wrapper(wrapper, after, limit).await
    }
}

impl fmt::Debug for SimulatedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimulatedStore")
    }
}
