//! One process of the fleet: an engine of its own, and what it is asked to do.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
};

use keystrata_hierarchy::{Account, Hierarchy, KeyPath, Placement, Roots};
use keystrata_kms::{Budget, Guard, RetryPolicy, Timer};
use tokio::runtime::Handle;

use crate::{
    draft::BudgetOf,
    error::SimulateError,
    keys::{Keys, SimStore},
    kms::{SimKms, SimRoot},
    measured::{Measured, Refusal},
    scenario::{KeyPolicy, Scenario},
    span::SECOND,
    traffic::{Request, seed_of},
};

/// How long the objects are makes no difference to their keys.
const OBJECT_BYTES: usize = 1_024;

/// What every process of a lane has in common.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) policy: KeyPolicy,
    pub(crate) keys: Arc<Keys>,
    pub(crate) kms: Arc<SimKms>,
    pub(crate) timer: Timer,
    pub(crate) runtime: Handle,
    pub(crate) store_latency: u64,
    pub(crate) seed: u64,
    pub(crate) ended: Ended,
}

/// Operations that had to wait and have ended since somebody looked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ended(Arc<Mutex<Vec<EndedWait>>>);

#[derive(Clone, Copy, Debug)]
pub(crate) struct EndedWait {
    /// The process's place in its lane.
    pub(crate) place: usize,
    pub(crate) began: u64,
    /// How long ago the KMS was asked for the KEK, in nanoseconds.
    pub(crate) outcome: Result<u64, Refusal>,
}

