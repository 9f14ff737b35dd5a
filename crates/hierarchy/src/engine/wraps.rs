//! KEKs under root keys: a new one under every current root, an existing one by the first that answers.

use std::sync::Arc;

use keystrata_primitives::{DerivedKek, KekIdentity, KekRecord, RootKeyId, SecretKey, WrappedSecret, Wrapper};

use super::{Engine, parents::Climb};
use crate::{
    cache::{AccountState, Authority, Epoch, How, Parentage},
    clock::Moment,
    error::{KeyError, RecordFault},
    flight::{Answer, LoadError},
    root::{Demand, GeneratedKey, RootContext, RootKey, RootKeyError},
    topology::{Placement, Roots, Way},
};

/// A KEK fresh from an unwrap, or the secret that it comes from.
pub(super) struct Unwrapped<T = DerivedKek> {
    pub(super) derived: T,
    /// When it was asked for: its life is counted from there.
    pub(super) requested_at: Moment,
    pub(super) authority: Authority,
    /// `None` if a root key unwrapped it.
    pub(super) parent: Option<Parentage>,
}

/// A new secret, and all its wraps.
pub(super) struct NewSecret {
    pub(super) secret: SecretKey,
    pub(super) wraps: Vec<WrappedSecret>,
    pub(super) requested_at: Moment,
    pub(super) authority: Authority,
    /// `None` if root keys wrapped it.
    pub(super) parent: Option<Parentage>,
}

/// A record whose KEK is wanted, and what is made of its secret, such as the [`checked`] KEK.
pub(super) struct Wanted<'a, T> {
    pub(super) record: &'a KekRecord,
    pub(super) make: fn(&KekRecord, SecretKey) -> Result<T, KeyError>,
}

impl<T> Clone for Wanted<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Wanted<'_, T> {}

impl Engine {
    pub(super) fn placement(&self, account: &AccountState) -> Placement {
        self.topology.placement(&account.path)
    }

    /// The KEK of this record, by the first accepted way that is not out of reach. No call is made for a record that
    /// names nothing that is accepted, or that is known to be corrupt.
    pub(super) async fn unwrap(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        record: &KekRecord,
        epoch: Epoch,
        demand: &Demand,
        climb: Climb,
    ) -> Answer<Unwrapped> {
        self.unwrap_wanted(account, Wanted { record, make: checked }, epoch, demand, climb).await
    }

    /// [`unwrap`](Self::unwrap), with whatever is made of the secret.
    pub(super) async fn unwrap_wanted<T>(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        wanted: Wanted<'_, T>,
        epoch: Epoch,
        demand: &Demand,
        climb: Climb,
    ) -> Answer<Unwrapped<T>> {
        let record = wanted.record;
        let placement = self.placement(account);
        self.topology.check(&account.path)?;
        let ways = placement.ways(record);
        if let Some(corrupt) = self.local.get().refusals.corruption(record, epoch, self.now()) {
            self.signals.remembered.add(1);
            return Err(corrupt.into());
        }
        let mut first_failure = None;
        for (nth, way) in ways.iter().enumerate() {
            let answer = match way {
                Way::Root { root, wrapped } => {
                    self.unwrap_by_root(account, wanted, (root, wrapped), epoch, demand).await
                }
                Way::Parent { path, kek_id, wrapped } => {
                    let by = (path, *kek_id, *wrapped);
                    self.unwrap_by_parent(account, wanted, by, epoch, demand, climb).await
                }
            };
            match answer {
                // Never after a refusal: whoever revoked a root key does not want another to stand in for it.
                Err(LoadError::Key(error)) if error.is_out_of_reach() => {
                    if let Some(next) = ways.get(nth + 1) {
                        self.signals.failover(&error);
                        tracing::warn!(
                            kek_id = %record.identity.id, %way, %next, %error,
                            "what wrapped a kek is out of reach; the next that did is asked"
                        );
                    }
                    first_failure.get_or_insert(error);
                }
                Ok(unwrapped) if nth > 0 => {
                    let authority = Authority { how: How::StandIn, ..unwrapped.authority };
                    return Ok(Unwrapped { authority, ..unwrapped });
                }
                answer => return answer,
            }
        }
        Err(first_failure.unwrap_or_else(|| not_accepted(record, placement.accepted_names(&account.path))).into())
    }

    /// One call to one root key, unless it is remembered to have denied the account.
    async fn unwrap_by_root<T>(
        &self,
        account: &Arc<AccountState>,
        wanted: Wanted<'_, T>,
        by: (&Arc<dyn RootKey>, &[u8]),
        epoch: Epoch,
        demand: &Demand,
    ) -> Answer<Unwrapped<T>> {
        self.refuse_denied(account, by.0.id(), epoch)?;
        self.call_unwrap(account, wanted, by, epoch, demand).await
    }

