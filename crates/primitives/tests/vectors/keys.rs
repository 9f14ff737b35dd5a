//! Makes `kek_derive.json`, `child_unwrap.json` and `plain_open.json`.

use keystrata_primitives::{Kek, Suite, hazmat};
use secrecy::ExposeSecret;

use crate::{
    make::{Fixed, bytes, flip, identity, other_suite, prefix, secret, strings},
    schema::{DeriveKek, Derived, File, Hex, OpenPlain, Opened, PlainCipher, Refusal, UnwrapChild, Unwrapped},
};

const LAST: u32 = u32::MAX;

pub(crate) fn derive_file() -> File<DeriveKek> {
    let mut vectors = Vec::new();
    for suite in Suite::ALL {
        derivations(suite, &mut vectors);
    }
    File { operation: "derive a KEK and compare its check".into(), vectors }
}

fn derivations(suite: Suite, vectors: &mut Vec<DeriveKek>) {
    let id: [u8; 16] = bytes("acme kek id");
    let derive = |version, id: &[u8; 16], path: &[&str]| {
        let derived = identity(suite, version, id, path).derive(&secret(&bytes("acme secret")));
        (*derived.expose_secret(), *derived.check.as_bytes())
    };
    let (kek, check) = derive(1, &id, &["acme"]);
    // The same secret and check in a record of the other suite.
    vectors.push(DeriveKek {
        name: format!("{}other_suite", prefix(suite)),
        comment: "The secret and check of one suite in a record of the other.".into(),
        secret: Hex::of(bytes::<32>("acme secret")),
        suite: other_suite(suite).to_byte(),
        version: 1,
        kek_id: Hex::of(id),
        path: strings(&["acme"]),
        check: Hex::of(check),
        expected: Derived::Error(Refusal::CheckMismatch),
    });
    let mut add = |name: &str, comment: &str, label: &str, version, id: [u8; 16], path: &[&str], check, expected| {
        vectors.push(DeriveKek {
            name: format!("{}{name}", prefix(suite)),
            comment: comment.into(),
            secret: Hex::of(bytes::<32>(label)),
            suite: suite.to_byte(),
            version,
            kek_id: Hex::of(id),
            path: strings(path),
            check,
            expected,
        });
    };
    let secret = "acme secret";
    let (other_id, path) = (bytes("other kek id"), ["acme"]);
    let good = |kek: [u8; 32]| Derived::Kek(Hex::of(kek));
    let mismatch = || Derived::Error(Refusal::CheckMismatch);
    let ours = || Hex::of(check);
    add("first_version", "Version 1 of an account.", secret, 1, id, &path, ours(), good(kek));
    let (last_kek, last_check) = derive(LAST, &id, &["größe", "a/b", "nul\u{0}"]);
    let long_path = ["größe", "a/b", "nul\u{0}"];
    let comment = "The last version there can be, and a path of three segments.";
    add("last_version", comment, secret, LAST, id, &long_path, Hex::of(last_check), good(last_kek));
    let comment = "Another secret, as from a root key that was exchanged.";
    add("other_secret", comment, "other secret", 1, id, &path, ours(), mismatch());
    add("other_version", "The secret of version 1 in a record of version 2.", secret, 2, id, &path, ours(), mismatch());
    add("version_bytes_reversed", "The version is little-endian.", secret, 1 << 24, id, &path, ours(), mismatch());
    add(
        "other_kek_id",
        "The secret copied to a record with another id.",
        secret,
        1,
        other_id,
        &path,
        ours(),
        mismatch(),
    );
    add("other_account", "The secret copied to another account.", secret, 1, id, &["acne"], ours(), mismatch());
    add("segments_split", "The same letters in two segments.", secret, 1, id, &["ac", "me"], ours(), mismatch());
    let flipped = |offset| Hex(flip(&check, offset));
    add("check_first_byte_flipped", "A record altered in the store.", secret, 1, id, &path, flipped(0), mismatch());
    add("check_last_byte_flipped", "All 32 bytes are compared.", secret, 1, id, &path, flipped(31), mismatch());
    add("kek_as_check", "The halves exchanged.", secret, 1, id, &path, Hex::of(kek), mismatch());
    add("zero_check", "A check of zeros.", secret, 1, id, &path, Hex(vec![0; 32]), mismatch());
}

