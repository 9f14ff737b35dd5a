//! `keystrata rekey`: data sealed anew, and put in place in one step or not at all.

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::{Value, json};

use crate::site::{SECRET, Site};

fn site() -> Site {
    let site = Site::new();
    let sealed = site.ok(&["seal", "--account", "acme", "--context", "row=42"], SECRET);
    site.write("a.ks", &sealed).write("b.ks", &sealed);
    site.ok(&["account", "rotate", "acme"], b"");
    site
}

const REKEY: [&str; 5] = ["rekey", "--account", "acme", "--context", "row=42"];
const OPEN: [&str; 5] = ["open", "--account", "acme", "--context", "row=42"];

#[test]
fn every_key_of_a_file_is_new_and_its_mode_stays() {
    let site = site();
    let before = site.read("a.ks");
    fs::set_permissions(site.path("a.ks"), fs::Permissions::from_mode(0o664)).unwrap();
    std::os::unix::fs::symlink("b.ks", site.path("link.ks")).unwrap();
    let facts = site.json(&[&REKEY[..], &["a.ks", "link.ks", "--json"]].concat());
    let files = json!([
        { "file": "a.ks", "outcome": "changed", "error": null },
        { "file": "link.ks", "outcome": "changed", "error": null },
    ]);
    let expected = json!({ "account": ["acme"], "changed": 2, "unchanged": 0, "failed": 0, "files": files });
    assert_eq!(facts, expected);
    let after = site.read("a.ks");
    assert_eq!(after.len(), before.len());
    for part in [4..20, 44..92, 92..124, 124..after.len()] {
        assert_ne!(after[part.clone()], before[part.clone()], "{part:?}");
    }
    assert_eq!(fs::metadata(site.path("a.ks")).unwrap().permissions().mode() & 0o777, 0o664);
    assert!(fs::symlink_metadata(site.path("link.ks")).unwrap().is_symlink());
    for name in ["a.ks", "b.ks"] {
        assert_eq!(site.ok(&[&OPEN[..], &[name]].concat(), b""), SECRET);
    }
    // Under the primary now, so the old version can be given up.
    site.ok(&["account", "min-version", "acme", "--version", "2", "--yes-i-mean", "acme"], b"");
    assert_eq!(site.ok(&[&OPEN[..], &["a.ks"]].concat(), b""), SECRET);
    site.refused(&OPEN, &before);
    assert_eq!(
        site.text(&[&REKEY[..], &["b.ks"]].concat()),
        "rekeyed    b.ks\n1 file(s): 1 rekeyed, 0 unchanged, 0 failed\n"
    );
}

#[test]
fn what_does_not_open_stays_as_it_is() {
    let site = site();
    site.write("empty.ks", b"").write("cut.ks", &site.read("a.ks")[..150]);
    let before = site.files();
    let wrong = ["rekey", "--account", "acme", "--context", "row=43", "a.ks", "--json"];
    let facts: Value = serde_json::from_slice(&site.findings(&wrong)).unwrap();
    let error = facts["files"][0]["error"].as_str().unwrap();
    assert!(error.contains("--context"), "{error}");
    let many = [&REKEY[..], &["empty.ks", "cut.ks", "missing.ks"]].concat();
    let text = String::from_utf8(site.findings(&many)).unwrap();
    assert!(text.contains("3 file(s): 0 rekeyed, 0 unchanged, 3 failed"), "{text}");
    assert_eq!(site.files(), before);
    // One that cannot seal opens, and stays too.
    site.ok(&["account", "open-only", "acme"], b"");
    let text = String::from_utf8(site.findings(&[&REKEY[..], &["a.ks"]].concat())).unwrap();
    assert!(text.contains("failed     a.ks: "), "{text}");
    assert_eq!(site.read("a.ks"), before[&site.path("a.ks")]);
    site.refused(&["rekey", "--account", "acme", "--context", "a=1", "--context", "a=1", "a.ks"], b"");
}

/// A kill leaves the old file or the new one, whole.
#[test]
fn a_killed_rekey_loses_nothing() {
    let site = site();
    let large = vec![7; 3 << 20];
    let sealed = site.ok(&["seal", "--account", "acme", "--context", "row=42"], &large);
    site.write("large.ks", &sealed);
    for round in 0..8_u64 {
        let rekey = [&REKEY[..], &["large.ks"]].concat();
        let mut child = site.process(&rekey).stdout(std::process::Stdio::null()).spawn().unwrap();
        let has_temporary = || {
            let names = fs::read_dir(site.path("")).unwrap().map(|entry| entry.unwrap().file_name());
            names.into_iter().any(|name| name.to_string_lossy().starts_with(".keystrata-"))
        };
        while !has_temporary() && child.try_wait().unwrap().is_none() {}
        for _ in 0..round * 20_000 {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(site.ok(&[&OPEN[..], &["large.ks"]].concat(), b""), large, "round {round}");
        for entry in fs::read_dir(site.path("")).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_string_lossy().starts_with(".keystrata-") {
                fs::remove_file(path).unwrap();
            }
        }
    }
}
