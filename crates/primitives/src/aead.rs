//! The only file that names a cipher.
//!
//! XChaCha20-Poly1305 is draft-irtf-cfrg-xchacha-03; ChaCha20-Poly1305 is RFC 8439.

use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit, XChaCha20Poly1305,
    aead::{AeadInOut, inout::InOutBuf},
};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes of an authentication tag.
pub(crate) const TAG_LEN: usize = 16;
/// Bytes of the nonce of a wrap, in every suite.
pub(crate) const WRAP_NONCE_LEN: usize = 24;
/// Bytes of the nonce of a chunk, in every suite.
pub(crate) const CHUNK_NONCE_LEN: usize = 12;

/// Most bytes sealed in one piece: the cipher's block counter has 32 bits, and the crate keeps one block back.
pub(crate) const MAX_INPUT_LEN: u64 = (u32::MAX as u64) * 64 - 1;

/// The ciphertext does not belong to this key, nonce and additional data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch;

// Features of other crates decide whether ciphers wipe their keys and buffered key stream: without them, this does not
// compile. (`poly1305` has no such type; see this crate's Cargo.toml.)
const _: () = {
    const fn wipes_on_drop<T: ZeroizeOnDrop>() {}
    wipes_on_drop::<XChaCha20Poly1305>();
    wipes_on_drop::<ChaCha20Poly1305>();
    wipes_on_drop::<chacha20::XChaCha20>();
    wipes_on_drop::<chacha20::ChaCha20>();
};

/// Seals `input` with XChaCha20-Poly1305 into `output`, of the same length plus the tag.
pub(crate) fn xchacha_seal(key: &[u8; 32], nonce: &[u8; WRAP_NONCE_LEN], aad: &[u8], input: &[u8], output: &mut [u8]) {
    seal(&XChaCha20Poly1305::new(key.into()), nonce.into(), aad, input, output);
}

/// Opens what [`xchacha_seal`] made into `output`, shorter by the tag; zero throughout on a mismatch.
pub(crate) fn xchacha_open(
    key: &[u8; 32],
    nonce: &[u8; WRAP_NONCE_LEN],
    aad: &[u8],
    input: &[u8],
    output: &mut [u8],
) -> Result<(), Mismatch> {
    open(&XChaCha20Poly1305::new(key.into()), nonce.into(), aad, input, output)
}

/// Seals and opens the chunks of one object: ChaCha20-Poly1305 with empty additional data.
pub(crate) struct ChunkCipher(ChaCha20Poly1305);

impl ChunkCipher {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self(ChaCha20Poly1305::new(key.into()))
    }

    pub(crate) fn seal(&self, nonce: &[u8; CHUNK_NONCE_LEN], input: &[u8], output: &mut [u8]) {
        seal(&self.0, nonce.into(), &[], input, output);
    }

    pub(crate) fn open(&self, nonce: &[u8; CHUNK_NONCE_LEN], input: &[u8], output: &mut [u8]) -> Result<(), Mismatch> {
        open(&self.0, nonce.into(), &[], input, output)
    }
}

/// The same on one buffer, `chunk ‖ tag`.
impl ChunkCipher {
    /// Seals all of `chunk` but its last 16 bytes, which the tag overwrites.
    pub(crate) fn seal_in_place(&self, nonce: &[u8; CHUNK_NONCE_LEN], chunk: &mut [u8]) {
        let (body, tag_out) = chunk.split_last_chunk_mut::<TAG_LEN>().expect("callers leave room for the tag");
        let sealed = self.0.encrypt_inout_detached(nonce.into(), &[], body.into());
        tag_out.copy_from_slice(&sealed.expect("callers keep to MAX_INPUT_LEN"));
    }

    /// Opens all of `chunk` but the tag in its last 16 bytes; zero throughout on a mismatch.
    pub(crate) fn open_in_place(&self, nonce: &[u8; CHUNK_NONCE_LEN], chunk: &mut [u8]) -> Result<(), Mismatch> {
        let (body, tag) = chunk.split_last_chunk_mut::<TAG_LEN>().ok_or(Mismatch)?;
        let opened = self.0.decrypt_inout_detached(nonce.into(), &[], body.into(), (&*tag).into());
        opened.map_err(|_| {
            chunk.zeroize();
            Mismatch
        })
    }
}

