//! The topologies that runs have, and where each account stands in them.

use keystrata_hierarchy::{KeyPath, Placement, Roots};

/// An account, and what wraps its KEK.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Node {
    path: &'static [&'static str],
    above: Above,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Above {
    Root,
    Parent,
    Group(&'static str),
}

const fn node(path: &'static [&'static str], above: Above) -> Node {
    Node { path, above }
}

static ACCOUNTS: [Node; 4] = [
    node(&["acme"], Above::Root),
    node(&["globex"], Above::Root),
    node(&["initech"], Above::Root),
    node(&["umbrella"], Above::Root),
];

static GROUPS: [Node; 6] = [
    node(&["g1"], Above::Root),
    node(&["g2"], Above::Root),
    node(&["acme"], Above::Group("g1")),
    node(&["globex"], Above::Group("g1")),
    node(&["initech"], Above::Group("g2")),
    node(&["umbrella"], Above::Group("g2")),
];

static SERVICES: [Node; 6] = [
    node(&["acme"], Above::Root),
    node(&["globex"], Above::Root),
    node(&["acme", "mail"], Above::Parent),
    node(&["acme", "files"], Above::Parent),
    node(&["globex", "mail"], Above::Parent),
    node(&["globex", "files"], Above::Parent),
];

static THREE_LEVELS: [Node; 6] = [
    node(&["group"], Above::Root),
    node(&["alone"], Above::Root),
    node(&["acme"], Above::Group("group")),
    node(&["globex"], Above::Group("group")),
    node(&["acme", "mail"], Above::Parent),
    node(&["globex", "mail"], Above::Parent),
];

#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    Accounts,
    Groups,
    Services,
    ThreeLevels,
}

impl Shape {
    pub(crate) fn any(chance: &mut fastrand::Rng) -> Self {
        [Self::Accounts, Self::Groups, Self::Services, Self::ThreeLevels][chance.usize(..4)]
    }

    pub(crate) fn nodes(self) -> &'static [Node] {
        match self {
            Self::Accounts => &ACCOUNTS,
            Self::Groups => &GROUPS,
            Self::Services => &SERVICES,
            Self::ThreeLevels => &THREE_LEVELS,
        }
    }

    pub(crate) fn parent(self, node: &Node) -> Option<&'static Node> {
        let parent = match node.above {
            Above::Root => return None,
            Above::Parent => &node.path[..node.path.len() - 1],
            Above::Group(group) => &[group],
        };
        self.nodes().iter().find(|node| node.path == parent)
    }

    /// Whether `node` rests on `other`, or is it.
    pub(crate) fn rests_on(self, node: &Node, other: &Node) -> bool {
        node == other || self.parent(node).is_some_and(|parent| self.rests_on(parent, other))
    }

    pub(crate) fn placement(self, path: &KeyPath, roots: &Roots) -> Placement {
        let node = self.nodes().iter().find(|node| node.key_path() == *path);
        match node.map_or(Above::Root, |node| node.above) {
            Above::Root => Placement::account(roots),
            Above::Parent => Placement::service(),
            Above::Group(group) => Placement::group(KeyPath::account(group).unwrap()),
        }
    }
}

impl Node {
    pub(crate) fn key_path(&self) -> KeyPath {
        KeyPath::new(self.path).unwrap()
    }

    /// As the KMS sees it.
    pub(crate) fn name(&self) -> String {
        self.path.join("/")
    }
}
