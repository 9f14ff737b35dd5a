//! Whether every KEK of a store can still be had.

use std::{pin::Pin, sync::Arc};

use keystrata_primitives::{DerivedKek, KekRecord, KeyPath, RootKeyId, SecretKey, WrappedSecret, Wrapper, wrap};

use super::{Accounts, CheckEvent, Fault, Finding, KekStore, StoreError, WrappedBy, WrapperQuery};
use crate::{
    root::{Demand, RootContext, RootKey, RootKeyError},
    topology::MOST_LEVELS,
};

/// Why a KEK could not be had from one of its wraps.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unwrapping {
    /// The root key rejects or denies it.
    #[error(transparent)]
    Root(RootKeyError),
    /// The parent's KEK rejects it: another one wrapped it, or its bytes were altered.
    #[error("it was wrapped by another KEK or for another account, or its bytes were altered")]
    Parent,
    /// What came back is not the KEK that was stored.
    #[error("the secret that came back is not the one that was stored")]
    Check,
}

/// What [`unwrap_all`] tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnwrapReport {
    /// Wraps by root keys that were tried, a call each.
    pub root_wraps: u64,
    /// Wraps by other KEKs that were tried, without a call.
    pub parent_wraps: u64,
    /// Those of both that gave their KEK.
    pub unwrapped: u64,
    /// Those that did not.
    pub findings: u64,
}

/// Why the trial did not come to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnwrapAllError {
    /// The store failed, for a reason that is not one account's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The root key is out of reach, or its budget is used up. Nothing is said of the KEKs that were left.
    #[error("root key {root} could not be asked for a KEK of account {path}")]
    Root {
        /// Which.
        root: RootKeyId,
        /// For whose KEK.
        path: KeyPath,
        /// Why.
        #[source]
        source: RootKeyError,
    },
}

/// Unwraps every KEK of `store` by each of `roots` that wraps it, and every KEK below those by its parent's. Compares each with
/// its record's check, and wipes it.
///
/// One call for each wrap by a root key, one after the other, in the background of its budget:
/// [`CheckReport::root_wraps`](super::CheckReport::root_wraps) says beforehand how many. A KEK under several root keys is
/// tried by each, since each has to do alone some day. A root key that denies or rejects is a finding, and the rest goes on;
/// one that is out of reach ends it. Wraps by root keys that are not in `roots`, and accounts that cannot be read, are passed
/// over: [`check_store`](super::check_store) names them.
///
/// At most eight KEKs are in memory at a time, one below the other, and not in locked memory.
///
/// # Errors
/// [`UnwrapAllError`].
///
/// # Cancellation
/// Dropping the future ends it; a call under way may still reach the KMS.
pub async fn unwrap_all(
    store: &Arc<dyn KekStore>,
    roots: &[Arc<dyn RootKey>],
    on_event: impl FnMut(CheckEvent) + Send,
) -> Result<UnwrapReport, UnwrapAllError> {
    let mut trial = Trial { store: Arc::clone(store), report: UnwrapReport::default(), on_event };
    let mut accounts = Accounts::new(Arc::clone(store), None);
    while let Some(account) = accounts.next().await? {
        let path = match account {
            Ok(copy) => {
                for record in &copy.records {
                    trial.by_roots(record, roots).await?;
                }
                copy.path
            }
            Err(unreadable) => unreadable.path,
        };
        (trial.on_event)(CheckEvent::Account(path));
    }
    Ok(trial.report)
}

struct Trial<F> {
    store: Arc<dyn KekStore>,
    report: UnwrapReport,
    on_event: F,
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl<F: FnMut(CheckEvent) + Send> Trial<F> {
    async fn by_roots(&mut self, record: &KekRecord, roots: &[Arc<dyn RootKey>]) -> Result<(), UnwrapAllError> {
        let mut first = None;
        for WrappedSecret { wrapper, ciphertext } in &record.wraps {
            let Wrapper::Root(id) = wrapper else { continue };
            let Some(root) = roots.iter().find(|root| root.id() == id) else { continue };
            self.report.root_wraps += 1;
            let context = RootContext::of_kek(&record.identity).with_demand(Demand::background());
            let secret = match root.unwrap_key(ciphertext, &context).await {
                Err(error @ (RootKeyError::Denied { .. } | RootKeyError::Rejected)) => Err(Unwrapping::Root(error)),
                Err(source) => {
                    return Err(UnwrapAllError::Root { root: id.clone(), path: record.identity.path.clone(), source });
                }
                Ok(secret) => Ok(secret),
            };
            let derived = self.note(record, &format!("root key {id}"), secret);
            first = first.or(derived);
        }
        match first {
            Some(derived) => self.children(record, &derived, 1).await,
            None => Ok(()),
        }
    }

    /// Everything that this KEK wraps, by the store's index. Once for each KEK, however many wraps gave it.
    fn children<'a>(
        &'a mut self,
        record: &'a KekRecord,
        derived: &'a DerivedKek,
        depth: usize,
    ) -> BoxFuture<'a, Result<(), UnwrapAllError>> {
        Box::pin(async move {
            let identity = &record.identity;
            let query = WrapperQuery::Kek { path: identity.path.clone(), kek_id: identity.id };
            let mut children = WrappedBy::new(Arc::clone(&self.store), query);
            while let Some(child) = children.next().await? {
                if let Ok(child) = child {
                    self.by_parent(record, derived, &child, depth).await?;
                }
            }
            Ok(())
        })
    }

    async fn by_parent(
        &mut self,
        parent: &KekRecord,
        derived: &DerivedKek,
        child: &KekRecord,
        depth: usize,
    ) -> Result<(), UnwrapAllError> {
        let by = &parent.identity;
        let mut first = None;
        for WrappedSecret { wrapper, ciphertext } in &child.wraps {
            let is_ours = matches!(wrapper, Wrapper::Parent { path, kek_id } if *path == by.path && *kek_id == by.id);
            if !is_ours {
                continue;
            }
            self.report.parent_wraps += 1;
            let secret = wrap::unwrap_child(&derived.kek(by), &child.identity, ciphertext);
            let name = format!("KEK {} of account {}", by.id, by.path);
            let child_kek = self.note(child, &name, secret.map_err(|_| Unwrapping::Parent));
            first = first.or(child_kek);
        }
        match first {
            Some(child_kek) if depth < MOST_LEVELS => self.children(child, &child_kek, depth + 1).await,
            _ => Ok(()),
        }
    }

    /// Counts one trial, and tells of it if it failed.
    fn note(&mut self, record: &KekRecord, by: &str, secret: Result<SecretKey, Unwrapping>) -> Option<DerivedKek> {
        let identity = &record.identity;
        let derived = secret
            .map(|secret| identity.derive(&secret))
            .and_then(|derived| if derived.check == record.check { Ok(derived) } else { Err(Unwrapping::Check) });
        match derived {
            Ok(derived) => {
                self.report.unwrapped += 1;
                Some(derived)
            }
            Err(source) => {
                self.report.findings += 1;
                let fault = Fault::NotUnwrapped { by: by.to_owned(), source };
                let (path, kek_id) = (identity.path.clone(), Some(identity.id));
                (self.on_event)(CheckEvent::Finding(Finding { path, kek_id, fault }));
                None
            }
        }
    }
}
