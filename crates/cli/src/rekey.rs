//! `keystrata rekey`: the data of envelopes in files sealed anew, each put in place in one step.

use std::{
    fs::{self, File, Metadata},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::{MetadataExt, fchown},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Error, Result, bail};
use keystrata_hierarchy::{Account, Context, RekeyError};
use keystrata_primitives::envelope::EnvelopeFile;

use crate::{
    account,
    args::{RekeyArgs, SettingsArgs},
    failure::Outcome,
    files::{self, blocking, refuse_special},
    keys::{self, Opened},
    kms::Work,
    open, output,
    rewrap::of_file,
};

/// Each takes the memory of its file twice.
const AT_ONCE: usize = 2;

pub(crate) async fn run(args: &RekeyArgs, settings: &SettingsArgs) -> Result<Outcome> {
    let (path, context) = (args.object.path()?, args.object.context()?);
    let Opened { keys, store, .. } = keys::open_for(settings, Work::Few).await?;
    account::refuse_unknown(&*store, &path).await?;
    let account = keys.account(path.clone())?;
    let work = |file| rekey_one(account.clone(), context.clone(), file);
    let report = files::each(&args.files, AT_ONCE, "sealing anew", work).await?;
    report.tell(&path, args.json, "rekeyed", &[])
}

async fn rekey_one(account: Account, context: Context, path: PathBuf) -> Result<bool> {
    let (object, envelope) = blocking(move || Object::read(&path)).await?;
    let sealed = account.rekey(&envelope, &context).await.map_err(with_advice)?;
    blocking(move || object.replace(&sealed)).await?;
    Ok(true)
}

/// A file whose content is to be replaced.
struct Object {
    /// Behind links.
    path: PathBuf,
    /// Locked, so that no rewrap writes to what is about to go.
    file: EnvelopeFile,
}

impl Object {
    fn read(path: &Path) -> Result<(Self, Vec<u8>)> {
        refuse_special(path)?;
        // A header that an interrupted rewrap left torn is put together again first.
        let file = EnvelopeFile::lock(path).map_err(of_file)?;
        let path = fs::canonicalize(path).context("it cannot be found any more")?;
        let (mut source, mut envelope) = (file.file(), Vec::new());
        source.seek(SeekFrom::Start(0)).and_then(|_| source.read_to_end(&mut envelope)).context("it cannot be read")?;
        Ok((Self { path, file }, envelope))
    }

    /// The new file has the old one's mode and owner: a service that could read the one must be able to read the other.
    fn replace(self, sealed: &[u8]) -> Result<()> {
        let old = self.file.file().metadata().context("it cannot be looked at")?;
        let temporary = output::beside(&self.path, 0o600).context("nothing can be written beside it")?;
        keep_owner_and_mode(temporary.as_file(), &old)?;
        let now = fs::metadata(&self.path).context("it is not there any more, and stays so")?;
        if (now.dev(), now.ino()) != (old.dev(), old.ino()) {
            bail!("somebody has put another file in its place meanwhile, which stays: run this again");
        }
        output::replace(temporary, &self.path, sealed).context("it was not written, and is as it was")
    }
}

fn keep_owner_and_mode(file: &File, old: &Metadata) -> Result<()> {
    let new = file.metadata().context("the new file cannot be looked at")?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        fchown(file, Some(old.uid()), Some(old.gid())).context("its owner cannot be kept: run this as that user")?;
    }
    file.set_permissions(old.permissions()).context("its mode cannot be kept")
}

fn with_advice(error: RekeyError) -> Error {
    match error {
        RekeyError::Open(error) => open::with_advice(error),
        error => error.into(),
    }
}
