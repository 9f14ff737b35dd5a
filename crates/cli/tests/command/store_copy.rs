//! `keystrata store copy`: all or what is missing, and never over what is there.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use keystrata_hierarchy::{KekId, KekRecord, KekState, KekStore, KekVersion, KeyPath, RootKeyId, Suite};
use keystrata_primitives::{KekCheck, KekIdentity, WrappedSecret, Wrapper};
use keystrata_store::SqliteKekStore;
use serde_json::{Value, json};

use crate::site::{NO_STORE, NO_STORE_SAYS, SECRET, Site};

const COPY: [&str; 6] = ["store", "copy", "--from", "sqlite:keystrata.db", "--to", "sqlite:new.db"];

fn counts(facts: &Value) -> [u64; 5] {
    ["accounts", "copied", "same", "differ", "failed"].map(|key| facts[key].as_u64().unwrap())
}

/// A site with an account that was rotated, one that was shredded and a plain one; and an envelope of the first.
pub(crate) fn three() -> (Site, Vec<u8>) {
    let site = Site::new();
    let sealed = site.ok(&["seal", "--account", "acme"], SECRET);
    site.ok(&["account", "rotate", "acme"], b"");
    for account in ["gone", "plain"] {
        site.ok(&["account", "create", account], b"");
    }
    site.ok(&["account", "shred", "gone", "--yes-i-mean", "gone"], b"");
    (site, sealed)
}

#[test]
fn a_copy_opens_what_the_store_did_and_is_made_once() {
    let (site, sealed) = three();
    let before = site.files();
    let facts = site.json(&[&COPY[..], &["--dry-run", "--json"]].concat());
    assert_eq!((counts(&facts), &facts["dry_run"]), ([3, 3, 0, 0, 0], &json!(true)));
    assert!(site.text(&[&COPY[..], &["--dry-run"]].concat()).contains("3 would be copied, 0 there already"));
    assert_eq!(site.files(), before, "no store was made");

    let facts = site.json(&[&COPY[..], &["--json"]].concat());
    let expected = json!({
        "from": "sqlite:keystrata.db", "to": "sqlite:new.db", "dry_run": false,
        "accounts": 3, "copied": 3, "same": 0, "differ": 0, "failed": 0, "examples": [],
    });
    assert_eq!(facts, expected);
    assert!(site.text(&COPY).contains("3 account(s): 0 copied and read back, 3 there already, 0 differ, 0 failed\n"));

    site.write("keystrata.toml", b"store = \"sqlite:new.db\"\nroot = \"local:keystrata.key\"\n");
    std::fs::remove_file(site.path("keystrata.db")).unwrap();
    assert_eq!(site.ok(&["open", "--account", "acme"], &sealed), SECRET);
    assert!(site.refused(&["account", "create", "gone"], b"").contains("shredded"));
    assert_eq!(site.json(&["store", "check", "--unwrap", "--json"])["clean"], true);
}

#[test]
fn what_is_there_stays_and_is_told() {
    let (site, _) = three();
    site.ok(&COPY, b"");
    site.ok(&["account", "rotate", "acme"], b"");
    site.ok(&["account", "create", "later"], b"");
    let there = site.json(&["account", "show", "acme", "--store", "sqlite:new.db", "--json"]);
    for (flags, copied) in [(&["--dry-run", "--json"][..], 1), (&["--json"], 1), (&["--json"], 0)] {
        let facts: Value = serde_json::from_slice(&site.findings(&[&COPY[..], flags].concat())).unwrap();
        assert_eq!(counts(&facts), [4, copied, 3 - copied, 1, 0], "{facts}");
        assert_eq!(
            (&facts["examples"][0]["account"], &facts["examples"][0]["kind"]),
            (&json!(["acme"]), &json!("differs"))
        );
    }
    let kept = site.json(&["account", "show", "acme", "--store", "sqlite:new.db", "--json"]);
    assert_eq!(kept["keks"].as_array().unwrap().len(), there["keks"].as_array().unwrap().len());
}

