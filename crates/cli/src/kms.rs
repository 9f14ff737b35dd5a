//! How many calls may go to a root key in a KMS, and the guard that holds to it.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use anyhow::{Result, bail};
use keystrata_hierarchy::RootKey;
use keystrata_kms::{Budget, Guard, Guarded};

use crate::settings::RootLocation;

/// Longer than an adapter takes that keeps to the longest `timeout_ms` of its URI, for a token and a request with it.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(130);

/// Longer than some dozens of accounts wait for each other at one call a second.
const BULK_WAIT: Duration = Duration::from_secs(3_600);

/// What flags, variables or the settings file say, each of which may be missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KmsLimits {
    pub(crate) rate: Option<NonZeroU32>,
    pub(crate) burst: Option<NonZeroU32>,
}

/// The calls that one command may send to a KMS: in any span of `t` seconds `burst + rate × t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KmsBudget {
    pub(crate) rate: NonZeroU32,
    pub(crate) burst: NonZeroU32,
}

/// A root key in a KMS behind its budget.
pub(crate) type GuardedRoot = Arc<Guarded<Arc<dyn RootKey>>>;

impl KmsLimits {
    /// What is said here, and for what is not, what `others` say.
    pub(crate) fn or(self, others: Self) -> Self {
        Self { rate: self.rate.or(others.rate), burst: self.burst.or(others.burst) }
    }

    /// The budget for `root`; `None` for a local one, which needs none.
    ///
    /// There is no default: a quota is the provider's and shared with others, so nobody but the operator knows the part that
    /// is this command's.
    ///
    /// # Errors
    /// If one is needed and not given.
    pub(crate) fn budget_for(self, root: &RootLocation) -> Result<Option<KmsBudget>> {
        let RootLocation::Kms(uri) = root else { return Ok(None) };
        let missing = match (self.rate, self.burst) {
            (Some(rate), Some(burst)) => return Ok(Some(KmsBudget { rate, burst })),
            (None, Some(_)) => "--kms-rate",
            (Some(_), None) => "--kms-burst",
            (None, None) => "--kms-rate and --kms-burst",
        };
        bail!(
            "{uri} is in a KMS, whose quota others share: say how many calls may go there with {missing}, as in \
             --kms-rate 50 --kms-burst 10 (or KEYSTRATA_KMS_RATE and KEYSTRATA_KMS_BURST, or kms_rate and kms_burst in the \
             settings file)"
        )
    }
}

/// What a command has to do with a KMS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// A few calls that somebody waits for.
    Few,
    /// Calls by the thousand, none of which is urgent.
    Bulk,
}

impl KmsBudget {
    /// The budget itself, for all root keys of one command together.
    pub(crate) fn shared(self, work: Work) -> Arc<Budget> {
        let budget = Budget::per_second(self.rate, self.burst).named("cli");
        Arc::new(match work {
            Work::Few => budget,
            // All of its calls are in the background, so nothing need be left for a foreground; and none is given up that
            // waits for its turn, however small the rate.
            Work::Bulk => budget.foreground_share(0.0).max_wait(BULK_WAIT),
        })
    }
}

/// How many calls `roots` sent to a KMS and what they cost; `None` if none of them is in one.
pub(crate) fn calls<'a>(roots: impl IntoIterator<Item = &'a GuardedRoot>) -> Option<(u64, Option<f64>)> {
    let mut all = None;
    for root in roots {
        let (calls, usd) = all.unwrap_or((0, None));
        let more = root.estimated_usd();
        all = Some((calls + root.kms_calls(), more.map(|more| more + usd.unwrap_or(0.0)).or(usd)));
    }
    all
}

/// Puts the budget, retries, a breaker and deadlines around `root`.
pub(crate) fn guarded(root: Arc<dyn RootKey>, budget: Arc<Budget>) -> GuardedRoot {
    Arc::new(Guard::new("cli", budget).attempt_limit(ATTEMPT_LIMIT).around(root))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(rate: u32, burst: u32) -> KmsLimits {
        KmsLimits { rate: NonZeroU32::new(rate), burst: NonZeroU32::new(burst) }
    }

    #[test]
    fn a_root_key_in_a_kms_needs_both_and_a_local_one_none() {
        let kms = RootLocation::Kms("aws-kms:alias/k".into());
        let budget = limits(50, 10).budget_for(&kms).unwrap().unwrap();
        assert_eq!((budget.rate.get(), budget.burst.get()), (50, 10));
        for (given, asks_for) in [
            (limits(0, 0), "with --kms-rate and --kms-burst,"),
            (limits(50, 0), "with --kms-burst,"),
            (limits(0, 10), "with --kms-rate,"),
        ] {
            let message = given.budget_for(&kms).unwrap_err().to_string();
            assert!(message.contains(asks_for) && message.contains("aws-kms:alias/k"), "{message}");
        }
        let local = RootLocation::Local("root.key".into());
        assert_eq!(limits(0, 0).budget_for(&local).unwrap(), None);
        assert_eq!(limits(50, 10).budget_for(&local).unwrap(), None);
    }

    #[test]
    fn each_limit_is_taken_from_the_first_that_says_it() {
        assert_eq!(limits(50, 0).or(limits(1, 10)), limits(50, 10));
    }
}
