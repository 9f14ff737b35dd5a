//! Makes `rewrap.json`.

use keystrata_primitives::{Context, Kek, Suite, envelope::HEADER_LEN, hazmat};

use crate::{
    make::{Fixed, bytes, flip, identity, other_suite, prefix, put, strings},
    schema::{File, Hex, Refusal, RewrapHeader, RewrapKek, Rewrapped},
};

/// A KEK, by the labels of its bytes.
#[derive(Clone, Copy)]
struct Place<'a> {
    suite: Suite,
    kek: &'a str,
    id: &'a str,
    path: &'a [&'a str],
}

impl Place<'_> {
    fn with<T>(self, run: impl FnOnce(&Kek<'_>) -> T) -> T {
        let key = bytes(self.kek);
        run(&Kek::new(&key, &identity(self.suite, 1, &bytes(self.id), self.path)))
    }

    fn described(self) -> RewrapKek {
        RewrapKek {
            kek: Hex::of(bytes::<32>(self.kek)),
            suite: self.suite.to_byte(),
            kek_id: Hex::of(bytes::<16>(self.id)),
            path: strings(self.path),
        }
    }
}

pub(crate) fn file() -> File<RewrapHeader> {
    let mut vectors = Vec::new();
    for suite in Suite::ALL {
        rewraps(suite, &mut vectors);
    }
    File { operation: "rewrap a header".into(), vectors }
}

fn rewraps(suite: Suite, vectors: &mut Vec<RewrapHeader>) {
    use Refusal::UnknownVersion;
    use Refusal::{NotAnEnvelope, Rejected, RewrapNewSuite, RewrapOtherAccount, SuiteMismatch, UnknownSuite};

    let nonce: [u8; 24] = bytes("rewrap nonce");
    let mut push = |name: &str, comment: &str, old: Place<'_>, new: Place<'_>, header: &[u8], expected| {
        vectors.push(RewrapHeader {
            name: format!("{}{name}", prefix(suite)),
            comment: comment.into(),
            old: old.described(),
            new: new.described(),
            nonce: Hex::of(nonce),
            header: Hex::of(header),
            expected,
        });
    };
    let old = Place { suite, kek: "acme kek", id: "acme kek id", path: &["acme"] };
    let new = Place { kek: "acme kek 2", id: "acme kek id 2", ..old };
    let header_of = |place: Place<'_>| -> [u8; HEADER_LEN] {
        let (dek, nonce) = (bytes::<32>("rewrap dek"), bytes::<24>("rewrap old nonce"));
        let mut rng = Fixed::new(&[&dek, &nonce]);
        let sealed = place.with(|kek| hazmat::seal_envelope_with_rng(&mut rng, kek, &Context::none(), b"five!"));
        *sealed.unwrap().first_chunk().unwrap()
    };
    let header = header_of(old);
    let mut done = |name: &str, comment: &str, old: Place<'_>, new: Place<'_>, header: &[u8; HEADER_LEN]| {
        let rewrapped = old
            .with(|old| new.with(|new| hazmat::rewrap_with_rng(&mut Fixed::new(&[&nonce]), old, new, header)).unwrap());
        push(name, comment, old, new, header, Rewrapped::Header(Hex::of(rewrapped)));
    };
    done("next_version", "Another KEK of the account: KEK id, nonce and wrapped DEK change.", old, new, &header);
    done("same_kek", "The same KEK: a new nonce and wrapped DEK.", old, old, &header);
    let deep = Place { path: &["größe", "a/b", "nul\u{0}"], ..old };
    let deeper = Place { path: deep.path, ..new };
    done("path_of_three_segments", "The path is bound on both sides.", deep, deeper, &header_of(deep));
    let damaged = flip(&header, 123).try_into().expect("as long as before");
    done("commitment_flipped", "The commitment is not looked at; such an object does not open.", old, new, &damaged);

    let mut refuse = |refusal, name: &str, comment: &str, old: Place<'_>, new: Place<'_>, header: &[u8]| {
        push(name, comment, old, new, header, Rewrapped::Error(refusal));
    };
    let other = other_suite(suite);
    let (old_other, new_other) = (Place { suite: other, ..old }, Place { suite: other, ..new });
    refuse(RewrapNewSuite, "new_kek_of_another_suite", "The chunks stay as they are.", old, new_other, &header);
    refuse(RewrapNewSuite, "old_kek_of_another_suite", "The new KEK differs from it.", old_other, new, &header);
    refuse(SuiteMismatch, "both_keks_of_another_suite", "The header is not of it.", old_other, new_other, &header);
    let stranger = Place { path: &["acne"], ..new };
    refuse(RewrapOtherAccount, "new_kek_of_another_account", "It would never open there.", old, stranger, &header);
    let split = Place { path: &["ac", "me"], ..new };
    refuse(RewrapOtherAccount, "segments_split", "The same letters in two segments.", old, split, &header);
    let neither = Place { path: &["acne"], ..new_other };
    refuse(RewrapNewSuite, "suite_before_account", "Of two faults, the suite decides.", old, neither, &header);
    if suite == Suite::ALL[0] {
        // The suite has no part in these.
        refuse(NotAnEnvelope, "not_an_envelope", "124 bytes of something else.", old, new, &put(&header, 0, b"KR"));
        refuse(UnknownVersion, "version_2", "A later version.", old, new, &put(&header, 2, &[2]));
        refuse(UnknownSuite, "suite_3", "A suite of the future.", old, new, &put(&header, 3, &[3]));
        refuse(UnknownSuite, "header_before_keks", "The header decides first.", old, neither, &put(&header, 3, &[3]));
    }
    refuse(Rejected, "already_rewrapped", "The header is not the old KEK's.", new, old, &header);
    refuse(Rejected, "other_old_kek", "Another key under the id.", Place { kek: "other kek", ..old }, new, &header);
    let both = (Place { path: &["acne"], ..old }, stranger);
    refuse(Rejected, "both_keks_of_another_account", "The wrap is bound to the path.", both.0, both.1, &header);
    let fields = [("kek_id", 4), ("wrap_nonce", 20), ("wrapped_dek", 44), ("wrap_tag_end", 91)];
    for (field, offset) in fields {
        refuse(Rejected, &format!("{field}_flipped"), "One bit altered.", old, new, &flip(&header, offset));
    }
}
