//! KEKs for one operation alone: where nothing is cached, and where a cache is too small for its traffic.

use std::sync::Arc;

use keystrata_primitives::{KekId, KekRecord};

use super::{Engine, OneTimeKek, load::TRIES, parents::Climb};
use crate::{
    cache::{AccountState, Epoch},
    error::KeyError,
    flight::{Answer, unless_outdated},
    root::Demand,
};

impl Engine {
    /// The primary, unwrapped for one operation and put into no cache. So is all that is above it.
    pub(crate) async fn primary_once(self: &Arc<Self>, account: &Arc<AccountState>) -> Result<OneTimeKek, KeyError> {
        for _ in 0..TRIES {
            if let Some(kek) = unless_outdated(self.try_primary_once(account, Climb::ONCE).await)? {
                return Ok(kek);
            }
        }
        Err(KeyError::Interrupted)
    }

    pub(super) async fn try_primary_once(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        climb: Climb,
    ) -> Answer<OneTimeKek> {
        self.refuse_if_closed()?;
        let epoch = self.cache().epoch(account);
        if let Some(denial) = self.denial(account, epoch) {
            return Err(denial.into());
        }
        let record = match self.stored_primary(account).await? {
            Some(record) => {
                if self.is_too_old(account, &record) {
                    self.begin_rotation(account, record.identity.id);
                }
                record
            }
            None => self.created_record(account, epoch, climb).await?,
        };
        let kek = self.unwrapped_once(account, record, epoch, climb).await?;
        account.note_version(kek.identity.version);
        Ok(kek)
    }

    /// The KEK of this id, unwrapped for one operation and put into no cache. So is all that is above it.
    pub(crate) async fn kek_once(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        id: KekId,
    ) -> Result<OneTimeKek, KeyError> {
        for _ in 0..TRIES {
            if let Some(kek) = unless_outdated(self.try_kek_once(account, id, Climb::ONCE).await)? {
                return Ok(kek);
            }
        }
        Err(KeyError::Interrupted)
    }

    pub(super) async fn try_kek_once(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        id: KekId,
        climb: Climb,
    ) -> Answer<OneTimeKek> {
        self.refuse_if_closed()?;
        let epoch = self.cache().epoch(account);
        let denial = self.denial(account, epoch);
        if let Some(refusal) = denial.or_else(|| self.absence(account, id, epoch)) {
            return Err(refusal.into());
        }
        let record = self.stored_kek(account, id, epoch).await?;
        self.unwrapped_once(account, record, epoch, climb).await
    }

    async fn unwrapped_once(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        record: KekRecord,
        epoch: Epoch,
        climb: Climb,
    ) -> Answer<OneTimeKek> {
        // Counted from the request here too. Where nothing is cached, a call may take as long as a load may be joined.
        let (_, patience) = self.load_window(&account.policy);
        let ttl = if account.policy.caches_nothing() { patience } else { account.policy.kek_ttl() };
        let unwrapped = self.unwrap(account, &record, epoch, &Demand::foreground(), climb).await?;
        Ok(OneTimeKek::new(record.identity, unwrapped, ttl))
    }
}
