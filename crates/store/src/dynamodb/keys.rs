//! The two keys of each item.
//!
//! | item | `pk` | `sk` |
//! |---|---|---|
//! | schema version | `schema` | `version` |
//! | head of a path | `account ` path | `head` |
//! | a KEK that is not the primary | `account ` path | `kek ` life of the account, KEK id |
//! | a path in the list of accounts | `accounts` | path |
//! | a path that has a record by this wrapper | `wrapper ` SHA-256 | path |
//!
//! A path is written as a character for the number of its segments, then each segment after a character for its length
//! in bytes: [`KeyPath::as_bytes`] with characters in place of its numbers, so in the same order, since DynamoDB orders
//! strings by their UTF-8 bytes. No such key is the beginning of another.
//!
//! The longest path has 1,041 bytes, and an `sk` at most 1,024. So a path whose first seven segments fill [`FLAT`] or more has
//! its place in a list taken by these seven, and is itself in a list of its own: `pk` with these appended, `sk` the eighth.

use keystrata_hierarchy::{KekId, KeyPath, StoreError};

use crate::{rows::read_path, wrappers::IndexKey};

/// Bytes of seven segments from which on the eighth is apart: with a last segment of 130 bytes, less than 1,024.
const FLAT: usize = 880;
const MAX_SEGMENTS: usize = 8;

/// `pk` and `sk`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) pk: String,
    pub(super) sk: String,
}

impl Key {
    pub(super) fn new(pk: impl Into<String>, sk: impl Into<String>) -> Self {
        Self { pk: pk.into(), sk: sk.into() }
    }

    pub(super) fn schema() -> Self {
        Self::new("schema", "version")
    }

    pub(super) fn head(path: &KeyPath) -> Self {
        Self::new(account(path), HEAD)
    }

    pub(super) fn kek(path: &KeyPath, life: &str, id: KekId) -> Self {
        Self::new(account(path), format!("{}{}", keks_of(life), hex(id.as_bytes())))
    }
}

pub(super) const HEAD: &str = "head";
pub(super) const KEK: &str = "kek ";

pub(super) fn account(path: &KeyPath) -> String {
    format!("account {}", encode(path.segments()))
}

/// What the `sk` of an account's KEKs begin with.
pub(super) fn keks_of(life: &str) -> String {
    format!("{KEK}{life} ")
}

/// A list of paths.
#[derive(Clone, Debug)]
pub(super) struct List(String);

impl List {
    pub(super) fn accounts() -> Self {
        Self("accounts".into())
    }

    pub(super) fn wrapped_by(wrapper: &IndexKey) -> Self {
        Self(format!("wrapper {}", hex(wrapper)))
    }

    pub(super) fn pk(&self) -> &str {
        &self.0
    }

    /// Where `path` stands in it, and what leads there.
    pub(super) fn place(&self, path: &KeyPath) -> Place {
        match split(path) {
            Some((first, last)) => {
                Place { entry: Key::new(format!("{} {first}", self.0), last), branch: Some(Key::new(&self.0, first)) }
            }
            None => Place { entry: Key::new(&self.0, encode(path.segments())), branch: None },
        }
    }

    /// The list that a branch leads to.
    pub(super) fn behind(&self, branch: &str) -> Self {
        Self(format!("{} {branch}", self.0))
    }
}

pub(super) struct Place {
    pub(super) entry: Key,
    pub(super) branch: Option<Key>,
}

/// An entry of a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Path(KeyPath),
    /// Seven segments that stand for all paths that begin with them.
    Branch,
}

/// Reads an `sk` of a list. `branch` is what led there.
pub(super) fn entry(branch: Option<&str>, sk: &str) -> Result<Entry, StoreError> {
    let whole = [branch.unwrap_or_default(), sk].concat();
    let Some((count, segments)) = decode(&whole) else { return Err(no_path()) };
    if count == MAX_SEGMENTS && segments.len() + 1 == MAX_SEGMENTS && branch.is_none() {
        return Ok(Entry::Branch);
    }
    if segments.len() != count {
        return Err(no_path());
    }
    KeyPath::new(segments).map(Entry::Path).map_err(|_| no_path())
}

/// What every store says of a path that is none.
fn no_path() -> StoreError {
    match read_path(&[]) {
        Err(error) => error,
        Ok(_) => StoreError::incompatible("an item has an account path that is none"),
    }
}

/// The first seven segments and the last, of a path whose entry would be too long for one key.
pub(super) fn split(path: &KeyPath) -> Option<(String, String)> {
    let segments: Vec<_> = path.segments().collect();
    let [first @ .., last] = &segments[..] else { return None };
    let whole = encode(segments.iter().copied());
    let first_len = whole.len() - last.len() - length(last).len_utf8();
    (segments.len() == MAX_SEGMENTS && first.len() + 1 == MAX_SEGMENTS && first_len >= FLAT)
        .then(|| (whole[..first_len].to_owned(), whole[first_len..].to_owned()))
}

