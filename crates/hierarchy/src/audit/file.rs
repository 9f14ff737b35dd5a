//! Audit events as lines of JSON in a file.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::{AuditError, AuditEvent, AuditSink};

/// Appends every event to a file, as one line of JSON.
///
/// ```text
/// {"action":"shredded","actor":"alice","at_ms":1800000000000,"failure":null,"kek_id":null,"outcome":"done","path":["acme"],"version":null}
/// ```
///
/// One writer at a time: the file is locked as long as this lives, or, if it is [shared](Self::open_shared), for each line. A
/// line that a crash left unfinished is ended before the next one is written, so that it spoils no other. Rotating the file is
/// for whoever opens it.
#[derive(Clone, Debug)]
pub struct JsonLinesAudit {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    file: Mutex<File>,
    fsync: AuditFsync,
    /// Whether others write to the file too.
    locks_each_line: bool,
}

/// How long a line waits for other writers. Theirs take milliseconds; one that never ends has the file to itself.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it looks whether they are done.
const PAUSE: Duration = Duration::from_millis(5);

/// When a line is safe from a loss of power.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuditFsync {
    /// Before the change that it tells of goes on. The default; costs one `fdatasync` an event.
    #[default]
    EachEvent,
    /// When the system sees to it.
    Never,
}

impl JsonLinesAudit {
    /// Opens the file at `path`, or makes it. Blocks the thread.
    ///
    /// # Errors
    /// [`AuditError`] if it cannot be written, or another writer has it.
    pub fn open(path: impl AsRef<Path>, fsync: AuditFsync) -> Result<Self, AuditError> {
        let path = path.as_ref();
        let failed = |what: &str, error| AuditError::caused(format!("cannot {what} {}", path.display()), error);
        let mut file = append_to(path)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                AuditError::new(format!("{} has another writer: give each process a file of its own", path.display()))
            }
            TryLockError::Error(error) => failed("lock", error),
        })?;
        end_last_line(&mut file).map_err(|error| failed("write to", error))?;
        Ok(Self { shared: Arc::new(Shared { file: Mutex::new(file), fsync, locks_each_line: false }) })
    }

    /// The same for a file that other processes write to in this way too: it is locked for each line, which waits up to 10
    /// seconds for theirs. For commands that come and go; a service does better with a file of its own.
    ///
    /// # Errors
    /// [`AuditError`] if it cannot be written.
    pub fn open_shared(path: impl AsRef<Path>, fsync: AuditFsync) -> Result<Self, AuditError> {
        let file = append_to(path.as_ref())?;
        Ok(Self { shared: Arc::new(Shared { file: Mutex::new(file), fsync, locks_each_line: true }) })
    }
}

fn append_to(path: &Path) -> Result<File, AuditError> {
    let file = OpenOptions::new().create(true).append(true).read(true).open(path);
    file.map_err(|error| AuditError::caused(format!("cannot open {}", path.display()), error))
}

fn end_last_line(file: &mut File) -> io::Result<()> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(());
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    if last == *b"\n" { Ok(()) } else { file.write_all(b"\n") }
}

impl Shared {
    fn append(&self, line: &[u8]) -> io::Result<()> {
        // Whole lines only, also after a panic: the line is written in one call.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.locks_each_line {
            return self.write(&mut file, line);
        }
        lock_patiently(&file)?;
        let written = end_last_line(&mut file).and_then(|()| self.write(&mut file, line));
        // Closing the file would end the lock too.
        let _ = file.unlock();
        written
    }

    fn write(&self, file: &mut File, line: &[u8]) -> io::Result<()> {
        let written = file.write_all(line);
        if written.is_err() {
            // Of what was written of it nothing must run into the next.
            let _ = file.write_all(b"\n");
        }
        written?;
        match self.fsync {
            AuditFsync::EachEvent => file.sync_data(),
            AuditFsync::Never => Ok(()),
        }
    }
}

fn lock_patiently(file: &File) -> io::Result<()> {
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if began.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            Err(error) => return Err(error.into()),
        }
    }
}

#[async_trait]
impl AuditSink for JsonLinesAudit {
    async fn record(&self, event: &AuditEvent) -> Result<(), AuditError> {
        let (shared, line) = (Arc::clone(&self.shared), line(event));
        let appended = tokio::task::spawn_blocking(move || shared.append(&line)).await;
        let failed = |error| AuditError::caused("the file cannot be written", error);
        appended.map_err(|_| AuditError::new("the runtime was shut down"))?.map_err(failed)
    }
}

fn line(event: &AuditEvent) -> Vec<u8> {
    let text = |text: &str| Value::from(text);
    let fields = [
        ("at_ms", Value::from(u64::try_from(event.at.as_millis()).unwrap_or(u64::MAX))),
        ("actor", text(&event.actor)),
        ("action", text(event.action.as_str())),
        ("path", event.path.segments().collect()),
        ("kek_id", event.kek_id.map_or(Value::Null, |id| text(&id.to_string()))),
        ("version", event.version.map_or(Value::Null, |version| Value::from(version.get()))),
        ("outcome", text(event.outcome.as_str())),
        ("failure", event.outcome.failure().map_or(Value::Null, text)),
    ];
    // Not a struct with derives: of `serde` this crate needs nothing else.
    let object: Map<String, Value> = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let mut line = Value::Object(object).to_string().into_bytes();
    line.push(b'\n');
    line
}
