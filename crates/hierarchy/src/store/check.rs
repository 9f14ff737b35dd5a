//! What is wrong in a store, as far as it shows without any key.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use keystrata_primitives::{KekId, KekRecord, KekState, KekVersion, KeyPath, RootKeyId, Wrapper};

use super::{AccountCopy, Accounts, KekStore, StoreError, Unreadable, unwrap_all::Unwrapping};

/// Parents whose KEKs are remembered, so that a thousand services do not read their account a thousand times.
const PARENTS: usize = 1024;

/// What a check tells while it runs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CheckEvent {
    /// One more account was looked at.
    Account(KeyPath),
    /// Something is wrong.
    Finding(Finding),
}

/// Something that is wrong with an account.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Finding {
    /// Whose it is.
    pub path: KeyPath,
    /// With which KEK, if it is one.
    pub kek_id: Option<KekId>,
    /// What it is.
    pub fault: Fault,
}

/// What is wrong, and what it means.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A record does not parse, or is not the one that its place says.
    #[error("its records cannot be read")]
    Unreadable(#[source] StoreError),
    /// A live path without a primary: nothing new can be sealed for it.
    #[error("it has {keks} KEK(s) and no primary, so nothing new can be sealed for it")]
    NoPrimary {
        /// How many KEKs it has.
        keks: usize,
    },
    /// The primary is in a state that no primary has.
    #[error("its primary is {state}")]
    PrimaryState {
        /// The state.
        state: KekState,
    },
    /// A record calls itself the primary beside the one that is.
    #[error("this KEK is in state primary and is not the account's primary")]
    SecondPrimary,
    /// The primary is older than another version: something rolled it back.
    #[error("its primary is version {primary}, and it has a version {newest}: the store was rolled back in part")]
    OldPrimary {
        /// The primary's version.
        primary: KekVersion,
        /// The newest that there is.
        newest: KekVersion,
    },
    /// The primary is under the floor, so nothing can be sealed.
    #[error("its primary is version {primary}, and versions below {min_version} are given up")]
    PrimaryBelowMinVersion {
        /// The primary's version.
        primary: KekVersion,
        /// The lowest that is used.
        min_version: KekVersion,
    },
    /// A record of another account lies here.
    #[error("this KEK's record belongs to account {of}")]
    ForeignRecord {
        /// Whose it is.
        of: KeyPath,
    },
    /// Two records have one version, or the store gives them out of order.
    #[error("version {version} of its KEKs comes twice or out of order")]
    VersionOrder {
        /// The version that is out of place.
        version: KekVersion,
    },
    /// Two records have one KEK id.
    #[error("this KEK id comes twice")]
    IdTwice,
    /// Nobody configured the root key that wraps it.
    #[error("this KEK is wrapped by {root}, which is not among the root keys given")]
    UnknownRoot {
        /// The root key.
        root: RootKeyId,
    },
    /// The KEK that wraps it has no record.
    #[error("this KEK is wrapped by KEK {parent_kek} of account {parent}, which is not there")]
    MissingParent {
        /// Whose KEK it was.
        parent: KeyPath,
        /// Which.
        parent_kek: KekId,
    },
    /// The KEK that wraps it was destroyed.
    #[error("this KEK is wrapped by KEK {parent_kek} of account {parent}, which was destroyed")]
    DestroyedParent {
        /// Whose KEK it was.
        parent: KeyPath,
        /// Which.
        parent_kek: KekId,
    },
    /// A shredded path has a KEK that was not destroyed: a record was put back.
    #[error("it was shredded, and this KEK is {state} again")]
    NotShredded {
        /// The state.
        state: KekState,
    },
    /// What wraps it does not give its secret back. Only [`unwrap_all`](super::unwrap_all()) finds this.
    #[error("{by} did not unwrap this KEK")]
    NotUnwrapped {
        /// What wraps it.
        by: String,
        /// Why not.
        #[source]
        source: Unwrapping,
    },
}

