//! Requests beyond the one that a call was admitted for.

use std::sync::Arc;

use keystrata_hierarchy::{RootKeyError, Urgency};

use super::Budget;

tokio::task_local! {
    /// The budget that admitted the call under way.
    static ADMITTED_BY: Admission;
}

/// What a call was admitted by.
struct Admission {
    budget: Arc<Budget>,
    urgency: Urgency,
}

/// The source of the [`RootKeyError::Unavailable`] of a call that needs one more request than it was admitted for, while the
/// budget has no token for it. The KMS has answered, and nothing is wrong: the call waits for its turn and is sent again,
/// which a [`Retrying`](crate::Retrying) does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the budget has no token for the request that must be sent again")]
pub struct SendAgain;

impl SendAgain {
    /// Whether that is what `error` is.
    pub fn is(error: &RootKeyError) -> bool {
        matches!(error, RootKeyError::Unavailable { source: Some(source), .. } if source.is::<Self>())
    }
}

/// Admits one more request of the call under way, without waiting: for an adapter that must send a second request to the
/// KMS within one call, as after a token was replaced.
///
/// A call is admitted once, by the [`Budgeted`](super::Budgeted) around the adapter, and counted once, by the [`Counted`](crate::Counted) around
/// it. This takes another token and counts another call, so that an adapter that asks this first never exceeds the budget. It
/// does not wait, since the attempt's time is running: without a token the call fails with [`SendAgain`] and takes its place in
/// the queue with its next attempt, which then needs no second request. With no budget around the call every request is admitted.
/// With one inside of another the inner one counts.
///
/// # Errors
/// [`RootKeyError::Unavailable`] with the source [`SendAgain`].
pub fn further_request() -> Result<(), RootKeyError> {
    let is_admitted = ADMITTED_BY.try_with(|by| by.budget.admit_further(by.urgency)).unwrap_or(true);
    if !is_admitted {
        return Err(RootKeyError::Unavailable {
            message: "one more request is needed and the budget is used up for the moment: try again".into(),
            source: Some(Arc::new(SendAgain)),
        });
    }
    crate::counted::further_request();
    Ok(())
}

/// `call`, which `budget` has admitted.
pub(super) async fn admitted_by<T>(budget: &Arc<Budget>, urgency: Urgency, call: impl Future<Output = T>) -> T {
    ADMITTED_BY.scope(Admission { budget: Arc::clone(budget), urgency }, call).await
}
