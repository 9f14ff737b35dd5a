//! Both backends against each other, against other people's code and against published vectors.

mod published;

use chacha20poly1305::XChaCha20Poly1305;
use proptest::prelude::*;
use xaes_256_gcm::{
    Xaes256Gcm,
    aead::{Aead, KeyInit, Payload},
};

use super::*;

type Make = fn(Suite, &[u8; 32]) -> Cipher;

/// Every backend that is compiled in.
fn backends() -> Vec<(&'static str, Make)> {
    vec![
        #[cfg(feature = "aws-lc-rs")]
        ("aws-lc", |suite, key| Cipher::AwsLc(aws_lc::Cipher::new(suite, key).unwrap())),
        ("rust-crypto", |suite, key| Cipher::RustCrypto(rust_crypto::Cipher::new(suite, key))),
    ]
}

fn seal(cipher: &Cipher, nonce: &[u8; 12], aad: &[u8], input: &[u8]) -> Vec<u8> {
    let mut output = vec![0xaa; input.len() + TAG_LEN];
    cipher.seal(nonce, aad, input, &mut output);
    output
}

/// The plaintext, or the buffer that a refusal left behind.
fn open(cipher: &Cipher, nonce: &[u8; 12], aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Vec<u8>> {
    let mut output = vec![0xaa; sealed.len().saturating_sub(TAG_LEN)];
    match cipher.open(nonce, aad, sealed, &mut output) {
        Ok(()) => Ok(output),
        Err(Mismatch) => Err(output),
    }
}

/// The chunk cipher of a wrap under `key` and `nonce`, and the nonce for it.
fn extended(make: Make, suite: Suite, key: &[u8; 32], nonce: &[u8; 24]) -> (Cipher, [u8; 12]) {
    let mut subkey = [0; 32];
    let nonce = subkey::derive(suite, key, nonce, &mut subkey);
    (make(suite, &subkey), nonce)
}

#[test]
fn the_default_build_uses_aws_lc_for_both_suites() {
    for suite in Suite::ALL {
        let cipher = Cipher::new(suite, &[1; 32]);
        assert_eq!(matches!(cipher, Cipher::RustCrypto(_)), cfg!(not(feature = "aws-lc-rs")), "{suite}");
    }
}

#[test]
fn lengths_that_cannot_hold_a_tag_are_refused_by_every_backend() {
    for suite in Suite::ALL {
        for (_, make) in backends() {
            let cipher = make(suite, &[1; 32]);
            for len in 0..TAG_LEN {
                assert_eq!(open(&cipher, &[2; 12], b"", &vec![0; len]), Err(vec![]));
            }
            let sealed = seal(&cipher, &[2; 12], b"", b"four");
            for output_len in [0, 3, 5, 20, 21, 30] {
                assert_eq!(cipher.open(&[2; 12], b"", &sealed, &mut vec![0; output_len]), Err(Mismatch));
            }
            assert_eq!(open(&cipher, &[2; 12], b"", &sealed).as_deref(), Ok(&b"four"[..]));
        }
    }
}

#[test]
fn in_place_gives_the_same_bytes_and_leaves_zeros_after_a_mismatch() {
    for suite in Suite::ALL {
        for (_, make) in backends() {
            for len in [0, 1, 16, 1000] {
                let plaintext = vec![7; len];
                let sealed = seal(&make(suite, &[1; 32]), &[2; 12], b"", &plaintext);
                let cipher = ChunkCipher(make(suite, &[1; 32]));
                let mut chunk = [&plaintext[..], &[0xaa; TAG_LEN]].concat();
                cipher.seal_in_place(&[2; 12], &mut chunk);
                assert_eq!(chunk, sealed);
                assert_eq!(cipher.open_in_place(&[2; 12], &mut chunk), Ok(()));
                assert_eq!(chunk[..len], plaintext);
                chunk.copy_from_slice(&sealed);
                chunk[len / 2] ^= 1;
                assert_eq!(cipher.open_in_place(&[2; 12], &mut chunk), Err(Mismatch));
                assert_eq!(chunk, vec![0; len + TAG_LEN]);
            }
            assert_eq!(ChunkCipher(make(suite, &[1; 32])).open_in_place(&[2; 12], &mut [0; 15]), Err(Mismatch));
        }
    }
}

proptest! {
    #[test]
    fn backends_agree_on_bytes_and_refusals(
        key in any::<[u8; 32]>(),
        nonce in any::<[u8; 12]>(),
        aad in proptest::collection::vec(any::<u8>(), 0..100),
        plaintext in proptest::collection::vec(any::<u8>(), 0..2000),
        flip in any::<proptest::sample::Index>(),
    ) {
        for suite in Suite::ALL {
            let ciphers: Vec<_> = backends().iter().map(|(_, make)| make(suite, &key)).collect();
            let sealed: Vec<_> = ciphers.iter().map(|cipher| seal(cipher, &nonce, &aad, &plaintext)).collect();
            for (cipher, sealed) in ciphers.iter().zip(sealed.iter().rev()) {
                prop_assert_eq!(sealed, &seal(cipher, &nonce, &aad, &plaintext));
                prop_assert_eq!(open(cipher, &nonce, &aad, sealed), Ok(plaintext.clone()));
                let mut flipped = sealed.clone();
                let bit = flip.index(8 * flipped.len());
                flipped[bit / 8] ^= 1 << (bit % 8);
                prop_assert_eq!(open(cipher, &nonce, &aad, &flipped), Err(vec![0; plaintext.len()]));
                prop_assert_eq!(open(cipher, &nonce, b"other", sealed), Err(vec![0; plaintext.len()]));
            }
        }
    }

    #[test]
    fn wraps_are_those_of_other_implementations(
        key in any::<[u8; 32]>(),
        nonce in any::<[u8; 24]>(),
        aad in proptest::collection::vec(any::<u8>(), 0..100),
        plaintext in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let theirs = |suite| {
            let payload = Payload { msg: &plaintext, aad: &aad };
            match suite {
                Suite::XChaCha20Poly1305 =>
                    XChaCha20Poly1305::new(&key.into()).encrypt(&nonce.into(), payload),
                Suite::Aes256Gcm => Xaes256Gcm::new(&key.into()).encrypt(&nonce.into(), payload),
            }
        };
        for suite in Suite::ALL {
            let mut sealed = vec![0; plaintext.len() + TAG_LEN];
            wrap_seal(suite, &key, &nonce, &aad, &plaintext, &mut sealed);
            prop_assert_eq!(&sealed, &theirs(suite).unwrap());
            let mut opened = vec![0; plaintext.len()];
            prop_assert_eq!(wrap_open(suite, &key, &nonce, &aad, &sealed, &mut opened), Ok(()));
            prop_assert_eq!(&opened, &plaintext);
        }
    }
}
