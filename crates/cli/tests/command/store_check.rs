//! `keystrata store check`: clean, findings, or it could not run.

use serde_json::{Value, json};

use crate::site::{NO_STORE, NO_STORE_SAYS, SECRET, Site};

/// A site with the accounts `a` to `d`, of which `d` was shredded.
fn four() -> Site {
    let site = Site::new();
    for account in ["a", "b", "c", "d"] {
        site.ok(&["account", "create", account], b"");
    }
    site.ok(&["account", "rotate", "a"], b"");
    site.ok(&["account", "shred", "d", "--yes-i-mean", "d"], b"");
    site
}

#[test]
fn a_clean_store_is_said_to_be() {
    let site = four();
    let before = site.files();
    let facts = site.json(&["store", "check", "--json"]);
    let expected = json!({
        "store": "sqlite:keystrata.db", "clean": true, "accounts": 4, "shredded": 1, "keks": 5,
        "root_wraps": 4, "parent_wraps": 0, "findings": 0, "kinds": {}, "examples": [], "unwrap": null,
    });
    assert_eq!(facts, expected);
    let text = site.text(&["store", "check"]);
    assert!(text.starts_with("4 account(s), 1 of them shredded; 5 KEK(s)"), "{text}");
    assert!(text.ends_with("nothing wrong was found\n"), "{text}");

    // A root key in a file costs nothing, so nobody is asked.
    let facts = site.json(&["store", "check", "--unwrap", "--json"]);
    let unwrap = json!({
        "root_wraps": 4, "parent_wraps": 0, "unwrapped": 4, "findings": 0, "kms_calls": 0, "estimated_usd": null,
    });
    assert_eq!(facts["unwrap"], unwrap);
    assert!(site.text(&["store", "check", "--unwrap"]).contains("4 of 4 wrap(s) gave their KEK\n"));
    assert_eq!(site.files(), before);
}

#[test]
fn what_somebody_did_to_the_file_is_found() {
    let site = four();
    // A broken record, an account without primary, a secret put back after a shredding: see the library's tests for the rest.
    site.sql(
        "UPDATE kek SET record = x'00' WHERE hex(path) LIKE '%61' AND state = 2;
         UPDATE account SET primary_id = NULL WHERE hex(path) LIKE '%62';
         UPDATE account SET min_version = 9 WHERE hex(path) LIKE '%63';",
    );
    let output = site.findings(&["store", "check", "--json"]);
    let facts: Value = serde_json::from_slice(&output).unwrap();
    assert_eq!((&facts["clean"], &facts["accounts"], &facts["findings"]), (&json!(false), &json!(4), &json!(4)));
    let kinds = json!({ "unreadable": 1, "no-primary": 1, "second-primary": 1, "primary-below-min-version": 1 });
    assert_eq!(facts["kinds"], kinds);
    let examples = facts["examples"].as_array().unwrap();
    let of = |name: &str| examples.iter().filter(|example| example["account"] == json!([name])).count();
    assert_eq!((of("a"), of("b"), of("c"), of("d")), (1, 2, 1, 0));
    for example in examples {
        assert!(example["message"].as_str().unwrap().len() > 20, "{example}");
    }

    let text = String::from_utf8(site.findings(&["store", "check", "--examples", "0"])).unwrap();
    let summary = "4 finding(s): 1 no-primary, 1 primary-below-min-version, 1 second-primary, 1 unreadable\n";
    assert!(text.ends_with(summary) && text.lines().count() == 2, "{text}");
    let text = String::from_utf8(site.findings(&["store", "check"])).unwrap();
    assert!(text.contains("unreadable                account a: its records cannot be read: "), "{text}");
}

#[test]
fn a_root_key_that_is_not_configured_is_found() {
    let site = four();
    site.ok(&["init", "--config", "second.toml", "--root", "local:new.key", "--store", "sqlite:new.db"], b"");
    let other = ["--root", "local:new.key"];
    let check = [&["store", "check", "--json"], &other[..]].concat();
    let facts: Value = serde_json::from_slice(&site.findings(&check)).unwrap();
    assert_eq!(facts["kinds"], json!({ "unknown-root": 4 }));
    let former = [&check[..], &["--former-root", "local:keystrata.key"]].concat();
    assert_eq!(site.json(&former)["clean"], true);
    std::fs::remove_file(site.path("keystrata.key")).unwrap();
    assert_eq!(site.json(&["store", "check", "--any-root", "--json"])["clean"], true);
    let line = site.refused(&["store", "check"], b"");
    assert!(line.contains("--any-root") && line.contains("keystrata.key"), "{line}");
}

#[test]
fn a_kek_that_cannot_be_unwrapped_is_found_by_trying() {
    let site = Site::new();
    site.ok(&["seal", "--account", "acme"], SECRET);
    // The last byte of a record is one of the wrapped secret.
    let db = rusqlite::Connection::open(site.path("keystrata.db")).unwrap();
    let mut record: Vec<u8> = db.query_row("SELECT record FROM kek", [], |row| row.get(0)).unwrap();
    *record.last_mut().unwrap() ^= 1;
    db.execute("UPDATE kek SET record = ?1", [record]).unwrap();
    db.close().unwrap();
    assert_eq!(site.json(&["store", "check", "--json"])["clean"], true, "it shows by trying alone");
    let facts: Value = serde_json::from_slice(&site.findings(&["store", "check", "--unwrap", "--json"])).unwrap();
    assert_eq!(facts["kinds"], json!({ "not-unwrapped": 1 }));
    assert_eq!((&facts["unwrap"]["unwrapped"], &facts["findings"]), (&json!(0), &json!(1)));
    assert_eq!(facts["examples"][0]["account"], json!(["acme"]));
}

#[test]
fn what_could_not_be_checked_is_a_failure_and_no_finding() {
    let site = four();
    let line = site.refused(&["store", "check", "--store", "sqlite:missing.db"], b"");
    assert!(line.starts_with("keystrata: store check: ") && line.contains("missing.db"), "{line}");
    let line = site.refused(&["store", "check", "--store", NO_STORE], b"");
    assert!(line.contains(NO_STORE_SAYS), "{line}");
    site.sql("UPDATE account SET path = x'00' WHERE hex(path) LIKE '%63'");
    let line = site.refused(&["store", "check"], b"");
    assert!(line.contains("backup"), "{line}");
    for flags in [&["--yes"][..], &["--unwrap", "--any-root"]] {
        assert_eq!(site.run(&[&["store", "check"], flags].concat(), b"").status.code(), Some(2));
    }
}
