//! A new primary in place of an account's old one.

use std::{sync::Arc, time::Duration};

use keystrata_primitives::{KekId, KekRecord, KekVersion};

use super::{
    Engine,
    audited::{Actor, Deed},
    create::Discard,
    load::{RETRY, TRIES},
    parents::Climb,
};
use crate::{
    audit::{AuditAction, AuditOutcome},
    cache::{AccountState, Epoch},
    error::KeyError,
    flight::{Answer, For, LoadError, unless_outdated},
    lifecycle::LifecycleError,
    root::Demand,
    store::Rotation,
};

/// Who rotates, and whether the new KEK stays in memory: a job that rotates many would push out those that are in use.
#[derive(Clone, Copy)]
pub(super) struct By<'a> {
    pub(super) actor: &'a Actor,
    pub(super) keep: bool,
}

impl Engine {
    /// Makes a new primary for an account that has one; gives its version. Callers at once share one.
    pub(crate) async fn rotate(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        actor: &Actor,
    ) -> Result<KekVersion, KeyError> {
        let runtime = self.runtime()?;
        for _ in 0..TRIES {
            self.refuse_if_closed()?;
            if let Some(denial) = self.denial(account, self.cache().epoch(account)) {
                return Err(denial);
            }
            let (engine, rotating, actor) = (Arc::clone(self), Arc::clone(account), Arc::clone(actor));
            let rotate = |demand| async move {
                let epoch = engine.cache().epoch(&rotating);
                let Some(record) = engine.stored_primary(&rotating).await? else {
                    return Err(KeyError::NoAccount { path: rotating.path.clone() }.into());
                };
                let by = By { actor: &actor, keep: true };
                let record = engine.rotate_from(&rotating, &record, epoch, &demand, by, Climb::CACHED).await?;
                let version = record.identity.version;
                match engine.follow(&rotating, record, epoch, &demand).await {
                    // Whoever seals next looks for it anew.
                    Ok(()) | Err(LoadError::Outdated) => Ok(version),
                    Err(error) => Err(error),
                }
            };
            let (rotations, window) = (&self.local.get().rotations, self.load_window(&account.policy));
            let key = (account.path.clone(), None);
            let (_, rotated) = rotations.join(&runtime, window, key, For::Caller, rotate).await;
            if let Some(version) = unless_outdated(rotated)? {
                return Ok(version);
            }
        }
        Err(KeyError::Interrupted)
    }

    /// Begins to replace the primary `worn`, which has sealed enough or is too old, in the background. Once for each KEK
    /// and, while that fails, at most once a second.
    pub(super) fn begin_rotation(self: &Arc<Self>, account: &Arc<AccountState>, worn: KekId) {
        let Ok(runtime) = self.runtime() else { return };
        // Of a KEK that was recovered the next would be asked of the roots that an operator has just gone round.
        if self.cache().get_any(&account.path, worn).is_some_and(|kek| kek.is_recovered()) {
            return;
        }
        if !account.claim_rotation(worn, self.now(), RETRY) {
            return;
        }
        let (engine, rotating) = (Arc::clone(self), Arc::clone(account));
        let rotate = |demand| async move {
            let epoch = engine.cache().epoch(&rotating);
            let Some(record) = engine.stored_primary(&rotating).await? else { return Err(LoadError::Outdated) };
            if record.identity.id != worn {
                // Somebody else was first; this process has not noticed yet.
                let version = record.identity.version;
                return engine.follow(&rotating, record, epoch, &demand).await.map(|()| version);
            }
            let by = By { actor: engine.actor(), keep: true };
            let rotated = engine.rotate_from(&rotating, &record, epoch, &demand, by, Climb::CACHED).await;
            if let Err(LoadError::Key(error)) = &rotated {
                tracing::warn!(kek_id = %worn, %error, "a kek is due to be replaced, and no new one could be made; it goes on");
            }
            let record = rotated?;
            let version = record.identity.version;
            engine.follow(&rotating, record, epoch, &demand).await.map(|()| version)
        };
        let window = self.load_window(&account.policy);
        self.local.get().rotations.begin(&runtime, window, (account.path.clone(), Some(worn)), rotate);
    }

    /// Seals under the primary of this record from now on, if it does not already: it may be another process's.
    async fn follow(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        record: KekRecord,
        epoch: Epoch,
        demand: &Demand,
    ) -> Answer<()> {
        let (id, read_at) = (record.identity.id, self.now());
        if self.caches(account) && account.last_primary().is_none_or(|primary| primary.id() != id) {
            let runtime = self.runtime()?;
            let kek = self
                .load_kek_shared(&runtime, account, (id, Some(record)), epoch, For::Load(demand), Climb::CACHED)
                .await?;
            self.know_primary(account, kek, read_at, epoch);
        }
        Ok(())
    }

