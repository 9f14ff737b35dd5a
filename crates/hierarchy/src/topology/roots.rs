//! The root keys of an account.

use std::{fmt, num::NonZeroUsize, sync::Arc};

use keystrata_primitives::{KekRecord, RootKeyId};

use crate::{error::BuildError, root::RootKey};

/// The root keys that wrap the KEKs of some accounts. Cheap to clone: accounts that have the same root keys share one.
///
/// - **Current** ones, in order: each wraps every new KEK. A KEK is unwrapped by the first of them that wrapped it; by
///   the next only while that one is throttled, unavailable or overloaded, *never* after it denied or rejected the KEK.
///   So losing one of two regions leaves everything readable, and a key that was revoked stays revoked. One that is gone for
///   good, and therefore denies, is taken out of the list; then the others open what it wrapped.
/// - **Former** ones unwrap what they wrapped and wrap nothing new. Keep one here until no record names it.
/// - A **recovery** one wraps every new KEK, for which a public key is enough, and unwraps only when an operator calls
///   [`Account::recover`](crate::Account::recover).
///
/// A root key that no list here has is never called, whatever a record names.
///
/// ```
/// # use keystrata_hierarchy::test_util::ScriptedRootKey;
/// use keystrata_hierarchy::Roots;
///
/// # let root = ScriptedRootKey::new;
/// let one = Roots::new(root("aws-kms:eu-west-1"));
/// let two_regions = Roots::builder()
///     .current(root("aws-kms:eu-west-1"))
///     .current(root("aws-kms:eu-central-1"))
///     .former(root("vault-transit:the-one-before"))
///     .build()?;
/// assert_eq!(two_regions.current_ids().count(), 2);
/// # Ok::<(), keystrata_hierarchy::BuildError>(())
/// ```
#[derive(Clone)]
pub struct Roots(Arc<RootsBuilder>);

/// What [`Roots`] are made of.
#[derive(Clone, Default)]
#[must_use = "a builder does nothing until `build`"]
pub struct RootsBuilder {
    current: Vec<Arc<dyn RootKey>>,
    former: Vec<Arc<dyn RootKey>>,
    recovery: Option<Arc<dyn RootKey>>,
    at_least: Option<NonZeroUsize>,
}

impl Roots {
    /// One root key, and no other before it.
    ///
    /// To go on using it yourself, for its call counter say, give an `Arc` of it.
    pub fn new(root: impl RootKey + 'static) -> Self {
        Self(Arc::new(RootsBuilder { current: vec![Arc::new(root)], ..RootsBuilder::default() }))
    }

    /// Begins a list of several.
    pub fn builder() -> RootsBuilder {
        RootsBuilder::default()
    }

    /// The ids of those that wrap new KEKs, in order.
    pub fn current_ids(&self) -> impl Iterator<Item = &RootKeyId> {
        ids(self.current())
    }

    pub(crate) fn current(&self) -> &[Arc<dyn RootKey>] {
        &self.0.current
    }

    pub(crate) fn recovery(&self) -> Option<&Arc<dyn RootKey>> {
        self.0.recovery.as_ref()
    }

    /// Those that wrap a new KEK.
    pub(crate) fn wrapping(&self) -> impl Iterator<Item = &Arc<dyn RootKey>> {
        self.0.current.iter().chain(&self.0.recovery)
    }

    /// Those that unwrap without being asked to by an operator, in the order in which they are tried.
    pub(crate) fn unwrapping(&self) -> impl Iterator<Item = &Arc<dyn RootKey>> {
        self.0.current.iter().chain(&self.0.former)
    }

    /// How many current ones must have wrapped a new KEK; `None`: all, and the recovery one too.
    pub(crate) fn at_least(&self) -> Option<usize> {
        self.0.at_least.map(NonZeroUsize::get)
    }
}

impl RootsBuilder {
    /// One more that wraps every new KEK. The order of the calls is the order in which they are tried.
    pub fn current(mut self, root: impl RootKey + 'static) -> Self {
        self.current.push(Arc::new(root));
        self
    }

    /// One that wrapped KEKs before: it unwraps them, and wraps nothing new. Tried after the current ones.
    pub fn former(mut self, root: impl RootKey + 'static) -> Self {
        self.former.push(Arc::new(root));
        self
    }

