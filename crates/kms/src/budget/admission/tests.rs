use std::{
    future::pending,
    num::NonZeroU32,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::Context,
};

use keystrata_hierarchy::test_util::ManualClock;
use tokio::sync::oneshot;

use super::*;
use crate::budget::Budget;

const PERIOD: Duration = Duration::from_millis(100);

/// Ten a second, one at once, and that one is gone.
fn used_up() -> (ManualClock, Arc<Core>) {
    let clock = ManualClock::new();
    let budget = Budget::per_second(NonZeroU32::new(10).unwrap(), NonZeroU32::MIN).timer(Timer::on(clock.clone()));
    let core = Arc::clone(budget.core.get());
    assert_eq!(core.state().queue.enter(core.timer.now(), "a", Urgency::Foreground), Ok(Entered::Admitted));
    (clock, core)
}

/// One who waits, and the ends that lift and withdraw the call.
struct Waiter {
    call: Pin<Box<dyn Future<Output = Result<(), RootKeyError>>>>,
    lift: Option<oneshot::Sender<()>>,
    withdraw: Option<oneshot::Sender<()>>,
}

impl Waiter {
    fn new(core: &Arc<Core>, urgency: Urgency) -> Self {
        let (lift, lifted) = oneshot::channel::<()>();
        let (withdraw, withdrawn) = oneshot::channel::<()>();
        let core = Arc::clone(core);
        let call = Box::pin(async move {
            let entered = core.state().queue.enter(core.timer.now(), "a", urgency);
            let Ok(Entered::Waiting(id)) = entered else { panic!("{entered:?}") };
            let place = Held { core: &core, id: Some(id) };
            let until = |told: oneshot::Receiver<()>| async move {
                if told.await.is_err() {
                    pending::<()>().await;
                }
            };
            core.wait(place, urgency, until(lifted), until(withdrawn), pending()).await
        });
        Self { call, lift: Some(lift), withdraw: Some(withdraw) }
    }

    fn poll(&mut self) -> Poll<Result<(), RootKeyError>> {
        self.poll_with(Waker::noop())
    }

    fn poll_with(&mut self, waker: &Waker) -> Poll<Result<(), RootKeyError>> {
        self.call.as_mut().poll(&mut Context::from_waker(waker))
    }

    fn lift(&mut self) {
        self.lift.take().unwrap().send(()).unwrap();
    }

    fn withdraw(&mut self) {
        self.withdraw.take().unwrap().send(()).unwrap();
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Two who wait, in this order.
fn two_waiters(core: &Arc<Core>, urgency: Urgency) -> (Waiter, Waiter) {
    let (mut first, mut second) = (Waiter::new(core, urgency), Waiter::new(core, urgency));
    assert!(first.poll().is_pending());
    assert!(second.poll().is_pending());
    (first, second)
}

#[test]
fn a_background_call_that_is_lifted_goes_first() {
    let (clock, core) = used_up();
    let (mut first, mut second) = two_waiters(&core, Urgency::Background);
    second.lift();
    assert!(second.poll().is_pending());
    clock.advance(PERIOD);
    assert!(first.poll().is_pending());
    assert!(matches!(second.poll(), Poll::Ready(Ok(()))));
    clock.advance(PERIOD);
    assert!(matches!(first.poll(), Poll::Ready(Ok(()))));
}

#[test]
fn a_withdrawn_call_gives_its_place_to_the_next() {
    let (clock, core) = used_up();
    let (mut first, mut second) = two_waiters(&core, Urgency::Foreground);
    first.withdraw();
    assert!(matches!(first.poll(), Poll::Ready(Err(RootKeyError::Withdrawn))));
    assert_eq!(core.stats().waiting, 1);
    clock.advance(PERIOD);
    assert!(matches!(second.poll(), Poll::Ready(Ok(()))));
    assert_eq!(core.stats().left, 1);
}

#[test]
fn a_call_that_was_called_and_is_withdrawn_passes_its_turn_on() {
    let (clock, core) = used_up();
    let (mut first, mut second) = two_waiters(&core, Urgency::Foreground);
    clock.advance(PERIOD); // now the first is called
    first.withdraw();
    assert!(matches!(first.poll(), Poll::Ready(Err(RootKeyError::Withdrawn))));
    assert!(matches!(second.poll(), Poll::Ready(Ok(()))));
}

#[test]
fn a_waker_that_panics_leaves_the_others_their_wake() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            std::panic::resume_unwind(Box::new("a runtime that went wrong"));
        }
    }
    let clock = ManualClock::new();
    let two = NonZeroU32::new(2).unwrap();
    let budget = Budget::per_second(NonZeroU32::new(10).unwrap(), two).timer(Timer::on(clock.clone()));
    let core = Arc::clone(budget.core.get());
    for _ in 0..2 {
        assert_eq!(core.state().queue.enter(core.timer.now(), "a", Urgency::Foreground), Ok(Entered::Admitted));
    }
    let (mut first, mut second) = (Waiter::new(&core, Urgency::Foreground), Waiter::new(&core, Urgency::Foreground));
    let woken = Arc::new(Woken::default());
    assert!(first.poll_with(&Waker::from(Arc::new(Panics))).is_pending());
    assert!(second.poll_with(&Waker::from(Arc::clone(&woken))).is_pending());
    clock.advance(2 * PERIOD); // both at once
    assert!(woken.0.load(Ordering::SeqCst));
}

#[test]
fn one_tenant_is_one_account_however_many_services_it_has() {
    use keystrata_hierarchy::{KekId, KekVersion, KeyPath, Suite};
    use keystrata_primitives::KekIdentity;
    let account = |segments: &[&str]| {
        let identity = KekIdentity {
            suite: Suite::default(),
            version: KekVersion::FIRST,
            id: KekId::from_bytes([1; KekId::LEN]),
            path: KeyPath::new(segments).unwrap(),
        };
        account_of(&RootContext::of_kek(&identity)).to_owned()
    };
    assert_eq!(account(&["acme", "billing"]), "acme");
    assert_eq!(account(&["acme"]), "acme");
    assert_ne!(account(&["acme/billing"]), "acme");
    assert_eq!(account_of(&RootContext::none()), "");
}

#[test]
fn who_waits_is_called_earlier_once_the_rate_rises() {
    let clock = ManualClock::new();
    let number = |n| NonZeroU32::new(n).unwrap();
    let budget = Budget::per_second(number(100), number(1)).adaptive().timer(Timer::on(clock.clone()));
    let core = Arc::clone(budget.core.get());
    for _ in 0..40 {
        clock.advance(Duration::from_millis(300));
        core.report(true);
    }
    assert!((core.stats().per_second - 0.2).abs() < 1e-9, "the slowest pace: one in five seconds");
    assert_eq!(core.state().queue.enter(core.timer.now(), "a", Urgency::Foreground), Ok(Entered::Admitted));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut waiter = Waiter::new(&core, Urgency::Foreground);
    assert!(waiter.poll_with(&waker).is_pending());
    clock.advance(PERIOD);
    core.report(false); // now it is 0.3, and so one in three seconds and a third
    assert!((core.stats().per_second - 0.3).abs() < 1e-9);
    clock.advance(Duration::from_millis(3_200));
    assert!(!woken.0.load(Ordering::SeqCst));
    clock.advance(Duration::from_millis(50));
    assert!(woken.0.load(Ordering::SeqCst), "nobody else came to look");
    assert!(matches!(waiter.poll(), Poll::Ready(Ok(()))));
}
