//! Everything that stands around a root key, around an adapter.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use keystrata_hierarchy::test_util::conformance::{RootKeyFault, RootKeyHarness};
use keystrata_kms::{BreakerPolicy, Budget, Guard, Guarded, RetryPolicy};

/// Another harness's root keys, guarded.
pub(crate) struct InGuard<H>(pub(crate) H);

impl<H: RootKeyHarness> RootKeyHarness for InGuard<H> {
    type Root = Guarded<H::Root>;

    async fn root(&self) -> Self::Root {
        guard().around(self.0.root().await)
    }

    async fn other_key(&self) -> Option<Self::Root> {
        self.0.other_key().await.map(|root| guard().around(root))
    }

    async fn set_fault(&self, fault: Option<RootKeyFault>) -> bool {
        self.0.set_fault(fault).await
    }
}

/// With probes at once, since the suite goes on as soon as a fault is gone.
fn guard() -> Guard {
    let number = |n| NonZeroU32::new(n).unwrap();
    let budget = Budget::per_second(number(100_000), number(10_000));
    let breaker = BreakerPolicy { pause: Duration::ZERO, longest_pause: Duration::ZERO, ..BreakerPolicy::default() };
    let retry = RetryPolicy { first_bound: Duration::from_millis(1), ..RetryPolicy::default() };
    Guard::new("test", Arc::new(budget)).attempt_limit(Duration::from_secs(30)).breaker(breaker).retry(retry)
}
