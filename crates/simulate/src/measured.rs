//! What a simulation counts.

use hdrhistogram::Histogram;
use keystrata_hierarchy::KeyError;

use crate::{error::SimulateError, kms::Calls};

/// Why an operation was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Throttled,
    Denied,
    Unavailable,
    Overloaded,
    Other,
}

impl Refusal {
    pub(crate) const ALL: [(Self, &str); 5] = [
        (Self::Throttled, "throttled"),
        (Self::Denied, "denied"),
        (Self::Unavailable, "unavailable"),
        (Self::Overloaded, "overloaded"),
        (Self::Other, "other"),
    ];

    pub(crate) fn of(error: &KeyError) -> Self {
        match error {
            KeyError::Throttled(_) => Self::Throttled,
            KeyError::Denied(_) => Self::Denied,
            KeyError::RootUnavailable(_) => Self::Unavailable,
            KeyError::Overloaded(_) => Self::Overloaded,
            KeyError::Parent { source, .. } => Self::of(source),
            _ => Self::Other,
        }
    }
}

/// What was counted for some or all processes under one policy.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) operations: u64,
    /// Operations that found their KEK in memory, and for how long the others waited, in nanoseconds.
    pub(crate) hits: u64,
    pub(crate) waits: Histogram<u64>,
    pub(crate) refused: [u64; Refusal::ALL.len()],
    pub(crate) calls: Calls,
    pub(crate) lower_bound: u64,
    /// Decrypted KEKs in memory, at each look.
    pub(crate) keks: Vec<u32>,
    /// The longest that a key was used after the KMS had last allowed it.
    pub(crate) oldest_use: u64,
    pub(crate) refreshes: u64,
    pub(crate) evictions: u64,
}

impl Measured {
    pub(crate) fn new() -> Result<Self, SimulateError> {
        // From a microsecond to two hours, to three digits.
        let waits = Histogram::new_with_bounds(1_000, 7_200_000_000_000, 3)
            .map_err(|error| SimulateError::Engine(error.to_string()))?;
        Ok(Self {
            operations: 0,
            hits: 0,
            waits,
            refused: [0; Refusal::ALL.len()],
            calls: Calls::default(),
            lower_bound: 0,
            keks: Vec::new(),
            oldest_use: 0,
            refreshes: 0,
            evictions: 0,
        })
    }

    pub(crate) fn waited(&mut self, nanos: u64) {
        self.waits.saturating_record(nanos);
    }

    pub(crate) fn add(&mut self, other: &Self) -> Result<(), SimulateError> {
        self.operations += other.operations;
        self.hits += other.hits;
        self.waits.add(&other.waits).map_err(|error| SimulateError::Engine(error.to_string()))?;
        for (sum, more) in self.refused.iter_mut().zip(other.refused) {
            *sum += more;
        }
        self.calls.add(&other.calls);
        self.lower_bound += other.lower_bound;
        self.keks.resize(self.keks.len().max(other.keks.len()), 0);
        for (sum, more) in self.keks.iter_mut().zip(&other.keks) {
            *sum += more;
        }
        self.oldest_use = self.oldest_use.max(other.oldest_use);
        self.refreshes += other.refreshes;
        self.evictions += other.evictions;
        Ok(())
    }
}
