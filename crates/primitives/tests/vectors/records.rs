//! Makes `kek_record_parse.json`.

use keystrata_primitives::{
    KekCheck, KekIdentity, KekRecord, KekState, KeyPath, RootKeyId, Suite, WrappedSecret, Wrapper, wire,
};

use crate::{
    make::{bytes, flip, identity, put},
    schema::{File, Hex, ParseRecord, ParsedRecord, Record, Refusal, Wrap},
};

/// Where the path of every record here begins.
const PATH: usize = 73;

pub(crate) fn file() -> File<ParseRecord> {
    let mut vectors = Vec::new();
    valid(&mut vectors);
    let plain = plain().encode().unwrap();
    starts(&mut vectors, &plain);
    paths(&mut vectors, &plain);
    wraps(&mut vectors, &plain);
    File { operation: "parse a KEK record".into(), vectors }
}

fn root(id: &str, wrapped: &[u8]) -> WrappedSecret {
    WrappedSecret { wrapper: Wrapper::Root(RootKeyId::new(id).unwrap()), ciphertext: wrapped.to_vec() }
}

fn parent(path: &[&str], wrapped: &[u8]) -> WrappedSecret {
    let path = KeyPath::new(path).unwrap();
    let kek_id = keystrata_primitives::KekId::from_bytes(bytes("parent kek id"));
    WrappedSecret { wrapper: Wrapper::Parent { path, kek_id }, ciphertext: wrapped.to_vec() }
}

/// The record that the refusals are made from.
fn plain() -> KekRecord {
    KekRecord {
        identity: identity(Suite::XChaCha20Poly1305, 1, &bytes("acme kek id"), &["acme"]),
        state: KekState::Primary,
        check: KekCheck::from_bytes(bytes("acme check")),
        created_at: 1_700_000_000,
        retired_at: 0,
        wraps: vec![root("example:root", b"wrapped")],
    }
}

/// What a parser should find, written down field by field.
pub(crate) fn described(record: &KekRecord) -> Record {
    let path = |path: &KeyPath| path.segments().map(str::to_owned).collect();
    let wrap = |wrap: &WrappedSecret| {
        let wrapped = Hex::of(&wrap.ciphertext);
        match &wrap.wrapper {
            Wrapper::Root(id) => Wrap::Root { id: id.to_string(), wrapped },
            Wrapper::Parent { path: parent, kek_id } => {
                Wrap::Parent { path: path(parent), kek_id: Hex::of(kek_id.as_bytes()), wrapped }
            }
            other => panic!("a wrapper that the vectors do not know: {other:?}"),
        }
    };
    Record {
        suite: record.identity.suite.to_byte(),
        state: record.state.to_string(),
        version: record.identity.version.get(),
        kek_id: Hex::of(record.identity.id.as_bytes()),
        check: Hex::of(record.check.as_bytes()),
        created_at: record.created_at,
        retired_at: record.retired_at,
        path: path(&record.identity.path),
        wraps: record.wraps.iter().map(wrap).collect(),
    }
}

