//! A run: random steps, each driven until nothing moves, and then checked.

use std::{fmt::Write, time::Duration};

use keystrata_hierarchy::{Account, Clock, Context, Hierarchy, KekId, KeyError, OpenError, Policy, Roots, SealError};
use tokio::task::JoinHandle;

use super::{
    model::Model,
    tree::{Node, Shape},
    world::{Mood, World},
};

const STEPS: usize = 60;

/// What may happen in a run.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    faults: bool,
    shape: Shape,
    processes: usize,
    ttl: Duration,
    refresh: bool,
    jitter: f64,
    capacity: usize,
}

impl Settings {
    pub(crate) fn without_faults(chance: &mut fastrand::Rng) -> Self {
        let ttl = Duration::from_secs(chance.u64(31..600));
        Self {
            faults: false,
            shape: Shape::any(chance),
            processes: chance.usize(1..=3),
            ttl,
            refresh: chance.bool(),
            jitter: 0.0,
            capacity: 1_000,
        }
    }

    /// What happens in such a run does not follow from its seed alone.
    pub(crate) fn without_room(chance: &mut fastrand::Rng) -> Self {
        Self { capacity: chance.usize(1..5), ..Self::with_faults(chance) }
    }

    pub(crate) fn with_faults(chance: &mut fastrand::Rng) -> Self {
        let ttl = Duration::from_millis(chance.u64(1..300_000));
        let (processes, refresh) = (chance.usize(1..=2), chance.bool());
        let jitter = if chance.bool() { 0.5 } else { 0.0 };
        let mut capacity = if chance.u8(0..4) == 0 { chance.usize(1..4) } else { 1_000 };
        let shape = Shape::any(chance);
        if !matches!(shape, Shape::Accounts) {
            // KEKs below end with what is above them, and which of those that end at once makes room is left to chance.
            capacity = 1_000;
        }
        Self { faults: true, shape, processes, ttl, refresh, jitter, capacity }
    }
}

/// An operation under way, and what it was.
struct Operation {
    process: usize,
    account: &'static Node,
    doing: JoinHandle<Outcome>,
}

enum Outcome {
    Sealed(Result<Vec<u8>, SealError>),
    Opened(Vec<u8>, Result<Vec<u8>, OpenError>),
    Rotated(Result<(), KeyError>),
}

pub(crate) struct Run {
    settings: Settings,
    chance: fastrand::Rng,
    world: World,
    processes: Vec<Hierarchy>,
    model: Model,
    operations: Vec<Operation>,
    envelopes: Vec<(&'static Node, Vec<u8>)>,
    checked_calls: usize,
    trace: String,
}

impl Run {
    pub(crate) fn new(settings: Settings, mut chance: fastrand::Rng) -> Self {
        let world = World::new(!settings.faults);
        let policy =
            Policy::builder().kek_ttl(settings.ttl).ttl_jitter(settings.jitter).refresh_ahead(settings.refresh);
        let policy = policy.build().unwrap();
        let process = |process| {
            let (shape, roots) = (settings.shape, Roots::new(world.root_key(process)));
            let builder = Hierarchy::builder().topology(move |path| shape.placement(path, &roots)).store(world.store());
            let builder = builder.clock(world.clock.clone()).policy(policy.clone()).jitter_seed(chance.u64(..));
            builder.capacity(settings.capacity).build().unwrap()
        };
        let processes = (0..settings.processes).map(process).collect();
        let model = Model::new(settings.shape, settings.ttl, settings.refresh);
        let trace = format!("{settings:?}");
        Self {
            settings,
            chance,
            world,
            processes,
            model,
            operations: vec![],
            envelopes: vec![],
            checked_calls: 0,
            trace,
        }
    }

    /// Runs all steps; what happened comes back.
    pub(crate) async fn go(mut self) -> String {
        for step in 0..STEPS {
            self.step();
            self.settle().await;
            self.check();
            let calls = self.world.call_count();
            let _ = write!(self.trace, "\n{step}: {calls} calls, {} under way", self.operations.len());
        }
        self.end().await;
        self.trace
    }

