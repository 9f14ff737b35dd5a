//! `keystrata rewrap`: files under the primary, in place, each for itself.

use serde_json::{Value, json};

use crate::site::{SECRET, Site};

/// A site with three envelopes of `acme` in files, under a KEK that is not its primary any more.
fn site() -> Site {
    let site = Site::new();
    for name in ["a.ks", "b.ks", "c.ks"] {
        let context = format!("file={name}");
        let sealed = site.ok(&["seal", "--account", "acme", "--context", &context], SECRET);
        site.write(name, &sealed);
    }
    site.ok(&["account", "rotate", "acme"], b"");
    site
}

fn opens(site: &Site, name: &str) -> bool {
    let context = format!("file={name}");
    let output = site.run(&["open", "--account", "acme", "--context", &context, name], b"");
    output.status.success() && output.stdout == SECRET
}

fn outcomes(facts: &Value) -> Vec<&str> {
    facts["files"].as_array().unwrap().iter().map(|file| file["outcome"].as_str().unwrap()).collect()
}

#[test]
fn files_are_rewrapped_once_and_only_their_headers_change() {
    let site = site();
    let before = site.read("a.ks");
    let facts = site.json(&["rewrap", "--account", "acme", "a.ks", "b.ks", "a.ks", "--json"]);
    assert_eq!(outcomes(&facts), ["changed", "changed"], "a file that is named twice is one");
    let counts = ["changed", "unchanged", "failed"].map(|key| facts[key].as_u64().unwrap());
    assert_eq!((counts, &facts["account"]), ([2, 0, 0], &json!(["acme"])));
    assert_eq!(facts["files"][1], json!({ "file": "b.ks", "outcome": "changed", "error": null }));
    assert!(facts["began_at"].as_u64().unwrap() > 1_700_000_000);
    let after = site.read("a.ks");
    assert_eq!((&after[92..], after.len()), (&before[92..], before.len()));
    assert_eq!(site.json(&["inspect", "a.ks", "--json"])["kek_id"], primary(&site));

    let text = site.text(&["rewrap", "--account", "acme", "a.ks", "b.ks", "c.ks"]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..3], ["unchanged  a.ks", "unchanged  b.ks", "rewrapped  c.ks"]);
    assert_eq!(lines[3], "3 file(s): 1 rewrapped, 2 unchanged, 0 failed");
    assert!(lines[4].starts_with("began at 20"), "{text}");
    assert!(["a.ks", "b.ks", "c.ks"].iter().all(|name| opens(&site, name)));
    assert!(!site.path("a.ks.ks-rewrap").exists());
}

fn primary(site: &Site) -> Value {
    let shown = site.json(&["account", "show", "acme", "--json"]);
    let keks = shown["keks"].as_array().unwrap();
    keks.iter().find(|kek| kek["state"] == "primary").unwrap()["kek_id"].clone()
}

#[test]
fn a_file_that_fails_is_told_and_keeps_no_other_from_it() {
    let site = site();
    let other = site.ok(&["seal", "--account", "globex"], SECRET);
    let mut torn = site.read("b.ks");
    torn[50] ^= 1;
    site.write("other.ks", &other).write("torn.ks", &torn).write("empty.ks", b"").write("text.ks", &[b'x'; 300]);
    std::fs::create_dir(site.path("folder.ks")).unwrap();
    let names = ["other.ks", "torn.ks", "empty.ks", "text.ks", "folder.ks", "missing.ks", "a.ks"];
    let before = site.files();
    let rewrap = [&["rewrap", "--account", "acme"], &names[..]].concat();
    let facts: Value = serde_json::from_slice(&site.findings(&[&rewrap[..], &["--json"]].concat())).unwrap();
    let expected = [["failed"; 6].to_vec(), vec!["changed"]].concat();
    assert_eq!((outcomes(&facts), &facts["failed"]), (expected, &json!(6)));
    let errors: Vec<_> = facts["files"].as_array().unwrap().iter().filter_map(|file| file["error"].as_str()).collect();
    for (error, says) in errors.iter().zip([
        "has no KEK",
        "rejected",
        "empty",
        "not a Keystrata envelope",
        "regular file",
        "cannot be found",
    ]) {
        assert!(error.contains(says) && !error.contains('\n'), "{error}");
    }
    let changed: Vec<_> = site.files().into_iter().filter(|file| before.get(&file.0) != Some(&file.1)).collect();
    assert_eq!(changed.len(), 1, "{changed:?}");
    let text = String::from_utf8(site.findings(&rewrap)).unwrap();
    assert!(text.contains("failed     other.ks: ") && text.contains("7 file(s): 0 rewrapped, 1 unchanged, 6 failed"));
    assert!(opens(&site, "a.ks"));
}

