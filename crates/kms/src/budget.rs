//! A quota that this process must not exceed, and the queue of those who wait for it.

mod admission;
mod aimd;
mod budgeted;
mod further;
mod lane;
mod limit;
mod queue;
mod rules;
mod turns;
mod waiting;

use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

use keystrata_hierarchy::{RootContext, RootKeyError, Urgency};
use keystrata_memory::ProcessLocal;

pub(crate) use self::rules::Reason;
use self::{
    admission::Core,
    limit::Rate,
    rules::{Refusal, Rules},
};
pub use self::{
    budgeted::Budgeted,
    further::{SendAgain, further_request},
};
use crate::{breaker::Gate, timer::Timer};

/// How many calls this process may send to a KMS: a rate, a burst, and a queue for those who come when they are used up.
///
/// A KMS counts its quota per provider account and region, not per key, so one budget is shared, in an [`Arc`], by all
/// root keys of one quota; [`Budgeted`] puts one in front of a root key. In any span of time `t` the process sends at most
/// `burst + rate × t` attempts, retries and health checks included.
///
/// ```
/// use std::{num::NonZeroU32, sync::Arc};
/// use keystrata_kms::{Budget, Budgeted, LocalRootKey};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let (one, other) = (folder.path().join("one.key"), folder.path().join("other.key"));
/// # LocalRootKey::create(&one)?;
/// # LocalRootKey::create(&other)?;
/// let number = |n| NonZeroU32::new(n).expect("not zero");
/// // 20 processes share 500 calls a second; each may begin with 10 at once.
/// let budget = Arc::new(Budget::per_second(number(500), number(200)).share(number(20)));
/// let one = Budgeted::new(LocalRootKey::open(one)?, Arc::clone(&budget));
/// let other = Budgeted::new(LocalRootKey::open(other)?, budget);
/// # Ok(())
/// # }
/// ```
///
/// # Who goes first
/// - Foreground before background ([`Urgency`]). Background calls use what is left, but leave
///   [`foreground_share`](Self::foreground_share) of the burst in the bucket, so that somebody who comes finds tokens. Where
///   the foreground uses everything up, the background still gets the rest of that share.
/// - Among those of one urgency, accounts take turns. The account is the first segment of
///   [`RootContext::account`]: one tenant with many services has one turn. Calls without an account have one together.
/// - Within an account, the nearest deadline.
///
/// # Who is refused
/// Whoever has waited for [`max_wait`](Self::max_wait), and whoever finds the queue full. It has as many places as can be
/// served in that time. If the longest line is another account's, its last one is refused instead. A refusal is
/// [`RootKeyError::Overloaded`] and says after how long the queue of that moment will have been served.
///
/// # Cancellation
/// A caller who is dropped, or whose call is [withdrawn](keystrata_hierarchy::Demand::unwanted), gives its place back, and
/// its turn to the next. No attempt is cancelled here once it was sent: its token is spent and what becomes of it is its
/// caller's business. The engine's loads run in tasks of their own, so an attempt of theirs always runs to its end, and its
/// result is kept, whichever callers are dropped. A caller of your own who wants that must do the same: the future of an
/// attempt borrows its arguments, and copying secrets so that it could outlive its caller would be the greater evil.
///
/// # Runtimes and forks
/// Waiting needs no particular runtime: a [`Timer`] of its own wakes whoever is next. A runtime that is stopped takes no
/// token, holds nobody up, and makes no burst when it goes on. A forked child begins with a whole budget of its own, so a
/// pre-fork server divides its quota by [`share`](Self::share).
pub struct Budget {
    name: Arc<str>,
    rules: Rules,
    timer: Timer,
    core: ProcessLocal<Arc<Core>>,
}

/// What a [`Budget`] has counted in this process, and how it is at the moment.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct BudgetStats {
    /// Attempts let through.
    pub admitted: u64,
    /// Attempts refused as overloaded.
    pub refused: u64,
    /// Attempts that were dropped, withdrawn or cut off by a breaker while they waited.
    pub left: u64,
    /// How many wait now.
    pub waiting: usize,
    /// Attempts per second that are let through now: the configured rate, or what an adaptive budget has found.
    pub per_second: f64,
}

impl Budget {
    /// [`foreground_share`](Self::foreground_share) unless it is set.
    pub const DEFAULT_FOREGROUND_SHARE: f64 = 0.8;
    /// [`max_wait`](Self::max_wait) unless it is set: a caller behind it still answers its own client in time, and a load of
    /// the engine can be joined for longer.
    pub const DEFAULT_MAX_WAIT: Duration = Duration::from_secs(10);

