//! `keystrata account recover`, and the recovery root that nothing else unwraps by.

use serde_json::json;

use crate::site::{SECRET, Site};

/// A site whose settings name a recovery root, and an envelope of `acme`; its root key is lost, and there is a new one.
fn lost() -> (Site, Vec<u8>) {
    let site = Site::new();
    for key in ["recovery.key", "new.key"] {
        site.root_key(key);
    }
    site.write(
        "keystrata.toml",
        b"store = \"sqlite:keystrata.db\"\nroot = \"local:keystrata.key\"\nrecovery_root = \"local:recovery.key\"\n",
    );
    let sealed = site.ok(&["seal", "--account", "acme"], SECRET);
    assert_eq!(site.wraps("acme"), [[site.root_id("keystrata.key"), site.root_id("recovery.key")]]);
    assert_eq!(site.json(&["store", "check", "--unwrap", "--json"])["clean"], true);
    // It is not tried out: only an operator asks it to unwrap, on the day of need.
    assert_eq!(site.text(&["root", "verify"]), "works   local:keystrata.key\n");
    std::fs::remove_file(site.path("keystrata.key")).unwrap();
    (site, sealed)
}

const NEW: [&str; 2] = ["--root", "local:new.key"];

#[test]
fn an_account_is_recovered_and_goes_on_under_the_new_root_key() {
    let (site, sealed) = lost();
    let open = [&["open", "--account", "acme"], &NEW[..]].concat();
    site.refused(&["open", "--account", "acme"], &sealed);
    site.refused(&open, &sealed);
    let recover = [&["account", "recover", "acme"], &NEW[..]].concat();
    let facts = site.json(&[&recover[..], &["--json"]].concat());
    assert_eq!(facts, json!({ "account": ["acme"], "recovered": 1, "keks": 1, "wrapped": 1, "failed": [] }));
    assert_eq!(site.ok(&open, &sealed), SECRET);
    assert!(site.text(&recover).contains("the current root keys wrap 1 of 1"));
}

#[test]
fn all_accounts_are_recovered_by_naming_it_as_a_former_root_key() {
    let (site, sealed) = lost();
    let reroot = [&["reroot", "--add", "--former-root", "local:recovery.key", "--json"], &NEW[..]].concat();
    let facts = site.json(&reroot);
    assert_eq!((&facts["changed"], &facts["added"]), (&json!(1), &json!(1)));
    assert_eq!(site.ok(&[&["open", "--account", "acme"], &NEW[..]].concat(), &sealed), SECRET);
}

#[test]
fn a_kek_that_it_never_wrapped_is_told_and_keeps_no_other_from_it() {
    let (site, sealed) = lost();
    let without = ["--config", "without.toml"];
    site.root_key("first.key");
    site.write("without.toml", b"store = \"sqlite:keystrata.db\"\nroot = \"local:first.key\"\n");
    // Its first KEK is of a time without a recovery root, its second of one with.
    site.ok(&[&["account", "create", "old"], &without[..]].concat(), b"");
    site.root_key("keystrata2.key");
    site.ok(&["account", "rotate", "old", "--root", "local:keystrata2.key"], b"");
    let output = site.run(&["account", "recover", "old", "--root", "local:new.key", "--json"], b"");
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let facts: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(["recovered", "keks", "wrapped"].map(|key| facts[key].as_u64().unwrap()), [1, 2, 1]);
    assert_eq!(facts["failed"].as_array().unwrap().len(), 1);
    assert!(site.wraps("old")[1].contains(&site.root_id("new.key")));
    drop(sealed);
}

#[test]
fn without_a_recovery_root_there_is_nothing_to_recover_by() {
    let site = Site::new();
    site.ok(&["account", "create", "acme"], b"");
    let line = site.refused(&["account", "recover", "acme"], b"");
    assert!(line.contains("no recovery root key is named") && line.contains("--recovery-root"), "{line}");
    site.root_key("late.key");
    let line = site.refused(&["account", "recover", "acme", "--recovery-root", "local:late.key"], b"");
    assert!(line.contains("recovery root"), "{line}");
    let line = site.refused(&["account", "recover", "acme", "--recovery-root", "local:keystrata.key"], b"");
    assert!(line.contains("twice"), "{line}");
}
