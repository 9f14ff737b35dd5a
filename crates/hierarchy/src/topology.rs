//! Where the KEKs of each account stand in the tree of keys: what wraps new ones, and what may have wrapped old ones.

mod roots;

use std::{fmt, sync::Arc};

use keystrata_primitives::{KekId, KekRecord, KeyPath, RootKeyId, WrappedSecret, Wrapper};

pub use self::roots::{Roots, RootsBuilder};
use crate::{error::KeyError, root::RootKey};

/// What wraps the KEKs of one account: its place in the tree of keys, and its earlier places.
///
/// New KEKs are wrapped by what is named first. A record that names anything else than what stands here is refused
/// without a call to any KMS: a record never chooses its root, or whoever writes the store could plant a KEK wrapped by a
/// root key of his own.
///
/// ```
/// # use keystrata_hierarchy::{MemoryKekStore, test_util::ScriptedRootKey};
/// use std::collections::HashMap;
/// use keystrata_hierarchy::{Context, Hierarchy, Placement, Roots};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// # let store = MemoryKekStore::new();
/// # let [our_root, globex_root] = ["aws-kms:ours", "aws-kms:of-globex"].map(ScriptedRootKey::new);
/// // Tenants who bring their own keys.
/// let ours = Roots::new(our_root);
/// let own = HashMap::from([("globex", Roots::new(globex_root))]);
/// let keys = Hierarchy::builder()
///     .topology(move |path| {
///         let tenant = path.segments().next().unwrap_or_default();
///         Placement::account(own.get(tenant).unwrap_or(&ours))
///     })
///     .store(store)
///     .build()?;
/// keys.account("globex")?.seal(b"theirs", &Context::none()).await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Groups, so that KMS calls do not grow with the number of accounts. An account that was in none before it had a group
/// keeps what it has:
///
/// ```
/// # use keystrata_hierarchy::{MemoryKekStore, test_util::ScriptedRootKey};
/// # use std::sync::Arc;
/// use keystrata_hierarchy::{Context, Hierarchy, KeyPath, Placement, Roots};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// # let store = MemoryKekStore::new();
/// # let root = Arc::new(ScriptedRootKey::new("test:root"));
/// let roots = Roots::new(Arc::clone(&root));
/// let free_plan = KeyPath::new(["groups", "free plan"])?;
/// let keys = Hierarchy::builder()
///     .topology(move |path| match path.segments().next() {
///         Some("groups") => Placement::account(&roots),
///         _ => Placement::group(free_plan.clone()).formerly(Placement::account(&roots)),
///     })
///     .store(store)
///     .build()?;
/// for n in 0..100 {
///     keys.account(format!("account {n}"))?.seal(b"x", &Context::none()).await?;
/// }
/// assert_eq!(root.calls(), 1); // for the group's KEK
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// At most 8 KEKs stand one under the other, the account's own included.
#[derive(Clone, Debug)]
pub struct Placement {
    now: Wrapping,
    former: Vec<Wrapping>,
}

/// What wraps a KEK.
#[derive(Clone, Debug)]
pub(crate) enum Wrapping {
    Roots(Roots),
    /// The KEK of the path without its last segment.
    Parent,
    /// The KEK of a path of its own.
    Group(KeyPath),
}

/// How many KEKs may stand one under the other.
pub(crate) const MOST_LEVELS: usize = 8;

impl Wrapping {
    /// Whose KEK wraps that of `path`; `None` if root keys do.
    pub(crate) fn parent(&self, path: &KeyPath) -> Result<Option<KeyPath>, PlacementFault> {
        match self {
            Self::Roots(_) => Ok(None),
            Self::Group(group) => Ok(Some(group.clone())),
            Self::Parent => {
                let levels = path.segments().count() - 1;
                KeyPath::new(path.segments().take(levels)).map(Some).map_err(|_| PlacementFault::NoParent)
            }
        }
    }

    fn roots(&self) -> Option<&Roots> {
        match self {
            Self::Roots(roots) => Some(roots),
            Self::Parent | Self::Group(_) => None,
        }
    }
}

/// Why an account cannot stand where the topology puts it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlacementFault {
    /// A path of one segment was placed as a service.
    #[error("a path of one segment has no parent whose KEK could wrap its own: give it root keys or a group")]
    NoParent,
    /// Following what wraps what leads back.
    #[error("its KEK would be wrapped, in the end, by itself: {through} comes twice on the way to a root key")]
    Cycle {
        /// The path that comes twice.
        through: KeyPath,
    },
    /// There would be too many KEKs between it and a root key.
    #[error("more than 8 KEKs would stand one under the other: leave out a level")]
    TooDeep,
}

