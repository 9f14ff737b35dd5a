//! KEKs: what names one, what it is bound to, and how it comes from the secret that is wrapped.

use std::{fmt, num::NonZeroU32, str::FromStr};

use secrecy::{ExposeSecret, ExposeSecretMut, SecretBox};
use subtle::ConstantTimeEq;

use crate::{
    kdf,
    key::SecretKey,
    path::KeyPath,
    random::{self, RandomnessError},
    suite::Suite,
    wire,
};

/// 16 random bytes that name one version of one KEK and are never used again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KekId([u8; KekId::LEN]);

/// Text that is not a KEK id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a KEK id is written as 32 hexadecimal digits")]
pub struct ParseKekIdError;

impl KekId {
    /// Bytes of an id.
    pub const LEN: usize = 16;

    /// A fresh id.
    ///
    /// # Errors
    /// [`RandomnessError`] if the operating system gives no random bytes.
    pub fn generate() -> Result<Self, RandomnessError> {
        let mut id = [0; Self::LEN];
        random::fill(&mut id)?;
        Ok(Self(id))
    }

    /// The id of these bytes.
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The id's bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Display for KekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // At one go: each load writes it for the KMS.
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for KekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KekId({self})")
    }
}

impl FromStr for KekId {
    type Err = ParseKekIdError;

    fn from_str(text: &str) -> Result<Self, ParseKekIdError> {
        if text.len() != 2 * Self::LEN || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ParseKekIdError);
        }
        let mut id = [0; Self::LEN];
        for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| ParseKekIdError)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| ParseKekIdError)?;
        }
        Ok(Self(id))
    }
}

/// Which KEK of an account: counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KekVersion(NonZeroU32);

impl KekVersion {
    /// Version 1.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The version of this number; `None` for 0.
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// Its number.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// The version after this one; `None` after 2³² − 1.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for KekVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Everything a KEK is bound to. A secret unwrapped under another identity yields another KEK and fails its check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KekIdentity {
    /// The suite the KEK belongs to.
    pub suite: Suite,
    /// Its version number.
    pub version: KekVersion,
    /// Its name.
    pub id: KekId,
    /// Whose key it is.
    pub path: KeyPath,
}

impl KekIdentity {
    /// Derives the KEK and its check from the secret that a root key or a parent KEK wraps:
    /// `KEK(32) ‖ check(32) = KDF(secret, str("keystrata v1 kek") ‖ suite ‖ u32le(version) ‖ KEK id ‖ path)`.
    pub fn derive(&self, secret: &SecretKey) -> DerivedKek {
        let mut label = Vec::with_capacity(20);
        wire::put_str(&mut label, b"keystrata v1 kek");
        let message: [&[u8]; 5] = [
            &label,
            &[self.suite.to_byte()],
            &self.version.get().to_le_bytes(),
            self.id.as_bytes(),
            self.path.as_bytes(),
        ];
        let mut bytes = SecretBox::new(Box::new([0; DerivedKek::LEN]));
        kdf::derive(self.suite, secret.expose_secret(), &message, bytes.expose_secret_mut());
        let mut check = KekCheck([0; KekCheck::LEN]);
        check.0.copy_from_slice(&bytes.expose_secret()[SecretKey::LEN..]);
        DerivedKek { bytes, check }
    }
}

/// A KEK fresh from its derivation, and the check that its record must hold. Wiped on drop.
pub struct DerivedKek {
    /// `KEK ‖ check`, on the heap: moving the struct must not leave a copy of the key behind.
    bytes: SecretBox<[u8; DerivedKek::LEN]>,
    /// Compare it with the record's before the key is used.
    pub check: KekCheck,
}

impl DerivedKek {
    const LEN: usize = SecretKey::LEN + KekCheck::LEN;

    /// The key, to be used under `identity`.
    pub fn kek<'a>(&'a self, identity: &'a KekIdentity) -> Kek<'a> {
        Kek::new(self.expose_secret(), identity)
    }
}

impl ExposeSecret<[u8; SecretKey::LEN]> for DerivedKek {
    fn expose_secret(&self) -> &[u8; SecretKey::LEN] {
        self.bytes.expose_secret().first_chunk().expect("64 bytes begin with 32")
    }
}

impl fmt::Debug for DerivedKek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DerivedKek([REDACTED])")
    }
}

/// 32 bytes derived beside a KEK that commit to it. Not secret, but compared in constant time.
#[derive(Clone, Copy, Eq)]
pub struct KekCheck([u8; KekCheck::LEN]);

impl KekCheck {
    /// Bytes of a check.
    pub const LEN: usize = 32;

    /// The check of these bytes.
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The check's bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl PartialEq for KekCheck {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for KekCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KekCheck(..)")
    }
}

/// A KEK for the length of one operation: borrowed bytes and what they are bound to.
#[derive(Clone, Copy)]
pub struct Kek<'a> {
    pub(crate) key: &'a [u8; SecretKey::LEN],
    pub(crate) identity: &'a KekIdentity,
}

impl<'a> Kek<'a> {
    /// The KEK of these bytes, which the caller vouches were derived under `identity`.
    pub fn new(key: &'a [u8; SecretKey::LEN], identity: &'a KekIdentity) -> Self {
        Self { key, identity }
    }

    /// What the key is bound to.
    pub fn identity(&self) -> &'a KekIdentity {
        self.identity
    }
}

impl fmt::Debug for Kek<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kek").field("identity", self.identity).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> KekIdentity {
        KekIdentity {
            suite: Suite::XChaCha20Poly1305,
            version: KekVersion::FIRST,
            id: KekId::from_bytes([7; 16]),
            path: KeyPath::account("acme").unwrap(),
        }
    }

    #[test]
    fn every_part_of_the_identity_changes_the_kek() {
        let secret = SecretKey::from_slice(&[1; 32]).unwrap();
        let base = identity();
        let first = base.derive(&secret);
        assert_eq!(first.check, base.derive(&secret).check);
        for other in [
            KekIdentity { suite: Suite::Aes256Gcm, ..base.clone() },
            KekIdentity { version: KekVersion::new(2).unwrap(), ..base.clone() },
            KekIdentity { id: KekId::from_bytes([8; 16]), ..base.clone() },
            KekIdentity { path: KeyPath::new(["acme", "x"]).unwrap(), ..base.clone() },
        ] {
            let derived = other.derive(&secret);
            assert_ne!(derived.check, first.check);
            assert_ne!(derived.expose_secret(), first.expose_secret());
        }
    }

    #[test]
    fn debug_shows_no_key_bytes() {
        let secret = SecretKey::from_slice(&[0xab; 32]).unwrap();
        let identity = identity();
        let derived = identity.derive(&secret);
        let shown = format!("{secret:?} {derived:?} {:?} {:?}", derived.check, derived.kek(&identity));
        assert!(!shown.contains("171") && !shown.to_lowercase().contains("abab"), "{shown}");
    }

    #[test]
    fn kek_ids_read_back() {
        let id = KekId::generate().unwrap();
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "00", &"0".repeat(31), &"0".repeat(33), &"g".repeat(32), &"+f".repeat(16)] {
            assert_eq!(bad.parse::<KekId>(), Err(ParseKekIdError), "{bad}");
        }
    }
}
