//! A deadline on every attempt.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

use async_trait::async_trait;
use keystrata_hierarchy::{GeneratedKey, RootContext, RootKey, RootKeyError, RootKeyId, SecretKey};

use crate::timer::Timer;

/// A root key whose every call ends within a time.
///
/// A call that takes longer ends as [`RootKeyError::Unavailable`] with [`TooSlow`] as the source. Its future is dropped,
/// which with most clients closes its connection: the one case in which an attempt that was sent is given up. The KMS may
/// have done what it was asked.
#[derive(Debug)]
pub struct Timed<R> {
    root: R,
    limit: Duration,
    timer: Timer,
}

/// The source of the [`RootKeyError::Unavailable`] of a call that took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {limit:?}")]
pub struct TooSlow {
    /// How long a call may take.
    pub limit: Duration,
}

impl<R: RootKey> Timed<R> {
    /// Gives each call of `root` as long as `limit`.
    pub fn new(root: R, limit: Duration) -> Self {
        Self::with_timer(root, limit, Timer::system())
    }

    /// The same by another clock than the system's, for tests.
    pub fn with_timer(root: R, limit: Duration, timer: Timer) -> Self {
        Self { root, limit, timer }
    }

    async fn limit<T>(&self, call: impl Future<Output = Result<T, RootKeyError>>) -> Result<T, RootKeyError> {
        let mut call = pin!(call);
        let mut limit = pin!(self.timer.sleep_until(self.timer.now().saturating_add(self.limit)));
        poll_fn(|cx| {
            // The call first: an answer that is there counts, however late this task came round to it.
            if let Poll::Ready(answer) = call.as_mut().poll(cx) {
                return Poll::Ready(answer);
            }
            limit.as_mut().poll(cx).map(|ended| match ended {
                Ok(()) => Err(RootKeyError::Unavailable {
                    message: "the KMS is too slow or cannot be reached: check the network and the KMS's status".into(),
                    source: Some(Arc::new(TooSlow { limit: self.limit })),
                }),
                Err(no_thread) => Err(RootKeyError::Unavailable {
                    message: "the call could not be timed, and one without an end is not made".into(),
                    source: Some(Arc::new(no_thread)),
                }),
            })
        })
        .await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)] // a default not forwarded would slip past the limit
impl<R: RootKey> RootKey for Timed<R> {
    fn id(&self) -> &RootKeyId {
        self.root.id()
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        self.limit(self.root.wrap_key(secret, context)).await
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        self.limit(self.root.unwrap_key(wrapped, context)).await
    }

    async fn generate_key(&self, context: &RootContext) -> Result<GeneratedKey, RootKeyError> {
        self.limit(self.root.generate_key(context)).await
    }

    async fn rewrap_key(
        &self,
        from: &RootKeyId,
        wrapped: &[u8],
        context: &RootContext,
    ) -> Result<Option<Vec<u8>>, RootKeyError> {
        self.limit(self.root.rewrap_key(from, wrapped, context)).await
    }
}
