//! The cipher suites: one byte fixes the whole family of algorithms.

use std::fmt;

/// A family of algorithms, named by one byte in every envelope and KEK record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[non_exhaustive]
#[repr(u8)]
pub enum Suite {
    /// Suite 1: XChaCha20-Poly1305 wraps keys, ChaCha20-Poly1305 seals chunks, keyed BLAKE3 derives.
    #[default]
    XChaCha20Poly1305 = 1,
    /// Suite 2: XAES-256-GCM wraps keys, AES-256-GCM seals chunks, HKDF-Expand-SHA-256 derives.
    Aes256Gcm = 2,
}

impl Suite {
    /// Every suite this release knows, in the order of their bytes.
    pub const ALL: [Self; 2] = [Self::XChaCha20Poly1305, Self::Aes256Gcm];

    /// The suite's byte on the wire.
    pub const fn to_byte(self) -> u8 {
        self as u8
    }
}

impl TryFrom<u8> for Suite {
    type Error = UnknownSuite;

    fn try_from(byte: u8) -> Result<Self, UnknownSuite> {
        match byte {
            1 => Ok(Self::XChaCha20Poly1305),
            2 => Ok(Self::Aes256Gcm),
            other => Err(UnknownSuite(other)),
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::XChaCha20Poly1305 => "XChaCha20-Poly1305",
            Self::Aes256Gcm => "AES-256-GCM",
        })
    }
}

/// A suite byte this release does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown suite {0}; a newer release of keystrata may know it")]
pub struct UnknownSuite(pub u8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_name_the_suites_and_no_other_byte_does() {
        for suite in Suite::ALL {
            assert_eq!(Suite::try_from(suite.to_byte()), Ok(suite));
        }
        assert_eq!(Suite::ALL.map(Suite::to_byte), [1, 2]);
        for unknown in (0..=u8::MAX).filter(|byte| !(1..=2).contains(byte)) {
            assert_eq!(Suite::try_from(unknown), Err(UnknownSuite(unknown)));
        }
    }
}
