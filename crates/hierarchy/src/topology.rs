//! Where the KEKs of each account stand in the tree of keys: what wraps new ones, and what may have wrapped old ones.

mod roots;

use std::{fmt, sync::Arc};

use keystrata_primitives::{KekRecord, KeyPath, RootKeyId, WrappedSecret, Wrapper};

pub use self::roots::{Roots, RootsBuilder};
use crate::root::RootKey;

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
#[derive(Clone, Debug)]
pub struct Placement {
    now: Wrapping,
    former: Vec<Wrapping>,
}

/// What wraps a KEK.
#[derive(Clone, Debug)]
pub(crate) enum Wrapping {
    Roots(Roots),
}

impl Placement {
    /// The root keys wrap the account's KEK: one KMS call for each account. What the KMS grants and logs is each account
    /// by itself.
    pub fn account(roots: &Roots) -> Self {
        Self { now: Wrapping::Roots(roots.clone()), former: Vec::new() }
    }

    /// An earlier place of the account, and the earlier ones of that: what was wrapped there still opens, and nothing new
    /// is wrapped there. Keep it here until no record of the account names it.
    pub fn formerly(mut self, earlier: Self) -> Self {
        self.former.push(earlier.now);
        self.former.extend(earlier.former);
        self
    }

    pub(crate) fn now(&self) -> &Wrapping {
        &self.now
    }

    /// All that may have wrapped a KEK, in the order in which it is tried.
    fn accepted(&self) -> impl Iterator<Item = &Wrapping> {
        std::iter::once(&self.now).chain(&self.former)
    }

    /// All root keys that may be asked to unwrap a KEK.
    pub(crate) fn unwrapping_roots(&self) -> impl Iterator<Item = &Arc<dyn RootKey>> {
        self.accepted().flat_map(|Wrapping::Roots(roots)| roots.unwrapping())
    }

    fn recovery_roots(&self) -> impl Iterator<Item = &Arc<dyn RootKey>> {
        self.accepted().filter_map(|Wrapping::Roots(roots)| roots.recovery())
    }

    /// How a recovery root unwraps the KEK of this record.
    pub(crate) fn recovery<'a>(&'a self, record: &'a KekRecord) -> Option<Way<'a>> {
        self.recovery_roots().find_map(|root| Some(Way { root, wrapped: wrapped_by(record, root.id())? }))
    }

    /// The recovery roots, for an error.
    pub(crate) fn recovery_names(&self) -> String {
        names(self.recovery_roots().map(|root| format!("the recovery root {}", root.id())), "no recovery root")
    }

    /// How the KEK of this record may be unwrapped, in the order in which that is tried: what is accepted here decides,
    /// whatever the order in the record. None if nothing that is accepted wrapped it.
    pub(crate) fn ways<'a>(&'a self, record: &'a KekRecord) -> Vec<Way<'a>> {
        let mut ways: Vec<Way<'a>> = Vec::new();
        for root in self.unwrapping_roots() {
            let is_known = ways.iter().any(|way| way.root.id() == root.id());
            if let Some(wrapped) = wrapped_by(record, root.id()).filter(|_| !is_known) {
                ways.push(Way { root, wrapped });
            }
        }
        ways
    }
}

/// What is accepted, for an error.
impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&names(self.unwrapping_roots().map(|root| root.id().to_string()), "nothing"))
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
fn wrapped_by<'a>(record: &'a KekRecord, root: &RootKeyId) -> Option<&'a [u8]> {
    let is_it = |wrap: &&WrappedSecret| matches!(&wrap.wrapper, Wrapper::Root(named) if named == root);
    record.wraps.iter().find(is_it).map(|wrap| &wrap.ciphertext[..])
}

/// One way to unwrap a KEK.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way<'a> {
    pub(crate) root: &'a Arc<dyn RootKey>,
    pub(crate) wrapped: &'a [u8],
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

    /// The root keys that wrap what stands at the top of the account's branch.
    pub(crate) fn wrapping_roots(&self, path: &KeyPath) -> Vec<Arc<dyn RootKey>> {
        let Wrapping::Roots(roots) = self.placement(path).now;
        roots.current().to_vec()
    }
}

impl fmt::Debug for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topology").finish_non_exhaustive()
    }
}
