//! One decrypted KEK, and for how long it may be used.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use keystrata_memory::Slot;
use keystrata_primitives::{Kek, KekId, KekIdentity};

use super::{
    authority::{Authority, How, RootNumber},
    lineage::Lineage,
};
use crate::{
    clock::{Moment, Nanos, nanos},
    policy::Policy,
};

/// `refresh_from` of a KEK that is not renewed ahead.
const NEVER: u64 = u64::MAX;

const NANOS_PER_MS: u64 = 1_000_000;

/// One decrypted KEK, for as long as it may be used.
pub(crate) struct CachedKek {
    pub(super) identity: KekIdentity,
    pub(super) slot: Slot,
    /// By boot time: when a root key was asked for it, or for what is above it.
    requested_at: u64,
    /// Never later than its parent's.
    deadline: Nanos,
    /// Beyond the deadline, what a policy allows while the KMS is out of reach. In milliseconds, of which an hour has few
    /// enough: the struct is as long as it is for each of a million.
    max_stale_ms: u32,
    /// By boot time: until when it may be used beyond its deadline. Never later than `max_stale` allows.
    excused_until: AtomicU64,
    /// By boot time: from when on a use asks for its renewal.
    refresh_from: AtomicU64,
    /// Whether it was used since it was last passed over for eviction.
    pub(super) was_used: AtomicBool,
    /// Its [`Authority`] in two parts, which fill what the others leave of eight bytes.
    how: How,
    root: RootNumber,
    /// What is above it; `None` if a root key unwrapped it.
    under: Option<Arc<Lineage>>,
}

/// The times of one KEK, counted from when it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) requested_at: Moment,
    pub(crate) ttl: Duration,
    /// How long before its end it is renewed if it is used then.
    pub(crate) refresh: Option<Duration>,
    pub(crate) max_stale: Duration,
    /// By which part of the time that its parent leaves it it may end sooner, and a chance from 0 to 1.
    pub(crate) spread: (f64, f64),
    pub(crate) authority: Authority,
    pub(crate) parent: Option<Parentage>,
}

/// What the parent's KEK that unwrapped a KEK lets it have.
#[derive(Clone, Debug)]
pub(crate) struct Parentage {
    /// By boot time: when a root key was asked for what is at the top.
    pub(crate) requested_at: u64,
    pub(crate) deadline: Nanos,
    /// The parent's deadline and what its policy allows beyond it.
    pub(crate) end: Nanos,
    /// Whether it will be renewed ahead of its end.
    pub(crate) is_renewed: bool,
    /// The root key at the top.
    pub(crate) root: RootNumber,
    pub(crate) lineage: Arc<Lineage>,
}

impl Life {
    pub(crate) fn new(
        policy: &Policy,
        requested_at: Moment,
        authority: Authority,
        parent: Option<Parentage>,
        chance: f64,
    ) -> Self {
        let (ttl, refresh) = policy.life(chance);
        let (max_stale, spread) = (policy.max_stale(), (policy.ttl_jitter(), chance.clamp(0.0, 1.0)));
        Self { requested_at, ttl, refresh, max_stale, spread, authority, parent }
    }

    pub(crate) fn deadline(&self) -> Nanos {
        match self.cut_short() {
            None => self.own_end(),
            Some(end) => end.before(self.sooner(end)),
        }
    }

    fn own_end(&self) -> Nanos {
        Nanos::from(self.requested_at.after(self.ttl))
    }

    /// Its parent's end, if that comes before its own would.
    fn cut_short(&self) -> Option<Nanos> {
        let (own, parent) = (self.own_end(), self.parent.as_ref()?);
        Some(own.earlier(parent.deadline)).filter(|end| *end != own)
    }

    pub(crate) fn is_cut_short(&self) -> bool {
        self.cut_short().is_some()
    }

