//! The commands of the runbook in `docs/operations.md`, exactly as they stand there.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::json;

use crate::{
    site::{SECRET, Site},
    versions::rotated_an_hour_ago,
};

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
    let tested = [
        "Check after a restore",
        "Destroy an old version",
        "Every day",
        "KMS denied by mistake",
        "Move to another store",
        "Region move",
        "Root key lost",
        "Root key rotation",
        "Store lost",
        "Suspected KEK leak",
        "Tenant leaves",
        "Upgrade",
    ];
    assert_eq!(titles, tested);
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

/// A day's site with the envelope of `acme` among its objects.
fn day_with_objects() -> (Site, Vec<u8>) {
    let (site, sealed) = day();
    fs::create_dir(site.path("objects")).unwrap();
    site.write("objects/card.ks", &sealed);
    (site, sealed)
}

#[test]
fn after_a_leak_objects_have_new_keys_and_the_leaked_kek_opens_nothing() {
    let (site, sealed) = day_with_objects();
    let said = follow(&site, "Suspected KEK leak");
    assert!(said.contains("1 file(s): 1 rekeyed") && said.contains("version 2 and later"), "{said}");
    assert_eq!(site.ok(&["open", "--account", "acme", "objects/card.ks"], b""), SECRET);
    site.refused(&["open", "--account", "acme"], &sealed);
    assert_ne!(site.read("objects/card.ks")[124..], sealed[124..]);
}

#[test]
fn an_old_version_is_destroyed_after_its_objects_were_rewrapped() {
    let site = Site::new();
    let [first, second] = rotated_an_hour_ago(&site);
    fs::create_dir(site.path("objects")).unwrap();
    site.write("objects/first.ks", &first).write("objects/second.ks", &second);
    let said = follow(&site, "Destroy an old version");
    assert!(said.contains("1 rewrapped, 1 unchanged") && said.contains("is destroyed"), "{said}");
    for name in ["objects/first.ks", "objects/second.ks"] {
        assert_eq!(site.ok(&["open", "--account", "acme", name], b""), SECRET);
    }
    site.refused(&["open", "--account", "acme"], &first);
}

#[test]
fn a_root_key_is_rotated() {
    let (site, sealed) = day();
    site.root_key("new.key");
    let said = follow(&site, "Root key rotation");
    assert!(said.contains("3 would be rerooted") && said.contains("3 wrap(s) added, 0 dropped"), "{said}");
    assert!(said.contains("0 wrap(s) added, 3 dropped"), "{said}");
    fs::remove_file(site.path("keystrata.key")).unwrap();
    assert_eq!(site.ok(&["open", "--account", "acme", "--root", "local:new.key"], &sealed), SECRET);
}

#[test]
fn store_and_root_key_are_moved_to_another_region() {
    let (site, sealed) = day();
    site.root_key("far.key");
    let said = follow(&site, "Region move");
    assert!(said.contains("6 of 6 wrap(s) gave their KEK") && said.contains("3 of 3 wrap(s)"), "{said}");
    for name in ["keystrata.key", "keystrata.db"] {
        fs::remove_file(site.path(name)).unwrap();
    }
    let there = ["open", "--account", "acme", "--root", "local:far.key", "--store", "sqlite:far.db"];
    assert_eq!(site.ok(&there, &sealed), SECRET);
}

#[test]
fn a_tenant_who_has_left_is_in_no_backup() {
    let (site, _) = day();
    let leaving = site.ok(&["seal", "--account", "leaving"], SECRET);
    site.ok(&["store", "backup", "backup/2026-01-01T000000Z.db"], b"");
    follow(&site, "Tenant leaves");
    assert_eq!(site.status("leaving"), "shredded");
    let backups =
        fs::read_dir(site.path("backup")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let backups: Vec<_> = backups.filter(|name| name.contains(".db")).collect();
    assert_eq!(backups.len(), 1, "{backups:?}");
    let store = format!("sqlite:backup/{}", backups[0]);
    assert!(site.refused(&["open", "--account", "leaving", "--store", &store], &leaving).contains("shredded"));
    assert!(String::from_utf8(site.read("backup/shredded.json")).unwrap().contains("leaving"));
}

#[test]
fn after_a_denial_by_mistake_all_is_as_it_was() {
    let (site, sealed) = day();
    fs::rename(site.path("keystrata.key"), site.path("taken away")).unwrap();
    site.findings(&["root", "verify"]);
    site.refused(&["open", "--account", "acme"], &sealed);
    fs::rename(site.path("taken away"), site.path("keystrata.key")).unwrap();
    follow(&site, "KMS denied by mistake");
    assert_eq!(site.ok(&["open", "--account", "acme"], &sealed), SECRET);
}

#[test]
fn a_lost_root_key_is_replaced_by_way_of_the_recovery_root() {
    let site = Site::new();
    for key in ["recovery.key", "new.key"] {
        site.root_key(key);
    }
    let settings = [&site.read("keystrata.toml")[..], b"recovery_root = \"local:recovery.key\"\n"].concat();
    site.write("keystrata.toml", &settings);
    let sealed = ["acme", "globex"].map(|account| site.ok(&["seal", "--account", account], SECRET));
    fs::remove_file(site.path("keystrata.key")).unwrap();
    let said = follow(&site, "Root key lost");
    assert!(said.contains("1 rerooted, 1 as they are to be") && said.contains("nothing wrong was found"), "{said}");
    for (account, sealed) in ["acme", "globex"].iter().zip(sealed) {
        assert_eq!(site.ok(&["open", "--account", account, "--root", "local:new.key"], &sealed), SECRET);
        let mut wraps = site.wraps(account)[0].clone();
        wraps.sort();
        let mut expected = [site.root_id("new.key"), site.root_id("recovery.key")];
        expected.sort();
        assert_eq!(wraps, expected);
    }
}
