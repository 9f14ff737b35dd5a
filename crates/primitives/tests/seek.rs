//! Reading and seeking through an envelope is reading and seeking through its plaintext.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::io::{self, Cursor, ErrorKind, Read, Seek, SeekFrom};

use common::{Account, CHUNK, HEADER, LENGTHS, SEALED_CHUNK, context, plaintext};
use keystrata_primitives::{
    Suite,
    envelope::{self, Opener, StreamError},
};
use proptest::prelude::*;

fn opener(account: &Account, envelope: Vec<u8>) -> Opener<Cursor<Vec<u8>>> {
    Opener::new(&account.kek(), &context(), Cursor::new(envelope)).unwrap()
}

/// Reads once, into `len` bytes.
fn read(reader: &mut impl Read, len: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0xee; len];
    let read = reader.read(&mut buffer)?;
    buffer.truncate(read);
    Ok(buffer)
}

#[test]
fn absurd_seeks_do_what_std_does() {
    let account = Account::any();
    for len in LENGTHS {
        let plaintext = plaintext(len);
        let mut opener = opener(&account, account.seal(&plaintext));
        let mut model = Cursor::new(&plaintext);
        for seek in [
            SeekFrom::Start(u64::MAX),
            SeekFrom::Current(i64::MAX),
            SeekFrom::Current(1),
            SeekFrom::Current(i64::MIN),
            SeekFrom::Current(i64::MIN),
            SeekFrom::Start(0),
            SeekFrom::Current(-1),
            SeekFrom::End(i64::MIN),
            SeekFrom::End(i64::MAX),
            SeekFrom::Current(i64::MAX),
            SeekFrom::Current(i64::MAX),
            SeekFrom::End(1),
            SeekFrom::End(0),
            SeekFrom::End(-1),
            SeekFrom::Current(0),
            SeekFrom::Start(1 << 46),
            SeekFrom::Start((1 << 32) * CHUNK as u64),
            SeekFrom::End(-16_384),
            SeekFrom::Start(CHUNK as u64),
        ] {
            match (opener.seek(seek), model.seek(seek)) {
                (Ok(position), Ok(expected)) => assert_eq!(position, expected, "{len}: {seek:?}"),
                (Err(error), Err(_)) => {
                    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{len}: {seek:?}");
                    assert!(StreamError::of(&error).is_none(), "a refused seek is no failure of the stream");
                }
                (got, expected) => panic!("{len}: {seek:?} gave {got:?} instead of {expected:?}"),
            }
            assert_eq!(opener.stream_position().unwrap(), model.position());
            assert_eq!(read(&mut opener, 3).unwrap(), read(&mut model, 3).unwrap(), "{len}: after {seek:?}");
        }
    }
}

/// Remembers from which chunks it was read.
struct Watched {
    inner: Cursor<Vec<u8>>,
    chunks: Vec<u64>,
}

impl Watched {
    fn new(envelope: Vec<u8>) -> Self {
        Self { inner: Cursor::new(envelope), chunks: Vec::new() }
    }
}

impl Read for &mut Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let at = self.inner.position();
        let read = self.inner.read(buffer)?;
        if let Some(body) = at.checked_sub(HEADER as u64).filter(|_| read > 0) {
            self.chunks.push(body / SEALED_CHUNK as u64);
        }
        Ok(read)
    }
}

impl Seek for &mut Watched {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

#[test]
fn only_the_chunks_of_a_range_are_read_and_the_last_where_the_end_is_told() {
    let account = Account::any();
    let len = 5 * CHUNK as u64 + 7;
    let sealed = account.seal(&plaintext(5 * CHUNK + 7));
    let chunk = CHUNK as u64;
    for (range, expected) in [
        (0..1, &[0][..]),
        (0..chunk, &[0]),
        (chunk..chunk + 1, &[1]),
        (2 * chunk - 1..2 * chunk + 1, &[1, 2]),
        (3 * chunk..5 * chunk, &[3, 4]),
        (4 * chunk..len, &[4, 5]),
        (len - 1..len + 1, &[5]),
        (len..len + 1, &[5]),
        (u64::MAX - 1..u64::MAX, &[5]),
        (3 * chunk..3 * chunk, &[]),
    ] {
        let mut watched = Watched::new(sealed.clone());
        envelope::open_range_from(&account.kek(), &context(), &mut watched, range.clone()).unwrap();
        assert_eq!(watched.chunks, expected, "{range:?}");
    }
}

#[test]
fn damage_elsewhere_is_not_in_the_way_of_a_range() {
    let account = Account::any();
    let mut sealed = account.seal(&plaintext(3 * CHUNK + 7));
    let (kek, context) = (account.kek(), context());
    sealed[HEADER + SEALED_CHUNK] ^= 1;
    let range = |range: std::ops::Range<usize>| {
        envelope::open_range(&kek, &context, &sealed, range.start as u64..range.end as u64).ok()
    };
    assert_eq!(range(0..CHUNK).unwrap(), plaintext(CHUNK));
    assert_eq!(range(CHUNK - 1..CHUNK + 1), None, "the second chunk is damaged");
    assert_eq!(range(2 * CHUNK..4 * CHUNK).unwrap(), plaintext(3 * CHUNK + 7)[2 * CHUNK..]);
}

#[test]
fn every_answer_about_the_end_of_a_cut_envelope_is_truncated() {
    let account = Account::any();
    let sealed = account.seal(&plaintext(2 * CHUNK + 100));
    for cut in [1, 99, 100, 101, 115, 116, 117, SEALED_CHUNK, SEALED_CHUNK + 116, 2 * SEALED_CHUNK + 116] {
        let envelope = sealed[..sealed.len() - cut].to_vec();
        let told = |result: io::Result<u64>| {
            let error = result.expect_err("the end cannot be told");
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "cut by {cut}");
            let truncated = matches!(StreamError::of(&error), Some(StreamError::Truncated { len }) if *len == envelope.len() as u64);
            assert!(truncated, "cut by {cut}: {error:?}");
        };
        told(opener(&account, envelope.clone()).seek(SeekFrom::End(0)));
        told(io::copy(&mut opener(&account, envelope.clone()), &mut io::sink()));

        let mut beyond = opener(&account, envelope.clone());
        assert_eq!(
            beyond.seek(SeekFrom::Start(9 * CHUNK as u64)).unwrap(),
            9 * CHUNK as u64,
            "no answer about the end"
        );
        told(read(&mut beyond, 1).map(|_| 0));
        told(beyond.seek(SeekFrom::Start(0)));
        told(beyond.stream_position());

        for range in [0..u64::MAX, 9 * CHUNK as u64..10 * CHUNK as u64] {
            let refused =
                envelope::open_range_from(&account.kek(), &context(), Cursor::new(&envelope), range).unwrap_err();
            assert!(matches!(refused, StreamError::Truncated { .. }), "cut by {cut}: {refused:?}");
        }
    }
}

