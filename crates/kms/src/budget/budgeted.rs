//! A root key behind a budget.

use std::sync::Arc;

use async_trait::async_trait;
use keystrata_hierarchy::{GeneratedKey, RootContext, RootKey, RootKeyError, RootKeyId, SecretKey};

use super::{Budget, further::admitted_by};
use crate::{breaker::Gate, sent::watched};

/// A root key whose every call waits for a token of a [`Budget`] first.
///
/// Each call of a method is one attempt and takes one token, whatever its outcome; a rewrap that the root key then
/// declines without a call takes one too. An adapter that has to send a second request within a call takes another
/// ([`further_request`](crate::further_request)). Put it inside of whatever retries, so that retries are counted.
///
/// # Errors
/// Those of the root key, and [`RootKeyError::Overloaded`] and [`RootKeyError::Withdrawn`] of the budget.
///
/// # Cancellation
/// See [`Budget`].
#[derive(Debug)]
pub struct Budgeted<R> {
    root: R,
    budget: Arc<Budget>,
    gate: Option<Gate>,
}

impl<R: RootKey> Budgeted<R> {
    /// Puts `budget` in front of `root`.
    pub fn new(root: R, budget: Arc<Budget>) -> Self {
        Self { root, budget, gate: None }
    }

    /// The same, for a breaker around this: when it opens, whoever waits here leaves.
    pub(crate) fn behind(mut self, gate: Gate) -> Self {
        self.gate = Some(gate);
        self
    }

    async fn attempt<T>(
        &self,
        context: &RootContext,
        attempt: impl Future<Output = Result<T, RootKeyError>>,
        is_done: impl FnOnce(&T) -> bool,
    ) -> Result<T, RootKeyError> {
        self.budget.admit_unless(context, self.gate.as_ref()).await?;
        let call = admitted_by(&self.budget, context.demand().urgency(), attempt);
        let (answer, was_sent) = watched(call).await;
        match &answer {
            // The KMS has said nothing of its quota: whoever gives out tokens did, which has another one.
            _ if !was_sent => {}
            Ok(declined) if !is_done(declined) => {}
            // Refused here, by another budget say: the KMS has said nothing. Nor has it where there was no answer, or none
            // that makes sense: a KMS that is too slow must not be sent more.
            // What is rejected may have been so without asking.
            Err(
                RootKeyError::Overloaded { .. }
                | RootKeyError::Withdrawn
                | RootKeyError::Unavailable { .. }
                | RootKeyError::Rejected,
            ) => {}
            answer => self.budget.report(matches!(answer, Err(RootKeyError::Throttled { .. }))),
        }
        answer
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)] // a default not forwarded would slip past the budget
impl<R: RootKey> RootKey for Budgeted<R> {
    fn id(&self) -> &RootKeyId {
        self.root.id()
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        self.attempt(context, self.root.wrap_key(secret, context), |_| true).await
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        self.attempt(context, self.root.unwrap_key(wrapped, context), |_| true).await
    }

    async fn generate_key(&self, context: &RootContext) -> Result<GeneratedKey, RootKeyError> {
        self.attempt(context, self.root.generate_key(context), |_| true).await
    }

    async fn rewrap_key(
        &self,
        from: &RootKeyId,
        wrapped: &[u8],
        context: &RootContext,
    ) -> Result<Option<Vec<u8>>, RootKeyError> {
        self.attempt(context, self.root.rewrap_key(from, wrapped, context), Option::is_some).await
    }
}
