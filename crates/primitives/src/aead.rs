//! The ciphers of both suites, behind one face: only this module and its parts name a cipher.
//!
//! | suite | chunks, 12-byte nonce | wraps, 24-byte nonce |
//! |---|---|---|
//! | 1 | ChaCha20-Poly1305, RFC 8439 | XChaCha20-Poly1305, draft-irtf-cfrg-xchacha-03 |
//! | 2 | AES-256-GCM, NIST SP 800-38D | XAES-256-GCM, c2sp.org/XAES-256-GCM |
//!
//! A wrap is the suite's chunk cipher under a subkey that comes from the key and the front of the nonce.
//!
//! Who does what, and why (`docs/benchmarks.md` has the numbers; one core of a Zen 4):
//!
//! - Both chunk ciphers: AWS-LC if it is compiled in. With a fresh key it is faster at every length from 32
//!   bytes up: 64 bytes with AES-256-GCM cost 228 ns against 353 ns, with ChaCha20-Poly1305 205 ns against 1,537 ns.
//! - Subkeys: pure Rust always. AWS-LC offers Rust no `HChaCha20`, and three AES blocks cost 116 ns with `aes`,
//!   214 ns through its ECB and 318 ns through its CMAC.
//! - Pure Rust seals and opens without AWS-LC, and also where AWS-LC cannot set up a key, which happens only when its
//!   allocator has no memory left: a seal then neither panics nor fails. Both give the same bytes and refusals.

#[cfg(feature = "aws-lc-rs")]
mod aws_lc;
mod rust_crypto;
mod subkey;
#[cfg(test)]
mod tests;

use zeroize::Zeroize;

use crate::{suite::Suite, wipe::Wiped};

/// Bytes of an authentication tag.
pub(crate) const TAG_LEN: usize = 16;
/// Bytes of the nonce of a wrap, in every suite.
pub(crate) const WRAP_NONCE_LEN: usize = 24;
/// Bytes of the nonce of a chunk, in every suite.
pub(crate) const CHUNK_NONCE_LEN: usize = 12;

/// Most bytes sealed in one piece. Both backends refuse no fewer, so neither ever decides.
pub(crate) const fn max_input_len(suite: Suite) -> u64 {
    match suite {
        // The block counter has 32 bits, and pure Rust keeps one block back.
        Suite::XChaCha20Poly1305 => (u32::MAX as u64) * 64 - 1,
        // 2^39 - 256 bits (NIST SP 800-38D, section 5.2.1.1).
        Suite::Aes256Gcm => (1 << 36) - 32,
    }
}

/// The ciphertext does not belong to this key, nonce and additional data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch;

/// Seals `input` under a 24-byte nonce into `output`, of the same length plus the tag.
pub(crate) fn wrap_seal(
    suite: Suite,
    key: &[u8; 32],
    nonce: &[u8; WRAP_NONCE_LEN],
    aad: &[u8],
    input: &[u8],
    output: &mut [u8],
) {
    let mut subkey = Wiped::zeroed();
    let nonce = subkey::derive(suite, key, nonce, &mut subkey);
    Cipher::new(suite, &subkey).seal(&nonce, aad, input, output);
}

/// Opens what [`wrap_seal`] made into `output`, shorter by the tag; zero throughout on a mismatch.
pub(crate) fn wrap_open(
    suite: Suite,
    key: &[u8; 32],
    nonce: &[u8; WRAP_NONCE_LEN],
    aad: &[u8],
    input: &[u8],
    output: &mut [u8],
) -> Result<(), Mismatch> {
    let mut subkey = Wiped::zeroed();
    let nonce = subkey::derive(suite, key, nonce, &mut subkey);
    Cipher::new(suite, &subkey).open(&nonce, aad, input, output)
}

/// Seals and opens the chunks of one object, without additional data. Its key is wiped when it is dropped.
pub(crate) struct ChunkCipher(Cipher);

impl ChunkCipher {
    pub(crate) fn new(suite: Suite, key: &[u8; 32]) -> Self {
        Self(Cipher::new(suite, key))
    }

    /// Seals `input` into `output`, of the same length plus the tag.
    pub(crate) fn seal(&self, nonce: &[u8; CHUNK_NONCE_LEN], input: &[u8], output: &mut [u8]) {
        self.0.seal(nonce, &[], input, output);
    }