/// Who unwraps what; a vector changes one field.
#[derive(Clone, Copy)]
struct Place<'a> {
    suite: Suite,
    kek: &'a str,
    id: &'a str,
    path: &'a [&'a str],
    child_version: u32,
    child_id: &'a str,
    child_path: &'a [&'a str],
}

pub(crate) fn child_file() -> File<UnwrapChild> {
    let mut vectors = Vec::new();
    for suite in Suite::ALL {
        children(suite, &mut vectors);
    }
    File { operation: "unwrap a KEK's secret with its parent".into(), vectors }
}

fn children(suite: Suite, vectors: &mut Vec<UnwrapChild>) {
    let here = Place {
        suite,
        kek: "acme kek",
        id: "acme kek id",
        path: &["acme"],
        child_version: 3,
        child_id: "billing kek id",
        child_path: &["acme", "billing"],
    };
    let child_secret: [u8; 32] = bytes("billing secret");
    let wrap = |place: Place<'_>| {
        let kek = bytes(place.kek);
        let parent = identity(place.suite, 1, &bytes(place.id), place.path);
        let child = identity(place.suite, place.child_version, &bytes(place.child_id), place.child_path);
        let mut rng = Fixed::new(&[&bytes::<24>("billing nonce")]);
        hazmat::wrap_child_with_rng(&mut rng, &Kek::new(&kek, &parent), &child, &secret(&child_secret)).unwrap()
    };
    let mut add = |name: &str, comment: &str, place: Place<'_>, wrapped: &[u8], opens: bool| {
        let expected =
            if opens { Unwrapped::Secret(Hex::of(child_secret)) } else { Unwrapped::Error(Refusal::Rejected) };
        vectors.push(UnwrapChild {
            name: format!("{}{name}", prefix(suite)),
            comment: comment.into(),
            parent_kek: Hex::of(bytes::<32>(place.kek)),
            parent_suite: place.suite.to_byte(),
            parent_kek_id: Hex::of(bytes::<16>(place.id)),
            parent_path: strings(place.path),
            child_version: place.child_version,
            child_kek_id: Hex::of(bytes::<16>(place.child_id)),
            child_path: strings(place.child_path),
            wrapped: Hex::of(wrapped),
            expected,
        });
    };
    let wrapped = wrap(here);
    add("child", "A service's KEK under its account's.", here, &wrapped, true);
    let group = Place { id: "group kek id", path: &["group"], child_path: &["größe"], child_version: LAST, ..here };
    add("group", "An account's KEK under a group's: no path contains the other.", group, &wrap(group), true);
    let places = [
        (
            "other_parent_suite",
            "The same bytes as a KEK of the other suite.",
            Place { suite: other_suite(suite), ..here },
        ),
        ("other_parent_kek", "Another key under the parent's id.", Place { kek: "other kek", ..here }),
        ("other_parent_id", "Another version of the parent.", Place { id: "other kek id", ..here }),
        ("other_parent_path", "Another account as parent.", Place { path: &["acne"], ..here }),
        ("other_child_version", "Copied to the next version.", Place { child_version: 4, ..here }),
        ("other_child_id", "Copied to a record with another id.", Place { child_id: "other kek id", ..here }),
        ("other_child_path", "Copied to another service.", Place { child_path: &["acme", "search"], ..here }),
        ("child_path_joined", "The same letters in one segment.", Place { child_path: &["acmebilling"], ..here }),
        (
            "parent_and_child_exchanged",
            "The two ids and paths change places.",
            Place { id: here.child_id, path: here.child_path, child_id: here.id, child_path: here.path, ..here },
        ),
    ];
    for (name, comment, place) in places {
        add(name, comment, place, &wrapped, false);
    }
    let fields =
        [("nonce", 0), ("nonce_end", 23), ("ciphertext", 24), ("ciphertext_end", 55), ("tag", 56), ("tag_end", 71)];
    for (field, offset) in fields {
        add(&format!("{field}_flipped"), "One bit altered.", here, &flip(&wrapped, offset), false);
    }
    add("no_bytes", "Nothing at all.", here, &[], false);
    add("one_byte_less", "71 bytes.", here, &wrapped[..71], false);
    add("one_byte_more", "73 bytes.", here, &[&wrapped[..], &[0]].concat(), false);
}

