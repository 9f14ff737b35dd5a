//! Readers and writers that misbehave: the stream over them fails in a typed way and stays failed, or goes on unharmed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::similar_names, reason = "what a sealer made is sealed")]

mod common;

use std::{
    error::Error,
    io::{self, Cursor, ErrorKind, Read, Seek, SeekFrom, Write},
};

use common::{Account, CHUNK, HEADER, SEALED_CHUNK, context, plaintext};
use keystrata_primitives::envelope::{self, EnvelopeError, OpenError, Opener, Sealer, StreamError};

/// What an underlying reader or writer does at one call.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// At most so many bytes.
    Some(usize),
    Fail(ErrorKind),
    /// Claims more bytes than there is room for.
    Lie,
}

/// Does its acts in turn, over and over.
#[derive(Debug)]
struct Acting<T> {
    inner: T,
    acts: Vec<Act>,
    calls: usize,
}

impl<T> Acting<T> {
    fn new(inner: T, acts: &[Act]) -> Self {
        Self { inner, acts: acts.to_vec(), calls: 0 }
    }

    fn act(&mut self) -> Act {
        self.calls += 1;
        self.acts[(self.calls - 1) % self.acts.len()]
    }
}

impl<R: Read> Read for Acting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.act() {
            Act::Some(len) => {
                let len = len.min(buffer.len());
                self.inner.read(&mut buffer[..len])
            }
            Act::Fail(kind) => Err(kind.into()),
            Act::Lie => Ok(buffer.len() + 1),
        }
    }
}

impl<S: Seek> Seek for Acting<S> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self.act() {
            Act::Some(_) => self.inner.seek(to),
            Act::Fail(kind) => Err(kind.into()),
            Act::Lie => Ok(u64::MAX),
        }
    }
}

impl<W: Write> Write for Acting<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self.act() {
            Act::Some(len) => self.inner.write(&data[..len.min(data.len())]),
            Act::Fail(kind) => Err(kind.into()),
            Act::Lie => Ok(data.len() + 1),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.act() {
            Act::Fail(kind) => Err(kind.into()),
            Act::Some(_) | Act::Lie => Ok(()),
        }
    }
}

const BREAKS: Act = Act::Fail(ErrorKind::ConnectionReset);
const INTERRUPTED: Act = Act::Fail(ErrorKind::Interrupted);

fn sealer(acts: &[Act]) -> Sealer<Acting<Vec<u8>>> {
    Sealer::new(&Account::any().kek(), &context(), Acting::new(Vec::new(), acts)).unwrap()
}

fn opener(envelope: Vec<u8>, acts: &[Act]) -> Opener<Acting<Cursor<Vec<u8>>>> {
    let mut reader = Acting::new(Cursor::new(envelope), &[Act::Some(usize::MAX)]);
    let header = envelope::read_header(&mut reader).unwrap();
    let key = envelope::ObjectKey::from_header(&Account::any().kek(), &context(), &header).unwrap();
    reader.acts = acts.to_vec();
    reader.calls = 0;
    Opener::with_key(key, reader)
}

/// A stream's error whose source is an I/O error of `kind`.
fn assert_chained(error: &io::Error, kind: ErrorKind) {
    assert_eq!(error.kind(), kind);
    let inner = StreamError::of(error).expect("a stream's error is inside");
    assert!(matches!(inner, StreamError::Read(_) | StreamError::Write(_)), "{inner:?}");
    let source = inner.source().expect("the cause is chained").downcast_ref::<io::Error>().expect("as it was");
    assert_eq!(source.kind(), kind);
}

