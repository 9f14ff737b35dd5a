//! AWS-LC, through `aws-lc-rs`.
//!
//! Key schedules live in AWS-LC's heap, and dropping a `LessSafeKey` overwrites them (`EVP_AEAD_CTX_free` cleanses,
//! and so does AWS-LC's `free` itself); the nonces are the caller's, which is all that "less safe" means.
//!
//! Out of place, input and output apart, because a copy first and sealing in place cost 13% more at 16 KiB.

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::{CHUNK_NONCE_LEN, Mismatch, TAG_LEN};
use crate::suite::Suite;

pub(super) struct Cipher(LessSafeKey);

impl Cipher {
    /// `None` if AWS-LC has no memory for the key.
    pub(super) fn new(suite: Suite, key: &[u8; 32]) -> Option<Self> {
        let algorithm = match suite {
            Suite::XChaCha20Poly1305 => &CHACHA20_POLY1305,
            Suite::Aes256Gcm => &AES_256_GCM,
        };
        UnboundKey::new(algorithm, key).ok().map(|key| Self(LessSafeKey::new(key)))
    }

    pub(super) fn seal(
        &self,
        nonce: &[u8; CHUNK_NONCE_LEN],
        aad: &[u8],
        input: &[u8],
        output: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let sealed = self.0.seal_out_of_place_scatter(nonce, Aad::from(aad), input, output, &[], tag);
        sealed.expect("lengths match and callers keep to max_input_len");
    }

    pub(super) fn open(
        &self,
        nonce: &[u8; CHUNK_NONCE_LEN],
        aad: &[u8],
        input: &[u8],
        tag: &[u8; TAG_LEN],
        output: &mut [u8],
    ) -> Result<(), Mismatch> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        self.0.open_separate_gather(nonce, Aad::from(aad), input, tag, output).map_err(|_| Mismatch)
    }

    pub(super) fn seal_in_place(&self, nonce: &[u8; CHUNK_NONCE_LEN], body: &mut [u8], tag: &mut [u8; TAG_LEN]) {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let sealed = self.0.seal_in_place_scatter(nonce, Aad::empty(), body, &[], tag);
        sealed.expect("lengths match and callers keep to max_input_len");
    }

    pub(super) fn open_in_place(
        &self,
        nonce: &[u8; CHUNK_NONCE_LEN],
        body: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Mismatch> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.0.open_in_place_separate_tag(nonce, Aad::empty(), tag, body);
        opened.map(|_| ()).map_err(|_| Mismatch)
    }
}
