//! `init` makes what is missing and overwrites nothing.

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::json;

use crate::site::{SECRET, Site};

#[test]
fn everything_is_made_and_the_rest_is_told() {
    let site = Site::empty();
    let text = site.text(&["init"]);
    for part in ["keystrata.key", "keystrata.db", "keystrata.toml", "Back up both"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(fs::metadata(site.path("keystrata.key")).unwrap().permissions().mode() & 0o777, 0o600);
    let names: Vec<_> = site.files().into_keys().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["keystrata.db", "keystrata.key", "keystrata.toml"]);
}

#[test]
fn facts_come_as_one_object() {
    let site = Site::empty();
    let facts = site.json(&["init", "--json"]);
    let id = facts["root"]["id"].as_str().unwrap();
    assert!(id.starts_with("local:"), "{id}");
    assert_eq!(
        facts,
        json!({
            "store": { "location": "sqlite:keystrata.db", "made": true },
            "root": { "location": "local:keystrata.key", "id": id, "made": true },
            "config": { "location": "keystrata.toml", "made": true },
        })
    );
}

#[test]
fn second_init_changes_nothing() {
    let site = Site::new();
    let line = site.refused(&["init"], b"");
    assert!(line.contains("already there"), "{line}");
}

#[test]
fn missing_pieces_are_made_and_the_others_kept() {
    let site = Site::new();
    let sealed = site.ok(&["seal", "--account", "acme"], SECRET);

    fs::remove_file(site.path("keystrata.toml")).unwrap();
    let facts = site.json(&["init", "--json"]);
    assert_eq!([&facts["store"]["made"], &facts["root"]["made"], &facts["config"]["made"]], [false, false, true]);
    assert_eq!(site.ok(&["open", "--account", "acme"], &sealed), SECRET);

    let key = site.read("keystrata.key");
    fs::remove_file(site.path("keystrata.db")).unwrap();
    let facts = site.json(&["init", "--json"]);
    assert_eq!([&facts["store"]["made"], &facts["root"]["made"], &facts["config"]["made"]], [true, false, false]);
    assert_eq!(site.read("keystrata.key"), key);

    // No KEK was made in the new store, so a new root key loses nothing.
    fs::remove_file(site.path("keystrata.key")).unwrap();
    let facts = site.json(&["init", "--json"]);
    assert_eq!([&facts["store"]["made"], &facts["root"]["made"], &facts["config"]["made"]], [false, true, false]);
    assert_ne!(site.read("keystrata.key"), key);
}

#[test]
fn lost_root_key_is_not_replaced_by_one_that_opens_nothing() {
    let site = Site::new();
    site.ok(&["seal", "--account", "acme"], SECRET);
    fs::remove_file(site.path("keystrata.key")).unwrap();
    let line = site.refused(&["init"], b"");
    assert!(line.contains("restore that key file"), "{line}");
}

#[test]
fn store_and_root_key_that_do_not_belong_together_are_refused() {
    let site = Site::new();
    site.ok(&["seal", "--account", "acme"], SECRET);
    fs::remove_file(site.path("keystrata.toml")).unwrap();
    site.write("keystrata.key", &Site::new().read("keystrata.key"));
    let line = site.refused(&["init"], b"");
    assert!(line.contains("not wrapped by local:keystrata.key"), "{line}");
}

#[test]
fn files_that_are_something_else_are_kept_and_refused() {
    for (name, bytes) in [
        ("keystrata.key", &b"my diary"[..]),
        (
            "keystrata.db",
            b"my diary, longer than a hundred bytes, as SQLite looks at no fewer than the hundred of its header",
        ),
        ("keystrata.toml", b"my diary"),
        ("keystrata.toml", b"stroe = \"sqlite:x\""),
        ("keystrata.toml", b"store = \"sqlite:x\""),
    ] {
        let site = Site::empty();
        site.write(name, bytes);
        let line = site.refused(&["init"], b"");
        assert!(line.contains(name), "{line}");
    }
    let site = Site::empty();
    std::os::unix::fs::symlink("nowhere", site.path("keystrata.key")).unwrap();
    let output = site.run(&["init"], b"");
    site.failure_line(&output);
    assert!(!site.path("nowhere").exists() && !site.path("keystrata.db").exists());
}

#[test]
fn folder_that_is_missing_is_refused_and_nothing_is_made() {
    let site = Site::empty();
    site.refused(&["init", "--store", "sqlite:no/such/keys.db"], b"");
    site.refused(&["init", "--config", "no/such/keystrata.toml"], b"");
}

