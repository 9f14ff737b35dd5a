//! Whether a call has reached its KMS, told by the adapter to whatever stands around it.

use std::cell::Cell;

tokio::task_local! {
    /// What is known of the call under way.
    static CALL: Cell<Mark>;
}

/// What an adapter has said of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Nothing, as adapters of others do: the call is taken for one that was sent.
    Unmarked,
    /// It has not been sent so far.
    NotSent,
    /// A request of it is on its way, or was.
    Sent,
}

/// Says that nothing of the call under way has been sent to the KMS: for an adapter that refuses a call by itself, or has no
/// token or no connection for it.
///
/// A [`Breaker`](crate::Breaker) then does not take the outcome for a sign that the KMS is there, an adaptive
/// [`Budget`](crate::Budget) not for one of its quota, and a [`Counted`](crate::Counted) root key prices no call. Any other call is
/// taken for one that was sent. With nothing of this around the adapter it does nothing.
pub fn not_sent() {
    let _ = CALL.try_with(|call| {
        if call.get() == Mark::Unmarked {
            call.set(Mark::NotSent);
        }
    });
}

/// Says that a request of the call under way is sent now, and returns what was known before.
#[cfg(any(feature = "aws", feature = "vault", feature = "gcp"))]
pub(crate) fn sent() -> Mark {
    CALL.try_with(|call| call.replace(Mark::Sent)).unwrap_or(Mark::Unmarked)
}

/// Says that the request which [`sent`] told of did not leave: there was no connection.
#[cfg(any(feature = "aws", feature = "vault", feature = "gcp"))]
pub(crate) fn did_not_leave(before: Mark) {
    let _ = CALL.try_with(|call| call.set(before));
}

/// `call`, and whether anything of it was sent.
pub(crate) async fn watched<T>(call: impl Future<Output = T>) -> (T, bool) {
    let watch = async {
        let outcome = call.await;
        (outcome, CALL.with(Cell::get) != Mark::NotSent)
    };
    let (outcome, was_sent) = CALL.scope(Cell::new(Mark::Unmarked), watch).await;
    // To whoever watches outside of this one: a call of several attempts was sent if one of them was.
    let _ = CALL.try_with(|call| match (call.get(), was_sent) {
        (_, true) => call.set(Mark::Sent),
        (Mark::Unmarked, false) => call.set(Mark::NotSent),
        (Mark::NotSent | Mark::Sent, false) => {}
    });
    (outcome, was_sent)
}

#[cfg(all(test, any(feature = "aws", feature = "vault", feature = "gcp")))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_is_taken_for_sent_unless_its_adapter_says_otherwise() {
        assert!(watched(async {}).await.1);
        assert!(!watched(async { not_sent() }).await.1);
        let sends = async {
            not_sent();
            sent();
            not_sent();
        };
        assert!(watched(sends).await.1);
        let finds_nobody = async {
            not_sent();
            let before = sent();
            did_not_leave(before);
        };
        assert!(!watched(finds_nobody).await.1);
        not_sent(); // with nobody watching it says nothing
        assert_eq!(sent(), Mark::Unmarked);
    }

    #[tokio::test]
    async fn of_several_attempts_one_that_was_sent_is_enough() {
        for attempts in [[true, false], [false, true]] {
            let calls = async {
                for is_sent in attempts {
                    let attempt = async {
                        not_sent();
                        if is_sent {
                            sent();
                        }
                    };
                    assert_eq!(watched(attempt).await.1, is_sent);
                }
            };
            assert!(watched(calls).await.1, "{attempts:?}");
        }
        let none = async {
            for _ in 0..2 {
                watched(async { not_sent() }).await;
            }
        };
        assert!(!watched(none).await.1);
    }
}