    /// At most `rate` attempts a second, and `burst` at once after a pause.
    ///
    /// There is no default: the provider's quota says what it may be, and how many processes share it. See
    /// `docs/operations.md` for both.
    pub fn per_second(rate: NonZeroU32, burst: NonZeroU32) -> Self {
        let rules = Rules {
            rate: Rate::new(rate, burst),
            foreground_share: Self::DEFAULT_FOREGROUND_SHARE,
            max_wait: Self::DEFAULT_MAX_WAIT,
            is_adaptive: false,
        };
        Self::build(Arc::from("default"), rules, Timer::system())
    }

    fn build(name: Arc<str>, rules: Rules, timer: Timer) -> Self {
        let (core_name, core_rules, core_timer) = (Arc::clone(&name), rules.clone(), timer.clone());
        let core = ProcessLocal::new(move || Core::new(&core_name, core_rules.clone(), core_timer.clone()));
        Self { name, rules, timer, core }
    }

    /// Divides rate and burst by the number of processes that share the quota. The burst of each is at least 1, so with
    /// more processes than burst they may together begin with one each.
    pub fn share(self, processes: NonZeroU32) -> Self {
        self.with(|rules| rules.rate = rules.rate.divided(processes))
    }

    /// Finds this process's share by itself: the rate given is then the whole quota, and no process need know how many
    /// there are.
    ///
    /// It begins with a tenth of the rate, rises while it is used up, and falls by a fifth when the KMS throttles. That
    /// costs a few throttled attempts; [`share`](Self::share) costs none, but nobody uses what an idle process leaves.
    pub fn adaptive(self) -> Self {
        self.with(|rules| rules.is_adaptive = true)
    }

    /// What part of the budget is the foreground's, from 0 to 1; what is outside is taken for the nearest of these.
    /// Default: [0.8](Self::DEFAULT_FOREGROUND_SHARE). At 1 the background gets what the foreground leaves, which may be
    /// nothing.
    pub fn foreground_share(self, share: f64) -> Self {
        let share = if share.is_nan() { Self::DEFAULT_FOREGROUND_SHARE } else { share.clamp(0.0, 1.0) };
        self.with(|rules| rules.foreground_share = share)
    }

    /// How long a call waits at most. Default: [10 s](Self::DEFAULT_MAX_WAIT).
    ///
    /// The queue has `rate × max_wait` places, at least one: more could not be served in time. The rate is the present one,
    /// if the budget is [adaptive](Self::adaptive).
    pub fn max_wait(self, max_wait: Duration) -> Self {
        self.with(|rules| rules.max_wait = max_wait)
    }

    /// The name in metrics and logs: short, and one of a few. Default: `default`.
    pub fn named(self, name: &str) -> Self {
        Self::build(Arc::from(name), self.rules, self.timer)
    }

    /// What it waits on. Default: [`Timer::system`].
    pub fn timer(self, timer: Timer) -> Self {
        Self::build(self.name, self.rules, timer)
    }

    fn with(self, change: impl FnOnce(&mut Rules)) -> Self {
        let Self { name, mut rules, timer, .. } = self;
        change(&mut rules);
        Self::build(name, rules, timer)
    }

    /// Waits until an attempt may be sent, and counts it. For calls that go to the KMS by another way than a root key;
    /// [`Budgeted`] does this for each of its own.
    ///
    /// Sending follows at once, or the token is wasted.
    ///
    /// # Errors
    /// [`RootKeyError::Overloaded`] if it is refused, [`RootKeyError::Withdrawn`] if nobody wants it any more.
    ///
    /// # Cancellation
    /// Dropping the future gives the place back.
    pub async fn admit(&self, context: &RootContext) -> Result<(), RootKeyError> {
        self.admit_unless(context, None).await
    }

    async fn admit_unless(&self, context: &RootContext, gate: Option<&Gate>) -> Result<(), RootKeyError> {
        Core::admit(self.core.get(), context, gate).await
    }

    /// Takes a token for one more attempt, if one is there and nobody waits for it.
    fn admit_further(&self, urgency: Urgency) -> bool {
        self.core.get().admit_further(urgency)
    }

    /// Tells an adaptive budget how the KMS answered.
    fn report(&self, was_throttled: bool) {
        self.core.get().report(was_throttled);
    }

    /// What was counted so far.
    pub fn stats(&self) -> BudgetStats {
        self.core.get().stats()
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("name", &self.name).field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Refusal {
    fn into_error(self, max_wait: Duration) -> RootKeyError {
        let Self { reason, waiting, retry_after } = self;
        let message = match reason {
            Reason::QueueFull => format!(
                "the budget is used up and {waiting} calls wait for it; raise it, or the time to live of keys, if this lasts"
            ),
            Reason::Deadline => format!(
                "the call waited {max_wait:?} for the budget, and {waiting} more wait; raise it, or the time to live of \
                 keys, if this lasts"
            ),
        };
        RootKeyError::Overloaded { message, retry_after }
    }
}
