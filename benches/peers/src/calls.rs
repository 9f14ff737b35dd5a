//! How often a process asks the KMS.

use std::{
    sync::{Arc, Barrier, mpsc},
    time::Duration,
};

use serde::Serialize;
use tokio::runtime::Runtime;

use crate::{Plain, Process, Tenant, kms::Kms};

/// Callers who come at once to a process that has just started, all for one tenant.
pub const COLD_CALLERS: usize = 64;
/// Seals and opens, half of each, in turn over [`TENANTS`].
pub const OPERATIONS: usize = 10_000;
/// Tenants of those operations.
pub const TENANTS: usize = 100;
/// How long tasks are waited for.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// What a KMS takes to answer the cold callers: long enough that all have come before it does.
const LATENCY: Duration = Duration::from_millis(50);

/// What one library asked of the KMS.
#[derive(Clone, Debug, Serialize)]
pub struct Calls {
    /// The library and its mode.
    pub name: &'static str,
    /// By the cold callers; none is known where they had no answer within [`PATIENCE`].
    pub cold_callers: Option<u64>,
    /// By the operations, where those were counted.
    pub operations: Option<u64>,
}

/// A process whose callers may be tasks of an asynchronous runtime, those of one tenant as many as come.
pub trait AsyncProcess: Process {
    /// Seals one object of the first tenant.
    fn seal_one(&self) -> impl Future<Output = ()> + Send + 'static;
}

/// Counts the calls of a library; `start` makes a process with so many tenants' keys at rest.
pub fn count<P: Process>(name: &'static str, start: impl Fn(usize, &Kms) -> P) -> Calls {
    Calls { name, cold_callers: Some(cold_callers(&start)), operations: Some(operations(&start)) }
}

/// The same of cold callers that are not threads but tasks of one runtime with a thread for each core, as in an asynchronous service.
pub fn count_tasks<P: AsyncProcess>(
    name: &'static str,
    start: impl FnOnce(usize, &Kms) -> P + Send + 'static,
) -> Calls {
    let (done, calls) = mpsc::channel();
    // A library that blocks the runtime's threads may never come back: what hangs is left behind.
    std::thread::spawn(move || done.send(cold_tasks(start)));
    let cold_callers = match calls.recv_timeout(PATIENCE) {
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("{name} failed"),
        in_time => in_time.ok(),
    };
    Calls { name, cold_callers, operations: None }
}

fn cold_tasks<P: AsyncProcess>(start: impl FnOnce(usize, &Kms) -> P) -> u64 {
    let kms = Kms::default();
    let process = start(1, &kms);
    kms.slow_down(LATENCY);
    kms.take_calls();
    let barrier = Arc::new(tokio::sync::Barrier::new(COLD_CALLERS));
    let runtime = Runtime::new().expect("threads");
    let callers: Vec<_> = (0..COLD_CALLERS)
        .map(|_| {
            let (seal, barrier) = (process.seal_one(), Arc::clone(&barrier));
            runtime.spawn(async move {
                barrier.wait().await;
                seal.await;
            })
        })
        .collect();
    for caller in callers {
        runtime.block_on(caller).expect("a library seals");
    }
    kms.take_calls()
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
