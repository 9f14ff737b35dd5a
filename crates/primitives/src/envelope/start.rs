//! The start of every envelope: from a KEK and a context to a header and the keys of one object, and back.

use rand::TryCryptoRng;
use subtle::ConstantTimeEq;

use super::{
    OpenError,
    header::{HEADER_LEN, Header, MAGIC, VERSION},
    payload::{Chunks, Payload},
};
use crate::{
    aead::WRAP_NONCE_LEN,
    kek::{Kek, KekId, KekIdentity},
    key::SecretKey,
    path::KeyPath,
    random::{self, RandomnessError},
    wipe::Wiped,
    wire,
    wrap::{self, WRAPPED_LEN},
};

/// Writes the header of a new object and returns its keys. On a failure `header` is as it was.
pub(super) fn begin<R: TryCryptoRng>(
    rng: &mut R,
    kek: &Kek<'_>,
    context: &[u8],
    header: &mut [u8; HEADER_LEN],
) -> Result<Chunks, RandomnessError> {
    let identity = kek.identity;
    // One request to the kernel: the DEK and the nonce of its wrap.
    let mut random = Wiped::<{ SecretKey::LEN + WRAP_NONCE_LEN }>::zeroed();
    random::fill_with(rng, &mut *random)?;
    let (dek, nonce) = random.split_first_chunk().expect("56 bytes begin with 32");
    let nonce = nonce.first_chunk().expect("and end with 24");

    let mut payload = Payload::zeroed();
    payload.derive(dek, identity, context);
    header[..2].copy_from_slice(&MAGIC);
    header[2] = VERSION;
    header[3] = identity.suite.to_byte();
    header[4..20].copy_from_slice(identity.id.as_bytes());
    header[20..92].copy_from_slice(&wrap_dek(kek, nonce, dek));
    header[92..].copy_from_slice(payload.commitment());
    Ok(payload.chunks(identity.suite))
}

/// The keys of the object that `header` begins, if it was sealed for this KEK's account and this context.
pub(super) fn resume(kek: &Kek<'_>, context: &[u8], header: &Header<'_>) -> Result<Chunks, OpenError> {
    let mut dek = Wiped::zeroed();
    unwrap_dek(kek, header, &mut dek)?;
    let mut payload = Payload::zeroed();
    payload.derive(&dek, kek.identity, context);
    // Before a byte of data is touched, and in constant time: an envelope opens under one key and one context only.
    if bool::from(payload.commitment().ct_eq(&header.commitment())) {
        Ok(payload.chunks(kek.identity.suite))
    } else {
        Err(OpenError::Rejected)
    }
}

pub(super) fn wrap_dek(kek: &Kek<'_>, nonce: &[u8; WRAP_NONCE_LEN], dek: &[u8; SecretKey::LEN]) -> [u8; WRAPPED_LEN] {
    wrap::seal(kek.identity.suite, kek.key, nonce, WrapAad::new(kek.identity).as_bytes(), dek)
}

/// Unwraps into `dek`, which the caller wipes.
pub(super) fn unwrap_dek(kek: &Kek<'_>, header: &Header<'_>, dek: &mut [u8; SecretKey::LEN]) -> Result<(), OpenError> {
    let identity = kek.identity;
    if header.suite() != identity.suite {
        return Err(OpenError::SuiteMismatch { envelope: header.suite(), kek: identity.suite });
    }
    if header.kek_id() != identity.id {
        return Err(OpenError::Rejected);
    }
    wrap::open_into(identity.suite, kek.key, WrapAad::new(identity).as_bytes(), &header.wrapped_dek(), dek)
        .map_err(|_| OpenError::Rejected)
}

/// `str("keystrata v1 dek wrap") ‖ suite ‖ KEK id ‖ path`, on the stack: nothing in it is secret.
struct WrapAad {
    bytes: [u8; WrapAad::MAX_LEN],
    len: usize,
}

impl WrapAad {
    const LABEL: [u8; 25] = wire::label(b"keystrata v1 dek wrap");
    const MAX_LEN: usize = Self::LABEL.len() + 1 + KekId::LEN + KeyPath::MAX_ENCODED_BYTES;

    fn new(identity: &KekIdentity) -> Self {
        let mut aad = Self { bytes: [0; Self::MAX_LEN], len: 0 };
        aad.put(&Self::LABEL);
        aad.put(&[identity.suite.to_byte()]);
        aad.put(identity.id.as_bytes());
        aad.put(identity.path.as_bytes());
        aad
    }

    fn put(&mut self, part: &[u8]) {
        self.bytes[self.len..][..part.len()].copy_from_slice(part);
        self.len += part.len();
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KekVersion, Suite};

    #[test]
    fn the_longest_path_fits_in_the_additional_data() {
        let segment = "x".repeat(KeyPath::MAX_SEGMENT_BYTES);
        let path = KeyPath::new([&segment; KeyPath::MAX_SEGMENTS]).unwrap();
        assert_eq!(path.as_bytes().len(), KeyPath::MAX_ENCODED_BYTES);
        let identity = KekIdentity {
            suite: Suite::XChaCha20Poly1305,
            version: KekVersion::FIRST,
            id: KekId::from_bytes([7; 16]),
            path,
        };
        let aad = WrapAad::new(&identity);
        let mut expected = Vec::new();
        wire::put_str(&mut expected, b"keystrata v1 dek wrap");
        expected.push(1);
        expected.extend_from_slice(&[7; 16]);
        expected.extend_from_slice(identity.path.as_bytes());
        assert_eq!(aad.as_bytes(), expected);
    }
}
