//! The queue by hand, then at random, then many of them on one quota.

mod fleet;
mod simulation;

use std::{
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    task::Wake,
};

use super::{super::limit::Rate, *};

const START: Duration = Duration::from_secs(1_000);

fn rules(per_second: u32, burst: u32) -> Rules {
    let number = |n| NonZeroU32::new(n).unwrap();
    Rules {
        rate: Rate::new(number(per_second), number(burst)),
        foreground_share: 0.8,
        max_wait: Duration::from_secs(10),
        is_adaptive: false,
    }
}

/// A queue whose callers come as soon as they are woken, unless a test keeps them away.
struct Office {
    queue: Queue,
    now: Duration,
    woken: Arc<Mutex<Vec<u64>>>,
}

struct Note(Arc<Mutex<Vec<u64>>>, u64);

impl Wake for Note {
    fn wake(self: Arc<Self>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(self.1);
    }
}

impl Office {
    fn new(rules: Rules) -> Self {
        Self { queue: Queue::new(rules, START), now: START, woken: Arc::default() }
    }

    fn enter(&mut self, account: &str, urgency: Urgency) -> Result<Entered, Refusal> {
        let entered = self.queue.enter(self.now, account, urgency);
        if let Ok(Entered::Waiting(id)) = entered {
            assert_eq!(self.poll(id), Poll::Pending);
        }
        self.dispatch();
        entered
    }

    /// The ids of `n` who have to wait.
    fn wait(&mut self, n: usize, account: &str, urgency: Urgency) -> Vec<u64> {
        let mut enter = || match self.enter(account, urgency) {
            Ok(Entered::Waiting(id)) => id,
            other => panic!("{other:?}"),
        };
        (0..n).map(|_| enter()).collect()
    }

    fn use_up_burst(&mut self) {
        while self.enter("early bird", Urgency::Foreground) == Ok(Entered::Admitted) {}
        let waiting: Vec<u64> = self.queue.entries.keys().copied().collect();
        for id in waiting {
            self.queue.leave(id);
        }
    }

    fn poll(&mut self, id: u64) -> Poll<Result<(), Refusal>> {
        let waker = Waker::from(Arc::new(Note(Arc::clone(&self.woken), id)));
        self.queue.poll(self.now, id, &waker)
    }

    fn dispatch(&mut self) {
        self.queue.dispatch(self.now);
        for waker in self.queue.take_woken() {
            waker.wake();
        }
    }

    fn take_woken(&self) -> Vec<u64> {
        mem::take(&mut *self.woken.lock().unwrap())
    }

    /// Goes on to the next event, at `until` at the latest. Who was let through or refused meanwhile?
    fn step(&mut self, until: Duration) -> Vec<(u64, Result<(), Refusal>)> {
        self.now = self.queue.next_event().map_or(until, |next| next.clamp(self.now, until));
        self.dispatch();
        let mut told = Vec::new();
        loop {
            let woken = self.take_woken();
            if woken.is_empty() {
                return told;
            }
            for id in woken {
                if let Poll::Ready(answer) = self.poll(id) {
                    told.push((id, answer));
                }
            }
            self.dispatch();
        }
    }

    fn run(&mut self, by: Duration) -> Vec<(u64, Result<(), Refusal>)> {
        let until = self.now + by;
        let mut told = self.step(until);
        while self.now < until {
            told.extend(self.step(until));
        }
        told
    }

    fn admitted(&mut self, by: Duration) -> Vec<u64> {
        self.run(by).into_iter().filter_map(|(id, answer)| answer.is_ok().then_some(id)).collect()
    }
}

#[test]
fn the_burst_passes_at_once_and_the_rest_at_the_rate() {
    let mut office = Office::new(rules(10, 5));
    for _ in 0..5 {
        assert_eq!(office.enter("a", Urgency::Foreground), Ok(Entered::Admitted));
    }
    let ids = office.wait(20, "a", Urgency::Foreground);
    assert_eq!(office.admitted(Duration::from_secs(1)), ids[..10]);
    assert!(office.admitted(Duration::from_millis(99)).is_empty());
    assert_eq!(office.admitted(Duration::from_secs(10)), ids[10..]);
    assert_eq!(office.queue.held(), 0);
}

#[test]
fn ten_thousand_calls_of_one_account_do_not_delay_one_of_another() {
    let mut office = Office::new(rules(1_000, 1));
    office.use_up_burst();
    office.wait(10_000, "many", Urgency::Foreground);
    let one = office.wait(1, "one", Urgency::Foreground);
    let admitted = office.admitted(Duration::from_millis(2));
    assert!(admitted.contains(&one[0]), "among the first two: {admitted:?}");
}

