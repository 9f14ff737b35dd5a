//! Topologies that tests use.

use keystrata_hierarchy::{Hierarchy, HierarchyBuilder, KeyPath, Placement, PolicyBuilder, Roots};

use super::tricky::Tricky;

pub fn path<const N: usize>(segments: [&str; N]) -> KeyPath {
    KeyPath::new(segments).unwrap()
}

/// The roots of `tricky`, for a placement.
pub fn roots(tricky: &Tricky) -> Roots {
    Roots::new(std::sync::Arc::clone(&tricky.root))
}

pub fn builder(
    tricky: &Tricky,
    place: impl Fn(&KeyPath, &Roots) -> Placement + Send + Sync + 'static,
) -> HierarchyBuilder {
    let roots = roots(tricky);
    tricky.builder().topology(move |path| place(path, &roots))
}

/// A process with this topology.
pub fn process(
    tricky: &Tricky,
    policy: PolicyBuilder,
    place: impl Fn(&KeyPath, &Roots) -> Placement + Send + Sync + 'static,
) -> Hierarchy {
    builder(tricky, place).policy(policy.build().unwrap()).build().unwrap()
}

/// `group` is under the root key; all else is in it.
pub fn one_group(path: &KeyPath, roots: &Roots) -> Placement {
    match path.segments().next() {
        Some("group") => Placement::account(roots),
        _ => Placement::group(self::path(["group"])),
    }
}

/// A path of one segment is under the root key; each longer one under its parent.
pub fn services(path: &KeyPath, roots: &Roots) -> Placement {
    match path.segments().count() {
        1 => Placement::account(roots),
        _ => Placement::service(),
    }
}
