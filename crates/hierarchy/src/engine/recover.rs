//! The recovery root: KEKs by it when an operator says so, and never otherwise.

use std::sync::Arc;

use keystrata_primitives::{KekId, KekRecord, KekState};

use super::{
    Engine,
    audited::{Actor, Deed},
    load::TRIES,
    wraps::{Wanted, checked, not_accepted},
};
use crate::{
    audit::{AuditAction, AuditOutcome},
    cache::{AccountState, Authority, Epoch, How, Life},
    error::KeyError,
    flight::{Answer, unless_outdated},
    root::Demand,
};

/// What became of [`Account::recover`](crate::Account::recover).
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Recovered {
    /// KEKs that are in memory now.
    pub keks: usize,
    /// The others: those that the recovery root did not wrap, since it was named after they were made, and those whose
    /// record is broken.
    pub failed: Vec<(KekId, KeyError)>,
}

impl Engine {
    /// Unwraps all KEKs of the account by its recovery root and puts them into the cache, the newest first. One that cannot
    /// be had keeps none of the others from it.
    pub(crate) async fn recover(&self, account: &Arc<AccountState>, actor: &Actor) -> Result<Recovered, KeyError> {
        if !self.caches(account) {
            return Err(KeyError::Late { ttl: account.policy.kek_ttl() }); // they would be gone at once
        }
        let deed = Deed::to_all(actor, AuditAction::Recovered, &account.path);
        self.audited(&deed, self.recover_all(account), |_| AuditOutcome::Done).await
    }

    async fn recover_all(&self, account: &Arc<AccountState>) -> Result<Recovered, KeyError> {
        let path = &account.path;
        let records = self.store.records(path).await.map_err(|error| KeyError::from_store(error, None))?;
        let usable = |record: &&KekRecord| matches!(record.state, KekState::Primary | KekState::Retired);
        let mut recovered = Recovered::default();
        for id in records.iter().rev().filter(usable).map(|record| record.identity.id) {
            match self.recover_in_tries(account, id).await {
                Ok(()) => recovered.keks += 1,
                Err(error @ (KeyError::Closed | KeyError::Interrupted)) => return Err(error),
                Err(error) => recovered.failed.push((id, error)),
            }
        }
        if recovered.keks == 0
            && let Some((_, error)) = recovered.failed.first()
        {
            return Err(error.clone());
        }
        Ok(recovered)
    }

    async fn recover_in_tries(&self, account: &Arc<AccountState>, id: KekId) -> Result<(), KeyError> {
        for _ in 0..TRIES {
            let epoch = self.cache().epoch(account);
            if unless_outdated(self.recover_one(account, id, epoch).await)?.is_some() {
                return Ok(());
            }
        }
        Err(KeyError::Interrupted)
    }

    async fn recover_one(&self, account: &Arc<AccountState>, id: KekId, epoch: Epoch) -> Answer<()> {
        self.refuse_if_closed()?;
        // Read under this epoch: what was disabled before an invalidation does not come back after it.
        let record = &self.stored_kek(account, id, epoch).await?;
        let placement = self.placement(account);
        let by = placement.recovery(record).ok_or_else(|| not_accepted(record, placement.recovery_names()))?;
        self.cache().make_room(&account.path)?;
        let unwrapped =
            self.call_unwrap(account, Wanted { record, make: checked }, by, epoch, &Demand::foreground()).await?;
        let authority = Authority { how: How::Recovery, ..unwrapped.authority };
        // No renewal ahead: that would ask the roots which an operator has just gone round.
        let life = Life { refresh: None, authority, ..self.life(account, &unwrapped) };
        self.install(account, &record.identity, &unwrapped.derived, &life, epoch)?;
        tracing::warn!(kek_id = %record.identity.id, root = %by.0.id(), "a kek was recovered, as an operator asked");
        Ok(())
    }
}