#[test]
fn accounts_get_equal_parts_however_much_they_ask_for() {
    let mut office = Office::new(rules(1_000, 1));
    office.use_up_burst();
    let accounts = [("a", 5_000), ("b", 500), ("c", 100)];
    let ids = accounts.map(|(account, n)| office.wait(n, account, Urgency::Foreground));
    let admitted = office.admitted(Duration::from_millis(300));
    let parts = ids.map(|ids| admitted.iter().filter(|id| ids.contains(id)).count());
    assert_eq!(parts, [100, 100, 100]);
}

#[test]
fn background_calls_leave_the_reserve_to_the_foreground() {
    let mut office = Office::new(rules(10, 10));
    let background: Vec<_> = (0..50).map(|_| office.enter("bulk", Urgency::Background)).collect();
    let at_once = background.iter().filter(|entered| **entered == Ok(Entered::Admitted)).count();
    assert_eq!(at_once, 2);
    for _ in 0..8 {
        assert!(office.enter("a", Urgency::Foreground).is_ok());
    }
    let foreground = office.admitted(Duration::ZERO);
    assert_eq!(foreground.len(), 8, "those who come find the reserve");
}

#[test]
fn the_background_uses_all_of_the_rate_while_nobody_else_does() {
    let mut office = Office::new(rules(10, 10));
    for _ in 0..102 {
        let _ = office.enter("bulk", Urgency::Background);
    }
    let admitted = office.admitted(Duration::from_secs(9)).len();
    assert_eq!(admitted, 90);
}

#[test]
fn neither_urgency_starves_the_other() {
    let mut office = Office::new(rules(100, 10));
    office.use_up_burst();
    let background = office.wait(400, "bulk", Urgency::Background);
    office.wait(500, "a", Urgency::Foreground);
    let admitted = office.admitted(Duration::from_secs(5));
    let of_background = admitted.iter().filter(|id| background.contains(id)).count();
    assert_eq!((admitted.len(), of_background), (500, 100), "a fifth, and no more");
}

#[test]
fn what_the_background_has_earned_is_spent_once() {
    let mut office = Office::new(rules(10, 10));
    office.use_up_burst();
    office.wait(1, "bulk", Urgency::Background);
    office.wait(4, "a", Urgency::Foreground);
    office.admitted(Duration::from_millis(400)); // four went before the background
    let bulk: Vec<u64> = office.queue.entries.keys().copied().collect();
    office.queue.leave(bulk[0]);
    office.now += Duration::from_secs(10);
    let at_once = (0..10).filter(|_| office.enter("bulk", Urgency::Background) == Ok(Entered::Admitted)).count();
    assert_eq!(at_once, 2, "the reserve holds again");
}

#[test]
fn the_longest_wait_there_is_does_no_harm() {
    let mut office = Office::new(Rules { max_wait: Duration::MAX, ..rules(1, 1) });
    office.use_up_burst();
    let ids = office.wait(3, "a", Urgency::Foreground);
    assert_eq!(office.admitted(Duration::from_secs(3)), ids);
}

#[test]
fn a_lifted_call_goes_with_the_foreground_and_keeps_its_age() {
    let mut office = Office::new(rules(10, 1));
    office.use_up_burst();
    let bulk = office.wait(20, "a", Urgency::Background);
    office.now += Duration::from_millis(1);
    let foreground = office.wait(20, "a", Urgency::Foreground);
    office.queue.lift(bulk[7]);
    office.queue.lift(bulk[7]);
    office.queue.lift(foreground[0]);
    assert_eq!(office.admitted(Duration::from_millis(200)), [bulk[7], foreground[0]]);
}

#[test]
fn who_leaves_gives_the_place_and_the_turn_back() {
    let mut office = Office::new(rules(10, 1));
    office.use_up_burst();
    let ids = office.wait(3, "a", Urgency::Foreground);
    office.queue.leave(ids[0]);
    // The second is called and leaves before it comes: the third has the same turn.
    office.now = office.queue.next_event().unwrap();
    office.dispatch();
    assert_eq!(office.take_woken(), [ids[1]]);
    office.queue.leave(ids[1]);
    office.dispatch();
    assert_eq!(office.take_woken(), [ids[2]]);
    assert_eq!(office.poll(ids[2]), Poll::Ready(Ok(())));
    assert_eq!(office.queue.held(), 0);
    assert_eq!(office.queue.counts().left, 2 + 1, "and one that used up the burst");
}

