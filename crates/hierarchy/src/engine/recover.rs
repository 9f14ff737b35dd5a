//! The recovery root: KEKs by it when an operator says so, and never otherwise.

use std::sync::Arc;

use keystrata_primitives::{KekRecord, KekState};

use super::{
    Engine,
    load::TRIES,
    wraps::{Unwrapped, not_accepted},
};
use crate::{
    cache::{AccountState, Epoch, Life},
    error::{KeyError, RecordFault},
    flight::{Answer, unless_outdated},
    root::Demand,
};

impl Engine {
    /// Unwraps all KEKs of the account by its recovery root and puts them into the cache; gives their number.
    pub(crate) async fn recover(&self, account: &Arc<AccountState>) -> Result<usize, KeyError> {
        let path = &account.path;
        let records = self.store.records(path).await.map_err(|error| KeyError::from_store(error, None))?;
        let usable = |record: &&KekRecord| matches!(record.state, KekState::Primary | KekState::Retired);
        let mut recovered = 0;
        for record in records.iter().filter(usable) {
            for attempt in 1.. {
                let epoch = self.cache().epoch(account);
                if unless_outdated(self.recover_one(account, record, epoch).await)?.is_some() {
                    break;
                }
                if attempt == TRIES {
                    return Err(KeyError::Interrupted);
                }
            }
            recovered += 1;
        }
        Ok(recovered)
    }

    async fn recover_one(&self, account: &Arc<AccountState>, record: &KekRecord, epoch: Epoch) -> Answer<()> {
        self.refuse_if_closed()?;
        if record.identity.path != account.path {
            let fault = RecordFault::NotTheOneAskedFor;
            return Err(KeyError::corrupt(&account.path, record.identity.id, fault).into());
        }
        let placement = self.placement(account);
        let by = placement.recovery(record).ok_or_else(|| not_accepted(record, placement.recovery_names()))?;
        self.cache().make_room(&account.path)?;
        let unwrapped = self.call_unwrap(account, record, by, epoch, &Demand::foreground()).await?;
        let Unwrapped { derived, requested_at, .. } = unwrapped;
        // No renewal ahead: that would ask the roots which an operator has just gone round.
        let life = Life { refresh: None, ..self.life(&account.policy, requested_at, None) };
        self.install(account, &record.identity, &derived, &life, epoch)?;
        tracing::warn!(kek_id = %record.identity.id, root = %by.0.id(), "a kek was recovered, as an operator asked");
        Ok(())
    }
}
