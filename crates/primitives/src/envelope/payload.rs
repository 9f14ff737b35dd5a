//! The keys of one object, and what is done with them to its chunks.

use zeroize::Zeroize;

use super::header::{CHUNK_LEN, COMMITMENT_LEN, SEALED_CHUNK_LEN};
use crate::{
    aead::{CHUNK_NONCE_LEN, ChunkCipher, Mismatch, TAG_LEN},
    kdf,
    kek::KekIdentity,
    key::SecretKey,
    suite::Suite,
    wipe::Wiped,
    wire,
};

/// Chunks sealed in place before they are moved. With one, 64 MiB take 1.4 times as long; with more, shorter objects take
/// longer, by up to 1%, because chunks have left the nearest cache when they are moved.
const GROUP: usize = 8;

const LABEL: [u8; 24] = wire::label(b"keystrata v1 payload");

/// What one object's chunks are sealed with: `key(32) ‖ commitment(32)`.
pub(super) struct Payload(Wiped<{ Payload::LEN }>);

impl Payload {
    const LEN: usize = SecretKey::LEN + COMMITMENT_LEN;

    /// All zero: to be [derived](Self::derive) where it stands, since moving a key leaves a copy behind.
    pub(super) fn zeroed() -> Self {
        Self(Wiped::zeroed())
    }

    /// `KDF(DEK, str("keystrata v1 payload") ‖ suite ‖ path ‖ context)`
    pub(super) fn derive(&mut self, dek: &[u8; SecretKey::LEN], identity: &KekIdentity, context: &[u8]) {
        let message = [&LABEL[..], &[identity.suite.to_byte()], identity.path.as_bytes(), context];
        kdf::derive(identity.suite, dek, &message, &mut *self.0);
    }

    pub(super) fn commitment(&self) -> &[u8; COMMITMENT_LEN] {
        self.0.last_chunk().expect("64 bytes end with 32")
    }

    pub(super) fn chunks(&self, suite: Suite) -> Chunks {
        Chunks(ChunkCipher::new(suite, self.0.first_chunk().expect("64 bytes begin with 32")))
    }
}

/// Seals and opens the chunks of one object. Wiped on drop, as its cipher is.
pub(super) struct Chunks(ChunkCipher);

/// The chunk's number as a 12-byte big-endian integer. The key is the object's alone, so nothing in it need be random.
fn nonce(chunk: u64) -> [u8; CHUNK_NONCE_LEN] {
    let mut nonce = [0; CHUNK_NONCE_LEN];
    nonce[4..].copy_from_slice(&chunk.to_be_bytes());
    nonce
}

impl Chunks {
    /// Seals one chunk into `out`, longer by the tag.
    pub(super) fn seal(&self, chunk: u64, plaintext: &[u8], out: &mut [u8]) {
        self.0.seal(&nonce(chunk), plaintext, out);
    }

    /// Seals one chunk where it is; its last 16 bytes are room for the tag.
    pub(super) fn seal_in_place(&self, chunk: u64, bytes: &mut [u8]) {
        self.0.seal_in_place(&nonce(chunk), bytes);
    }

    /// Opens one chunk into `out`, shorter by the tag; zero throughout on a mismatch.
    pub(super) fn open(&self, chunk: u64, sealed: &[u8], out: &mut [u8]) -> Result<(), Mismatch> {
        self.0.open(&nonce(chunk), sealed, out)
    }

    /// Opens one chunk where it is; zero throughout on a mismatch.
    pub(super) fn open_in_place(&self, chunk: u64, bytes: &mut [u8]) -> Result<(), Mismatch> {
        self.0.open_in_place(&nonce(chunk), bytes)
    }

    /// Seals all of `plaintext` into `body`, of the length that its chunks have.
    pub(super) fn seal_all(&self, plaintext: &[u8], body: &mut [u8]) {
        // `chunks` yields no empty last chunk; the format wants one where the length is a multiple of 16 KiB.
        let empty_last = plaintext.len().is_multiple_of(CHUNK_LEN).then_some(&[][..]);
        let chunks = plaintext.chunks(CHUNK_LEN).chain(empty_last);
        for (number, (chunk, out)) in (0..).zip(chunks.zip(body.chunks_mut(SEALED_CHUNK_LEN))) {
            self.seal(number, chunk, out);
        }
    }

    /// Seals the first `len` bytes of `body`, which has the length of their chunks.
    pub(super) fn seal_all_in_place(&self, len: usize, body: &mut [u8]) {
        let place = |number: usize| number * CHUNK_LEN..len.min((number + 1) * CHUNK_LEN);
        // From the last to the first: every chunk moves up over the places of later ones, never of an earlier one. In a group
        // the cipher goes forward, as the processor prefetches. It seals before the move, so no plaintext is left anywhere.
        let mut end = len / CHUNK_LEN + 1;
        while end > 0 {
            let group = end.saturating_sub(GROUP)..end;
            end = group.start;
            let mut tags = [[0; TAG_LEN]; GROUP];
            for (number, tag) in group.clone().zip(&mut tags) {
                self.0.seal_in_place_detached(&nonce(number as u64), &mut body[place(number)], tag);
            }
            for (number, tag) in group.zip(&tags).rev() {
                let (from, to) = (place(number), number * SEALED_CHUNK_LEN);
                let tag_at = to + from.len();
                body.copy_within(from, to);
                body[tag_at..][..TAG_LEN].copy_from_slice(tag);
            }
        }
    }

    /// Opens all of `body` into `plaintext`, of the length that its chunks hold.
    pub(super) fn open_all(&self, body: &[u8], plaintext: &mut [u8]) -> Result<(), Mismatch> {
        let mut rest = plaintext;
        for (number, chunk) in (0..).zip(body.chunks(SEALED_CHUNK_LEN)) {
            let (out, tail) = rest.split_at_mut(chunk.len() - TAG_LEN);
            rest = tail;
            self.open(number, chunk, out)?;
        }
        Ok(())
    }

    /// Opens all of `body` to its own front. What is after the plaintext then is zero.
    pub(super) fn open_all_in_place(&self, body: &mut [u8]) -> Result<(), Mismatch> {
        let mut end = 0;
        for number in 0..body.len().div_ceil(SEALED_CHUNK_LEN) {
            let from = number * SEALED_CHUNK_LEN..body.len().min((number + 1) * SEALED_CHUNK_LEN);
            self.open_in_place(number as u64, &mut body[from.clone()])?;
            let (to, len) = (number * CHUNK_LEN, from.len() - TAG_LEN);
            body.copy_within(from.start..from.start + len, to);
            end = to + len;
        }
        // Of the plaintext that the moves left behind, what none of them has overwritten.
        body[end..].zeroize();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