#[test]
fn a_runtime_that_stood_still_makes_no_burst_and_held_nobody_up() {
    let mut office = Office::new(rules(100, 2));
    office.use_up_burst();
    let stopped = office.wait(500, "stopped", Urgency::Foreground);
    let other = office.wait(100, "other", Urgency::Foreground);
    let until = office.now + Duration::from_secs(3);
    let mut admitted = Vec::new();
    while office.now < until {
        office.now = office.queue.next_event().unwrap().min(until);
        office.dispatch();
        for id in office.take_woken() {
            if other.contains(&id) && office.poll(id) == Poll::Ready(Ok(())) {
                admitted.push(id);
            }
            office.dispatch();
        }
    }
    assert_eq!(admitted, other, "each second turn was theirs, and came in time");
    // It goes on: everybody who was called comes at once.
    let passed = stopped.iter().filter(|id| office.poll(**id) == Poll::Ready(Ok(()))).count();
    assert_eq!(passed, 2, "the burst");
    // The other 198 who missed their turn wait for another one.
    assert_eq!(office.admitted(Duration::from_secs(1)).len(), 100);
}

#[test]
fn the_deadline_refuses_and_says_how_long_to_wait() {
    let mut office = Office::new(Rules { max_wait: Duration::from_secs(1), ..rules(10, 1) });
    office.use_up_burst();
    let ids = office.wait(10, "a", Urgency::Foreground);
    for id in &ids[..5] {
        office.queue.leave(*id);
    }
    office.now += Duration::from_secs(1); // nobody dispatched meanwhile
    let told = office.step(office.now);
    assert_eq!(told.len(), 5);
    for (_, answer) in told {
        let refusal = answer.unwrap_err();
        assert_eq!(refusal.reason, Reason::Deadline);
        assert!(refusal.retry_after >= Duration::from_millis(100), "{refusal:?}");
    }
    assert_eq!(office.queue.held(), 0);
}

#[test]
fn a_full_queue_takes_the_place_from_the_longest_line() {
    let mut office = Office::new(Rules { max_wait: Duration::from_secs(1), ..rules(10, 1) });
    office.use_up_burst();
    let bulk = office.wait(1, "bulk", Urgency::Background);
    let many = office.wait(9, "many", Urgency::Foreground);
    let refused = |told: &[(u64, Result<(), Refusal>)]| -> Vec<u64> {
        told.iter().filter(|(_, answer)| answer.is_err()).map(|(id, _)| *id).collect()
    };
    // The background first, then the last of the longest line, and nobody for its own account's sake.
    office.wait(1, "one", Urgency::Foreground);
    assert_eq!(refused(&office.step(office.now)), bulk);
    office.wait(1, "two", Urgency::Foreground);
    assert_eq!(refused(&office.step(office.now)), [many[8]]);
    let refusal = office.enter("many", Urgency::Foreground).unwrap_err();
    assert_eq!((refusal.reason, refusal.waiting), (Reason::QueueFull, 10));
    assert_eq!(refusal.retry_after, Duration::from_millis(1_100));
    assert!(office.enter("bulk", Urgency::Background).is_err());
    assert_eq!(office.queue.waiting(), 10);
}

#[test]
fn an_adaptive_queue_is_as_long_as_its_present_rate_serves() {
    let rules = Rules { is_adaptive: true, ..rules(100, 1) };
    let mut office = Office::new(rules);
    office.use_up_burst();
    // It begins at a tenth of the quota: ten a second, for ten seconds each.
    let per_second = office.queue.per_second();
    assert!((per_second - 10.0).abs() < 1e-9, "{per_second}");
    office.wait(100, "a", Urgency::Foreground);
    let refusal = office.enter("a", Urgency::Foreground).unwrap_err();
    assert_eq!((refusal.reason, refusal.waiting), (Reason::QueueFull, 100));
}

#[test]
fn a_further_attempt_takes_a_token_that_nobody_waits_for() {
    let mut office = Office::new(rules(10, 2));
    assert!(office.queue.take_further(office.now));
    assert!(office.queue.take_further(office.now));
    assert!(!office.queue.take_further(office.now), "the burst is used up");
    let first = office.wait(1, "a", Urgency::Foreground);
    office.now += Duration::from_millis(100);
    assert!(!office.queue.take_further(office.now), "somebody waits for that one");
    office.dispatch();
    assert_eq!(office.poll(first[0]), Poll::Ready(Ok(())));
    office.now += Duration::from_millis(100);
    assert!(office.queue.take_further(office.now));
    assert_eq!(office.queue.counts().admitted, 4);
}

#[test]
fn a_clock_that_runs_backwards_lets_nobody_through_twice() {
    let mut office = Office::new(rules(10, 1));
    assert_eq!(office.enter("a", Urgency::Foreground), Ok(Entered::Admitted));
    office.now -= Duration::from_secs(500);
    let ids = office.wait(1, "a", Urgency::Foreground);
    office.now = START + Duration::from_millis(100);
    office.dispatch();
    assert_eq!(office.poll(ids[0]), Poll::Ready(Ok(())));
}
