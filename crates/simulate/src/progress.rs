//! How far a simulation has come, for those who watch it from another thread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::SimulateError;

/// How far a simulation has come. Shared by those who work on it and those who watch.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    expected: AtomicU64,
    is_stopped: AtomicBool,
}

impl Progress {
    /// Operations simulated so far, and about how many there will be; zero as long as that is not known.
    pub fn operations(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.expected.load(Ordering::Relaxed))
    }

    /// Ends the simulation soon, without a forecast.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn expect(&self, operations: u64) {
        self.expected.fetch_add(operations, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, operations: u64) -> Result<(), SimulateError> {
        self.done.fetch_add(operations, Ordering::Relaxed);
        if self.is_stopped.load(Ordering::Relaxed) {
            return Err(SimulateError::Engine("the simulation was stopped".into()));
        }
        Ok(())
    }
}
