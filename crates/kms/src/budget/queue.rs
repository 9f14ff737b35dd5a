//! The queue in front of a quota: who may send an attempt now, who waits, who is refused. No I/O and no clock: every
//! call says what time it is.
//!
//! A token is spent in two steps. When one is there, whoever is next is *called*: woken to come and take it. When the
//! called one comes, it takes a token at that moment. So a runtime that stands still for a while makes no burst when
//! it goes on: the calls it missed were turns, not tokens, and whoever waits elsewhere was called in the meantime.

mod room;

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    sync::Arc,
    task::{Poll, Waker},
    time::Duration,
};

use keystrata_hierarchy::Urgency;

use super::{
    lane::{Lane, Place},
    limit::Limit,
    rules::{Reason, Refusal, Rules},
    turns::Turns,
};

/// Who was called and comes within this time keeps the turn if the token is not quite there yet; who comes later waits
/// for another. A busy runtime takes that long; one that was stopped takes longer.
const PUNCTUAL: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entered {
    Admitted,
    Waiting(u64),
}

/// What was counted since the beginning.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) admitted: u64,
    pub(super) refused: u64,
    pub(super) left: u64,
}

#[derive(Debug)]
pub(super) struct Queue {
    rules: Rules,
    /// The quota: a token for each attempt.
    tokens: Limit,
    /// The same for being called.
    turns: Turns,
    entries: HashMap<u64, Entry>,
    next_id: u64,
    foreground: Lane,
    background: Lane,
    by_deadline: BTreeSet<Place>,
    /// Called ones whose token is not quite there, by when it will be.
    early: BTreeSet<Place>,
    /// When the next turn can be given, if anybody waits for one.
    next_turn: Option<Duration>,
    now: Duration,
    woken: Vec<Waker>,
    counts: Counts,
}

#[derive(Debug)]
struct Entry {
    account: Arc<str>,
    urgency: Urgency,
    deadline: Duration,
    state: State,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Waiting,
    Called { at: Duration, early: Option<Duration> },
    Refused(Refusal),
}

