//! What a root key kept in a file derives from its bytes: the key that wraps, and a name that gives nothing away.

use std::{convert::Infallible, fmt};

use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use crate::{kdf, key::SecretKey, suite::Suite, wire};

/// The parts of a local root key:
/// `wrapping key(32) ‖ fingerprint(16) = KDF(secret, str("keystrata v1 local root"))`, the KDF of suite 1.
///
/// The secret serves the KDF alone and the wrapping key serves the cipher alone. Who knows the fingerprint learns nothing
/// of either; two secrets share one by chance after about 2⁶⁴ of them.
pub struct LocalRootParts {
    /// Wraps and unwraps, with [`wrap_key`](crate::wrap::wrap_key) and [`unwrap_key`](crate::wrap::unwrap_key).
    pub wrapping_key: SecretKey,
    /// Names the secret.
    pub fingerprint: [u8; LocalRootParts::FINGERPRINT_LEN],
}

impl LocalRootParts {
    /// Bytes of a fingerprint.
    pub const FINGERPRINT_LEN: usize = 16;

    /// Derives the parts of `secret`.
    pub fn derive(secret: &SecretKey) -> Self {
        let mut label = Vec::with_capacity(32);
        wire::put_str(&mut label, b"keystrata v1 local root");
        let mut derived = Zeroizing::new([0; SecretKey::LEN + Self::FINGERPRINT_LEN]);
        kdf::derive(Suite::XChaCha20Poly1305, secret.expose_secret(), &[&label], &mut *derived);
        let (key, name) = derived.split_at(SecretKey::LEN);
        let mut fingerprint = [0; Self::FINGERPRINT_LEN];
        fingerprint.copy_from_slice(name);
        let Ok(wrapping_key) = SecretKey::try_init_with(|out| {
            out.copy_from_slice(key);
            Ok::<(), Infallible>(())
        });
        Self { wrapping_key, fingerprint }
    }
}

impl fmt::Debug for LocalRootParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalRootParts([REDACTED])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_fixed_by_the_secret() {
        // Computed with another BLAKE3: blake3.blake3(b"\x17\0\0\0keystrata v1 local root", key=b"\x07" * 32).
        let parts = LocalRootParts::derive(&SecretKey::from_slice(&[7; 32]).unwrap());
        assert_eq!(
            hex(parts.wrapping_key.expose_secret()),
            "38c0775ce565ebd416f083ea6b86023022e60dd58bab26e014705a58e4c4e17f"
        );
        assert_eq!(hex(&parts.fingerprint), "a446f8bf7c45d7720951e6eb04aa7071");
    }

    #[test]
    fn another_secret_has_another_name_and_another_key() {
        let one = LocalRootParts::derive(&SecretKey::from_slice(&[1; 32]).unwrap());
        let two = LocalRootParts::derive(&SecretKey::from_slice(&[2; 32]).unwrap());
        assert_ne!(one.fingerprint, two.fingerprint);
        assert_ne!(one.wrapping_key.expose_secret(), two.wrapping_key.expose_secret());
        assert_ne!(one.wrapping_key.expose_secret(), &[1; 32]);
    }

    fn hex(bytes: &[u8]) -> String {
        use std::fmt::Write;
        bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}