    /// One call to one root key.
    pub(super) async fn call_unwrap<T>(
        &self,
        account: &Arc<AccountState>,
        Wanted { record, make }: Wanted<'_, T>,
        (root, wrapped): (&Arc<dyn RootKey>, &[u8]),
        epoch: Epoch,
        demand: &Demand,
    ) -> Answer<Unwrapped<T>> {
        let identity = &record.identity;
        self.refuse_outdated(account, epoch)?;
        let context = RootContext::of_kek(identity).with_demand(demand.clone());
        let requested_at = self.now();
        let unwrapped = match root.unwrap_key(wrapped, &context).await {
            Err(RootKeyError::Withdrawn) => return Err(LoadError::Outdated),
            Err(error) => Err(KeyError::from_root(error, &identity.path, identity.id)),
            Ok(secret) => make(record, secret),
        };
        self.signals.load(&unwrapped);
        self.refuse_outdated(account, epoch)?;
        match unwrapped {
            Ok(derived) => {
                let authority = Authority::by_root(self.local.get().root_numbers.of(root.id()));
                Ok(Unwrapped { derived, requested_at, authority, parent: None })
            }
            Err(error @ KeyError::Denied(_)) => Err(self.note_denial(account, identity.id, root.id(), error, epoch)),
            Err(error) => {
                if let KeyError::Corrupt { .. } = &error {
                    self.local.get().refusals.corrupt(account, record, error.clone(), epoch, self.now());
                }
                Err(error.into())
            }
        }
    }

    /// A new secret of the KEK of this identity under every current root, generated by the first that can.
    pub(super) async fn generate_under(
        &self,
        account: &Arc<AccountState>,
        identity: &KekIdentity,
        roots: &Roots,
        epoch: Epoch,
        demand: &Demand,
    ) -> Answer<NewSecret> {
        // Before a call is paid for.
        for root in roots.wrapping() {
            self.refuse_denied(account, root.id(), epoch)?;
        }
        let context = RootContext::of_kek(identity).with_demand(demand.clone());
        let is_recovery = |root: &Arc<dyn RootKey>| roots.recovery().is_some_and(|recovery| recovery.id() == root.id());
        let mut made: Option<NewSecret> = None;
        let mut failures = Vec::new();
        for root in roots.wrapping() {
            // The recovery root comes last, and makes no key that too few others have wrapped.
            if let (true, Some((_, error))) = (is_recovery(root) && !is_enough(roots, &failures), failures.first()) {
                return Err(KeyError::clone(error).into());
            }
            self.refuse_outdated(account, epoch)?;
            let requested_at = self.now();
            let secret = made.as_ref().map(|made| &made.secret);
            let wrapped = match wrap_or_generate(root, secret, &context).await {
                Err(RootKeyError::Withdrawn) => return Err(LoadError::Outdated),
                wrapped => wrapped.map_err(|error| KeyError::from_root(error, &identity.path, identity.id)),
            };
            self.signals.load(&wrapped);
            self.refuse_outdated(account, epoch)?;
            match wrapped {
                Ok((secret, ciphertext)) => {
                    let wrap = WrappedSecret { wrapper: Wrapper::Root(root.id().clone()), ciphertext };
                    match (&mut made, secret) {
                        (Some(made), _) => made.wraps.push(wrap),
                        (None, secret) => {
                            made = secret.map(|secret| NewSecret {
                                secret,
                                wraps: vec![wrap],
                                requested_at,
                                authority: Authority::by_root(self.local.get().root_numbers.of(root.id())),
                                parent: None,
                            });
                        }
                    }
                }
                // It denies the wrapping of what another root key authorised, and takes no authorisation back.
                Err(error @ KeyError::Denied(_)) if made.is_some() => {
                    self.signals.denials.add(1);
                    self.local.get().refusals.denied(account, root.id(), error.clone(), epoch, self.now());
                    return Err(error.into());
                }
                Err(error @ KeyError::Denied(_)) => {
                    return Err(self.note_denial(account, identity.id, root.id(), error, epoch));
                }
                Err(error) if roots.at_least().is_some() && error.is_out_of_reach() => failures.push((root, error)),
                Err(error) => return Err(error.into()),
            }
        }
        enough(roots, made, &failures).inspect(|_| {
            self.signals.partial_wraps.add((!failures.is_empty()).into());
            for (root, error) in &failures {
                tracing::warn!(
                    kek_id = %identity.id, root = %root.id(), %error,
                    "a kek was made that this root key did not wrap, as its list of root keys allows"
                );
            }
        })
    }

