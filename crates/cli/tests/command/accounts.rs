//! `keystrata account create`, `rotate`, `list` and `show`.

use serde_json::{Value, json};

use crate::site::{SECRET, Site};

fn names(facts: &Value) -> Vec<String> {
    let accounts = facts["accounts"].as_array().unwrap();
    accounts.iter().map(|entry| entry["account"][0].as_str().unwrap().to_owned()).collect()
}

#[test]
fn create_makes_a_kek_once() {
    let site = Site::new();
    let facts = site.json(&["account", "create", "acme", "--json"]);
    let mut keys: Vec<_> = facts.as_object().unwrap().keys().cloned().collect();
    keys.sort();
    assert_eq!(keys, ["account", "created_at", "kek_id", "suite", "version"]);
    assert_eq!((&facts["account"], &facts["version"]), (&json!(["acme"]), &json!(1)));

    let line = site.refused(&["account", "create", "acme"], b"");
    assert!(line.contains("account acme is there already") && line.contains("account rotate"), "{line}");
    let sealed = site.ok(&["seal", "--account", "acme"], SECRET);
    let header: Value = serde_json::from_slice(&site.ok(&["inspect", "--json"], &sealed)).unwrap();
    assert_eq!(header["kek_id"], facts["kek_id"], "it is what the account seals under");

    let text = site.text(&["account", "create", "acme", "billing"]);
    assert!(text.starts_with("created account acme/billing: ") && text.ends_with("version 1\n"), "{text}");
}

#[test]
fn of_many_who_create_at_once_one_is_told_that_it_did() {
    let site = Site::new();
    let children: Vec<_> = (0..4)
        .map(|_| {
            let mut create = site.process(&["account", "create", "acme"]);
            create.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let statuses: Vec<_> =
        children.into_iter().map(|child| child.wait_with_output().unwrap().status.code().unwrap()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 0).count(), 1, "{statuses:?}");
    assert_eq!(site.json(&["account", "show", "acme", "--json"])["keks"].as_array().unwrap().len(), 1);
}

#[test]
fn rotate_makes_a_new_primary_and_the_old_kek_opens() {
    let site = Site::new();
    let sealed = site.ok(&["seal", "--account", "acme"], SECRET);
    let facts = site.json(&["account", "rotate", "acme", "--json"]);
    assert_eq!((&facts["account"], &facts["version"]), (&json!(["acme"]), &json!(2)));
    assert!(site.text(&["account", "rotate", "acme"]).contains("version 3"));
    assert_eq!(site.ok(&["open", "--account", "acme"], &sealed), SECRET);

    let shown = site.json(&["account", "show", "acme", "--json"]);
    let states: Vec<_> = shown["keks"].as_array().unwrap().iter().map(|kek| kek["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["retired", "retired", "primary"]);
    assert!(shown["keks"][0]["retired_at"].is_u64());
    assert!(site.text(&["account", "show", "acme"]).contains("retired     20"));

    let line = site.refused(&["account", "rotate", "nobody"], b"");
    assert!(line.contains("account nobody has no KEK yet"), "{line}");
}

#[test]
fn what_was_shredded_is_neither_created_nor_rotated() {
    let site = Site::new();
    site.ok(&["seal", "--account", "acme"], SECRET);
    site.ok(&["account", "shred", "acme", "--yes-i-mean", "acme"], b"");
    for command in ["create", "rotate"] {
        let line = site.refused(&["account", command, "acme"], b"");
        assert!(line.contains("was shredded at 20") && line.contains("not used again"), "{line}");
    }
}

#[test]
fn list_pages_and_picks_by_status() {
    let site = Site::new();
    for account in ["a", "b", "c", "d"] {
        site.ok(&["account", "create", account], b"");
    }
    site.ok(&["account", "create", "d", "inner"], b"");
    site.ok(&["account", "shred", "b", "--yes-i-mean", "b"], b"");
    // As if somebody had taken the primary away.
    site.sql("UPDATE account SET primary_id = NULL WHERE hex(path) LIKE '%63'");
    let list = |flags: &[&str]| site.json(&[&["account", "list", "--json"], flags].concat());

    assert_eq!(names(&list(&[])), ["a", "c", "d", "d"]);
    assert_eq!(names(&list(&["--status", "all"])), ["a", "b", "c", "d", "d"]);
    assert_eq!(names(&list(&["--status", "enabled"])), ["a", "d", "d"]);
    assert_eq!(names(&list(&["--status", "shredded"])), ["b"]);
    assert_eq!(names(&list(&["--status", "no-primary"])), ["c"]);
    assert!(names(&list(&["--status", "disabled"])).is_empty());
    assert_eq!(names(&list(&["--limit", "2"])), ["a", "c"]);
    assert_eq!(names(&list(&["--after", "c", "--limit", "1"])), ["d"]);
    assert_eq!(list(&["--after", "d"])["accounts"][0]["account"], json!(["d", "inner"]));
    assert!(names(&list(&["--after", "d", "--after", "inner"])).is_empty());

    let entry = &list(&["--status", "shredded"])["accounts"][0];
    assert!(entry["shredded_at"].is_u64() && entry["kek_id"].is_null(), "{entry}");
    let text = site.text(&["account", "list", "--status", "all"]);
    assert!(text.contains("  shredded    b\n") && text.contains("  no-primary  c\n"), "{text}");
    let shown = site.text(&["account", "show", "b"]);
    assert!(shown.contains("status      shredded\n") && shown.contains("1 KEK(s) destroyed"), "{shown}");
    assert_eq!(site.json(&["account", "show", "c", "--json"])["status"], "no-primary");

    let line = site.refused(&["account", "list", "--after", ""], b"");
    assert!(line.contains("is empty"), "{line}");
    for flags in [&["--limit", "0"][..], &["--limit", "x"], &["--status", "gone"]] {
        assert_eq!(site.run(&[&["account", "list"], flags].concat(), b"").status.code(), Some(2), "{flags:?}");
    }
}

#[test]
fn an_account_that_cannot_be_read_hides_no_other_from_the_list() {
    let site = Site::new();
    for account in ["a", "b", "c"] {
        site.ok(&["account", "create", account], b"");
    }
    site.sql("UPDATE kek SET record = x'00' WHERE hex(path) LIKE '%62'");
    let output = site.run(&["account", "list", "--json"], b"");
    let line = site.failure_line(&output);
    assert!(line.contains("1 account(s)") && line.contains("account b") && line.contains("store check"), "{line}");
    assert_eq!(names(&serde_json::from_slice(&output.stdout).unwrap()), ["a", "c"]);
}
