//! `keystrata store backup` and `migrate`.

use serde_json::json;

use crate::site::{NO_STORE, SECRET, Site};

#[test]
fn a_backup_restores_by_putting_it_in_place() {
    let site = Site::new();
    let sealed = site.ok(&["seal", "--account", "acme"], SECRET);
    let facts = site.json(&["store", "backup", "backup.db", "--json"]);
    let bytes = site.read("backup.db").len();
    let expected = json!({ "store": "sqlite:keystrata.db", "file": "backup.db", "bytes": bytes, "accounts": 1 });
    assert_eq!(facts, expected);
    let line = site.refused(&["store", "backup", "backup.db"], b"");
    assert!(line.contains("backup.db") && line.contains("already there"), "{line}");
    let line = site.refused(&["store", "backup", "no/such/folder/backup.db"], b"");
    assert!(line.contains("make the folder"), "{line}");
    assert!(
        site.text(&["store", "backup", "second.db"]).starts_with("second.db has 1 account(s) of sqlite:keystrata.db")
    );

    for file in ["keystrata.db", "keystrata.db-wal", "keystrata.db-shm"] {
        let _ = std::fs::remove_file(site.path(file));
    }
    std::fs::rename(site.path("backup.db"), site.path("keystrata.db")).unwrap();
    assert_eq!(site.ok(&["open", "--account", "acme"], &sealed), SECRET);
}

#[test]
fn a_migration_says_what_it_does_before_and_after() {
    let site = Site::new();
    site.old_store("old.db");
    let before = site.files();
    let store = ["--store", "sqlite:old.db"];
    let plan = site.text(&[&["store", "migrate", "--dry-run"], &store[..]].concat());
    assert!(plan.starts_with("sqlite:old.db has schema version 1; to bring it to version 2 would\n- "), "{plan}");
    assert!(plan.contains("update all processes that use the store first"), "{plan}");
    assert_eq!(site.files(), before);
    let facts = site.json(&[&["store", "migrate", "--json"], &store[..]].concat());
    assert_eq!((&facts["from"], &facts["to"], &facts["dry_run"]), (&json!(1), &json!(2), &json!(false)));
    assert_eq!(facts["steps"].as_array().unwrap().len(), 4);
    let again = site.text(&[&["store", "migrate"], &store[..]].concat());
    assert_eq!(again, "sqlite:old.db has schema version 2, that of this release: there is nothing to do\n");
    assert_eq!(
        site.json(&[&["account", "list", "--json"], &store[..]].concat())["accounts"].as_array().unwrap().len(),
        3
    );
}

#[test]
fn a_store_of_a_newer_release_and_one_that_is_missing_are_refused() {
    let site = Site::new();
    site.sql("PRAGMA user_version = 9999");
    for command in [&["store", "migrate"][..], &["store", "migrate", "--dry-run"], &["store", "backup", "b.db"]] {
        let line = site.refused(command, b"");
        assert!(line.contains("version 9999") && line.contains("update keystrata"), "{line}");
        let line = site.refused(&[command, &["--store", "sqlite:missing.db"]].concat(), b"");
        assert!(line.contains("missing.db"), "{line}");
        site.refused(&[command, &["--store", NO_STORE]].concat(), b"");
    }
}