fn seal<C: AeadInOut>(
    cipher: &C,
    nonce: &chacha20poly1305::aead::Nonce<C>,
    aad: &[u8],
    input: &[u8],
    output: &mut [u8],
) {
    let (body, tag_out) = output.split_at_mut(input.len());
    let buffer = InOutBuf::new(input, body).expect("split at the length of the input");
    let tag = cipher.encrypt_inout_detached(nonce, aad, buffer).expect("callers keep to MAX_INPUT_LEN");
    tag_out.copy_from_slice(&tag);
}

fn open<C: AeadInOut>(
    cipher: &C,
    nonce: &chacha20poly1305::aead::Nonce<C>,
    aad: &[u8],
    input: &[u8],
    output: &mut [u8],
) -> Result<(), Mismatch> {
    let (body, tag) = input.split_at_checked(output.len()).ok_or(Mismatch)?;
    let tag = tag.try_into().map_err(|_| Mismatch)?;
    let buffer = InOutBuf::new(body, output).expect("split at the length of the output");
    let opened = cipher.decrypt_inout_detached(nonce, aad, buffer, tag);
    opened.map_err(|_| {
        output.zeroize();
        Mismatch
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAINTEXT: &[u8] = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the \
                               future, sunscreen would be it.";
    const AAD: [u8; 12] = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];

    /// `N` bytes that count up from `first`.
    fn count<const N: usize>(first: u8) -> [u8; N] {
        let mut out = [0; N];
        out.iter_mut().zip(first..).for_each(|(byte, number)| *byte = number);
        out
    }

    fn first_block(sealed: &[u8]) -> u128 {
        u128::from_be_bytes(*sealed.first_chunk().unwrap())
    }

    fn tag(sealed: &[u8]) -> u128 {
        u128::from_be_bytes(*sealed.last_chunk().unwrap())
    }

    /// draft-irtf-cfrg-xchacha-03, appendix A.3.1.
    #[test]
    fn xchacha20_poly1305_gives_the_drafts_answer() {
        let (key, nonce) = (count(0x80), count(0x40));
        let mut sealed = vec![0; PLAINTEXT.len() + TAG_LEN];
        xchacha_seal(&key, &nonce, &AAD, PLAINTEXT, &mut sealed);
        assert_eq!(first_block(&sealed), 0xbd6d_179d_3e83_d43b_9576_5794_93c0_e939);
        assert_eq!(tag(&sealed), 0xc087_5924_c1c7_9879_47de_afd8_780a_cf49);
        let mut opened = vec![0; PLAINTEXT.len()];
        assert_eq!(xchacha_open(&key, &nonce, &AAD, &sealed, &mut opened), Ok(()));
        assert_eq!(opened, PLAINTEXT);
    }

    /// RFC 8439, section 2.8.2.
    #[test]
    fn chacha20_poly1305_gives_the_rfcs_answer() {
        let key: [u8; 32] = count(0x80);
        let mut nonce: [u8; CHUNK_NONCE_LEN] = count(0x3c);
        nonce[..4].copy_from_slice(&[7, 0, 0, 0]);
        let mut sealed = vec![0; PLAINTEXT.len() + TAG_LEN];
        seal(&ChaCha20Poly1305::new((&key).into()), (&nonce).into(), &AAD, PLAINTEXT, &mut sealed);
        assert_eq!(first_block(&sealed), 0xd31a_8d34_648e_60db_7b86_afbc_53ef_7ec2);
        assert_eq!(tag(&sealed), 0x1ae1_0b59_4f09_e26a_7e90_2ecb_d060_0691);
    }

    #[test]
    fn output_is_zero_after_a_mismatch_and_other_lengths_are_one() {
        let key = count(0);
        let mut sealed = [0; 5 + TAG_LEN];
        ChunkCipher::new(&key).seal(&[0; 12], b"five!", &mut sealed);
        sealed[0] ^= 1;
        let mut out = [0xff; 5];
        assert_eq!(ChunkCipher::new(&key).open(&[0; 12], &sealed, &mut out), Err(Mismatch));
        assert_eq!(out, [0; 5]);
        sealed[0] ^= 1;
        for len in [0, 4, 6, 30] {
            assert_eq!(ChunkCipher::new(&key).open(&[0; 12], &sealed, &mut vec![0; len]), Err(Mismatch), "{len}");
        }
        assert_eq!(ChunkCipher::new(&key).open(&[0; 12], &sealed, &mut out), Ok(()));
        assert_eq!(&out, b"five!");
    }
}
