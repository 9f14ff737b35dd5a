//! `--audit FILE`: who did what to which account, and nothing that could not be recorded.

use std::process::Stdio;

use serde_json::Value;

use crate::site::{SECRET, Site};

fn events(site: &Site) -> Vec<[String; 3]> {
    let text = String::from_utf8(site.read("audit.log")).unwrap();
    let event = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap();
        ["action", "outcome", "actor"].map(|key| event[key].as_str().unwrap().to_owned())
    };
    text.lines().map(event).collect()
}

#[test]
fn every_change_is_recorded_with_who_made_it() {
    let site = Site::new();
    let sealed = site.ok(&["seal", "--account", "acme", "--audit", "audit.log"], SECRET);
    let settings = [&site.read("keystrata.toml")[..], b"audit = \"audit.log\"\n"].concat();
    site.write("keystrata.toml", &settings);
    for change in [
        &["account", "rotate", "acme"][..],
        &["account", "open-only", "acme"],
        &["account", "disable", "acme"],
        &["account", "disable", "acme"],
        &["account", "enable", "acme"],
        &["account", "min-version", "acme", "--version", "2", "--yes-i-mean", "acme"],
        &["account", "shred", "acme", "--yes-i-mean", "acme"],
    ] {
        site.ok(change, b"");
    }
    // What changes nothing is not told.
    for reading in [&["account", "list"][..], &["account", "shred", "acme", "--dry-run"], &["store", "check"]] {
        site.ok(reading, b"");
    }
    site.refused(&["open", "--account", "acme"], &sealed);
    let said: Vec<_> = events(&site).into_iter().map(|[action, outcome, _]| format!("{action} {outcome}")).collect();
    let expected = [
        "created intended",
        "created done",
        "rotated intended",
        "rotated done",
        "sealing-disabled intended",
        "sealing-disabled done",
        "disabled intended",
        "disabled done",
        "disabled intended",
        "disabled unchanged",
        "enabled intended",
        "enabled done",
        "min-version-raised intended",
        "min-version-raised done",
        "shredded intended",
        "shredded done",
    ];
    assert_eq!(said, expected);
    let actors: std::collections::BTreeSet<_> = events(&site).into_iter().map(|[.., actor]| actor).collect();
    assert_eq!(actors.len(), 1);
    let user = std::process::Command::new("id").arg("-un").output().unwrap().stdout;
    let user = String::from_utf8(user).unwrap();
    assert!(actors.iter().all(|actor| actor.starts_with(user.trim_end())), "{actors:?}");
}

#[test]
fn what_cannot_be_recorded_is_not_done() {
    let site = Site::new();
    site.ok(&["account", "create", "acme"], b"");
    for place in ["missing/audit.log", "."] {
        for change in
            [&["account", "disable", "acme"][..], &["account", "rotate", "acme"], &["account", "create", "new"]]
        {
            let line = site.refused(&[change, &["--audit", place]].concat(), b"");
            assert!(line.contains("cannot be recorded") && line.contains("--audit"), "{line}");
        }
    }
    // A disk that is full.
    if std::path::Path::new("/dev/full").exists() {
        let line = site.refused(&["account", "disable", "acme", "--audit", "/dev/full"], b"");
        assert!(line.contains("not recorded"), "{line}");
    }
    assert_eq!(site.status("acme"), "enabled");
}

#[test]
fn commands_at_once_share_the_file() {
    let site = Site::new();
    let names: Vec<_> = (0..6).map(|n| format!("account {n}")).collect();
    let start = |name: &String| {
        let mut create = site.process(&["account", "create", name, "--audit", "audit.log"]);
        create.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = names.iter().map(start).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(events(&site).len(), 12);
}
