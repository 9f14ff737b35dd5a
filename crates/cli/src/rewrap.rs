//! `keystrata rewrap`: envelopes in files under the primary KEK, in place.

use std::path::PathBuf;

use anyhow::{Error, Result, anyhow};
use keystrata_hierarchy::{Account, KeyPath, RewrapError, Rewrapped};
use keystrata_primitives::envelope::{EnvelopeFile, RewrapFileError};

use crate::{
    account,
    args::{RewrapArgs, SettingsArgs},
    failure::{self, Outcome},
    files::{self, blocking, refuse_special},
    keys::{self, Opened},
    kms::Work,
    output,
    utc::Utc,
};

/// Each takes some writes that wait for the disk one after the other.
const AT_ONCE: usize = 8;

pub(crate) async fn run(args: &RewrapArgs, settings: &SettingsArgs) -> Result<Outcome> {
    let path = KeyPath::new(&args.account)?;
    let Opened { keys, store, .. } = keys::open_for(settings, Work::Few).await?;
    // A slip of the pen must not make an account.
    account::refuse_unknown(&*store, &path).await?;
    let account = keys.account(path.clone())?;
    let scan = account.begin_rewrap_scan();
    let report = files::each(&args.files, AT_ONCE, "rewrapping", |file| rewrap_one(account.clone(), file)).await?;
    let outcome = report.tell(&path, args.json, "rewrapped", &[("began_at", scan.started_at.into())])?;
    if !args.json {
        output::print(&format!("began at {}\n", Utc(scan.started_at)))?;
    }
    Ok(outcome)
}

async fn rewrap_one(account: Account, path: PathBuf) -> Result<bool> {
    let lock = move || {
        refuse_special(&path)?;
        EnvelopeFile::lock(path).map_err(of_file)
    };
    let file = blocking(lock).await?;
    match account.rewrap(file.header()).await.map_err(of_header)? {
        Rewrapped::Unchanged => Ok(false),
        Rewrapped::New(header) => {
            blocking(move || file.replace_header(&header).map_err(of_file)).await?;
            Ok(true)
        }
    }
}

/// Adds what to do here where the library, which does not know of a command, cannot say it.
fn of_header(error: RewrapError) -> Error {
    match error {
        RewrapError::Envelope(error) => failure::of_envelope(error),
        RewrapError::Rejected => anyhow!("{error}; give the --account that it was sealed for"),
        RewrapError::NewSuite { .. } => anyhow!("{error} with `keystrata rekey`"),
        RewrapError::Key(error) => account::advised(error),
        error => error.into(),
    }
}

pub(crate) fn of_file(error: RewrapFileError) -> Error {
    match error {
        RewrapFileError::Rewrap(keystrata_primitives::envelope::RewrapError::Envelope(error)) => {
            failure::of_envelope(error)
        }
        error => error.into(),
    }
}
