//! Opening from a tokio reader.

use std::{
    fmt,
    future::poll_fn,
    io::{self, SeekFrom},
    pin::Pin,
    task::{Context as TaskContext, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};

use super::{
    StreamError, is_retryable,
    open_core::{OpenCore, Step},
};
use crate::{
    context::Context,
    envelope::{HEADER_LEN, Header, ObjectKey, OpenError},
    kek::Kek,
};

/// [`Opener`](super::Opener) over tokio's [`AsyncRead`] and [`AsyncSeek`].
///
/// # Cancellation
/// A read or a seek that is dropped while pending loses nothing. A seek once begun is carried out, at the latest by the
/// next read.
pub struct AsyncOpener<R> {
    inner: R,
    core: OpenCore,
    /// How to go on with the seek that has begun. A read has to, and does not know that `R` can seek.
    go_on_seeking: Option<PollSeek<R>>,
    /// The reader was told where to go, and has not said that it is there.
    inner_is_seeking: bool,
}

type PollSeek<R> = fn(&mut AsyncOpener<R>, &mut TaskContext<'_>) -> Poll<io::Result<u64>>;

impl<R: AsyncRead + Unpin> AsyncOpener<R> {
    /// Reads the header from `inner` and opens it.
    ///
    /// The future borrows the KEK while it waits for the header. To look the KEK up only then, call
    /// [`read_header_async`] and [`with_key`](Self::with_key).
    ///
    /// # Errors
    /// As [`Opener::new`](super::Opener::new).
    pub async fn new(kek: &Kek<'_>, context: &Context, mut inner: R) -> Result<Self, StreamError> {
        let header = read_header_async(&mut inner).await?;
        Ok(Self::with_key(ObjectKey::from_header(kek, context, &header)?, inner))
    }

    /// For a header that was read already, as by [`read_header_async`]: `inner` stands at its end.
    pub fn with_key(key: ObjectKey, inner: R) -> Self {
        Self { inner, core: OpenCore::new(key), go_on_seeking: None, inner_is_seeking: false }
    }

    /// Gives the reader back, wherever in the envelope it stands.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// The reader below.
    pub fn get_ref(&self) -> &R {
        &self.inner
    }

    fn poll_fill(&mut self, cx: &mut TaskContext<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut space = ReadBuf::new(self.core.unfilled());
            if space.remaining() == 0 {
                break;
            }
            match ready!(Pin::new(&mut self.inner).poll_read(cx, &mut space)) {
                Ok(()) => match space.filled().len() {
                    0 => break,
                    len => self.core.filled(len)?,
                },
                Err(error) => return Poll::Ready(Err(self.failed(error))),
            }
        }
        Poll::Ready(self.core.open_chunk(out))
    }

    fn failed(&mut self, error: io::Error) -> io::Error {
        if is_retryable(&error) { error } else { self.core.fail(StreamError::read(error)) }
    }
}

impl<R: AsyncRead + AsyncSeek + Unpin> AsyncOpener<R> {
    fn poll_seek(&mut self, cx: &mut TaskContext<'_>) -> Poll<io::Result<u64>> {
        loop {
            if self.inner_is_seeking {
                let at = ready!(Pin::new(&mut self.inner).poll_complete(cx));
                self.inner_is_seeking = false;
                match at {
                    Ok(at) => self.core.sought(at)?,
                    Err(error) => return Poll::Ready(Err(self.core.fail(StreamError::read(error)))),
                }
            }
            match self.core.seek_step() {
                Ok(Step::Seek(from)) => match Pin::new(&mut self.inner).start_seek(from) {
                    Ok(()) => self.inner_is_seeking = true,
                    Err(error) => return Poll::Ready(Err(self.core.fail(StreamError::read(error)))),
                },
                Ok(Step::Fill) => {
                    ready!(self.poll_fill(cx, &mut []))?;
                }
                Ok(Step::Done(position)) => {
                    self.go_on_seeking = None;
                    return Poll::Ready(Ok(position));
                }
                Err(error) => {
                    self.go_on_seeking = None;
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for AsyncOpener<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.core.check()?;
        if let Some(go_on) = self.go_on_seeking {
            match ready!(go_on(&mut self, cx)) {
                Err(error) if is_retryable(&error) => return Poll::Ready(Err(error)),
                // A seek that was refused was the business of whoever asked for it, and the position stayed.
                Ok(_) | Err(_) => self.core.check()?,
            }
        }
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if let Some(plaintext) = self.core.available() {
                let len = plaintext.len().min(out.remaining());
                out.put_slice(&plaintext[..len]);
                self.core.consume(len);
                return Poll::Ready(Ok(()));
            }
            let direct = ready!(self.poll_fill(cx, out.initialize_unfilled()))?;
            if direct > 0 {
                out.advance(direct);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// Positions are of the plaintext, and beyond the ends they behave as those of [`Opener`](super::Opener).
impl<R: AsyncRead + AsyncSeek + Unpin> AsyncSeek for AsyncOpener<R> {
    fn start_seek(mut self: Pin<&mut Self>, to: SeekFrom) -> io::Result<()> {
        self.core.check()?;
        if self.go_on_seeking.is_some() {
            return Err(io::Error::other("another seek is under way; call poll_complete before start_seek"));
        }
        self.core.begin_seek(to)?;
        self.go_on_seeking = Some(Self::poll_seek);
        Ok(())
    }

    fn poll_complete(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<u64>> {
        self.poll_seek(cx)
    }
}

impl<R> fmt::Debug for AsyncOpener<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncOpener").field("position", &self.core.position()).finish_non_exhaustive()
    }
}

/// Reads the header of the envelope that begins where `reader` stands, to learn which KEK opens it.
///
/// The bytes are a header once this returns: [`Header::parse_start`] takes them.
///
/// # Errors
/// As [`Opener::new`](super::Opener::new).
///
/// # Cancellation
/// What was read when the future is dropped is lost.
pub async fn read_header_async<R: AsyncRead + Unpin>(reader: &mut R) -> Result<[u8; HEADER_LEN], StreamError> {
    let mut header = [0; HEADER_LEN];
    let mut space = ReadBuf::new(&mut header);
    while space.remaining() > 0 {
        let before = space.filled().len();
        match poll_fn(|cx| Pin::new(&mut *reader).poll_read(cx, &mut space)).await {
            Ok(()) if space.filled().len() == before => break,
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(StreamError::read(error)),
            Ok(()) | Err(_) => {}
        }
    }
    let filled = space.filled().len();
    Header::parse_start(&header[..filled]).map_err(OpenError::Envelope)?;
    Ok(header)
}
