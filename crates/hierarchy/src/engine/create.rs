//! An account's first KEK. Nobody seals under it before it is durably stored.

use std::sync::Arc;

use keystrata_primitives::{KekId, KekIdentity, KekRecord, KekState, KekVersion, Suite};

use super::{
    Engine,
    audited::{Actor, Deed},
    load::TRIES,
    parents::Climb,
    wraps::{NewSecret, Unwrapped},
};
use crate::{
    audit::{AuditAction, AuditOutcome},
    cache::{AccountState, CachedKek, Epoch, KekCache},
    error::KeyError,
    flight::{Answer, For, unless_outdated},
    root::Demand,
    store::Creation,
    topology::Wrapping,
};

/// What became of the creation of an account's first KEK.
pub(super) enum Made {
    Ours(Arc<CachedKek>),
    /// Another task or process was first; its record is the one to use.
    Theirs(Box<KekRecord>),
}

/// Whose record became the account's primary.
enum Winner {
    Ours,
    Theirs(Box<KekRecord>),
}

impl Engine {
    /// Makes the account's first KEK and puts it into the cache.
    pub(super) async fn create(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        epoch: Epoch,
        demand: &Demand,
        climb: Climb,
    ) -> Answer<Made> {
        let path = &account.path;
        self.refuse_without_primary(account).await?;
        self.cache().make_room(path)?;
        let first = (self.config.suite, KekVersion::FIRST);
        let (record, new) = self.generate(account, first, epoch, demand, climb).await?;
        let life = self.life(account, &new);
        // Into its slot before the store is waited for, so that it does not outlive its time if the store takes long.
        // Whoever finds it there by its id has an envelope sealed under it, and then it was stored.
        let kek = self.install(account, &record.identity, &new.derived, &life, epoch)?;
        drop(new);
        let unless_stored = Discard { cache: self.cache(), kek: Some(&kek) };
        match self.store_first(account, &record, self.actor()).await? {
            Winner::Ours => {
                unless_stored.keep();
                tracing::debug!(kek_id = %record.identity.id, "kek created");
                Ok(Made::Ours(Arc::clone(&kek)))
            }
            Winner::Theirs(record) => Ok(Made::Theirs(record)),
        }
    }

    /// Makes the account's first KEK, once for all of this process who wait for it, and keeps nothing but its record.
    pub(super) async fn created_record(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        epoch: Epoch,
        whom: For<'_>,
        climb: Climb,
    ) -> Answer<KekRecord> {
        let runtime = self.runtime()?;
        let (engine, creating) = (Arc::clone(self), Arc::clone(account));
        let create = |demand| async move {
            // Another creation may have ended between the caller's look into the store and this one.
            if let Some(record) = engine.stored_primary(&creating).await? {
                return Ok(Arc::new(record));
            }
            engine.refuse_without_primary(&creating).await?;
            let new = (engine.config.suite, KekVersion::FIRST);
            let (record, _) = engine.generate(&creating, new, epoch, &demand, climb).await?;
            match engine.store_first(&creating, &record, engine.actor()).await? {
                Winner::Ours => Ok(Arc::new(record)),
                Winner::Theirs(record) => Ok(Arc::new(*record)),
            }
        };
        let (creations, window) = (&self.local.get().creations, self.load_window(&account.policy));
        let (_, created) = creations.join(&runtime, window, account.path.clone(), whom, create).await;
        created.map(|record| KekRecord::clone(&record))
    }

    /// Makes the first KEK of an account that is not in the store, for its caller alone, and keeps nothing of it.
    pub(crate) async fn create_new(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        actor: &Actor,
    ) -> Result<Creation, KeyError> {
        let (path, demand) = (&account.path, Demand::foreground());
        for _ in 0..TRIES {
            self.refuse_if_closed()?;
            let head = self.store.head(path).await.map_err(|error| KeyError::from_store(error, None))?;
            if let Some(head) = head {
                head.refuse_if_shredded().map_err(|error| KeyError::from_store(error, None))?;
                return Ok(Creation::Exists);
            }
            self.refuse_without_primary(account).await?;
            let epoch = self.cache().epoch(account);
            if let Some(denial) = self.denial(account, epoch) {
                return Err(denial);
            }
            let first = (self.config.suite, KekVersion::FIRST);
            let made = self.generate(account, first, epoch, &demand, Climb::CACHED).await;
            if let Some((record, _)) = unless_outdated(made)? {
                return Ok(match self.store_first(account, &record, actor).await? {
                    Winner::Ours => Creation::Created,
                    Winner::Theirs(_) => Creation::Exists,
                });
            }
        }
        Err(KeyError::Interrupted)
    }

