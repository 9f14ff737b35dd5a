//! How often a process asks the KMS.

use std::{sync::Barrier, time::Duration};

use serde::Serialize;

use crate::{Plain, Process, Tenant, kms::Kms};

/// Callers who come at once to a process that has just started, all for one tenant.
pub const COLD_CALLERS: usize = 64;
/// Seals and opens, half of each, in turn over [`TENANTS`].
pub const OPERATIONS: usize = 10_000;
/// Tenants of those operations.
pub const TENANTS: usize = 100;
/// What a KMS takes to answer the cold callers: long enough that all have come before it does.
const LATENCY: Duration = Duration::from_millis(50);

/// What one library asked of the KMS.
#[derive(Clone, Debug, Serialize)]
pub struct Calls {
    /// The library and its mode.
    pub name: &'static str,
    /// By the cold callers.
    pub cold_callers: u64,
    /// By the operations.
    pub operations: u64,
}

/// Counts the calls of a library; `start` makes a process with so many tenants' keys at rest.
pub fn count<P: Process>(name: &'static str, start: impl Fn(usize, &Kms) -> P) -> Calls {
    Calls { name, cold_callers: cold_callers(&start), operations: operations(&start) }
}

fn cold_callers<P: Process>(start: &impl Fn(usize, &Kms) -> P) -> u64 {
    let kms = Kms::default();
    let process = start(1, &kms);
    kms.slow_down(LATENCY);
    kms.take_calls();
    let barrier = Barrier::new(COLD_CALLERS);
    std::thread::scope(|scope| {
        for _ in 0..COLD_CALLERS {
            scope.spawn(|| {
                let tenant = process.tenant(0);
                barrier.wait();
                tenant.seal(&Plain::of(b"x"));
            });
        }
    });
    kms.take_calls()
}

fn operations<P: Process>(start: &impl Fn(usize, &Kms) -> P) -> u64 {
    let kms = Kms::default();
    let process = start(TENANTS, &kms);
    kms.take_calls();
    let tenants: Vec<P::Tenant> = (0..TENANTS).map(|number| process.tenant(number)).collect();
    let plain = Plain::of(b"x");
    for tenant in tenants.iter().cycle().take(OPERATIONS / 2) {
        let mut sealed = tenant.seal(&plain);
        assert_eq!(tenant.open(&mut sealed).bytes(), b"x");
    }
    kms.take_calls()
}
