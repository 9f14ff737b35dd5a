//! `keystrata reroot` and `account rotate --older-than`: all accounts, as jobs that can be killed and gone on with.

use std::{
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use keystrata_hierarchy::Hierarchy;
use keystrata_kms::LocalRootKey;
use keystrata_store::SqliteKekStore;
use serde_json::{Value, json};

use crate::{
    site::{SECRET, Site},
    store_copy,
    versions::rotated_an_hour_ago,
};

const OLD: &str = "local:keystrata.key";
const MOVING: [&str; 4] = ["--root", "local:new.key", "--former-root", OLD];

/// Three accounts, one of them shredded, an envelope of `acme`, and a second root key.
fn three() -> (Site, Vec<u8>) {
    let (site, sealed) = store_copy::three();
    site.root_key("new.key");
    (site, sealed)
}

fn reroot<'a>(step: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["reroot", step], &MOVING[..], more].concat()
}

fn counts(facts: &Value) -> [u64; 6] {
    ["accounts", "changed", "unchanged", "failed", "added", "dropped"].map(|key| facts[key].as_u64().unwrap())
}

#[test]
fn accounts_are_moved_in_two_steps_and_envelopes_open_all_the_while() {
    let (site, sealed) = three();
    let (old, new) = (site.root_id("keystrata.key"), site.root_id("new.key"));
    let before = site.files();
    let plan = site.json(&reroot("--add", &["--dry-run", "--json"]));
    assert_eq!((counts(&plan), &plan["dry_run"]), ([2, 2, 0, 0, 3, 0], &json!(true)));
    assert!(site.text(&reroot("--add", &["--dry-run"])).contains("2 would be rerooted, 0 as they are to be, 0 failed"));
    assert_eq!(site.files(), before);

    let facts = site.json(&reroot("--add", &["--json"]));
    let expected = json!({
        "step": "add", "dry_run": false, "accounts": 2, "changed": 2, "unchanged": 0, "failed": 0, "added": 3, "dropped": 0,
        "examples": [], "kms": null,
    });
    assert_eq!(facts, expected);
    for kek in site.wraps("acme") {
        assert!(kek.contains(&old) && kek.contains(&new), "{kek:?}");
    }
    let opens = |roots: &[&str]| site.ok(&[&["open", "--account", "acme"], roots].concat(), &sealed) == SECRET;
    assert!(opens(&[]) && opens(&["--root", "local:new.key"]));
    assert_eq!(counts(&site.json(&reroot("--add", &["--json"]))), [2, 0, 2, 0, 0, 0]);

    // Not before somebody named the root key that stays.
    let plan = site.json(&reroot("--retire", &["--dry-run", "--json"]));
    assert_eq!(counts(&plan), [2, 2, 0, 0, 0, 3]);
    for (more, says) in [
        (&[][..], "--yes-i-mean local:new.key"),
        (&["--yes-i-mean", OLD], "is not the first root key that stays, local:new.key"),
        (&["--yes-i-mean", "yes"], "nothing was done"),
    ] {
        let line = site.refused(&reroot("--retire", more), b"local:new.key\n");
        assert!(line.contains(says), "{line}");
    }
    let done = site.text(&reroot("--verify-and-retire", &["--from", OLD, "--yes-i-mean", "local:new.key"]));
    assert_eq!(done, "2 account(s): 2 rerooted, 0 as they are to be, 0 failed; 0 wrap(s) added, 3 dropped\n");
    assert!(site.wraps("acme").iter().all(|kek| *kek == [new.clone()]));
    assert!(opens(&["--root", "local:new.key"]));
    site.refused(&["open", "--account", "acme"], &sealed);
    assert_eq!(site.json(&["store", "check", "--root", "local:new.key", "--unwrap", "--json"])["clean"], true);
}