#[test]
fn settings_given_by_flag_are_written_down() {
    let site = Site::empty();
    fs::create_dir(site.path("keys")).unwrap();
    let flags = ["--store", "sqlite:keys/a b.db", "--root", "local:keys/root.key"];
    site.ok(&[&["init"], &flags[..]].concat(), b"");
    let text = String::from_utf8(site.read("keystrata.toml")).unwrap();
    assert!(text.contains("\"sqlite:keys/a b.db\"") && text.contains("\"local:keys/root.key\""), "{text}");
    let sealed = site.ok(&["seal", "--account", "acme"], SECRET);
    assert_eq!(site.ok(&[&["open", "--account", "acme"], &flags[..]].concat(), &sealed), SECRET);

    let line = site.refused(&["init", "--store", "sqlite:other.db"], b"");
    assert!(line.contains("keys/a b.db") && line.contains("other.db"), "{line}");
}

#[test]
fn settings_file_elsewhere_has_its_files_beside_it() {
    let site = Site::empty();
    fs::create_dir(site.path("conf")).unwrap();
    site.ok(&["init", "--config", "conf/k.toml"], b"");
    for name in ["conf/k.toml", "conf/keystrata.db", "conf/keystrata.key"] {
        assert!(site.path(name).exists(), "{name}");
    }
    let sealed = site.ok(&["seal", "--account", "acme", "--config", "conf/k.toml"], SECRET);
    // The folder may move: the file names its neighbours as such.
    fs::rename(site.path("conf"), site.path("moved")).unwrap();
    assert_eq!(site.ok(&["--config", "moved/k.toml", "open", "--account", "acme"], &sealed), SECRET);
}

#[test]
fn a_root_key_in_a_kms_is_not_asked_before_its_budget_is_known() {
    let site = Site::empty();
    let root = "vault-transit:https://127.0.0.1:1/transit/keys/k";
    for (flags, asks_for) in [
        (&[][..], "--kms-rate and --kms-burst,"),
        (&["--kms-rate", "50"], "with --kms-burst,"),
        (&["--kms-burst", "10"], "with --kms-rate,"),
    ] {
        let line = site.refused(&[&["init", "--root", root], flags].concat(), b"");
        assert!(line.contains(asks_for) && line.contains("KEYSTRATA_KMS_RATE"), "{line}");
        let line =
            site.refused(&[&["seal", "--account", "a", "--root", root, "--store", "sqlite:x"], flags].concat(), b"");
        assert!(line.contains(asks_for) && line.contains(root), "{line}");
    }
    for value in ["0", "-1", "many", "5000000000"] {
        let output = site.run(&["init", "--root", root, "--kms-rate", value, "--kms-burst", "1"], b"");
        assert_eq!(output.status.code(), Some(2), "{value}");
    }
    // With both it goes on to the key itself, which this build or this machine cannot reach.
    let line = site.refused(&["init", "--root", root, "--kms-rate", "50", "--kms-burst", "10"], b"");
    assert!(!line.contains("--kms-rate"), "{line}");
}

#[test]
fn a_settings_file_without_the_budget_of_its_kms_says_what_to_add() {
    let site = Site::empty();
    let root = "vault-transit:https://127.0.0.1:1/transit/keys/k";
    let file = |more: &str| format!("store = \"sqlite:x.db\"\nroot = \"{root}\"\n{more}");
    site.write("keystrata.toml", file("kms_rate = 50\n").as_bytes());
    let line = site.refused(&["init", "--kms-burst", "10"], b"");
    assert!(line.contains("names no kms_burst"), "{line}");
    site.write("keystrata.toml", file("kms_rate = 50\nkms_burst = 10\n").as_bytes());
    let line = site.refused(&["init", "--kms-rate", "51"], b"");
    assert!(line.contains("kms_rate = 50") && line.contains("--kms-rate,"), "{line}");
    site.write("keystrata.toml", file("kms_rate = 0\n").as_bytes());
    let line = site.refused(&["seal", "--account", "a"], b"");
    assert!(line.contains("line 3"), "{line}");
}

#[test]
fn a_local_root_key_needs_no_budget_and_ignores_one() {
    let site = Site::empty();
    site.ok(&["init", "--kms-rate", "50", "--kms-burst", "10"], b"");
    assert!(!String::from_utf8(site.read("keystrata.toml")).unwrap().contains("kms_"));
    let output = site.command(&["seal", "--account", "a"]).env("KEYSTRATA_KMS_RATE", "7").write_stdin(SECRET).output();
    assert!(output.unwrap().status.success());
}
