//! What makes the vectors: fixed bytes for every key, nonce and id.

use std::convert::Infallible;

use keystrata_primitives::{KekId, KekIdentity, KekVersion, KeyPath, SecretKey, Suite};
use rand::{TryCryptoRng, TryRng};

/// The first `N` bytes of the hash of `label`.
pub(crate) fn bytes<const N: usize>(label: &str) -> [u8; N] {
    let mut out = [0; N];
    blake3::Hasher::new().update(label.as_bytes()).finalize_xof().fill(&mut out);
    out
}

pub(crate) fn secret(bytes: &[u8; 32]) -> SecretKey {
    SecretKey::from_slice(bytes).unwrap()
}

pub(crate) fn identity(suite: Suite, version: u32, id: &[u8; 16], path: &[&str]) -> KekIdentity {
    KekIdentity {
        suite,
        version: KekVersion::new(version).unwrap(),
        id: KekId::from_bytes(*id),
        path: KeyPath::new(path).unwrap(),
    }
}

pub(crate) fn strings(path: &[&str]) -> Vec<String> {
    path.iter().map(|segment| (*segment).to_owned()).collect()
}

/// What the names of vectors begin with, and the labels of their keys: the first suite came first and has none.
pub(crate) fn prefix(suite: Suite) -> &'static str {
    match suite {
        Suite::XChaCha20Poly1305 => "",
        Suite::Aes256Gcm => "aes_",
        other => panic!("a suite without vectors: {other}"),
    }
}

pub(crate) fn other_suite(suite: Suite) -> Suite {
    if suite == Suite::Aes256Gcm { Suite::XChaCha20Poly1305 } else { Suite::Aes256Gcm }
}

/// Gives out the bytes it was made of, and no others.
pub(crate) struct Fixed(Vec<u8>);

impl Fixed {
    pub(crate) fn new(parts: &[&[u8]]) -> Self {
        Self(parts.concat())
    }
}

impl TryRng for Fixed {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut word = [0; 4];
        self.try_fill_bytes(&mut word)?;
        Ok(u32::from_le_bytes(word))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut word = [0; 8];
        self.try_fill_bytes(&mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        assert!(out.len() <= self.0.len(), "more random bytes asked for than the format needs");
        out.copy_from_slice(self.0.drain(..out.len()).as_slice());
        Ok(())
    }
}

impl TryCryptoRng for Fixed {}

/// `bytes` with the lowest bit of the byte at `offset` flipped.
pub(crate) fn flip(bytes: &[u8], offset: usize) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out[offset] ^= 1;
    out
}

/// `bytes` with `new` from `offset` on.
pub(crate) fn put(bytes: &[u8], offset: usize, new: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out[offset..offset + new.len()].copy_from_slice(new);
    out
}