    /// Rotates the account if its primary is at least so old, behind whatever somebody waits for. The new KEK does not stay
    /// in memory. `false` if it is not so old, or not any more.
    pub(crate) async fn rotate_old(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        age: Duration,
        actor: &Actor,
    ) -> Result<bool, LifecycleError> {
        let (engine, account, actor) = (Arc::clone(self), Arc::clone(account), Arc::clone(actor));
        self.detached(async move {
            for _ in 0..TRIES {
                let epoch = engine.cache().epoch(&account);
                let record = engine.stored_primary(&account).await?;
                let Some(record) = record.filter(|record| engine.is_older(record, age)) else { return Ok(false) };
                let (by, demand) = (By { actor: &actor, keep: false }, Demand::background());
                let rotated = engine.rotate_from(&account, &record, epoch, &demand, by, Climb::CACHED).await;
                if unless_outdated(rotated)?.is_some() {
                    return Ok(true);
                }
            }
            Err(KeyError::Interrupted.into())
        })
        .await
    }

    pub(crate) fn is_older(&self, record: &KekRecord, age: Duration) -> bool {
        self.now().real.saturating_sub(Duration::from_secs(record.created_at)) >= age
    }

    /// Whether the KEK is older than its account's policy allows.
    pub(super) fn is_too_old(&self, account: &AccountState, record: &KekRecord) -> bool {
        account.policy.ceilings().age.is_some_and(|limit| self.is_older(record, limit))
    }

    /// The primary's record, or that of a new primary if this one is older than its policy allows. A rotation that fails
    /// does not stop sealing.
    pub(super) async fn rotated_if_old(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        record: KekRecord,
        epoch: Epoch,
        demand: &Demand,
        climb: Climb,
    ) -> KekRecord {
        if !self.is_too_old(account, &record) {
            return record;
        }
        let by = By { actor: self.actor(), keep: true };
        match self.rotate_from(account, &record, epoch, demand, by, climb).await {
            Ok(rotated) => rotated,
            Err(LoadError::Outdated) => record,
            Err(LoadError::Key(error)) => {
                tracing::warn!(%error, "a kek is older than its policy allows, and no new one could be made; it goes on");
                record
            }
        }
    }

    /// Makes a new KEK the primary in place of `old`, and gives the record of whichever is primary then.
    pub(super) async fn rotate_from(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        old: &KekRecord,
        epoch: Epoch,
        demand: &Demand,
        by: By<'_>,
        climb: Climb,
    ) -> Answer<KekRecord> {
        let path = &account.path;
        if let Some(denial) = self.denial(account, epoch) {
            return Err(denial.into());
        }
        let version = old.identity.version.next();
        let version = version.ok_or_else(|| KeyError::VersionsUsedUp { path: path.clone() })?;
        self.cache().make_room(path)?;
        let caches = self.caches(account);
        let is_cached = by.keep && caches;
        let climb = if caches { climb } else { Climb::ONCE };
        let (record, new) = self.generate(account, (old.identity.suite, version), epoch, demand, climb).await?;
        let life = self.life(account, &new);
        // As in `create`: in its slot first, and out of it again unless it was stored. With no TTL there is no slot.
        let kek = is_cached.then(|| self.install(account, &record.identity, &new.derived, &life, epoch)).transpose()?;
        drop(new);
        let unless_stored = Discard { cache: self.cache(), kek: kek.as_ref() };
        let deed = Deed::to_one(by.actor, AuditAction::Rotated, &record.identity);
        let store = async {
            // As late as can be: the time at which `old` retires is counted from it, and an audit sink may take its own.
            let record = KekRecord { created_at: self.now().real.as_secs(), ..record };
            match self.store.rotate(old.identity.id, &record).await {
                Ok(rotation) => Ok((rotation, record)),
                Err(_) if self.is_stored(&record).await => Ok((Rotation::Rotated, record)),
                Err(error) => Err(KeyError::from_store(error, None)),
            }
        };
        let became = |(rotation, _): &(Rotation, KekRecord)| match rotation {
            Rotation::Rotated => AuditOutcome::Done,
            Rotation::Superseded => AuditOutcome::Unchanged,
        };
        let (rotation, record) = self.audited(&deed, store, became).await?;
        if rotation == Rotation::Superseded {
            // The winner's: there is one, or `old` would not have been superseded.
            let winner = self.stored_primary(account).await?;
            return winner.ok_or_else(|| KeyError::NoPrimary { path: path.clone(), keks: 1 }.into());
        }
        unless_stored.keep();
        self.signals.rotations.add(1);
        tracing::info!(kek_id = %record.identity.id, version = version.get(), "kek rotated");
        if let Some(kek) = kek {
            self.know_primary(account, kek, self.now(), epoch);
        }
        Ok(record)
    }
}
