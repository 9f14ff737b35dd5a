//! The record of what this command did to accounts, and who ran it.

use std::path::Path;

use anyhow::{Context, Result};
use keystrata_hierarchy::{AuditFsync, JsonLinesAudit};

/// The file at `path`, to which other commands may write at the same time.
pub(crate) fn open(path: &Path) -> Result<JsonLinesAudit> {
    JsonLinesAudit::open_shared(path, AuditFsync::EachEvent).context(
        "nothing is done that cannot be recorded; change --audit (or KEYSTRATA_AUDIT, or audit in the settings file)",
    )
}

/// The user of the operating system that runs this; with sudo also who asked for that.
pub(crate) fn actor() -> String {
    let uid = rustix::process::getuid();
    let user = whoami::username().unwrap_or_else(|_| format!("uid {}", uid.as_raw()));
    // Whoever is root could write anything into the file anyhow.
    match std::env::var("SUDO_USER") {
        Ok(asked) if uid.is_root() => format!("{user} (sudo by {asked})"),
        _ => user,
    }
}
