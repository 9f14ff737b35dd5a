//! Sealing into a [`Write`].

use std::{
    fmt,
    io::{self, Write},
};

use rand::TryCryptoRng;

use super::{StreamError, is_retryable, seal_core::SealCore};
use crate::{context::Context, envelope::SealError, kek::Kek, random::KernelRng};

/// A writer that seals what is written to it into one envelope, and writes that to `W`.
///
/// [`finish`](Self::finish) writes the last chunk, and nothing else does. Dropping a sealer without it, also while
/// unwinding, leaves bytes that will not open: they end where no envelope ends. So an object cut short by a crash or an
/// error is never taken for a whole one.
///
/// Memory is one chunk of 16 KiB and the object's key, both wiped on drop, however long the object; the KEK is not kept.
/// Writing is buffered by the chunk, so `W` needs no [`BufWriter`](io::BufWriter). [`flush`](Write::flush) passes on
/// whole chunks only, as a chunk once sealed cannot grow.
///
/// # Errors
/// Errors of `W` come back as [`StreamError::Write`] and stay: every later call, `finish` too, fails the same way.
/// `Interrupted` and `WouldBlock` come back as they are, with nothing lost; make the same call again. After 2³² chunks,
/// [`StreamError::TooLong`].
#[must_use = "what is written to a sealer opens only after `finish`"]
pub struct Sealer<W: Write> {
    inner: W,
    core: SealCore,
}

impl<W: Write> Sealer<W> {
    /// Begins an envelope for the KEK's account, bound to `context`. Nothing is written to `inner` yet.
    ///
    /// # Errors
    /// [`SealError`] for a context that breaks a rule, or no random bytes.
    pub fn new(kek: &Kek<'_>, context: &Context, inner: W) -> Result<Self, SealError> {
        Self::with_rng(&mut KernelRng, kek, context, inner)
    }

    pub(crate) fn with_rng<R: TryCryptoRng>(
        rng: &mut R,
        kek: &Kek<'_>,
        context: &Context,
        inner: W,
    ) -> Result<Self, SealError> {
        Ok(Self { inner, core: SealCore::new(rng, kek, context)? })
    }

    /// Writes the last chunk, flushes the writer and gives it back: now the envelope is whole.
    ///
    /// # Errors
    /// As a write. The writer is dropped then, and what it holds will not open; use [`try_finish`](Self::try_finish) to
    /// keep it.
    pub fn finish(mut self) -> io::Result<W> {
        loop {
            match self.try_finish() {
                Ok(()) => return Ok(self.inner),
                Err(error) if error.kind() == io::ErrorKind::Interrupted && StreamError::of(&error).is_none() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// [`finish`](Self::finish) without giving the writer back, for one that may ask to be called again. Once it has
    /// succeeded it does so again, and writes fail with [`StreamError::Finished`].
    ///
    /// # Errors
    /// As a write. After `Interrupted` and `WouldBlock`, call it again.
    pub fn try_finish(&mut self) -> io::Result<()> {
        self.core.check()?;
        self.drain()?;
        self.core.end();
        self.drain()?;
        self.flush_inner()
    }

    /// Gives the writer back without finishing: what it holds will not open.
    pub fn abandon(self) -> W {
        self.inner
    }

    /// The writer below.
    pub fn get_ref(&self) -> &W {
        &self.inner
    }

    fn drain(&mut self) -> io::Result<()> {
        while !self.core.pending().is_empty() {
            match self.inner.write(self.core.pending()) {
                Ok(written) => self.core.written(written)?,
                Err(error) if is_retryable(&error) => return Err(error),
                Err(error) => return Err(self.core.fail(StreamError::write(error))),
            }
        }
        Ok(())
    }

    fn flush_inner(&mut self) -> io::Result<()> {
        self.inner.flush().map_err(
            |error| {
                if is_retryable(&error) { error } else { self.core.fail(StreamError::write(error)) }
            },
        )
    }
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.core.check()?;
        // Before anything is taken in, so that an error here means that nothing was.
        self.drain()?;
        self.core.accept(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.core.check()?;
        self.drain()?;
        self.flush_inner()
    }
}

impl<W: Write> fmt::Debug for Sealer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}