impl Queue {
    pub(super) fn new(rules: Rules, now: Duration) -> Self {
        Self {
            tokens: Limit::new(rules.rate, now),
            turns: Turns::new(&rules, now),
            rules,
            entries: HashMap::new(),
            next_id: 0,
            foreground: Lane::default(),
            background: Lane::default(),
            by_deadline: BTreeSet::new(),
            early: BTreeSet::new(),
            next_turn: None,
            now,
            woken: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Somebody wants to send an attempt now. Who is to wait is called by [`dispatch`](Self::dispatch).
    pub(super) fn enter(&mut self, now: Duration, account: &str, urgency: Urgency) -> Result<Entered, Refusal> {
        let now = self.advance(now);
        let is_alone = self.entries.is_empty();
        if is_alone && self.turns.take(urgency, now).is_ok() {
            if self.tokens.take(now).is_ok() {
                self.counts.admitted += 1;
                self.turns.spend_credit(urgency);
                return Ok(Entered::Admitted);
            }
            self.turns.give_back();
        }
        if let Err(refusal) = self.make_room(account, urgency) {
            self.counts.refused += 1;
            return Err(refusal);
        }
        let account = self.lane(urgency).name(account).unwrap_or_else(|| Arc::from(account));
        let id = self.next_id;
        self.next_id += 1;
        let deadline = now.saturating_add(self.rules.max_wait);
        self.entries.insert(id, Entry { account, urgency, deadline, state: State::Waiting, waker: None });
        self.line_up(id);
        Ok(Entered::Waiting(id))
    }

    /// Takes a token for one more attempt of somebody who was let through just now and does not wait: if one is there and
    /// nobody waits for it. The pace holds up those who come after it, not this one.
    pub(super) fn take_further(&mut self, now: Duration) -> bool {
        let now = self.advance(now);
        let is_taken = self.entries.is_empty() && self.turns.take_further(now) && self.tokens.take(now).is_ok();
        self.counts.admitted += u64::from(is_taken);
        is_taken
    }

    /// Asks whether `id` may send now. Once it is told yes or no, its place is gone.
    pub(super) fn poll(&mut self, now: Duration, id: u64, waker: &Waker) -> Poll<Result<(), Refusal>> {
        let now = self.advance(now);
        let Some(entry) = self.entries.get_mut(&id) else {
            return Poll::Pending; // told already
        };
        match entry.state {
            State::Refused(refusal) => {
                self.entries.remove(&id);
                return Poll::Ready(Err(refusal));
            }
            State::Called { at, early } => match self.tokens.take(now) {
                Ok(()) => {
                    self.forget(id);
                    self.counts.admitted += 1;
                    return Poll::Ready(Ok(()));
                }
                Err(next) if now.saturating_sub(at) <= PUNCTUAL => {
                    if let Some(early) = early {
                        self.early.remove(&(early, id));
                    }
                    self.early.insert((next, id));
                    entry.state = State::Called { at, early: Some(next) };
                }
                Err(_) => {
                    if let Some(early) = early {
                        self.early.remove(&(early, id));
                    }
                    self.line_up(id);
                }
            },
            State::Waiting => {}
        }
        if let Some(entry) = self.entries.get_mut(&id)
            && entry.waker.as_ref().is_none_or(|known| !known.will_wake(waker))
        {
            entry.waker = Some(waker.clone());
        }
        Poll::Pending
    }

    /// Somebody who entered does not want to send any more.
    pub(super) fn leave(&mut self, id: u64) {
        let Some(entry) = self.forget(id) else { return };
        self.counts.left += 1;
        if let State::Called { at, .. } = entry.state
            && self.now.saturating_sub(at) <= PUNCTUAL
        {
            self.turns.give_back();
        }
    }

    /// A background call has become a foreground one. It keeps its deadline, and so goes before later ones.
    pub(super) fn lift(&mut self, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let was = mem::replace(&mut entry.urgency, Urgency::Foreground);
        if was == Urgency::Background && matches!(entry.state, State::Waiting) {
            let (account, place) = (Arc::clone(&entry.account), (entry.deadline, id));
            self.background.remove(&account, place);
            self.foreground.push(&account, place);
        }
    }

    /// Refuses who has waited too long, and calls whoever may go now. Afterwards [`woken`](Self::take_woken) are to be woken.
    pub(super) fn dispatch(&mut self, now: Duration) {
        let now = self.advance(now);
        while let Some(&(deadline, id)) = self.by_deadline.first()
            && deadline <= now
        {
            self.refuse(id, Reason::Deadline);
        }
        while let Some(&(at, id)) = self.early.first()
            && at <= now
        {
            self.early.pop_first();
            self.wake(id);
            if let Some(Entry { state: State::Called { early, .. }, .. }) = self.entries.get_mut(&id) {
                *early = None;
            }
        }
        self.next_turn = None;
        while let Some(urgency) = self.who_is_next() {
            if let Err(later) = self.turns.take(urgency, now) {
                self.next_turn = Some(later);
                break;
            }
            self.call(urgency, now);
        }
        self.turns.forget_given_back();
    }

    /// When [`dispatch`](Self::dispatch) has something to do again, if nothing else happens.
    pub(super) fn next_event(&self) -> Option<Duration> {
        let deadline = self.by_deadline.first().map(|place| place.0);
        let early = self.early.first().map(|place| place.0);
        [deadline, early, self.next_turn].into_iter().flatten().min()
    }

    pub(super) fn take_woken(&mut self) -> Vec<Waker> {
        mem::take(&mut self.woken)
    }

    /// How the KMS answered an attempt. Whether that lowered the rate.
    pub(super) fn report(&mut self, now: Duration, was_throttled: bool) -> bool {
        let now = self.advance(now);
        self.turns.report(now, was_throttled)
    }

    pub(super) fn waiting(&self) -> usize {
        self.foreground.len() + self.background.len()
    }

    pub(super) fn per_second(&self) -> f64 {
        self.turns.per_second()
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Places held by anybody, called and refused ones that did not come yet included.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.entries.len()
    }

    /// Time never runs backwards here, whatever the clock does.
    fn advance(&mut self, now: Duration) -> Duration {
        self.now = self.now.max(now);
        self.now
    }

    fn lane(&mut self, urgency: Urgency) -> &mut Lane {
        match urgency {
            Urgency::Foreground => &mut self.foreground,
            Urgency::Background => &mut self.background,
        }
    }

    fn line_up(&mut self, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.state = State::Waiting;
        let (account, urgency, place) = (Arc::clone(&entry.account), entry.urgency, (entry.deadline, id));
        self.by_deadline.insert(place);
        self.lane(urgency).push(&account, place);
    }

    /// Takes `id` off every list.
    fn forget(&mut self, id: u64) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        match entry.state {
            State::Waiting => self.step_out(&entry, id),
            State::Called { early: Some(early), .. } => {
                self.early.remove(&(early, id));
            }
            State::Called { early: None, .. } | State::Refused(_) => {}
        }
        Some(entry)
    }

    fn step_out(&mut self, entry: &Entry, id: u64) {
        let place = (entry.deadline, id);
        self.by_deadline.remove(&place);
        self.lane(entry.urgency).remove(&entry.account, place);
    }

    fn who_is_next(&self) -> Option<Urgency> {
        match (self.foreground.is_empty(), self.background.is_empty()) {
            (true, true) => None,
            (true, false) => Some(Urgency::Background),
            (false, false) if self.turns.has_credit() => Some(Urgency::Background),
            (false, _) => Some(Urgency::Foreground),
        }
    }

    fn call(&mut self, urgency: Urgency, now: Duration) {
        let Some(id) = self.lane(urgency).pop() else { return };
        if urgency == Urgency::Foreground && !self.background.is_empty() {
            self.turns.earn_credit();
        }
        self.turns.spend_credit(urgency);
        if let Some(entry) = self.entries.get_mut(&id) {
            self.by_deadline.remove(&(entry.deadline, id));
            entry.state = State::Called { at: now, early: None };
        }
        self.wake(id);
    }

    fn wake(&mut self, id: u64) {
        let waker = self.entries.get_mut(&id).and_then(|entry| entry.waker.take());
        self.woken.extend(waker);
    }
}

#[cfg(test)]
mod tests;
