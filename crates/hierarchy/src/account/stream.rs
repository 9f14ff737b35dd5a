//! Streams of an account's objects, which end at a time of their own.

use std::{
    fmt,
    io::{self, Read, Seek, SeekFrom, Write},
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use keystrata_primitives::{
    Context, Kek,
    envelope::{
        self, AsyncOpener, AsyncSealer, HEADER_LEN, Header, ObjectKey, Opener, Sealer, StreamError, read_header,
        read_header_async,
    },
};
use tokio::io::{AsyncRead, AsyncSeek, AsyncWrite, ReadBuf};

use super::Account;
use crate::{
    clock::Moment,
    engine::Engine,
    error::{OpenError, SealError, StreamExpired},
    policy::Policy,
};

/// A stream of one object that may be used for a [bounded time](crate::PolicyBuilder::stream_ttl).
///
/// It holds the key of its object, never a KEK, so an object can be written or read for longer than a KEK lives. At its
/// own end every call fails with [`StreamExpired`] inside an [`io::Error`] of kind `TimedOut`, and the object's key is
/// overwritten by the first of those calls, or when the stream is dropped. A sealer that expired leaves bytes that will
/// not open.
pub struct Expiring<S> {
    stream: Option<S>,
    /// For its clock. Not as one of the owners, whose last overwrites all KEKs: a stream needs none.
    engine: Arc<Engine>,
    deadline: Moment,
    ttl: Duration,
}

impl Account {
    /// Begins to seal an object into `writer`, under a DEK of its own.
    ///
    /// Write the plaintext to what this gives and then [`finish`](Expiring::finish) it; dropped without that, what was
    /// written will not open. Memory is one chunk, however long the object.
    ///
    /// # Errors
    /// As [`seal`](Self::seal). Nothing has been written to `writer`, which is dropped.
    pub async fn sealer<W: Write>(&self, writer: W, context: &Context) -> Result<Expiring<Sealer<W>>, SealError> {
        self.begin_sealing(writer, context, |kek, writer| Sealer::new(kek, context, writer)).await
    }

    /// [`sealer`](Self::sealer) into a tokio writer.
    ///
    /// # Errors
    /// As `sealer`.
    pub async fn async_sealer<W: AsyncWrite + Unpin>(
        &self,
        writer: W,
        context: &Context,
    ) -> Result<Expiring<AsyncSealer<W>>, SealError> {
        self.begin_sealing(writer, context, |kek, writer| AsyncSealer::new(kek, context, writer)).await
    }

    async fn begin_sealing<W, S>(
        &self,
        writer: W,
        context: &Context,
        begin: impl Fn(&Kek<'_>, W) -> Result<S, envelope::SealError>,
    ) -> Result<Expiring<S>, SealError> {
        context.encode()?;
        let mut writer = Some(writer);
        let mut begin = |kek: &Kek<'_>| writer.take().map(|writer| begin(kek, writer));
        let stream = match self.engine.seal_at_hand(&self.state(), 0, &mut begin) {
            Some(stream) => stream,
            None => self.with_primary(0, begin).await?,
        };
        // It runs with the first key there is, and then no other is asked for.
        Ok(self.expiring(stream.expect("it runs once")?))
    }

    /// Reads the header from `reader`, gets its KEK, and gives the plaintext to be read, and sought in if `reader` can.
    ///
    /// Only authenticated bytes come out of it; see [`Opener`]. Reading the header blocks the thread.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`OpenError::Stream`] if the reader fails.
    pub async fn opener<R: Read>(&self, mut reader: R, context: &Context) -> Result<Expiring<Opener<R>>, OpenError> {
        let header = read_header(&mut reader)?;
        let key = self.object_key(&header, context).await?;
        Ok(self.expiring(Opener::with_key(key, reader)))
    }

    /// [`opener`](Self::opener) of a tokio reader.
    ///
    /// # Errors
    /// As `opener`.
    pub async fn async_opener<R: AsyncRead + Unpin>(
        &self,
        mut reader: R,
        context: &Context,
    ) -> Result<Expiring<AsyncOpener<R>>, OpenError> {
        let header = read_header_async(&mut reader).await?;
        let key = self.object_key(&header, context).await?;
        Ok(self.expiring(AsyncOpener::with_key(key, reader)))
    }

    async fn object_key(&self, header: &[u8; HEADER_LEN], context: &Context) -> Result<ObjectKey, OpenError> {
        let id = Header::parse_start(header)?.kek_id();
        context.encode()?;
        let from_header = |kek: &Kek<'_>| ObjectKey::from_header(kek, context, header);
        let key = match self.engine.open_at_hand(&self.state(), id, from_header) {
            Some(key) => key,
            None => self.with_kek(id, from_header).await?,
        };
        Ok(key?)
    }

    fn expiring<S>(&self, stream: S) -> Expiring<S> {
        let ttl = self.state.policy.stream_ttl();
        // Where nothing is cached a stream has no KEK's life to go by; one that could not be used would be of no use.
        let ttl = if ttl.is_zero() { Policy::default().kek_ttl() } else { ttl };
        let engine = Arc::clone(&**self.engine);
        let deadline = engine.now().after(ttl);
        Expiring { stream: Some(stream), engine, deadline, ttl }
    }
}

impl<S> Expiring<S> {
    /// How long it may still be used.
    pub fn remaining(&self) -> Duration {
        if self.stream.is_some() { self.engine.now().until(self.deadline) } else { Duration::ZERO }
    }

    /// The stream, if its time is not up. Else its key goes now.
    fn live(&mut self) -> io::Result<&mut S> {
        if self.engine.now().has_reached(self.deadline) {
            self.stream = None;
        }
        let expired = StreamExpired { ttl: self.ttl };
        self.stream.as_mut().ok_or_else(|| expired.into())
    }

    fn into_live(mut self) -> io::Result<S> {
        self.live()?;
        self.stream.take().ok_or_else(|| StreamExpired { ttl: self.ttl }.into())
    }

    /// A poll of the stream, if its time is not up.
    fn poll_live<T>(&mut self, poll: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>>
    where
        S: Unpin,
    {
        match self.live() {
            Ok(stream) => poll(Pin::new(stream)),
            Err(expired) => Poll::Ready(Err(expired)),
        }
    }
}

impl From<StreamExpired> for io::Error {
    fn from(expired: StreamExpired) -> Self {
        Self::new(io::ErrorKind::TimedOut, expired)
    }
}

impl<W: Write> Expiring<Sealer<W>> {
    /// Writes the last chunk, flushes the writer and gives it back: now the envelope is whole.
    ///
    /// # Errors
    /// As [`Sealer::finish`], and [`StreamExpired`].
    pub fn finish(self) -> io::Result<W> {
        self.into_live()?.finish()
    }
}

impl<W: AsyncWrite + Unpin> Expiring<AsyncSealer<W>> {
    /// Writes the last chunk, flushes the writer and gives it back: now the envelope is whole.
    ///
    /// # Errors
    /// As [`AsyncSealer::finish`], and [`StreamExpired`].
    pub async fn finish(self) -> io::Result<W> {
        self.into_live()?.finish().await
    }
}

impl<S: Write> Write for Expiring<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.live()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.live()?.flush()
    }
}

impl<S: Read> Read for Expiring<S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.live()?.read(out)
    }
}

impl<S: Seek> Seek for Expiring<S> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.live()?.seek(to)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Expiring<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_live(|stream| stream.poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        self.poll_live(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        self.poll_live(|stream| stream.poll_shutdown(cx))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Expiring<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_live(|stream| stream.poll_read(cx, out))
    }
}

impl<S: AsyncSeek + Unpin> AsyncSeek for Expiring<S> {
    fn start_seek(mut self: Pin<&mut Self>, to: SeekFrom) -> io::Result<()> {
        Pin::new(self.live()?).start_seek(to)
    }

    fn poll_complete(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<u64>> {
        self.poll_live(|stream| stream.poll_complete(cx))
    }
}

impl<S> fmt::Debug for Expiring<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expiring").field("remaining", &self.remaining()).finish_non_exhaustive()
    }
}

impl From<StreamError> for OpenError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Open(error) => error.into(),
            other => Self::Stream(Arc::new(other)),
        }
    }
}
