//! What an opening stream does between two reads or seeks of whatever is below it: no I/O, so one core serves both
//! kinds.

use std::io::{self, SeekFrom};

use zeroize::Zeroize;

use super::StreamError;
use crate::{
    aead::TAG_LEN,
    envelope::{
        ObjectKey,
        header::{CHUNK_LEN, HEADER_LEN, MAX_CHUNKS, SEALED_CHUNK_LEN},
    },
};

pub(super) struct OpenCore {
    key: ObjectKey,
    /// One chunk: the first `filled` bytes of it sealed, or what is `loaded` of it opened.
    buffer: Box<[u8]>,
    filled: usize,
    loaded: Option<Loaded>,
    /// The chunk that is read next.
    next: u64,
    /// Whether the reader stands after the `filled` bytes of `next`; not so in the middle of a seek.
    placed: bool,
    /// How many bytes of the envelope were read, until the first seek of the reader.
    consumed: u64,
    /// Where in the plaintext the caller is: anything, also beyond the end.
    position: u64,
    /// The length of the plaintext, once the last chunk was authentic.
    end: Option<u64>,
    /// Where in the reader the envelope begins, once it matters.
    base: Option<u64>,
    /// The last chunk, going by the reader's length: believed only as far as where to look.
    last: Option<u64>,
    seek: Option<Seek>,
    failed: Option<StreamError>,
}

/// A chunk of which the plaintext is in the buffer; `next` is the one after it.
struct Loaded {
    chunk: u64,
    len: usize,
}

/// A seek that has begun.
struct Seek {
    to: SeekFrom,
    /// It turned out to be refused, and only puts the reader back for the position that was.
    refused: bool,
    asked: Option<Asked>,
}

/// What the reader was asked, so that its answer is understood.
#[derive(Clone, Copy)]
enum Asked {
    Base,
    Length,
    Chunk(u64),
}

/// What a seek needs next.
pub(super) enum Step {
    /// Seek the reader, and pass on where it then stands.
    Seek(SeekFrom),
    /// Read a chunk.
    Fill,
    /// Nothing: this is the position now.
    Done(u64),
}

impl OpenCore {
    /// For a reader that stands at the end of the header.
    pub(super) fn new(key: ObjectKey) -> Self {
        Self {
            key,
            buffer: vec![0; SEALED_CHUNK_LEN].into_boxed_slice(),
            filled: 0,
            loaded: None,
            next: 0,
            placed: true,
            consumed: HEADER_LEN as u64,
            position: 0,
            end: None,
            base: None,
            last: None,
            seek: None,
            failed: None,
        }
    }

