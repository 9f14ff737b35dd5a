//! KEKs under KEKs: the parent's is got first, through the same loads as any, and then its child's costs no call.

use std::{future::Future, pin::Pin, sync::Arc};

use keystrata_primitives::{Kek, KekId, KekIdentity, KeyPath, SecretKey, WrappedSecret, Wrapper, wrap};
use tokio::runtime;

use super::{
    Engine, UsableKek,
    load::RETRY,
    wraps::{NewSecret, Unwrapped, Wanted},
};
use crate::{
    cache::{AccountState, Authority, CachedKek, Epoch, Lineage, Parentage, Warrant},
    clock::{Moment, Nanos},
    error::{KeyError, RecordFault},
    flight::{Answer, For, LoadError},
    root::{Demand, RootKeyError},
    topology::{MOST_LEVELS, PlacementFault},
};

/// How often a parent's KEK that was got and then overwritten before it could be used is got again from the cache. After
/// that the load gets one of its own.
const CACHED_TRIES: usize = 2;

/// How the KEKs above one are got.
#[derive(Clone, Copy, Debug)]
pub(super) struct Climb {
    from: From,
    /// How many loads wait for this one, each for the next, since the first that nobody's load waits for.
    depth: usize,
}

#[derive(Clone, Copy, Debug)]
enum From {
    /// The cache, and into it.
    Cache,
    /// The same, and renewed unless its time reaches beyond that.
    Renewed { beyond: Nanos },
    /// A call, for one operation alone.
    Call,
}

impl Climb {
    /// For a KEK that goes into the cache.
    pub(super) const CACHED: Self = Self { from: From::Cache, depth: 0 };
    /// For a KEK that no cache sees.
    pub(super) const ONCE: Self = Self { from: From::Call, depth: 0 };

    /// For a KEK that is to be renewed ahead of this deadline.
    pub(super) fn renewed(beyond: Nanos) -> Self {
        Self { from: From::Renewed { beyond }, depth: 0 }
    }

    fn next(self) -> Self {
        Self { depth: self.depth + 1, ..self }
    }

    /// Whether a KEK in the cache will do for the load that asks for it.
    pub(super) fn finds(self, kek: &CachedKek, now: Moment) -> bool {
        self.depth == 0 || self.suits(kek, now)
    }

    /// Whether a parent's KEK in the cache will do.
    fn suits(self, parent: &CachedKek, now: Moment) -> bool {
        let reaches_beyond = match self.from {
            From::Renewed { beyond } => parent.deadline().boot > beyond.boot && parent.deadline().real > beyond.real,
            From::Cache | From::Call => true,
        };
        !parent.is_stale(now) && reaches_beyond
    }
}

/// What waits for a parent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Load {
    Primary(KeyPath, runtime::Id),
    Kek(KeyPath, KekId, runtime::Id),
}