    fn step(&mut self) {
        let nodes = self.settings.shape.nodes();
        let (process, account) = (self.chance.usize(..self.processes.len()), &nodes[self.chance.usize(..nodes.len())]);
        if !self.settings.faults {
            match self.chance.u8(0..10) {
                0..6 => self.begin(process, account),
                _ => self.let_time_pass(),
            }
            return;
        }
        match self.chance.u8(0..100) {
            0..40 => self.begin(process, account),
            40..65 => self.answer_one(),
            65..80 => self.let_time_pass(),
            80..84 => self.cancel_one(),
            84..89 => {
                let moods = [Mood::Up, Mood::Up, Mood::Throttled, Mood::Unavailable, Mood::Denied, Mood::Wrong];
                self.world.set_mood(&account.name(), moods[self.chance.usize(..moods.len())]);
            }
            89..92 => self.world.set_store_down(self.chance.u8(0..3) == 0),
            92..95 => {
                self.processes[process].invalidate(account.key_path()).unwrap();
                self.world.note_invalidation(process, Some(&account.name()));
                self.check_gone(process, account);
            }
            95 => {
                self.processes[process].invalidate_all();
                self.world.note_invalidation(process, None);
            }
            96..98 => self.set_real_time(),
            _ => {
                let handle = self.account(process, account);
                let rotate = async move { Outcome::Rotated(handle.rotate().await.map(drop)) };
                self.operations.push(Operation { process, account, doing: tokio::spawn(rotate) });
            }
        }
    }

    fn account(&self, process: usize, account: &Node) -> Account {
        self.processes[process].account(account.key_path()).unwrap()
    }

    /// Right after an invalidation nothing that rests on the account is at hand.
    fn check_gone(&self, process: usize, account: &Node) {
        let shape = self.settings.shape;
        for (below, envelope) in self.envelopes.iter().filter(|(below, _)| shape.rests_on(below, account)) {
            let opened = self.account(process, below).try_open(envelope, &Context::none()).unwrap();
            assert!(opened.is_none(), "{} is at hand, though {} was invalidated", below.name(), account.name());
        }
    }

    fn begin(&mut self, process: usize, account: &'static Node) {
        let handle = self.account(process, account);
        let of_account: Vec<&Vec<u8>> =
            self.envelopes.iter().filter(|(owner, _)| *owner == account).map(|(_, envelope)| envelope).collect();
        let doing = if of_account.is_empty() || self.chance.bool() {
            let plaintext = account.name();
            tokio::spawn(async move { Outcome::Sealed(handle.seal(plaintext.as_bytes(), &Context::none()).await) })
        } else {
            let envelope = of_account[self.chance.usize(..of_account.len())].clone();
            tokio::spawn(async move {
                let opened = handle.open(&envelope, &Context::none()).await;
                Outcome::Opened(envelope, opened)
            })
        };
        self.operations.push(Operation { process, account, doing });
    }

    fn answer_one(&mut self) {
        let waiting = self.world.waiting();
        if waiting > 0 {
            self.world.answer(self.chance.usize(..waiting));
        }
    }

    fn cancel_one(&mut self) {
        if !self.operations.is_empty() {
            let cancelled = self.operations.swap_remove(self.chance.usize(..self.operations.len()));
            cancelled.doing.abort();
        }
    }

    fn let_time_pass(&mut self) {
        let ttl = self.settings.ttl;
        let by = match self.chance.u8(0..6) {
            0 => Duration::from_nanos(1),
            1 => Duration::from_millis(self.chance.u64(1..2_000)),
            2 => Duration::from_secs(self.chance.u64(1..40)),
            3 => ttl / 10,
            4 => ttl - Duration::from_nanos(1),
            _ => ttl,
        };
        self.world.clock.advance(by);
    }

