//! A 32-byte key under another: `nonce(24) ‖ ciphertext(32) ‖ tag(16)`, with XChaCha20-Poly1305 in suite 1 and
//! XAES-256-GCM in suite 2.
//!
//! The additional data begins with a label that no other use shares, so a wrapped key moved to another use, account
//! or version does not open.

use rand::TryCryptoRng;
use secrecy::ExposeSecret;

use crate::{
    aead::{self, TAG_LEN, WRAP_NONCE_LEN},
    kek::{Kek, KekIdentity},
    key::SecretKey,
    random::{self, RandomnessError},
    suite::Suite,
    wire,
};

/// Bytes of a wrapped key.
pub const WRAPPED_LEN: usize = WRAP_NONCE_LEN + SecretKey::LEN + TAG_LEN;

const ROOT_SUITE: Suite = Suite::XChaCha20Poly1305;

/// Wrong key, wrong additional data or altered bytes, deliberately not told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("wrapped key rejected: wrong key, wrong context or altered bytes")]
pub struct WrapRejected;

/// Wraps `secret` under `key` with XChaCha20-Poly1305 and a random nonce.
///
/// For keys that belong to no suite, such as a root key of one's own: it is the wrap of suite 1 whatever the suite of
/// `secret`.
///
/// # Errors
/// [`RandomnessError`] if the operating system gives no nonce.
pub fn wrap_key(key: &SecretKey, aad: &[u8], secret: &SecretKey) -> Result<[u8; WRAPPED_LEN], RandomnessError> {
    wrap_with(&mut random::KernelRng, ROOT_SUITE, key.expose_secret(), aad, secret.expose_secret())
}

/// Opens what [`wrap_key`] made.
///
/// # Errors
/// [`WrapRejected`] for another key, other additional data, altered bytes or a wrong length.
pub fn unwrap_key(key: &SecretKey, aad: &[u8], wrapped: &[u8]) -> Result<SecretKey, WrapRejected> {
    open(ROOT_SUITE, key.expose_secret(), aad, wrapped.try_into().map_err(|_| WrapRejected)?)
}

/// Wraps the secret of the KEK `child` under its parent's KEK, in the parent's suite.
///
/// # Errors
/// [`RandomnessError`] if the operating system gives no nonce.
pub fn wrap_child(
    parent: &Kek<'_>,
    child: &KekIdentity,
    secret: &SecretKey,
) -> Result<[u8; WRAPPED_LEN], RandomnessError> {
    wrap_child_with(&mut random::KernelRng, parent, child, secret)
}

pub(crate) fn wrap_child_with<R: TryCryptoRng>(
    rng: &mut R,
    parent: &Kek<'_>,
    child: &KekIdentity,
    secret: &SecretKey,
) -> Result<[u8; WRAPPED_LEN], RandomnessError> {
    let aad = child_aad(parent.identity, child);
    wrap_with(rng, parent.identity.suite, parent.key, &aad, secret.expose_secret())
}

/// Opens what [`wrap_child`] made.
///
/// # Errors
/// [`WrapRejected`] for another parent, child or version, altered bytes or a wrong length.
pub fn unwrap_child(parent: &Kek<'_>, child: &KekIdentity, wrapped: &[u8]) -> Result<SecretKey, WrapRejected> {
    let wrapped = wrapped.try_into().map_err(|_| WrapRejected)?;
    open(parent.identity.suite, parent.key, &child_aad(parent.identity, child), wrapped)
}

/// `str("keystrata v1 kek wrap") ‖ suite ‖ parent KEK id ‖ parent path ‖ child KEK id ‖ u32le(child version) ‖ child path`
fn child_aad(parent: &KekIdentity, child: &KekIdentity) -> Vec<u8> {
    let mut aad = Vec::new();
    wire::put_str(&mut aad, b"keystrata v1 kek wrap");
    aad.push(parent.suite.to_byte());
    aad.extend_from_slice(parent.id.as_bytes());
    aad.extend_from_slice(parent.path.as_bytes());
    aad.extend_from_slice(child.id.as_bytes());
    aad.extend_from_slice(&child.version.get().to_le_bytes());
    aad.extend_from_slice(child.path.as_bytes());
    aad
}

