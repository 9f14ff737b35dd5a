//! What the budget and the rest of the guard add to an attempt that need not wait.
//!
//! `cargo bench -p keystrata-benches --bench budget`. The root key answers at once, so all of the time is theirs.

use std::{hint::black_box, num::NonZeroU32, sync::Arc, time::Duration};

use async_trait::async_trait;
use criterion::{Criterion, criterion_group, criterion_main};
use keystrata_hierarchy::{
    KekId, KekVersion, KeyPath, RootContext, RootKey, RootKeyError, RootKeyId, SecretKey, Suite,
};
use keystrata_kms::{Breaker, BreakerPolicy, Budget, Budgeted, Counted, Guard, RetryPolicy, Retrying, Timed};
use keystrata_primitives::KekIdentity;

/// Answers at once, and does nothing.
#[derive(Debug)]
struct Idle(RootKeyId);

impl Idle {
    fn new() -> Self {
        Self(RootKeyId::new("bench:idle").expect("plain characters"))
    }
}

#[async_trait]
impl RootKey for Idle {
    fn id(&self) -> &RootKeyId {
        &self.0
    }

    async fn wrap_key(&self, _: &SecretKey, _: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        Ok(Vec::new())
    }

    async fn unwrap_key(&self, _: &[u8], _: &RootContext) -> Result<SecretKey, RootKeyError> {
        Err(RootKeyError::Rejected)
    }
}

fn attempts(criterion: &mut Criterion) {
    let number = |n| NonZeroU32::new(n).expect("not zero");
    // More than can be used up.
    let budget = Arc::new(Budget::per_second(number(1_000_000_000), number(1_000_000)));
    let behind_budget = || Budgeted::new(Idle::new(), Arc::clone(&budget));
    measure(criterion, "bare", &Idle::new());
    measure(criterion, "budget", &behind_budget());
    measure(criterion, "budget + breaker", &Breaker::new(behind_budget(), "bench", BreakerPolicy::default()));
    measure(criterion, "counters", &Counted::new(Idle::new(), "bench"));
    measure(criterion, "deadline", &Timed::new(Idle::new(), Duration::from_secs(5)));
    measure(criterion, "retries", &Retrying::new(Idle::new(), "bench", RetryPolicy::default()));
    measure(criterion, "guard: all of them", &Guard::new("bench", Arc::clone(&budget)).around(Idle::new()));
    assert_eq!(budget.stats().refused, 0, "the bench measures attempts that need not wait");
}

fn measure(criterion: &mut Criterion, name: &str, root: &impl RootKey) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime of one thread");
    let secret = SecretKey::generate().expect("random bytes");
    let context = RootContext::of_kek(&KekIdentity {
        suite: Suite::default(),
        version: KekVersion::FIRST,
        id: KekId::generate().expect("random bytes"),
        path: KeyPath::account("acme").expect("a valid name"),
    });
    criterion.bench_function(&format!("attempt/{name}"), |bencher| {
        bencher.iter(|| runtime.block_on(root.wrap_key(black_box(&secret), &context)));
    });
}

criterion_group!(benches, attempts);
criterion_main!(benches);