fn valid(vectors: &mut Vec<ParseRecord>) {
    let mut add = |name: &str, comment: &str, record: &KekRecord| {
        let expected = ParsedRecord::Record(described(record));
        let record = Hex(record.encode().unwrap());
        vectors.push(ParseRecord { name: name.into(), comment: comment.into(), record, expected });
    };
    add("primary", "One wrap by a root key.", &plain());
    let aes = KekIdentity { suite: Suite::Aes256Gcm, ..plain().identity };
    add("suite_2", "The same of the other suite.", &KekRecord { identity: aes, ..plain() });
    let retired = KekRecord { state: KekState::Retired, retired_at: u64::MAX, ..plain() };
    add("retired", "The latest time there is.", &retired);
    add("disabled", "Still holds its wrap.", &KekRecord { state: KekState::Disabled, ..plain() });
    add("destroyed", "No wrap is left.", &KekRecord { state: KekState::Destroyed, wraps: vec![], ..plain() });
    let deep = identity(Suite::XChaCha20Poly1305, u32::MAX, &bytes("deep kek id"), &["größe", "a/b", "nul\u{0}"]);
    let child = KekRecord { identity: deep, wraps: vec![parent(&["größe", "a/b"], &bytes::<72>("wrap"))], ..plain() };
    add("wrapped_by_a_parent", "The last version there can be, and a path of three segments.", &child);
    let both = vec![root("example:root", b"one"), parent(&["group"], b"two"), root("other:größe", b"3")];
    add("three_wraps", "Of both kinds, in order of preference.", &KekRecord { wraps: both, ..plain() });
    let most = (0..8).map(|i| root(&format!("example:{i}"), &[i])).collect();
    add("most_wraps", "Eight.", &KekRecord { wraps: most, ..plain() });
    let longest = vec![root(&"r".repeat(2048), &[0; 8192])];
    add(
        "longest_wrap",
        "A root key id of 2,048 bytes and a wrapped secret of 8,192.",
        &KekRecord { wraps: longest, ..plain() },
    );
}

fn refuse(vectors: &mut Vec<ParseRecord>, refusal: Refusal, name: &str, comment: &str, record: &[u8]) {
    let expected = ParsedRecord::Error(refusal);
    vectors.push(ParseRecord { name: name.into(), comment: comment.into(), record: Hex::of(record), expected });
}

fn starts(vectors: &mut Vec<ParseRecord>, plain: &[u8]) {
    use Refusal::{Malformed, NotARecord, UnknownState, UnknownSuite, UnknownVersion};
    let mut add = |refusal, name: &str, comment, record: &[u8]| refuse(vectors, refusal, name, comment, record);
    add(NotARecord, "no_bytes", "Nothing at all.", b"");
    add(NotARecord, "half_the_magic", "Less than the magic is not a record.", b"K");
    add(NotARecord, "magic_of_an_envelope", "An envelope is not a record.", &put(plain, 0, b"KS"));
    add(NotARecord, "magic_byte_0_flipped", "The first byte of the magic.", &flip(plain, 0));
    add(UnknownVersion, "format_version_0", "There is no version 0.", &put(plain, 2, &[0]));
    add(UnknownVersion, "format_version_2", "A later version.", &put(plain, 2, &[2]));
    add(UnknownSuite, "suite_0", "There is no suite 0.", &put(plain, 3, &[0]));
    add(UnknownSuite, "suite_3", "A suite of the future.", &put(plain, 3, &[3]));
    add(UnknownState, "state_0", "States are counted from 1.", &put(plain, 4, &[0]));
    add(UnknownState, "state_5", "A state of the future.", &put(plain, 4, &[5]));
    add(Malformed, "kek_version_0", "Versions are counted from 1.", &put(plain, 5, &[0; 4]));
    for len in [2, 3, 4, 8, 24, 56, 64, 72, 73, 76, 80, 84, 88, 89, 92, 104, plain.len() - 1] {
        add(Malformed, &format!("cut_at_{len}"), "Cut inside or at the end of a field.", &plain[..len]);
    }
    add(Malformed, "one_byte_more", "Bytes follow the end.", &[plain, &[0]].concat());
    let late = put(&put(plain, 4, &[5]), 5, &[0; 4]);
    add(UnknownState, "state_before_version", "Of two faults, the field that comes first decides.", &late);
}