impl Fault {
    /// One word for the kind, which stays the same from release to release: for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable",
            Self::NoPrimary { .. } => "no-primary",
            Self::PrimaryState { .. } => "primary-state",
            Self::SecondPrimary => "second-primary",
            Self::OldPrimary { .. } => "old-primary",
            Self::PrimaryBelowMinVersion { .. } => "primary-below-min-version",
            Self::ForeignRecord { .. } => "foreign-record",
            Self::VersionOrder { .. } => "version-order",
            Self::IdTwice => "id-twice",
            Self::UnknownRoot { .. } => "unknown-root",
            Self::MissingParent { .. } => "missing-parent",
            Self::DestroyedParent { .. } => "destroyed-parent",
            Self::NotShredded { .. } => "not-shredded",
            Self::NotUnwrapped { .. } => "not-unwrapped",
        }
    }
}

/// What a check looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// Accounts, unreadable and shredded ones included.
    pub accounts: u64,
    /// Those of them that are shredded.
    pub shredded: u64,
    /// KEK records.
    pub keks: u64,
    /// Wraps of KEKs by root keys that were given, or by any if none were: the calls that
    /// [`unwrap_all`](super::unwrap_all()) makes.
    pub root_wraps: u64,
    /// Wraps of KEKs by other KEKs.
    pub parent_wraps: u64,
    /// What is wrong.
    pub findings: u64,
}

/// Looks at every account of `store` and tells what is wrong with it. Reads only, asks no root key, and needs none.
///
/// With `roots`, a wrap by any other root key is a finding; without, every root key will do. Each account is judged as of
/// one moment, so a store may be in use meanwhile. Memory does not grow with the number of accounts.
///
/// A store with a check of its own, such as the database files of `SqliteKekStore`, gives some faults as
/// [`Fault::Unreadable`], with the reason as the source.
///
/// # Errors
/// [`StoreError`], if the store fails for a reason that is not one account's; what was found until then was told.
///
/// # Cancellation
/// Dropping the future ends the check.
pub async fn check_store(
    store: &Arc<dyn KekStore>,
    roots: Option<&[RootKeyId]>,
    on_event: impl FnMut(CheckEvent),
) -> Result<CheckReport, StoreError> {
    let roots = roots.map(|roots| roots.iter().collect());
    let parents = Parents { store: Arc::clone(store), known: HashMap::new() };
    let mut check = Check { roots, parents, report: CheckReport::default(), on_event };
    let mut accounts = Accounts::new(Arc::clone(store), None);
    while let Some(account) = accounts.next().await? {
        check.report.accounts += 1;
        let path = match account {
            Ok(copy) => {
                check.account(&copy).await?;
                copy.path
            }
            Err(Unreadable { path, error }) => {
                check.find(&path, None, Fault::Unreadable(error));
                path
            }
        };
        (check.on_event)(CheckEvent::Account(path));
    }
    Ok(check.report)
}

struct Check<'a, F> {
    roots: Option<HashSet<&'a RootKeyId>>,
    parents: Parents,
    report: CheckReport,
    on_event: F,
}

