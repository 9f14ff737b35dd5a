//! Length-prefixed encoding shared by records, additional data and KDF messages.
//!
//! `u32le(n)` is four little-endian bytes; `str(x) = u32le(len x) ‖ x`. A prefix before every part means that no two
//! lists of parts share an encoding.

/// Appends `u32le(n)`.
///
/// # Panics
/// If `n` does not fit in 32 bits: every caller bounds its lengths far below.
pub fn put_len(out: &mut Vec<u8>, n: usize) {
    let n = u32::try_from(n).expect("lengths are capped before they are encoded");
    out.extend_from_slice(&n.to_le_bytes());
}

/// Appends `str(x)`.
///
/// # Panics
/// If `x` is 4 GiB or longer: every caller bounds its lengths far below.
pub fn put_str(out: &mut Vec<u8>, x: &[u8]) {
    put_len(out, x.len());
    out.extend_from_slice(x);
}

/// `str(label)` of a label that is known when compiling, so that writing it needs no allocation. `N` is its length plus 4.
pub(crate) const fn label<const N: usize>(label: &[u8]) -> [u8; N] {
    assert!(label.len() + 4 == N && label.len() < 256, "four bytes of length and the label itself");
    let mut out = [0; N];
    #[allow(clippy::cast_possible_truncation)] // asserted to be below 256
    let len = label.len() as u8;
    out[0] = len;
    let mut i = 0;
    while i < label.len() {
        out[4 + i] = label[i];
        i += 1;
    }
    out
}

/// Reads fields off the front of untrusted bytes; every read says `None` instead of going past the end.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// `str(x)` with `x` at most `cap` bytes: the cap is checked before the length is believed.
    pub(crate) fn str(&mut self, cap: usize) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        if len > cap {
            return None;
        }
        self.take(len)
    }
}
