//! AES-256-GCM of AWS-LC with a key schedule that is kept: `nonce ‖ ciphertext ‖ tag`.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use keystrata_memory::random::KernelRng;
use rand::TryRng;

#[derive(Debug)]
pub(crate) struct Key(LessSafeKey);

impl Key {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("32 bytes")))
    }

    pub(crate) fn seal(&self, plaintext: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        KernelRng.try_fill_bytes(&mut nonce).expect("random bytes");
        let mut sealed = vec![0; NONCE_LEN + plaintext.len() + AES_256_GCM.tag_len()];
        sealed[..NONCE_LEN].copy_from_slice(&nonce);
        let (body, tag) = sealed[NONCE_LEN..].split_at_mut(plaintext.len());
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0.seal_out_of_place_scatter(nonce, Aad::empty(), plaintext, body, &[], tag).expect("lengths match");
        sealed
    }

    pub(crate) fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let (body, tag) = rest.split_at_checked(rest.len().checked_sub(AES_256_GCM.tag_len())?)?;
        let mut plaintext = vec![0; body.len()];
        let nonce = Nonce::assume_unique_for_key(*nonce);
        self.0.open_separate_gather(nonce, Aad::empty(), body, tag, &mut plaintext).ok()?;
        Some(plaintext)
    }
}
