//! The chunk layout against another implementation of C2SP chunked-encryption, `cobblestone`, byte for byte.
//!
//! Cobblestone-256 is the same raw mode with AES-256-GCM. Two things are its own and are done here by hand: its key
//! schedule, HKDF-Expand with SHA-512, and a base nonce, to which each chunk's number is added bit by bit; ours is zero. So
//! each of our chunks, opened and sealed again under the nonce that is theirs, must be their bytes, and the other way round.

use aes_gcm::{Aes256Gcm, KeyInit, aead::Aead};
use sha2::{Digest, Sha512};

use super::*;
use crate::envelope::{HEADER_LEN, plaintext_len, sealed_len};

/// Salt and commitment.
const THEIR_HEADER_LEN: usize = 24 + 32;
const CONTEXT: &[u8] = b"chunk layout";

const LENGTHS: [usize; 8] = [0, 1, 16_383, 16_384, 16_385, 32_768, 49_151, 5 * 16_384 + 7];

fn hmac_sha512(key: &[u8; 32], message: &[u8]) -> Vec<u8> {
    let pad = |with: u8| {
        let mut block = [with; 128];
        block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = Sha512::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha512::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

/// Key, base nonce and commitment of the message that begins with `header`.
fn their_schedule(key: &[u8; 32], header: &[u8]) -> ([u8; 32], [u8; 12], [u8; 32]) {
    let info = [&b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0"[..], &header[..24], CONTEXT].concat();
    let first = hmac_sha512(key, &[&info[..], &[1]].concat());
    let second = hmac_sha512(key, &[&first[..], &info, &[2]].concat());
    let okm = [first, second].concat();
    (okm[..32].try_into().unwrap(), okm[32..44].try_into().unwrap(), okm[44..76].try_into().unwrap())
}

/// The same chunks with the numbers of one base nonce sealed under another.
fn moved(key: &[u8; 32], body: &[u8], from: [u8; 12], to: [u8; 12]) -> Vec<u8> {
    let cipher = Aes256Gcm::new(key.into());
    let chunks = (0_u64..).zip(body.chunks(16_400)).map(|(number, chunk)| {
        let nonce = |mut base: [u8; 12]| {
            base.iter_mut().rev().zip(number.to_le_bytes()).for_each(|(base, number)| *base ^= number);
            base
        };
        let plaintext = cipher.decrypt(&nonce(from).into(), chunk).unwrap();
        cipher.encrypt(&nonce(to).into(), &plaintext[..]).unwrap()
    });
    chunks.collect::<Vec<_>>().concat()
}

#[test]
fn chunks_of_suite_2_are_those_of_cobblestone() {
    let key = [7; 32];
    let theirs = cobblestone::Key256::from_bytes(&key);
    for len in LENGTHS {
        let plaintext: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let message = cobblestone::encrypt(&theirs, CONTEXT, &plaintext).unwrap();
        let (header, body) = message.split_at(THEIR_HEADER_LEN);
        let (key, base_nonce, commitment) = their_schedule(&key, header);
        assert_eq!(commitment, header[24..], "the key schedule is read right");
        let chunks = Chunks(ChunkCipher::new(Suite::Aes256Gcm, &key));

        let mut ours = vec![0; body.len()];
        chunks.seal_all(&plaintext, &mut ours);
        assert!(moved(&key, &ours, [0; 12], base_nonce) == body, "{len} bytes are sealed as theirs");
        let mut in_place = plaintext.clone();
        in_place.resize(body.len(), 0);
        chunks.seal_all_in_place(len, &mut in_place);
        assert!(in_place == ours, "{len} bytes are sealed in place as theirs");

        let theirs = moved(&key, body, base_nonce, [0; 12]);
        let mut opened = vec![0; len];
        chunks.open_all(&theirs, &mut opened).unwrap();
        assert!(opened == plaintext, "{len} bytes of theirs open");
        in_place.copy_from_slice(&theirs);
        chunks.open_all_in_place(&mut in_place).unwrap();
        assert!(in_place[..len] == plaintext, "{len} bytes of theirs open in place");
    }
}

#[test]
fn lengths_are_those_of_cobblestone() {
    for len in LENGTHS.into_iter().chain(200_000..200_050) {
        let theirs = cobblestone::ciphertext_size(len as u64).unwrap() - THEIR_HEADER_LEN as u64;
        assert_eq!(sealed_len(len).unwrap() - HEADER_LEN, usize::try_from(theirs).unwrap());
    }
    for body in (0..40).chain(16_380..16_440).chain(32_790..32_840) {
        let theirs = cobblestone::plaintext_size((THEIR_HEADER_LEN + body) as u64).ok();
        assert_eq!(plaintext_len(HEADER_LEN + body).map(|len| len as u64), theirs, "{body} bytes of chunks");
    }
}

/// Chunks are sealed in place by groups. One suite, since pure Rust without optimisation takes its time.
#[test]
fn groups_of_chunks_in_place_are_those_sealed_out_of_place() {
    let chunks = Chunks(ChunkCipher::new(Suite::Aes256Gcm, &[7; 32]));
    for count in [GROUP - 1, GROUP, GROUP + 1, 2 * GROUP - 1, 2 * GROUP, 2 * GROUP + 1] {
        let len = count * CHUNK_LEN + 9;
        let plaintext: Vec<u8> = (0..len).map(|i| u8::try_from((i ^ (i >> 8) ^ (i >> 14)) % 256).unwrap()).collect();
        let mut sealed = vec![0; sealed_len(len).unwrap() - HEADER_LEN];
        chunks.seal_all(&plaintext, &mut sealed);
        let mut in_place = plaintext.clone();
        in_place.resize(sealed.len(), 0);
        chunks.seal_all_in_place(len, &mut in_place);
        assert!(in_place == sealed, "{count} chunks and 9 bytes");
        chunks.open_all_in_place(&mut in_place).unwrap();
        assert!(in_place[..len] == plaintext, "{count} chunks and 9 bytes");
    }
}

/// A chunk is opened where it is and moved, which leaves the end of a later one behind.
#[test]
fn opening_in_place_leaves_nothing_beyond_the_plaintext() {
    for suite in Suite::ALL {
        let chunks = Chunks(ChunkCipher::new(suite, &[7; 32]));
        for len in [0, 1, CHUNK_LEN, CHUNK_LEN + 1, 3 * CHUNK_LEN, 4 * CHUNK_LEN - 1] {
            let mut body = vec![0; sealed_len(len).unwrap() - HEADER_LEN];
            chunks.seal_all(&vec![0x55; len], &mut body);
            chunks.open_all_in_place(&mut body).unwrap();
            assert!(body[..len].iter().all(|byte| *byte == 0x55), "{len} bytes");
            assert!(body[len..].iter().all(|byte| *byte == 0), "{len} bytes");
        }
    }
}

#[test]
fn a_failed_chunk_leaves_no_plaintext() {
    for suite in Suite::ALL {
        let chunks = Chunks(ChunkCipher::new(suite, &[7; 32]));
        let mut sealed = vec![0; 100 + TAG_LEN];
        chunks.seal(3, &[0x55; 100], &mut sealed);
        let mut out = [9; 100];
        assert!(chunks.open(2, &sealed, &mut out).is_err());
        assert_eq!(out, [0; 100]);
        assert!(chunks.open_in_place(2, &mut sealed).is_err());
        assert_eq!(sealed, [0; 100 + TAG_LEN]);
    }
}
