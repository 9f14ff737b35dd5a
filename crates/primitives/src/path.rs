//! Who an account is: the path that envelopes and records authenticate.

use std::{convert::Infallible, fmt, sync::Arc};

use crate::wire::{self, Reader};

/// The identity of an account, or of something inside it: 1 to 8 segments of 1 to 128 bytes of UTF-8.
///
/// Segments are compared byte for byte. They are never normalised and never joined with a separator, so `["a/b"]` and
/// `["a", "b"]` are two accounts, and so are two Unicode spellings of one name: normalise before you come here if your
/// users may type either. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyPath {
    /// `u32le(n) ‖ str(segment)…`, the form in which it is authenticated.
    encoded: Arc<[u8]>,
}

/// Why a path was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// No segment at all.
    #[error("an account path needs at least one segment")]
    NoSegment,
    /// A segment of no bytes.
    #[error("segment {index} of the account path is empty; name the account with 1 to 128 bytes")]
    EmptySegment {
        /// Which segment, from 1.
        index: usize,
    },
    /// A segment over 128 bytes.
    #[error("segment {index} of the account path has {len} bytes; at most 128 are allowed, so use a shorter id")]
    SegmentTooLong {
        /// Which segment, from 1.
        index: usize,
        /// Its length in bytes.
        len: usize,
    },
    /// More than 8 segments.
    #[error("the account path has {0} segments; at most 8 are allowed")]
    TooManySegments(usize),
    /// Bytes that are not the encoding of a path.
    #[error("these bytes do not encode an account path")]
    Malformed,
}

impl From<Infallible> for PathError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl KeyPath {
    /// Most segments a path may have.
    pub const MAX_SEGMENTS: usize = 8;
    /// Most bytes a segment may have.
    pub const MAX_SEGMENT_BYTES: usize = 128;
    /// Most bytes of [`as_bytes`](Self::as_bytes).
    pub const MAX_ENCODED_BYTES: usize = 4 + Self::MAX_SEGMENTS * (4 + Self::MAX_SEGMENT_BYTES);

    /// The path of these segments, outermost first.
    ///
    /// # Errors
    /// [`PathError`] if there are none or more than eight, or one is empty or over 128 bytes.
    pub fn new<S: AsRef<str>>(segments: impl IntoIterator<Item = S>) -> Result<Self, PathError> {
        let mut body = Vec::new();
        let mut count = 0;
        for segment in segments {
            let segment = segment.as_ref().as_bytes();
            count += 1;
            match segment.len() {
                0 => return Err(PathError::EmptySegment { index: count }),
                len if len > Self::MAX_SEGMENT_BYTES => return Err(PathError::SegmentTooLong { index: count, len }),
                _ if count > Self::MAX_SEGMENTS => {} // counted on, for the message
                _ => wire::put_str(&mut body, segment),
            }
        }
        match count {
            0 => Err(PathError::NoSegment),
            n if n > Self::MAX_SEGMENTS => Err(PathError::TooManySegments(n)),
            n => {
                let mut encoded = Vec::with_capacity(4 + body.len());
                wire::put_len(&mut encoded, n);
                encoded.extend_from_slice(&body);
                Ok(Self { encoded: encoded.into() })
            }
        }
    }

    /// The path of one segment: an account.
    ///
    /// # Errors
    /// [`PathError`] if `name` is empty or over 128 bytes.
    pub fn account(name: &str) -> Result<Self, PathError> {
        Self::new([name])
    }

    /// The segments, outermost first.
    #[allow(clippy::missing_panics_doc)] // it cannot: whoever makes a path has checked it
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        let mut reader = Reader::new(&self.encoded);
        reader.u32();
        std::iter::from_fn(move || {
            reader
                .str(Self::MAX_SEGMENT_BYTES)
                .map(|segment| std::str::from_utf8(segment).expect("checked when the path was made"))
        })
    }

    /// The canonical encoding, `u32le(n) ‖ str(segment)…`: what envelopes and records authenticate.
    pub fn as_bytes(&self) -> &[u8] {
        &self.encoded
    }

    /// Reads a canonical encoding back.
    ///
    /// # Errors
    /// [`PathError::Malformed`] if `bytes` is not exactly one valid path.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PathError> {
        let mut reader = Reader::new(bytes);
        let path = Self::read(&mut reader).ok_or(PathError::Malformed)?;
        if reader.rest().is_empty() { Ok(path) } else { Err(PathError::Malformed) }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let start = reader.rest();
        let count = reader.u32()?;
        if !(1..=Self::MAX_SEGMENTS).contains(&usize::try_from(count).ok()?) {
            return None;
        }
        for _ in 0..count {
            let segment = reader.str(Self::MAX_SEGMENT_BYTES)?;
            if segment.is_empty() || std::str::from_utf8(segment).is_err() {
                return None;
            }
        }
        let used = start.len() - reader.rest().len();
        Some(Self { encoded: start[..used].into() })
    }
}

