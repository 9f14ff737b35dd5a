//! Opening from a [`Read`], and from a [`Seek`] at any position.

use std::{
    fmt,
    io::{self, Read, Seek, SeekFrom},
};

use super::{
    StreamError, is_retryable,
    open_core::{OpenCore, Step},
};
use crate::{
    context::Context,
    envelope::{HEADER_LEN, Header, ObjectKey, OpenError},
    kek::Kek,
};

/// A reader of the plaintext of the envelope in `R`.
///
/// Only authenticated bytes come out of it, chunk by chunk. That the object is whole is known when the last chunk was
/// authentic, so any answer about the end authenticates that chunk first: the end of file, a read beyond it, and
/// [`SeekFrom::End`]. An envelope that was cut short ends in [`StreamError::Truncated`], never in a short success; if
/// half an object must not be acted on, act when the end was reached.
///
/// Memory is one chunk of 16 KiB and the object's key, both wiped on drop, however long the object; the KEK is not kept.
/// Reading is buffered by the chunk, so `R` needs no [`BufReader`](io::BufReader). A read of 16 KiB or more opens chunks
/// straight into the caller's memory.
///
/// The envelope begins where `R` stands and ends where `R` ends.
///
/// # Errors
/// A [`StreamError`] inside the [`io::Error`]; it stays: every later read and seek fails the same way.
/// `Interrupted` and `WouldBlock` from a read of `R` come back as they are, with nothing lost; read again.
pub struct Opener<R> {
    inner: R,
    core: OpenCore,
}

impl<R: Read> Opener<R> {
    /// Reads the header from `inner` and opens it. Memory does not depend on what the header says.
    ///
    /// # Errors
    /// - [`StreamError::Open`]: no header, cut short, of another suite, account or context.
    /// - [`StreamError::Read`]: `inner` failed.
    pub fn new(kek: &Kek<'_>, context: &Context, mut inner: R) -> Result<Self, StreamError> {
        let header = read_header(&mut inner)?;
        Ok(Self::with_key(ObjectKey::from_header(kek, context, &header)?, inner))
    }

    /// For a header that was read already, as by [`read_header`]: `inner` stands at its end.
    pub fn with_key(key: ObjectKey, inner: R) -> Self {
        Self { inner, core: OpenCore::new(key) }
    }

    /// Gives the reader back, wherever in the envelope it stands.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// The reader below.
    pub fn get_ref(&self) -> &R {
        &self.inner
    }

    fn fill(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let space = self.core.unfilled();
            if space.is_empty() {
                break;
            }
            match self.inner.read(space) {
                Ok(0) => break,
                Ok(len) => self.core.filled(len)?,
                Err(error) if is_retryable(&error) => return Err(error),
                Err(error) => return Err(self.core.fail(StreamError::read(error))),
            }
        }
        self.core.open_chunk(out)
    }
}

impl<R: Read> Read for Opener<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.core.check()?;
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(plaintext) = self.core.available() {
                let len = plaintext.len().min(out.len());
                out[..len].copy_from_slice(&plaintext[..len]);
                self.core.consume(len);
                return Ok(len);
            }
            let direct = self.fill(out)?;
            if direct > 0 {
                return Ok(direct);
            }
        }
    }
}

/// Positions are of the plaintext. As `std` does it, a position beyond the end is no error and reads nothing, once the
/// last chunk was authentic; one before the beginning is `InvalidInput`, and the position stays.
///
/// A seek within the chunk at hand costs nothing; one out of it reads nothing but is up to three seeks of `R`.
impl<R: Read + Seek> Seek for Opener<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.core.begin_seek(to)?;
        loop {
            match self.core.seek_step()? {
                Step::Done(position) => return Ok(position),
                Step::Seek(from) => match uninterrupted(|| self.inner.seek(from)) {
                    Ok(at) => self.core.sought(at)?,
                    Err(error) => return Err(self.core.fail(StreamError::read(error))),
                },
                // A half-done seek has left the old position, so there is no way back to it but on.
                Step::Fill => match uninterrupted(|| self.fill(&mut [])) {
                    Ok(_) => {}
                    Err(error) if is_retryable(&error) => {
                        let error = io::Error::other("the reader would block, and a seek cannot stop half-way");
                        return Err(self.core.fail(StreamError::read(error)));
                    }
                    Err(error) => return Err(error),
                },
            }
        }
    }

    fn stream_position(&mut self) -> io::Result<u64> {
        self.core.check()?;
        Ok(self.core.position())
    }
}

impl<R> fmt::Debug for Opener<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("position", &self.core.position()).finish_non_exhaustive()
    }
}

/// Reads the header of the envelope that begins where `reader` stands, to learn which KEK opens it.
///
/// The bytes are a header once this returns: [`Header::parse_start`] takes them.
///
/// # Errors
/// As [`Opener::new`].
pub fn read_header<R: Read>(reader: &mut R) -> Result<[u8; HEADER_LEN], StreamError> {
    let mut header = [0; HEADER_LEN];
    let mut filled = 0;
    while filled < HEADER_LEN {
        match uninterrupted(|| reader.read(&mut header[filled..])).map_err(StreamError::read)? {
            0 => break,
            len => filled += len,
        }
    }
    let bytes = header.get(..filled).ok_or_else(|| StreamError::read(io::ErrorKind::InvalidData.into()))?;
    Header::parse_start(bytes).map_err(OpenError::Envelope)?;
    Ok(header)
}

pub(super) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted && StreamError::of(&error).is_none() => {}
            result => return result,
        }
    }
}