#[test]
fn several_root_keys_of_the_settings_each_wrap_every_kek() {
    let (site, sealed) = three();
    site.write(
        "keystrata.toml",
        b"store = \"sqlite:keystrata.db\"\nroot = [\"local:keystrata.key\", \"local:new.key\"]\n",
    );
    assert_eq!(counts(&site.json(&["reroot", "--add", "--json"])), [2, 2, 0, 0, 3, 0]);
    site.ok(&["account", "create", "later"], b"");
    assert_eq!(site.wraps("later")[0].len(), 2);
    // Losing one of them leaves all readable.
    std::fs::remove_file(site.path("keystrata.key")).unwrap();
    assert_eq!(site.ok(&["open", "--account", "acme", "--root", "local:new.key"], &sealed), SECRET);
}

#[test]
fn one_account_or_those_under_one_root_key_are_moved_alone() {
    let (site, _) = three();
    let facts = site.json(&reroot("--add", &["--account", "acme", "--json"]));
    assert_eq!((counts(&facts), &facts["step"]), ([1, 1, 0, 0, 2, 0], &json!("add")));
    assert_eq!(site.wraps("plain")[0].len(), 1);
    assert_eq!(counts(&site.json(&reroot("--add", &["--account", "acme", "--dry-run", "--json"]))), [1, 0, 1, 0, 0, 0]);
    site.ok(&reroot("--retire", &["--account", "acme", "--yes-i-mean", "local:new.key"]), b"");
    // By its URI or its id; `acme` is not under it any more.
    let id = site.root_id("keystrata.key");
    for from in [OLD, &id] {
        assert_eq!(counts(&site.json(&reroot("--add", &["--from", from, "--dry-run", "--json"])))[0], 1, "{from}");
    }
    let line = site.refused(&reroot("--add", &["--from", "local:kestrata.key"]), b"");
    assert!(line.contains("none of the root keys of the settings: local:new.key, local:keystrata.key"), "{line}");
    for usage in [
        &["reroot"][..],
        &["reroot", "--add", "--retire"],
        &["reroot", "--add", "--yes-i-mean", "x"],
        &["reroot", "--add", "--account", "acme", "--checkpoint", "c"],
        &["reroot", "--add", "--dry-run", "--checkpoint", "c"],
        &["reroot", "--add", "--at-once", "0"],
    ] {
        assert_eq!(site.run(usage, b"").status.code(), Some(2), "{usage:?}");
    }
}

#[test]
fn nothing_is_retired_of_what_was_not_added() {
    let (site, sealed) = three();
    let retire = reroot("--retire", &["--yes-i-mean", "local:new.key", "--json"]);
    let facts: Value = serde_json::from_slice(&site.findings(&retire)).unwrap();
    assert_eq!(counts(&facts), [2, 0, 0, 2, 0, 0]);
    // In whichever order they were looked at.
    for name in ["acme", "plain"] {
        let example = facts["examples"].as_array().unwrap().iter().find(|example| example["account"] == json!([name]));
        let example = example.unwrap();
        assert_eq!(example["kind"], "failed");
        assert!(example["message"].as_str().unwrap().contains("add that first"), "{example}");
    }
    let line = site.refused(&reroot("--retire", &["--yes-i-mean", "local:new.key", "--account", "acme"]), b"");
    assert!(line.contains("add that first"), "{line}");
    assert_eq!(site.ok(&["open", "--account", "acme"], &sealed), SECRET);
}

#[test]
fn a_broken_account_is_told_and_the_others_are_moved() {
    let (site, _) = three();
    site.sql("UPDATE kek SET record = x'00' WHERE hex(path) LIKE '%61636D65'");
    let facts: Value = serde_json::from_slice(&site.findings(&reroot("--add", &["--json"]))).unwrap();
    assert_eq!(counts(&facts), [2, 1, 0, 1, 1, 0]);
    let text = String::from_utf8(site.findings(&reroot("--add", &[]))).unwrap();
    assert!(text.contains("account acme: ") && text.contains("1 failed"), "{text}");
    // A root key that wrapped nothing here, and one that is not named.
    let line = site.refused(&["reroot", "--add", "--root", "local:missing.key"], b"");
    assert!(line.contains("missing.key"), "{line}");
    let alone = ["reroot", "--add", "--root", "local:new.key", "--json"];
    let facts: Value = serde_json::from_slice(&site.findings(&alone)).unwrap();
    assert_eq!(facts["failed"], 1, "{facts}");
}

