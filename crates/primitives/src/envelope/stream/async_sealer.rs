//! Sealing into a tokio writer.

use std::{
    fmt,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context as TaskContext, Poll, ready},
};

use rand::TryCryptoRng;
use tokio::io::AsyncWrite;

use super::{StreamError, is_retryable, seal_core::SealCore};
use crate::{context::Context, envelope::SealError, kek::Kek, random::KernelRng};

/// [`Sealer`](super::Sealer) over tokio's [`AsyncWrite`].
///
/// [`finish`](Self::finish) or a shutdown writes the last chunk, and nothing else does: so do not shut it down when the
/// data could not be had in full. Dropping it unfinished leaves bytes that will not open.
///
/// # Cancellation
/// A write that is dropped while pending took nothing in; a flush or a shutdown that is dropped goes on where it was when
/// called again.
#[must_use = "what is written to a sealer opens only after `finish` or a shutdown"]
pub struct AsyncSealer<W> {
    inner: W,
    core: SealCore,
    is_shut_down: bool,
}

impl<W: AsyncWrite + Unpin> AsyncSealer<W> {
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
        Ok(Self { inner, core: SealCore::new(rng, kek, context)?, is_shut_down: false })
    }

    /// Writes the last chunk, flushes the writer and gives it back without shutting it down: now the envelope is whole.
    ///
    /// # Errors
    /// As a write of [`Sealer`](super::Sealer). The writer is dropped then, and what it holds will not open.
    ///
    /// # Cancellation
    /// Dropping the future drops the writer, and what it holds may not open.
    pub async fn finish(mut self) -> io::Result<W> {
        poll_fn(|cx| {
            ready!(self.poll_end(cx))?;
            self.poll_flush_inner(cx)
        })
        .await?;
        Ok(self.inner)
    }

    /// Gives the writer back without finishing: what it holds will not open.
    pub fn abandon(self) -> W {
        self.inner
    }

    /// The writer below.
    pub fn get_ref(&self) -> &W {
        &self.inner
    }

    fn poll_drain(&mut self, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        while !self.core.pending().is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, self.core.pending())) {
                Ok(written) => self.core.written(written)?,
                Err(error) => return Poll::Ready(Err(self.failed(error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_end(&mut self, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        self.core.check()?;
        ready!(self.poll_drain(cx))?;
        self.core.end();
        self.poll_drain(cx)
    }

    fn poll_flush_inner(&mut self, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.inner).poll_flush(cx));
        Poll::Ready(flushed.map_err(|error| self.failed(error)))
    }

    fn failed(&mut self, error: io::Error) -> io::Error {
        if is_retryable(&error) { error } else { self.core.fail(StreamError::write(error)) }
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for AsyncSealer<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.core.check()?;
        // Before anything is taken in, so that a write that is pending, or fails, took nothing.
        ready!(self.poll_drain(cx))?;
        Poll::Ready(self.core.accept(data))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        self.core.check()?;
        ready!(self.poll_drain(cx))?;
        self.poll_flush_inner(cx)
    }

    /// Finishes the envelope, then shuts down the writer below.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_end(cx))?;
        if !self.is_shut_down {
            let shut_down = ready!(Pin::new(&mut self.inner).poll_shutdown(cx));
            shut_down.map_err(|error| self.failed(error))?;
            self.is_shut_down = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl<W> fmt::Debug for AsyncSealer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncSealer").finish_non_exhaustive()
    }
}