/// A parent's KEK to wrap or unwrap with.
struct Parent {
    path: KeyPath,
    kek: UsableKek,
    /// Taken before the KEK was looked for.
    warrant: Arc<Warrant>,
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl Engine {
    /// The KEK of this record by the parent's KEK that it names. No call of its own.
    pub(super) async fn unwrap_by_parent<T>(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        Wanted { record, make }: Wanted<'_, T>,
        (path, kek_id, wrapped): (&KeyPath, KekId, &[u8]),
        epoch: Epoch,
        demand: &Demand,
        climb: Climb,
    ) -> Answer<Unwrapped<T>> {
        let identity = &record.identity;
        let unwrap = |kek: &Kek<'_>| wrap::unwrap_child(kek, identity, wrapped);
        let (parentage, requested_at, secret) =
            self.with_parent(account, Which::Kek(identity.id, path, kek_id), demand, climb, unwrap).await?;
        let rejected = |_| KeyError::corrupt(&identity.path, identity.id, RecordFault::ParentRejects);
        let derived = secret.map_err(rejected).and_then(|secret| make(record, secret));
        self.signals.child_load(&derived);
        self.refuse_outdated(account, epoch)?;
        match derived {
            Ok(derived) => {
                let authority = Authority::by_parent(parentage.root);
                Ok(Unwrapped { derived, requested_at, authority, parent: Some(parentage) })
            }
            Err(error) => {
                self.local.get().refusals.corrupt(account, record, error.clone(), epoch, self.now());
                Err(error.into())
            }
        }
    }

    /// A new secret of the KEK of this identity under the primary of `parent`, which is made if there is none.
    pub(super) async fn generate_under_parent(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        identity: &KekIdentity,
        parent: &KeyPath,
        epoch: Epoch,
        demand: &Demand,
        climb: Climb,
    ) -> Answer<NewSecret> {
        let secret = SecretKey::generate().map_err(KeyError::from)?;
        let (wrap, parentage, requested_at) =
            self.wrap_under_parent(account, identity, &secret, parent, (epoch, climb), demand).await?;
        let authority = Authority::by_parent(parentage.root);
        Ok(NewSecret { secret, wraps: vec![wrap], requested_at, authority, parent: Some(parentage) })
    }

    /// The secret of the KEK of this identity under the primary of `parent`.
    pub(super) async fn wrap_under_parent(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        identity: &KekIdentity,
        secret: &SecretKey,
        parent: &KeyPath,
        (epoch, climb): (Epoch, Climb),
        demand: &Demand,
    ) -> Answer<(WrappedSecret, Parentage, Moment)> {
        let wrap = |kek: &Kek<'_>| (kek.identity().id, wrap::wrap_child(kek, identity, secret));
        let (parentage, requested_at, (kek_id, wrapped)) =
            self.with_parent(account, Which::Primary(parent), demand, climb, wrap).await?;
        let wrapped = wrapped.map_err(KeyError::from);
        self.signals.child_load(&wrapped);
        self.refuse_outdated(account, epoch)?;
        let (path, ciphertext) = (parent.clone(), wrapped?.to_vec());
        self.note_seal(&self.account(parent), kek_id, SecretKey::LEN);
        Ok((WrappedSecret { wrapper: Wrapper::Parent { path, kek_id }, ciphertext }, parentage, requested_at))
    }

    /// Runs `f` with the parent's KEK; what it gives comes with what the child may have, and since when that counts.
    async fn with_parent<T>(
        self: &Arc<Self>,
        child: &Arc<AccountState>,
        which: Which<'_>,
        demand: &Demand,
        climb: Climb,
        f: impl Fn(&Kek<'_>) -> T,
    ) -> Answer<(Parentage, Moment, T)> {
        if climb.depth + 1 >= MOST_LEVELS {
            return Err(which.refusal(child, PlacementFault::TooDeep, RecordFault::TooDeep).into());
        }
        for attempt in 0..=CACHED_TRIES {
            let climb = if attempt == CACHED_TRIES { Climb { from: From::Call, ..climb } } else { climb };
            let parent = self.parent(child, which, demand, climb).await;
            let parent = parent.map_err(|error| error.of_parent(&child.path, which.path()))?;
            let requested_at = self.now();
            if let Some(done) = parent.kek.with_key(requested_at, &f) {
                return Ok((self.parentage(&parent), requested_at, done));
            }
        }
        Err(KeyError::Late { ttl: self.account(which.path()).policy.kek_ttl() }.into())
    }

    fn parentage(&self, parent: &Parent) -> Parentage {
        let lineage = |above: Option<&Arc<Lineage>>| {
            self.cache().lineage(&parent.path, &parent.warrant, above.map(|above| &**above))
        };
        match &parent.kek {
            UsableKek::Cached(kek) => kek.parentage(lineage(kek.lineage())),
            UsableKek::Once(kek) => kek.parentage(lineage(kek.lineage())),
        }
    }

    /// A parent's KEK. Boxed: it is got by a load like the one that asks.
    fn parent<'a>(
        self: &'a Arc<Self>,
        child: &'a Arc<AccountState>,
        which: Which<'a>,
        demand: &'a Demand,
        climb: Climb,
    ) -> BoxFuture<'a, Answer<Parent>> {
        Box::pin(async move {
            let parent = self.account(which.path());
            let runtime = self.runtime()?;
            let (waiter, other) = which.loads(&child.path, runtime.id());
            let waits = &self.local.get().waits;
            let _waits = waits.begin(waiter, other).ok_or_else(|| {
                let through = parent.path.clone();
                which.refusal(child, PlacementFault::Cycle { through }, RecordFault::Circle)
            })?;
            self.refuse_if_closed()?;
            let warrant = self.cache().warrant(&parent.path);
            let epoch = self.cache().epoch(&parent);
            if let Some(denial) = self.denial(&parent, epoch) {
                return Err(denial.into());
            }
            if matches!(climb.from, From::Call) || !self.caches(&parent) {
                let climb = Climb { from: From::Call, ..climb.next() };
                let kek = self.parent_once(&runtime, &parent, which.id(), epoch, demand, climb).await?;
                return Ok(Parent { path: parent.path.clone(), kek: UsableKek::Once(kek), warrant });
            }
            // If it was invalidated meanwhile, whoever waits for the child begins anew.
            let kek = match which {
                Which::Kek(_, _, id) => self.parent_kek(&runtime, &parent, id, epoch, demand, climb).await?,
                Which::Primary(_) => self.parent_primary(&runtime, &parent, epoch, demand, climb).await?,
            };
            let now = self.now();
            if kek.is_stale(now) {
                // Somebody uses it beyond its deadline, as its policy allows. It vouches for nothing below.
                return Err(past_its_time(&parent.path).into());
            }
            kek.note_use();
            if kek.is_due_for_refresh(now) {
                self.refresh(&parent, &kek);
            }
            Ok(Parent { path: parent.path.clone(), kek: UsableKek::Cached(kek), warrant })
        })
    }

