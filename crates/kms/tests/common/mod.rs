//! A world in virtual time: a clock that tests turn, and a KMS that takes its time by it.
#![allow(dead_code, unreachable_pub)] // each test file uses a part of it
#![allow(clippy::unwrap_used)] // test code outside a #[test]

use std::{
    num::NonZeroU32,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use keystrata_hierarchy::{
    Clock, KekId, KekVersion, KeyPath, RootContext, RootKey, RootKeyError, RootKeyId, SecretKey, Suite,
    test_util::{ManualClock, ScriptedRootKey},
};
use keystrata_kms::{Budget, Guard, Timer, further_request, not_sent};
use keystrata_primitives::KekIdentity;
use tokio::sync::watch;

pub const MILLISECOND: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);

pub fn number(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap()
}

pub fn context(account: &str) -> RootContext {
    RootContext::of_kek(&KekIdentity {
        suite: Suite::default(),
        version: KekVersion::FIRST,
        id: KekId::from_bytes([7; KekId::LEN]),
        path: KeyPath::account(account).unwrap(),
    })
}

/// Needs a runtime of one thread whose own time is paused: that is how it knows that all tasks have come to rest.
#[derive(Clone)]
pub struct World {
    pub clock: ManualClock,
    pub timer: Timer,
    ticks: Arc<watch::Sender<Duration>>,
    start: Duration,
}

impl World {
    pub fn new() -> Self {
        let clock = ManualClock::new();
        let start = clock.now().boot;
        Self { timer: Timer::on(clock.clone()), clock, ticks: Arc::new(watch::Sender::new(start)), start }
    }

    pub fn elapsed(&self) -> Duration {
        self.clock.now().boot.checked_sub(self.start).unwrap()
    }

    pub fn budget(&self, per_second: u32, burst: u32) -> Budget {
        Budget::per_second(number(per_second), number(burst)).timer(self.timer.clone())
    }

    pub fn guard(&self, label: &str, budget: &Arc<Budget>) -> Guard {
        Guard::new(label, Arc::clone(budget)).timer(self.timer.clone())
    }

    pub fn kms(&self, name: &str, latency: Duration) -> Arc<Kms> {
        Arc::new(Kms {
            inner: ScriptedRootKey::new(name),
            world: self.clone(),
            latency,
            is_down: Mutex::default(),
            sends_twice: AtomicBool::new(false),
            calls: Mutex::default(),
            ended: AtomicU64::new(0),
        })
    }

    /// Lets all tasks run until none can.
    pub async fn settle(&self) {
        // A paused runtime moves its own time only once everybody waits.
        tokio::time::sleep(MILLISECOND).await;
    }

    /// Lets time pass in steps of a millisecond, and all tasks run at each.
    pub async fn pass(&self, time: Duration) {
        let until = self.clock.now().boot + time;
        self.settle().await;
        while self.clock.now().boot < until {
            self.clock.advance(MILLISECOND);
            self.ticks.send_replace(self.clock.now().boot);
            self.settle().await;
        }
    }
}

/// What a KMS that is down does.
#[derive(Clone)]
pub enum Down {
    /// It answers at once, with this.
    Says(RootKeyError),
    /// It takes the request and never answers.
    Hangs,
    /// Its adapter refuses the call without asking it.
    IsNotAsked,
}

/// A KMS with a latency.
pub struct Kms {
    inner: ScriptedRootKey,
    world: World,
    latency: Duration,
    is_down: Mutex<Option<Down>>,
    sends_twice: AtomicBool,
    calls: Mutex<Vec<Duration>>,
    ended: AtomicU64,
}

impl Kms {
    pub fn set(&self, down: Option<Down>) {
        *self.is_down.lock().unwrap() = down;
    }

    pub fn says(&self, error: &RootKeyError) {
        self.set(Some(Down::Says(error.clone())));
    }

    /// Whether each call needs a second request, as after a token was replaced.
    pub fn sends_twice(&self, twice: bool) {
        self.sends_twice.store(twice, Ordering::SeqCst);
    }

    /// When calls came in, since the world began.
    pub fn calls(&self) -> Vec<Duration> {
        self.calls.lock().unwrap().clone()
    }

    /// How many came to their end.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }

    async fn begin(&self) -> Result<(), RootKeyError> {
        self.calls.lock().unwrap().push(self.world.elapsed());
        if self.sends_twice.load(Ordering::SeqCst) {
            further_request()?;
            self.calls.lock().unwrap().push(self.world.elapsed());
        }
        let down = self.is_down.lock().unwrap().clone();
        match down {
            Some(Down::Hangs) => std::future::pending().await,
            Some(Down::Says(error)) => Err(error),
            Some(Down::IsNotAsked) => {
                not_sent();
                Err(RootKeyError::Rejected)
            }
            None => {
                let until = self.world.clock.now().boot + self.latency;
                let mut ticks = self.world.ticks.subscribe();
                let _ = ticks.wait_for(|now| *now >= until).await;
                self.ended.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        }
    }
}

impl std::fmt::Debug for Kms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Kms").field(&self.inner).finish()
    }
}

#[async_trait]
impl RootKey for Kms {
    fn id(&self) -> &RootKeyId {
        self.inner.id()
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        self.begin().await?;
        self.inner.wrap_key(secret, context).await
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        self.begin().await?;
        self.inner.unwrap_key(wrapped, context).await
    }
}

/// At most `burst + rate × t` in any window.
pub fn assert_within_budget(calls: &[Duration], per_second: u32, burst: u32) {
    for (first, begin) in calls.iter().enumerate() {
        for (last, end) in calls.iter().enumerate().skip(first) {
            let allowed = f64::from(burst) + f64::from(per_second) * end.saturating_sub(*begin).as_secs_f64();
            let sent = u32::try_from(last - first + 1).unwrap();
            assert!(f64::from(sent) <= allowed + 1e-6, "{sent} between {begin:?} and {end:?}");
        }
    }
}
