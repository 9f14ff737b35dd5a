//! All ways to seal give the same bytes, and all ways to open the same plaintext or the same refusal.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::io::{Cursor, Read, Write};

use common::{Account, Broken, CHUNK, Counting, HEADER, LENGTHS, SEALED_CHUNK, context, plaintext};
use keystrata_primitives::{
    Context, ContextError, Suite,
    envelope::{self, EnvelopeError, ObjectKey, OpenError, Opener, SealError, SealIntoError},
    hazmat,
};
use proptest::{prelude::*, sample::Index};

fn seal_into(account: &Account, plaintext: &[u8]) -> Vec<u8> {
    let mut out = vec![0xee; envelope::sealed_len(plaintext.len()).unwrap()];
    hazmat::seal_envelope_into_with_rng(&mut Counting(7), &account.kek(), &context(), plaintext, &mut out).unwrap();
    out
}

fn seal_in_place(account: &Account, plaintext: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0xee; envelope::sealed_len(plaintext.len()).unwrap()];
    buffer[HEADER..HEADER + plaintext.len()].copy_from_slice(plaintext);
    hazmat::seal_envelope_in_place_with_rng(&mut Counting(7), &account.kek(), &context(), &mut buffer).unwrap();
    buffer
}

/// Written in pieces of the lengths that `pieces` gives in turn.
fn seal_stream(account: &Account, plaintext: &[u8], pieces: &[usize]) -> Vec<u8> {
    let mut sealer = hazmat::sealer_with_rng(&mut Counting(7), &account.kek(), &context(), Vec::new()).unwrap();
    let mut rest = plaintext;
    for piece in pieces.iter().cycle() {
        let (now, later) = rest.split_at(rest.len().min(*piece));
        sealer.write_all(now).unwrap();
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    sealer.finish().unwrap()
}

fn open_in_place(account: &Account, envelope: &[u8]) -> Result<Vec<u8>, OpenError> {
    let mut buffer = envelope.to_vec();
    let opened = envelope::open_in_place(&account.kek(), &context(), &mut buffer).map(|plaintext| plaintext.to_vec());
    if opened.is_err() {
        assert!(buffer.iter().all(|byte| *byte == 0), "a refusal leaves nothing in the buffer");
    }
    opened
}

/// `None` for any refusal.
fn open_stream(account: &Account, envelope: &[u8]) -> Option<Vec<u8>> {
    let mut plaintext = Vec::new();
    Opener::new(&account.kek(), &context(), envelope).ok()?.read_to_end(&mut plaintext).ok()?;
    Some(plaintext)
}

fn assert_same_refusal(account: &Account, damaged: &[u8], what: &str) {
    let refused = envelope::open(&account.kek(), &context(), damaged).expect_err(what);
    assert_eq!(open_in_place(account, damaged), Err(refused), "{what}");
    assert_eq!(open_stream(account, damaged), None, "{what}");
    assert!(envelope::open_range(&account.kek(), &context(), damaged, ..).is_err(), "{what}");
}

#[test]
fn every_way_agrees_at_every_telling_length() {
    for suite in Suite::ALL {
        let account = Account::new(suite, 1);
        for len in LENGTHS {
            let plaintext = plaintext(len);
            let sealed = account.seal(&plaintext);
            assert!(seal_into(&account, &plaintext) == sealed, "{suite}, {len}: into");
            assert!(seal_in_place(&account, &plaintext) == sealed, "{suite}, {len}: in place");
            for pieces in [&[1][..], &[7, CHUNK - 1, 1], &[CHUNK], &[CHUNK + 1], &[usize::MAX]] {
                assert!(seal_stream(&account, &plaintext, pieces) == sealed, "{suite}, {len}: pieces of {pieces:?}");
            }
            assert!(envelope::open(&account.kek(), &context(), &sealed).unwrap() == plaintext);
            assert!(open_in_place(&account, &sealed).unwrap() == plaintext);
            assert!(open_stream(&account, &sealed).unwrap() == plaintext);
        }
    }
}

#[test]
fn every_way_refuses_a_cut_at_and_around_every_boundary() {
    let account = Account::any();
    for len in LENGTHS {
        let sealed = account.seal(&plaintext(len));
        let boundaries = (0..=sealed.len() / SEALED_CHUNK).map(|n| HEADER + n * SEALED_CHUNK);
        let telling = boundaries.flat_map(|at| [at - 1, at, at + 1, at + 15, at + 16, at + 17]);
        for cut in telling.chain([0, 1, 2, 3, 4, 92, sealed.len() - 1]).filter(|cut| *cut < sealed.len()) {
            assert_same_refusal(&account, &sealed[..cut], &format!("{len} bytes cut at {cut}"));
        }
        for extra in [1, 15, 16, 17, SEALED_CHUNK] {
            let mut longer = sealed.clone();
            longer.resize(sealed.len() + extra, 0);
            assert_same_refusal(&account, &longer, &format!("{len} bytes and {extra} more"));
        }
    }
}

#[test]
fn every_way_refuses_chunks_swapped_dropped_and_repeated() {
    for suite in Suite::ALL {
        let account = Account::new(suite, 1);
        let sealed = account.seal(&plaintext(3 * CHUNK + 5));
        let (header, body) = sealed.split_at(HEADER);
        let chunks: Vec<&[u8]> = body.chunks(SEALED_CHUNK).collect();
        for order in [
            &[1, 0, 2, 3][..],
            &[0, 2, 1, 3],
            &[0, 1, 3],
            &[0, 1, 2],
            &[1, 2, 3],
            &[3],
            &[0, 0, 1, 2, 3],
            &[0, 1, 2, 3, 3],
            &[0, 1, 2, 2, 3],
            &[],
        ] {
            let mut damaged = header.to_vec();
            damaged.extend(order.iter().flat_map(|&chunk: &usize| chunks[chunk]));
            assert_same_refusal(&account, &damaged, &format!("{suite}: chunks in the order {order:?}"));
        }
    }
}

#[test]
fn every_way_refuses_another_key_context_or_suite() {
    let sealed = Account::any().seal(&plaintext(100));
    let other_key = Account { key: [9; 32], ..Account::any() };
    let other_suite = Account::new(Suite::Aes256Gcm, 1);
    for (account, refusal) in [
        (&other_key, OpenError::Rejected),
        (&Account::new(Suite::default(), 2), OpenError::Rejected),
        (&other_suite, OpenError::SuiteMismatch { envelope: Suite::default(), kek: Suite::Aes256Gcm }),
    ] {
        assert_eq!(envelope::open(&account.kek(), &context(), &sealed), Err(refusal.clone()));
        assert_eq!(
            ObjectKey::from_header(&account.kek(), &context(), sealed.first_chunk().unwrap()).unwrap_err(),
            refusal
        );
        assert_same_refusal(account, &sealed, "another key");
    }
    let refused = ObjectKey::from_header(&Account::any().kek(), &Context::none(), sealed.first_chunk().unwrap());
    assert_eq!(refused.unwrap_err(), OpenError::Rejected);
    let key = ObjectKey::from_header(&Account::any().kek(), &context(), sealed.first_chunk().unwrap()).unwrap();
    assert_eq!(format!("{key:?}"), "ObjectKey([REDACTED])");
    let mut opened = Vec::new();
    Opener::with_key(key, &sealed[HEADER..]).read_to_end(&mut opened).unwrap();
    assert_eq!(opened, plaintext(100));
}

#[test]
fn a_refused_seal_leaves_zeros_or_the_plaintext_and_says_why() {
    let account = Account::any();
    let kek = account.kek();
    let twice = Context::new().with("a", "1").with("a", "2");
    let mut out = vec![0xee; 204];

    let refused = envelope::seal_into(&kek, &twice, &[1; 64], &mut out).unwrap_err();
    assert!(matches!(refused, SealIntoError::Seal(SealError::Context(ContextError::DuplicateName { .. }))));
    assert_eq!(out, [0; 204]);
    for len in [0, 123, 203, 205] {
        let mut out = vec![0xee; len];
        let refused = envelope::seal_into(&kek, &context(), &[1; 64], &mut out).unwrap_err();
        assert!(matches!(refused, SealIntoError::OutputLength { len: had, needed: 204 } if had == len));
        assert!(out.iter().all(|byte| *byte == 0));
    }
    out.fill(0xee);
    let refused = hazmat::seal_envelope_into_with_rng(&mut Broken, &kek, &context(), &[1; 64], &mut out).unwrap_err();
    assert!(matches!(refused, SealIntoError::Seal(SealError::Randomness(_))));
    assert_eq!(out, [0; 204]);

    out.fill(0xee);
    for refused in [
        envelope::seal_in_place(&kek, &twice, &mut out),
        hazmat::seal_envelope_in_place_with_rng(&mut Broken, &kek, &context(), &mut out),
    ] {
        assert!(matches!(refused, Err(SealIntoError::Seal(SealError::Context(_) | SealError::Randomness(_)))));
        assert_eq!(out, [0xee; 204], "the plaintext is still there");
    }
    for len in [0, 123, 139, HEADER + SEALED_CHUNK, HEADER + SEALED_CHUNK + 15] {
        let mut buffer = vec![0xee; len];
        let refused = envelope::seal_in_place(&kek, &context(), &mut buffer);
        assert!(matches!(refused, Err(SealIntoError::BufferLength { len: had }) if had == len));
        assert!(buffer.iter().all(|byte| *byte == 0xee));
    }
    assert!(matches!(
        hazmat::sealer_with_rng(&mut Broken, &kek, &context(), Vec::new()),
        Err(SealError::Randomness(_))
    ));
}

#[test]
fn opening_in_place_wipes_the_buffer_whatever_the_refusal() {
    let account = Account::any();
    let twice = Context::new().with("a", "1").with("a", "2");
    let mut buffer = account.seal(b"plaintext");
    let refused = envelope::open_in_place(&account.kek(), &twice, &mut buffer).map(|_| ());
    assert!(matches!(refused, Err(OpenError::Context(_))));
    assert!(buffer.iter().all(|byte| *byte == 0));
    assert_eq!(open_in_place(&account, b""), Err(OpenError::Envelope(EnvelopeError::Empty)));
    assert_eq!(open_in_place(&account, &[0xee; 500]), Err(OpenError::Envelope(EnvelopeError::NotAnEnvelope)));
}

#[test]
fn ranges_equal_slices_and_go_no_further_than_the_end() {
    for suite in Suite::ALL {
        let account = Account::new(suite, 1);
        for len in LENGTHS {
            let plaintext = plaintext(len);
            let sealed = account.seal(&plaintext);
            let range = |start: usize, end: usize| {
                envelope::open_range(&account.kek(), &context(), &sealed, start as u64..end as u64).unwrap()
            };
            let telling = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, len / 2, len.saturating_sub(1), len, len + 1];
            for start in telling {
                for end in telling.into_iter().chain([2 * len]).filter(|end| *end >= start) {
                    assert!(range(start, end) == plaintext[start.min(len)..end.min(len)], "{len}: {start}..{end}");
                }
            }
            let kek = account.kek();
            assert!(envelope::open_range(&kek, &context(), &sealed, ..).unwrap() == plaintext);
            assert!(envelope::open_range(&kek, &context(), &sealed, ..=u64::MAX).unwrap() == plaintext);
            assert!(envelope::open_range(&kek, &context(), &sealed, u64::MAX..).unwrap().is_empty());
        }
    }
    let account = Account::any();
    let (start, end) = (5, 4);
    assert_eq!(
        envelope::open_range(&account.kek(), &context(), &account.seal(b"0123456789"), start..end),
        Err(OpenError::InvertedRange { start: 5, end: 4 })
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_pieces_written_give_the_same_bytes(
        len in 0..4 * CHUNK,
        pieces in prop::collection::vec(1..40_000_usize, 1..8),
    ) {
        let account = Account::any();
        let plaintext = plaintext(len);
        prop_assert!(seal_stream(&account, &plaintext, &pieces) == account.seal(&plaintext));
    }

    #[test]
    fn any_damage_is_the_same_refusal(len in 0..3 * CHUNK, bit: Index, suite in prop::sample::select(&Suite::ALL)) {
        let account = Account::new(suite, 1);
        let mut damaged = account.seal(&plaintext(len));
        let bit = bit.index(8 * damaged.len());
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_same_refusal(&account, &damaged, &format!("bit {bit}"));
    }

    #[test]
    fn any_range_of_a_reader_equals_the_slice(len in 0..4 * CHUNK, start: Index, more in 0..50_000_usize, before in 0..99_usize) {
        let account = Account::any();
        let plaintext = plaintext(len);
        let mut file = vec![0xaa; before];
        file.extend_from_slice(&account.seal(&plaintext));
        let mut reader = Cursor::new(file);
        reader.set_position(before as u64);
        let start = start.index(len + 1);
        let end = start + more;
        let part = envelope::open_range_from(&account.kek(), &context(), &mut reader, start as u64..end as u64).unwrap();
        prop_assert!(part == plaintext[start..end.min(len)]);
    }
}
