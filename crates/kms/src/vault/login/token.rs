//! A token of Vault and how long it lasts.

use std::{sync::Arc, time::Duration};

use keystrata_hierarchy::RootKeyError;
use reqwest::{RequestBuilder, header::HeaderValue};
use tokio::time::Instant;
use zeroize::Zeroizing;

/// Seconds in ten years, which nobody waits for: what an answer claims beyond that must not overflow.
const LONGEST_LEASE: u64 = 10 * 365 * 24 * 3600;

/// A token and how long it lasts.
pub(in crate::vault) struct Token {
    header: HeaderValue,
    pub(super) text: Zeroizing<String>,
    /// `None` if it lasts for ever, or nobody knows.
    pub(super) lasts: Option<Lease>,
}

#[derive(Clone, Copy)]
pub(super) struct Lease {
    /// When it was granted, at the earliest.
    granted: Instant,
    pub(super) span: Duration,
    pub(super) is_renewable: bool,
    /// When to look after it.
    due: Instant,
}

impl Token {
    pub(super) fn new(text: Zeroizing<String>, lasts: Option<Lease>) -> Result<Self, RootKeyError> {
        let mut header = HeaderValue::from_str(&text)
            .map_err(|_| RootKeyError::unavailable("the Vault token holds characters that no token has"))?;
        header.set_sensitive(true);
        Ok(Self { header, text, lasts })
    }

    /// The header that shows it.
    pub(super) fn shown_in(&self, request: RequestBuilder) -> RequestBuilder {
        request.header("X-Vault-Token", self.header.clone())
    }

    /// By text: a renewal keeps it, and so does one that is put off.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        *self.text == *other.text
    }

    /// Whether it is to be renewed by now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.lasts.is_some_and(|lease| now >= lease.due)
    }

    pub(super) fn has_ended(&self, now: Instant) -> bool {
        self.lasts.is_some_and(|lease| now >= lease.end())
    }

    /// The same, to be renewed after a quarter of what is left.
    pub(super) fn put_off(&self, now: Instant) -> Arc<Self> {
        let later = |lease: Lease| Lease { due: now + lease.end().saturating_duration_since(now) / 4, ..lease };
        Arc::new(Self { header: self.header.clone(), text: self.text.clone(), lasts: self.lasts.map(later) })
    }
}

impl Lease {
    pub(super) fn new(granted: Instant, seconds: u64, is_renewable: bool) -> Option<Self> {
        let span = Duration::from_secs(seconds.min(LONGEST_LEASE));
        // At two thirds there is time for several tries before the end.
        (seconds != 0).then(|| Self { granted, span, is_renewable, due: granted + span * 2 / 3 })
    }

    fn end(&self) -> Instant {
        self.granted + self.span
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_due_at_two_thirds_and_then_at_quarters_of_the_rest() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let token = Token::new(Zeroizing::new("t".into()), Lease::new(start, 300, true)).unwrap();
        assert!(!token.is_due(start + 199 * second) && token.is_due(start + 200 * second));
        let later = token.put_off(start + 200 * second);
        assert!(!later.is_due(start + 224 * second) && later.is_due(start + 225 * second));
        assert!(!later.has_ended(start + 299 * second) && later.has_ended(start + 300 * second));
        let endless = Token::new(Zeroizing::new("t".into()), Lease::new(start, 0, true)).unwrap();
        assert!(!endless.is_due(start + 1_000 * second) && !endless.has_ended(start + 1_000 * second));
    }
}
