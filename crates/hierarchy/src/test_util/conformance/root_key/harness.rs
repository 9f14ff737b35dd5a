//! What the suite for root keys is told about the adapter and its KMS.

use std::{future::Future, marker::PhantomData};

use crate::root::{RootKey, RootKeyError};

/// An adapter's surroundings, as far as a test can arrange them.
///
/// ```
/// use keystrata_hierarchy::test_util::{
///     ScriptedRootKey,
///     conformance::{self, RootKeyHarness},
/// };
///
/// struct Harness;
///
/// impl RootKeyHarness for Harness {
///     type Root = ScriptedRootKey;
///
///     async fn root(&self) -> ScriptedRootKey {
///         ScriptedRootKey::new("one")
///     }
///
///     async fn other_key(&self) -> Option<ScriptedRootKey> {
///         Some(ScriptedRootKey::new("two"))
///     }
/// }
///
/// #[tokio::main]
/// async fn main() {
///     conformance::root_key_in(&Harness).await;
/// }
/// ```
pub trait RootKeyHarness {
    /// The adapter.
    type Root: RootKey + 'static;

    /// An adapter of the key, the same key each time, as a process has after a restart.
    fn root(&self) -> impl Future<Output = Self::Root>;

    /// An adapter of another key in the same service, if there is one.
    fn other_key(&self) -> impl Future<Output = Option<Self::Root>> {
        async { None }
    }

    /// Lets every call from now on meet `fault`, or none; `false` if that cannot be arranged.
    fn set_fault(&self, fault: Option<RootKeyFault>) -> impl Future<Output = bool> {
        let _ = fault;
        async { false }
    }
}

/// What a KMS can be made to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RootKeyFault {
    /// It asks to slow down.
    Throttling,
    /// It refuses the key: access denied, disabled, pending deletion.
    Denying,
    /// It is there and fails.
    Failing,
    /// It ends connections without an answer.
    HangingUp,
    /// It takes requests and never answers.
    Silent,
    /// It answers with something that is no answer.
    TalkingNonsense,
}

impl RootKeyFault {
    /// Every fault that the suite tries.
    pub const ALL: [Self; 6] =
        [Self::Throttling, Self::Denying, Self::Failing, Self::HangingUp, Self::Silent, Self::TalkingNonsense];

    /// Whether `error` is of the class that this fault has to come back as.
    pub fn is_told_by(self, error: &RootKeyError) -> bool {
        match self {
            Self::Throttling => matches!(error, RootKeyError::Throttled { .. }),
            Self::Denying => matches!(error, RootKeyError::Denied { .. }),
            Self::Failing | Self::HangingUp | Self::Silent | Self::TalkingNonsense => {
                matches!(error, RootKeyError::Unavailable { .. })
            }
        }
    }
}

/// The harness that can do nothing but give adapters.
pub(super) fn of<R: RootKey + 'static>(make: impl AsyncFn() -> R) -> impl RootKeyHarness<Root = R> {
    Bare { make, root: PhantomData }
}

struct Bare<F, R> {
    make: F,
    root: PhantomData<fn() -> R>,
}

impl<F: AsyncFn() -> R, R: RootKey + 'static> RootKeyHarness for Bare<F, R> {
    type Root = R;

    async fn root(&self) -> R {
        (self.make)().await
    }
}

/// Harnesses that break one rule each: a suite that lets them pass proves nothing about the others.
#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use keystrata_primitives::{RootKeyId, SecretKey};

    use super::*;
    use crate::{
        root::RootContext,
        test_util::{ScriptedRootKey, conformance::root_key_in},
    };

    /// A root key under another name, which may say that it rewraps.
    #[derive(Debug)]
    struct Named {
        id: RootKeyId,
        inner: ScriptedRootKey,
        rewraps: bool,
    }

    #[async_trait]
    impl RootKey for Named {
        fn id(&self) -> &RootKeyId {
            &self.id
        }

        async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
            self.inner.wrap_key(secret, context).await
        }

        async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
            self.inner.unwrap_key(wrapped, context).await
        }

        async fn rewrap_key(
            &self,
            _: &RootKeyId,
            wrapped: &[u8],
            _: &RootContext,
        ) -> Result<Option<Vec<u8>>, RootKeyError> {
            Ok(self.rewraps.then(|| wrapped.to_vec()))
        }
    }

    struct Harness {
        other: &'static str,
        rewraps: bool,
        takes_faults: bool,
    }

    const SOUND: Harness = Harness { other: "two", rewraps: false, takes_faults: false };

    impl Harness {
        fn named(&self, id: &str, key: &str) -> Named {
            Named { id: RootKeyId::new(id).unwrap(), inner: ScriptedRootKey::new(key), rewraps: self.rewraps }
        }
    }

    impl RootKeyHarness for Harness {
        type Root = Named;

        async fn root(&self) -> Named {
            self.named("one", "one")
        }

        async fn other_key(&self) -> Option<Named> {
            Some(self.named("two", self.other))
        }

        async fn set_fault(&self, _: Option<RootKeyFault>) -> bool {
            self.takes_faults
        }
    }

    #[tokio::test]
    async fn a_sound_one_passes() {
        root_key_in(&SOUND).await;
    }

    #[tokio::test]
    #[should_panic(expected = "what another key wrapped must be `Rejected`")]
    async fn two_names_for_one_key_are_found_out() {
        root_key_in(&Harness { other: "one", ..SOUND }).await;
    }

    #[tokio::test]
    #[should_panic(expected = "a wrap while the KMS is Throttling says so")]
    async fn faults_that_do_not_show_are_found_out() {
        root_key_in(&Harness { takes_faults: true, ..SOUND }).await;
    }

    #[tokio::test]
    #[should_panic(expected = "rewrapping what is under another context is `Rejected`")]
    async fn rewrapping_without_looking_is_found_out() {
        root_key_in(&Harness { rewraps: true, ..SOUND }).await;
    }
}
