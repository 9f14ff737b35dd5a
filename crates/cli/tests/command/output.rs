//! Where results go, and what is there when they cannot.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::PermissionsExt,
    process::Stdio,
};

use crate::site::{SECRET, Site};

/// A file that is not there stays so, one that is keeps its bytes.
#[test]
fn failed_open_leaves_the_output_as_it_was() {
    let site = Site::new();
    let sealed = site.ok(&["seal", "--account", "acme"], SECRET);
    let mut altered = sealed.clone();
    *altered.last_mut().unwrap() ^= 1;
    site.write("kept", b"kept");
    for output in ["kept", "new"] {
        site.refused(&["open", "--account", "acme", "--output", output], &altered);
    }
    site.ok(&["open", "--account", "acme", "--output", "kept"], &sealed);
    assert_eq!(site.read("kept"), SECRET);
}

#[test]
fn last_chunk_decides_before_the_first_is_released() {
    let site = Site::new();
    let mut sealed = site.ok(&["seal", "--account", "acme"], &vec![7; 1 << 20]);
    *sealed.last_mut().unwrap() ^= 1;
    site.refused(&["open", "--account", "acme"], &sealed);
    site.refused(&["open", "--account", "acme", "--output", "out"], &sealed);
}

#[test]
fn plaintext_file_is_for_its_owner_only() {
    let site = Site::new();
    site.ok(&["seal", "--account", "acme", "--output", "sealed"], SECRET);
    site.write("plain", b"");
    fs::set_permissions(site.path("plain"), fs::Permissions::from_mode(0o644)).unwrap();
    site.ok(&["open", "--account", "acme", "--output", "plain", "sealed"], b"");
    assert_eq!(fs::metadata(site.path("plain")).unwrap().permissions().mode() & 0o777, 0o600);
}

/// Read-only folders do not stop root, so these are places where nobody can make a file.
#[test]
fn output_that_cannot_be_made_is_refused_before_a_kek_is() {
    let site = Site::new();
    for output in ["keystrata.toml/below", "no/such/folder/out", "/proc/keystrata-out", ".", "/dev/full"] {
        let line = site.refused(&["seal", "--account", "acme", "--output", output], SECRET);
        assert!(line.contains(output), "{line}");
    }
    assert_eq!(site.json(&["account", "list", "--json"])["accounts"], serde_json::json!([]));
}

#[test]
fn full_disk_behind_stdout_is_reported() {
    let site = Site::new();
    site.write("plain", SECRET);
    site.ok(&["seal", "--account", "acme", "plain", "--output", "sealed"], b"");
    for arguments in [
        &["seal", "--account", "acme", "plain"][..],
        &["open", "--account", "acme", "sealed"],
        &["inspect", "sealed"],
        &["inspect", "sealed", "--json"],
        &["account", "list"],
        &["account", "list", "--json"],
        &["account", "show", "acme"],
        &["completions", "bash"],
    ] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = site.process(arguments).stdin(Stdio::null()).stdout(full).output().unwrap();
        let line = site.failure_line(&output);
        assert!(line.contains("stdout") && line.contains("No space left"), "{line}");
    }
}

#[test]
fn closed_stdout_pipe_is_reported_and_no_panic() {
    let site = Site::new();
    site.write("plain", &vec![7; 1 << 20]);
    site.ok(&["seal", "--account", "acme", "plain", "--output", "sealed"], b"");
    for arguments in [
        &["seal", "--account", "acme"][..],
        &["open", "--account", "acme", "sealed"],
        &["inspect", "sealed"],
        &["account", "list"],
        &["account", "show", "acme"],
        &["completions", "zsh"],
        &["init", "--config", "other.toml", "--json"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut child =
            site.process(arguments).stdin(Stdio::piped()).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        // Commands that read no stdin may be gone by now.
        let _ = child.stdin.take().unwrap().write_all(SECRET);
        let line = site.failure_line(&child.wait_with_output().unwrap());
        assert!(line.contains("stdout was closed"), "{line}");
    }
}

#[test]
fn link_is_written_through() {
    let site = Site::new();
    site.write("file", b"");
    std::os::unix::fs::symlink("file", site.path("link")).unwrap();
    site.ok(&["seal", "--account", "acme", "--output", "link"], SECRET);
    assert!(fs::symlink_metadata(site.path("link")).unwrap().is_symlink());
    assert_eq!(site.ok(&["open", "--account", "acme", "file"], b""), SECRET);
}
