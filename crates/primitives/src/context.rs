//! The encryption context: the caller's pairs, authenticated and not stored.

use std::{cmp::Ordering, fmt};

use crate::wire::{self, Reader};

/// Bytes of `u32le(n)`.
const COUNT_LEN: usize = 4;

/// Pairs of bytes that an envelope is bound to: opening needs exactly the ones it was sealed with.
///
/// A context is authenticated, not stored and not secret. Name the object in it (table, row), and its revision where
/// replaying an older value would hurt. Order does not matter; names are unique.
///
/// Limits: 64 pairs, names not empty, and 8,192 bytes once encoded (4 bytes, then 8 and the text for each pair). They
/// are reported when the context is used, so that building one needs no `?` at every step. Two contexts that break a
/// rule are equal if they break it the same way.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Context {
    /// The canonical encoding, empty while there is no pair: kept ready, so that sealing need not sort or allocate.
    encoded: Vec<u8>,
    /// The rule that is broken. No pair is ever taken back, so it stays broken, and `encoded` is no longer kept.
    refused: Option<ContextError>,
}

/// Why a context was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// The same name twice.
    #[error("the context names {name:?} twice; names must be unique")]
    DuplicateName {
        /// The name, with what is not UTF-8 replaced.
        name: String,
    },
    /// A pair without a name.
    #[error("the context has a pair with an empty name; name every pair")]
    EmptyName,
    /// More than 64 pairs.
    #[error("the context has {0} pairs; at most 64 are allowed")]
    TooManyPairs(usize),
    /// More than 8,192 encoded bytes.
    #[error("the context takes {0} bytes encoded; at most 8,192 are allowed, so put a hash of long values in it")]
    TooLong(usize),
}

impl Context {
    /// Most pairs a context may have.
    pub const MAX_PAIRS: usize = 64;
    /// Most bytes a context may take once encoded.
    pub const MAX_ENCODED_BYTES: usize = 8 * 1024;

    /// A context without pairs, to be filled with [`with`](Self::with).
    pub fn new() -> Self {
        Self::default()
    }

    /// No context, said on purpose. The same as an empty one.
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds the pair `name`, `value`.
    pub fn with(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.add(name.as_ref(), value.as_ref());
        self
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.encoded.is_empty() && self.refused.is_none()
    }

    /// The canonical encoding: `u32le(n)`, then `str(name) ‖ str(value)` sorted by the bytes of the name.
    ///
    /// # Errors
    /// [`ContextError`] if a name is empty or given twice, or a limit is passed.
    pub fn as_bytes(&self) -> Result<&[u8], ContextError> {
        match &self.refused {
            Some(error) => Err(error.clone()),
            None if self.encoded.is_empty() => Ok(&[0; COUNT_LEN]),
            None => Ok(&self.encoded),
        }
    }

    /// A copy of [`as_bytes`](Self::as_bytes).
    ///
    /// # Errors
    /// As [`as_bytes`](Self::as_bytes).
    pub fn encode(&self) -> Result<Vec<u8>, ContextError> {
        self.as_bytes().map(<[u8]>::to_vec)
    }

    fn add(&mut self, name: &[u8], value: &[u8]) {
        let added = name.len().saturating_add(value.len()).saturating_add(2 * COUNT_LEN);
        match &mut self.refused {
            // Counted on, for the message.
            Some(ContextError::TooManyPairs(pairs)) => *pairs = pairs.saturating_add(1),
            Some(ContextError::TooLong(len)) => *len = len.saturating_add(added),
            Some(_) => {}
            None => {
                if let Err(error) = self.insert(name, value, added) {
                    self.refused = Some(error);
                    self.encoded = Vec::new();
                }
            }
        }
    }

