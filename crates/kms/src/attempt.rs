//! One request to a KMS, as the log tells of it.

use std::time::{Duration, Instant};

use keystrata_hierarchy::RootKeyError;

#[cfg(any(feature = "vault", feature = "gcp"))]
use crate::http::{Answer, is_not_connected};
use crate::{
    counted::Outcome,
    sent::{Mark, did_not_leave, sent},
};

/// Longest id of a request that is passed on: several times a UUID.
const MAX_ID_CHARS: usize = 128;

/// One request, told of in the log when it ends in whatever way: what was asked of which kind of root key, how it ended,
/// how long it took, and the service's own id of the request. Neither a key nor an account is told.
///
/// Events are of the level *debug*, with this module's path as their target.
#[derive(Debug)]
pub(crate) struct Attempt {
    root: &'static str,
    operation: &'static str,
    began: Instant,
    /// Until the answer was there.
    took: Option<Duration>,
    has_ended: bool,
    /// What was known of the call before this.
    before: Mark,
}

impl Attempt {
    /// Begins a request to a root key of the kind `root`, its URI's scheme.
    pub(crate) fn begin(root: &'static str, operation: &'static str) -> Self {
        Self { root, operation, began: Instant::now(), took: None, has_ended: false, before: sent() }
    }

    /// Says that nothing was sent after all.
    pub(crate) fn did_not_leave(&self) {
        did_not_leave(self.before);
    }

    /// Waits for an answer, whose meaning the caller then finds out and ends this with. Without one this ends at once.
    #[cfg(any(feature = "vault", feature = "gcp"))]
    pub(crate) async fn until_answered(
        mut self,
        answer: impl Future<Output = Result<Answer, RootKeyError>>,
    ) -> Result<(Self, Answer), RootKeyError> {
        match answer.await {
            Ok(answer) => {
                self.took = Some(self.began.elapsed());
                Ok((self, answer))
            }
            Err(error) => {
                if is_not_connected(&error) {
                    self.did_not_leave();
                }
                self.end_as(Outcome::of(&error).name(), None);
                Err(error)
            }
        }
    }

    /// Ends it with what the caller is told.
    pub(crate) fn end<T>(self, answer: &Result<T, RootKeyError>, request_id: Option<&str>) {
        let outcome = answer.as_ref().map_or_else(Outcome::of, |_| Outcome::Done);
        self.end_as(outcome.name(), request_id);
    }

    /// Ends it because the token that it was sent with is good no more. That is no outcome of a call: it may be sent again
    /// with another.
    #[cfg(any(feature = "vault", feature = "gcp"))]
    pub(crate) fn end_with_token(self, request_id: Option<&str>) {
        self.end_as("token_ended", request_id);
    }

    fn end_as(mut self, outcome: &'static str, request_id: Option<&str>) {
        self.has_ended = true;
        self.tell(outcome, request_id);
    }

    fn tell(&self, outcome: &'static str, request_id: Option<&str>) {
        let took = self.took.unwrap_or_else(|| self.began.elapsed());
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(root = self.root, operation = self.operation, outcome, took_us, request_id, "KMS request");
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.has_ended {
            self.tell(Outcome::Dropped.name(), None);
        }
    }
}

/// `id`, if it looks like one. It comes from outside and ends up in messages and logs.
pub(crate) fn request_id(id: &str) -> Option<&str> {
    let is_id = !id.is_empty() && id.len() <= MAX_ID_CHARS && id.bytes().all(|b| b.is_ascii_graphic());
    is_id.then_some(id)
}

/// The end of a message that has the id of a request, if there is one.
pub(crate) fn with_request_id(id: Option<&str>) -> String {
    id.and_then(request_id).map_or(String::new(), |id| format!(", request id {id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_and_plain() {
        assert_eq!(request_id("8ad8ef40-7b3f"), Some("8ad8ef40-7b3f"));
        for other in ["", "a b", "a\nb", "größe", &"x".repeat(MAX_ID_CHARS + 1)] {
            assert_eq!(request_id(other), None, "{other}");
        }
        assert_eq!(with_request_id(Some("r-1")), ", request id r-1");
        assert_eq!(with_request_id(None), "");
    }
}