impl Placement {
    /// The root keys wrap the account's KEK: one KMS call for each account. What the KMS grants and logs is each account
    /// by itself.
    pub fn account(roots: &Roots) -> Self {
        Self { now: Wrapping::Roots(roots.clone()), former: Vec::new() }
    }

    /// The KEK of the path's parent wraps its KEK: that of `["acme"]` wraps that of `["acme", "billing"]`. The parent's KEK is
    /// made with the first service's, if it has none, and seals nothing unless it is used as an account too.
    ///
    /// KMS calls are for the parents alone. Invalidating the parent, or its denial by the KMS, overwrites its services' KEKs.
    pub fn service() -> Self {
        Self { now: Wrapping::Parent, former: Vec::new() }
    }

    /// The KEK of a group wraps the account's KEK. The group has a path of its own, which the topology gives a place too,
    /// and gets its KEK with its first account's. The account stays who it is: no envelope names a group.
    ///
    /// KMS calls no longer grow with the number of accounts: one serves a group. The price is that the KMS grants, revokes
    /// and logs groups, not accounts, and that whoever learns a group's KEK and reads the store has all its accounts.
    pub fn group(path: KeyPath) -> Self {
        Self { now: Wrapping::Group(path), former: Vec::new() }
    }

    /// An earlier place of the account, and the earlier ones of that: what was wrapped there still opens, and nothing new
    /// is wrapped there. Keep it here until no record of the account names it.
    pub fn formerly(mut self, earlier: Self) -> Self {
        self.former.push(earlier.now);
        self.former.extend(earlier.former);
        self
    }

    /// Whether this root key wraps the account's new KEKs.
    pub(crate) fn is_current(&self, root: &RootKeyId) -> bool {
        self.now.roots().is_some_and(|roots| roots.current_ids().any(|current| current == root))
    }

    pub(crate) fn now(&self) -> &Wrapping {
        &self.now
    }

    /// All that may have wrapped a KEK, in the order in which it is tried.
    fn accepted(&self) -> impl Iterator<Item = &Wrapping> {
        std::iter::once(&self.now).chain(&self.former)
    }

    /// The parents that may have wrapped the KEK of `path`.
    pub(crate) fn parents(&self, path: &KeyPath) -> impl Iterator<Item = KeyPath> {
        self.accepted().filter_map(|wrapping| wrapping.parent(path).ok().flatten())
    }

    /// All root keys that may be asked to unwrap a KEK.
    pub(crate) fn unwrapping_roots(&self) -> impl Iterator<Item = &Arc<dyn RootKey>> {
        self.accepted().filter_map(Wrapping::roots).flat_map(Roots::unwrapping)
    }

    fn recovery_roots(&self) -> impl Iterator<Item = &Arc<dyn RootKey>> {
        self.accepted().filter_map(Wrapping::roots).filter_map(Roots::recovery)
    }

    /// How a recovery root unwraps the KEK of this record.
    pub(crate) fn recovery<'a>(&'a self, record: &'a KekRecord) -> Option<(&'a Arc<dyn RootKey>, &'a [u8])> {
        self.recovery_roots().find_map(|root| Some((root, by_root(record, root.id())?)))
    }

    /// The recovery roots, for an error.
    pub(crate) fn recovery_names(&self) -> String {
        names(self.recovery_roots().map(|root| format!("the recovery root {}", root.id())), "no recovery root")
    }

    /// What is accepted for `path`, for an error.
    pub(crate) fn accepted_names(&self, path: &KeyPath) -> String {
        let roots = self.unwrapping_roots().map(|root| root.id().to_string());
        names(roots.chain(self.parents(path).map(|parent| format!("a KEK of {parent}"))), "nothing")
    }

    /// How the KEK of this record may be unwrapped, in the order in which that is tried: what is accepted here decides,
    /// whatever the order in the record. None if nothing that is accepted wrapped it.
    pub(crate) fn ways<'a>(&'a self, record: &'a KekRecord) -> Vec<Way<'a>> {
        let path = &record.identity.path;
        let mut ways: Vec<Way<'a>> = Vec::new();
        for wrapping in self.accepted() {
            for root in wrapping.roots().into_iter().flat_map(Roots::unwrapping) {
                let is_known =
                    ways.iter().any(|way| matches!(way, Way::Root { root: known, .. } if known.id() == root.id()));
                if let Some(wrapped) = by_root(record, root.id()).filter(|_| !is_known) {
                    ways.push(Way::Root { root, wrapped });
                }
            }
            let Ok(Some(parent)) = wrapping.parent(path) else { continue };
            let is_known = ways.iter().any(|way| matches!(way, Way::Parent { path: known, .. } if *known == parent));
            if let Some((kek_id, wrapped)) = by_parent(record, &parent).filter(|_| !is_known) {
                ways.push(Way::Parent { path: parent, kek_id, wrapped });
            }
        }
        ways
    }
}

