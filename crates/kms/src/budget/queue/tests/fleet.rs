//! Adaptive processes that share a quota and do not know of each other.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::*;

/// What ten adaptive processes do to one quota that knows nothing of them, and what they get of it.
#[derive(Default)]
struct Fleet {
    sent: [u64; 10],
    throttled: u64,
}

/// Attempts between processes and the KMS.
#[derive(Default)]
struct Wire {
    /// By time, then in the order of sending: who sent it, and whether it was throttled once it has arrived.
    under_way: BTreeMap<(Duration, u64), (usize, Option<bool>)>,
    number: u64,
}

impl Wire {
    /// Takes some milliseconds.
    fn send(&mut self, at: Duration, random: &mut SmallRng, sender: usize, answer: Option<bool>) {
        self.number += 1;
        self.under_way
            .insert((at + Duration::from_micros(random.random_range(500..20_000)), self.number), (sender, answer));
    }

    /// What has arrived by `now`, and when.
    fn arrived(&mut self, now: Duration) -> Option<(Duration, usize, Option<bool>)> {
        let first = self.under_way.first_entry().filter(|first| first.key().0 <= now)?;
        let ((at, _), (sender, answer)) = first.remove_entry();
        Some((at, sender, answer))
    }
}

fn run_fleet(seed: u64, quota: u32, seconds: std::ops::Range<u64>) -> Fleet {
    let mut random = SmallRng::seed_from_u64(seed);
    let rules = Rules { is_adaptive: true, ..rules(quota, 50) };
    let mut offices: [Office; 10] = std::array::from_fn(|_| Office::new(rules.clone()));
    // They do not begin alike: some come into a quota that others have filled.
    let begin: [u64; 10] = std::array::from_fn(|_| random.random_range(0..20_000));
    let mut kms = Limit::new(Rate { burst: NonZeroU32::new(quota / 10).unwrap(), ..rules.rate }, START);
    let mut wire = Wire::default();
    let mut fleet = Fleet::default();
    for millisecond in 0..seconds.end * 1_000 {
        let now = START + Duration::from_millis(millisecond);
        let is_measured = millisecond >= seconds.start * 1_000;
        for (index, office) in offices.iter_mut().enumerate() {
            if millisecond < begin[index] || (office.queue.waiting() > 0 && office.queue.next_event() > Some(now)) {
                continue;
            }
            office.now = now;
            let mut attempts = 0;
            // Always somebody who wants more.
            while office.queue.waiting() < 5 {
                attempts += usize::from(office.enter("a", Urgency::Foreground) == Ok(Entered::Admitted));
            }
            attempts += office.admitted(Duration::ZERO).len();
            (0..attempts).for_each(|_| wire.send(now, &mut random, index, None));
        }
        while let Some((at, index, answer)) = wire.arrived(now) {
            let Some(was_throttled) = answer else {
                let is_throttled = kms.take(at).is_err();
                if is_measured {
                    fleet.sent[index] += 1;
                    fleet.throttled += u64::from(is_throttled);
                }
                wire.send(at, &mut random, index, Some(is_throttled));
                continue;
            };
            let office = &mut offices[index];
            office.now = now;
            office.queue.report(now, was_throttled);
            // Where the rate rose, somebody may go at once.
            for _ in office.admitted(Duration::ZERO) {
                wire.send(now, &mut random, index, None);
            }
        }
    }
    fleet
}

#[test]
fn ten_adaptive_processes_converge_to_fair_shares_of_one_quota() {
    converges(1, 1_000, 40..160);
}

#[test]
#[ignore = "millions of attempts, which `cargo xtask test --load` makes"]
fn adaptive_processes_converge_under_small_and_large_quotas() {
    for seed in 2..6 {
        converges(seed, 500, 40..640);
        converges(seed, 1_000, 40..640);
        converges(seed, 5_500, 40..160);
    }
}

#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn converges(seed: u64, quota: u32, seconds: std::ops::Range<u64>) {
    let whole = f64::from(quota) * (seconds.end - seconds.start) as f64;
    let fleet = run_fleet(seed, quota, seconds);
    let (sent, throttled) = (fleet.sent.map(|sent| sent as f64), fleet.throttled as f64);
    let used: f64 = sent.iter().sum();
    println!("quota {quota}: used {:.3}, throttled {:.4}, {:?}", used / whole, throttled / used, fleet.sent);
    assert!(throttled / used < 0.02, "throttled: {throttled} of {used}");
    assert!(used / whole > 0.85, "the quota is used: {used} of {whole}");
    for sent in sent {
        let part = sent / (used / 10.0);
        assert!((0.8..=1.2).contains(&part), "a share of {part:.2} among {:?}", fleet.sent);
    }
}