impl<F: FnMut(CheckEvent)> Check<'_, F> {
    fn find(&mut self, path: &KeyPath, kek_id: Option<KekId>, fault: Fault) {
        self.report.findings += 1;
        (self.on_event)(CheckEvent::Finding(Finding { path: path.clone(), kek_id, fault }));
    }

    async fn account(&mut self, copy: &AccountCopy) -> Result<(), StoreError> {
        self.report.shredded += u64::from(copy.tombstone.is_some());
        self.report.keks += copy.records.len() as u64;
        let mut ids = HashSet::new();
        let mut newest: Option<KekVersion> = None;
        for record in &copy.records {
            let (id, version) = (record.identity.id, record.identity.version);
            if record.identity.path != copy.path {
                self.find(&copy.path, Some(id), Fault::ForeignRecord { of: record.identity.path.clone() });
            }
            if !ids.insert(id) {
                self.find(&copy.path, Some(id), Fault::IdTwice);
            }
            if newest.is_some_and(|newest| version <= newest) {
                self.find(&copy.path, Some(id), Fault::VersionOrder { version });
            }
            newest = newest.max(Some(version));
            if copy.tombstone.is_some() && record.state != KekState::Destroyed {
                self.find(&copy.path, Some(id), Fault::NotShredded { state: record.state });
            } else if record.state == KekState::Primary && copy.primary != Some(id) {
                self.find(&copy.path, Some(id), Fault::SecondPrimary);
            }
            self.wraps(&copy.path, record).await?;
        }
        if copy.tombstone.is_none() {
            self.primary(copy, newest);
        }
        Ok(())
    }

    fn primary(&mut self, copy: &AccountCopy, newest: Option<KekVersion>) {
        let Some(primary) = copy.head().primary else {
            return self.find(&copy.path, copy.primary, Fault::NoPrimary { keks: copy.records.len() });
        };
        let (id, version, min_version) = (primary.identity.id, primary.identity.version, copy.min_version);
        if primary.state == KekState::Destroyed {
            self.find(&copy.path, Some(id), Fault::PrimaryState { state: primary.state });
        }
        if let Some(newest) = newest.filter(|newest| version < *newest) {
            self.find(&copy.path, Some(id), Fault::OldPrimary { primary: version, newest });
        }
        if version < min_version {
            self.find(&copy.path, Some(id), Fault::PrimaryBelowMinVersion { primary: version, min_version });
        }
    }

    async fn wraps(&mut self, path: &KeyPath, record: &KekRecord) -> Result<(), StoreError> {
        let id = Some(record.identity.id);
        for wrap in &record.wraps {
            match &wrap.wrapper {
                Wrapper::Root(root) if self.roots.as_ref().is_some_and(|roots| !roots.contains(root)) => {
                    self.find(path, id, Fault::UnknownRoot { root: root.clone() });
                }
                Wrapper::Root(_) => self.report.root_wraps += 1,
                Wrapper::Parent { path: parent, kek_id } => {
                    self.report.parent_wraps += 1;
                    let (parent, parent_kek) = (parent.clone(), *kek_id);
                    match self.parents.state(&parent, parent_kek).await? {
                        Parent::Usable => {}
                        Parent::Destroyed => self.find(path, id, Fault::DestroyedParent { parent, parent_kek }),
                        Parent::Missing => self.find(path, id, Fault::MissingParent { parent, parent_kek }),
                    }
                }
                _ => {} // a kind that this release does not know is not parsed either
            }
        }
        Ok(())
    }
}

/// What stands behind a wrap by another KEK.
enum Parent {
    Usable,
    Destroyed,
    Missing,
}

/// The KEKs of accounts that wrap others', as they were read.
struct Parents {
    store: Arc<dyn KekStore>,
    /// `None` for an account that cannot be read, which is a finding of its own.
    known: HashMap<KeyPath, Option<BTreeMap<[u8; KekId::LEN], KekState>>>,
}

impl Parents {
    async fn state(&mut self, path: &KeyPath, id: KekId) -> Result<Parent, StoreError> {
        if let Some(known) = self.known.get(path) {
            match known.as_ref().map(|keks| keks.get(id.as_bytes())) {
                None => return Ok(Parent::Usable),
                Some(Some(state)) => return Ok(Parent::of(Some(*state))),
                Some(None) => {} // made since, perhaps
            }
        }
        let keks = match self.store.export(path).await {
            Ok(copy) => Some(copy.map(|copy| copy.records).unwrap_or_default()),
            Err(error) if error.unreadable().is_some() => None,
            Err(error) => return Err(error),
        };
        let keks: Option<BTreeMap<_, _>> = keks
            .map(|records| records.into_iter().map(|record| (*record.identity.id.as_bytes(), record.state)).collect());
        let answer = match &keks {
            Some(keks) => Parent::of(keks.get(id.as_bytes()).copied()),
            None => Parent::Usable,
        };
        if self.known.len() >= PARENTS {
            self.known.clear();
        }
        self.known.insert(path.clone(), keks);
        Ok(answer)
    }
}

impl Parent {
    fn of(state: Option<KekState>) -> Self {
        match state {
            None => Self::Missing,
            Some(KekState::Destroyed) => Self::Destroyed,
            Some(_) => Self::Usable,
        }
    }
}
