//! Tracked files say nothing about the machine they were written on.

use super::{Findings, TextFile};
use crate::workspace::Workspace;

/// Where links may lead. A mirror or a private host is none of a reader's business, so a new one is looked at once.
const PUBLIC_HOSTS: &[&str] = &[
    "aws.amazon.com",
    "c2sp.org",
    "cloud.google.com",
    "cloudkms.googleapis.com",
    "datatracker.ietf.org",
    "doc.rust-lang.org",
    "docs.rs",
    "github.com",
    "keepachangelog.com",
    "man7.org",
    "semver.org",
    "www.apache.org",
    "www.googleapis.com",
    "www.rfc-editor.org",
    "www.sqlite.org",
];

/// What the lock file may name as a package's source.
const LOCK_SOURCE: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";

/// How a path of somebody's machine begins, in two parts so that this file does not find itself.
const MACHINE_PATHS: [&str; 5] = [
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Use", "rs/"),
    concat!("/wo", "rk/"),
    concat!("C:\\Use", "rs\\"),
];

pub(super) fn check(workspace: &Workspace, files: &[TextFile]) -> Findings {
    let root = workspace.root.display().to_string();
    let mut findings = Findings::new();
    for file in files {
        let is_lock = file.path.ends_with("Cargo.lock");
        for (index, line) in file.text.lines().enumerate() {
            let wrong = wrong_in(line, is_lock, &root);
            findings.extend(wrong.map(|what| format!("{}:{}: {what}", file.path.display(), index + 1)));
        }
    }
    findings
}

/// What is wrong with a line, if anything.
fn wrong_in(line: &str, is_lock: bool, workspace_root: &str) -> Option<String> {
    if is_lock {
        let is_foreign = line.starts_with("source = ") && line != LOCK_SOURCE;
        return is_foreign.then(|| "packages come from the public index only".into());
    }
    if let Some(host) = hosts(line).find(|host| !is_public(host)) {
        return Some(format!("a link to {host}: only to hosts in PUBLIC_HOSTS of {}", file!().replace('\\', "/")));
    }
    let is_machine_path = MACHINE_PATHS.iter().any(|start| begins_a_path(line, start));
    (is_machine_path || begins_a_path(line, workspace_root)).then(|| "a path of one machine: use a relative one".into())
}

/// The hosts of the line's URLs.
fn hosts(line: &str) -> impl Iterator<Item = &str> {
    line.split("://").skip(1).map(|rest| {
        // A user before the host, as in `user:password@host`, is none.
        let authority = rest.split(|c: char| !c.is_ascii_graphic() || "/?#\"'`<>".contains(c)).next().unwrap_or(rest);
        let rest = authority.rsplit('@').next().unwrap_or(authority);
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '-').unwrap_or(rest.len());
        rest[..end].trim_end_matches('.')
    })
}

fn is_public(host: &str) -> bool {
    // Names reserved for examples and this machine's own address lead nowhere; no host at all is a format string.
    let leads_nowhere =
        host.is_empty() || host == "localhost" || host.starts_with("127.") || host.ends_with(".example");
    leads_nowhere || PUBLIC_HOSTS.contains(&host)
}

/// Whether `start` stands in the line where a path begins, not within another path.
fn begins_a_path(line: &str, start: &str) -> bool {
    let is_within = |c: char| c.is_alphanumeric() || "./_-~*)}".contains(c);
    line.match_indices(start).any(|(at, _)| !line[..at].chars().next_back().is_some_and(is_within))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_clean(line: &str) -> bool {
        wrong_in(line, false, "/somewhere/clone").is_none()
    }

    #[test]
    fn public_links_and_relative_paths_pass() {
        assert!(is_clean("see <https://c2sp.org/XAES-256-GCM>."));
        assert!(is_clean("http://127.0.0.1:8200 and https://kms.example/v1"));
        assert!(is_clean("https://user:pw@kms.example/v1"));
        assert!(is_clean("format!(\"https://{host}\")"));
        assert!(is_clean(concat!("docs/wo", "rk/notes.md and ./ho", "me/x")));
    }

    #[test]
    fn other_hosts_and_machine_paths_are_found() {
        assert!(!is_clean(concat!("index-url = https:", "//mirror.internal/simple")));
        assert!(!is_clean(concat!("[a](https://c2sp.org) [b](https:", "//10.0.0.1:80/)")));
        assert!(!is_clean(concat!("https:", "//c2sp.org@mirror.internal/")));
        for start in MACHINE_PATHS {
            assert!(!is_clean(&format!("cd {start}me")));
            assert!(!is_clean(&format!("\"{start}me\"")));
        }
        assert!(!is_clean("cd /somewhere/clone"));
    }

    #[test]
    fn lock_file_names_the_public_index_only() {
        assert!(wrong_in(LOCK_SOURCE, true, "/x").is_none());
        assert!(wrong_in("name = \"source\"", true, "/x").is_none());
        assert!(wrong_in("source = \"git+ssh:elsewhere\"", true, "/x").is_some());
        assert!(wrong_in("source = \"registry+sparse:mirror\"", true, "/x").is_some());
    }
}