    fn set_real_time(&mut self) {
        let real = self.world.clock.now().real;
        let by = Duration::from_secs(self.chance.u64(0..1_000));
        self.world.clock.set_real(if self.chance.bool() { real + by } else { real - by });
        self.model.note_jump(self.world.clock.now());
    }

    /// Lets all tasks run until none can go on.
    async fn settle(&mut self) {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let now = self.world.clock.now();
        let mut index = 0;
        while index < self.operations.len() {
            if !self.operations[index].doing.is_finished() {
                index += 1;
                continue;
            }
            let Operation { process, account, doing } = self.operations.swap_remove(index);
            let outcome = doing.await.unwrap();
            let used = match &outcome {
                Outcome::Sealed(Ok(envelope)) => {
                    self.envelopes.push((account, envelope.clone()));
                    Some(envelope)
                }
                Outcome::Opened(envelope, Ok(plaintext)) => {
                    assert_eq!(plaintext, account.name().as_bytes());
                    Some(envelope)
                }
                Outcome::Sealed(Err(error)) => self.explain(error),
                Outcome::Opened(_, Err(error)) => self.explain(error),
                Outcome::Rotated(Err(error)) => self.explain(error),
                Outcome::Rotated(Ok(())) => None,
            };
            let Some(envelope) = used else { continue };
            let kek = KekId::from_bytes(envelope[4..20].try_into().unwrap());
            self.model.check_use(&self.world, process, account, kek, now);
            if !self.settings.faults {
                self.model.expect_use(process, account, now);
            }
        }
    }

    /// No operation fails without faults. With them, none fails in a way that says the caller did wrong.
    fn explain(&self, error: &dyn std::error::Error) -> Option<&'static Vec<u8>> {
        let mut text = error.to_string();
        if text.contains("cannot be used") {
            text = error.source().unwrap().to_string(); // of what is above it
        }
        assert!(self.settings.faults, "failed without a fault: {text}");
        let expected = ["throttling", "denies", "unavailable", "corrupt", "longer to get", "stopped", "no KEK yet"];
        assert!(expected.iter().any(|part| text.contains(part)), "a failure of no known kind: {text}");
        None
    }

    fn check(&mut self) {
        // Waits for sweepers that something else than time woke.
        self.world.clock.advance(Duration::ZERO);
        let now = self.world.clock.now();
        for (process, keys) in self.processes.iter().enumerate() {
            self.model.check_residence(&self.world, process, keys, now);
            assert!(keys.cached_keks() <= self.settings.capacity);
        }
        if !self.settings.faults {
            assert!(self.operations.is_empty(), "nothing waits without a fault");
            self.model.check_calls(&self.world);
        }
        let calls = self.world.calls();
        for call in &calls[self.checked_calls..] {
            Model::check_peace(&self.world, call);
        }
        self.checked_calls = calls.len();
    }

    /// With all well again everything comes to its end, and every envelope there is opens.
    async fn end(&mut self) {
        self.world.set_store_down(false);
        for account in self.settings.shape.nodes() {
            self.world.set_mood(&account.name(), Mood::Up);
        }
        self.world.clock.advance(Duration::from_secs(30)); // what was refused is forgotten
        let mut rounds = 0;
        while !self.operations.is_empty() || self.world.waiting() > 0 {
            if self.world.waiting() > 0 {
                self.world.answer(0);
            }
            self.settle().await;
            rounds += 1;
            assert!(rounds < 2_000, "{} operations never end", self.operations.len());
        }
        for (account, envelope) in std::mem::take(&mut self.envelopes) {
            let handle = self.account(0, account);
            let opening = tokio::spawn(async move { handle.open(&envelope, &Context::none()).await });
            while !opening.is_finished() {
                if self.world.waiting() > 0 {
                    self.world.answer(0);
                }
                tokio::task::yield_now().await;
            }
            assert_eq!(opening.await.unwrap().unwrap(), account.name().as_bytes());
        }
    }
}