#[test]
fn a_checkpoint_that_is_not_of_this_job_is_refused_and_stays() {
    let (site, _) = three();
    let job = reroot("--add", &["--checkpoint", "job"]);
    site.ok(&job, b"");
    assert!(!site.path("job").exists(), "the job is done");
    // Made by the engine, for this job on this store, on another, and for another job.
    let there = checkpoint(&site, "keystrata.db");
    site.write("job", there.as_bytes());
    site.ok(&job, b"");
    site.ok(&["init", "--config", "other.toml", "--store", "sqlite:other.db", "--root", "local:other.key"], b"");
    site.ok(&["account", "create", "acme", "--config", "other.toml"], b"");
    let other = checkpoint(&site, "other.db");
    let newer = there.replacen("kscp1", "kscp9", 1);
    for (text, says) in [
        (&*other, "another store"),
        (&newer, "version 9"),
        (&there[..there.len() - 5], "not all of one"),
        ("Dear Sir or Madam", "not a checkpoint"),
        ("", "not a checkpoint"),
    ] {
        site.write("job", text.as_bytes());
        let line = site.refused(&job, b"");
        assert!(line.contains(says), "{line}");
    }
    site.write("job", there.as_bytes());
    for another in [
        &reroot("--retire", &["--yes-i-mean", "local:new.key", "--checkpoint", "job"])[..],
        &reroot("--add", &["--from", OLD, "--checkpoint", "job"]),
        &["account", "rotate", "--older-than", "90d", "--checkpoint", "job"],
    ] {
        let line = site.refused(another, b"");
        assert!(line.contains("of another job"), "{line}");
    }
    site.write("job", &[0xff; 100]);
    assert!(site.refused(&job, b"").contains("not a checkpoint"));
    for place in ["missing/job", "."] {
        site.refused(&reroot("--add", &["--checkpoint", place]), b"");
    }
}

/// What a job of adding has reported on that store.
fn checkpoint(site: &Site, store: &str) -> String {
    use keystrata_hierarchy::{Reroot, jobs::Task};
    with_keys(site, store, |keys| async move {
        let mut saved = String::new();
        let job = keys.job(Task::Reroot { step: Reroot::Add, under: None });
        job.run(|progress| saved = progress.checkpoint.to_string()).await.unwrap();
        saved
    })
}

fn with_keys<T, F: Future<Output = T>>(site: &Site, store: &str, work: impl FnOnce(Hierarchy) -> F) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = SqliteKekStore::open_existing(site.path(store)).await.unwrap();
        let root = LocalRootKey::open(site.path("keystrata.key")).unwrap();
        work(Hierarchy::builder().root_key(root).store(Arc::new(store)).build().unwrap()).await
    })
}

/// Kills a job after its first checkpoint, as often as it takes to meet it there, and lets another go on.
#[test]
fn a_job_that_was_killed_goes_on_from_its_checkpoint() {
    const ACCOUNTS: u64 = 1_000;
    let site = Site::new();
    site.root_key("new.key");
    with_keys(&site, "keystrata.db", |keys| async move {
        for n in 0..ACCOUNTS {
            keys.account(format!("account {n}")).unwrap().create().await.unwrap();
        }
    });
    for attempt in 0.. {
        assert!(attempt < 20, "no job could be met in its middle");
        let (name, store) = (format!("{attempt}.db"), format!("sqlite:{attempt}.db"));
        site.ok(&["store", "backup", &name], b"");
        let job = reroot("--add", &["--store", &store, "--checkpoint", "job"]);
        let mut child = site.process(&job).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !site.path("job").exists() && child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "no checkpoint is written");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if !site.path("job").exists() {
            continue; // it was quicker than the test
        }
        let rest = site.json(&[&job[..], &["--json"]].concat());
        let [accounts, changed, unchanged, failed, added, _] = counts(&rest);
        assert_eq!((accounts, changed + unchanged, failed), (ACCOUNTS, ACCOUNTS, 0));
        // What was before the checkpoint is counted and not looked at again; what came after it is found done.
        assert!(changed >= 256 && added == changed, "{rest}");
        assert!(!site.path("job").exists());
        let whole = site.json(&reroot("--add", &["--store", &store, "--dry-run", "--json"]));
        assert_eq!(counts(&whole), [ACCOUNTS, 0, ACCOUNTS, 0, 0, 0]);
        break;
    }
}

