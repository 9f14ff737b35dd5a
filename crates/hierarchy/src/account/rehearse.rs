//! All of a seal or an open but the cipher, for simulations in virtual time.
//!
//! What a policy costs shows only over days of traffic. A rehearsal looks for the KEK, holds to its deadline, begins renewals
//! and counts as the real thing does, through the same code, and then encrypts nothing.

use std::{sync::Arc, time::Duration};

use keystrata_primitives::KekId;

use super::Account;
use crate::{cache::CachedKek, error::KeyError};

impl Account {
    /// What [`try_seal`](Self::try_seal) of `len` bytes does to the cache. `None` if the KEK is not in memory, else the time
    /// since the KMS was asked for it.
    pub fn try_rehearse_seal(&self, len: usize) -> Option<Duration> {
        self.engine.seal_at_hand_aged(&self.state(), len, |_| ()).map(|((), age)| age)
    }

    /// What [`try_open`](Self::try_open) of an envelope under the KEK `id` does to the cache; see
    /// [`try_rehearse_seal`](Self::try_rehearse_seal).
    pub fn try_rehearse_open(&self, id: KekId) -> Option<Duration> {
        self.engine.open_at_hand_aged(&self.state(), id, |_| ()).map(|((), age)| age)
    }

    /// What [`seal`](Self::seal) of `len` bytes does once `try_seal` found no KEK, but for sealing. Gives the time since the
    /// KMS was asked for the KEK that it got, zero for one that is not kept.
    ///
    /// # Errors
    /// As `seal`, of the KEK.
    pub async fn rehearse_seal_after_miss(&self, len: usize) -> Result<Duration, KeyError> {
        self.with_primary(len, |_| ()).await?;
        Ok(self.age(self.state().primary().as_ref()))
    }

    /// What [`open`](Self::open) of an envelope under the KEK `id` does once `try_open` did not find it, but for opening; see
    /// [`rehearse_seal_after_miss`](Self::rehearse_seal_after_miss).
    ///
    /// # Errors
    /// As `open`, of the KEK.
    pub async fn rehearse_open_after_miss(&self, id: KekId) -> Result<Duration, KeyError> {
        self.with_kek(id, |_| ()).await?;
        Ok(self.age(self.engine.cache().get_any(self.path(), id).as_ref()))
    }

    fn age(&self, kek: Option<&Arc<CachedKek>>) -> Duration {
        kek.map(|kek| kek.age(self.engine.now())).unwrap_or_default()
    }
}
