//! `keystrata account enable`, `open-only` and `disable`: what an account may do, and nothing of it is lost.

use serde_json::{Value, json};

use crate::site::{SECRET, Site};

/// A site with two versions of `acme`, and an envelope under each.
fn two_versions() -> (Site, [Vec<u8>; 2]) {
    let site = Site::new();
    let first = site.ok(&["seal", "--account", "acme"], SECRET);
    site.ok(&["account", "rotate", "acme"], b"");
    let second = site.ok(&["seal", "--account", "acme"], SECRET);
    (site, [first, second])
}

fn opens(site: &Site, sealed: &[u8]) -> bool {
    site.run(&["open", "--account", "acme"], sealed).status.success()
}

#[test]
fn each_state_follows_each_other_and_says_whether_it_was_so_before() {
    let (site, [first, second]) = two_versions();
    for (command, status, seals, opening) in [
        ("open-only", "open-only", false, true),
        ("disable", "disabled", false, false),
        ("open-only", "open-only", false, true),
        ("enable", "enabled", true, true),
        ("disable", "disabled", false, false),
        ("enable", "enabled", true, true),
    ] {
        for changed in [true, false] {
            let facts = site.json(&["account", command, "acme", "--json"]);
            let expected = json!({ "account": ["acme"], "version": null, "status": status, "changed": changed });
            assert_eq!(facts, expected, "{command}");
        }
        assert_eq!(site.status("acme"), status);
        let listed = site.json(&["account", "list", "--status", status, "--json"]);
        assert_eq!(listed["accounts"][0]["status"], status);
        assert_eq!(site.run(&["seal", "--account", "acme"], SECRET).status.success(), seals, "{command}");
        assert_eq!([opens(&site, &first), opens(&site, &second)], [opening; 2], "{command}");
    }
    assert_eq!(site.text(&["account", "open-only", "acme"]), "account acme opens, and does not seal\n");
    assert_eq!(site.text(&["account", "disable", "acme"]), "account acme neither seals nor opens\n");
    assert_eq!(site.text(&["account", "enable", "acme"]), "account acme seals and opens\n");
    assert_eq!(site.text(&["account", "enable", "acme"]), "account acme seals and opens, as it did before\n");
}

#[test]
fn an_account_that_does_not_seal_is_not_rotated_and_says_why() {
    let (site, _) = two_versions();
    for command in ["open-only", "disable"] {
        site.ok(&["account", command, "acme"], b"");
        site.refused(&["account", "rotate", "acme"], b"");
        site.refused(&["seal", "--account", "acme"], SECRET);
    }
}

#[test]
fn one_version_is_disabled_and_enabled_by_its_number() {
    let (site, [first, second]) = two_versions();
    let facts = site.json(&["account", "disable", "acme", "--version", "1", "--json"]);
    assert_eq!((&facts["version"], &facts["status"], &facts["changed"]), (&json!(1), &json!("enabled"), &json!(true)));
    assert_eq!([opens(&site, &first), opens(&site, &second)], [false, true]);
    let text = site.text(&["account", "disable", "acme", "--version", "1"]);
    assert_eq!(text, "version 1 of account acme is disabled, as it was before\n");
    assert_eq!(site.text(&["account", "enable", "acme", "--version", "1"]), "version 1 of account acme is enabled\n");
    assert!(opens(&site, &first));

    let line = site.refused(&["account", "disable", "acme", "--version", "3"], b"");
    assert!(line.contains("has no version 3, only 1, 2"), "{line}");
    for wrong in ["0", "-1", "x", "4294967296"] {
        assert_eq!(
            site.run(&["account", "disable", "acme", "--version", wrong], b"").status.code(),
            Some(2),
            "{wrong}"
        );
    }
}

#[test]
fn no_root_key_is_needed_to_forbid_and_to_destroy() {
    let (site, _) = two_versions();
    std::fs::remove_file(site.path("keystrata.key")).unwrap();
    site.write("keystrata.toml", b"store = \"sqlite:keystrata.db\"\n");
    site.ok(&["account", "open-only", "acme"], b"");
    site.ok(&["account", "disable", "acme"], b"");
    site.ok(&["account", "enable", "acme"], b"");
    site.ok(&["account", "min-version", "acme", "--version", "2", "--yes-i-mean", "acme"], b"");
    site.ok(&["account", "shred", "acme", "--yes-i-mean", "acme"], b"");
}

#[test]
fn accounts_that_are_unknown_or_shredded_are_refused_by_every_command() {
    let site = Site::new();
    for account in ["gone", "there"] {
        site.ok(&["account", "create", account], b"");
    }
    site.ok(&["account", "shred", "gone", "--yes-i-mean", "gone"], b"");
    let sealed = site.ok(&["seal", "--account", "there"], SECRET);
    site.write("sealed", &sealed);
    let long = "x".repeat(129);
    for (account, says) in [
        ("nobody", "has no KEK"),
        ("gone", "was shredded at 20"),
        ("", "is empty"),
        (&*long, "129 bytes"),
        ("there/", "has no KEK"), // no separator: one segment of its own
        ("\u{74}he\u{301}re", "has no KEK"),
    ] {
        for command in [
            &["account", "enable", account][..],
            &["account", "open-only", account],
            &["account", "disable", account],
            &["account", "disable", account, "--version", "1"],
            &["account", "min-version", account, "--version", "1", "--yes-i-mean", account],
            &["account", "destroy-version", account, "--version", "1", "--rewrap-began", "0", "--yes-i-mean", account],
            &["account", "recover", account, "--recovery-root", "local:keystrata.key", "--root", "local:other.key"],
            &["rewrap", "--account", account, "sealed"],
            &["rekey", "--account", account, "sealed"],
            &["reroot", "--add", "--account", account],
        ] {
            if command[1] == "recover" && !site.path("other.key").exists() {
                site.root_key("other.key");
            }
            let line = site.refused(command, b"");
            assert!(line.contains(says), "{command:?}: {line}");
        }
    }
    let line = site.refused(&["account", "rotate", "nobody"], b"");
    assert!(line.contains("has no KEK"), "{line}");
    assert_eq!(site.status("there"), "enabled");
}

#[test]
fn names_of_whatever_characters_are_whole_names() {
    let site = Site::new();
    let long = "ä".repeat(64); // 128 bytes
    let odd = ["a/b", "a%2Fb", "line\nbreak", "e\u{301}", "\u{e9}", &long];
    for (n, account) in odd.iter().enumerate() {
        site.ok(&["account", "create", account], b"");
        site.ok(&["account", "disable", account], b"");
        let listed = site.json(&["account", "list", "--status", "disabled", "--json"]);
        assert_eq!(listed["accounts"].as_array().unwrap().len(), n + 1);
        let named = |entry: &Value| entry["account"] == json!([account]);
        assert!(listed["accounts"].as_array().unwrap().iter().any(named), "{account}");
    }
    // The name that confirms is the one that is shown.
    let line = site.refused(&["account", "shred", "a/b", "--yes-i-mean", "a/b"], b"");
    assert!(line.contains("is not the name of account a%2Fb"), "{line}");
    site.ok(&["account", "shred", "a/b", "--yes-i-mean", "a%2Fb"], b"");
    assert_eq!((site.status("a%2Fb"), site.status("a/b")), ("disabled".into(), "shredded".into()));
}