    /// Opens what [`seal`](Self::seal) made into `output`, shorter by the tag; zero throughout on a mismatch.
    pub(crate) fn open(&self, nonce: &[u8; CHUNK_NONCE_LEN], input: &[u8], output: &mut [u8]) -> Result<(), Mismatch> {
        self.0.open(nonce, &[], input, output)
    }
}

/// The same on one buffer, `chunk ‖ tag`.
impl ChunkCipher {
    /// Seals all of `chunk` but its last 16 bytes, which the tag overwrites.
    pub(crate) fn seal_in_place(&self, nonce: &[u8; CHUNK_NONCE_LEN], chunk: &mut [u8]) {
        let (body, tag) = chunk.split_last_chunk_mut::<TAG_LEN>().expect("callers leave room for the tag");
        self.seal_in_place_detached(nonce, body, tag);
    }

    /// Seals all of `body`; the tag goes elsewhere.
    pub(crate) fn seal_in_place_detached(
        &self,
        nonce: &[u8; CHUNK_NONCE_LEN],
        body: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) {
        match &self.0 {
            #[cfg(feature = "aws-lc-rs")]
            Cipher::AwsLc(cipher) => cipher.seal_in_place(nonce, body, tag),
            Cipher::RustCrypto(cipher) => cipher.seal_in_place(nonce, body, tag),
        }
    }

    /// Opens all of `chunk` but the tag in its last 16 bytes; zero throughout on a mismatch.
    pub(crate) fn open_in_place(&self, nonce: &[u8; CHUNK_NONCE_LEN], chunk: &mut [u8]) -> Result<(), Mismatch> {
        let (body, tag) = chunk.split_last_chunk_mut::<TAG_LEN>().ok_or(Mismatch)?;
        let opened = match &self.0 {
            #[cfg(feature = "aws-lc-rs")]
            Cipher::AwsLc(cipher) => cipher.open_in_place(nonce, body, tag),
            Cipher::RustCrypto(cipher) => cipher.open_in_place(nonce, body, tag),
        };
        opened.inspect_err(|_| chunk.zeroize())
    }
}

/// A suite's chunk cipher under one key, in the backend that serves it.
#[cfg_attr(
    feature = "aws-lc-rs",
    expect(clippy::large_enum_variant, reason = "a box would ask for memory just when there is none")
)]
enum Cipher {
    #[cfg(feature = "aws-lc-rs")]
    AwsLc(aws_lc::Cipher),
    RustCrypto(rust_crypto::Cipher),
}

impl Cipher {
    fn new(suite: Suite, key: &[u8; 32]) -> Self {
        #[cfg(feature = "aws-lc-rs")]
        if let Some(cipher) = aws_lc::Cipher::new(suite, key) {
            return Self::AwsLc(cipher);
        }
        Self::RustCrypto(rust_crypto::Cipher::new(suite, key))
    }

    fn seal(&self, nonce: &[u8; CHUNK_NONCE_LEN], aad: &[u8], input: &[u8], output: &mut [u8]) {
        let (body, tag) = output.split_at_mut(input.len());
        let tag = tag.try_into().expect("an output is longer than its input by a tag");
        match self {
            #[cfg(feature = "aws-lc-rs")]
            Self::AwsLc(cipher) => cipher.seal(nonce, aad, input, body, tag),
            Self::RustCrypto(cipher) => cipher.seal(nonce, aad, input, body, tag),
        }
    }

    fn open(&self, nonce: &[u8; CHUNK_NONCE_LEN], aad: &[u8], input: &[u8], output: &mut [u8]) -> Result<(), Mismatch> {
        let (body, tag) = input.split_at_checked(output.len()).ok_or(Mismatch)?;
        let tag = tag.try_into().map_err(|_| Mismatch)?;
        let opened = match self {
            #[cfg(feature = "aws-lc-rs")]
            Self::AwsLc(cipher) => cipher.open(nonce, aad, body, tag, output),
            Self::RustCrypto(cipher) => cipher.open(nonce, aad, body, tag, output),
        };
        // AWS-LC decrypts while it authenticates.
        opened.inspect_err(|_| output.zeroize())
    }
}
