//! Who authorised a KEK that is in memory: it falls with that one's denial, and is renewed in that one's lane.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use keystrata_primitives::RootKeyId;

/// What unwrapped a KEK, and the root key at the top of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Authority {
    pub(crate) root: RootNumber,
    pub(crate) how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// The root key that is asked first.
    Root,
    /// Another root key or a parent's KEK, while what is asked first was out of reach.
    StandIn,
    /// A parent's KEK.
    Parent,
    /// The recovery root, as an operator said.
    Recovery,
}

impl Authority {
    pub(crate) fn by_root(root: RootNumber) -> Self {
        Self { root, how: How::Root }
    }

    /// `root` is at the top of the parent's branch.
    pub(crate) fn by_parent(root: RootNumber) -> Self {
        Self { root, how: How::Parent }
    }

    /// Whether the KEK falls when `denying` denies a KEK of the same account.
    pub(crate) fn falls_with(self, denying: RootNumber) -> bool {
        match self.how {
            How::Root => self.root == denying,
            // What should have been asked may be what denies now.
            How::StandIn => true,
            // What its parent meets is the parent's, and an operator went round the denial.
            How::Parent | How::Recovery => false,
        }
    }
}

/// A root key in two bytes: a million KEKs have no room for its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RootNumber(u16);

/// Which number each root key has in this process.
#[derive(Debug, Default)]
pub(crate) struct RootNumbers(Mutex<HashMap<RootKeyId, RootNumber>>);

impl RootNumbers {
    /// The number of this root key. All that come after 65,535 others share one: what one of those denies takes what the others
    /// authorised for the account, which costs calls and nothing else.
    pub(crate) fn of(&self, id: &RootKeyId) -> RootNumber {
        // No code panics while it holds the lock.
        let mut numbers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = numbers.get(id) {
            return *known;
        }
        let next = RootNumber(u16::try_from(numbers.len()).unwrap_or(u16::MAX));
        if next.0 < u16::MAX {
            numbers.insert(id.clone(), next);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_root_key_has_a_number_of_its_own_as_long_as_there_are_any() {
        let numbers = RootNumbers::default();
        let number = |n: u32| numbers.of(&RootKeyId::new(&format!("test:{n}")).unwrap());
        for n in 0..70_000 {
            assert_eq!(number(n), RootNumber(u16::try_from(n).unwrap_or(u16::MAX)));
        }
        assert_eq!((number(7), number(65_534), number(69_999)), (RootNumber(7), RootNumber(65_534), number(65_535)));
    }

    #[test]
    fn a_denial_takes_what_that_root_key_vouches_for() {
        let numbers = RootNumbers::default();
        let [near, far] = ["near", "far"].map(|id| numbers.of(&RootKeyId::new(id).unwrap()));
        let fall = |how| [near, far].map(|denying| Authority { root: near, how }.falls_with(denying));
        assert_eq!(fall(How::Root), [true, false]);
        assert_eq!(fall(How::StandIn), [true, true]);
        assert_eq!((fall(How::Parent), fall(How::Recovery)), ([false, false], [false, false]));
    }
}
