//! Two KEKs of one account at once: an old one, and the primary that takes over what it wraps.

use std::sync::Arc;

use keystrata_primitives::{Kek, KekId};

use super::Engine;
use crate::cache::AccountState;

/// What became of a rewrap by the KEKs at hand.
pub(crate) enum AtHand<R> {
    Rewrapped(R),
    /// The primary is the KEK of this id.
    IsPrimary,
}

impl Engine {
    /// Runs `f` with the KEK of this id and the primary, if both are at hand: no waiting, no store, no KMS.
    pub(crate) fn rewrap_at_hand<R>(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        id: KekId,
        f: impl FnOnce(&Kek<'_>, &Kek<'_>) -> R,
    ) -> Option<AtHand<R>> {
        let primary = account.primary();
        let new = primary.as_ref()?;
        let now = self.time_of_use(|now| account.is_primary_believed(now) && new.is_in_time(now));
        if !account.is_primary_believed(now) {
            return None;
        }
        if !account.is_primary_fresh(now) {
            self.renew_primary(account);
        }
        // Counts as no use of it: a scan over what is done already must not wear the primary out.
        if new.id() == id {
            return Some(AtHand::IsPrimary);
        }
        let old = self.cache().get_any(&account.path, id)?;
        let rewrapped = old.with_key(now, |old| new.with_key(now, |new| f(old, new)))??;
        self.note_use(account, &old, now);
        self.note_use(account, new, now);
        self.note_seal(account, new.id(), 0);
        Some(AtHand::Rewrapped(rewrapped))
    }
}
