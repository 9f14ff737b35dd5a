//! What an account's keys are held to: how long they live, and when a new one is made.

use std::{fmt, num::NonZeroU64, sync::Arc, time::Duration};

use crate::error::BuildError;

/// How the KEKs of an account are kept. Checked when it was [built](PolicyBuilder::build); cheap to clone.
///
/// ```
/// use std::time::Duration;
/// use keystrata_hierarchy::Policy;
///
/// let banks = Policy::builder().kek_ttl(Duration::from_secs(30)).max_age(Duration::from_secs(90 * 24 * 3_600)).build()?;
/// assert_eq!(banks.kek_ttl(), Duration::from_secs(30));
/// # Ok::<(), keystrata_hierarchy::BuildError>(())
/// ```
#[derive(Clone, Default, PartialEq)]
pub struct Policy(Arc<PolicyBuilder>);

/// What a [`Policy`] is made of.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a builder does nothing until `build`"]
pub struct PolicyBuilder {
    kek_ttl: Duration,
    is_ttl_capped: bool,
    ttl_jitter: f64,
    refresh_ahead: bool,
    max_stale: Duration,
    stream_ttl: Option<Duration>,
    ceilings: Ceilings,
}

/// When a new primary is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ceilings {
    pub(crate) wraps: Option<NonZeroU64>,
    pub(crate) bytes: Option<NonZeroU64>,
    pub(crate) age: Option<Duration>,
}

impl Ceilings {
    /// Whether there is any.
    pub(crate) fn exist(&self) -> bool {
        *self != Self::default()
    }

    /// Whether a KEK that has sealed so much should seal no more.
    pub(crate) fn are_reached(&self, wraps: u64, bytes: u64) -> bool {
        // >=, not >: a key at its limit should not seal one more.
        self.wraps.is_some_and(|limit| wraps >= limit.get()) || self.bytes.is_some_and(|limit| bytes >= limit.get())
    }
}

impl Policy {
    /// The longest TTL without [saying that it is meant](PolicyBuilder::dangerous_uncapped_kek_ttl): 24 hours.
    pub const MAX_KEK_TTL: Duration = Duration::from_secs(24 * 60 * 60);
    /// The longest time that [`PolicyBuilder::max_stale`] takes: 1 hour.
    pub const MAX_STALE: Duration = Duration::from_secs(60 * 60);
    /// The most that [`PolicyBuilder::ttl_jitter`] takes: half of the TTL.
    pub const MAX_TTL_JITTER: f64 = 0.5;

    /// Begins a policy with the defaults.
    pub fn builder() -> PolicyBuilder {
        PolicyBuilder::default()
    }

    /// The same settings, to be changed into another policy.
    pub fn to_builder(&self) -> PolicyBuilder {
        PolicyBuilder::clone(&self.0)
    }

    pub(crate) fn into_builder(self) -> PolicyBuilder {
        Arc::unwrap_or_clone(self.0)
    }

    /// See [`PolicyBuilder::kek_ttl`].
    pub fn kek_ttl(&self) -> Duration {
        self.0.kek_ttl
    }

    /// See [`PolicyBuilder::max_stale`].
    pub fn max_stale(&self) -> Duration {
        self.0.max_stale
    }

    /// See [`PolicyBuilder::stream_ttl`].
    pub fn stream_ttl(&self) -> Duration {
        self.0.stream_ttl.unwrap_or(self.0.kek_ttl)
    }

    pub(crate) fn caches_nothing(&self) -> bool {
        self.0.kek_ttl.is_zero()
    }

    pub(crate) fn ttl_jitter(&self) -> f64 {
        self.0.ttl_jitter
    }

    pub(crate) fn ceilings(&self) -> &Ceilings {
        &self.0.ceilings
    }

    /// The life of one KEK, and how long before its end it is renewed; `chance` is from 0 to 1.
    pub(crate) fn life(&self, chance: f64) -> (Duration, Option<Duration>) {
        let life = shortened(self.0.kek_ttl, self.0.ttl_jitter * chance.clamp(0.0, 1.0));
        (life, self.0.refresh_ahead.then(|| life / 10))
    }
}