/// Each name once.
fn names(all: impl Iterator<Item = String>, none: &str) -> String {
    let mut names: Vec<String> = Vec::new();
    for name in all {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.is_empty() { none.to_owned() } else { names.join(", ") }
}

/// What this root key wrapped, if the record says so.
fn by_root<'a>(record: &'a KekRecord, root: &RootKeyId) -> Option<&'a [u8]> {
    let is_it = |wrap: &&WrappedSecret| matches!(&wrap.wrapper, Wrapper::Root(named) if named == root);
    record.wraps.iter().find(is_it).map(|wrap| &wrap.ciphertext[..])
}

/// What a KEK of this path wrapped, if the record says so.
fn by_parent<'a>(record: &'a KekRecord, parent: &KeyPath) -> Option<(KekId, &'a [u8])> {
    record.wraps.iter().find_map(|wrap| match &wrap.wrapper {
        Wrapper::Parent { path, kek_id } if path == parent => Some((*kek_id, &wrap.ciphertext[..])),
        _ => None,
    })
}

/// One way to unwrap a KEK.
#[derive(Clone, Debug)]
pub(crate) enum Way<'a> {
    Root { root: &'a Arc<dyn RootKey>, wrapped: &'a [u8] },
    Parent { path: KeyPath, kek_id: KekId, wrapped: &'a [u8] },
}

impl fmt::Display for Way<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root { root, .. } => root.id().fmt(f),
            Self::Parent { kek_id, .. } => write!(f, "KEK {kek_id} above it"),
        }
    }
}

/// Gives an account's place.
type Choose = dyn Fn(&KeyPath) -> Placement + Send + Sync;

/// Where everybody stands.
#[derive(Clone)]
pub(crate) struct Topology(Arc<Choose>);

impl Topology {
    pub(crate) fn new(choose: impl Fn(&KeyPath) -> Placement + Send + Sync + 'static) -> Self {
        Self(Arc::new(choose))
    }

    /// The same root keys for all.
    pub(crate) fn of_roots(roots: Roots) -> Self {
        Self::new(move |_| Placement::account(&roots))
    }

    pub(crate) fn placement(&self, path: &KeyPath) -> Placement {
        (self.0)(path)
    }

    /// The root keys that wrap what stands at the top of the account's branch; none if it has no top.
    pub(crate) fn wrapping_roots(&self, path: &KeyPath) -> Vec<Arc<dyn RootKey>> {
        let mut at = path.clone();
        for _ in 0..MOST_LEVELS {
            let placement = self.placement(&at);
            match (placement.now.parent(&at), placement.now.roots()) {
                (Ok(Some(parent)), _) => at = parent,
                (_, Some(roots)) => return roots.current().to_vec(),
                _ => break,
            }
        }
        Vec::new()
    }

    /// Refuses an account from which the way up does not end at root keys within 8 KEKs.
    pub(crate) fn check(&self, path: &KeyPath) -> Result<(), KeyError> {
        let misplaced = |fault| KeyError::Misplaced { path: path.clone(), fault };
        let mut seen = vec![path.clone()];
        loop {
            let at = &seen[seen.len() - 1];
            let Some(parent) = self.placement(at).now.parent(at).map_err(misplaced)? else { return Ok(()) };
            if seen.contains(&parent) {
                return Err(misplaced(PlacementFault::Cycle { through: parent }));
            }
            if seen.len() == MOST_LEVELS {
                return Err(misplaced(PlacementFault::TooDeep));
            }
            seen.push(parent);
        }
    }

    /// Whether `is_so` of any path that may stand above `path`, now or formerly.
    pub(crate) fn any_above(&self, path: &KeyPath, is_so: impl Fn(&KeyPath) -> bool) -> bool {
        let mut seen: Vec<KeyPath> = Vec::new();
        let mut level = vec![path.clone()];
        // What stands higher is refused by `check`.
        for _ in 1..MOST_LEVELS {
            let above: Vec<KeyPath> =
                level.iter().flat_map(|at| self.placement(at).parents(at).collect::<Vec<_>>()).collect();
            level.clear();
            for parent in above {
                if seen.contains(&parent) {
                    continue;
                }
                if is_so(&parent) {
                    return true;
                }
                seen.push(parent.clone());
                level.push(parent);
            }
        }
        false
    }
}

impl fmt::Debug for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topology").finish_non_exhaustive()
    }
}
