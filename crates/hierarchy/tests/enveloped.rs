//! The two-level form: its text, and what is refused.

use std::sync::Arc;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};
use keystrata_hierarchy::{Enveloped, EnvelopedError, RootKeyError, test_util::ScriptedRootKey};

#[tokio::test]
async fn every_seal_and_every_open_is_one_call() {
    let root = Arc::new(ScriptedRootKey::new("test:root"));
    let secrets = Enveloped::new(Arc::clone(&root));
    for n in 0..10 {
        let text = secrets.seal(&[n; 33]).await.unwrap();
        assert_eq!(secrets.open(&text).await.unwrap(), [n; 33]);
    }
    assert_eq!(root.calls(), 20);
}

#[tokio::test]
async fn both_alphabets_are_read_with_and_without_padding() {
    let secrets = Enveloped::new(ScriptedRootKey::new("test:root"));
    for len in 0..50 {
        let plaintext = vec![0xfb; len];
        let text = secrets.seal(&plaintext).await.unwrap();
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)), "{text}");
        let parts: Vec<_> = text.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap()).collect();
        for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD] {
            let written = format!("{}.{}", engine.encode(&parts[0]), engine.encode(&parts[1]));
            assert_eq!(secrets.open(&written).await.unwrap(), plaintext, "{written}");
        }
    }
}

#[tokio::test]
async fn malformed_text_is_refused_without_a_call() {
    let root = Arc::new(ScriptedRootKey::new("test:root"));
    let secrets = Enveloped::new(Arc::clone(&root));
    let text = secrets.seal(b"secret").await.unwrap();
    let (key, data) = text.split_once('.').unwrap();
    let calls = root.calls();
    for bad in
        ["", ".", key, &format!(".{data}"), &format!("{key}."), &format!("{text}.{data}"), &format!("{text} "), "ä.ö"]
    {
        assert!(matches!(secrets.open(bad).await, Err(EnvelopedError::Malformed)), "{bad}");
    }
    assert_eq!(root.calls(), calls);
}

#[tokio::test]
async fn altered_or_swapped_parts_are_refused() {
    let secrets = Enveloped::new(ScriptedRootKey::new("test:root"));
    let (one, two) = (secrets.seal(b"one").await.unwrap(), secrets.seal(b"two").await.unwrap());
    let ((key, data), (_, other_data)) = (one.split_once('.').unwrap(), two.split_once('.').unwrap());
    assert!(matches!(secrets.open(&format!("{key}.{other_data}")).await, Err(EnvelopedError::Rejected)));
    let bytes = [URL_SAFE_NO_PAD.decode(key).unwrap(), URL_SAFE_NO_PAD.decode(data).unwrap()];
    for part in 0..2 {
        for bit in 0..8 * bytes[part].len() {
            let mut altered = bytes.clone();
            altered[part][bit / 8] ^= 1 << (bit % 8);
            let text = altered.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
            let refused = secrets.open(&text).await.unwrap_err();
            let is_right = match part {
                0 => matches!(refused, EnvelopedError::Root(RootKeyError::Rejected)),
                _ => matches!(refused, EnvelopedError::Rejected),
            };
            assert!(is_right, "part {part}, bit {bit}: {refused}");
        }
    }
    let stranger = Enveloped::new(ScriptedRootKey::new("test:other"));
    assert!(matches!(stranger.open(&one).await, Err(EnvelopedError::Root(RootKeyError::Rejected))));
}
