//! What the handles of one account share.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwapOption, Guard};
use keystrata_primitives::{KekId, KekVersion, KeyPath};

use super::{Shared, kek::CachedKek};
use crate::{
    clock::{Moment, nanos},
    policy::Policy,
};

/// One account in one process. Lives as long as a handle, a cached KEK or a load of it does.
///
/// Its primary changes under the lock of the account's shard; a hit reads without it.
pub(crate) struct AccountState {
    pub(crate) path: KeyPath,
    pub(crate) policy: Policy,
    home: Weak<Shared>,
    /// Goes up with every invalidation; what a load under an earlier one got is worth nothing.
    pub(super) epoch: AtomicU64,
    /// The KEK that new objects are sealed under, as the store said last.
    pub(super) primary: ArcSwapOption<CachedKek>,
    /// By boot time: until when that is believed, and from when on it is asked again in the background.
    valid_until: AtomicU64,
    renew_from: AtomicU64,
    /// By boot time: until when somebody has taken it upon himself to ask.
    claimed_until: AtomicU64,
    /// The newest version that was ever primary here.
    newest: AtomicU32,
    /// Where the policy has a ceiling only.
    uses: Option<Box<Mutex<Uses>>>,
}

/// What this process sealed under one KEK.
#[derive(Default)]
struct Uses {
    under: Option<KekId>,
    wraps: u64,
    bytes: u64,
    /// By boot time: until when somebody has taken it upon himself to replace it.
    rotation_claimed_until: u64,
}

impl AccountState {
    pub(super) fn new(path: KeyPath, policy: Policy, home: Weak<Shared>) -> Arc<Self> {
        let uses = policy.ceilings().exist().then(Box::default);
        Arc::new(Self {
            path,
            policy,
            home,
            epoch: AtomicU64::new(0),
            primary: ArcSwapOption::empty(),
            valid_until: AtomicU64::new(0),
            renew_from: AtomicU64::new(0),
            claimed_until: AtomicU64::new(0),
            newest: AtomicU32::new(0),
            uses,
        })
    }

    /// Whether this process made it: a forked child has accounts of its own.
    pub(super) fn is_at_home(&self, shared: &Arc<Shared>) -> bool {
        std::ptr::eq(self.home.as_ptr(), Arc::as_ptr(shared))
    }

    /// Whether what the store said of the primary still holds.
    pub(crate) fn is_primary_believed(&self, now: Moment) -> bool {
        nanos(now.boot) < self.valid_until.load(Ordering::Relaxed)
    }

    /// The primary, without a count of who has it.
    pub(crate) fn primary(&self) -> Guard<Option<Arc<CachedKek>>> {
        self.primary.load()
    }

    /// The primary, however long ago the store said so.
    pub(crate) fn last_primary(&self) -> Option<Arc<CachedKek>> {
        self.primary.load_full()
    }

    /// Whether what the store said is fresh enough not to ask again.
    pub(crate) fn is_primary_fresh(&self, now: Moment) -> bool {
        let boot = nanos(now.boot);
        boot < self.renew_from.load(Ordering::Relaxed) && self.is_primary_believed(now)
    }

    /// Whether the caller is the one to ask the store again; nobody else is until `again`.
    pub(crate) fn claim_renewal(&self, now: Moment, again: Duration) -> bool {
        let (now, claimed) = (nanos(now.boot), self.claimed_until.load(Ordering::Relaxed));
        let next = now.saturating_add(nanos(again));
        now >= claimed.max(self.renew_from.load(Ordering::Relaxed))
            && self.claimed_until.compare_exchange(claimed, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// From now on `kek` is the primary, unless a newer one was since it was looked for. Under the lock of the shard.
    pub(super) fn set_primary(&self, kek: &Arc<CachedKek>, renew_from: Moment, valid_until: Moment) {
        if self.newest().is_some_and(|newest| kek.identity.version < newest) {
            return;
        }
        self.note_version(kek.identity.version);
        self.valid_until.store(nanos(valid_until.boot), Ordering::Relaxed);
        self.renew_from.store(nanos(renew_from.boot), Ordering::Relaxed);
        self.primary.store(Some(Arc::clone(kek)));
    }

    /// Goes on believing what the store said last, and asks it again from `renew_from` on.
    pub(crate) fn believe(&self, renew_from: Moment, valid_until: Moment) {
        self.valid_until.fetch_max(nanos(valid_until.boot), Ordering::Relaxed);
        self.renew_from.store(nanos(renew_from.boot), Ordering::Relaxed);
    }

    pub(crate) fn note_version(&self, version: KekVersion) {
        self.newest.fetch_max(version.get(), Ordering::Relaxed);
    }

    /// The newest version that was ever primary here.
    pub(crate) fn newest(&self) -> Option<KekVersion> {
        KekVersion::new(self.newest.load(Ordering::Relaxed))
    }

    /// Lets go of a primary that is older than the newest seen. Under the lock of the shard.
    pub(super) fn forget_older(&self) {
        let is_older = |kek: &Arc<CachedKek>| self.newest().is_some_and(|newest| kek.identity.version < newest);
        if self.primary.load().as_ref().is_some_and(is_older) {
            self.primary.store(None);
        }
    }

    /// Whether the caller is the one to replace the KEK; nobody else is until `again`.
    pub(crate) fn claim_rotation(&self, worn: KekId, now: Moment, again: Duration) -> bool {
        let Some(mut uses) = self.uses_of(worn) else { return false };
        let now = nanos(now.boot);
        let is_free = now >= uses.rotation_claimed_until;
        if is_free {
            uses.rotation_claimed_until = now.saturating_add(nanos(again));
        }
        is_free
    }

    /// Counts one object of `len` bytes sealed under the KEK, and says whether it has sealed enough.
    pub(crate) fn count_seal(&self, under: KekId, len: usize) -> bool {
        let Some(mut uses) = self.uses_of(under) else { return false };
        uses.wraps = uses.wraps.saturating_add(1);
        uses.bytes = uses.bytes.saturating_add(len as u64);
        self.policy.ceilings().are_reached(uses.wraps, uses.bytes)
    }

    /// The counts of one KEK, from zero if another was counted before. `None` where nothing is counted.
    fn uses_of(&self, under: KekId) -> Option<MutexGuard<'_, Uses>> {
        // No code panics while it holds the lock.
        let mut uses = self.uses.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        if uses.under != Some(under) {
            *uses = Uses { under: Some(under), ..Uses::default() };
        }
        Some(uses)
    }
}

impl Drop for AccountState {
    fn drop(&mut self) {
        // In a forked child the locks are its parent's, and may be held for ever.
        if let Some(home) = self.home.upgrade()
            && home.is_of_this_process()
        {
            let dropped: *const Self = self;
            home.shard(&self.path).drop_account(&self.path, dropped);
        }
    }
}

impl fmt::Debug for AccountState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountState").field("path", &self.path).finish_non_exhaustive()
    }
}
