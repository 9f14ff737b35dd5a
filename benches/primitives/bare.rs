//! What the envelopes are compared with: the same ciphers of the same backend (AWS-LC), and nothing around them.
//!
//! Every seal makes a fresh key and nonces, in one request to the kernel, and one allocation; so do the envelopes.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use chacha20::{R20, hchacha};
use keystrata_memory::random::KernelRng;
use keystrata_primitives::Suite;
use rand::TryRng;

const TAG_LEN: usize = 16;

/// Sealed bytes and what opens them.
#[derive(Clone)]
pub(crate) struct Bare {
    key: [u8; 32],
    nonce: [u8; 24],
    sealed: Vec<u8>,
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut random = [0; N];
    KernelRng.try_fill_bytes(&mut random).expect("random bytes");
    random
}

/// One seal under a fresh key: XChaCha20-Poly1305, or AES-256-GCM (with the first 12 bytes of the nonce).
pub(crate) fn seal(suite: Suite, plaintext: &[u8]) -> Bare {
    let (key, nonce) = split(&random::<56>());
    let mut sealed = vec![0; plaintext.len() + TAG_LEN];
    let (cipher, short) = cipher(suite, &key, &nonce);
    seal_into(&cipher, short, plaintext, &mut sealed);
    Bare { key, nonce, sealed }
}

pub(crate) fn open(suite: Suite, bare: &Bare) -> Vec<u8> {
    let (cipher, nonce) = cipher(suite, &bare.key, &bare.nonce);
    let mut plaintext = vec![0; bare.sealed.len() - TAG_LEN];
    open_into(&cipher, nonce, &bare.sealed, &mut plaintext);
    plaintext
}

/// What seals and opens on buffers of the caller's, with a fresh key for each.
impl Bare {
    pub(crate) fn open_into(&self, suite: Suite, plaintext: &mut [u8]) {
        let (cipher, nonce) = cipher(suite, &self.key, &self.nonce);
        open_into(&cipher, nonce, &self.sealed, plaintext);
    }

    /// `buffer` holds [`sealed`](Self::sealed), and its plaintext afterwards.
    pub(crate) fn open_in_place(&self, suite: Suite, buffer: &mut [u8]) {
        let (cipher, nonce) = cipher(suite, &self.key, &self.nonce);
        cipher.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), buffer).expect("sealed here");
    }

    /// Reads what `other` holds, of the same length.
    pub(crate) fn copy_from(&mut self, other: &Self) {
        self.sealed.copy_from_slice(&other.sealed);
    }

    pub(crate) fn sealed(&self) -> &[u8] {
        &self.sealed
    }
}

/// One seal of `plaintext` into `out`, longer by the tag.
pub(crate) fn seal_to(suite: Suite, plaintext: &[u8], out: &mut [u8]) {
    let (key, nonce) = split(&random::<56>());
    let (cipher, nonce) = cipher(suite, &key, &nonce);
    seal_into(&cipher, nonce, plaintext, out);
}

/// One seal of all of `buffer` but its last 16 bytes, where the tag goes.
pub(crate) fn seal_in_place(suite: Suite, buffer: &mut [u8]) {
    let (key, nonce) = split(&random::<56>());
    let (cipher, nonce) = cipher(suite, &key, &nonce);
    let (body, tag) = buffer.split_at_mut(buffer.len() - TAG_LEN);
    let nonce = Nonce::assume_unique_for_key(nonce);
    cipher.seal_in_place_scatter(nonce, Aad::empty(), body, &[], tag).expect("lengths match");
}

/// "Three levels, nothing else": a fresh DEK wrapped by the KEK, and the data under it, both with AES-256-GCM. No KDF,
/// no commitment, no account, no context.
///
/// `wrap nonce(12) ‖ wrapped DEK(48) ‖ nonce(12) ‖ ciphertext ‖ tag(16)`
pub(crate) fn seal_three_levels(kek: &[u8; 32], plaintext: &[u8]) -> Vec<u8> {
    let random = random::<56>();
    let (dek, nonces) = random.split_first_chunk().expect("56 bytes begin with 32");
    let (wrap_nonce, nonce) = (first(nonces), first(&nonces[12..]));
    let mut out = vec![0; 72 + plaintext.len() + TAG_LEN];
    out[..12].copy_from_slice(&wrap_nonce);
    seal_into(&key(&AES_256_GCM, kek), wrap_nonce, dek, &mut out[12..60]);
    out[60..72].copy_from_slice(&nonce);
    seal_into(&key(&AES_256_GCM, dek), nonce, plaintext, &mut out[72..]);
    out
}

pub(crate) fn open_three_levels(kek: &[u8; 32], sealed: &[u8]) -> Vec<u8> {
    let mut dek = [0; 32];
    open_into(&key(&AES_256_GCM, kek), first(sealed), &sealed[12..60], &mut dek);
    let mut plaintext = vec![0; sealed.len() - 72 - TAG_LEN];
    open_into(&key(&AES_256_GCM, &dek), first(&sealed[60..]), &sealed[72..], &mut plaintext);
    plaintext
}

fn split(random: &[u8; 56]) -> ([u8; 32], [u8; 24]) {
    (*random.first_chunk().expect("56 bytes begin with 32"), *random.last_chunk().expect("and end with 24"))
}

fn first(bytes: &[u8]) -> [u8; 12] {
    *bytes.first_chunk().expect("long enough for a nonce")
}

fn key(algorithm: &'static Algorithm, key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(algorithm, key).expect("32 bytes"))
}

fn cipher(suite: Suite, bytes: &[u8; 32], nonce: &[u8; 24]) -> (LessSafeKey, [u8; 12]) {
    match suite {
        Suite::XChaCha20Poly1305 => {
            let (front, back) = nonce.split_first_chunk::<16>().expect("24 bytes begin with 16");
            let subkey = hchacha::<R20>(bytes.into(), front.into());
            let mut short = [0; 12];
            short[4..].copy_from_slice(back);
            (key(&CHACHA20_POLY1305, &subkey.0), short)
        }
        _ => (key(&AES_256_GCM, bytes), first(nonce)),
    }
}

fn seal_into(key: &LessSafeKey, nonce: [u8; 12], plaintext: &[u8], out: &mut [u8]) {
    let (body, tag) = out.split_at_mut(plaintext.len());
    key.seal_out_of_place_scatter(Nonce::assume_unique_for_key(nonce), Aad::empty(), plaintext, body, &[], tag)
        .expect("lengths match");
}

fn open_into(key: &LessSafeKey, nonce: [u8; 12], sealed: &[u8], out: &mut [u8]) {
    let (body, tag) = sealed.split_at(out.len());
    key.open_separate_gather(Nonce::assume_unique_for_key(nonce), Aad::empty(), body, tag, out).expect("sealed here");
}
