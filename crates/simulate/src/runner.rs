//! All policies of a scenario, on all processors: processes apart where none notices another, else together.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::{
    error::SimulateError,
    forecast::PolicyForecast,
    keys::Keys,
    lane::Task,
    measured::Measured,
    progress::Progress,
    scenario::{KeyPolicy, MOST_HANDLES, Scenario},
};

/// Simulates a lane.
type RunLane<'a> = dyn Fn(&Task<'_>) -> Result<Measured, SimulateError> + Sync + 'a;

/// What the policies of a scenario are simulated with. What comes out does not depend on the number of processors.
pub(crate) struct Runner<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) run: &'a RunLane<'a>,
    /// In how many lanes at most processes are simulated that do not notice each other. Best one for each: alone it stays in a
    /// processor's cache, while twenty side by side push each other out and take twice the time.
    pub(crate) lanes: usize,
    /// About how many operations a policy has.
    pub(crate) operations: u64,
    pub(crate) progress: &'a Progress,
}

/// How many threads simulate.
pub(crate) fn threads() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

impl Runner<'_> {
    /// Each policy of the scenario, in its order.
    pub(crate) fn policies(&self) -> Result<Vec<PolicyForecast>, SimulateError> {
        let policies = &self.scenario.policies;
        let (mut forecasts, mut again) = (Vec::new(), Vec::new());
        for (index, policy) in policies.iter().enumerate() {
            let measured = self.apart(*policy)?;
            if self.may_exceed_quota(&measured) {
                // Somebody may be throttled, and that depends on all others.
                self.progress.expect(self.operations);
                again.push(index);
            }
            forecasts.push(PolicyForecast::new(self.scenario, *policy, &measured));
        }
        let together = |nth: usize| {
            let policy = policies[again[nth]];
            Ok((again[nth], PolicyForecast::new(self.scenario, policy, &self.together(policy)?)))
        };
        in_parallel(self.fleets_at_once(), again.len(), together, |(index, forecast)| {
            forecasts[index] = forecast;
            Ok(())
        })?;
        Ok(forecasts)
    }

    /// Whether the KMS might throttle. With at most half of its quota in every second of the clock, no span of time has more
    /// than a full bucket and what it is filled with.
    fn may_exceed_quota(&self, measured: &Measured) -> bool {
        let peak = measured.calls.per_second.iter().max().copied().unwrap_or_default();
        self.scenario.outside.quota.is_some_and(|quota| f64::from(peak) > quota / 2.0)
    }

    /// A policy as if the KMS never throttled, so that the processes do not notice each other.
    fn apart(&self, policy: KeyPolicy) -> Result<Measured, SimulateError> {
        let (scenario, processes) = (self.scenario, self.scenario.traffic.processes);
        let keys = Arc::new(Keys::new(scenario.traffic.accounts, &policy)?);
        let lanes = self.lanes.min(processes as usize);
        let lane = |lane: usize| {
            let processes: Vec<u32> = (0..processes).skip(lane).step_by(lanes).collect();
            (self.run)(&Task { scenario, policy, keys: Arc::clone(&keys), processes: &processes, has_quota: false })
        };
        let mut sum = Measured::new()?;
        // Added at once: what was measured of a thousand processes is never in memory together.
        in_parallel(threads(), lanes, lane, |part| sum.add(&part))?;
        Ok(sum)
    }

    /// A policy with all processes in one time, on one thread.
    fn together(&self, policy: KeyPolicy) -> Result<Measured, SimulateError> {
        let scenario = self.scenario;
        let keys = Arc::new(Keys::new(scenario.traffic.accounts, &policy)?);
        let processes: Vec<u32> = (0..scenario.traffic.processes).collect();
        (self.run)(&Task { scenario, policy, keys, processes: &processes, has_quota: true })
    }

    /// How many whole fleets there is room for in memory.
    fn fleets_at_once(&self) -> usize {
        let traffic = &self.scenario.traffic;
        let fleets = MOST_HANDLES / (u64::from(traffic.accounts) * u64::from(traffic.processes)).max(1);
        usize::try_from(fleets).unwrap_or(usize::MAX).clamp(1, threads())
    }
}

/// Does `work` for every number below `count`, on at most so many threads, and gives what comes of it to `take`, one at a
/// time in no particular order. The first error ends it.
fn in_parallel<T>(
    threads: usize,
    count: usize,
    work: impl Fn(usize) -> Result<T, SimulateError> + Sync,
    take: impl FnMut(T) -> Result<(), SimulateError> + Send,
) -> Result<(), SimulateError> {
    let (next, taken) = (AtomicUsize::new(0), Mutex::new((take, Ok(()))));
    let work_on = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count || lock(&taken).1.is_err() {
                return;
            }
            let done = work(number);
            let (take, outcome) = &mut *lock(&taken);
            if outcome.is_ok() {
                *outcome = done.and_then(take);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads.min(count) {
            scope.spawn(work_on);
        }
    });
    taken.into_inner().unwrap_or_else(PoisonError::into_inner).1
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_worked_on_once_and_the_first_error_ends_it() {
        for threads in [1, 3] {
            let mut taken = Vec::new();
            let take = |number| {
                taken.push(number);
                Ok(())
            };
            in_parallel(threads, 100, Ok, take).unwrap();
            taken.sort_unstable();
            assert!(taken.iter().copied().eq(0..100));
        }
        let begun = AtomicUsize::new(0);
        let work = |number| {
            begun.fetch_add(1, Ordering::Relaxed);
            if number == 3 { Err(SimulateError::Engine("third".into())) } else { Ok(number) }
        };
        let error = in_parallel(1, 100, work, |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("third") && begun.into_inner() == 4);
        in_parallel(2, 0, |_| -> Result<(), _> { unreachable!() }, |()| Ok(())).unwrap();
    }
}
