//! What can be wrong with what a simulation is asked to do.

use std::{io, path::PathBuf};

/// Why there is no forecast.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimulateError {
    /// A setting is out of bounds, or two do not go together.
    #[error("{name}: {message}")]
    Setting {
        /// The setting, as it is called in a scenario.
        name: &'static str,
        /// What is wrong and what was expected.
        message: String,
    },
    /// A line of a file is not what it should be.
    #[error("{}, line {line}: {message}", file.display())]
    Line {
        /// Which file.
        file: PathBuf,
        /// Counted from 1, the header included.
        line: u64,
        /// What is wrong and what was expected.
        message: String,
    },
    /// A row of a Parquet file is not what it should be.
    #[error("{}, row {row}: {message}", file.display())]
    Row {
        /// Which file.
        file: PathBuf,
        /// Counted from 1.
        row: u64,
        /// What is wrong and what was expected.
        message: String,
    },
    /// A trace is Parquet, and this program was built to read CSV alone.
    #[error(
        "{}: to read Parquet this program must be built with the cargo feature `parquet`; or turn the trace into CSV with \
         the columns time, account, op and process",
        file.display()
    )]
    NoParquet {
        /// Which file.
        file: PathBuf,
    },
    /// A file as a whole is not what it should be.
    #[error("{}: {message}", file.display())]
    File {
        /// Which file.
        file: PathBuf,
        /// What is wrong and what was expected.
        message: String,
    },
    /// A file could not be read, or a temporary one not be written.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The engine refused a policy, or a thread could not go on.
    #[error("{0}")]
    Engine(String),
}

impl SimulateError {
    pub(crate) fn setting(name: &'static str, message: impl Into<String>) -> Self {
        Self::Setting { name, message: message.into() }
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
