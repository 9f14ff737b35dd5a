//! A part of an object, reading and authenticating only the chunks it is in.

use std::{
    io::{self, Cursor, Read, Seek, SeekFrom},
    ops::{Bound, RangeBounds},
};

use zeroize::Zeroizing;

use super::{
    StreamError,
    opener::{Opener, uninterrupted},
};
use crate::{
    context::Context,
    envelope::{Header, OpenError, plaintext_len},
    kek::Kek,
};

/// The bytes of `envelope`'s plaintext in `range`.
///
/// Only the chunks that hold them are authenticated. A range that goes beyond the end gives what there is up to the
/// end, as does one without an end; then the result says where the end is, so the last chunk is authenticated too.
///
/// # Errors
/// As [`open`](crate::envelope::open), and [`OpenError::InvertedRange`]. Altered bytes in other chunks are not seen.
pub fn open_range(
    kek: &Kek<'_>,
    context: &Context,
    envelope: &[u8],
    range: impl RangeBounds<u64>,
) -> Result<Vec<u8>, OpenError> {
    Header::parse(envelope)?;
    open_range_from(kek, context, Cursor::new(envelope), range).map_err(|error| match error {
        StreamError::Open(error) => error,
        // Reading from memory does not fail, so what is left is bytes that are not authentic.
        _ => OpenError::Rejected,
    })
}

/// [`open_range`] of an envelope that is not in memory: it begins where `reader` stands and ends where `reader` ends.
///
/// The result is one allocation, bounded by the range and by the length of `reader`.
///
/// # Errors
/// As [`Opener::new`] and its reads. [`StreamError::Read`] also if `reader` grows meanwhile, or if there is no memory for
/// the result.
pub fn open_range_from<R: Read + Seek>(
    kek: &Kek<'_>,
    context: &Context,
    mut reader: R,
    range: impl RangeBounds<u64>,
) -> Result<Vec<u8>, StreamError> {
    let (start, end) = bounds(&range)?;
    let begin = uninterrupted(|| reader.stream_position()).map_err(StreamError::read)?;
    let stop = uninterrupted(|| reader.seek(SeekFrom::End(0))).map_err(StreamError::read)?;
    uninterrupted(|| reader.seek(SeekFrom::Start(begin))).map_err(StreamError::read)?;
    let opener = Opener::new(kek, context, reader)?;

    // Going by the reader's length, which bounds memory and is not believed otherwise.
    let most = usize::try_from(stop.saturating_sub(begin)).ok().map_or(u64::MAX, |len| longest_plaintext(len) as u64);
    read_range(opener, start, end, most).map_err(StreamError::from_read)
}

fn read_range<R: Read + Seek>(mut opener: Opener<R>, start: u64, end: u64, most: u64) -> io::Result<Vec<u8>> {
    opener.seek(SeekFrom::Start(start))?;
    let mut out = zeroed(end.min(most).saturating_sub(start))?;
    let mut filled = 0;
    while filled < out.len() {
        match uninterrupted(|| opener.read(&mut out[filled..]))? {
            0 => break,
            len => filled += len,
        }
    }
    // Shorter than it was asked for: that is an answer about the end.
    if (filled as u64) < end - start && uninterrupted(|| opener.read(&mut [0]))? > 0 {
        return Err(io::Error::other("the reader has grown while it was read"));
    }
    out.truncate(filled);
    Ok(std::mem::take(&mut *out))
}

fn bounds(range: &impl RangeBounds<u64>) -> Result<(u64, u64), OpenError> {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&last) => last.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    if start > end { Err(OpenError::InvertedRange { start, end }) } else { Ok((start, end)) }
}

/// At least the plaintext of an envelope of `len` bytes, also if none has that length.
fn longest_plaintext(len: usize) -> usize {
    plaintext_len(len).unwrap_or(len)
}

/// Wiped if it is not handed out in the end.
fn zeroed(len: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut out = Vec::new();
    let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    out.try_reserve_exact(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    out.resize(len, 0);
    Ok(Zeroizing::new(out))
}
