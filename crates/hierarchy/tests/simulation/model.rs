//! The promises, as plain as they can be said.

use std::{collections::BTreeMap, time::Duration};

use keystrata_hierarchy::{Hierarchy, clock::Moment};

use super::world::{Call, Mood, World};

/// How long after its deadline a key may still be in memory: a round of the sweeper and, where real time was set, the
/// second in which it notices.
const RESIDENCE: Duration = Duration::from_millis(100);
const NOTICED: Duration = Duration::from_secs(1);

/// How long a KMS that denied is left in peace.
const DENIED: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(crate) struct Model {
    /// When real time was last set.
    last_jump: Option<Moment>,
    /// Without faults: when each process was last authorised for a KEK, and how many calls that makes.
    authorised: BTreeMap<(usize, String, String), Moment>,
    expected_calls: usize,
}

impl Model {
    pub(crate) fn note_jump(&mut self, now: Moment) {
        self.last_jump = Some(now);
    }

    /// An operation ended well at `now`: some call authorised its KEK less than a TTL ago, and after all invalidations.
    pub(crate) fn check_use(world: &World, process: usize, account: &str, kek: &str, ttl: Duration, now: Moment) {
        let invalidated = world.invalidated(process, account);
        let calls = world.calls();
        let authorises = |call: &&Call| {
            call.process == process
                && call.account == account
                && call.kek == kek
                && call.order > invalidated
                && matches!(call.answer, Some(Mood::Up | Mood::Wrong))
                && (ttl.is_zero() || !now.has_reached(call.sent.after(ttl)))
        };
        assert!(
            calls.iter().any(|call| authorises(&call)),
            "process {process} used KEK {kek} of {account} at {now:?}, and no call authorised that (invalidated at \
             {invalidated}): {:#?}",
            calls.iter().filter(|call| call.account == account).collect::<Vec<_>>()
        );
    }

    /// No more keys are in memory than were authorised within a TTL.
    pub(crate) fn check_residence(&self, world: &World, process: usize, keys: &Hierarchy, ttl: Duration, now: Moment) {
        let memory = keys.memory();
        assert_eq!(memory.slots_used, keys.cached_keks(), "a slot of no entry, or an entry of no slot");
        // A jump of real time wakes nobody; the sweeper looks once a second.
        let has_just_jumped = self.last_jump.is_some_and(|at| now.boot < at.boot + NOTICED);
        let mut allowed = std::collections::BTreeSet::new();
        for call in world.calls().iter().filter(|call| call.process == process) {
            let is_after = call.order > world.invalidated(process, &call.account);
            let end = call.sent.after(ttl);
            let is_recent = now.boot < end.boot + RESIDENCE && (has_just_jumped || now.real < end.real + NOTICED);
            if is_after && is_recent && matches!(call.answer, Some(Mood::Up | Mood::Wrong)) {
                allowed.insert((call.account.clone(), call.kek.clone()));
            }
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

    /// Without faults: what an operation must cost.
    pub(crate) fn expect_use(&mut self, key: (usize, String, String), now: Moment, ttl: Duration, refresh: bool) {
        let authorised = self.authorised.get(&key).copied();
        let is_live = authorised.is_some_and(|at| !now.has_reached(at.after(ttl)));
        // In the last tenth a use pays ahead for the time after it.
        let is_due = authorised.is_some_and(|at| now.boot >= at.boot + ttl - ttl / 10);
        if !is_live || (refresh && is_due) {
            self.expected_calls += 1;
            self.authorised.insert(key, now);
        }
    }

    pub(crate) fn check_calls(&self, world: &World) {
        assert_eq!(world.call_count(), self.expected_calls, "calls to the KMS against the lower bound");
    }
}