    /// One for emergencies. It wraps every new KEK too, and unwraps only by
    /// [`Account::recover`](crate::Account::recover).
    ///
    /// Kept where a running service cannot use it. Its [`wrap_key`](RootKey::wrap_key) has to work, for which the public
    /// half of a key pair is enough.
    pub fn recovery(mut self, root: impl RootKey + 'static) -> Self {
        self.recovery = Some(Arc::new(root));
        self
    }

    /// Lets a KEK be made while some of the roots are throttled, unavailable or overloaded, if at least `roots` of the
    /// current ones wrapped it. Default: all must, and the recovery one too.
    ///
    /// **What it gives up:** what is sealed under such a KEK is lost with those that did wrap it, though the list names
    /// more. It counts in [`Stats::partial_wraps`](crate::Stats) and stands in the log. A root that *denies* still stops the
    /// creation: whoever revoked an account's key does not want it to go on under another. If too few current ones wrap the
    /// KEK, the recovery one is not asked.
    pub fn accept_at_least(mut self, roots: NonZeroUsize) -> Self {
        self.at_least = Some(roots);
        self
    }

    /// Checks the list. No root key is called.
    ///
    /// # Errors
    /// [`BuildError`] if no root is current, if more than 8 would wrap a KEK, if one is named twice, or if more are to
    /// be accepted than there are.
    pub fn build(self) -> Result<Roots, BuildError> {
        let wrapping = self.current.len() + usize::from(self.recovery.is_some());
        if self.current.is_empty() {
            return Err(BuildError::NoRootKey);
        }
        if wrapping > KekRecord::MAX_WRAPS {
            return Err(BuildError::TooManyRoots { count: wrapping, most: KekRecord::MAX_WRAPS });
        }
        if let Some(least) = self.at_least.filter(|least| least.get() > self.current.len()) {
            return Err(BuildError::AtLeastTooMany { least: least.get(), current: self.current.len() });
        }
        let all = self.current.iter().chain(&self.former).chain(&self.recovery);
        let mut ids: Vec<&RootKeyId> = ids(all).collect();
        ids.sort_unstable();
        if let Some([twice, _]) = ids.array_windows().find(|[a, b]| a == b) {
            return Err(BuildError::RootTwice { id: RootKeyId::clone(twice) });
        }
        Ok(Roots(Arc::new(self)))
    }
}

fn ids<'a>(roots: impl IntoIterator<Item = &'a Arc<dyn RootKey>>) -> impl Iterator<Item = &'a RootKeyId> {
    roots.into_iter().map(|root| RootKey::id(&**root))
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for RootsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = |roots: &[Arc<dyn RootKey>]| roots.iter().map(|root| root.id().to_string()).collect::<Vec<_>>();
        f.debug_struct("Roots")
            .field("current", &ids(&self.current))
            .field("former", &ids(&self.former))
            .field("recovery", &self.recovery.as_ref().map(|root| root.id().to_string()))
            .field("at_least", &self.at_least)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::ScriptedRootKey;

    fn root(id: &str) -> ScriptedRootKey {
        ScriptedRootKey::new(id)
    }

    #[test]
    fn a_list_that_cannot_work_is_refused() {
        assert_eq!(Roots::builder().former(root("a")).build().unwrap_err(), BuildError::NoRootKey);
        for twice in [
            Roots::builder().current(root("a")).current(root("a")),
            Roots::builder().current(root("a")).former(root("a")),
            Roots::builder().current(root("b")).former(root("a")).recovery(root("a")),
        ] {
            assert_eq!(twice.build().unwrap_err(), BuildError::RootTwice { id: RootKeyId::new("a").unwrap() });
        }
        let eight = (0..8).fold(Roots::builder(), |roots, n| roots.current(root(&n.to_string())));
        assert!(eight.clone().build().is_ok());
        let refused = eight.recovery(root("recovery")).build().unwrap_err();
        assert_eq!(refused, BuildError::TooManyRoots { count: 9, most: 8 });
        let two = NonZeroUsize::new(2).unwrap();
        let refused = Roots::builder().current(root("a")).accept_at_least(two).build().unwrap_err();
        assert_eq!(refused, BuildError::AtLeastTooMany { least: 2, current: 1 });
    }
}
