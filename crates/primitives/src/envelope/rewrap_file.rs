//! Rewrap of an envelope in a file, in place and with a journal: objects are large, and a rewrap changes 88 bytes.
//!
//! The journal is a file beside the object: magic, old header, new header, BLAKE3 of all that. It is durable before the
//! first byte of the object changes and goes away after the last one is durable, so that whatever interrupts a rewrap,
//! one of the two headers can be put together again.

#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::{
    header::{EnvelopeError, HEADER_LEN, Header},
    rewrap::{RewrapError, rewrap},
};
use crate::kek::Kek;

const JOURNAL_SUFFIX: &str = ".ks-rewrap";
const JOURNAL_MAGIC: [u8; 4] = *b"KSJ\x01";
const JOURNAL_LEN: usize = JOURNAL_MAGIC.len() + 2 * HEADER_LEN + blake3::OUT_LEN;
/// What a rewrap changes of a header: KEK id, wrap nonce and wrapped DEK.
const CHANGED: std::ops::Range<usize> = 4..92;

/// Why the envelope in a file was not rewrapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RewrapFileError {
    /// The header was not rewrapped. The file is as it was.
    #[error(transparent)]
    Rewrap(#[from] RewrapError),
    /// Another rewrap of the file is under way, in this process or another.
    #[error("the file is locked, most likely by another rewrap; try again when that is done")]
    Busy,
    /// The header changed under the rewrap's lock.
    #[error("the header changed while it was rewrapped, and was left as it is now; try again")]
    Changed,
    /// The new header is not a rewrap of the one in the file. The file is as it was.
    #[error("the new header is of another object, and was not written")]
    OtherObject,
    /// A journal belongs to the object, and the header is none that its rewrap can have left.
    #[error(
        "the header is neither the old nor the new one of the journal {}; if the object opens, remove the journal, else \
         restore the object", journal.display()
    )]
    Unclear {
        /// The journal, which was kept.
        journal: PathBuf,
    },
    /// The file system failed. A journal may have stayed; the next call, or [`recover_file`], uses it.
    #[error("the rewrap could not {action}; free space or permissions may be missing, then run it again")]
    Io {
        /// What was being done.
        action: &'static str,
        /// What went wrong.
        source: io::Error,
    },
}

/// What [`rewrap_file`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileRewrap {
    /// The old header, and it was rewrapped.
    Done,
    /// A header under the new KEK: an earlier call did it.
    AlreadyDone,
}

/// What [`recover_file`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileRecovery {
    /// No journal: no rewrap was interrupted.
    Nothing,
    /// A rewrap that had not begun to change the header; the old one holds.
    Withdrawn,
    /// A rewrap that had; the new header holds.
    Completed,
}

/// [Rewraps](rewrap) the envelope in the file at `path`, in place: only header bytes are written.
///
/// A header half written would lose the object, so the old and the new one are first written to a journal beside the
/// file (its name and `.ks-rewrap`) and made durable. A rewrap that was interrupted is first brought to an end by the
/// next call; an object whose header does not open and that has a journal needs [`recover_file`] first.
///
/// The file is locked meanwhile (as by [`File::try_lock`]), which keeps other rewraps out. Whoever *replaces* the object
/// must do it under the same lock, or by renaming a new file over it, which a rewrap leaves alone.
///
/// # Errors
/// [`RewrapFileError`]; the file holds the old or the new header, or a journal that leads to one of them.
pub fn rewrap_file(path: impl AsRef<Path>, old: &Kek<'_>, new: &Kek<'_>) -> Result<FileRewrap, RewrapFileError> {
    let file = EnvelopeFile::lock(path)?;
    let header = file.header();
    let is_done = old.identity.id != new.identity.id
        && Header::parse_start(header).is_ok_and(|parsed| parsed.kek_id() == new.identity.id);
    if is_done {
        rewrap(new, new, header)?; // it opens, which is all that is asked
        return Ok(FileRewrap::AlreadyDone);
    }
    let rewrapped = rewrap(old, new, header)?;
    file.replace_header(&rewrapped)?;
    Ok(FileRewrap::Done)
}

