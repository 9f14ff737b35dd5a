//! Streams: the same envelopes, written and read piece by piece in constant memory.
//!
//! [`Sealer`] is a [`Write`](std::io::Write) that seals, [`Opener`] a [`Read`](std::io::Read) and
//! [`Seek`](std::io::Seek) that opens. Each holds one chunk (16 KiB, wiped on drop) and the key of its object, never a
//! KEK. With the feature `tokio` there are [`AsyncSealer`] and [`AsyncOpener`] over tokio's traits.

#[cfg(feature = "tokio")]
mod async_opener;
#[cfg(feature = "tokio")]
mod async_sealer;
mod error;
mod open_core;
mod opener;
mod range;
mod seal_core;
mod sealer;

use std::io;

#[cfg(feature = "tokio")]
pub use self::{
    async_opener::{AsyncOpener, read_header_async},
    async_sealer::AsyncSealer,
};
pub use self::{
    error::StreamError,
    opener::{Opener, read_header},
    range::{open_range, open_range_from},
    sealer::Sealer,
};

/// Whether the call may be made again: it had no effect, and the stream is as it was.
fn is_retryable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}
