//! Bringing the wraps of an account's KEKs to what its placement asks for now.
//!
//! A wrap is added beside those that are there, by compare-and-set of the whole record, so at no moment does a KEK have
//! fewer ways to be unwrapped than before; only a step of its own drops any. What is done is seen in the records, so
//! whatever was interrupted is gone on with by asking again, and what is done already costs no call.

use std::sync::Arc;

use keystrata_primitives::{KekRecord, KekState, RootKeyId, SecretKey, WrappedSecret, Wrapper};

use super::{
    Engine,
    audited::{Actor, Deed},
    load::TRIES,
    parents::Climb,
    states::CONTENTIONS,
    wraps::{Wanted, checked_secret, wrap_or_generate},
};
use crate::{
    audit::{AuditAction, AuditOutcome},
    cache::AccountState,
    error::KeyError,
    flight::{Answer, LoadError, unless_outdated},
    lifecycle::{LifecycleError, Reroot, Rerooted},
    root::{Demand, RootContext, RootKey, RootKeyError},
    store::AccountCopy,
    topology::{Placement, Way, Wrapping},
};

/// What is to wrap the KEKs of one account.
struct Aim {
    placement: Placement,
    wrappers: Vec<Wrapper>,
}

impl Aim {
    fn root(&self, id: &RootKeyId) -> Option<&Arc<dyn RootKey>> {
        match self.placement.now() {
            Wrapping::Roots(roots) => roots.wrapping().find(|root| root.id() == id),
            Wrapping::Parent | Wrapping::Group(_) => None,
        }
    }

    fn is_recovery(&self, id: &RootKeyId) -> bool {
        match self.placement.now() {
            Wrapping::Roots(roots) => roots.recovery().is_some_and(|root| root.id() == id),
            Wrapping::Parent | Wrapping::Group(_) => false,
        }
    }

    fn lacking(&self, record: &KekRecord) -> Vec<&Wrapper> {
        let is_there = |wrapper: &Wrapper| record.wraps.iter().any(|wrap| wrap.wrapper == *wrapper);
        self.wrappers.iter().filter(|wrapper| !is_there(wrapper)).collect()
    }

    fn to_drop(&self, record: &KekRecord) -> usize {
        record.wraps.iter().filter(|wrap| !self.wrappers.contains(&wrap.wrapper)).count()
    }

    /// Whether `step` has anything to do with this record.
    fn is_open(&self, record: &KekRecord, step: Reroot) -> bool {
        record.state != KekState::Destroyed
            && match step {
                Reroot::Add => !self.lacking(record).is_empty(),
                Reroot::Retire | Reroot::VerifyAndRetire => self.to_drop(record) > 0,
            }
    }
}

impl Engine {
    /// Does `step` for all KEKs of the account.
    pub(crate) async fn reroot(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        step: Reroot,
        actor: &Actor,
    ) -> Result<Rerooted, LifecycleError> {
        let (engine, account, actor) = (Arc::clone(self), Arc::clone(account), Arc::clone(actor));
        self.detached(async move { engine.reroot_with(&account, step, &Demand::foreground(), &actor).await }).await
    }

    /// [`reroot`](Self::reroot) behind whatever somebody waits for.
    pub(crate) async fn reroot_behind(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        step: Reroot,
        actor: &Actor,
    ) -> Result<Rerooted, LifecycleError> {
        let (engine, account, actor) = (Arc::clone(self), Arc::clone(account), Arc::clone(actor));
        self.detached(async move { engine.reroot_with(&account, step, &Demand::background(), &actor).await }).await
    }

    /// What [`reroot`](Self::reroot) would do. No call, and nothing is written.
    pub(crate) async fn reroot_plan(
        &self,
        account: &Arc<AccountState>,
        step: Reroot,
    ) -> Result<Rerooted, LifecycleError> {
        self.refuse_if_closed()?;
        let copy = self.exported(&account.path).await?;
        let aim = self.aim(account).await?;
        let mut plan = looked_at(&copy);
        for record in copy.records.iter().filter(|record| aim.is_open(record, step)) {
            plan.changed += 1;
            match step {
                Reroot::Add => plan.added += aim.lacking(record).len(),
                Reroot::Retire | Reroot::VerifyAndRetire => {
                    refuse_if_lacking(&aim, record)?;
                    plan.dropped += aim.to_drop(record);
                }
            }
        }
        Ok(plan)
    }