impl Ended {
    fn push(&self, ended: EndedWait) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(ended);
    }

    pub(crate) fn take(&self, into: &mut Vec<EndedWait>) {
        into.append(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A handle to an account, and when it was last used.
#[derive(Clone, Debug, Default)]
struct Slot {
    account: Option<Account>,
    used_at: u64,
}

pub(crate) struct Process {
    place: usize,
    number: u32,
    shared: Shared,
    root: SimRoot,
    engine: Hierarchy,
    starts: u32,
    slots: Vec<Slot>,
    /// Until when one call would do for all that rests on the same root call.
    windows: Vec<u64>,
    ttl: u64,
    forgets_at: u64,
    pub(crate) measured: Measured,
}

impl Process {
    pub(crate) fn new(
        scenario: &Scenario,
        shared: &Shared,
        (place, number): (usize, u32),
    ) -> Result<Self, SimulateError> {
        let seed = seed_of(shared.seed, "kms", number);
        let root = SimRoot::new(Arc::clone(&shared.kms), shared.keys.root().clone(), seed);
        let engine = start(shared, &root, number, 0)?;
        let accounts = scenario.traffic.accounts;
        Ok(Self {
            place,
            number,
            shared: shared.clone(),
            root,
            engine,
            starts: 1,
            slots: vec![Slot::default(); accounts as usize],
            windows: vec![0; shared.policy.tops(accounts) as usize],
            ttl: shared.policy.ttl.nanos(),
            forgets_at: 0,
            measured: Measured::new()?,
        })
    }

    /// Asks the engine for a KEK, as a seal or an open would. What does not find it at hand waits in a task of its own.
    pub(crate) fn ask(&mut self, request: Request) -> Result<(), SimulateError> {
        let Request { at, account, is_seal, .. } = request;
        self.measured.operations += 1;
        let window = &mut self.windows[self.shared.policy.top_of(account) as usize];
        if at >= *window {
            *window = at.saturating_add(self.ttl);
            self.measured.lower_bound += 1;
        }
        let slot = &mut self.slots[account as usize];
        slot.used_at = at;
        let handle = match &mut slot.account {
            Some(handle) => handle,
            vacant @ None => vacant.insert(handle_of(&self.engine, self.shared.keys.path(account))?),
        };
        let found =
            if is_seal { handle.try_rehearse_seal(OBJECT_BYTES) } else { handle.try_rehearse_open(Keys::kek(account)) };
        if let Some(age) = found {
            self.measured.hits += 1;
            self.measured.oldest_use = self.measured.oldest_use.max(nanos(age));
            return Ok(());
        }
        let (handle, ended, place) = (handle.clone(), self.shared.ended.clone(), self.place);
        self.shared.runtime.spawn(async move {
            let outcome = if is_seal {
                handle.rehearse_seal_after_miss(OBJECT_BYTES).await
            } else {
                handle.rehearse_open_after_miss(Keys::kek(account)).await
            };
            let outcome = outcome.map(nanos).map_err(|error| Refusal::of(&error));
            ended.push(EndedWait { place, began: at, outcome });
        });
        Ok(())
    }

    /// Notes how an operation that had to wait ended at `now`.
    pub(crate) fn note(&mut self, ended: EndedWait, now: u64) {
        self.measured.waited(now - ended.began);
        match ended.outcome {
            Ok(age) => self.measured.oldest_use = self.measured.oldest_use.max(age),
            Err(refusal) => self.measured.refused[refusal as usize] += 1,
        }
    }

    /// Overwrites what is due, and looks how many KEKs there are.
    pub(crate) fn look(&mut self, now: u64) -> u32 {
        self.engine.sweep();
        if now >= self.forgets_at {
            self.forget_idle(now);
        }
        u32::try_from(self.engine.cached_keks()).unwrap_or(u32::MAX)
    }

    /// Lets go of the handles of accounts that have not been used for long, as a service that makes one for each request
    /// does: a million of them need not stay.
    fn forget_idle(&mut self, now: u64) {
        let idle = self.ttl.saturating_add(60 * SECOND);
        self.forgets_at = now.saturating_add(idle);
        for slot in &mut self.slots {
            if slot.used_at.saturating_add(idle) < now {
                slot.account = None;
            }
        }
    }

    /// Ends the process, and starts another with nothing in memory. Operations that wait go on where they are.
    pub(crate) fn restart(&mut self) -> Result<(), SimulateError> {
        self.note_stats();
        self.engine = start(&self.shared, &self.root, self.number, self.starts)?;
        self.starts += 1;
        self.slots.fill(Slot::default());
        Ok(())
    }

    fn note_stats(&mut self) {
        let stats = self.engine.stats();
        self.measured.refreshes += stats.refreshes;
        self.measured.evictions += stats.evictions;
    }

    pub(crate) fn end(mut self) -> Measured {
        self.note_stats();
        self.measured
    }
}

fn nanos(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn handle_of(engine: &Hierarchy, path: &KeyPath) -> Result<Account, SimulateError> {
    engine.account(path.clone()).map_err(|error| SimulateError::Engine(error.to_string()))
}

/// What a service's `main` does.
fn start(shared: &Shared, root: &SimRoot, number: u32, starts: u32) -> Result<Hierarchy, SimulateError> {
    let seed = |purpose| seed_of(seed_of(shared.seed, purpose, number), purpose, starts);
    let (rate, burst) = match shared.policy.budget {
        BudgetOf::Limited { rate, burst } => (rate, burst),
        // More than a process can ask for.
        BudgetOf::Unlimited => (1_000_000, 1_000_000),
    };
    let number = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
    let budget = Budget::per_second(number(rate), number(burst)).timer(shared.timer.clone());
    let guard = Guard::new("simulated", Arc::new(budget)).timer(shared.timer.clone());
    let guard = guard.retry(RetryPolicy { seed: Some(seed("retries")), ..RetryPolicy::default() });
    let roots = Roots::new(guard.around(root.clone()));
    let keys = Arc::clone(&shared.keys);
    let place = move |path: &KeyPath| match keys.group_of(path) {
        Some(group) => Placement::group(group.clone()),
        None => Placement::account(&roots),
    };
    let store = SimStore {
        keys: Arc::clone(&shared.keys),
        clock: shared.kms.clock.clone(),
        sleeps: shared.kms.sleeps.clone(),
        latency: shared.store_latency,
    };
    let builder = Hierarchy::builder().topology(place).store(store).policy(shared.policy.engine_policy()?);
    let builder = builder.capacity(shared.policy.capacity as usize).clock(shared.kms.clock.clone());
    let builder = builder.runtime(shared.runtime.clone()).jitter_seed(seed("jitter")).swept_by_hand();
    builder.build().map_err(|error| SimulateError::Engine(error.to_string()))
}