#[test]
fn one_byte_at_a_time_with_interruptions_changes_nothing() {
    let account = Account::any();
    for len in [0, 1, CHUNK, CHUNK + 5] {
        let plaintext = plaintext(len);
        for acts in [&[Act::Some(1)][..], &[INTERRUPTED, Act::Some(1), INTERRUPTED], &[Act::Some(7), Act::Some(40_000)]]
        {
            let mut sealer = sealer(acts);
            sealer.write_all(&plaintext).unwrap();
            let sealed = sealer.finish().unwrap().inner;
            assert!(envelope::open(&account.kek(), &context(), &sealed).unwrap() == plaintext, "{len} bytes, {acts:?}");

            let mut opened = Vec::new();
            let reader = Acting::new(&sealed[..], acts);
            Opener::new(&account.kek(), &context(), reader).unwrap().read_to_end(&mut opened).unwrap();
            assert!(opened == plaintext, "{len} bytes, {acts:?}");
        }
        let mut seeking = opener(account.seal(&plaintext), &[INTERRUPTED, Act::Some(5000)]);
        assert_eq!(seeking.seek(SeekFrom::End(0)).unwrap(), len as u64);
        seeking.rewind().unwrap();
        let mut opened = Vec::new();
        seeking.read_to_end(&mut opened).unwrap();
        assert!(opened == plaintext);
    }
}

#[test]
fn calls_that_would_block_are_made_again_without_loss() {
    let account = Account::any();
    let plaintext = plaintext(2 * CHUNK + 5);
    let acts = [Act::Fail(ErrorKind::WouldBlock), Act::Some(9000)];
    let again = |result: io::Result<usize>| match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        other => Some(other.unwrap()),
    };

    let mut sealer = sealer(&acts);
    let mut rest = &plaintext[..];
    while !rest.is_empty() {
        rest = &rest[again(sealer.write(rest)).unwrap_or(0)..];
    }
    while again(sealer.flush().map(|()| 0)).is_none() {}
    while again(sealer.try_finish().map(|()| 0)).is_none() {}
    assert!(envelope::open(&account.kek(), &context(), &sealer.abandon().inner).unwrap() == plaintext);

    let mut opener = opener(account.seal(&plaintext), &acts);
    let (mut opened, mut buffer) = (Vec::new(), [0; 5000]);
    loop {
        match again(opener.read(&mut buffer)) {
            Some(0) => break,
            Some(len) => opened.extend_from_slice(&buffer[..len]),
            None => {}
        }
    }
    assert!(opened == plaintext);
}

