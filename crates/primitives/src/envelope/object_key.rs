//! The key of one object, apart from any KEK.

use std::fmt;

use super::{OpenError, header::HEADER_LEN, header::Header, payload::Chunks, start};
use crate::{context::Context, kek::Kek};

/// What one sealed object is opened with, and nothing else: never a KEK, never the DEK. Wiped on drop.
///
/// It is for reading that outlives the KEK at hand: a stream holds one of these, so the KEK may expire meanwhile.
pub struct ObjectKey(pub(super) Box<Chunks>);

impl ObjectKey {
    /// The key of the object that begins with `header`, if it was sealed for this KEK's account and this context.
    ///
    /// # Errors
    /// As [`open`](super::open), as far as a header can show it: the chunks are not looked at.
    pub fn from_header(kek: &Kek<'_>, context: &Context, header: &[u8; HEADER_LEN]) -> Result<Self, OpenError> {
        let header = Header::parse_start(header)?;
        // Written where it stays, as far as the compiler allows: moving a key leaves a copy behind.
        let place = Box::new_uninit();
        Ok(Self(Box::write(place, start::resume(kek, context.as_bytes()?, &header)?)))
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ObjectKey([REDACTED])")
    }
}
