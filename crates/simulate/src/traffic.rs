//! Traffic that is made up: when which process is asked to seal or open for which account.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rand_distr::{Distribution, Exp1, weighted::WeightedAliasIndex};

use crate::{draft::Routing, error::SimulateError, scenario::Traffic, span::SECOND};

/// One operation that somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Nanoseconds since the beginning.
    pub(crate) at: u64,
    pub(crate) process: u32,
    pub(crate) account: u32,
    pub(crate) is_seal: bool,
}

/// Numbers for different purposes that all follow from one seed.
pub(crate) fn seed_of(seed: u64, purpose: &str, number: u32) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(&number.to_le_bytes()).update(purpose.as_bytes());
    let hash = hasher.finalize();
    u64::from_le_bytes(std::array::from_fn(|index| hash.as_bytes()[index]))
}

/// How much traffic there is at each time, as a multiple of the average day's. Constant within each step.
#[derive(Debug)]
pub(crate) struct Shape {
    step: u64,
    factors: Vec<f64>,
    end: u64,
}

impl Shape {
    #[expect(clippy::cast_precision_loss, reason = "seconds of a month")]
    pub(crate) fn new(traffic: &Traffic) -> Self {
        let end = traffic.duration.nanos();
        let hours = traffic.day_curve.hours();
        if hours.len() == 1 && traffic.bursts.is_empty() {
            return Self { step: end, factors: vec![1.0], end };
        }
        let mean = hours.iter().sum::<f64>() / hours.len() as f64;
        let at = |second: u64| {
            // Straight from each full hour to the next.
            let hour = second as f64 / 3_600.0;
            let (whole, part) = (second / 3_600, hour.fract());
            let of = |hour: u64| hours[usize::try_from(hour % hours.len() as u64).unwrap_or_default()];
            let curve = (of(whole) * (1.0 - part) + of(whole + 1) * part) / mean;
            let now = second * SECOND;
            let is_on = |at: u64, lasts: u64| (at..at.saturating_add(lasts)).contains(&now);
            let bursts = traffic.bursts.iter().filter(|burst| is_on(burst.at.nanos(), burst.lasts.nanos()));
            curve * bursts.map(|burst| burst.times).product::<f64>()
        };
        Self { step: SECOND, factors: (0..end.div_ceil(SECOND)).map(at).collect(), end }
    }

    /// The mean of all.
    #[expect(clippy::cast_precision_loss, reason = "seconds of a month")]
    pub(crate) fn mean(&self) -> f64 {
        self.factors.iter().sum::<f64>() / self.factors.len() as f64
    }
}

/// Which accounts a process is asked for, and how much of all traffic that is.
#[derive(Debug)]
struct Share {
    accounts: WeightedAliasIndex<f64>,
    part: f64,
}

/// What the processes of a fleet are asked for.
#[derive(Debug)]
pub(crate) struct Fleet {
    shape: Shape,
    /// Operations a nanosecond, of all processes.
    rate: f64,
    seals: f64,
    seed: u64,
    /// One for all processes, or one for each. None where a process has no account.
    shares: Vec<Option<Share>>,
}

impl Fleet {
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    pub(crate) fn new(traffic: &Traffic, seed: u64) -> Result<Self, SimulateError> {
        let weights: Vec<f64> =
            (0..traffic.accounts).map(|account| (f64::from(account) + 1.0).powf(-traffic.skew)).collect();
        let total: f64 = weights.iter().sum();
        let share = |weights: Vec<f64>, part: f64| {
            let accounts = WeightedAliasIndex::new(weights)
                .map_err(|error| SimulateError::setting("skew", format!("no traffic can be made of it: {error}")))?;
            Ok(Share { accounts, part })
        };
        let shares = match traffic.routing {
            Routing::Any => vec![Some(share(weights, 1.0 / f64::from(traffic.processes))?)],
            Routing::Sticky => {
                let home = |account: u32| seed_of(seed, "home", account) % u64::from(traffic.processes);
                let homes: Vec<u64> = (0..traffic.accounts).map(home).collect();
                let of = |process: u32| {
                    let is_here = |account: usize| homes[account] == u64::from(process);
                    let here: Vec<f64> = weights
                        .iter()
                        .enumerate()
                        .map(|(account, weight)| if is_here(account) { *weight } else { 0.0 })
                        .collect();
                    let part = here.iter().sum::<f64>() / total;
                    (part > 0.0).then(|| share(here, part)).transpose()
                };
                (0..traffic.processes).map(of).collect::<Result<_, SimulateError>>()?
            }
        };
        let rate = traffic.rate / SECOND as f64;
        Ok(Self { shape: Shape::new(traffic), rate, seals: traffic.seals, seed, shares })
    }

    /// About how many operations there will be.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate"
    )]
    pub(crate) fn expected(&self) -> u64 {
        (self.rate * self.shape.mean() * self.shape.end as f64) as u64
    }

    fn share(&self, process: u32) -> Option<&Share> {
        let index = if self.shares.len() == 1 { 0 } else { process as usize };
        self.shares.get(index)?.as_ref()
    }
}

/// What some of the processes are asked for, in order of time.
#[derive(Debug)]
pub(crate) struct Stream {
    fleet: Arc<Fleet>,
    sources: Vec<Source>,
    /// When each source's next is due. Of one source there is no need to ask.
    order: BinaryHeap<Reverse<(u64, usize)>>,
}