fn paths(vectors: &mut Vec<ParseRecord>, plain: &[u8]) {
    let rest = &plain[PATH + 12..];
    let mut add = |name: &str, comment, segments: &[&[u8]]| {
        let mut record = plain[..PATH].to_vec();
        wire::put_len(&mut record, segments.len());
        for segment in segments {
            wire::put_str(&mut record, segment);
        }
        record.extend_from_slice(rest);
        refuse(vectors, Refusal::Malformed, name, comment, &record);
    };
    add("path_of_no_segment", "A path has at least one.", &[]);
    add("path_of_nine_segments", "A path has at most eight.", &[&b"s"[..]; 9]);
    add("path_with_an_empty_segment", "A segment has at least one byte.", &[b"acme", b""]);
    add("path_with_a_long_segment", "129 bytes.", &[&[b's'; 129]]);
    add("path_that_is_not_utf8", "A byte that begins no character.", &[b"ac\xffme"]);
    add("path_with_a_surrogate", "U+D800 in three bytes is not UTF-8.", &[b"\xed\xa0\x80"]);
    let huge = put(plain, PATH + 4, &[0xff; 4]);
    refuse(vectors, Refusal::Malformed, "path_with_a_huge_length", "A length of 4 GiB is not believed.", &huge);
}

fn wraps(vectors: &mut Vec<ParseRecord>, plain: &[u8]) {
    use Refusal::{Malformed, UnknownWrapper};
    let start = PATH + 12;
    let mut add = |refusal, name: &str, comment, state: u8, count: u32, wraps: &[u8]| {
        let record = [&put(plain, 4, &[state])[..start], &count.to_le_bytes(), wraps].concat();
        refuse(vectors, refusal, name, comment, &record);
    };
    let wrap = &plain[start + 4..];
    let by_root = |id: &[u8], wrapped: &[u8]| {
        let mut out = vec![1];
        wire::put_str(&mut out, id);
        wire::put_str(&mut out, wrapped);
        out
    };
    add(Malformed, "primary_without_a_wrap", "Only a destroyed KEK has none.", 1, 0, b"");
    add(Malformed, "destroyed_with_a_wrap", "A destroyed KEK has none.", 4, 1, wrap);
    add(Malformed, "nine_wraps", "At most eight.", 1, 9, &wrap.repeat(9));
    add(Malformed, "huge_number_of_wraps", "A count of 4 billion is not believed.", 1, u32::MAX, wrap);
    add(Malformed, "one_wrap_less_than_counted", "The second is missing.", 1, 2, wrap);
    add(Malformed, "one_wrap_more_than_counted", "Bytes follow the end.", 1, 1, &wrap.repeat(2));
    add(UnknownWrapper, "wrapper_0", "Kinds are counted from 1.", 1, 1, &put(wrap, 0, &[0]));
    add(UnknownWrapper, "wrapper_3", "A kind of the future.", 1, 1, &put(wrap, 0, &[3]));
    add(UnknownWrapper, "second_wrapper_3", "The first wrap is fine.", 1, 2, &[wrap, &put(wrap, 0, &[3])].concat());
    add(Malformed, "empty_root_id", "A root key id has at least one byte.", 1, 1, &by_root(b"", b"wrapped"));
    add(Malformed, "long_root_id", "2,049 bytes.", 1, 1, &by_root(&[b'r'; 2049], b"wrapped"));
    add(Malformed, "root_id_with_a_line_end", "No control characters.", 1, 1, &by_root(b"example:\nroot", b"wrapped"));
    add(Malformed, "root_id_with_a_c1_control", "U+0085.", 1, 1, &by_root("example:\u{85}".as_bytes(), b"wrapped"));
    add(Malformed, "root_id_that_is_not_utf8", "A byte that begins no character.", 1, 1, &by_root(b"\xff", b"wrapped"));
    add(Malformed, "empty_wrapped_secret", "At least one byte.", 1, 1, &by_root(b"example:root", b""));
    add(Malformed, "long_wrapped_secret", "8,193 bytes.", 1, 1, &by_root(b"example:root", &[0; 8193]));
    let bad_parent = [&[2, 0, 0, 0, 0][..], &[7; 16], &[1, 0, 0, 0, 7]].concat();
    add(Malformed, "parent_path_of_no_segment", "A path has at least one.", 1, 1, &bad_parent);
    let cut_parent = [&[2, 1, 0, 0, 0, 1, 0, 0, 0, b'p'][..], &[7; 15]].concat();
    add(Malformed, "parent_kek_id_cut", "15 bytes of 16.", 1, 1, &cut_parent);
}
