//! From the two-level form to envelopes and back; and texts that other programs wrote.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::sync::Arc;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};
use keystrata_hierarchy::{
    Account, Context, Enveloped, EnvelopedError, Hierarchy, MemoryKekStore, MoveError, OpenError, RootContext, RootKey,
    RootKeyError, SealError, SecretKey, test_util::ScriptedRootKey,
};
use keystrata_primitives::envelope;

/// The two-level form and an account under one root key.
fn both() -> (Arc<ScriptedRootKey>, Enveloped, Hierarchy) {
    let root = Arc::new(ScriptedRootKey::new("test:root"));
    let keys = Hierarchy::builder().root_key(Arc::clone(&root)).store(MemoryKekStore::new()).build().unwrap();
    (Arc::clone(&root), Enveloped::new(root), keys)
}

fn row(n: u32) -> Context {
    Context::new().with("row", n.to_string())
}

#[tokio::test]
async fn texts_become_envelopes_and_envelopes_texts() {
    let (root, secrets, keys) = both();
    let acme = keys.account("acme").unwrap();
    for n in 0..10 {
        let plaintext = vec![7; n as usize * 1_000];
        let text = secrets.seal(&plaintext).await.unwrap();
        let before = root.calls();
        let envelope = secrets.to_envelope(&text, &acme, &row(n)).await.unwrap();
        // The first makes the account's KEK too, and after that it is in memory.
        assert_eq!(root.calls() - before, if n == 0 { 2 } else { 1 });
        assert_eq!(acme.open(&envelope, &row(n)).await.unwrap(), plaintext);

        let before = root.calls();
        let back = secrets.to_text(&envelope, &acme, &row(n)).await.unwrap();
        assert_eq!(root.calls() - before, 2);
        assert_eq!(secrets.open(&back).await.unwrap(), plaintext);
        assert_ne!(back, text);
    }
}

#[tokio::test]
async fn what_cannot_be_moved_says_which_side_refused() {
    let (root, secrets, keys) = both();
    let (acme, globex) = (keys.account("acme").unwrap(), keys.account("globex").unwrap());
    let text = secrets.seal(b"secret").await.unwrap();
    let envelope = secrets.to_envelope(&text, &acme, &row(1)).await.unwrap();

    let calls = root.calls();
    assert!(matches!(secrets.to_text(&envelope, &acme, &row(2)).await, Err(MoveError::Open(OpenError::Rejected))));
    assert!(matches!(secrets.to_text(b"KS", &acme, &row(1)).await, Err(MoveError::Open(OpenError::Envelope(_)))));
    let not_a_text = secrets.to_envelope("secret", &acme, &row(1)).await;
    assert!(matches!(not_a_text, Err(MoveError::Text(EnvelopedError::Malformed))));
    assert_eq!(root.calls(), calls);

    let strangers = secrets.to_text(&envelope, &globex, &row(1)).await;
    assert!(matches!(strangers, Err(MoveError::Open(OpenError::Key(_)))));
    root.fail_next(RootKeyError::denied("revoked"));
    let refused = secrets.to_text(&envelope, &acme, &row(1)).await;
    assert!(matches!(refused, Err(MoveError::Text(EnvelopedError::Root(RootKeyError::Denied { .. })))));
    root.script(|call| if call.number % 2 == 0 { Err(RootKeyError::throttled("slow down")) } else { Ok(()) });
    let seals: Vec<_> =
        [secrets.to_envelope(&text, &globex, &row(1)).await, secrets.to_envelope(&text, &globex, &row(1)).await].into();
    assert!(seals.iter().any(|moved| matches!(moved, Err(MoveError::Seal(SealError::Key(_))))), "{seals:?}");
}

/// A reader of a table that is being moved has to tell what a row holds.
#[tokio::test]
async fn an_envelope_is_never_taken_for_a_text_nor_the_other_way_round() {
    let (root, secrets, keys) = both();
    let acme: Account = keys.account("acme").unwrap();
    let text = secrets.seal(b"secret").await.unwrap();
    let envelope = secrets.to_envelope(&text, &acme, &row(1)).await.unwrap();
    let calls = root.calls();
    assert!(matches!(secrets.open(&envelope::to_text(&envelope)).await, Err(EnvelopedError::Malformed)));
    assert!(envelope::from_text(&text).is_err());
    assert!(matches!(acme.open(text.as_bytes(), &row(1)).await, Err(OpenError::Envelope(_))));
    assert!(
        std::str::from_utf8(&envelope).is_err() || secrets.open(&String::from_utf8_lossy(&envelope)).await.is_err()
    );
    assert_eq!(root.calls(), calls);
}

/// A Go program seals data with `chacha20poly1305.NewX`, the nonce in front, and has its KMS wrap the key. Sealed by Go.
#[tokio::test]
async fn what_go_programs_wrote_opens_rewraps_and_moves() {
    let (root, secrets, keys) = both();
    let acme = keys.account("acme").unwrap();
    let vectors: serde_json::Value = serde_json::from_str(include_str!("../../../docs/vectors/plain_go.json")).unwrap();
    let mut tried = 0;
    for vector in vectors["vectors"].as_array().unwrap() {
        let bytes = |value: &serde_json::Value| value.as_str().map(unhex);
        let plaintext = bytes(&vector["expected"]["plaintext"]);
        let (Some("XChaCha20-Poly1305"), Some(plaintext)) = (vector["cipher"].as_str(), plaintext) else { continue };
        let key = SecretKey::from_slice(&bytes(&vector["key"]).unwrap()).unwrap();
        let wrapped = root.wrap_key(&key, &RootContext::none()).await.unwrap();
        let sealed = bytes(&vector["sealed"]).unwrap();
        for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD] {
            let text = format!("{}.{}", engine.encode(&wrapped), engine.encode(&sealed));
            assert_eq!(secrets.open(&text).await.unwrap(), plaintext, "{}", vector["name"]);
            let rewrapped = secrets.rewrap(&text).await.unwrap();
            assert!(rewrapped.ends_with(&format!(".{}", engine.encode(&sealed))), "{}", vector["name"]);
            assert_eq!(secrets.open(&rewrapped).await.unwrap(), plaintext, "{}", vector["name"]);
            let rekeyed = secrets.rekey(&text).await.unwrap();
            assert_eq!(secrets.open(&rekeyed).await.unwrap(), plaintext, "{}", vector["name"]);
        }
        let text = format!("{}.{}", STANDARD.encode(&wrapped), STANDARD.encode(&sealed));
        let envelope = secrets.to_envelope(&text, &acme, &row(1)).await.unwrap();
        assert_eq!(acme.open(&envelope, &row(1)).await.unwrap(), plaintext, "{}", vector["name"]);
        tried += 1;
    }
    assert!(tried > 5, "{tried} vectors");
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().map(|digit| u8::try_from(digit.to_digit(16).unwrap()).unwrap()).collect();
    digits.chunks(2).map(|pair| 16 * pair[0] + pair[1]).collect()
}