#[test]
fn a_write_error_is_typed_chained_and_final() {
    for acts in [&[BREAKS][..], &[Act::Some(100), BREAKS]] {
        let mut sealer = sealer(acts);
        let mut error = None;
        for _ in 0..4 {
            match sealer.write_all(&plaintext(CHUNK)) {
                Ok(()) => {}
                Err(first) => {
                    error = Some(first);
                    break;
                }
            }
        }
        assert_chained(&error.expect("the writer breaks"), ErrorKind::ConnectionReset);
        let calls = sealer.get_ref().calls;
        assert_chained(&sealer.write(&[1]).unwrap_err(), ErrorKind::ConnectionReset);
        assert_chained(&sealer.write(&[]).unwrap_err(), ErrorKind::ConnectionReset);
        assert_chained(&sealer.flush().unwrap_err(), ErrorKind::ConnectionReset);
        assert_chained(&sealer.try_finish().unwrap_err(), ErrorKind::ConnectionReset);
        assert_eq!(sealer.get_ref().calls, calls, "the writer is left alone");
        assert_chained(&sealer.finish().unwrap_err(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn an_error_in_the_last_write_or_flush_fails_finish() {
    for acts in [&[BREAKS][..], &[Act::Some(usize::MAX), BREAKS], &[Act::Some(0)]] {
        let mut sealer = sealer(acts);
        sealer.write_all(b"small").unwrap();
        let error = sealer.finish().unwrap_err();
        let kind = if matches!(acts[0], Act::Some(0)) { ErrorKind::WriteZero } else { ErrorKind::ConnectionReset };
        assert_chained(&error, kind);
    }
}

#[test]
fn a_writer_or_reader_that_lies_is_an_error_and_no_panic() {
    let mut lying = sealer(&[Act::Lie]);
    lying.write_all(b"small").unwrap();
    assert!(matches!(StreamError::of(&lying.finish().unwrap_err()), Some(StreamError::Write(_))));

    let sealed = Account::any().seal(&plaintext(CHUNK + 5));
    let mut lying = opener(sealed.clone(), &[Act::Lie]);
    for _ in 0..2 {
        assert!(matches!(StreamError::of(&lying.read(&mut [0]).unwrap_err()), Some(StreamError::Read(_))));
    }
    let mut lying = opener(sealed.clone(), &[Act::Lie]);
    for to in [SeekFrom::End(0), SeekFrom::Start(0)] {
        assert!(StreamError::of(&lying.seek(to).unwrap_err()).is_some());
    }
    // Says that it stands at 0, after a header was read.
    let mut moved = opener(sealed.clone(), &[Act::Some(usize::MAX)]);
    moved.read_exact(&mut [0; 10]).unwrap();
    let mut reader = moved.into_inner();
    let header = *sealed.first_chunk().unwrap();
    reader.rewind().unwrap();
    let key = envelope::ObjectKey::from_header(&Account::any().kek(), &context(), &header).unwrap();
    let refused = Opener::with_key(key, reader).seek(SeekFrom::End(0)).unwrap_err();
    assert!(matches!(StreamError::of(&refused), Some(StreamError::Read(_))));

    let mut claims_endless = Acting::new(Cursor::new(&sealed[..]), &[Act::Some(usize::MAX), Act::Lie, Act::Some(9)]);
    let refused = envelope::open_range_from(&Account::any().kek(), &context(), &mut claims_endless, ..).unwrap_err();
    assert!(matches!(&refused, StreamError::Read(error) if error.kind() == ErrorKind::OutOfMemory), "{refused:?}");
    assert!(envelope::read_header(&mut Acting::new(&sealed[..], &[Act::Lie])).is_err());
}

#[test]
fn a_read_error_midway_is_typed_chained_and_final() {
    let sealed = Account::any().seal(&plaintext(2 * CHUNK));
    let mut opener = opener(sealed, &[Act::Some(SEALED_CHUNK), Act::Some(100), BREAKS]);
    let mut got = Vec::new();
    assert_chained(&opener.read_to_end(&mut got).unwrap_err(), ErrorKind::ConnectionReset);
    assert!(got == plaintext(2 * CHUNK)[..CHUNK], "what was authentic before came out");
    let calls = opener.get_ref().calls;
    assert_chained(&opener.read(&mut [0]).unwrap_err(), ErrorKind::ConnectionReset);
    assert_chained(&opener.read(&mut []).unwrap_err(), ErrorKind::ConnectionReset);
    assert_chained(&opener.rewind().unwrap_err(), ErrorKind::ConnectionReset);
    assert_chained(&opener.stream_position().unwrap_err(), ErrorKind::ConnectionReset);
    assert_eq!(opener.get_ref().calls, calls, "the reader is left alone");
}

#[test]
fn a_seek_that_fails_or_would_block_is_final() {
    let sealed = Account::any().seal(&plaintext(3 * CHUNK));
    for broken in 0..5 {
        let mut acts = vec![Act::Some(usize::MAX); broken];
        acts.push(BREAKS);
        let mut opener = opener(sealed.clone(), &acts);
        assert_chained(&opener.seek(SeekFrom::End(-1)).unwrap_err(), ErrorKind::ConnectionReset);
        assert_chained(&opener.read(&mut [0]).unwrap_err(), ErrorKind::ConnectionReset);
    }
    let acts = [Act::Some(usize::MAX), Act::Some(usize::MAX), Act::Some(usize::MAX), Act::Fail(ErrorKind::WouldBlock)];
    let mut opener = opener(sealed, &acts);
    for _ in 0..2 {
        let error = opener.seek(SeekFrom::End(0)).unwrap_err();
        assert!(matches!(StreamError::of(&error), Some(StreamError::Read(_))), "{error:?}");
    }
}

#[test]
fn an_altered_chunk_is_final_and_releases_nothing() {
    let mut sealed = Account::any().seal(&plaintext(3 * CHUNK));
    sealed[HEADER + SEALED_CHUNK + 5] ^= 1;
    for len in [1, 100, CHUNK, 2 * CHUNK] {
        let mut opener = opener(sealed.clone(), &[Act::Some(usize::MAX)]);
        opener.read_exact(&mut vec![0; CHUNK]).unwrap();
        let mut buffer = vec![0; len];
        for _ in 0..2 {
            let error = opener.read(&mut buffer).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData);
            assert!(matches!(StreamError::of(&error), Some(StreamError::Rejected { chunk: 1 })));
            assert!(buffer.iter().all(|byte| *byte == 0), "nothing of the altered chunk came out");
        }
        assert!(opener.rewind().is_err(), "nor does it go back to work");
    }
}

#[test]
fn without_finish_nothing_opens() {
    let account = Account::any();
    for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
        let mut written = Vec::new();
        let mut sealer = Sealer::new(&account.kek(), &context(), &mut written).unwrap();
        sealer.write_all(&plaintext(len)).unwrap();
        sealer.flush().unwrap();
        drop(sealer);
        assert!(written.len() < envelope::sealed_len(len).unwrap());
        assert!(envelope::open(&account.kek(), &context(), &written).is_err(), "{len} bytes unfinished");
        let streamed = Opener::new(&account.kek(), &context(), &written[..]);
        let ended = streamed.map_err(io::Error::from).and_then(|mut opener| io::copy(&mut opener, &mut io::sink()));
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::UnexpectedEof, "{len} bytes unfinished");
    }
}

#[test]
fn after_finish_a_sealer_takes_no_more_and_stays_finished() {
    let account = Account::any();
    let mut sealer = sealer(&[Act::Some(usize::MAX)]);
    sealer.write_all(b"all there is").unwrap();
    for _ in 0..2 {
        sealer.try_finish().unwrap();
        let error = sealer.write(b"more").unwrap_err();
        assert!(matches!(StreamError::of(&error), Some(StreamError::Finished)));
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        sealer.flush().unwrap();
    }
    let sealed = sealer.finish().unwrap().inner;
    assert_eq!(envelope::open(&account.kek(), &context(), &sealed).unwrap(), b"all there is");
}

#[test]
fn a_header_that_is_short_foreign_or_unreadable_is_refused() {
    let account = Account::any();
    let sealed = account.seal(b"plaintext");
    for len in 0..HEADER {
        let refused = Opener::new(&account.kek(), &context(), &sealed[..len]).unwrap_err();
        let empty = matches!(&refused, StreamError::Open(OpenError::Envelope(EnvelopeError::Empty)));
        let truncated = matches!(&refused, StreamError::Open(OpenError::Envelope(EnvelopeError::Truncated { .. })));
        assert!(if len == 0 { empty } else { truncated }, "{len}: {refused:?}");
        assert_eq!(io::Error::from(refused).kind(), ErrorKind::UnexpectedEof);
    }
    let refused = Opener::new(&account.kek(), &context(), &[7; 500][..]).unwrap_err();
    assert!(matches!(refused, StreamError::Open(OpenError::Envelope(EnvelopeError::NotAnEnvelope))));
    let refused =
        Opener::new(&account.kek(), &context(), Acting::new(&sealed[..], &[Act::Some(9), BREAKS])).unwrap_err();
    assert_chained(&refused.into(), ErrorKind::ConnectionReset);
    let refused = Opener::new(&Account { key: [9; 32], ..Account::any() }.kek(), &context(), &sealed[..]).unwrap_err();
    assert!(matches!(refused, StreamError::Open(OpenError::Rejected)));
}

/// Looks at the memory it is lent.
struct Nosy<'a> {
    inner: &'a [u8],
    seen: Vec<u8>,
}

impl Read for Nosy<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.seen.extend_from_slice(buffer);
        self.inner.read(buffer)
    }
}

#[test]
fn a_reader_is_lent_no_memory_with_plaintext_in_it() {
    let account = Account::any();
    let sealed = account.seal(&vec![0x55; 2 * CHUNK + 9]);
    let mut opener = Opener::new(&account.kek(), &context(), Nosy { inner: &sealed, seen: Vec::new() }).unwrap();
    let mut buffer = [0; 1000];
    while opener.read(&mut buffer).unwrap() > 0 {}
    assert!(!opener.get_ref().seen.windows(16).any(|window| window == [0x55; 16]));
}
