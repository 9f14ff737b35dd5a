//! Writes a small corpus to a folder: good envelopes of telling lengths, their texts, and a KEK record.

use std::{env, fs, io, path::Path};

use keystrata_primitives::{
    KekIdentity, KekRecord, KekState, RootKeyId, SecretKey, WrappedSecret, Wrapper,
    envelope::{self, CHUNK_LEN},
};
use keystrata_primitives_fuzz::{Account, AnySuite, plaintext, seal};

fn main() -> io::Result<()> {
    let corpus = env::args_os().nth(1).ok_or_else(|| io::Error::other("say which folder to write to"))?;
    let corpus = Path::new(&corpus);
    let lengths = [0, 1, 100, CHUNK_LEN - 1, CHUNK_LEN, CHUNK_LEN + 1, 2 * CHUNK_LEN, 3 * CHUNK_LEN + 7];
    for (suite, len) in lengths.into_iter().flat_map(|len| [(AnySuite::One, len), (AnySuite::Two, len)]) {
        let account = Account::new(suite, 1);
        // `arbitrary` reads the variant off the upper half of four bytes.
        let (name, chosen) = match suite {
            AnySuite::One => (format!("one-{len}"), 0),
            AnySuite::Two => (format!("two-{len}"), 0x80),
        };
        let envelope = seal(&account, &plaintext(len as u32));
        put(corpus, "parse", &name, &envelope)?;
        if len < CHUNK_LEN {
            put(corpus, "text", &name, envelope::to_text(&envelope).as_bytes())?;
        }
        // Damage rather than raw bytes, the suite, a length, and what is done to the envelope.
        let mut calls = vec![0, 0, 0, 0x80, 0, 0, 0, chosen];
        calls.extend_from_slice(&(len as u32).to_le_bytes());
        calls.extend((0..60).map(|i: u32| (i.wrapping_mul(97) % 251) as u8));
        put(corpus, "open", &name, &calls)?;
        put(corpus, "open_range", &name, &calls[4..])?;
    }
    let account = Account::new(AnySuite::One, 1);
    let header = &seal(&account, b"plaintext")[..envelope::HEADER_LEN];
    put(corpus, "rewrap", "header", &[&[0; 8], header].concat())?;
    put(corpus, "rewrap", "flips", &[0, 0, 0, 0x80, 0, 0, 0, 0x80, 3, 2, 1])?;
    put(corpus, "parse", "record", &record(account.kek().identity()))?;
    Ok(())
}

fn record(identity: &KekIdentity) -> Vec<u8> {
    let secret = SecretKey::from_slice(&[3; SecretKey::LEN]).expect("32 bytes");
    let record = KekRecord {
        identity: identity.clone(),
        state: KekState::Primary,
        check: identity.derive(&secret).check,
        created_at: 1_767_225_600,
        retired_at: 0,
        wraps: vec![WrappedSecret {
            wrapper: Wrapper::Root(RootKeyId::new("local:fuzz").expect("a short id")),
            ciphertext: vec![5; 72],
        }],
    };
    record.encode().expect("no limit is near")
}

fn put(corpus: &Path, target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let folder = corpus.join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), bytes)
}