#[test]
fn a_broken_account_is_told_and_the_others_are_copied() {
    let (site, _) = three();
    site.sql("UPDATE kek SET record = x'00' WHERE hex(path) LIKE '%61636D65'");
    let facts: Value = serde_json::from_slice(&site.findings(&[&COPY[..], &["--json"]].concat())).unwrap();
    assert_eq!(counts(&facts), [3, 2, 0, 0, 1]);
    let text = String::from_utf8(site.findings(&COPY)).unwrap();
    assert!(text.contains("failed") && text.contains("account acme: ") && text.contains("backup"), "{text}");
}

#[test]
fn copies_that_make_no_sense_are_refused() {
    let (site, _) = three();
    std::os::unix::fs::symlink("keystrata.db", site.path("link.db")).unwrap();
    for to in ["sqlite:keystrata.db", "sqlite:./keystrata.db", "sqlite:link.db"] {
        let line = site.refused(&["store", "copy", "--from", "sqlite:keystrata.db", "--to", to], b"");
        assert!(line.contains("the same store"), "{line}");
    }
    let line = site.refused(&["store", "copy", "--from", "sqlite:missing.db", "--to", "sqlite:new.db"], b"");
    assert!(line.contains("missing.db"), "{line}");
    let secret = format!("{NO_STORE}?hunter2");
    let line = site.refused(&["store", "copy", "--from", "sqlite:keystrata.db", "--to", &secret], b"");
    assert!(line.contains(NO_STORE_SAYS) && !line.contains("hunter2"), "{line}");
    let output = site.run(&["store", "copy", "--from", "keystrata.db", "--to", "sqlite:new.db"], b"");
    assert_eq!(output.status.code(), Some(2));
}

/// Kills a copy in its middle, as often as it takes to meet it there, and lets another go on.
#[test]
fn a_copy_that_was_killed_is_taken_up() {
    const ACCOUNTS: usize = 600;
    let site = Site::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let count = |file: &str| {
        let path = site.path(file);
        runtime.block_on(async {
            match SqliteKekStore::open_existing(path).await {
                Ok(store) => store.accounts(None, 2 * ACCOUNTS).await.map_or(0, |page| page.len()),
                Err(_) => 0, // not made yet
            }
        })
    };
    runtime.block_on(async {
        let store = SqliteKekStore::open_existing(site.path("keystrata.db")).await.unwrap();
        for n in 0..ACCOUNTS {
            store.create(&record(&format!("account {n}"))).await.unwrap();
        }
    });
    for attempt in 0.. {
        assert!(attempt < 20, "no copy could be met in its middle");
        let name = format!("new-{attempt}.db");
        let to = format!("sqlite:{name}");
        let copy = ["store", "copy", "--from", "sqlite:keystrata.db", "--to", &to];
        let mut child = site.process(&copy).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while count(&name) == 0 {
            assert!(Instant::now() < deadline, "nothing is copied");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let there = count(&name);
        if there == ACCOUNTS {
            continue; // it was quicker than the test
        }
        let facts = site.json(&[&copy[..], &["--json"]].concat());
        assert_eq!(counts(&facts), [ACCOUNTS, ACCOUNTS - there, there, 0, 0].map(|count| count as u64));
        assert_eq!(counts(&site.json(&[&copy[..], &["--json"]].concat())), [600, 0, 600, 0, 0]);
        break;
    }
}

fn record(account: &str) -> KekRecord {
    KekRecord {
        identity: KekIdentity {
            suite: Suite::default(),
            version: KekVersion::FIRST,
            id: KekId::generate().unwrap(),
            path: KeyPath::account(account).unwrap(),
        },
        state: KekState::Primary,
        check: KekCheck::from_bytes([0xc5; KekCheck::LEN]),
        created_at: 1_800_000_000,
        retired_at: 0,
        wraps: vec![WrappedSecret {
            wrapper: Wrapper::Root(RootKeyId::new("test:root").unwrap()),
            ciphertext: vec![0x5a; 73],
        }],
    }
}
