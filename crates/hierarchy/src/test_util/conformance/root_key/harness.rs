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