    /// Nothing is told to the audit sink of an account that is as it is to be.
    pub(super) async fn reroot_with(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        step: Reroot,
        demand: &Demand,
        actor: &Actor,
    ) -> Result<Rerooted, LifecycleError> {
        let copy = self.exported(&account.path).await?;
        let aim = self.aim(account).await?;
        if !copy.records.iter().any(|record| aim.is_open(record, step)) {
            return Ok(looked_at(&copy));
        }
        let deed = Deed::to_all(actor, AuditAction::Rerooted, &account.path);
        let became = |done: &Rerooted| if done.changed > 0 { AuditOutcome::Done } else { AuditOutcome::Unchanged };
        let rerooting = async {
            let (mut done, mut failure) = (looked_at(&copy), None);
            for record in copy.records {
                // One that cannot be had keeps none of the others from it. While the KMS or the store is away none can.
                match self.reroot_kek(account, &aim, record, step, demand, &mut done).await {
                    Err(LifecycleError::Key(error)) if error.is_out_of_reach() => return Err(error.into()),
                    rerooted => failure = failure.or(rerooted.err()),
                }
            }
            failure.map_or(Ok(done), Err)
        };
        self.audited(&deed, rerooting, became).await
    }

    /// What the placement asks for now.
    async fn aim(&self, account: &AccountState) -> Result<Aim, LifecycleError> {
        let path = &account.path;
        self.topology.check(path)?;
        let placement = self.placement(account);
        let parent = match placement.now() {
            Wrapping::Roots(roots) => {
                let wrappers = roots.wrapping().map(|root| Wrapper::Root(root.id().clone())).collect();
                return Ok(Aim { placement, wrappers });
            }
            below => below.parent(path).map_err(|fault| KeyError::Misplaced { path: path.clone(), fault })?,
        };
        let parent = parent.expect("no root key wraps it");
        let above = self.account(&parent);
        let now = self.now();
        // The one that would wrap: the primary at hand, or else what the store says.
        let at_hand = above.last_primary().filter(|kek| above.is_primary_believed(now) && kek.is_live(now));
        let kek_id = if let Some(kek) = at_hand {
            Some(kek.id())
        } else {
            let stored = self.stored_primary(&above).await.map_err(|error| error.of_parent(path, &parent))?;
            stored.map(|record| record.identity.id)
        };
        // Of a parent that has no KEK yet none has wrapped anything; this id is of no KEK.
        let kek_id = kek_id.unwrap_or(keystrata_primitives::KekId::from_bytes([0; 16]));
        Ok(Aim { placement, wrappers: vec![Wrapper::Parent { path: parent, kek_id }] })
    }

    async fn reroot_kek(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        aim: &Aim,
        mut record: KekRecord,
        step: Reroot,
        demand: &Demand,
        done: &mut Rerooted,
    ) -> Result<(), LifecycleError> {
        let id = record.identity.id;
        let mut made: Vec<WrappedSecret> = Vec::new();
        for _ in 0..CONTENTIONS {
            if !aim.is_open(&record, step) {
                return Ok(());
            }
            let (new, failure) = match step {
                Reroot::Add => {
                    let failure = self.make_wraps(account, aim, &record, demand, &mut made).await.err();
                    // What was paid for is kept, though another wrap failed.
                    (with_wraps(&record, &made)?, failure)
                }
                Reroot::Retire | Reroot::VerifyAndRetire => {
                    refuse_if_lacking(aim, &record)?;
                    let mut new = record.clone();
                    new.wraps.retain(|wrap| aim.wrappers.contains(&wrap.wrapper));
                    if step == Reroot::VerifyAndRetire {
                        self.verify(account, aim, &new, demand).await?;
                    }
                    (new, None)
                }
            };
            let is_stored = new.wraps == record.wraps || self.update(&record, &new).await?;
            if is_stored && new.wraps != record.wraps {
                done.changed += 1;
                done.added += new.wraps.iter().filter(|wrap| !record.wraps.contains(wrap)).count();
                done.dropped += record.wraps.iter().filter(|wrap| !new.wraps.contains(wrap)).count();
                tracing::debug!(kek_id = %id, "kek rerooted");
            }
            match failure {
                Some(error) => return Err(error),
                None if is_stored => return Ok(()),
                None => {}
            }
            let copy = self.exported(&account.path).await?;
            let current = copy.records.into_iter().find(|current| current.identity.id == id);
            record = current.ok_or_else(|| KeyError::NotFound { path: account.path.clone(), kek_id: id })?;
        }
        Err(LifecycleError::Contended { path: account.path.clone() })
    }

