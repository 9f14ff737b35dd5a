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
