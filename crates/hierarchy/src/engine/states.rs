//! What an account's KEKs may do: seal and open, open only, neither, or nothing ever again.
//!
//! Each change runs in a task of its own, so whoever asks for it can go without leaving it half made. After whatever was
//! forbidden, and after whatever may have been, the account's KEKs are overwritten here; other processes find out when they
//! read the account's records again.

use std::{sync::Arc, time::Duration};

use keystrata_primitives::{KekId, KekRecord, KekState, KekVersion, KeyPath};

use super::{
    Engine, LOAD_PATIENCE,
    audited::{Actor, Deed},
    load::PRIMARY_TTL,
};
use crate::{
    audit::{AuditAction, AuditOutcome},
    cache::AccountState,
    error::{KeyError, RecordFault},
    lifecycle::{Change, LifecycleError, RewrapScan, ShredPlan, Shredded},
    store::{AccountCopy, Raise, Shred, Update, WrapperQuery},
};

/// How often a change begins anew because somebody else's came between.
pub(super) const CONTENTIONS: usize = 8;

/// How far the clocks of a fleet may be apart.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// What KEKs are to be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    SealAndOpen,
    OpenOnly,
    Nothing,
}

impl Use {
    fn action(self) -> AuditAction {
        match self {
            Self::SealAndOpen => AuditAction::Enabled,
            Self::OpenOnly => AuditAction::SealingDisabled,
            Self::Nothing => AuditAction::Disabled,
        }
    }

    /// The record as it is to be.
    fn of(self, record: &KekRecord, is_primary: bool, now: u64) -> KekRecord {
        let (state, retired_at) = match (self, is_primary) {
            _ if record.state == KekState::Destroyed => (record.state, record.retired_at),
            (Self::Nothing, _) => (KekState::Disabled, record.retired_at),
            (Self::SealAndOpen, true) => (KekState::Primary, 0),
            (Self::OpenOnly, true) if record.state != KekState::Retired => (KekState::Retired, now),
            (Self::SealAndOpen | Self::OpenOnly, _) => (KekState::Retired, record.retired_at),
        };
        KekRecord { state, retired_at, ..record.clone() }
    }
}

impl Change {
    pub(super) fn if_any(changed: bool) -> Self {
        if changed { Self::Made } else { Self::AlreadySo }
    }

    fn outcome(self) -> AuditOutcome {
        match self {
            Self::Made => AuditOutcome::Done,
            Self::AlreadySo => AuditOutcome::Unchanged,
        }
    }
}