    /// The parent's KEK of this id.
    async fn parent_kek(
        self: &Arc<Self>,
        runtime: &runtime::Handle,
        parent: &Arc<AccountState>,
        id: KekId,
        epoch: Epoch,
        demand: &Demand,
        climb: Climb,
    ) -> Answer<Arc<CachedKek>> {
        if let Some(absence) = self.absence(parent, id, epoch) {
            return Err(absence.into());
        }
        let now = self.now();
        let here = self.cache().get(&parent.path, id, now);
        if let Some(here) = here {
            if climb.suits(&here, now) {
                return Ok(here);
            }
            // As for any KEK, one attempt a second to renew it, whichever of those below asks.
            let loads = &self.local.get().kek_loads;
            let is_under_way = loads.began(runtime, (parent.path.clone(), id, epoch)).is_some();
            if !here.is_stale(now) && !is_under_way && !here.claim_refresh(now, RETRY) {
                return Err(LoadError::Outdated);
            }
        }
        self.load_kek_shared(runtime, parent, (id, None), epoch, For::Load(demand), climb.next()).await
    }

    /// The parent's primary, which is made if there is none.
    async fn parent_primary(
        self: &Arc<Self>,
        runtime: &runtime::Handle,
        parent: &Arc<AccountState>,
        epoch: Epoch,
        demand: &Demand,
        climb: Climb,
    ) -> Answer<Arc<CachedKek>> {
        let now = self.now();
        let at_hand = parent.last_primary().filter(|kek| parent.is_primary_believed(now) && kek.is_live(now));
        if let Some(kek) = at_hand.filter(|kek| climb.suits(kek, now)) {
            if !parent.is_primary_fresh(now) {
                self.renew_primary(parent);
            }
            return Ok(kek);
        }
        let (key, window) = ((parent.path.clone(), epoch), self.load_window(&parent.policy));
        let load = |demand| self.primary_load(parent, epoch, demand, climb.next());
        let primary_loads = &self.local.get().primary_loads;
        let (was_under_way, answer) = primary_loads.join(runtime, window, key, For::Load(demand), load).await;
        self.signals.shared_waits.add(was_under_way.into());
        answer
    }

    /// Whether the account's KEKs are cached at all: not if one above them is not, as the topology says now.
    pub(super) fn caches(&self, account: &AccountState) -> bool {
        let is_above_uncached =
            || self.topology.any_above(&account.path, |above| self.chosen_policy(above).caches_nothing());
        !account.policy.caches_nothing() && !is_above_uncached()
    }
}

fn past_its_time(parent: &KeyPath) -> KeyError {
    let message = format!("the KEK of {parent} is past its time and could not be renewed");
    KeyError::RootUnavailable(RootKeyError::unavailable(message))
}

/// Which of a parent's KEKs.
#[derive(Clone, Copy)]
enum Which<'a> {
    /// The one of this id, to unwrap the child of the first id.
    Kek(KekId, &'a KeyPath, KekId),
    Primary(&'a KeyPath),
}

impl<'a> Which<'a> {
    fn path(self) -> &'a KeyPath {
        match self {
            Self::Kek(_, path, _) | Self::Primary(path) => path,
        }
    }

    /// Of the parent's; `None` for its primary.
    fn id(self) -> Option<KekId> {
        match self {
            Self::Kek(_, _, id) => Some(id),
            Self::Primary(_) => None,
        }
    }

    /// What is wrong with the way up: the topology says where a new KEK goes, a record who wrapped an old one.
    fn refusal(self, child: &AccountState, fault: PlacementFault, of_record: RecordFault) -> KeyError {
        match self {
            Self::Kek(of_child, _, _) => KeyError::corrupt(&child.path, of_child, of_record),
            Self::Primary(_) => KeyError::Misplaced { path: child.path.clone(), fault },
        }
    }

    /// The child's load, and the one that it waits for.
    fn loads(self, child: &KeyPath, runtime: runtime::Id) -> (Load, Load) {
        let (child, parent) = (child.clone(), self.path().clone());
        match self {
            Self::Kek(of_child, _, id) => (Load::Kek(child, of_child, runtime), Load::Kek(parent, id, runtime)),
            Self::Primary(_) => (Load::Primary(child, runtime), Load::Primary(parent, runtime)),
        }
    }
}