fn encode<'a>(segments: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::from('\0');
    let mut count = 0_u8;
    for segment in segments {
        count += 1;
        text.push(length(segment));
        text.push_str(segment);
    }
    text.replace_range(..1, char::from(count).encode_utf8(&mut [0; 4]));
    text
}

/// A segment has at most 128 bytes.
fn length(segment: &str) -> char {
    char::from(u8::try_from(segment.len()).unwrap_or(u8::MAX))
}

/// The number of segments that is told, and those that are there.
fn decode(text: &str) -> Option<(usize, Vec<&str>)> {
    let mut rest = text;
    let number = |rest: &mut &str| {
        let first = rest.chars().next()?;
        *rest = &rest[first.len_utf8()..];
        usize::try_from(u32::from(first)).ok()
    };
    let count = number(&mut rest)?;
    let mut segments = Vec::new();
    while !rest.is_empty() {
        let len = number(&mut rest)?;
        let (segment, after) = rest.split_at_checked(len)?;
        segments.push(segment);
        rest = after;
    }
    Some((count, segments))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(segments: &[&str]) -> KeyPath {
        KeyPath::new(segments).unwrap()
    }

    fn paths() -> Vec<KeyPath> {
        let long = "x".repeat(128);
        let wide = "\u{10ffff}".repeat(32);
        let nearly = format!("{}y", "x".repeat(127));
        let mut paths = vec![
            path(&["a"]),
            path(&["a/b"]),
            path(&["a\0b"]),
            path(&["a\0", "b"]),
            path(&["a", "\0b"]),
            path(&["é"]),
            path(&["e\u{301}"]),
            path(&["\u{1}a"]),
            path(&["größe", "☃", "日本"]),
            path(&[long.as_str()]),
            path(&[wide.as_str()]),
            path(&[long.as_str(); 7]),
        ];
        for last in ["a", "b", "aa", &long, &nearly, &wide, "x"] {
            let mut segments = [long.as_str(); 8];
            segments[7] = last;
            paths.push(path(&segments));
            segments[0] = &wide;
            paths.push(path(&segments));
            // Just so short that it stands with the others, and just not.
            for len in [100, 101, 102, 103] {
                segments[6] = &long[..len];
                paths.push(path(&segments));
            }
        }
        paths
    }

    #[test]
    fn keys_are_in_the_order_of_the_paths_and_within_the_limits() {
        let list = List::accounts();
        let mut in_order = paths();
        in_order.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        // As a listing goes: the place in the outer list, then that in the inner one.
        let place = |path: &KeyPath| {
            let Place { entry, branch } = list.place(path);
            assert!((1..=1024).contains(&entry.sk.len()) && entry.pk.len() <= 2048 && account(path).len() <= 2048);
            branch.map_or((entry.sk.clone(), String::new()), |branch| {
                assert_eq!((branch.pk.as_str(), entry.pk), (list.pk(), list.behind(&branch.sk).0));
                assert!(branch.sk.len() <= 1024);
                (branch.sk, entry.sk)
            })
        };
        let places: Vec<_> = in_order.iter().map(place).collect();
        assert!(places.is_sorted_by(|a, b| a < b), "each once and in order");
        assert!(places.iter().any(|(_, inner)| !inner.is_empty()));
        for (at, (outer, inner)) in places.iter().enumerate() {
            let outers = places.iter().map(|(other, _)| other);
            assert!(outers.clone().all(|other| other == outer || !other.starts_with(outer.as_str())), "{outer:?}");
            let expected = Entry::Path(in_order[at].clone());
            if inner.is_empty() {
                assert_eq!(entry(None, outer).unwrap(), expected);
            } else {
                assert_eq!(entry(None, outer).unwrap(), Entry::Branch);
                assert_eq!(entry(Some(outer), inner).unwrap(), expected);
            }
        }
    }

    #[test]
    fn what_is_no_path_is_told() {
        for text in ["", "acme", "\u{1}", "\u{1}\u{5}acme", "\u{2}\u{4}acme", "\u{1}\u{1}é", "\u{0}", "\u{9}\u{1}a"] {
            assert!(matches!(entry(None, text), Err(StoreError::Incompatible { .. })), "{text:?}");
        }
    }

    #[test]
    fn hexadecimal_has_two_digits_a_byte() {
        assert_eq!(hex(&[0, 0x0f, 0xa5, 0xff]), "000fa5ff");
    }
}