impl Engine {
    /// Runs `work` in a task of its own and waits for it.
    pub(super) async fn detached<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Future<Output = Result<T, LifecycleError>> + Send + 'static,
    ) -> Result<T, LifecycleError> {
        self.refuse_if_closed()?;
        let task = self.runtime()?.spawn(work);
        task.await.unwrap_or_else(|_| Err(KeyError::Interrupted.into()))
    }

    /// All of an account that has KEKs and may be changed.
    pub(super) async fn exported(&self, path: &KeyPath) -> Result<AccountCopy, LifecycleError> {
        let copy = self.store.export(path).await?;
        let copy = copy.ok_or_else(|| KeyError::NoAccount { path: path.clone() })?;
        copy.head().refuse_if_shredded()?;
        match copy.records.iter().find(|record| record.identity.path != *path) {
            None => Ok(copy),
            Some(other) => Err(KeyError::corrupt(path, other.identity.id, RecordFault::NotTheOneAskedFor).into()),
        }
    }

    /// Puts `new` in place of `old`. `false` if something else was there. After a write of unknown outcome what is stored
    /// then decides.
    pub(super) async fn update(&self, old: &KekRecord, new: &KekRecord) -> Result<bool, LifecycleError> {
        match self.store.update(old, new).await {
            Ok(update) => Ok(update == Update::Updated),
            Err(error) => {
                let stored = self.store.export(&new.identity.path).await.ok().flatten();
                let is_stored = stored.is_some_and(|copy| copy.records.contains(new));
                if is_stored { Ok(true) } else { Err(error.into()) }
            }
        }
    }

    /// Lets the account's KEKs, or one of them, be used in this way from now on.
    pub(crate) async fn allow(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        which: Option<KekId>,
        to: Use,
        actor: &Actor,
    ) -> Result<Change, LifecycleError> {
        let (engine, path, actor) = (Arc::clone(self), account.path.clone(), Arc::clone(actor));
        self.detached(async move {
            let copy = engine.exported(&path).await?;
            let deed = match which {
                None => Deed::to_all(&actor, to.action(), &path),
                Some(id) => Deed::to_one(&actor, to.action(), &found(&copy, id)?.identity),
            };
            let allowing = async {
                let allowed = engine.try_allow(&path, which, to).await;
                // What is allowed again has nothing in memory that would have to go.
                if to != Use::SealAndOpen {
                    engine.invalidate(&path);
                }
                allowed
            };
            engine.audited(&deed, allowing, |change| change.outcome()).await
        })
        .await
    }

    async fn try_allow(&self, path: &KeyPath, which: Option<KekId>, to: Use) -> Result<Change, LifecycleError> {
        let mut has_changed = false;
        // Until all is found as it is to be: a rotation, or somebody else's change, may come between.
        for _ in 0..CONTENTIONS {
            let (copy, now) = (self.exported(path).await?, self.now().real.as_secs());
            let is_meant = |record: &&KekRecord| which.is_none_or(|id| record.identity.id == id);
            if let Some(id) = which
                && found(&copy, id)?.state == KekState::Destroyed
            {
                let state = KekState::Destroyed;
                return Err(KeyError::WrongState { path: path.clone(), kek_id: id, state }.into());
            }
            let mut is_so = true;
            // The newest first: what seals is dealt with before what only opens.
            for old in copy.records.iter().rev().filter(is_meant) {
                let new = to.of(old, copy.primary == Some(old.identity.id), now);
                if new != *old {
                    is_so = false;
                    match self.update(old, &new).await {
                        Ok(is_updated) => has_changed |= is_updated,
                        // Enabled and rotated since, it looks as it did, a retired KEK, and is the primary no more.
                        Err(LifecycleError::Key(KeyError::Corrupt { .. }))
                            if self.exported(path).await?.primary != copy.primary => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            if is_so {
                return Ok(Change::if_any(has_changed));
            }
        }
        Err(LifecycleError::Contended { path: path.clone() })
    }

    /// Gives up the versions below `to`.
    pub(crate) async fn raise_min_version(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        to: KekVersion,
        actor: &Actor,
    ) -> Result<Change, LifecycleError> {
        let (engine, path, actor) = (Arc::clone(self), account.path.clone(), Arc::clone(actor));
        self.detached(async move {
            let deed = Deed { version: Some(to), ..Deed::to_all(&actor, AuditAction::MinVersionRaised, &path) };
            let raising = async {
                let raised = engine.store.raise_min_version(&path, to).await;
                engine.invalidate(&path);
                match raised {
                    Ok(Raise::Raised) => Ok(Change::Made),
                    Ok(Raise::Stands) => Ok(Change::AlreadySo),
                    Ok(Raise::AbovePrimary) => {
                        let is_known = engine.store.head(&path).await?.is_some();
                        let unknown = KeyError::NoAccount { path: path.clone() };
                        let above = LifecycleError::AbovePrimary { path: path.clone(), asked: to };
                        Err(if is_known { above } else { unknown.into() })
                    }
                    Err(error) => {
                        let head = engine.store.head(&path).await.ok().flatten();
                        let is_raised = head.is_some_and(|head| head.tombstone.is_none() && head.min_version >= to);
                        if is_raised { Ok(Change::Made) } else { Err(error.into()) }
                    }
                }
            };
            engine.audited(&deed, raising, |change| change.outcome()).await
        })
        .await
    }

    /// Destroys one version that nothing needs any more.
    pub(crate) async fn destroy_version(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        id: KekId,
        scan: RewrapScan,
        actor: &Actor,
    ) -> Result<Change, LifecycleError> {
        let (engine, account, actor) = (Arc::clone(self), Arc::clone(account), Arc::clone(actor));
        self.detached(async move {
            let path = &account.path;
            let copy = engine.exported(path).await?;
            let deed = Deed::to_one(&actor, AuditAction::Destroyed, &found(&copy, id)?.identity);
            let destroying = async {
                let destroyed = engine.try_destroy(&account, id, scan).await;
                engine.invalidate(path);
                destroyed
            };
            engine.audited(&deed, destroying, |change| change.outcome()).await
        })
        .await
    }

    async fn try_destroy(&self, account: &AccountState, id: KekId, scan: RewrapScan) -> Result<Change, LifecycleError> {
        let path = &account.path;
        for _ in 0..CONTENTIONS {
            let copy = self.exported(path).await?;
            let old = found(&copy, id)?;
            if old.state == KekState::Destroyed {
                return Ok(Change::AlreadySo);
            }
            if copy.primary == Some(id) {
                return Err(LifecycleError::IsPrimary { path: path.clone(), kek_id: id });
            }
            let (needed_from, now) = (unused_from(account, &copy, old), self.now().real.as_secs());
            if now < needed_from {
                let wait = Duration::from_secs(needed_from - now);
                return Err(LifecycleError::TooEarly { path: path.clone(), kek_id: id, wait });
            }
            let started_at = scan.started_at;
            // One that begins in the future has not been made either.
            if !(needed_from..=now).contains(&started_at) {
                return Err(LifecycleError::ScanTooEarly { path: path.clone(), kek_id: id, started_at, needed_from });
            }
            let query = WrapperQuery::Kek { path: path.clone(), kek_id: id };
            let (children, has_more) = self.wrapped_by(&query).await?;
            if !children.is_empty() {
                return Err(LifecycleError::WrapsOthers { path: path.clone(), children, has_more });
            }
            let new = KekRecord { state: KekState::Destroyed, wraps: Vec::new(), ..old.clone() };
            if self.update(old, &new).await? {
                return Ok(Change::Made);
            }
        }
        Err(LifecycleError::Contended { path: path.clone() })
    }

    /// Some of the accounts whose KEKs this wraps, and whether there are more.
    async fn wrapped_by(&self, wrapper: &WrapperQuery) -> Result<(Vec<KeyPath>, bool), LifecycleError> {
        let mut children: Vec<KeyPath> = Vec::new();
        let mut after = None;
        loop {
            let after_ref = after.as_ref().map(|(path, id)| (path, *id));
            let page = self.store.by_wrapper(wrapper, after_ref, 8 * ShredPlan::LISTED).await?;
            let Some(last) = page.last() else { return Ok((children, false)) };
            after = Some((last.identity.path.clone(), last.identity.id));
            for record in page {
                let path = record.identity.path;
                if children.last() == Some(&path) {
                    continue;
                }
                if children.len() == ShredPlan::LISTED {
                    return Ok((children, true));
                }
                children.push(path);
            }
        }
    }

    /// What a shredding would do.
    pub(crate) async fn shred_plan(&self, path: &KeyPath) -> Result<ShredPlan, LifecycleError> {
        self.refuse_if_closed()?;
        let copy = self.store.export(path).await?;
        let copy = copy.ok_or_else(|| KeyError::NoAccount { path: path.clone() })?;
        let (children, has_more_children) = self.wrapped_by(&WrapperQuery::Path(path.clone())).await?;
        let destroyed = copy.records.iter().filter(|record| record.state == KekState::Destroyed).count();
        let keks = copy.records.len() - destroyed;
        Ok(ShredPlan { path: copy.path, keks, destroyed, children, has_more_children, tombstone: copy.tombstone })
    }

    /// Destroys all KEKs of the account and takes its path out of use.
    pub(crate) async fn shred(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        actor: &Actor,
    ) -> Result<Shredded, LifecycleError> {
        let (engine, path, actor) = (Arc::clone(self), account.path.clone(), Arc::clone(actor));
        self.detached(async move {
            let deed = Deed::to_all(&actor, AuditAction::Shredded, &path);
            let shredding = engine.try_shred(&path);
            engine.audited(&deed, shredding, |shredded| shredded.change.outcome()).await
        })
        .await
    }

    async fn try_shred(&self, path: &KeyPath) -> Result<Shredded, LifecycleError> {
        let query = WrapperQuery::Path(path.clone());
        let is_shredded = self.store.head(path).await?.is_some_and(|head| head.tombstone.is_some());
        let (children, has_more) = self.wrapped_by(&query).await?;
        if !children.is_empty() && !is_shredded {
            return Err(LifecycleError::WrapsOthers { path: path.clone(), children, has_more });
        }
        let shred = self.store.shred(path, self.now().real.as_secs()).await;
        self.invalidate(path);
        let (tombstone, change) = match shred {
            Ok(Shred::Shredded(tombstone)) => (tombstone, Change::Made),
            Ok(Shred::Already(tombstone)) => (tombstone, Change::AlreadySo),
            Ok(Shred::Unknown) => return Err(KeyError::NoAccount { path: path.clone() }.into()),
            Err(error) => match self.store.head(path).await.ok().flatten().and_then(|head| head.tombstone) {
                Some(tombstone) => (tombstone, Change::Made),
                None => return Err(error.into()),
            },
        };
        // Since they were looked for, a process that still held the KEK may have put others below. That the path is shredded
        // is true whether or not they can be listed.
        let stranded = self.wrapped_by(&query).await.map(|(stranded, _)| stranded).unwrap_or_default();
        if !stranded.is_empty() {
            tracing::error!(%path, accounts = stranded.len(), "accounts were put below a path while it was shredded");
        }
        Ok(Shredded { tombstone, change, stranded })
    }
}

/// The account's KEK of this id.
fn found(copy: &AccountCopy, id: KekId) -> Result<&KekRecord, KeyError> {
    let record = copy.records.iter().find(|record| record.identity.id == id);
    record.ok_or_else(|| KeyError::NotFound { path: copy.path.clone(), kek_id: id })
}

/// From when on, in seconds since the Unix epoch, nothing is sealed and stored under this KEK that is not the primary any
/// more: everybody has had to ask the store again, and what they were at then is over.
fn unused_from(account: &AccountState, copy: &AccountCopy, record: &KekRecord) -> u64 {
    let version = record.identity.version;
    let later = copy.records.iter().filter(|later| later.identity.version > version);
    // What is stored of its retirement is not authenticated; that of its successor has to agree.
    let successor = later.map(|later| later.created_at).min();
    let retired_at = record.retired_at.max(successor.unwrap_or_default());
    let policy = &account.policy;
    // Whoever cannot reach the store goes on under the primary that he knows until its deadline.
    let known = PRIMARY_TTL.max(policy.kek_ttl().saturating_add(policy.max_stale()));
    let under_way = LOAD_PATIENCE.max(policy.stream_ttl());
    let wait = known.saturating_add(under_way).saturating_add(CLOCK_SKEW);
    retired_at.saturating_add(wait.as_secs())
}