/// Segments joined by `/`, with `/`, `%` and characters that are not seen percent-encoded: for people, never for keys.
impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, segment) in self.segments().enumerate() {
            if i > 0 {
                f.write_str("/")?;
            }
            for c in segment.chars() {
                if c == '/' || c == '%' || is_unseen(c) {
                    let mut utf8 = [0; 4];
                    for byte in c.encode_utf8(&mut utf8).bytes() {
                        write!(f, "%{byte:02X}")?;
                    }
                } else {
                    write!(f, "{c}")?;
                }
            }
        }
        Ok(())
    }
}

/// Characters that show nothing, break a line, or turn the direction of what follows: a name could pass for another.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

impl fmt::Debug for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPath({self})")
    }
}

impl TryFrom<&str> for KeyPath {
    type Error = PathError;

    /// The path of one segment.
    fn try_from(name: &str) -> Result<Self, PathError> {
        Self::account(name)
    }
}

impl TryFrom<&String> for KeyPath {
    type Error = PathError;

    /// The path of one segment.
    fn try_from(name: &String) -> Result<Self, PathError> {
        Self::account(name)
    }
}

impl TryFrom<String> for KeyPath {
    type Error = PathError;

    /// The path of one segment.
    fn try_from(name: String) -> Result<Self, PathError> {
        Self::account(&name)
    }
}

impl<const N: usize> TryFrom<[&str; N]> for KeyPath {
    type Error = PathError;

    fn try_from(segments: [&str; N]) -> Result<Self, PathError> {
        Self::new(segments)
    }
}

impl From<&KeyPath> for KeyPath {
    fn from(path: &KeyPath) -> Self {
        path.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_exact() {
        assert!(KeyPath::account(&"x".repeat(128)).is_ok());
        assert_eq!(KeyPath::account(&"x".repeat(129)), Err(PathError::SegmentTooLong { index: 1, len: 129 }));
        assert_eq!(KeyPath::account(""), Err(PathError::EmptySegment { index: 1 }));
        assert_eq!(KeyPath::new([""; 0]), Err(PathError::NoSegment));
        assert!(KeyPath::new(["a"; 8]).is_ok());
        assert_eq!(KeyPath::new(["a"; 9]), Err(PathError::TooManySegments(9)));
    }

    #[test]
    fn segments_never_run_together() {
        let joined = KeyPath::account("a/b").unwrap();
        let split = KeyPath::new(["a", "b"]).unwrap();
        assert_ne!(joined, split);
        assert_eq!(joined.to_string(), "a%2Fb");
        assert_eq!(split.to_string(), "a/b");
        assert_eq!(KeyPath::account("100%\n").unwrap().to_string(), "100%25%0A");
        assert_eq!(KeyPath::account("\u{202e}größe").unwrap().to_string(), "%E2%80%AEgröße");
    }

    #[test]
    fn encoding_reads_back_and_nothing_else_does() {
        let path = KeyPath::new(["acme", "billing\0"]).unwrap();
        assert_eq!(KeyPath::from_bytes(path.as_bytes()), Ok(path.clone()));
        assert_eq!(path.segments().collect::<Vec<_>>(), ["acme", "billing\0"]);
        for cut in 0..path.as_bytes().len() {
            assert_eq!(KeyPath::from_bytes(&path.as_bytes()[..cut]), Err(PathError::Malformed));
        }
        let mut longer = path.as_bytes().to_vec();
        longer.push(0);
        assert_eq!(KeyPath::from_bytes(&longer), Err(PathError::Malformed));
        assert_eq!(KeyPath::from_bytes(b"\x01\0\0\0\x01\0\0\0\xff"), Err(PathError::Malformed), "not UTF-8");
        assert_eq!(KeyPath::from_bytes(b"\x01\0\0\0\0\0\0\0"), Err(PathError::Malformed), "empty segment");
    }
}