/// The file of an envelope, locked, for a rewrap whose new header comes from elsewhere: from the engine, which hands out no KEK.
/// [`rewrap_file`] in two halves, with its journal and its rules.
///
/// The lock ends when this is dropped.
#[derive(Debug)]
pub struct EnvelopeFile {
    object: Object,
    header: [u8; HEADER_LEN],
}

impl EnvelopeFile {
    /// Locks the file at `path`, brings a rewrap of it that was interrupted to its end, and reads the header. Blocks the
    /// thread.
    ///
    /// # Errors
    /// [`RewrapFileError`]; also if the file does not begin as an envelope does.
    pub fn lock(path: impl AsRef<Path>) -> Result<Self, RewrapFileError> {
        let mut object = Object::lock(path.as_ref())?;
        object.recover()?;
        let header = object.header()?;
        Ok(Self { object, header })
    }

    /// The header as it is in the file.
    pub fn header(&self) -> &[u8; HEADER_LEN] {
        &self.header
    }

    /// The file itself, to be read; it stands somewhere behind its header.
    pub fn file(&self) -> &File {
        &self.object.file
    }

    /// Puts `new`, a [rewrap](rewrap()) of the header, in its place. Blocks the thread.
    ///
    /// # Errors
    /// [`RewrapFileError`]; the file holds the old or the new header, or a journal that leads to one of them.
    pub fn replace_header(mut self, new: &[u8; HEADER_LEN]) -> Result<(), RewrapFileError> {
        let outside = |header: &[u8; HEADER_LEN]| [&header[..CHANGED.start], &header[CHANGED.end..]].concat();
        if outside(new) != outside(&self.header) {
            return Err(RewrapFileError::OtherObject);
        }
        STEPS.iter().try_for_each(|step| step(&mut self.object, &self.header, new))
    }
}

/// Brings a rewrap of the file at `path` that was interrupted to its end, without any key.
///
/// # Errors
/// [`RewrapFileError`]; the journal is still there then.
pub fn recover_file(path: impl AsRef<Path>) -> Result<FileRecovery, RewrapFileError> {
    Object::lock(path.as_ref())?.recover()
}

type Step = fn(&mut Object, &[u8; HEADER_LEN], &[u8; HEADER_LEN]) -> Result<(), RewrapFileError>;

/// A rewrap, old header to new one. After an interruption between any two steps, or within one, the object recovers.
const STEPS: [Step; 5] = [
    |object, old, new| object.write_journal(old, new),
    |object, old, _| object.check_unchanged(old),
    |object, _, new| object.write_header(new),
    |object, _, _| object.sync(),
    |object, _, _| object.remove_journal(),
];

/// The file of an object, locked.
#[derive(Debug)]
struct Object {
    file: File,
    folder: PathBuf,
    journal: PathBuf,
}