    /// The error of an earlier call, which every later one repeats.
    pub(super) fn check(&self) -> Result<(), StreamError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    pub(super) fn fail(&mut self, error: StreamError) -> io::Error {
        self.failed = Some(error.clone());
        error.into()
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Plaintext at the position, empty at the authenticated end; `None` if a chunk has to be read first.
    pub(super) fn available(&self) -> Option<&[u8]> {
        if self.end.is_some_and(|end| self.position >= end) {
            return Some(&[]);
        }
        let Loaded { chunk, len } = self.loaded.as_ref()?;
        let into = usize::try_from(self.position.checked_sub(chunk * CHUNK_LEN as u64)?).ok()?;
        self.buffer[..*len].get(into..).filter(|rest| !rest.is_empty())
    }

    /// Moves the position over what was [available](Self::available).
    pub(super) fn consume(&mut self, len: usize) {
        self.position += len as u64;
    }

    /// Where the reader's next bytes go; empty once a chunk is full.
    pub(super) fn unfilled(&mut self) -> &mut [u8] {
        self.unload();
        &mut self.buffer[self.filled..]
    }

    /// Wipes what is loaded, which is all plaintext that there is in the buffer: it is freed next, or lent to a reader.
    fn unload(&mut self) {
        if let Some(Loaded { len, .. }) = self.loaded.take() {
            self.buffer[..len].zeroize();
        }
    }

    pub(super) fn filled(&mut self, len: usize) -> io::Result<()> {
        if len > self.buffer.len() - self.filled {
            return Err(
                self.fail(StreamError::read(io::Error::other("the reader gave more bytes than it had room for")))
            );
        }
        self.filled += len;
        self.consumed += len as u64;
        Ok(())
    }

    /// Opens the chunk that is full, or was ended by the reader's end. If it is the one at the position and fits in
    /// `out`, it is opened straight into `out`, and the result is how many bytes; else it is loaded, and the result 0.
    pub(super) fn open_chunk(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let (number, sealed) = (self.next, self.filled);
        let is_last = sealed < SEALED_CHUNK_LEN;
        let truncated = StreamError::Truncated { len: (HEADER_LEN + sealed) as u64 + number * SEALED_CHUNK_LEN as u64 };
        let Some(len) = sealed.checked_sub(TAG_LEN) else {
            return Err(self.fail(truncated));
        };
        if !is_last && number + 1 == MAX_CHUNKS {
            return Err(self.fail(StreamError::TooLong));
        }
        let start = number * CHUNK_LEN as u64;
        let chunk = &mut self.buffer[..sealed];
        let direct = (self.position == start).then(|| out.get_mut(..len)).flatten();
        let is_direct = direct.is_some();
        let opened = match direct {
            Some(out) => self.key.0.open(number, chunk, out),
            None => self.key.0.open_in_place(number, chunk),
        };
        if opened.is_err() {
            return Err(self.fail(if is_last { truncated } else { StreamError::Rejected { chunk: number } }));
        }
        self.filled = 0;
        self.next += 1;
        if is_last {
            self.end = Some(start + len as u64);
        }
        if is_direct {
            self.position += len as u64;
            return Ok(len);
        }
        self.loaded = Some(Loaded { chunk: number, len });
        Ok(0)
    }

    /// Begins a seek, in the place of one that was not done.
    pub(super) fn begin_seek(&mut self, to: SeekFrom) -> io::Result<()> {
        self.check()?;
        self.seek = Some(Seek { to, refused: false, asked: None });
        Ok(())
    }

    /// What the seek needs next. Between [`Step::Seek`] and [`sought`](Self::sought) nothing else may be called.
    pub(super) fn seek_step(&mut self) -> io::Result<Step> {
        self.check()?;
        let Some(Seek { to, refused, .. }) = self.seek else {
            return Ok(Step::Done(self.position));
        };
        let target = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(distance) => self.position.checked_add_signed(distance),
            SeekFrom::End(distance) => match self.end {
                Some(end) => end.checked_add_signed(distance),
                None => return Ok(self.step_to_the_end()),
            },
        };
        let Some(target) = target else {
            // As `std` does it: refused, and the position stays. The reader may have to go back for it.
            self.seek = Some(Seek { to: SeekFrom::Start(self.position), refused: true, asked: None });
            return self.seek_step();
        };
        if let Some(step) = self.step_to_chunk_of(target) {
            return Ok(step);
        }
        self.seek = None;
        if refused {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "cannot seek to before the beginning, or beyond 2^64",
            ));
        }
        self.position = target;
        Ok(Step::Done(target))
    }

    /// Notes where the reader stands after [`Step::Seek`].
    pub(super) fn sought(&mut self, at: u64) -> io::Result<()> {
        match self.seek.as_mut().and_then(|seek| seek.asked.take()) {
            None => {}
            Some(Asked::Base) => match at.checked_sub(self.consumed) {
                Some(base) => self.base = Some(base),
                None => return Err(self.fail(StreamError::read(io::Error::other("the reader was moved meanwhile")))),
            },
            Some(Asked::Length) => {
                let start = self.base.unwrap_or(0).saturating_add(HEADER_LEN as u64);
                let last = at.saturating_sub(start) / SEALED_CHUNK_LEN as u64;
                self.last = Some(last.min(MAX_CHUNKS - 1));
                self.placed = false;
                self.filled = 0;
            }
            Some(Asked::Chunk(chunk)) => {
                // Else its successor would no longer be what is read next.
                self.unload();
                self.next = chunk;
                self.placed = true;
                self.filled = 0;
            }
        }
        Ok(())
    }

    /// Reads the last chunk: only it can say where the end is.
    fn step_to_the_end(&mut self) -> Step {
        if let Some(step) = self.step_to_measure() {
            return step;
        }
        let last = self.last.unwrap_or(0);
        // Beyond `last` if the reader has grown: then on to wherever it ends now.
        if self.placed && self.next >= last { Step::Fill } else { self.step_to(last) }
    }

    /// What it takes to read on at `target`.
    fn step_to_chunk_of(&mut self, target: u64) -> Option<Step> {
        let chunk = target / CHUNK_LEN as u64;
        let is_loaded = self.placed && self.loaded.as_ref().is_some_and(|loaded| loaded.chunk == chunk);
        let is_next = self.placed && self.next == chunk;
        if is_loaded || is_next || self.end.is_some_and(|end| target >= end) {
            return None;
        }
        if let Some(step) = self.step_to_measure() {
            return Some(step);
        }
        // Beyond the end, the last chunk is where the reader goes: read, it proves that this is the end.
        let chunk = chunk.min(self.last.unwrap_or(0));
        (!self.placed || self.next != chunk).then(|| self.step_to(chunk))
    }

    fn step_to_measure(&mut self) -> Option<Step> {
        if self.base.is_none() {
            return Some(self.ask(Asked::Base, SeekFrom::Current(0)));
        }
        self.last.is_none().then(|| self.ask(Asked::Length, SeekFrom::End(0)))
    }

    fn step_to(&mut self, chunk: u64) -> Step {
        let offset = HEADER_LEN as u64 + chunk * SEALED_CHUNK_LEN as u64;
        let at = self.base.unwrap_or(0).saturating_add(offset);
        self.ask(Asked::Chunk(chunk), SeekFrom::Start(at))
    }

    fn ask(&mut self, asked: Asked, from: SeekFrom) -> Step {
        if let Some(seek) = &mut self.seek {
            seek.asked = Some(asked);
        }
        Step::Seek(from)
    }
}

impl Drop for OpenCore {
    fn drop(&mut self) {
        self.unload();
    }
}
