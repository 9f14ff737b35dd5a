//! The promises, as plain as they can be said.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use keystrata_hierarchy::{Hierarchy, KekId, clock::Moment};

use super::{
    tree::{Node, Shape},
    world::{Call, Mood, World},
};

/// How long after its deadline a key may still be in memory: a round of the sweeper and, where real time was set, the
/// second in which it notices.
const RESIDENCE: Duration = Duration::from_millis(100);
const NOTICED: Duration = Duration::from_secs(1);

/// How long a KMS that denied is left in peace.
const DENIED: Duration = Duration::from_secs(30);

pub(crate) struct Model {
    shape: Shape,
    ttl: Duration,
    refresh: bool,
    /// When real time was last set.
    last_jump: Option<Moment>,
    /// Without faults, by process and account: how its KEK lives, and how many calls that makes.
    lives: BTreeMap<(usize, String), Life>,
    expected_calls: usize,
}

/// By boot time.
#[derive(Clone, Copy)]
struct Life {
    deadline: Duration,
    renewed_from: Duration,
}

impl Model {
    pub(crate) fn new(shape: Shape, ttl: Duration, refresh: bool) -> Self {
        Self { shape, ttl, refresh, last_jump: None, lives: BTreeMap::new(), expected_calls: 0 }
    }

    pub(crate) fn note_jump(&mut self, now: Moment) {
        self.last_jump = Some(now);
    }

    /// An operation ended well at `now`: some call authorised what its KEK rests on less than a TTL ago, and after all
    /// invalidations of that.
    pub(crate) fn check_use(&self, world: &World, process: usize, node: &Node, kek: KekId, now: Moment) {
        let (account, kek) = world.top(&node.key_path(), kek);
        let invalidated = world.invalidated(process, &account);
        let calls = world.calls();
        let authorises = |call: &&Call| {
            call.process == process
                && call.account == account
                && call.kek == kek
                && call.order > invalidated
                && matches!(call.answer, Some(Mood::Up | Mood::Wrong))
                && (self.ttl.is_zero() || !now.has_reached(call.sent.after(self.ttl)))
        };
        assert!(
            calls.iter().any(|call| authorises(&call)),
            "process {process} used a KEK of {} that rests on {kek} of {account} at {now:?}, and no call authorised that \
             (invalidated at {invalidated}): {:#?}",
            node.name(),
            calls.iter().filter(|call| call.account == account).collect::<Vec<_>>()
        );
    }

    /// No more keys are in memory than were authorised within a TTL, and rest on one that was.
    pub(crate) fn check_residence(&self, world: &World, process: usize, keys: &Hierarchy, now: Moment) {
        let memory = keys.memory();
        assert_eq!(memory.slots_used, keys.cached_keks(), "a slot of no entry, or an entry of no slot");
        // A jump of real time wakes nobody; the sweeper looks once a second.
        let has_just_jumped = self.last_jump.is_some_and(|at| now.boot < at.boot + NOTICED);
        let mut authorised = BTreeSet::new();
        for call in world.calls().iter().filter(|call| call.process == process) {
            let is_after = call.order > world.invalidated(process, &call.account);
            let end = call.sent.after(self.ttl);
            let is_recent = now.boot < end.boot + RESIDENCE && (has_just_jumped || now.real < end.real + NOTICED);
            if is_after && is_recent && matches!(call.answer, Some(Mood::Up | Mood::Wrong)) {
                authorised.insert((call.account.clone(), call.kek.clone()));
            }
        }
        let mut allowed = authorised.clone();
        for node in self.shape.nodes().iter().filter(|node| self.shape.parent(node).is_some()) {
            let path = node.key_path();
            let stored = world.keks(&path).into_iter();
            let rests = stored.filter(|kek| authorised.contains(&world.top(&path, *kek)));
            allowed.extend(rests.map(|kek| (node.name(), kek.to_string())));
        }
        assert!(
            memory.slots_used <= allowed.len(),
            "process {process} holds {} keys at {now:?}, and {} may be: {allowed:?}",
            memory.slots_used,
            allowed.len()
        );
    }

    /// A KMS that denied an account is not asked for it again for a while, unless the account was invalidated.
    pub(crate) fn check_peace(world: &World, call: &Call) {
        let Some((order, at)) = world.denial(call.process, &call.account) else { return };
        let was_forgotten = world.invalidated(call.process, &call.account) > order;
        let is_early = call.order > order && !call.sent.has_reached(at.after(DENIED));
        assert!(was_forgotten || !is_early, "asked again within {DENIED:?} of a denial at {at:?}: {call:?}");
    }

    fn life(&self, process: usize, node: &Node) -> Option<Life> {
        self.lives.get(&(process, node.name())).copied()
    }

    /// Without faults: what an operation must cost.
    pub(crate) fn expect_use(&mut self, process: usize, node: &Node, now: Moment) {
        match self.life(process, node).filter(|life| now.boot < life.deadline) {
            None => self.expect_load(process, node, now, None),
            Some(life) => self.expect_renewal(process, node, life, now),
        }
    }

    /// In the last tenth a use pays ahead for the time after it.
    fn expect_renewal(&mut self, process: usize, node: &Node, life: Life, now: Moment) {
        if self.refresh && now.boot >= life.renewed_from {
            self.expect_load(process, node, now, Some(life.deadline));
        }
    }

    /// What is above it first, if that has no life that reaches beyond `beyond`. A call is for the top alone.
    fn expect_load(&mut self, process: usize, node: &Node, now: Moment, beyond: Option<Duration>) {
        let own = now.boot + self.ttl;
        let mut deadline = own;
        if let Some(parent) = self.shape.parent(node) {
            let beyond = beyond.unwrap_or_default();
            let at_hand = self.life(process, parent).filter(|life| now.boot < life.deadline && beyond < life.deadline);
            if at_hand.is_none() {
                self.expect_load(process, parent, now, Some(beyond));
            }
            let above = self.life(process, parent).unwrap();
            deadline = own.min(above.deadline);
            if let Some(above) = at_hand {
                self.expect_renewal(process, parent, above, now); // it was used too
            }
        } else {
            self.expected_calls += 1;
        }
        let remaining = if deadline < own { deadline - now.boot } else { self.ttl };
        let life = Life { deadline, renewed_from: deadline - remaining / 10 };
        self.lives.insert((process, node.name()), life);
    }

    pub(crate) fn check_calls(&self, world: &World) {
        assert_eq!(world.call_count(), self.expected_calls, "calls to the KMS against the lower bound");
    }
}