    /// How long before its parent's end it is renewed: a shorter life is renewed later, or it would be due from the
    /// beginning. Not at all if the parent is not either, as nothing would be won.
    fn refresh_below(&self, end: Nanos) -> Option<u64> {
        let refresh = nanos(self.refresh?);
        let remaining = end.boot.saturating_sub(nanos(self.requested_at.boot));
        self.parent.as_ref().is_some_and(|parent| parent.is_renewed).then_some(refresh.min(remaining / 10))
    }

    /// How much sooner than its parent it ends, or all below one parent would be due in the same instant. At most a quarter
    /// of the time for its renewal, so that half of that is left; nothing if it is not renewed, since whoever asks for it
    /// again would get a life that ends with the parent's all the same.
    fn sooner(&self, end: Nanos) -> u64 {
        let (jitter, chance) = self.spread;
        let remaining = Duration::from_nanos(end.boot.saturating_sub(nanos(self.requested_at.boot)));
        let most = Duration::from_nanos(self.refresh_below(end).unwrap_or_default() / 4);
        nanos(remaining.mul_f64(jitter).min(most).mul_f64(chance))
    }

    /// When it is renewed if it is used then, by boot time.
    pub(super) fn refresh_from(&self) -> Option<u64> {
        let Some(end) = self.cut_short() else {
            return Some(self.own_end().boot.saturating_sub(nanos(self.refresh?)));
        };
        // The sooner it ends the later, so that what is above it is due by then.
        let ahead = self.refresh_below(end)?;
        Some(end.boot.saturating_sub(ahead).saturating_add(self.sooner(end)))
    }

    fn max_stale_ms(&self, deadline: Nanos) -> u32 {
        let own = nanos(self.max_stale);
        let allowed = self.parent.as_ref().map_or(own, |parent| {
            let boot = parent.end.boot.saturating_sub(deadline.boot);
            own.min(boot).min(parent.end.real.saturating_sub(deadline.real))
        });
        u32::try_from(allowed / NANOS_PER_MS).unwrap_or(u32::MAX)
    }
}

impl CachedKek {
    pub(super) fn new(identity: KekIdentity, slot: Slot, life: &Life) -> Self {
        let deadline = life.deadline();
        let refresh_from = life.refresh_from().unwrap_or(NEVER);
        let parent = life.parent.as_ref();
        Self {
            identity,
            slot,
            requested_at: parent.map_or_else(|| nanos(life.requested_at.boot), |parent| parent.requested_at),
            deadline,
            max_stale_ms: life.max_stale_ms(deadline),
            excused_until: AtomicU64::new(0),
            refresh_from: AtomicU64::new(refresh_from),
            was_used: AtomicBool::new(false),
            how: life.authority.how,
            root: life.authority.root,
            under: parent.map(|parent| Arc::clone(&parent.lineage)),
        }
    }

    /// What is above it; `None` if a root key unwrapped it.
    pub(crate) fn lineage(&self) -> Option<&Arc<Lineage>> {
        self.under.as_ref()
    }

    /// What a KEK that this one unwraps may have, with `lineage` as what that rests on.
    pub(crate) fn parentage(&self, lineage: Arc<Lineage>) -> Parentage {
        Parentage {
            requested_at: self.requested_at,
            deadline: self.deadline,
            end: self.end(),
            is_renewed: self.refresh_from.load(Ordering::Relaxed) != NEVER,
            root: self.root,
            lineage,
        }
    }

    pub(crate) fn deadline(&self) -> Nanos {
        self.deadline
    }

    /// When the parent's KEK ended at the latest that cut this one short, if one did.
    pub(crate) fn parents_end_at_most(&self) -> Nanos {
        // `sooner` is at most a quarter of a tenth of what the parent left it, and that began after the request.
        let lived = self.deadline.boot.saturating_sub(self.requested_at);
        self.deadline.after(Duration::from_nanos(lived / 39 + 1))
    }

    pub(crate) fn authority(&self) -> Authority {
        Authority { root: self.root, how: self.how }
    }

    pub(crate) fn is_recovered(&self) -> bool {
        self.how == How::Recovery
    }

    pub(crate) fn id(&self) -> KekId {
        self.identity.id
    }

