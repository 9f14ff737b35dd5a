//! Some processes of the fleet in one virtual time, on one thread: what happens next is always the earliest of all that can.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, Waker},
};

use keystrata_kms::Timer;
use rand::{SeedableRng, rngs::SmallRng};
use tokio::runtime::{Builder, Handle, RuntimeMetrics};

use crate::{
    error::SimulateError,
    keys::Keys,
    kms::{Answer, SimKms},
    measured::{Measured, Refusal},
    process::{Ended, EndedWait, Process, Shared},
    progress::Progress,
    scenario::{KeyPolicy, Scenario},
    span::{SECOND, Span},
    traffic::{Request, seed_of},
    world::{SimClock, Sleeps},
};

const NEVER: u64 = u64::MAX;
/// Whoever still waits so long after the end is not waited for.
const PATIENCE: u64 = 600 * SECOND;
/// How many operations are counted before somebody who watches is told.
const TOLD_EVERY: u64 = 1 << 14;

/// What a lane is to simulate.
#[derive(Clone, Debug)]
pub(crate) struct Task<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) policy: KeyPolicy,
    pub(crate) keys: Arc<Keys>,
    pub(crate) processes: &'a [u32],
    /// Whether the KMS throttles above its quota. If not, processes do not notice each other.
    pub(crate) has_quota: bool,
}

impl Task<'_> {
    /// How long a simulation of `duration` is in whole seconds.
    pub(crate) fn seconds(&self) -> usize {
        usize::try_from(self.scenario.traffic.duration.nanos().div_ceil(SECOND)).unwrap_or(usize::MAX).max(1)
    }

    /// How often somebody looks into the caches.
    pub(crate) fn look(&self) -> u64 {
        look_every(self.policy.ttl, self.scenario.traffic.duration)
    }
}

/// Often enough to see what goes on within a TTL, and within short simulations, without costing more than that is worth.
pub(crate) fn look_every(ttl: Span, duration: Span) -> u64 {
    (ttl.nanos() / 100).min(duration.nanos() / 300).clamp(SECOND / 10, 10 * SECOND)
}

struct Lane {
    clock: SimClock,
    sleeps: Sleeps,
    timer: Timer,
    metrics: RuntimeMetrics,
    idle: Arc<Idle>,
    kms: Arc<SimKms>,
    processes: Vec<Process>,
    /// How many KEKs all of them had at each look.
    keks: Vec<u32>,
    /// The place of each process.
    places: Vec<usize>,
    ended: Ended,
    ended_now: Vec<EndedWait>,
    /// Tasks that are left when nothing can go on at present.
    waiting: usize,
    wakes_at: u64,
    looks_at: u64,
    look: u64,
    restarts: Vec<(u64, usize)>,
    end: u64,
}

