//! Subkeys of the wraps: what makes a 24-byte nonce out of a cipher that takes 12.
//!
//! Long enough to be drawn at random for every wrap of a KEK's life: the front of the nonce and the key give a fresh
//! key, the rest is the nonce under it.

use aes::{
    Aes256Enc,
    cipher::{
        Array, BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser, KeyInit, consts::U16,
    },
};
use chacha20::{R20, hchacha};
use zeroize::Zeroize;

use super::{CHUNK_NONCE_LEN, WRAP_NONCE_LEN};
use crate::suite::Suite;

/// Writes the subkey for `key` and `nonce`, and returns the nonce to use it with.
pub(super) fn derive(
    suite: Suite,
    key: &[u8; 32],
    nonce: &[u8; WRAP_NONCE_LEN],
    subkey: &mut [u8; 32],
) -> [u8; CHUNK_NONCE_LEN] {
    let mut rest = [0; CHUNK_NONCE_LEN];
    match suite {
        // draft-irtf-cfrg-xchacha-03, section 2.3: 16 bytes go into HChaCha20, and 8 follow four zero bytes.
        Suite::XChaCha20Poly1305 => {
            let (front, back) = nonce.split_first_chunk::<16>().expect("24 bytes begin with 16");
            let mut derived = hchacha::<R20>(key.into(), front.into());
            subkey.copy_from_slice(&derived);
            derived.zeroize();
            rest[4..].copy_from_slice(back);
        }
        Suite::Aes256Gcm => {
            let (context, back) = nonce.split_first_chunk().expect("24 bytes begin with 12");
            xaes_subkey(key, context, subkey);
            scrub_stack();
            rest.copy_from_slice(back);
        }
    }
    rest
}

/// In a frame of its own, so that all of it lies where [`scrub_stack`] overwrites afterwards.
#[inline(never)]
fn xaes_subkey(key: &[u8; 32], context: &[u8; 12], subkey: &mut [u8; 32]) {
    Aes256Enc::new(key.into()).encrypt_with_backend(XaesSubkey { context, subkey });
}

/// Overwrites the stack that the call before used. The `aes` crate wipes a key schedule where it is dropped, but moves it
/// there first, and what it was moved from keeps the KEK: `tests/key_remains.rs` finds it.
#[inline(never)]
fn scrub_stack() {
    // Copies were found up to 3 KiB down.
    std::hint::black_box(&mut [0_u8; 4096]);
}

/// XAES-256-GCM's subkey: AES-256-CMAC under the key of `i ‖ "X" ‖ 0 ‖ context`, for i = 1 and 2 in two bytes.
///
/// One visit to the cipher for all three blocks: every `encrypt_block` from outside loads all round keys again.
struct XaesSubkey<'a> {
    context: &'a [u8; 12],
    subkey: &'a mut [u8; 32],
}

impl BlockSizeUser for XaesSubkey<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for XaesSubkey<'_> {
    #[inline] // into the function that may use the cipher's instructions
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, aes: &B) {
        let mut l = Array::from([0; 16]);
        aes.encrypt_block((&mut l).into());
        // CMAC's K1: L doubled in GF(2^128).
        let block = u128::from_be_bytes(l.into());
        let k1 = (block << 1) ^ ((block >> 127) * 0x87);
        l.zeroize();

        let (halves, _) = self.subkey.as_chunks_mut::<16>();
        for (half, counter) in halves.iter_mut().zip([1, 2]) {
            let mut message = [0, counter, b'X', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            message[4..].copy_from_slice(self.context);
            *half = (u128::from_be_bytes(message) ^ k1).to_be_bytes();
            aes.encrypt_block(<&mut Array<_, _>>::from(half).into());
        }
    }
}
