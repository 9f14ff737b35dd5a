//! The chunks of an envelope and the keys they are sealed with.

use zeroize::Zeroizing;

use super::header::{CHUNK_LEN, COMMITMENT_LEN, SEALED_CHUNK_LEN};
use crate::{
    aead::{CHUNK_NONCE_LEN, ChunkCipher, TAG_LEN},
    kdf,
    kek::KekIdentity,
    key::SecretKey,
    wire,
};

const LABEL: &[u8] = b"keystrata v1 payload";

/// What one object's chunks are sealed with: `key(32) ‖ base nonce(12) ‖ commitment(32)`.
pub(super) struct Payload(Zeroizing<[u8; Payload::LEN]>);

impl Payload {
    const LEN: usize = SecretKey::LEN + CHUNK_NONCE_LEN + COMMITMENT_LEN;

    /// All zero: to be [derived](Self::derive) where it stands, since moving a key leaves a copy behind.
    pub(super) fn zeroed() -> Self {
        Self(Zeroizing::new([0; Self::LEN]))
    }

    /// `KDF(DEK, str("keystrata v1 payload") ‖ suite ‖ path ‖ context)`
    pub(super) fn derive(&mut self, dek: &[u8; SecretKey::LEN], identity: &KekIdentity, context: &[u8]) {
        let mut label = Vec::with_capacity(4 + LABEL.len() + 1);
        wire::put_str(&mut label, LABEL);
        label.push(identity.suite.to_byte());
        kdf::derive(identity.suite, dek, &[&label, identity.path.as_bytes(), context], &mut *self.0);
    }

    fn cipher(&self) -> ChunkCipher {
        ChunkCipher::new(self.0.first_chunk().expect("76 bytes begin with 32"))
    }

    pub(super) fn commitment(&self) -> &[u8; COMMITMENT_LEN] {
        self.0.last_chunk().expect("76 bytes end with 32")
    }

    /// Base nonce XOR the chunk's number as a 12-byte big-endian integer.
    fn nonce(&self, chunk: u64) -> [u8; CHUNK_NONCE_LEN] {
        let mut nonce = [0; CHUNK_NONCE_LEN];
        nonce.copy_from_slice(&self.0[SecretKey::LEN..SecretKey::LEN + CHUNK_NONCE_LEN]);
        for (byte, number) in nonce[4..].iter_mut().zip(chunk.to_be_bytes()) {
            *byte ^= number;
        }
        nonce
    }

    pub(super) fn seal_chunks(&self, plaintext: &[u8], body: &mut [u8]) {
        let cipher = self.cipher();
        // `chunks` yields no empty last chunk; the format wants one where the length is a multiple of 16 KiB.
        let empty_last = plaintext.len().is_multiple_of(CHUNK_LEN).then_some(&[][..]);
        let chunks = plaintext.chunks(CHUNK_LEN).chain(empty_last);
        for (number, (chunk, out)) in (0..).zip(chunks.zip(body.chunks_mut(SEALED_CHUNK_LEN))) {
            cipher.seal(&self.nonce(number), chunk, out);
        }
    }

    /// Whether every chunk was authentic. `body` and `plaintext` have matching lengths.
    pub(super) fn open_chunks(&self, body: &[u8], plaintext: &mut [u8]) -> bool {
        let cipher = self.cipher();
        let mut rest = plaintext;
        for (number, chunk) in (0..).zip(body.chunks(SEALED_CHUNK_LEN)) {
            let (out, tail) = rest.split_at_mut(chunk.len() - TAG_LEN);
            rest = tail;
            if cipher.open(&self.nonce(number), chunk, out).is_err() {
                return false;
            }
        }
        true
    }
}