    /// Makes the wraps that the record lacks and that are not made yet.
    async fn make_wraps(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        aim: &Aim,
        record: &KekRecord,
        demand: &Demand,
        made: &mut Vec<WrappedSecret>,
    ) -> Result<(), LifecycleError> {
        let lacking = aim.lacking(record);
        let path_of = |wrapper: &Wrapper| match wrapper {
            Wrapper::Parent { path, .. } => Some(path.clone()),
            _ => None,
        };
        let mut secret = None;
        for wrapper in lacking {
            // A parent may have got another primary since its KEK was looked for.
            let is_made = |made: &WrappedSecret| {
                made.wrapper == *wrapper || path_of(wrapper).is_some_and(|path| path_of(&made.wrapper) == Some(path))
            };
            if made.iter().any(is_made) {
                continue;
            }
            with_wraps(record, &[made.clone(), vec![placeholder(wrapper)]].concat())?; // before a call is paid for
            for attempt in 1.. {
                let wrap = self.make_wrap(account, aim, record, wrapper, &mut secret, demand).await;
                if let Some(wrap) = unless_outdated(wrap)? {
                    made.push(wrap);
                    break;
                }
                if attempt == TRIES {
                    return Err(KeyError::Interrupted.into());
                }
            }
        }
        Ok(())
    }

    /// One wrap: by the KMS alone where it can, else of the secret, which is unwrapped if it is not yet.
    async fn make_wrap(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        aim: &Aim,
        record: &KekRecord,
        wrapper: &Wrapper,
        secret: &mut Option<SecretKey>,
        demand: &Demand,
    ) -> Answer<WrappedSecret> {
        let (identity, epoch) = (&record.identity, self.cache().epoch(account));
        let root = match wrapper {
            Wrapper::Root(id) => Some(aim.root(id).ok_or(LoadError::Outdated)?),
            _ => None,
        };
        if let (Some(root), None) = (root, &secret)
            && let Some(ciphertext) = self.rewrap_by_root(account, &aim.placement, record, root, demand).await?
        {
            return Ok(WrappedSecret { wrapper: wrapper.clone(), ciphertext });
        }
        let secret = if let Some(secret) = secret {
            &*secret
        } else {
            let wanted = Wanted { record, make: checked_secret };
            let unwrapped = self.unwrap_wanted(account, wanted, epoch, demand, Climb::CACHED).await?;
            &*secret.insert(unwrapped.derived)
        };
        match (root, wrapper) {
            (Some(root), _) => {
                let context = RootContext::of_kek(identity).with_demand(demand.clone());
                let answer = wrap_or_generate(root, Some(secret), &context).await;
                // A denial here is one of what shall be, not of what is: nothing that works is overwritten for it.
                let (_, ciphertext) = self.called(account, record, answer)?;
                Ok(WrappedSecret { wrapper: wrapper.clone(), ciphertext })
            }
            (None, Wrapper::Parent { path, .. }) => {
                let climb = (epoch, Climb::CACHED);
                let (wrap, ..) = self.wrap_under_parent(account, identity, secret, path, climb, demand).await?;
                Ok(wrap)
            }
            (None, _) => Err(LoadError::Outdated),
        }
    }

    /// What `root` makes of another root key's wrap without the secret leaving the KMS; `None` if it cannot.
    async fn rewrap_by_root(
        &self,
        account: &Arc<AccountState>,
        placement: &Placement,
        record: &KekRecord,
        root: &Arc<dyn RootKey>,
        demand: &Demand,
    ) -> Answer<Option<Vec<u8>>> {
        let context = RootContext::of_kek(&record.identity).with_demand(demand.clone());
        let ways = placement.ways(record);
        for way in &ways {
            let Way::Root { root: from, wrapped } = way else { continue };
            self.refuse_denied(account, from.id(), self.cache().epoch(account))?;
            match root.rewrap_key(from.id(), wrapped, &context).await {
                Ok(None) => {}
                Ok(Some(ciphertext)) if !(1..=KekRecord::MAX_CIPHERTEXT_BYTES).contains(&ciphertext.len()) => {
                    let bytes = ciphertext.len();
                    let message = format!("{} answered with a wrapped key of {bytes} bytes", root.id());
                    return self.called(account, record, Err(RootKeyError::unavailable(message)));
                }
                answer => match self.called(account, record, answer) {
                    // There is another way to the secret than by that root key, as for any unwrap.
                    Err(LoadError::Key(error)) if error.is_out_of_reach() && ways.len() > 1 => {}
                    answer => return answer,
                },
            }
        }
        Ok(None)
    }

