//! The streams over tokio: the bytes of the others, whatever is pending, cancelled or broken.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::similar_names, reason = "what a sealer made is sealed")]

mod common;

use std::{
    future::Future,
    io::{self, Cursor, ErrorKind, SeekFrom},
    pin::{Pin, pin},
    task::{Context as TaskContext, Poll, Waker},
};

use common::{Account, CHUNK, Counting, HEADER, LENGTHS, SEALED_CHUNK, context, plaintext};
use keystrata_primitives::{
    Suite,
    envelope::{self, AsyncOpener, AsyncSealer, ObjectKey, StreamError},
    hazmat,
};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeek, AsyncSeekExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// Takes and gives at most `most` bytes, and is pending every other time it is asked. Breaks at call `breaks_at`.
#[derive(Debug)]
struct Slow<T> {
    inner: T,
    most: usize,
    calls: usize,
    breaks_at: Option<usize>,
    is_shut_down: bool,
}

impl<T> Slow<T> {
    fn new(inner: T, most: usize) -> Self {
        Self { inner, most, calls: 0, breaks_at: None, is_shut_down: false }
    }

    fn breaking(inner: T, breaks_at: usize) -> Self {
        Self { breaks_at: Some(breaks_at), ..Self::new(inner, usize::MAX) }
    }

    fn poll_call(&mut self, cx: &TaskContext<'_>) -> Poll<io::Result<()>> {
        self.calls += 1;
        if self.breaks_at.is_some_and(|at| self.calls >= at) {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        if self.calls % 2 == 1 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

macro_rules! ready {
    ($poll:expr) => {
        match $poll {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
    };
}

impl<R: AsyncRead + Unpin> AsyncRead for Slow<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_call(cx));
        let most = self.most;
        let mut part = out.take(most);
        let polled = Pin::new(&mut self.inner).poll_read(cx, &mut part);
        let read = part.filled().len();
        out.advance(read);
        polled
    }
}

impl<S: AsyncSeek + Unpin> AsyncSeek for Slow<S> {
    fn start_seek(mut self: Pin<&mut Self>, to: SeekFrom) -> io::Result<()> {
        Pin::new(&mut self.inner).start_seek(to)
    }

