//! `keystrata account shred`: nothing is destroyed that nobody confirmed by name.

use std::{fs::File, os::fd::OwnedFd, process::Stdio};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{OptionalActions, tcgetattr, tcsetattr},
};
use serde_json::json;

use crate::site::{SECRET, Site};

fn sealed() -> (Site, Vec<u8>) {
    let site = Site::new();
    let sealed = site.ok(&["seal", "--account", "acme"], SECRET);
    site.ok(&["account", "rotate", "acme"], b"");
    (site, sealed)
}

#[test]
fn a_dry_run_destroys_nothing_and_says_what_would_be() {
    let (site, sealed) = sealed();
    let before = site.files();
    let text = site.text(&["account", "shred", "acme", "--dry-run"]);
    assert!(text.contains("version 1, retired") && text.contains("version 2, primary"), "{text}");
    let facts = site.json(&["account", "shred", "acme", "--dry-run", "--json"]);
    assert_eq!((&facts["dry_run"], &facts["keks"], &facts["shredded_at"]), (&json!(true), &json!(2), &json!(null)));
    assert_eq!(facts["kek_ids"].as_array().unwrap().len(), 2);
    assert_eq!(site.files(), before);
    assert_eq!(site.ok(&["open", "--account", "acme"], &sealed), SECRET);
}

#[test]
fn only_the_accounts_own_name_confirms() {
    let (site, sealed) = sealed();
    // Nobody is at a terminal, whatever stdin says.
    for stdin in [&b""[..], b"acme\n", b"yes\n"] {
        let line = site.refused(&["account", "shred", "acme"], stdin);
        assert!(line.contains("nobody is at a terminal") && line.contains("--yes-i-mean acme"), "{line}");
    }
    for other in ["", "yes", "Acme", "acme ", "acme/billing"] {
        let line = site.refused(&["account", "shred", "acme", "--yes-i-mean", other], b"");
        assert!(line.contains("is not the name of account acme"), "{line}");
    }
    let facts = site.json(&["account", "shred", "acme", "--yes-i-mean", "acme", "--json"]);
    assert_eq!((&facts["already"], &facts["keks"], &facts["stranded"]), (&json!(false), &json!(2), &json!([])));
    assert!(site.refused(&["open", "--account", "acme"], &sealed).contains("shredded"));
    assert!(site.refused(&["seal", "--account", "acme"], SECRET).contains("shredded"));
    let again = site.json(&["account", "shred", "acme", "--json"]);
    assert_eq!((&again["already"], &again["shredded_at"]), (&json!(true), &facts["shredded_at"]));
}

#[test]
fn an_account_with_a_broken_record_is_shredded_all_the_same() {
    let (site, _) = sealed();
    site.sql("UPDATE kek SET record = x'00' WHERE state = 2");
    let facts = site.json(&["account", "shred", "acme", "--dry-run", "--json"]);
    assert_eq!((&facts["keks"], &facts["kek_ids"]), (&json!(null), &json!(null)));
    let facts = site.json(&["account", "shred", "acme", "--yes-i-mean", "acme", "--json"]);
    assert_eq!((&facts["already"], &facts["keks"]), (&json!(false), &json!(2)));
}

#[test]
fn an_account_that_is_not_there_is_not_entombed() {
    let site = Site::new();
    let line = site.refused(&["account", "shred", "nobody", "--yes-i-mean", "nobody"], b"");
    assert!(line.contains("account nobody has no KEK") && line.contains("nothing was done"), "{line}");
    site.ok(&["seal", "--account", "nobody"], SECRET);
}

#[test]
fn an_account_whose_keks_wrap_others_is_refused() {
    let site = Site::new();
    site.old_store("old.db");
    let store = ["--store", "sqlite:old.db"];
    site.ok(&[&["account", "list"], &store[..]].concat(), b""); // carries it over, so that no file changes below
    let line = site.refused(&[&["account", "shred", "acme", "--yes-i-mean", "acme"], &store[..]].concat(), b"");
    assert!(line.contains("wrap those of child, which would be lost"), "{line}");
    for account in ["child", "acme"] {
        site.ok(&[&["account", "shred", account, "--yes-i-mean", account], &store[..]].concat(), b"");
    }
}

/// A terminal: what the test holds, and what the command gets.
fn terminal() -> (OwnedFd, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
    let theirs = File::options().read(true).write(true).open(name).unwrap();
    let mut settings = tcgetattr(&theirs).unwrap();
    settings.local_modes.remove(rustix::termios::LocalModes::ECHO);
    tcsetattr(&theirs, OptionalActions::Now, &settings).unwrap();
    (ours, theirs)
}

/// Runs `arguments` at a terminal where somebody types `typed`.
fn at_a_terminal(site: &Site, arguments: &[&str], typed: &[u8]) -> (std::process::Output, String) {
    let (ours, theirs) = terminal();
    rustix::io::write(&ours, typed).unwrap();
    let child = site
        .process(arguments)
        .stdin(Stdio::from(theirs.try_clone().unwrap()))
        .stdout(Stdio::piped())
        .stderr(Stdio::from(theirs))
        .spawn()
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let (mut shown, mut chunk) = (Vec::new(), [0; 1024]);
    // An error is how a terminal ends that nobody holds any more.
    while let Ok(len @ 1..) = rustix::io::read(&ours, &mut chunk) {
        shown.extend_from_slice(&chunk[..len]);
    }
    (output, String::from_utf8_lossy(&shown).into_owned())
}

#[test]
fn at_a_terminal_the_name_is_typed() {
    let (site, sealed) = sealed();
    for typed in [&b"yes\n"[..], b"\n", b"Acme\n"] {
        let (output, shown) = at_a_terminal(&site, &["account", "shred", "acme"], typed);
        assert_eq!(output.status.code(), Some(1), "{shown}");
        assert!(shown.contains("Type acme to go on: ") && shown.contains("nothing was done"), "{shown}");
    }
    assert_eq!(site.ok(&["open", "--account", "acme"], &sealed), SECRET);
    let (output, shown) = at_a_terminal(&site, &["account", "shred", "acme"], b"acme\n");
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert!(shown.contains("version 2, primary"), "{shown}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("2 KEK(s) destroyed"));
}