    /// Counts and sorts a root key's answer.
    fn called<T>(&self, account: &AccountState, record: &KekRecord, answer: Result<T, RootKeyError>) -> Answer<T> {
        let answer = match answer {
            Err(RootKeyError::Withdrawn) => return Err(LoadError::Outdated),
            answer => answer.map_err(|error| KeyError::from_root(error, &account.path, record.identity.id)),
        };
        self.signals.load(&answer);
        Ok(answer?)
    }

    /// Unwraps each wrap of the record, and finds that KEK. Not by a recovery root, which only an operator may ask.
    async fn verify(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        aim: &Aim,
        record: &KekRecord,
        demand: &Demand,
    ) -> Result<(), LifecycleError> {
        for wrap in &record.wraps {
            if matches!(&wrap.wrapper, Wrapper::Root(id) if aim.is_recovery(id)) {
                continue;
            }
            let alone = KekRecord { wraps: vec![wrap.clone()], ..record.clone() };
            for attempt in 1.. {
                let (wanted, epoch) = (Wanted { record: &alone, make: checked_secret }, self.cache().epoch(account));
                let unwrapped = self.unwrap_wanted(account, wanted, epoch, demand, Climb::CACHED).await;
                if unless_outdated(unwrapped)?.is_some() {
                    break;
                }
                if attempt == TRIES {
                    return Err(KeyError::Interrupted.into());
                }
            }
        }
        Ok(())
    }
}

fn looked_at(copy: &AccountCopy) -> Rerooted {
    let keks = copy.records.iter().filter(|record| record.state != KekState::Destroyed).count();
    Rerooted { keks, ..Rerooted::default() }
}

fn refuse_if_lacking(aim: &Aim, record: &KekRecord) -> Result<(), LifecycleError> {
    let Some(lacking) = aim.lacking(record).first().copied() else { return Ok(()) };
    let lacks = match lacking {
        Wrapper::Root(id) => id.to_string(),
        Wrapper::Parent { path, .. } => format!("the primary KEK of {path}"),
        _ => "something else".to_owned(),
    };
    let (path, kek_id) = (record.identity.path.clone(), record.identity.id);
    Err(LifecycleError::NotAdded { path, kek_id, lacks })
}

fn placeholder(wrapper: &Wrapper) -> WrappedSecret {
    WrappedSecret { wrapper: wrapper.clone(), ciphertext: Vec::new() }
}

/// The record with these wraps before its own: of two by one parent the first is tried. Where there is no room for all, an
/// older KEK of the same parent gives way.
fn with_wraps(record: &KekRecord, made: &[WrappedSecret]) -> Result<KekRecord, LifecycleError> {
    let is_new = |wrap: &&WrappedSecret| record.wraps.iter().all(|old| old.wrapper != wrap.wrapper);
    let new: Vec<_> = made.iter().filter(is_new).cloned().collect();
    let mut wraps = [new.clone(), record.wraps.clone()].concat();
    while wraps.len() > KekRecord::MAX_WRAPS {
        let is_older = |wrap: &WrappedSecret| match &wrap.wrapper {
            Wrapper::Parent { path, .. } => {
                new.iter().any(|new| matches!(&new.wrapper, Wrapper::Parent { path: by, .. } if by == path))
            }
            _ => false,
        };
        let oldest = wraps.iter().skip(new.len()).rposition(is_older).ok_or_else(|| LifecycleError::TooManyWraps {
            path: record.identity.path.clone(),
            kek_id: record.identity.id,
        })?;
        wraps.remove(new.len() + oldest);
    }
    Ok(KekRecord { wraps, ..record.clone() })
}
