//! What is printed about envelopes and accounts, for people and for programs.

use serde_json::{Value, json};

use crate::site::{SECRET, Site};

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn inspect_needs_neither_key_nor_store() {
    let site = Site::new();
    let sealed = site.ok(&["seal", "--account", "acme"], &vec![7; 40_000]);
    let elsewhere = Site::empty();
    elsewhere.write("sealed", &sealed);

    let facts = elsewhere.json(&["inspect", "sealed", "--json"]);
    let kek_id = facts["kek_id"].as_str().unwrap();
    assert_eq!(
        facts,
        json!({
            "version": 1, "suite": 1, "suite_name": "XChaCha20-Poly1305", "kek_id": kek_id,
            "envelope_bytes": 40_172, "plaintext_bytes": 40_000, "chunks": 3,
        })
    );
    assert!(kek_id.len() == 32 && kek_id.bytes().all(|digit| digit.is_ascii_hexdigit()));
    assert_eq!(facts, serde_json::from_slice::<Value>(&elsewhere.ok(&["inspect", "--json"], &sealed)).unwrap());

    let text = elsewhere.text(&["inspect", "sealed"]);
    for part in [kek_id, "1 (XChaCha20-Poly1305)", "40172 bytes", "40000 bytes in 3 chunks"] {
        assert!(text.contains(part), "{text}");
    }
    let empty = site.ok(&["seal", "--account", "acme"], b"");
    let text = String::from_utf8(elsewhere.ok(&["inspect"], &empty)).unwrap();
    assert!(text.contains("0 bytes in 1 chunk\n"), "{text}");
}

#[test]
fn list_names_every_account_once_and_needs_no_root_key() {
    let site = Site::new();
    assert_eq!(site.json(&["account", "list", "--json"]), json!({ "accounts": [] }));
    assert_eq!(site.text(&["account", "list"]).lines().count(), 1, "the heading");
    for account in [&["globex"][..], &["acme"], &["acme", "billing"], &["a/b\n"], &["acme"]] {
        let flags: Vec<_> = account.iter().map(|segment| format!("--account={segment}")).collect();
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        site.ok(&[&["seal"], &flags[..]].concat(), SECRET);
    }
    std::fs::remove_file(site.path("keystrata.key")).unwrap();

    let facts = site.json(&["account", "list", "--json"]);
    let accounts: Vec<_> = facts["accounts"].as_array().unwrap().iter().map(|entry| &entry["account"]).collect();
    // In the store's order: by the encoded path, so shorter paths and names come first.
    assert_eq!(accounts, [&json!(["a/b\n"]), &json!(["acme"]), &json!(["globex"]), &json!(["acme", "billing"])]);
    assert_eq!(
        keys(&facts["accounts"][0]),
        ["account", "created_at", "kek_id", "shredded_at", "status", "suite", "version"]
    );

    let text = site.text(&["account", "list"]);
    assert_eq!(text.lines().count(), 5, "{text}");
    for name in ["  acme\n", "  acme/billing\n", "  globex\n", "  a%2Fb%0A\n"] {
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn show_tells_all_about_an_account_and_needs_no_root_key() {
    let site = Site::new();
    let sealed = site.ok(&["seal", "--account", "acme", "--account", "billing"], SECRET);
    let root = site.json(&["init", "--config", "second.toml", "--json"])["root"]["id"].clone();
    std::fs::remove_file(site.path("keystrata.key")).unwrap();

    let facts = site.json(&["account", "show", "acme", "billing", "--json"]);
    assert_eq!(facts["account"], json!(["acme", "billing"]));
    let kek = &facts["keks"][0];
    assert_eq!(
        keys(kek),
        ["age_seconds", "created_at", "kek_id", "retired_at", "state", "suite", "version", "wrapped_by"]
    );
    assert_eq!(kek["version"], 1);
    assert_eq!(kek["suite"], 1);
    assert_eq!(kek["state"], "primary");
    assert_eq!(kek["retired_at"], Value::Null);
    assert_eq!(kek["wrapped_by"], json!([root]));
    let inspected: Value = serde_json::from_slice(&site.ok(&["inspect", "--json"], &sealed)).unwrap();
    assert_eq!(kek["kek_id"], inspected["kek_id"]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!((now - 600..=now).contains(&kek["created_at"].as_u64().unwrap()));

    let text = site.text(&["account", "show", "acme", "billing"]);
    for part in
        ["acme/billing", kek["kek_id"].as_str().unwrap(), "primary", "1 (XChaCha20-Poly1305)", root.as_str().unwrap()]
    {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("retired "), "{text}");
}

#[test]
fn account_without_a_kek_is_not_shown() {
    let site = Site::new();
    for account in [&["nobody"][..], &["nobody", "here"]] {
        let line = site.refused(&[&["account", "show"], account].concat(), b"");
        assert!(line.contains("has no KEK"), "{line}");
    }
}

#[test]
fn help_has_examples_and_completions_know_the_commands() {
    let site = Site::empty();
    for arguments in
        [&["--help"][..], &["init", "--help"], &["seal", "--help"], &["open", "--help"], &["inspect", "--help"]]
    {
        assert!(site.text(arguments).contains("Examples:\n"), "{arguments:?}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = site.text(&["completions", shell]);
        for word in ["seal", "inspect", "output"] {
            assert!(script.contains(word), "{shell} {word}");
        }
    }
    assert!(site.text(&["--version"]).starts_with("keystrata "));
}
