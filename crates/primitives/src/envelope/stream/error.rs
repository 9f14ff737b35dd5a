//! Why a stream failed.

use std::{error::Error, fmt, io, sync::Arc};

use crate::envelope::{EnvelopeError, MAX_CHUNKS, OpenError};

/// Why a stream failed. It is inside the [`io::Error`]s of streams: [`StreamError::of`] finds it there.
///
/// A stream that has failed stays failed: every later call gives the same error.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StreamError {
    /// The header is not one, or does not open with this KEK and context.
    Open(OpenError),
    /// A chunk is not authentic: its bytes were altered, or chunks before it taken out or exchanged.
    Rejected {
        /// The chunk's number, from 0.
        chunk: u64,
    },
    /// The bytes end where no authentic envelope ends: cut short, or altered in the last chunk.
    ///
    /// The two cannot be told apart. No envelope says how long it is: its end is where a chunk shorter than 16 KiB opens.
    /// If the bytes end and what is left does not open, a cut has made it the front of a longer chunk, or an alteration
    /// has made it another one; only the tag could tell, and it says no to both. A cut is what happens, so it has the name.
    Truncated {
        /// How many bytes of the envelope there are.
        len: u64,
    },
    /// More than the format's 2³² chunks.
    TooLong,
    /// A write after the stream was finished.
    Finished,
    /// The reader below failed.
    Read(Arc<io::Error>),
    /// The writer below failed. What it holds will not open.
    Write(Arc<io::Error>),
}

impl StreamError {
    /// The stream's error in `error`; `None` if it is not a stream's, as in an interrupted call to be made again.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// The kind of [`io::Error`] it is passed on as.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Open(OpenError::Envelope(EnvelopeError::Empty | EnvelopeError::Truncated { .. }))
            | Self::Truncated { .. } => io::ErrorKind::UnexpectedEof,
            Self::TooLong => io::ErrorKind::FileTooLarge,
            Self::Open(OpenError::InvertedRange { .. }) | Self::Finished => io::ErrorKind::InvalidInput,
            Self::Open(_) | Self::Rejected { .. } => io::ErrorKind::InvalidData,
            Self::Read(error) | Self::Write(error) => error.kind(),
        }
    }

    /// Back from where a trait of reading wanted an [`io::Error`].
    pub(super) fn from_read(error: io::Error) -> Self {
        error.downcast().unwrap_or_else(Self::read)
    }

    pub(super) fn read(error: io::Error) -> Self {
        Self::Read(Arc::new(error))
    }

    pub(super) fn write(error: io::Error) -> Self {
        Self::Write(Arc::new(error))
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => error.fmt(f),
            Self::Rejected { chunk } => {
                write!(f, "chunk {chunk} of the envelope rejected: altered bytes, or chunks missing or exchanged")
            }
            Self::Truncated { len } => write!(
                f,
                "the envelope ends after {len} bytes, which is not its end: cut short, or altered in its last chunk; fetch \
                 the whole object again"
            ),
            Self::TooLong => write!(f, "an envelope has at most {MAX_CHUNKS} chunks of 16 KiB; split the object"),
            Self::Finished => f.write_str("the envelope is finished and takes no more bytes; begin another one"),
            Self::Read(_) => f.write_str("reading the envelope failed; open the stream again to retry"),
            Self::Write(_) => {
                f.write_str("writing the envelope failed; what was written will not open, so seal the object again")
            }
        }
    }
}

impl Error for StreamError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // Its message is this one's, so what is below it comes next.
            Self::Open(error) => error.source(),
            // The error itself, not the `Arc` around it, so that it can be downcast.
            Self::Read(error) | Self::Write(error) => Some(&**error),
            _ => None,
        }
    }
}

impl From<OpenError> for StreamError {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

impl From<StreamError> for io::Error {
    fn from(error: StreamError) -> Self {
        Self::new(error.kind(), error)
    }
}
