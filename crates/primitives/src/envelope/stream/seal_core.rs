//! What a sealing stream does between two writes to whatever is below it: no I/O, so one core serves both kinds.

use std::{io, ops::Range};

use rand::TryCryptoRng;
use zeroize::Zeroize;

use super::StreamError;
use crate::{
    aead::TAG_LEN,
    context::Context,
    envelope::{
        SealError,
        header::{CHUNK_LEN, HEADER_LEN, MAX_CHUNKS, SEALED_CHUNK_LEN},
        payload::Chunks,
        start,
    },
    kek::Kek,
};

pub(super) struct SealCore {
    chunks: Box<Chunks>,
    /// `header ‖ chunk ‖ tag`. The header goes out with the first chunk, so that a small object is one write.
    buffer: Box<[u8]>,
    /// Bytes of plaintext in the chunk, and with it in the buffer: sealing overwrites them.
    filled: usize,
    /// What of `buffer` is sealed and to be written before anything else can be taken in.
    pending: Range<usize>,
    /// The chunk's number.
    number: u64,
    ended: bool,
    failed: Option<StreamError>,
}

impl SealCore {
    pub(super) fn new<R: TryCryptoRng>(rng: &mut R, kek: &Kek<'_>, context: &Context) -> Result<Self, SealError> {
        let context = context.as_bytes()?;
        let mut buffer = vec![0; HEADER_LEN + SEALED_CHUNK_LEN].into_boxed_slice();
        let header = buffer.first_chunk_mut().expect("the buffer begins with room for a header");
        let place = Box::new_uninit();
        let chunks = Box::write(place, start::begin(rng, kek, context, header)?);
        Ok(Self { chunks, buffer, filled: 0, pending: 0..0, number: 0, ended: false, failed: None })
    }

    /// The error of an earlier call, which every later one repeats.
    pub(super) fn check(&self) -> Result<(), StreamError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    pub(super) fn fail(&mut self, error: StreamError) -> io::Error {
        self.failed = Some(error.clone());
        error.into()
    }

    pub(super) fn pending(&self) -> &[u8] {
        &self.buffer[self.pending.clone()]
    }

    /// Notes that the writer took `written` of the pending bytes.
    pub(super) fn written(&mut self, written: usize) -> io::Result<()> {
        if written == 0 {
            return Err(self.fail(StreamError::write(io::ErrorKind::WriteZero.into())));
        }
        if written > self.pending.len() {
            return Err(self.fail(StreamError::write(io::Error::other("the writer took more bytes than it was given"))));
        }
        self.pending.start += written;
        Ok(())
    }

    /// Takes in some of `data` and says how much. Nothing may be pending.
    pub(super) fn accept(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.ended {
            return Err(StreamError::Finished.into());
        }
        if data.is_empty() {
            return Ok(0);
        }
        // The last possible chunk may not become full, since a full one is never the last.
        let room = CHUNK_LEN - self.filled - usize::from(self.number + 1 == MAX_CHUNKS);
        if room == 0 {
            return Err(self.fail(StreamError::TooLong));
        }
        let data = &data[..data.len().min(room)];
        let chunk = &mut self.buffer[HEADER_LEN..];
        if data.len() == CHUNK_LEN {
            self.chunks.seal(self.number, data, chunk);
            self.sealed(CHUNK_LEN);
        } else {
            chunk[self.filled..][..data.len()].copy_from_slice(data);
            self.filled += data.len();
            if self.filled == CHUNK_LEN {
                self.chunks.seal_in_place(self.number, chunk);
                self.sealed(CHUNK_LEN);
            }
        }
        Ok(data.len())
    }

    /// Seals the last chunk; from then on nothing more is taken. Nothing may be pending.
    pub(super) fn end(&mut self) {
        if !self.ended {
            self.chunks.seal_in_place(self.number, &mut self.buffer[HEADER_LEN..HEADER_LEN + self.filled + TAG_LEN]);
            self.sealed(self.filled);
            self.ended = true;
        }
    }

    /// Notes that `len` bytes of plaintext were sealed.
    fn sealed(&mut self, len: usize) {
        let start = if self.number == 0 { 0 } else { HEADER_LEN };
        self.pending = start..HEADER_LEN + len + TAG_LEN;
        self.filled = 0;
        self.number += 1;
    }
}

impl Drop for SealCore {
    fn drop(&mut self) {
        self.buffer[HEADER_LEN..][..self.filled].zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KekId, KekIdentity, KekVersion, KeyPath, Suite};

    #[test]
    fn the_last_possible_chunk_never_becomes_full() {
        let identity = KekIdentity {
            suite: Suite::default(),
            version: KekVersion::FIRST,
            id: KekId::from_bytes([7; 16]),
            path: KeyPath::account("acme").unwrap(),
        };
        let kek = Kek::new(&[1; 32], &identity);
        let mut core = SealCore::new(&mut crate::random::KernelRng, &kek, &Context::none()).unwrap();
        core.number = MAX_CHUNKS - 2;
        assert_eq!(core.accept(&[0; CHUNK_LEN]).unwrap(), CHUNK_LEN);
        core.written(core.pending().len()).unwrap();
        assert_eq!(core.accept(&[0; CHUNK_LEN]).unwrap(), CHUNK_LEN - 1);
        let error = core.accept(&[0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert!(matches!(StreamError::of(&error), Some(StreamError::TooLong)), "{error}");
        assert!(matches!(core.check(), Err(StreamError::TooLong)), "and it stays failed");
    }
}
