//! The rules of the page without the library, for what its example shows.

use aes::{
    Aes256,
    cipher::{Array, BlockCipherEncrypt, KeyInit},
};
use keystrata_primitives::Suite;
use sha2::{Digest, Sha256};

/// `KDF(key, message)` of the page, `N` bytes of it.
pub(crate) fn kdf<const N: usize>(suite: Suite, key: &[u8; 32], message: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    if suite == Suite::XChaCha20Poly1305 {
        blake3::Hasher::new_keyed(key).update(message).finalize_xof().fill(&mut out);
        return out;
    }
    let mut last = Vec::new();
    for (i, block) in (1..).zip(out.chunks_mut(32)) {
        last = hmac_sha256(key, &[&last, message, &[i]].concat());
        block.copy_from_slice(&last[..block.len()]);
    }
    out
}

fn hmac_sha256(key: &[u8; 32], message: &[u8]) -> Vec<u8> {
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        block.iter_mut().zip(key).for_each(|(block, key)| *block ^= key);
        block
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

fn aes(key: &[u8; 32], block: [u8; 16]) -> [u8; 16] {
    let mut block = Array::from(block);
    Aes256::new(key.into()).encrypt_block(&mut block);
    block.into()
}

/// L, K1, M1 and M2 of the page.
pub(crate) fn xaes_blocks(key: &[u8; 32], nonce: &[u8; 24]) -> [[u8; 16]; 4] {
    let l = aes(key, [0; 16]);
    let mut k1 = [0; 16];
    for (i, byte) in k1.iter_mut().enumerate() {
        *byte = l[i] << 1 | l.get(i + 1).map_or(0, |next| next >> 7);
    }
    if l[0] & 0x80 != 0 {
        k1[15] ^= 0x87;
    }
    let message = |counter| {
        let mut out = [0, counter, b'X', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        out[4..].copy_from_slice(&nonce[..12]);
        out
    };
    [l, k1, message(1), message(2)]
}

pub(crate) fn xaes_subkey(key: &[u8; 32], nonce: &[u8; 24]) -> [u8; 32] {
    let [_, k1, m1, m2] = xaes_blocks(key, nonce);
    let half = |mut message: [u8; 16]| {
        message.iter_mut().zip(k1).for_each(|(byte, k1)| *byte ^= k1);
        aes(key, message)
    };
    [half(m1), half(m2)].concat().try_into().expect("two blocks")
}
