//! Pure Rust: `chacha20poly1305` and `aes-gcm`.

use aes_gcm::AesGcm;
use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{AeadInOut, consts::U12, inout::InOutBuf},
};
use zeroize::ZeroizeOnDrop;

use super::{CHUNK_NONCE_LEN, Mismatch, TAG_LEN};
use crate::suite::Suite;

/// AES-256-GCM without AES's decryption schedule, which GCM never uses.
type Aes256Gcm = AesGcm<aes::Aes256Enc, U12>;

// Features of other crates decide whether ciphers wipe their keys, schedules and buffered key stream: without them,
// this does not compile. (`poly1305` has no such type; see this crate's Cargo.toml.)
const _: () = {
    const fn wipes_on_drop<T: ZeroizeOnDrop>() {}
    wipes_on_drop::<ChaCha20Poly1305>();
    wipes_on_drop::<chacha20::ChaCha20>();
    wipes_on_drop::<aes::Aes256Enc>();
    wipes_on_drop::<Aes256Gcm>();
};

#[expect(clippy::large_enum_variant, reason = "lives for one operation, and on the heap it would cost an allocation")]
pub(super) enum Cipher {
    ChaCha20Poly1305(ChaCha20Poly1305),
    Aes256Gcm(Aes256Gcm),
}

impl Cipher {
    pub(super) fn new(suite: Suite, key: &[u8; 32]) -> Self {
        match suite {
            Suite::XChaCha20Poly1305 => Self::ChaCha20Poly1305(ChaCha20Poly1305::new(key.into())),
            Suite::Aes256Gcm => Self::Aes256Gcm(Aes256Gcm::new(key.into())),
        }
    }

    pub(super) fn seal(
        &self,
        nonce: &[u8; CHUNK_NONCE_LEN],
        aad: &[u8],
        input: &[u8],
        output: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) {
        self.encrypt(nonce, aad, InOutBuf::new(input, output).expect("split at the length of the input"), tag);
    }

    pub(super) fn open(
        &self,
        nonce: &[u8; CHUNK_NONCE_LEN],
        aad: &[u8],
        input: &[u8],
        tag: &[u8; TAG_LEN],
        output: &mut [u8],
    ) -> Result<(), Mismatch> {
        self.decrypt(nonce, aad, InOutBuf::new(input, output).expect("split at the length of the output"), tag)
    }

    pub(super) fn seal_in_place(&self, nonce: &[u8; CHUNK_NONCE_LEN], body: &mut [u8], tag: &mut [u8; TAG_LEN]) {
        self.encrypt(nonce, &[], body.into(), tag);
    }

    pub(super) fn open_in_place(
        &self,
        nonce: &[u8; CHUNK_NONCE_LEN],
        body: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Mismatch> {
        self.decrypt(nonce, &[], body.into(), tag)
    }

    fn encrypt(
        &self,
        nonce: &[u8; CHUNK_NONCE_LEN],
        aad: &[u8],
        buffer: InOutBuf<'_, '_, u8>,
        tag: &mut [u8; TAG_LEN],
    ) {
        let sealed = match self {
            Self::ChaCha20Poly1305(cipher) => cipher.encrypt_inout_detached(nonce.into(), aad, buffer),
            Self::Aes256Gcm(cipher) => cipher.encrypt_inout_detached(nonce.into(), aad, buffer),
        };
        *tag = sealed.expect("callers keep to max_input_len").into();
    }

    fn decrypt(
        &self,
        nonce: &[u8; CHUNK_NONCE_LEN],
        aad: &[u8],
        buffer: InOutBuf<'_, '_, u8>,
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Mismatch> {
        let opened = match self {
            Self::ChaCha20Poly1305(cipher) => cipher.decrypt_inout_detached(nonce.into(), aad, buffer, tag.into()),
            Self::Aes256Gcm(cipher) => cipher.decrypt_inout_detached(nonce.into(), aad, buffer, tag.into()),
        };
        opened.map_err(|_| Mismatch)
    }
}