pub(crate) fn plain_file() -> File<OpenPlain> {
    let mut vectors = Vec::new();
    for cipher in [PlainCipher::XChaCha20Poly1305, PlainCipher::Aes256Gcm] {
        plains(cipher, &mut vectors);
    }
    File { operation: "open the plain form".into(), vectors }
}

fn plains(cipher: PlainCipher, vectors: &mut Vec<OpenPlain>) {
    let prefix = prefix(if cipher == PlainCipher::Aes256Gcm { Suite::Aes256Gcm } else { Suite::XChaCha20Poly1305 });
    let nonce_len = cipher.nonce_len();
    let seal = |object: &str, plaintext: &[u8]| {
        let (key, label) = (secret(&bytes("plain key")), format!("{prefix}{object} nonce"));
        match cipher {
            PlainCipher::XChaCha20Poly1305 => hazmat::seal_simple_with_nonce(&key, &bytes(&label), plaintext),
            PlainCipher::Aes256Gcm => hazmat::seal_simple_aes256_gcm_with_nonce(&key, &bytes(&label), plaintext),
        }
        .unwrap()
    };
    let mut add = |name: &str, comment: &str, key: &str, sealed: &[u8], plaintext: Option<&[u8]>| {
        let expected = match plaintext {
            Some(plaintext) => Opened::Plaintext(Hex::of(plaintext)),
            None => Opened::Error(Refusal::Rejected),
        };
        let (name, comment) = (format!("{prefix}{name}"), comment.into());
        let (key, sealed) = (Hex::of(bytes::<32>(key)), Hex::of(sealed));
        vectors.push(OpenPlain { name, comment, cipher, key, sealed, expected });
    };
    let key = "plain key";
    add("empty_plaintext", "The shortest: nonce and tag.", key, &seal("empty", b""), Some(b""));
    add("one_byte", "One byte of plaintext.", key, &seal("one", b"x"), Some(b"x"));
    let block = [7; 64];
    add("one_block", "64 bytes: whole blocks of the cipher.", key, &seal("block", &block), Some(&block));
    let long: Vec<u8> = (0..=255).cycle().take(1000).collect();
    add("thousand_bytes", "Several blocks.", key, &seal("long", &long), Some(&long));
    let small = seal("small", b"five!");
    add("small", "The one that the refusals are made from.", key, &small, Some(b"five!"));
    add("other_key", "Another key.", "other key", &small, None);
    add("no_bytes", "Nothing at all.", key, b"", None);
    add("nonce_cut", "One byte less than the nonce.", key, &small[..nonce_len - 1], None);
    add("nonce_alone", "The nonce and nothing else.", key, &small[..nonce_len], None);
    let shortest = nonce_len + 16;
    add("one_byte_less_than_the_shortest", "Too short for a tag.", key, &small[..shortest - 1], None);
    add("cut_to_the_shortest", "The tag is not the tag.", key, &small[..shortest], None);
    add("last_byte_cut", "One byte less.", key, &small[..small.len() - 1], None);
    add("one_byte_more", "One byte more.", key, &[&small[..], &[0]].concat(), None);
    let text = nonce_len;
    let fields =
        [("nonce", 0), ("nonce_end", text - 1), ("ciphertext", text), ("tag", text + 5), ("tag_end", text + 20)];
    for (field, offset) in fields {
        add(&format!("{field}_flipped"), "One bit altered.", key, &flip(&small, offset), None);
    }
    let other = seal("other", b"six!!!");
    let borrowed = [&other[..nonce_len], &small[nonce_len..]].concat();
    add("nonce_of_another", "The nonce of another.", key, &borrowed, None);
}
