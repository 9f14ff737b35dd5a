//! Streams: the same envelopes, written and read piece by piece in constant memory.
//!
//! [`Sealer`] is a [`Write`](std::io::Write) that seals, [`Opener`] a [`Read`](std::io::Read) and
//! [`Seek`](std::io::Seek) that opens. Each holds one chunk (16 KiB, wiped on drop) and the key of its object, never a
//! KEK. With the feature `tokio` there are [`AsyncSealer`] and [`AsyncOpener`] over tokio's traits.
//!
//! ```
//! # use keystrata_primitives::{Context, KekId, KekIdentity, KekVersion, KeyPath, SecretKey, Suite};
//! use std::io::{Cursor, Read, Seek, SeekFrom, Write};
//! use keystrata_primitives::envelope::{Opener, Sealer};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let secret = SecretKey::generate()?;
//! # let identity = KekIdentity {
//! #     suite: Suite::default(), version: KekVersion::FIRST, id: KekId::generate()?, path: KeyPath::account("acme")?,
//! # };
//! # let derived = identity.derive(&secret);
//! # let kek = derived.kek(&identity);
//! let context = Context::new().with("backup", "2026-05-01");
//! let mut sealer = Sealer::new(&kek, &context, Vec::new())?;
//! sealer.write_all(b"line 1\nline 2\n")?;
//! let envelope = sealer.finish()?; // without it, what was written does not open
//!
//! let mut opener = Opener::new(&kek, &context, Cursor::new(envelope))?;
//! opener.seek(SeekFrom::End(-7))?;
//! let mut tail = String::new();
//! opener.read_to_string(&mut tail)?;
//! assert_eq!(tail, "line 2\n");
//! # Ok(())
//! # }
//! ```

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