/// When the runtime has nothing left to do.
#[derive(Debug, Default)]
struct Idle {
    is_idle: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Idle {
    /// Called by the runtime before it would wait.
    fn note(&self) {
        self.is_idle.store(true, Ordering::Relaxed);
        if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }

    async fn reached(&self) {
        self.is_idle.store(false, Ordering::Relaxed);
        std::future::poll_fn(|cx| {
            if self.is_idle.load(Ordering::Relaxed) {
                return Poll::Ready(());
            }
            *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Simulates the processes of `task` with engines that keep keys.
pub(crate) fn run_cached(
    task: &Task<'_>,
    requests: impl Iterator<Item = Request>,
    progress: &Progress,
) -> Result<Measured, SimulateError> {
    let idle = Arc::new(Idle::default());
    let noticed = Arc::clone(&idle);
    let runtime = Builder::new_current_thread()
        .on_thread_park(move || noticed.note())
        .build()
        .map_err(SimulateError::io("a simulation cannot be started"))?;
    let lane = Lane::new(task, runtime.handle(), idle)?;
    // All of it within: entering and leaving the runtime for each thing that happens costs a twentieth of the time.
    runtime.block_on(lane.run(requests, progress))
}

impl Lane {
    fn new(task: &Task<'_>, runtime: &Handle, idle: Arc<Idle>) -> Result<Self, SimulateError> {
        let (clock, sleeps) = (SimClock::default(), Sleeps::default());
        let timer = Timer::turned_by_hand(clock.clone());
        let outside = &task.scenario.outside;
        let shared = Shared {
            policy: task.policy,
            keys: Arc::clone(&task.keys),
            kms: Arc::new(SimKms::new(outside, task.has_quota, task.seconds(), clock.clone(), sleeps.clone())),
            timer: timer.clone(),
            runtime: runtime.clone(),
            store_latency: outside.store_latency.nanos(),
            seed: task.scenario.seed,
            ended: Ended::default(),
        };
        let new = |(place, number): (usize, &u32)| Process::new(task.scenario, &shared, (place, *number));
        let processes = task.processes.iter().enumerate().map(new).collect::<Result<Vec<_>, _>>()?;
        let mut places = vec![usize::MAX; task.scenario.traffic.processes as usize];
        for (place, number) in task.processes.iter().enumerate() {
            places[*number as usize] = place;
        }
        let look = task.look();
        Ok(Self {
            clock,
            sleeps,
            timer,
            metrics: runtime.metrics(),
            idle,
            kms: shared.kms,
            processes,
            keks: Vec::new(),
            places,
            ended: shared.ended,
            ended_now: Vec::new(),
            waiting: 0,
            wakes_at: NEVER,
            looks_at: look,
            look,
            restarts: restarts(task),
            end: task.scenario.traffic.duration.nanos(),
        })
    }

    /// Lets all of it happen.
    async fn run(
        mut self,
        mut requests: impl Iterator<Item = Request>,
        progress: &Progress,
    ) -> Result<Measured, SimulateError> {
        let (mut request, mut untold) = (requests.next(), 0);
        loop {
            let due = self.due();
            match request {
                Some(asked) if asked.at < due => {
                    self.clock.set(asked.at);
                    let place = self.places[asked.process as usize];
                    self.processes[place].ask(asked)?;
                    if self.metrics.num_alive_tasks() != self.waiting {
                        self.settle().await;
                    }
                    request = requests.next();
                    untold += 1;
                    if untold == TOLD_EVERY {
                        progress.add(untold)?;
                        untold = 0;
                    }
                }
                None if self.is_over() => break,
                _ if due == NEVER => break,
                _ => self.happen(due).await?,
            }
        }
        progress.add(untold)?;
        let mut measured = Measured::new()?;
        self.processes.into_iter().map(Process::end).try_for_each(|part| measured.add(&part))?;
        (measured.calls, measured.keks) = (self.kms.take_calls(), self.keks);
        Ok(measured)
    }

    /// When something happens next that nobody asks for.
    fn due(&self) -> u64 {
        let restart = self.restarts.last().map_or(NEVER, |(at, _)| *at);
        self.wakes_at.min(self.looks_at).min(restart)
    }

    fn is_over(&self) -> bool {
        let is_past_end = self.looks_at == NEVER;
        is_past_end && (self.waiting == 0 || self.wakes_at > self.end.saturating_add(PATIENCE))
    }

    async fn happen(&mut self, at: u64) -> Result<(), SimulateError> {
        self.clock.set(at);
        while let Some((_, place)) = self.restarts.pop_if(|(restarts_at, _)| *restarts_at <= at) {
            self.processes[place].restart()?;
        }
        if at >= self.looks_at {
            self.keks.push(self.processes.iter_mut().map(|process| process.look(at)).sum());
            let next = self.looks_at + self.look;
            self.looks_at = if next > self.end { NEVER } else { next };
        }
        self.settle().await;
        Ok(())
    }

    /// Lets everything go on that can at this time.
    async fn settle(&mut self) {
        let now = self.clock.nanos();
        loop {
            self.sleeps.wake(now);
            self.timer.turn();
            self.idle.reached().await;
            self.wakes_at = self.timer.next().map_or(NEVER, SimClock::since_start).min(self.sleeps.next());
            if self.wakes_at > now {
                break;
            }
        }
        self.waiting = self.metrics.num_alive_tasks();
        self.ended.take(&mut self.ended_now);
        for ended in self.ended_now.drain(..) {
            self.processes[ended.place].note(ended, now);
        }
    }
}

/// When which process is restarted, the last first.
fn restarts(task: &Task<'_>) -> Vec<(u64, usize)> {
    let mut restarts = Vec::new();
    for deploy in &task.scenario.traffic.deploys {
        for (place, number) in task.processes.iter().enumerate() {
            let after = deploy.stagger.nanos().saturating_mul(u64::from(*number));
            restarts.push((deploy.at.nanos().saturating_add(after), place));
        }
    }
    restarts.retain(|(at, _)| *at < task.scenario.traffic.duration.nanos());
    restarts.sort_unstable();
    restarts.reverse();
    restarts
}

/// The same traffic without any KEK: every operation is a call.
pub(crate) fn run_direct(
    task: &Task<'_>,
    requests: impl Iterator<Item = Request>,
    progress: &Progress,
) -> Result<Measured, SimulateError> {
    let clock = SimClock::default();
    let kms = SimKms::new(&task.scenario.outside, task.has_quota, task.seconds(), clock.clone(), Sleeps::default());
    let mut measured = Measured::new()?;
    let random = |number: &u32| SmallRng::seed_from_u64(seed_of(task.scenario.seed, "kms", *number));
    let mut random: Vec<_> = task.processes.iter().map(random).collect();
    let mut places = vec![0; task.scenario.traffic.processes as usize];
    for (place, number) in task.processes.iter().enumerate() {
        places[*number as usize] = place;
    }
    let mut untold = 0;
    for request in requests {
        clock.set(request.at);
        measured.operations += 1;
        let (answer, takes) = kms.answer(&mut random[places[request.process as usize]]);
        measured.waited(takes);
        match answer {
            Answer::Done => {}
            Answer::Throttled => measured.refused[Refusal::Throttled as usize] += 1,
            Answer::Denied => measured.refused[Refusal::Denied as usize] += 1,
            Answer::Unavailable => measured.refused[Refusal::Unavailable as usize] += 1,
        }
        untold += 1;
        if untold == TOLD_EVERY {
            progress.add(untold)?;
            untold = 0;
        }
    }
    progress.add(untold)?;
    measured.calls = kms.take_calls();
    measured.lower_bound = measured.operations;
    Ok(measured)
}