#[test]
fn whole_chunks_of_a_cut_envelope_are_read_before_it_fails() {
    let account = Account::any();
    let plaintext = plaintext(2 * CHUNK + 100);
    let sealed = account.seal(&plaintext);
    let mut opener = opener(&account, sealed[..sealed.len() - 1].to_vec());
    let mut got = Vec::new();
    assert!(opener.read_to_end(&mut got).is_err());
    assert!(got == plaintext[..2 * CHUNK], "authentic chunks, and nothing of the one that is not");
}

#[test]
fn going_back_and_forth_over_chunk_ends_loses_nothing() {
    let account = Account::any();
    let plaintext = plaintext(4 * CHUNK + 9);
    let mut opener = opener(&account, account.seal(&plaintext));
    for (to, len) in [(5, 1), (2, 1), (0, 2), (1, 1), (4, 1), (3, 3), (0, 5)] {
        // One chunk is loaded, another is sought but not read, then the first again, on over its end.
        let at = (to * CHUNK).min(plaintext.len()).saturating_sub(2);
        opener.seek(SeekFrom::Start(at as u64)).unwrap();
        read(&mut opener, 1).unwrap();
        opener.seek(SeekFrom::Start((2 * CHUNK) as u64)).unwrap();
        opener.seek(SeekFrom::Start(at as u64)).unwrap();
        let end = plaintext.len().min(at + len * CHUNK);
        let mut got = vec![0; end - at];
        opener.read_exact(&mut got).unwrap();
        assert!(got == plaintext[at..end], "{} bytes from {at}", end - at);
    }
}

#[derive(Clone, Debug)]
enum Call {
    Seek(SeekFrom),
    Read(usize),
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let near = || prop_oneof![0..4 * CHUNK as u64, (0..5_u64, 0..3_u64).prop_map(|(n, by)| n * CHUNK as u64 + by)];
    let signed = || near().prop_map(|by| i64::try_from(by).unwrap() - 32_768);
    let call = prop_oneof![
        4 => (0..40_000_usize).prop_map(Call::Read),
        1 => (0..3_usize).prop_map(Call::Read),
        2 => near().prop_map(|at| Call::Seek(SeekFrom::Start(at))),
        2 => signed().prop_map(|by| Call::Seek(SeekFrom::Current(by))),
        2 => signed().prop_map(|by| Call::Seek(SeekFrom::End(by))),
        1 => any::<i64>().prop_map(|by| Call::Seek(SeekFrom::Current(by))),
        1 => any::<u64>().prop_map(|at| Call::Seek(SeekFrom::Start(at))),
    ];
    prop::collection::vec(call, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_calls_do_what_they_do_to_the_plaintext(
        len in prop_oneof![0..4 * CHUNK, prop::sample::select(&LENGTHS[..])],
        suite in prop::sample::select(&Suite::ALL),
        calls in calls(),
    ) {
        let account = Account::new(suite, 1);
        let plaintext = plaintext(len);
        let mut opener = opener(&account, account.seal(&plaintext));
        let mut model = Cursor::new(&plaintext);
        for call in calls {
            match call {
                Call::Seek(to) => prop_assert_eq!(opener.seek(to).ok(), model.seek(to).ok(), "{:?}", to),
                Call::Read(len) => {
                    let got = read(&mut opener, len).unwrap();
                    prop_assert!(!got.is_empty() || len == 0 || model.position() >= plaintext.len() as u64);
                    prop_assert!(got == read(&mut model, got.len()).unwrap(), "{} bytes", len);
                }
            }
        }
    }
}
