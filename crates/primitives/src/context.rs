//! The encryption context: the caller's pairs, authenticated and not stored.

use crate::wire;

/// Pairs of bytes that an envelope is bound to: opening needs exactly the ones it was sealed with.
///
/// A context is authenticated, not stored and not secret. Name the object in it (table, row), and its revision where
/// replaying an older value would hurt. Order does not matter; names are unique.
///
/// Limits: 64 pairs, names not empty, and 8,192 bytes once encoded (4 bytes, then 8 and the text for each pair). They
/// are checked when the context is used, so that building one needs no `?` at every step.
#[derive(Clone, Debug, Default)]
pub struct Context {
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
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
        self.pairs.push((name.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// By the bytes of the name; the value decides only between pairs that [`encode`](Self::encode) refuses.
    fn sorted(&self) -> Vec<&(Vec<u8>, Vec<u8>)> {
        let mut sorted: Vec<_> = self.pairs.iter().collect();
        sorted.sort_unstable();
        sorted
    }

    /// The canonical encoding: `u32le(n)`, then `str(name) ‖ str(value)` sorted by the bytes of the name.
    ///
    /// # Errors
    /// [`ContextError`] if a name is empty or given twice, or a limit is passed.
    pub fn encode(&self) -> Result<Vec<u8>, ContextError> {
        if self.pairs.len() > Self::MAX_PAIRS {
            return Err(ContextError::TooManyPairs(self.pairs.len()));
        }
        let len = self.pairs.iter().fold(4usize, |sum, (name, value)| {
            sum.saturating_add(8).saturating_add(name.len()).saturating_add(value.len())
        });
        if len > Self::MAX_ENCODED_BYTES {
            return Err(ContextError::TooLong(len));
        }
        let sorted = self.sorted();
        let mut out = Vec::with_capacity(len);
        wire::put_len(&mut out, sorted.len());
        let mut previous: Option<&[u8]> = None;
        for (name, value) in sorted {
            if name.is_empty() {
                return Err(ContextError::EmptyName);
            }
            if previous == Some(name) {
                return Err(ContextError::DuplicateName { name: String::from_utf8_lossy(name).into_owned() });
            }
            previous = Some(name);
            wire::put_str(&mut out, name);
            wire::put_str(&mut out, value);
        }
        Ok(out)
    }
}

/// The same pairs in any order.
impl PartialEq for Context {
    fn eq(&self, other: &Self) -> bool {
        self.sorted() == other.sorted()
    }
}

impl Eq for Context {}

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
    }
}