    /// Whether this root key is remembered to have denied the account.
    pub(super) fn refuse_denied(&self, account: &AccountState, root: &RootKeyId, epoch: Epoch) -> Result<(), KeyError> {
        match self.local.get().refusals.denial(account, root, epoch, self.now()) {
            None => Ok(()),
            Some(denial) => {
                self.signals.remembered.add(1);
                Err(denial)
            }
        }
    }

    /// The account's denial, if every root key that could be asked is remembered to have denied it: no record is worth
    /// reading then.
    pub(super) fn denial(&self, account: &AccountState, epoch: Epoch) -> Option<KeyError> {
        let (placement, now) = (self.placement(account), self.now());
        if placement.parents(&account.path).next().is_some() {
            return None; // what its parent meets is remembered of that
        }
        let mut first = None;
        for root in placement.unwrapping_roots() {
            let denial = self.local.get().refusals.denial(account, root.id(), epoch, now)?;
            first.get_or_insert(denial);
        }
        if first.is_some() && self.cache().holds_recovered(&account.path, now) {
            return None; // an operator went round them
        }
        self.signals.remembered.add(first.is_some().into());
        first
    }
}

/// The secret comes back with what was generated.
pub(super) async fn wrap_or_generate(
    root: &Arc<dyn RootKey>,
    secret: Option<&SecretKey>,
    context: &RootContext,
) -> Result<(Option<SecretKey>, Vec<u8>), RootKeyError> {
    let (secret, wrapped) = if let Some(secret) = secret {
        (None, root.wrap_key(secret, context).await?)
    } else {
        let GeneratedKey { secret, wrapped } = root.generate_key(context).await?;
        (Some(secret), wrapped)
    };
    match wrapped.len() {
        1..=KekRecord::MAX_CIPHERTEXT_BYTES => Ok((secret, wrapped)),
        bytes => Err(RootKeyError::unavailable(format!(
            "{} answered with a wrapped key of {bytes} bytes; 1 to 8,192 can be stored",
            root.id()
        ))),
    }
}

/// Whether as many current roots wrapped a new KEK as must, those out of reach aside.
fn is_enough(roots: &Roots, failures: &[(&Arc<dyn RootKey>, KeyError)]) -> bool {
    let is_current = |id: &RootKeyId| roots.current_ids().any(|current| current == id);
    let failed = failures.iter().filter(|(root, _)| is_current(root.id())).count();
    let wrapped = roots.current().len() - failed;
    failures.is_empty() || roots.at_least().is_some_and(|least| wrapped >= least)
}

/// What was made, if as many current roots wrapped it as must.
fn enough(roots: &Roots, made: Option<NewSecret>, failures: &[(&Arc<dyn RootKey>, KeyError)]) -> Answer<NewSecret> {
    match (made, failures.first()) {
        (Some(made), _) if is_enough(roots, failures) => Ok(made),
        (_, Some((_, error))) => Err(error.clone().into()),
        (_, None) => Err(KeyError::Interrupted.into()), // a list holds one at least, so this cannot be
    }
}

/// The KEK that the record's secret derives to, if it is the one that was stored.
#[allow(clippy::needless_pass_by_value)] // it is used up, so it goes before the KEK is used
pub(super) fn checked(record: &KekRecord, secret: SecretKey) -> Result<DerivedKek, KeyError> {
    let identity = &record.identity;
    let derived = identity.derive(&secret);
    let is_it = derived.check == record.check;
    if is_it { Ok(derived) } else { Err(KeyError::corrupt(&identity.path, identity.id, RecordFault::CheckMismatch)) }
}

/// The record's secret itself, if it is the one that was stored: to be wrapped by another.
pub(super) fn checked_secret(record: &KekRecord, secret: SecretKey) -> Result<SecretKey, KeyError> {
    let identity = &record.identity;
    let is_it = identity.derive(&secret).check == record.check;
    if is_it { Ok(secret) } else { Err(KeyError::corrupt(&identity.path, identity.id, RecordFault::CheckMismatch)) }
}

/// The refusal of a record that names nothing that is accepted.
pub(super) fn not_accepted(record: &KekRecord, accepted: String) -> KeyError {
    let names = record.wraps.iter().map(|wrap| match &wrap.wrapper {
        Wrapper::Parent { path, .. } => format!("a KEK of {path}"),
        Wrapper::Root(root) => root.to_string(),
        _ => "something else".to_owned(),
    });
    let wrapped_by = names.collect::<Vec<_>>().join(", ");
    let path = record.identity.path.clone();
    if record.wraps.iter().any(|wrap| matches!(wrap.wrapper, Wrapper::Root(_))) {
        KeyError::WrongRoot { path, wrapped_by, accepted }
    } else {
        KeyError::WrongParent { path, wrapped_by, accepted }
    }
}