impl Object {
    fn lock(path: &Path) -> Result<Self, RewrapFileError> {
        // The journal stands beside the object itself, by whatever link it was reached.
        let path = fs::canonicalize(path).map_err(failed_to("find the file"))?;
        let folder = path.parent().map_or_else(PathBuf::new, Path::to_path_buf);
        let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
        name.push(JOURNAL_SUFFIX);
        let journal = folder.join(name);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed_to("open the file"))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { file, folder, journal }),
            Err(TryLockError::WouldBlock) => Err(RewrapFileError::Busy),
            Err(TryLockError::Error(source)) => Err(failed_to("lock the file")(source)),
        }
    }

    fn header(&mut self) -> Result<[u8; HEADER_LEN], RewrapFileError> {
        let read = |file: &mut File| {
            file.seek(SeekFrom::Start(0))?;
            let mut header = Vec::with_capacity(HEADER_LEN);
            file.take(HEADER_LEN as u64).read_to_end(&mut header)?;
            Ok(header)
        };
        let header = read(&mut self.file).map_err(failed_to("read the header"))?;
        let truncated = EnvelopeError::Truncated { len: header.len() };
        Header::parse_start(&header).map_err(RewrapError::Envelope)?;
        header.try_into().map_err(|_| RewrapError::Envelope(truncated).into())
    }

    fn recover(&mut self) -> Result<FileRecovery, RewrapFileError> {
        let journal = match fs::read(&self.journal) {
            Ok(journal) => journal,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(FileRecovery::Nothing),
            Err(error) => return Err(failed_to("read the journal")(error)),
        };
        let Some((old, new)) = parse_journal(&journal) else {
            // Never completed, so the header was never touched.
            self.remove_journal()?;
            return Ok(FileRecovery::Withdrawn);
        };
        let now = self.header()?;
        if now[CHANGED.end..] != old[CHANGED.end..] {
            // Another commitment is another object, which has come to this place since.
            self.remove_journal()?;
            return Ok(FileRecovery::Withdrawn);
        }
        if now == old {
            self.remove_journal()?;
            return Ok(FileRecovery::Withdrawn);
        }
        // Torn: every byte is the old or the new one. Anything else is a header that the journal knows nothing of, as
        // after a later rewrap by other means; to overwrite it could lose the object.
        if !now.iter().zip(old.iter().zip(&new)).all(|(now, (old, new))| now == old || now == new) {
            return Err(RewrapFileError::Unclear { journal: self.journal.clone() });
        }
        self.write_header(&new)?;
        self.sync()?;
        self.remove_journal()?;
        Ok(FileRecovery::Completed)
    }

    fn write_journal(&mut self, old: &[u8; HEADER_LEN], new: &[u8; HEADER_LEN]) -> Result<(), RewrapFileError> {
        let journal = journal(old, new);
        let write = || {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut file = options.open(&self.journal)?;
            file.write_all(&journal)?;
            file.sync_all()?;
            self.sync_folder()
        };
        write().map_err(failed_to("write the journal"))
    }

    /// For whoever does not honour the lock, as far as that can be seen.
    fn check_unchanged(&mut self, old: &[u8; HEADER_LEN]) -> Result<(), RewrapFileError> {
        if self.header()? == *old {
            return Ok(());
        }
        self.remove_journal()?;
        Err(RewrapFileError::Changed)
    }

    fn write_header(&mut self, new: &[u8; HEADER_LEN]) -> Result<(), RewrapFileError> {
        let seek = self.file.seek(SeekFrom::Start(CHANGED.start as u64));
        seek.and_then(|_| self.file.write_all(&new[CHANGED])).map_err(failed_to("write the header"))
    }

    fn sync(&mut self) -> Result<(), RewrapFileError> {
        self.file.sync_all().map_err(failed_to("make the header durable"))
    }

    fn remove_journal(&mut self) -> Result<(), RewrapFileError> {
        fs::remove_file(&self.journal).and_then(|()| self.sync_folder()).map_err(failed_to("remove the journal"))
    }

    /// A name in a folder is durable once the folder is.
    #[cfg(unix)]
    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    #[cfg(not(unix))]
    fn sync_folder(&self) -> io::Result<()> {
        // Folders cannot be opened here; the file system orders its own names.
        self.folder.metadata().map(|_| ())
    }
}

fn journal(old: &[u8; HEADER_LEN], new: &[u8; HEADER_LEN]) -> Vec<u8> {
    let mut journal = Vec::with_capacity(JOURNAL_LEN);
    journal.extend_from_slice(&JOURNAL_MAGIC);
    journal.extend_from_slice(old);
    journal.extend_from_slice(new);
    let checksum = blake3::hash(&journal);
    journal.extend_from_slice(checksum.as_bytes());
    journal
}

/// The old and the new header, if every byte of the journal was written.
fn parse_journal(bytes: &[u8]) -> Option<([u8; HEADER_LEN], [u8; HEADER_LEN])> {
    let (old, rest) = bytes.strip_prefix(&JOURNAL_MAGIC)?.split_first_chunk()?;
    let new = rest.first_chunk()?;
    (bytes == journal(old, new)).then_some((*old, *new))
}

fn failed_to(action: &'static str) -> impl FnOnce(io::Error) -> RewrapFileError {
    move |source| RewrapFileError::Io { action, source }
}