    pub(crate) fn identity(&self) -> &KekIdentity {
        &self.identity
    }

    /// Runs `f` with the key unless its time is up at `now`, or it was overwritten.
    pub(crate) fn with_key<R>(&self, now: Moment, f: impl FnOnce(&Kek<'_>) -> R) -> Option<R> {
        if !self.is_in_time(now) {
            return None;
        }
        self.slot.with_key(|key| f(&Kek::new(key, &self.identity)))
    }

    pub(crate) fn is_live(&self, now: Moment) -> bool {
        self.is_in_time(now) && self.slot.is_live()
    }

    pub(super) fn overwrite(&self) {
        self.slot.wipe();
    }

    /// Whether it may be used at `now`, if it is not overwritten.
    pub(crate) fn is_in_time(&self, now: Moment) -> bool {
        let now = Nanos::from(now);
        !now.has_reached(self.deadline) || self.is_excused(now)
    }

    #[cold]
    fn is_excused(&self, now: Nanos) -> bool {
        now.boot < self.excused_until.load(Ordering::Relaxed) && !now.has_reached(self.end())
    }

    /// When it must be overwritten: its deadline, or the end of what a policy allows beyond it.
    pub(super) fn end(&self) -> Nanos {
        let Nanos { boot, real } = self.deadline;
        let max_stale = u64::from(self.max_stale_ms) * NANOS_PER_MS;
        Nanos { boot: boot.saturating_add(max_stale), real: real.saturating_add(max_stale) }
    }

    /// Lets it be used for `time` beyond its deadline, as far as its policy allows. `false` if it does not, or the key is
    /// overwritten.
    pub(crate) fn excuse(&self, now: Moment, time: Duration) -> bool {
        let now = Nanos::from(now);
        if self.max_stale_ms == 0 || now.has_reached(self.end()) || !self.slot.is_live() {
            return false;
        }
        let until = now.after(time).boot;
        self.excused_until.store(until, Ordering::Relaxed);
        // Whoever uses it meanwhile asks for no renewal: the KMS has just been asked.
        self.refresh_from.fetch_max(until, Ordering::Relaxed);
        true
    }

    /// Whether it is past its deadline, and in use all the same.
    pub(crate) fn is_stale(&self, now: Moment) -> bool {
        Nanos::from(now).has_reached(self.deadline)
    }

    /// Whether it was used beyond its deadline and may be again. One that only awaits the sweeper was not.
    pub(super) fn is_used_stale(&self, now: Moment) -> bool {
        let now = Nanos::from(now);
        let was_excused = self.excused_until.load(Ordering::Relaxed) > 0;
        was_excused && now.has_reached(self.deadline) && !now.has_reached(self.end())
    }

    /// Notes a use. Writes only what is not written yet: a hot KEK's line stays shared between processors.
    pub(crate) fn note_use(&self) {
        if !self.was_used.load(Ordering::Relaxed) {
            self.was_used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it is time to renew it.
    pub(crate) fn is_due_for_refresh(&self, now: Moment) -> bool {
        nanos(now.boot) >= self.refresh_from.load(Ordering::Relaxed)
    }

    /// Whether the caller is the one to renew it; nobody else is until `again`.
    pub(crate) fn claim_refresh(&self, now: Moment, again: Duration) -> bool {
        let due = self.refresh_from.load(Ordering::Relaxed);
        let now = Nanos::from(now);
        let next = now.after(again).boot;
        now.boot >= due && self.refresh_from.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// How long ago a root key was asked for it, or for what is above it.
    pub(crate) fn age(&self, now: Moment) -> Duration {
        Duration::from_nanos(nanos(now.boot).saturating_sub(self.requested_at))
    }
}

impl fmt::Debug for CachedKek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedKek").field("id", &self.id()).field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With its two counts it fills an allocation of 144 bytes exactly. One more would be 16 more for each of a million.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn a_cached_kek_is_no_larger_than_it_was() {
        assert_eq!(size_of::<CachedKek>(), 120);
    }
}
