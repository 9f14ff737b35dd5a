//! For tests of your own code and of your own adapters: a clock you turn by hand, a root key that does as it is told,
//! and the suites that every [`RootKey`](crate::RootKey) and [`KekStore`](crate::KekStore) must pass.

pub mod conformance;
mod manual_clock;
mod scripted_root;

pub use self::{
    manual_clock::ManualClock,
    scripted_root::{ScriptedCall, ScriptedOperation, ScriptedRootKey},
};
