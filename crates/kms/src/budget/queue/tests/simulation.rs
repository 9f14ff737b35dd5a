//! Never too many attempts, whatever callers do.

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::*;

/// A bucket of its own arithmetic: never negative means never more than `burst + rate × t` in any window.
struct Bucket {
    period: u128,
    full: u128,
    level: u128,
    at: Duration,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        let period = rate.period.as_nanos();
        let full = period * u128::from(rate.burst.get());
        Self { period, full, level: full, at: START }
    }

    fn take(&mut self, now: Duration) {
        self.level = self.full.min(self.level + now.saturating_sub(self.at).as_nanos());
        self.at = now;
        assert!(self.level >= self.period, "one attempt too many at {now:?}");
        self.level -= self.period;
    }
}

/// Bursts, pauses, callers who come late or leave at any point, lifts and refusals, until about `attempts` were let
/// through: so many exactly are returned.
fn simulate(seed: u64, attempts: u64) -> u64 {
    let mut random = SmallRng::seed_from_u64(seed);
    let is_adaptive = random.random_bool(0.2);
    let rate = rules(random.random_range(1..2_000), random.random_range(1..100));
    let max_wait = Duration::from_millis(random.random_range(1..5_000));
    let rules = Rules { is_adaptive, max_wait, foreground_share: random.random_range(0.0..=1.0), ..rate };
    let mut bucket = Bucket::new(rules.rate);
    let mut office = Office::new(rules.clone());
    let (mut here, mut late) = ([0; 64], Vec::new());
    let mut admitted = 0;
    let mut entered = 0_u64;
    while admitted < attempts && entered < 20 * attempts {
        for _ in 0..random.random_range(0..8) {
            let account = ["", "a", "b", "c", "d", "e"][random.random_range(0..6)];
            let urgency = if random.random_bool(0.5) { Urgency::Foreground } else { Urgency::Background };
            entered += 1;
            match office.enter(account, urgency) {
                Ok(Entered::Admitted) => {
                    bucket.take(office.now);
                    admitted += 1;
                }
                Ok(Entered::Waiting(id)) => {
                    let place = random.random_range(0..64);
                    here[place] = id; // a few of many, to leave or to be lifted at any time
                }
                Err(refusal) => assert_eq!(refusal.reason, Reason::QueueFull),
            }
        }
        if random.random_bool(0.3) {
            office.queue.leave(here[random.random_range(0..64)]);
        }
        if random.random_bool(0.3) {
            office.queue.lift(here[random.random_range(0..64)]);
        }
        if random.random_bool(0.1) && office.queue.take_further(office.now) {
            bucket.take(office.now);
            admitted += 1;
        }
        if random.random_bool(0.1) {
            office.queue.report(office.now, random.random_bool(0.3));
        }
        let nap = rules.rate.period.mul_f64(random.random_range(0.0..4.0));
        let pause = if random.random_bool(0.001) { Duration::from_secs(30) } else { Duration::ZERO };
        office.now += nap + pause;
        office.dispatch();
        late.extend(office.take_woken());
        let keeps_away = random.random_bool(0.05);
        for id in mem::take(&mut late) {
            if keeps_away || random.random_bool(0.05) {
                late.push(id);
            } else if office.poll(id) == Poll::Ready(Ok(())) {
                bucket.take(office.now);
                admitted += 1;
            }
        }
        office.dispatch();
        let places = rules.places(rules.rate.per_second());
        let called_too_late = places + rules.rate.burst.get() as usize;
        assert!(office.queue.waiting() <= places + called_too_late);
    }
    let everybody: Vec<u64> = office.queue.entries.keys().copied().collect();
    for id in everybody {
        office.queue.leave(id);
    }
    assert_eq!((office.queue.held(), office.queue.waiting()), (0, 0), "all places were given back");
    assert_eq!(office.queue.counts().admitted, admitted);
    admitted
}

#[test]
fn never_more_than_burst_and_rate_in_any_window() {
    let attempts: u64 = (0..50).map(|seed| simulate(seed, 2_000)).sum();
    assert!(attempts > 50_000, "{attempts}");
}

#[test]
#[ignore = "10 million attempts, which `cargo xtask test --load` makes"]
fn never_more_than_burst_and_rate_in_ten_million_attempts() {
    let mut attempts = 0;
    let mut seeds = 0..;
    while attempts < 10_000_000 {
        attempts += seeds.next().map_or(0, |seed| simulate(seed, 10_000));
    }
}