    fn poll_complete(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<u64>> {
        match self.poll_call(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.inner).poll_complete(cx),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Slow<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.poll_call(cx) {
            Poll::Ready(Ok(())) => {
                let most = self.most.min(data.len());
                Pin::new(&mut self.inner).poll_write(cx, &data[..most])
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_call(cx));
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_call(cx));
        assert!(!self.is_shut_down, "shut down once");
        self.is_shut_down = true;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

fn sealer<W: AsyncWrite + Unpin>(account: &Account, inner: W) -> AsyncSealer<W> {
    hazmat::async_sealer_with_rng(&mut Counting(7), &account.kek(), &context(), inner).unwrap()
}

async fn opener(account: &Account, envelope: Vec<u8>, most: usize) -> AsyncOpener<Slow<Cursor<Vec<u8>>>> {
    AsyncOpener::new(&account.kek(), &context(), Slow::new(Cursor::new(envelope), most)).await.unwrap()
}

/// Polls once, then drops the future: a caller that was cancelled.
fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut TaskContext::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn assert_chained(error: &io::Error) {
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let inner = StreamError::of(error).expect("a stream's error is inside");
    let source = std::error::Error::source(inner).expect("the cause is chained");
    assert!(source.downcast_ref::<io::Error>().is_some());
}

#[tokio::test]
async fn sealing_gives_the_same_bytes_by_finish_and_by_shutdown() {
    for suite in Suite::ALL {
        let account = Account::new(suite, 1);
        for len in LENGTHS {
            let plaintext = plaintext(len);
            for most in [1000, usize::MAX] {
                let mut finished = sealer(&account, Slow::new(Vec::new(), most));
                finished.write_all(&plaintext).await.unwrap();
                let inner = finished.finish().await.unwrap();
                assert!(inner.inner == account.seal(&plaintext), "{suite}, {len}");
                assert!(!inner.is_shut_down, "`finish` leaves the writer to the caller");

                let mut shut_down = sealer(&account, Slow::new(Vec::new(), most));
                shut_down.write_all(&plaintext).await.unwrap();
                for _ in 0..2 {
                    shut_down.shutdown().await.unwrap();
                    let refused = shut_down.write(b"more").await.unwrap_err();
                    assert!(matches!(StreamError::of(&refused), Some(StreamError::Finished)));
                }
                assert!(shut_down.get_ref().is_shut_down);
                assert!(shut_down.abandon().inner == account.seal(&plaintext), "{suite}, {len}");
            }
        }
    }
}

#[tokio::test]
async fn opening_gives_the_plaintext_and_only_all_of_it() {
    let account = Account::any();
    for len in LENGTHS {
        let plaintext = plaintext(len);
        let sealed = account.seal(&plaintext);
        for most in [100, usize::MAX] {
            let mut got = Vec::new();
            opener(&account, sealed.clone(), most).await.read_to_end(&mut got).await.unwrap();
            assert!(got == plaintext, "{len}");
        }
        for cut in [1, 15, 16, 17, SEALED_CHUNK].into_iter().filter(|cut| sealed.len() - HEADER >= *cut) {
            let mut cut = opener(&account, sealed[..sealed.len() - cut].to_vec(), usize::MAX).await;
            for _ in 0..2 {
                let error = cut.read_to_end(&mut Vec::new()).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{len}");
                assert!(cut.seek(SeekFrom::End(0)).await.is_err());
            }
        }
    }
}

#[tokio::test]
async fn a_header_is_read_first_and_its_key_looked_up_then() {
    let account = Account::any();
    let sealed = account.seal(b"plaintext");
    let mut reader = Slow::new(&sealed[..], 10);
    let header = envelope::read_header_async(&mut reader).await.unwrap();
    assert_eq!(envelope::Header::parse_start(&header).unwrap().kek_id(), account.identity.id);
    let key = ObjectKey::from_header(&account.kek(), &context(), &header).unwrap();
    let mut got = Vec::new();
    AsyncOpener::with_key(key, reader).read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"plaintext");

    for len in 0..HEADER {
        let refused = envelope::read_header_async(&mut &sealed[..len]).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::UnexpectedEof, "{len} bytes");
    }
    let refused = envelope::read_header_async(&mut Slow::breaking(&sealed[..], 1)).await.unwrap_err();
    assert_chained(&refused.into());
}

#[tokio::test]
async fn writes_that_are_cancelled_take_nothing() {
    let account = Account::any();
    let plaintext = plaintext(3 * CHUNK + 5);
    let mut sealer = sealer(&account, Slow::new(Vec::new(), 5000));
    let mut rest = &plaintext[..];
    let mut cancelled = 0;
    while !rest.is_empty() {
        match poll_once(sealer.write(&rest[..rest.len().min(7000)])) {
            Some(taken) => rest = &rest[taken.unwrap()..],
            None => cancelled += 1,
        }
        poll_once(sealer.flush());
    }
    while poll_once(sealer.shutdown()).is_none() {
        cancelled += 1;
    }
    assert!(cancelled > 3, "the writer made it wait");
    assert!(sealer.abandon().inner == account.seal(&plaintext));
}

#[tokio::test]
async fn reads_and_seeks_that_are_cancelled_lose_nothing() {
    let account = Account::any();
    let plaintext = plaintext(3 * CHUNK + 5);
    let mut opener = opener(&account, account.seal(&plaintext), 5000).await;
    let (mut got, mut buffer, mut cancelled) = (Vec::new(), vec![0; 9000], 0);
    loop {
        match poll_once(opener.read(&mut buffer)) {
            Some(read) if read.as_ref().is_ok_and(|len| *len == 0) => break,
            Some(read) => got.extend_from_slice(&buffer[..read.unwrap()]),
            None => cancelled += 1,
        }
    }
    assert!(cancelled > 3, "the reader made it wait");
    assert!(got == plaintext);

    // However far a seek got before it was dropped, the next read is where it was going.
    for (to, at) in [(SeekFrom::Start(CHUNK as u64 + 3), CHUNK + 3), (SeekFrom::End(-2), 3 * CHUNK + 3)] {
        for polls in 1..12 {
            opener.seek(SeekFrom::Start(5)).await.unwrap();
            opener.read_exact(&mut [0; 3]).await.unwrap();
            Pin::new(&mut opener).start_seek(to).unwrap();
            for _ in 0..polls {
                poll_once(std::future::poll_fn(|cx| Pin::new(&mut opener).poll_complete(cx)));
            }
            let mut two = [0; 2];
            opener.read_exact(&mut two).await.unwrap();
            assert_eq!(two, plaintext[at..at + 2], "{to:?} after {polls} polls");
        }
    }
    Pin::new(&mut opener).start_seek(SeekFrom::Start(0)).unwrap();
    assert!(Pin::new(&mut opener).start_seek(SeekFrom::Start(1)).is_err(), "one at a time");
    // A refused seek that nobody waited for is not the reader's fault.
    opener.seek(SeekFrom::Start(2 * CHUNK as u64)).await.unwrap();
    Pin::new(&mut opener).start_seek(SeekFrom::Current(i64::MIN)).unwrap();
    let mut two = [0; 2];
    opener.read_exact(&mut two).await.unwrap();
    assert_eq!(two, plaintext[2 * CHUNK..2 * CHUNK + 2]);
}

#[tokio::test]
async fn errors_are_typed_chained_and_final() {
    let account = Account::any();
    for breaks_at in 1..5 {
        let mut sealer = sealer(&account, Slow::breaking(Vec::new(), breaks_at));
        let written = sealer.write_all(&plaintext(2 * CHUNK)).await;
        let error = match written {
            Ok(()) => sealer.shutdown().await.unwrap_err(),
            Err(error) => error,
        };
        assert_chained(&error);
        let calls = sealer.get_ref().calls;
        assert_chained(&sealer.write(&[1]).await.unwrap_err());
        assert_chained(&sealer.flush().await.unwrap_err());
        assert_chained(&sealer.shutdown().await.unwrap_err());
        assert_eq!(sealer.get_ref().calls, calls, "the writer is left alone");
        assert_chained(&sealer.finish().await.unwrap_err());
    }
    let sealed = account.seal(&plaintext(2 * CHUNK));
    for breaks_at in 1..8 {
        let key = ObjectKey::from_header(&account.kek(), &context(), sealed.first_chunk().unwrap()).unwrap();
        let mut reader = Cursor::new(sealed.clone());
        reader.set_position(HEADER as u64);
        let mut opener = AsyncOpener::with_key(key, Slow::breaking(reader, breaks_at));
        let error = match opener.seek(SeekFrom::End(0)).await {
            Ok(_) => opener.seek(SeekFrom::Start(0)).await.unwrap_err(),
            Err(error) => error,
        };
        assert_chained(&error);
        let calls = opener.get_ref().calls;
        assert_chained(&opener.read(&mut [0]).await.unwrap_err());
        assert_chained(&opener.seek(SeekFrom::Start(0)).await.unwrap_err());
        assert_eq!(opener.get_ref().calls, calls, "the reader is left alone");
    }
}

#[tokio::test]
async fn without_finish_or_shutdown_nothing_opens() {
    let account = Account::any();
    for len in [0, CHUNK - 1, CHUNK, 2 * CHUNK + 1] {
        let mut written = Vec::new();
        let mut sealer = sealer(&account, &mut written);
        sealer.write_all(&plaintext(len)).await.unwrap();
        sealer.flush().await.unwrap();
        drop(sealer);
        assert!(envelope::open(&account.kek(), &context(), &written).is_err(), "{len} bytes unfinished");
    }
}

#[derive(Clone, Debug)]
enum Call {
    Seek(SeekFrom),
    Read(usize),
    /// Begin, and go away.
    Cancelled(SeekFrom),
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let seek = || {
        prop_oneof![
            (0..5 * CHUNK as u64).prop_map(SeekFrom::Start),
            (-40_000..40_000_i64).prop_map(SeekFrom::Current),
            (-40_000..40_000_i64).prop_map(SeekFrom::End),
            any::<i64>().prop_map(SeekFrom::End),
        ]
    };
    let call = prop_oneof![
        3 => (0..40_000_usize).prop_map(Call::Read),
        2 => seek().prop_map(Call::Seek),
        1 => seek().prop_map(Call::Cancelled),
    ];
    prop::collection::vec(call, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_calls_do_what_they_do_to_the_plaintext(len in 0..4 * CHUNK, most in 1000..40_000_usize, calls in calls()) {
        let account = Account::any();
        let plaintext = plaintext(len);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut opener = opener(&account, account.seal(&plaintext), most).await;
            let mut model = Cursor::new(&plaintext);
            for call in calls {
                if !matches!(call, Call::Read(_)) {
                    // One that was cancelled ends first, and if it was refused this is who hears it.
                    let _ = std::future::poll_fn(|cx| Pin::new(&mut opener).poll_complete(cx)).await;
                }
                match call {
                    Call::Seek(to) => {
                        assert_eq!(opener.seek(to).await.ok(), io::Seek::seek(&mut model, to).ok(), "{to:?}");
                    }
                    Call::Cancelled(to) => {
                        Pin::new(&mut opener).start_seek(to).unwrap();
                        poll_once(std::future::poll_fn(|cx| Pin::new(&mut opener).poll_complete(cx)));
                        // A refused one leaves the position in both.
                        let _ = io::Seek::seek(&mut model, to);
                    }
                    Call::Read(len) => {
                        let (mut got, mut expected) = (vec![0; len], vec![0; len]);
                        let read = opener.read(&mut got).await.unwrap();
                        assert!(read > 0 || len == 0 || model.position() >= plaintext.len() as u64);
                        assert_eq!(io::Read::read(&mut model, &mut expected[..read]).unwrap(), read);
                        assert!(got[..read] == expected[..read], "{len} bytes");
                    }
                }
            }
        });
    }
}