fn wrap_with<R: TryCryptoRng>(
    rng: &mut R,
    suite: Suite,
    key: &[u8; 32],
    aad: &[u8],
    secret: &[u8; 32],
) -> Result<[u8; WRAPPED_LEN], RandomnessError> {
    let mut nonce = [0; WRAP_NONCE_LEN];
    random::fill_with(rng, &mut nonce)?;
    Ok(seal(suite, key, &nonce, aad, secret))
}

pub(crate) fn seal(
    suite: Suite,
    key: &[u8; 32],
    nonce: &[u8; WRAP_NONCE_LEN],
    aad: &[u8],
    secret: &[u8; 32],
) -> [u8; WRAPPED_LEN] {
    let mut wrapped = [0; WRAPPED_LEN];
    let (nonce_out, sealed) = wrapped.split_at_mut(WRAP_NONCE_LEN);
    nonce_out.copy_from_slice(nonce);
    aead::wrap_seal(suite, key, nonce, aad, secret, sealed);
    wrapped
}

fn open(suite: Suite, key: &[u8; 32], aad: &[u8], wrapped: &[u8; WRAPPED_LEN]) -> Result<SecretKey, WrapRejected> {
    SecretKey::try_init_with(|secret| open_into(suite, key, aad, wrapped, secret))
}

/// Opens into memory of the caller's, who wipes it; zero throughout on a mismatch.
pub(crate) fn open_into(
    suite: Suite,
    key: &[u8; 32],
    aad: &[u8],
    wrapped: &[u8; WRAPPED_LEN],
    secret: &mut [u8; 32],
) -> Result<(), WrapRejected> {
    let (nonce, sealed) = wrapped.split_first_chunk().expect("72 bytes begin with 24");
    aead::wrap_open(suite, key, nonce, aad, sealed, secret).map_err(|_| WrapRejected)
}

#[cfg(test)]
mod tests {
    use subtle::ConstantTimeEq;

    use super::*;
    use crate::{KekId, KekVersion, KeyPath, Suite};

    fn identity(suite: Suite, version: u32, id: u8, path: &[&str]) -> KekIdentity {
        KekIdentity {
            suite,
            version: KekVersion::new(version).unwrap(),
            id: KekId::from_bytes([id; 16]),
            path: KeyPath::new(path).unwrap(),
        }
    }

    #[test]
    fn a_wrap_opens_under_its_own_key_and_data_only() {
        let key = SecretKey::generate().unwrap();
        let secret = SecretKey::generate().unwrap();
        let wrapped = wrap_key(&key, b"aad", &secret).unwrap();
        assert!(bool::from(unwrap_key(&key, b"aad", &wrapped).unwrap().ct_eq(&secret)));
        assert_eq!(unwrap_key(&key, b"other", &wrapped).unwrap_err(), WrapRejected);
        assert_eq!(unwrap_key(&secret, b"aad", &wrapped).unwrap_err(), WrapRejected);
        assert_eq!(unwrap_key(&key, b"aad", &wrapped[1..]).unwrap_err(), WrapRejected);
        for bit in 0..8 * wrapped.len() {
            let mut flipped = wrapped;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unwrap_key(&key, b"aad", &flipped).unwrap_err(), WrapRejected, "bit {bit}");
        }
    }

    #[test]
    fn a_child_opens_under_its_own_parent_and_place_only() {
        for (suite, other_suite) in [(Suite::XChaCha20Poly1305, Suite::Aes256Gcm), (Suite::Aes256Gcm, Suite::default())]
        {
            let parent = identity(suite, 1, 1, &["acme"]);
            let child = identity(suite, 3, 3, &["acme", "billing"]);
            let key = [9; 32];
            let secret = SecretKey::generate().unwrap();
            let wrapped = wrap_child(&Kek::new(&key, &parent), &child, &secret).unwrap();
            let unwrapped = unwrap_child(&Kek::new(&key, &parent), &child, &wrapped).unwrap();
            assert!(bool::from(unwrapped.ct_eq(&secret)));
            for other_parent in [identity(suite, 1, 2, &["acme"]), identity(other_suite, 1, 1, &["acme"])] {
                assert!(unwrap_child(&Kek::new(&key, &other_parent), &child, &wrapped).is_err());
            }
            for other in [
                identity(suite, 4, 3, &["acme", "billing"]),
                identity(suite, 3, 4, &["acme", "billing"]),
                identity(suite, 3, 3, &["acme", "search"]),
            ] {
                assert!(unwrap_child(&Kek::new(&key, &parent), &other, &wrapped).is_err());
            }
        }
    }
}