    /// Puts the pair where its name sorts.
    fn insert(&mut self, name: &[u8], value: &[u8], added: usize) -> Result<(), ContextError> {
        if name.is_empty() {
            return Err(ContextError::EmptyName);
        }
        let len = self.encoded.len().max(COUNT_LEN).saturating_add(added);
        let mut at = COUNT_LEN;
        let mut pairs = 1;
        for (other, other_value) in self.pairs() {
            match other.cmp(name) {
                Ordering::Less => at += 2 * COUNT_LEN + other.len() + other_value.len(),
                Ordering::Equal => {
                    return Err(ContextError::DuplicateName { name: String::from_utf8_lossy(name).into_owned() });
                }
                Ordering::Greater => {}
            }
            pairs += 1;
        }
        if pairs > Self::MAX_PAIRS {
            return Err(ContextError::TooManyPairs(pairs));
        }
        if len > Self::MAX_ENCODED_BYTES {
            return Err(ContextError::TooLong(len));
        }
        let mut encoded = Vec::with_capacity(len);
        wire::put_len(&mut encoded, pairs);
        encoded.extend_from_slice(self.encoded.get(COUNT_LEN..at).unwrap_or_default());
        wire::put_str(&mut encoded, name);
        wire::put_str(&mut encoded, value);
        encoded.extend_from_slice(self.encoded.get(at..).unwrap_or_default());
        self.encoded = encoded;
        Ok(())
    }

    fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut reader = Reader::new(self.encoded.get(COUNT_LEN..).unwrap_or_default());
        std::iter::from_fn(move || {
            let name = reader.str(Self::MAX_ENCODED_BYTES)?;
            Some((name, reader.str(Self::MAX_ENCODED_BYTES)?))
        })
    }
}

/// The pairs, with what is not UTF-8 replaced: a context is not secret.
impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = &self.refused {
            return f.debug_tuple("Context").field(error).finish();
        }
        let pairs = self.pairs().map(|(name, value)| (String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
        f.debug_map().entries(pairs).finish()
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, V)> for Context {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        pairs.into_iter().fold(Self::new(), |context, (name, value)| context.with(name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_and_pairs_never_run_together() {
        assert_eq!(Context::new().with("a", "1").with("b", "2"), Context::new().with("b", "2").with("a", "1"));
        assert_ne!(Context::new().with("a", "1"), Context::new().with("a", "2"));
        let a = Context::new().with("a", "1").with("b", "2").encode().unwrap();
        assert_eq!(a, Context::new().with("b", "2").with("a", "1").encode().unwrap());
        assert_ne!(Context::new().with("ab", "c").encode().unwrap(), Context::new().with("a", "bc").encode().unwrap());
        assert_eq!(Context::none().encode().unwrap(), [0, 0, 0, 0]);
    }

    #[test]
    fn any_order_of_building_gives_the_sorted_encoding() {
        let names = ["b", "", "ab", "a", "\u{ff}"].map(|end| format!("n{end}"));
        let forward: Context = names.iter().map(|name| (name, "v")).collect();
        let backward: Context = names.iter().rev().map(|name| (name, "v")).collect();
        assert_eq!(forward, backward);
        let mut expected = vec![5, 0, 0, 0];
        for name in ["n", "na", "nab", "nb", "n\u{ff}"] {
            wire::put_str(&mut expected, name.as_bytes());
            wire::put_str(&mut expected, b"v");
        }
        assert_eq!(forward.as_bytes(), Ok(&expected[..]));
        assert_eq!(format!("{:?}", Context::new().with("row", "42").with("a", "b")), r#"{"a": "b", "row": "42"}"#);
    }

    #[test]
    fn limits_are_exact() {
        let pairs = |n: usize| (0..n).map(|i| (format!("{i:02}"), "")).collect::<Context>();
        assert!(pairs(64).encode().is_ok());
        assert_eq!(pairs(65).encode(), Err(ContextError::TooManyPairs(65)));
        let sized = |n: usize| Context::new().with("n", vec![b'x'; n - 13]);
        assert_eq!(sized(8192).encode().unwrap().len(), 8192);
        assert_eq!(sized(8193).encode(), Err(ContextError::TooLong(8193)));
        assert_eq!(
            Context::new().with("a", "1").with("b", "").with("a", "2").encode(),
            Err(ContextError::DuplicateName { name: "a".into() })
        );
        assert_eq!(Context::new().with("", "1").encode(), Err(ContextError::EmptyName));
        assert_eq!(pairs(70).encode(), Err(ContextError::TooManyPairs(70)), "all are counted, for the message");
        assert_eq!(sized(8193).with("m", "").encode(), Err(ContextError::TooLong(8202)));
        assert!(!sized(8193).is_empty(), "one that is refused is not one without pairs");
    }
}
