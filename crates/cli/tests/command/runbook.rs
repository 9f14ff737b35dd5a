//! The commands of the runbook in `docs/operations.md`, exactly as they stand there.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::json;

use crate::site::{SECRET, Site};

/// The commands of each section, by its title.
fn runbook() -> BTreeMap<String, String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md")).unwrap();
    let (_, runbook) = text.split_once("\n## Runbook\n").expect("a section Runbook");
    let runbook = runbook.split("\n## ").next().unwrap();
    let mut sections = BTreeMap::new();
    for section in runbook.split("\n### ").skip(1) {
        let (title, body) = section.split_once('\n').unwrap();
        let blocks = body.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
        sections.insert(title.to_owned(), blocks.collect::<String>());
    }
    sections
}

/// Runs a section; every command of it must succeed. Returns its stdout.
#[track_caller]
fn follow(site: &Site, title: &str) -> String {
    let output = site.shell(&runbook()[title]).env("BACKUP", site.path("backup")).output().unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!((output.status.code(), &*stderr), (Some(0), ""), "{title}: {stdout}");
    stdout
}

/// A site after a day, with an envelope of `acme`.
fn day() -> (Site, Vec<u8>) {
    let site = Site::new();
    fs::create_dir(site.path("backup")).unwrap();
    for account in ["gone", "canary"] {
        site.ok(&["account", "create", account], b"");
    }
    let sealed = site.ok(&["seal", "--account", "acme"], SECRET);
    let said = follow(&site, "Every day");
    assert!(said.contains("has 3 account(s)") && said.contains("nothing wrong was found"), "{said}");
    (site, sealed)
}

#[test]
fn every_section_of_the_runbook_is_tested() {
    let sections = runbook();
    let titles: Vec<_> = sections.keys().map(String::as_str).collect();
    assert_eq!(titles, ["Check after a restore", "Every day", "Move to another store", "Store lost", "Upgrade"]);
}

#[test]
fn a_lost_store_is_restored_and_checked() {
    let (site, sealed) = day();
    // After the backup: an account that is lost with the store, and one whose shredding is.
    let later = site.ok(&["seal", "--account", "later"], SECRET);
    site.ok(&["account", "shred", "gone", "--yes-i-mean", "gone"], b"");
    site.write("keystrata.db", b"");
    site.refused(&["open", "--account", "acme"], &sealed);

    let said = follow(&site, "Store lost");
    assert!(said.contains("3 account(s): 3 copied and read back"), "{said}");
    assert!(site.path("lost/keystrata.db").exists());
    assert!(site.refused(&["open", "--account", "later"], &later).contains("has no KEK"));
    let gone = |site: &Site| site.json(&["account", "show", "gone", "--json"])["status"].clone();
    assert_eq!(gone(&site), "enabled", "it came back");

    let said = follow(&site, "Check after a restore");
    assert!(said.contains("works   local:keystrata.key") && said.contains("nothing wrong was found"), "{said}");
    assert_eq!(gone(&site), "shredded");
    assert_eq!(site.ok(&["open", "--account", "acme"], &sealed), SECRET);
    assert_eq!(site.json(&["account", "show", "acme", "--json"])["keks"].as_array().unwrap().len(), 2);
}

#[test]
fn a_restore_from_a_damaged_backup_stops_before_anything_is_copied() {
    let (site, _) = day();
    let backup = fs::read_dir(site.path("backup")).unwrap().map(|entry| entry.unwrap().path());
    let backup = backup.into_iter().find(|path| path.to_string_lossy().ends_with("Z.db")).unwrap();
    let name = backup.strip_prefix(site.path("")).unwrap().to_str().unwrap();
    site.sql_on(name, "UPDATE account SET primary_id = NULL");
    fs::remove_file(site.path("keystrata.db")).unwrap();
    let output = site.shell(&runbook()["Store lost"]).env("BACKUP", site.path("backup")).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "the check's own status");
    assert!(!site.path("keystrata.db").exists());
}

#[test]
fn an_upgrade_keeps_the_old_schema_in_the_backup() {
    let (site, _) = day();
    site.old_store("keystrata.db");
    // No root key of this site wrapped what is in that file.
    let commands = runbook()["Upgrade"].replace("keystrata store check", "keystrata store check --any-root");
    let output = site.shell(&commands).env("BACKUP", site.path("backup")).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("to bring it to version 2 would") && said.contains("has version 2 now"), "{said}");
    let plan = ["store", "migrate", "--dry-run", "--json", "--store", "sqlite:backup/before-upgrade.db"];
    assert_eq!(site.json(&plan)["from"], json!(1));
}

#[test]
fn an_upgrade_of_a_store_that_is_of_this_release_does_nothing() {
    let (site, sealed) = day();
    let said = follow(&site, "Upgrade");
    assert!(said.contains("there is nothing to do") && said.contains("nothing wrong was found"), "{said}");
    assert_eq!(site.ok(&["open", "--account", "acme"], &sealed), SECRET);
}

#[test]
fn a_store_is_moved() {
    let (site, sealed) = day();
    let said = follow(&site, "Move to another store");
    let expected =
        ["3 would be copied", "3 copied and read back", "0 copied and read back, 3 there already", "nothing wrong"];
    assert!(expected.iter().all(|part| said.contains(part)), "{said}");
    assert_eq!(site.ok(&["open", "--account", "acme", "--store", "sqlite:new.db"], &sealed), SECRET);
}
