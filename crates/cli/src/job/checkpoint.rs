//! Where a job is, in a file.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use keystrata_hierarchy::jobs::Checkpoint;

use crate::output;

/// No checkpoint is as long: it names two paths of at most 8 segments of 128 bytes, a root key and some numbers.
const MOST_BYTES: u64 = 64 * 1024;

pub(super) struct CheckpointFile {
    path: PathBuf,
}

impl CheckpointFile {
    /// Refuses a place that cannot be written before anything is done.
    pub(super) fn new(path: &Path) -> Result<Self> {
        output::beside(path, 0o600)
            .with_context(|| format!("{} cannot be written: choose another --checkpoint", path.display()))?;
        Ok(Self { path: path.to_owned() })
    }

    /// The checkpoint; `None` if there is no file yet. Whatever else is there is not a file to be overwritten.
    pub(super) fn load(&self) -> Result<Option<Checkpoint>> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| self.cannot("read")),
        };
        let mut text = Vec::new();
        file.take(MOST_BYTES).read_to_end(&mut text).with_context(|| self.cannot("read"))?;
        match String::from_utf8(text).ok().as_deref().map(str::parse::<Checkpoint>) {
            Some(Ok(checkpoint)) => Ok(Some(checkpoint)),
            Some(Err(error)) => Err(error).with_context(|| self.path.display().to_string()),
            None => bail!("{}: not a checkpoint of a job", self.path.display()),
        }
    }

    pub(super) fn save(&self, checkpoint: &Checkpoint) -> Result<()> {
        let saved = output::beside(&self.path, 0o600)
            .and_then(|temporary| output::replace(temporary, &self.path, format!("{checkpoint}\n").as_bytes()));
        saved.with_context(|| format!("the job was stopped: {}", self.cannot("written")))
    }

    pub(super) fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("the job is done, and {}", self.cannot("removed")))
            }
            _ => Ok(()),
        }
    }

    fn cannot(&self, what: &str) -> String {
        format!("checkpoint {} cannot be {what}", self.path.display())
    }
}
