//! Writes a result: to stdout, or to a file that appears in one step or not at all.

use std::{
    fs::{self, File, Permissions},
    io::{self, IsTerminal, Write},
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use tempfile::NamedTempFile;

use crate::config::folder_of;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Only the owner may read a file of it.
    Plaintext,
    /// Binary, for no terminal.
    Envelope,
    /// For a browser, and for everybody who may read the folder.
    Report,
}

impl Content {
    /// Which flag says where it goes.
    fn flag(self) -> &'static str {
        if self == Self::Report { "--report" } else { "--output" }
    }
}

/// Where a result goes. Made before the work begins, so that a place that cannot be written costs no KMS call and no KEK.
pub(crate) enum Output {
    Stdout,
    File {
        /// In the target's folder; removed when dropped.
        temporary: NamedTempFile,
        target: PathBuf,
    },
}

impl Output {
    /// Prepares to write to `path`, or to stdout for `-`.
    pub(crate) fn prepare(path: &Path, content: Content) -> Result<Self> {
        if path == Path::new("-") {
            if content == Content::Envelope && io::stdout().is_terminal() {
                bail!("an envelope is binary and stdout is a terminal: redirect it, or give --output FILE");
            }
            return Ok(Self::Stdout);
        }
        let target = resolve(path)?;
        let mode = match content {
            Content::Plaintext => 0o600,
            Content::Envelope | Content::Report => 0o666, // less the umask, as any new file
        };
        let temporary = beside(&target, mode).map_err(|error| {
            anyhow!("{} cannot be written: {error}; choose another {}", path.display(), content.flag())
        })?;
        Ok(Self::File { temporary, target })
    }

    /// Writes `bytes`. A file is on disk when this returns; after an error it is as it was before.
    pub(crate) fn write(self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Stdout => write_stdout(bytes),
            Self::File { temporary, target } => {
                replace(temporary, &target, bytes).with_context(|| format!("{} was not written", target.display()))
            }
        }
    }
}

/// Writes text to stdout.
pub(crate) fn print(text: &str) -> Result<()> {
    write_stdout(text.as_bytes())
}

/// Writes `value` to stdout as indented JSON.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<()> {
    print(&format!("{value:#}\n"))
}

/// An empty file in the folder of `target`, that is to take its place; removed when dropped.
pub(crate) fn beside(target: &Path, mode: u32) -> io::Result<NamedTempFile> {
    let folder = folder_of(target);
    let temporary = tempfile::Builder::new()
        .prefix(".keystrata-")
        .suffix(".tmp")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder);
    // Its own text names the temporary file, of which the user knows nothing.
    temporary.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(error.kind(), "its folder does not exist"),
        kind => kind.into(),
    })
}

/// The file that writing to `path` means: behind a link, the one it leads to.
fn resolve(path: &Path) -> Result<PathBuf> {
    let about = match fs::metadata(path) {
        Ok(about) => about,
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => {
            return Ok(path.to_owned());
        }
        Err(error) => return Err(error).with_context(|| format!("{} cannot be written", path.display())),
    };
    // Renaming over a device or a pipe would put a file in its place.
    if !about.is_file() {
        bail!("{} is not a regular file: write to stdout and redirect it there", path.display());
    }
    fs::canonicalize(path).with_context(|| format!("{} cannot be written", path.display()))
}

/// Writes `bytes` to `temporary`, and puts it in the place of `target` in one step. On disk when this returns; after an error
/// `target` is as it was before.
pub(crate) fn replace(mut temporary: NamedTempFile, target: &Path, bytes: &[u8]) -> io::Result<()> {
    temporary.write_all(bytes)?;
    temporary.as_file().sync_all()?;
    temporary.persist(target)?;
    // The rename is done and must not be reported as a failure; some file systems cannot sync a folder.
    let _ = File::open(folder_of(target)).and_then(|folder| folder.sync_all());
    Ok(())
}

fn write_stdout(bytes: &[u8]) -> Result<()> {
    // Not `io::stdout()` itself: its buffer would keep a piece of the plaintext, and flush it at exit unseen.
    let written = io::stdout().as_fd().try_clone_to_owned().and_then(|stdout| File::from(stdout).write_all(bytes));
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => anyhow!("stdout was closed before everything was written"),
        _ => anyhow::Error::new(error).context("stdout cannot be written"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, content: Content, bytes: &[u8]) -> Result<()> {
        Output::prepare(path, content)?.write(bytes)
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn file_is_replaced_and_plaintext_is_for_the_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        fs::write(&path, "a longer text that was there before").unwrap();
        write(&path, Content::Plaintext, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn output_that_is_dropped_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        drop(Output::prepare(&path, Content::Envelope).unwrap());
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn link_is_followed_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (link, file) = (folder.path().join("link"), folder.path().join("file"));
        std::os::unix::fs::symlink("file", &link).unwrap();
        assert!(write(&link, Content::Envelope, b"x").is_err(), "it leads nowhere yet");
        fs::write(&file, "").unwrap();
        write(&link, Content::Envelope, b"x").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"x");
    }

    #[test]
    fn devices_folders_and_impossible_places_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [Path::new("/dev/null"), folder.path(), &file.join("below"), &folder.path().join("none/out")] {
            assert!(write(path, Content::Envelope, b"x").is_err(), "{}", path.display());
        }
        assert_eq!(names(folder.path()), ["file"]);
    }
}
