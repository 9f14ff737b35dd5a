//! Reads a file or stdin without leaving copies of it behind.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::AsFd,
    path::Path,
};

use anyhow::{Context, Result};
use zeroize::Zeroizing;

/// Room for a first read where the length is not known.
const FIRST_BYTES: usize = 64 * 1024;

/// An open file, or stdin for `-`.
pub(crate) struct Input {
    file: File,
    name: String,
}

impl Input {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if path == Path::new("-") {
            // Not `io::stdin()` itself: its buffer would keep a piece of the plaintext.
            let file = io::stdin().as_fd().try_clone_to_owned().context("stdin cannot be read")?.into();
            return Ok(Self { file, name: "stdin".into() });
        }
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("{name} cannot be opened"))?;
        Ok(Self { file, name })
    }

    /// All bytes; wiped on drop, and so is every buffer that was too small on the way.
    pub(crate) fn read_all(self) -> Result<Zeroizing<Vec<u8>>> {
        let len = self.file.metadata().map_or(0, |about| about.len());
        // One more than it has, so that the end is seen without growing.
        let expected = usize::try_from(len).unwrap_or(usize::MAX).saturating_add(1).max(FIRST_BYTES);
        read_all(self.file, expected).with_context(|| format!("{} cannot be read", self.name))
    }

    /// Fills `start` as far as there are bytes, reads on to the end, and returns how many bytes there are in all.
    pub(crate) fn measure(mut self, start: &mut [u8]) -> Result<u64> {
        let mut filled = 0;
        let measured = loop {
            match self.file.read(&mut start[filled..]) {
                Ok(0) => break io::copy(&mut self.file, &mut io::sink()),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        let rest = measured.with_context(|| format!("{} cannot be read", self.name))?;
        Ok(filled as u64 + rest)
    }
}

fn read_all(mut source: impl Read, expected: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut buffer = zeroed(expected)?;
    let mut filled = 0;
    loop {
        if filled == buffer.len() {
            let mut larger = zeroed(buffer.len().saturating_mul(2))?;
            larger[..filled].copy_from_slice(&buffer);
            buffer = larger; // a plain Vec would have grown without wiping the old bytes
        }
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

/// Fresh zeros straight from the allocator, or an error where `vec!` would end the process.
fn zeroed(len: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    Vec::<u8>::new().try_reserve_exact(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    Ok(Zeroizing::new(vec![0; len]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time and is interrupted in between.
    struct Slow<'a>(&'a [u8], bool);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            self.0.read(&mut buffer[..1])
        }
    }

    #[test]
    fn all_bytes_arrive_whatever_was_expected() {
        let bytes: Vec<u8> = (0..=255).collect();
        for expected in [1, 7, 255, 256, 257, 1000] {
            assert_eq!(*read_all(Slow(&bytes, false), expected).unwrap(), bytes);
        }
        assert!(read_all(io::empty(), 1).unwrap().is_empty());
    }

    #[test]
    fn more_than_memory_is_an_error() {
        let error = read_all(io::empty(), usize::MAX).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
    }

    #[test]
    fn measure_counts_what_it_does_not_keep() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for len in [0usize, 3, 4, 5, 100_000] {
            std::fs::write(&path, vec![7; len]).unwrap();
            let mut start = [0; 4];
            assert_eq!(Input::open(&path).unwrap().measure(&mut start).unwrap(), len as u64);
            let (read, untouched) = start.split_at(len.min(4));
            assert!(read.iter().all(|&byte| byte == 7) && untouched.iter().all(|&byte| byte == 0));
        }
    }
}