    /// An account with KEKs and no primary is not a new one, nor is one whose KEKs are gone from the store. Found out
    /// before a call is paid for.
    async fn refuse_without_primary(&self, account: &AccountState) -> Result<(), KeyError> {
        let path = &account.path;
        let records = self.store.records(path).await.map_err(|error| KeyError::from_store(error, None))?;
        // Another process may have made the first one since the primary was looked for.
        let is_new = records.is_empty() && account.newest().is_none();
        if is_new || records.iter().any(|record| record.state == KekState::Primary) {
            return Ok(());
        }
        Err(KeyError::NoPrimary { path: path.clone(), keks: records.len() })
    }

    /// A new KEK and its record, stored nowhere yet. One call to each root key that is to wrap it; none under a parent.
    pub(super) async fn generate(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        (suite, version): (Suite, KekVersion),
        epoch: Epoch,
        demand: &Demand,
        climb: Climb,
    ) -> Answer<(KekRecord, Unwrapped)> {
        self.refuse_outdated(account, epoch)?;
        let path = &account.path;
        let id = KekId::generate().map_err(KeyError::from)?;
        let identity = KekIdentity { suite, version, id, path: path.clone() };
        self.topology.check(path)?;
        let placement = self.placement(account);
        let mut made = match placement.now() {
            Wrapping::Roots(roots) => self.generate_under(account, &identity, roots, epoch, demand).await?,
            below => {
                let misplaced = |fault| KeyError::Misplaced { path: path.clone(), fault };
                let parent = below.parent(path).map_err(misplaced)?.expect("no root key wraps it");
                self.generate_under_parent(account, &identity, &parent, epoch, demand, climb).await?
            }
        };
        let created_at = self.now().real.as_secs();
        let derived = identity.derive(&made.secret);
        let (check, wraps) = (derived.check, std::mem::take(&mut made.wraps));
        let record = KekRecord { identity, state: KekState::Primary, check, created_at, retired_at: 0, wraps };
        let NewSecret { requested_at, authority, parent, .. } = made;
        Ok((record, Unwrapped { derived, requested_at, authority, parent }))
    }

    /// Stores an account's first record, and says whose became the account's primary.
    async fn store_first(&self, account: &AccountState, record: &KekRecord, actor: &Actor) -> Result<Winner, KeyError> {
        let deed = Deed::to_one(actor, AuditAction::Created, &record.identity);
        let became = |winner: &Winner| match winner {
            Winner::Ours => AuditOutcome::Done,
            Winner::Theirs(_) => AuditOutcome::Unchanged,
        };
        self.audited(&deed, self.try_store_first(account, record), became).await
    }

    async fn try_store_first(&self, account: &AccountState, record: &KekRecord) -> Result<Winner, KeyError> {
        let path = &record.identity.path;
        match self.store.create(record).await {
            Ok(Creation::Created) => Ok(Winner::Ours),
            Ok(Creation::Exists) => match self.stored_primary(account).await? {
                Some(winner) => Ok(Winner::Theirs(Box::new(winner))),
                None => Err(KeyError::NoPrimary { path: path.clone(), keks: 1 }),
            },
            Err(error) if self.is_stored(record).await => {
                tracing::debug!(%error, "the store failed, and had stored the record");
                Ok(Winner::Ours)
            }
            Err(error) => Err(KeyError::from_store(error, None)),
        }
    }

    /// After a write of unknown outcome: only finding our own id says that it happened.
    pub(super) async fn is_stored(&self, record: &KekRecord) -> bool {
        let found = self.store.record(&record.identity.path, record.identity.id).await;
        matches!(found, Ok(Some(stored)) if stored == *record)
    }
}

/// Overwrites a new KEK whose record did not become the account's primary, however the attempt ended.
pub(super) struct Discard<'a> {
    pub(super) cache: &'a KekCache,
    pub(super) kek: Option<&'a Arc<CachedKek>>,
}

impl Discard<'_> {
    pub(super) fn keep(mut self) {
        self.kek = None;
    }
}

impl Drop for Discard<'_> {
    fn drop(&mut self) {
        if let Some(kek) = self.kek {
            self.cache.discard(kek);
        }
    }
}