/// A rewrap that was killed leaves its journal and a header that may be half written.
#[test]
fn an_interrupted_rewrap_is_brought_to_its_end() {
    let site = site();
    let old = site.read("a.ks");
    site.ok(&["rewrap", "--account", "acme", "a.ks"], b"");
    let new = site.read("a.ks");
    let mut journal = [&b"KSJ\x01"[..], &old[..124], &new[..124]].concat();
    journal.extend_from_slice(blake3::hash(&journal).as_bytes());
    let torn = [&new[..40], &old[40..]].concat();
    site.write("a.ks", &torn).write("a.ks.ks-rewrap", &journal);
    assert!(!opens(&site, "a.ks"));
    site.ok(&["rewrap", "--account", "acme", "a.ks"], b"");
    assert!(opens(&site, "a.ks") && !site.path("a.ks.ks-rewrap").exists());
    // So does a rekey, which reads what it replaces.
    site.write("a.ks", &torn).write("a.ks.ks-rewrap", &journal);
    site.ok(&["rekey", "--account", "acme", "--context", "file=a.ks", "a.ks"], b"");
    assert!(opens(&site, "a.ks") && !site.path("a.ks.ks-rewrap").exists());
}

#[test]
fn a_pipe_is_not_waited_for() {
    let site = site();
    assert!(std::process::Command::new("mkfifo").arg(site.path("pipe.ks")).status().unwrap().success());
    for command in ["rewrap", "rekey"] {
        let text = String::from_utf8(site.findings(&[command, "--account", "acme", "pipe.ks"])).unwrap();
        assert!(text.contains("failed     pipe.ks: it is not a regular file"), "{text}");
    }
}

#[test]
fn a_misspelt_account_is_not_made() {
    let site = site();
    let line = site.refused(&["rewrap", "--account", "amce", "a.ks"], b"");
    assert!(line.contains("account amce has no KEK"), "{line}");
    assert_eq!(site.json(&["account", "list", "--json"])["accounts"].as_array().unwrap().len(), 1);
    for usage in [&["rewrap", "a.ks"][..], &["rewrap", "--account", "acme"]] {
        assert_eq!(site.run(usage, b"").status.code(), Some(2), "{usage:?}");
    }
}

/// Kills rewraps of many files at whatever moment, and lets another go on.
#[test]
fn killed_rewraps_lose_no_file() {
    let site = site();
    let sealed = site.read("a.ks");
    let names: Vec<_> = (0..40).map(|n| format!("{n}.ks")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let rewrap = [&["rewrap", "--account", "acme"], &names[..]].concat();
    let mut killed_within = 0;
    for round in 0..6 {
        for name in &names {
            site.write(name, &sealed);
        }
        let mut child = site.process(&rewrap).stdout(std::process::Stdio::null()).spawn().unwrap();
        let has_begun = || names.iter().any(|name| site.read(name)[..124] != sealed[..124]);
        while !has_begun() && child.try_wait().unwrap().is_none() {}
        for _ in 0..round * 2_000 {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        killed_within += usize::from(!child.wait().unwrap().success());
        // It looks at each header, and a torn one would be rejected.
        assert_eq!(site.json(&[&rewrap[..], &["--json"]].concat())["failed"], 0);
        for name in &names {
            assert_eq!(site.read(name)[92..], sealed[92..], "{name}");
        }
        for name in &names[..4] {
            let open = site.ok(&["open", "--account", "acme", "--context", "file=a.ks", name], b"");
            assert_eq!(open, SECRET, "{name}");
        }
    }
    assert!(killed_within > 0, "no rewrap was met in its middle");
}