#[test]
fn accounts_whose_primary_is_old_are_rotated() {
    let (site, _) = three();
    let fresh = Site::new();
    rotated_an_hour_ago(&fresh);
    for account in ["young", "leaving"] {
        fresh.ok(&["account", "create", account], b"");
    }
    let rotate =
        |age: &str, more: &[&str]| fresh.json(&[&["account", "rotate", "--older-than", age, "--json"], more].concat());
    let plan = rotate("30m", &["--dry-run"]);
    let expected = json!({
        "dry_run": true, "accounts": 3, "changed": 1, "unchanged": 2, "failed": 0, "examples": [], "kms": null,
    });
    assert_eq!(plan, expected);
    assert_eq!(rotate("30m", &["--checkpoint", "job"])["changed"], 1);
    assert_eq!(fresh.wraps("acme").len(), 3);
    assert_eq!(rotate("30m", &[])["changed"], 0);
    fresh.ok(&["account", "open-only", "leaving"], b"");
    let text = fresh.text(&["account", "rotate", "--older-than", "0s", "--dry-run"]);
    assert_eq!(text, "3 account(s): 2 would be rotated, 1 younger or not sealing, 0 failed\n");
    for usage in [
        &["account", "rotate"][..],
        &["account", "rotate", "acme", "--older-than", "1d"],
        &["account", "rotate", "--older-than", "soon"],
    ] {
        assert_eq!(site.run(usage, b"").status.code(), Some(2), "{usage:?}");
    }
    let line = site.refused(&["account", "rotate", "acme", "--dry-run"], b"");
    assert!(line.contains("--older-than"), "{line}");
}

/// It would fail account after account, and pass over them: it stops, and what it is to be gone on with stays.
#[cfg(feature = "vault")]
#[test]
fn a_root_key_that_does_not_answer_stops_the_job_and_changes_nothing() {
    let (site, sealed) = three();
    let checkpoint = checkpoint(&site, "keystrata.db");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let dead = format!("vault-transit:http://127.0.0.1:{port}/transit/keys/k");
    let job = ["reroot", "--add", "--root", &dead, "--former-root", OLD, "--kms-rate", "1000", "--kms-burst", "100"];
    for more in [&[][..], &["--account", "acme"], &["--checkpoint", "job"]] {
        let before = site.files();
        let output = site.command(&[&job[..], more].concat()).env("VAULT_TOKEN", "hunter2").output().unwrap();
        let line = site.failure_line(&output);
        assert!(line.contains("cannot be reached") && !line.contains("hunter2"), "{line}");
        assert_eq!(line.contains("run it again when the cause is gone"), !more.contains(&"--account"), "{line}");
        assert_eq!(site.files(), before);
    }
    // What a job left that had got somewhere.
    site.write("job", checkpoint.as_bytes());
    site.ok(&["account", "create", "zzz later"], b"");
    let resumed = [&job[..], &["--checkpoint", "job"]].concat();
    let output = site.command(&resumed).env("VAULT_TOKEN", "hunter2").output().unwrap();
    assert!(site.failure_line(&output).contains("from its last checkpoint"));
    assert_eq!(site.read("job"), checkpoint.as_bytes());
    assert_eq!(site.ok(&["open", "--account", "acme"], &sealed), SECRET);
}