/// One process's requests.
#[derive(Debug)]
struct Source {
    process: u32,
    random: SmallRng,
    at: u64,
    step: usize,
}

impl Source {
    /// When the next one comes: as far apart as chance has them at this rate. A step's end forgets nothing, as chance has no
    /// memory.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "nanoseconds, which saturate")]
    fn advance(&mut self, fleet: &Fleet) -> Option<u64> {
        let part = fleet.share(self.process)?.part;
        loop {
            let factor = *fleet.shape.factors.get(self.step)?;
            let end = (self.step as u64 + 1).saturating_mul(fleet.shape.step).min(fleet.shape.end);
            let rate = fleet.rate * part * factor;
            if rate > 0.0 {
                let gap: f64 = Exp1.sample(&mut self.random);
                let at = self.at.saturating_add((gap / rate) as u64);
                if at < end {
                    self.at = at;
                    return Some(at);
                }
            }
            self.at = end;
            self.step += 1;
        }
    }

    fn request(&mut self, fleet: &Fleet, at: u64) -> Option<Request> {
        let share = fleet.share(self.process)?;
        let account = u32::try_from(share.accounts.sample(&mut self.random)).ok()?;
        let is_seal = self.random.random::<f64>() < fleet.seals;
        Some(Request { at, process: self.process, account, is_seal })
    }
}

impl Stream {
    pub(crate) fn new(fleet: &Arc<Fleet>, processes: &[u32]) -> Self {
        let source = |process: &u32| Source {
            process: *process,
            random: SmallRng::seed_from_u64(seed_of(fleet.seed, "traffic", *process)),
            at: 0,
            step: 0,
        };
        let mut stream = Self {
            fleet: Arc::clone(fleet),
            sources: processes.iter().map(source).collect(),
            order: BinaryHeap::new(),
        };
        for index in 0..stream.sources.len() {
            stream.schedule(index);
        }
        stream
    }

    fn schedule(&mut self, index: usize) {
        if let Some(at) = self.sources[index].advance(&self.fleet) {
            self.order.push(Reverse((at, index)));
        }
    }
}

impl Iterator for Stream {
    type Item = Request;

    fn next(&mut self) -> Option<Request> {
        let mut first = self.order.peek_mut()?;
        let Reverse((at, index)) = *first;
        let source = &mut self.sources[index];
        let request = source.request(&self.fleet, at);
        // In place: putting a later one where the first was is half of taking out and putting in.
        match source.advance(&self.fleet) {
            Some(next) => *first = Reverse((next, index)),
            None => {
                std::collections::binary_heap::PeekMut::pop(first);
            }
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{draft::Draft, prices::Prices, scenario::Scenario};

    fn fleet(settings: &str) -> Arc<Fleet> {
        let scenario = Scenario::new(&Draft::parse(settings).unwrap(), &Prices::built_in().unwrap()).unwrap();
        Arc::new(Fleet::new(&scenario.traffic, scenario.seed).unwrap())
    }

    const SMALL: &str = "processes = 3\naccounts = 50\nrate = 100.0\nduration = \"1h\"\n";

    #[test]
    fn traffic_is_in_order_and_as_much_as_was_asked_for() {
        let requests: Vec<_> = Stream::new(&fleet(SMALL), &[0, 1, 2]).collect();
        assert!(requests.is_sorted_by_key(|request| request.at));
        let (all, seals) = (requests.len(), requests.iter().filter(|request| request.is_seal).count());
        assert!((358_000..362_000).contains(&all) && (70_000..74_000).contains(&seals), "{all} {seals}");
        let of = |account| requests.iter().filter(|request| request.account == account).count();
        let ratio = of(0) * 100 / of(9);
        assert!((900..1_100).contains(&ratio), "the tenth has a tenth: {ratio}");
    }

    #[test]
    fn a_process_is_asked_for_the_same_whoever_is_simulated_beside_it() {
        let fleet = fleet(SMALL);
        let alone: Vec<_> = Stream::new(&fleet, &[1]).take(1_000).collect();
        let beside = Stream::new(&fleet, &[0, 1, 2]).filter(|request| request.process == 1);
        assert_eq!(alone, beside.take(1_000).collect::<Vec<_>>());
    }

    #[test]
    fn sticky_accounts_have_one_process_each() {
        let fleet = fleet(&format!("{SMALL}routing = \"sticky\""));
        let mut homes = std::collections::BTreeMap::new();
        for request in Stream::new(&fleet, &[0, 1, 2]) {
            assert_eq!(*homes.entry(request.account).or_insert(request.process), request.process);
        }
        assert_eq!(homes.len(), 50);
    }

    #[test]
    fn days_and_bursts_have_their_shape() {
        let fleet = fleet(
            "accounts = 5\nrate = 10.0\nday_curve = \"office\"\nburst = [\"2h/30m/x10\"]\nprocesses = 1\nduration = \"1d\"",
        );
        let mut hours = [0_u32; 48];
        for request in Stream::new(&fleet, &[0]) {
            hours[usize::try_from(request.at / (1_800 * SECOND)).unwrap()] += 1;
        }
        assert!(hours[20] > 10 * hours[2], "{hours:?}");
        assert!(hours[4] > 8 * hours[5] && hours[4] < 12 * hours[5], "{hours:?}");
    }
}
