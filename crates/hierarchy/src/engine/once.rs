//! KEKs for one operation alone: where nothing is cached, and where a cache is too small for its traffic.

use std::sync::Arc;

use keystrata_primitives::{KekId, KekRecord};
use tokio::runtime::Handle;

use super::{Engine, OneTimeKek, load::TRIES, parents::Climb};
use crate::{
    cache::{AccountState, Epoch},
    error::KeyError,
    flight::{Answer, For, unless_outdated},
    root::Demand,
};

impl Engine {
    /// The primary, unwrapped for one operation and put into no cache. So is all that is above it.
    pub(crate) async fn primary_once(self: &Arc<Self>, account: &Arc<AccountState>) -> Result<OneTimeKek, KeyError> {
        for _ in 0..TRIES {
            let epoch = self.cache().epoch(account);
            if let Some(kek) = unless_outdated(self.try_primary_once(account, epoch, For::Caller, Climb::ONCE).await)? {
                return Ok(kek);
            }
        }
        Err(KeyError::Interrupted)
    }

    async fn try_primary_once(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        epoch: Epoch,
        whom: For<'_>,
        climb: Climb,
    ) -> Answer<OneTimeKek> {
        self.refuse_if_closed()?;
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
            None => self.created_record(account, epoch, whom, climb).await?,
        };
        let kek = self.unwrapped_once(account, record, epoch, whom, climb).await?;
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
            let epoch = self.cache().epoch(account);
            if let Some(kek) = unless_outdated(self.try_kek_once(account, id, epoch, For::Caller, Climb::ONCE).await)? {
                return Ok(kek);
            }
        }
        Err(KeyError::Interrupted)
    }

    async fn try_kek_once(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        id: KekId,
        epoch: Epoch,
        whom: For<'_>,
        climb: Climb,
    ) -> Answer<OneTimeKek> {
        self.refuse_if_closed()?;
        let denial = self.denial(account, epoch);
        if let Some(refusal) = denial.or_else(|| self.absence(account, id, epoch)) {
            return Err(refusal.into());
        }
        let record = self.stored_kek(account, id, epoch).await?;
        self.unwrapped_once(account, record, epoch, whom, climb).await
    }

    /// A KEK above others: the primary, or that of this id. One call for all of this process who wait for it at the time, as
    /// many of its children as there may be; whoever comes later asks anew.
    pub(super) async fn parent_once(
        self: &Arc<Self>,
        runtime: &Handle,
        parent: &Arc<AccountState>,
        id: Option<KekId>,
        epoch: Epoch,
        demand: &Demand,
        climb: Climb,
    ) -> Answer<Arc<OneTimeKek>> {
        let (engine, account) = (Arc::clone(self), Arc::clone(parent));
        let load = |demand| async move {
            let whom = For::Load(&demand);
            let kek = match id {
                Some(id) => engine.try_kek_once(&account, id, epoch, whom, climb).await?,
                None => engine.try_primary_once(&account, epoch, whom, climb).await?,
            };
            Ok(Arc::new(kek))
        };
        let (once_loads, window) = (&self.local.get().once_loads, self.load_window(&parent.policy));
        let key = (parent.path.clone(), id, epoch);
        let (was_under_way, answer) = once_loads.join(runtime, window, key, For::Load(demand), load).await;
        self.signals.shared_waits.add(was_under_way.into());
        answer
    }

    async fn unwrapped_once(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        record: KekRecord,
        epoch: Epoch,
        whom: For<'_>,
        climb: Climb,
    ) -> Answer<OneTimeKek> {
        let demand = match whom {
            For::Caller => Demand::foreground(),
            For::Load(demand) => demand.clone(),
        };
        // Counted from the request here too. Where nothing is cached, a call may take as long as a load may be joined.
        let (_, patience) = self.load_window(&account.policy);
        let ttl = if account.policy.caches_nothing() { patience } else { account.policy.kek_ttl() };
        let unwrapped = self.unwrap(account, &record, epoch, &demand, climb).await?;
        Ok(OneTimeKek::new(record.identity, unwrapped, ttl))
    }
}