/// `time` less a part of it. Not by multiplying: `Duration::MAX` as a float is more than it was.
fn shortened(time: Duration, part: f64) -> Duration {
    time.saturating_sub(time.mul_f64(part))
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Default for PolicyBuilder {
    fn default() -> Self {
        Self {
            kek_ttl: Duration::from_secs(5 * 60),
            is_ttl_capped: true,
            ttl_jitter: 0.05,
            refresh_ahead: true,
            max_stale: Duration::ZERO,
            stream_ttl: None,
            ceilings: Ceilings::default(),
        }
    }
}

impl PolicyBuilder {
    /// How long a decrypted KEK may be used, counted from the moment the KMS was asked. Default: 5 minutes.
    ///
    /// This is also how long a root key that was revoked goes on working here, and what the number of KMS calls follows:
    /// one per account and process in each such span with traffic. Zero caches nothing: every seal and open asks the KMS;
    /// of a group's or a parent's KEK, once for all who wait for it at the time.
    /// At most [`Policy::MAX_KEK_TTL`].
    ///
    /// A KEK that another KEK wraps lives for its own TTL too, and never longer than that one: a root key that was revoked
    /// goes on working for the TTL of what it wraps. Below a KEK that is not cached, as the topology says at each load, none is.
    pub fn kek_ttl(mut self, ttl: Duration) -> Self {
        (self.kek_ttl, self.is_ttl_capped) = (ttl, true);
        self
    }

    /// [`kek_ttl`](Self::kek_ttl) above the cap. A key that was revoked goes on working that long, and its bytes stay in
    /// memory that long.
    pub fn dangerous_uncapped_kek_ttl(mut self, ttl: Duration) -> Self {
        (self.kek_ttl, self.is_ttl_capped) = (ttl, false);
        self
    }

    /// By how much of the TTL lives differ at most, always downward, so that keys loaded at once are not all due at once. Of
    /// KEKs that end with their parent's because it ends sooner, at most a fortieth of what it leaves them.
    /// Default: 0.05. At most [`Policy::MAX_TTL_JITTER`]; 0 for none.
    pub fn ttl_jitter(mut self, part: f64) -> Self {
        self.ttl_jitter = part;
        self
    }

    /// Whether a KEK that is used in the last tenth of its life is renewed in the background, so that nobody waits at its
    /// end. Default: yes. Costs up to a ninth more KMS calls under steady traffic.
    pub fn refresh_ahead(mut self, refresh: bool) -> Self {
        self.refresh_ahead = refresh;
        self
    }

    /// How much longer a KEK may be used while the KMS or the store is throttling or unavailable, or this process's budget
    /// refuses the call; never after a denial. Default: zero, not at all.
    ///
    /// **With this, a KEK's bytes stay in memory for the TTL and this time together**, also while all is well, and a root
    /// key that was revoked while the KMS cannot be reached goes on working that long. Shown in
    /// [`Health`](crate::Health) and in a metric while it happens. At most [`Policy::MAX_STALE`].
    pub fn max_stale(mut self, time: Duration) -> Self {
        self.max_stale = time;
        self
    }

    /// How long a stream may be used after it was begun. Default: the [TTL](Self::kek_ttl). At most
    /// [`Policy::MAX_KEK_TTL`].
    ///
    /// A stream holds the key of its one object, never a KEK, and outlives the KEK's deadline by it.
    pub fn stream_ttl(mut self, ttl: Duration) -> Self {
        self.stream_ttl = Some(ttl);
        self
    }

    /// After how many objects sealed by this process a KEK is replaced by a new primary. Default: never.
    ///
    /// Like [`max_bytes`](Self::max_bytes), counted by each process for itself from when it first sealed under the KEK, so
    /// a fleet seals a multiple. It is hygiene: wraps have 192-bit nonces. Sealing goes on under the old KEK until the new
    /// one is stored.
    pub fn max_wraps(mut self, objects: NonZeroU64) -> Self {
        self.ceilings.wraps = Some(objects);
        self
    }

    /// After how many bytes of plaintext sealed by this process a KEK is replaced by a new primary. Default: never.
    ///
    /// A stream counts as one of [`max_wraps`](Self::max_wraps), its bytes do not count.
    pub fn max_bytes(mut self, bytes: NonZeroU64) -> Self {
        self.ceilings.bytes = Some(bytes);
        self
    }

    /// At what age a KEK is replaced by a new primary, by its record's time of creation. Default: never. At least 1 minute.
    ///
    /// Looked at when the primary is read from the store, so every half minute of traffic.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.ceilings.age = Some(age);
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`BuildError`] for a TTL, jitter, stale time or age out of bounds.
    pub fn build(self) -> Result<Policy, BuildError> {
        let too_long = |ttl: Duration| (ttl > Policy::MAX_KEK_TTL).then_some(ttl);
        if let Some(ttl) = self.is_ttl_capped.then(|| too_long(self.kek_ttl)).flatten() {
            return Err(BuildError::TtlTooLong { ttl, cap: Policy::MAX_KEK_TTL });
        }
        if let Some(ttl) = self.stream_ttl.and_then(too_long) {
            return Err(BuildError::StreamTtlTooLong { ttl, cap: Policy::MAX_KEK_TTL });
        }
        if !(0.0..=Policy::MAX_TTL_JITTER).contains(&self.ttl_jitter) {
            return Err(BuildError::JitterOutOfRange { part: self.ttl_jitter, most: Policy::MAX_TTL_JITTER });
        }
        if self.max_stale > Policy::MAX_STALE {
            return Err(BuildError::StaleTooLong { time: self.max_stale, cap: Policy::MAX_STALE });
        }
        if let Some(age) = self.ceilings.age.filter(|age| *age < Duration::from_secs(60)) {
            return Err(BuildError::AgeTooShort { age });
        }
        Ok(Policy(Arc::new(self)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let build = |change: fn(PolicyBuilder) -> PolicyBuilder| change(Policy::builder()).build();
        assert!(build(|policy| policy.kek_ttl(24 * HOUR)).is_ok());
        let refused = build(|policy| policy.kek_ttl(24 * HOUR + Duration::from_nanos(1))).unwrap_err();
        assert!(matches!(refused, BuildError::TtlTooLong { .. }), "{refused}");
        assert!(build(|policy| policy.dangerous_uncapped_kek_ttl(Duration::MAX)).is_ok());
        let refused = build(|policy| policy.stream_ttl(25 * HOUR)).unwrap_err();
        assert!(matches!(refused, BuildError::StreamTtlTooLong { .. }), "{refused}");
        for part in [-0.1, 0.51, f64::NAN, f64::INFINITY] {
            let refused = Policy::builder().ttl_jitter(part).build().unwrap_err();
            assert!(matches!(refused, BuildError::JitterOutOfRange { .. }), "{refused}");
        }
        let refused = build(|policy| policy.max_stale(2 * HOUR)).unwrap_err();
        assert!(matches!(refused, BuildError::StaleTooLong { .. }), "{refused}");
        let refused = build(|policy| policy.max_age(Duration::from_secs(59))).unwrap_err();
        assert!(matches!(refused, BuildError::AgeTooShort { .. }), "{refused}");
    }

    #[test]
    fn jitter_shortens_and_never_lengthens() {
        let policy = Policy::builder().kek_ttl(HOUR).ttl_jitter(0.5).build().unwrap();
        assert_eq!(policy.life(0.0), (HOUR, Some(HOUR / 10)));
        assert_eq!(policy.life(1.0), (HOUR / 2, Some(HOUR / 20)));
        assert_eq!(policy.life(7.0), policy.life(1.0));
        assert_eq!(policy.life(-7.0), policy.life(0.0));
        let plain = Policy::builder().kek_ttl(HOUR).ttl_jitter(0.0).refresh_ahead(false).build().unwrap();
        assert_eq!(plain.life(0.9), (HOUR, None));
    }
}
