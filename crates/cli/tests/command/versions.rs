//! `keystrata account min-version` and `destroy-version`: given up for ever, once it is confirmed and nobody needs it.

use std::{sync::Arc, time::Duration};

use keystrata_hierarchy::{Clock, Context, Hierarchy, SystemClock, test_util::ManualClock};
use keystrata_kms::LocalRootKey;
use keystrata_store::SqliteKekStore;
use serde_json::json;

use crate::site::{SECRET, Site};

fn now() -> u64 {
    SystemClock.now().real.as_secs()
}

/// A site whose account `acme` was rotated an hour ago, and an envelope under each version.
pub(crate) fn rotated_an_hour_ago(site: &Site) -> [Vec<u8>; 2] {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let clock = ManualClock::new();
        clock.set_real(Duration::from_secs(now() - 3_600));
        let keys = Hierarchy::builder()
            .root_key(LocalRootKey::open(site.path("keystrata.key")).unwrap())
            .store(Arc::new(SqliteKekStore::open_existing(site.path("keystrata.db")).await.unwrap()))
            .clock(clock)
            .build()
            .unwrap();
        let acme = keys.account("acme").unwrap();
        let first = acme.seal(SECRET, &Context::none()).await.unwrap();
        acme.rotate().await.unwrap();
        [first, acme.seal(SECRET, &Context::none()).await.unwrap()]
    })
}

fn hour_old() -> (Site, [Vec<u8>; 2]) {
    let site = Site::new();
    let sealed = rotated_an_hour_ago(&site);
    (site, sealed)
}

#[test]
fn below_the_lowest_version_nothing_opens() {
    let (site, [first, second]) = hour_old();
    let floor = ["account", "min-version", "acme", "--version", "2"];
    let before = site.files();
    let plan = site.json(&[&floor[..], &["--dry-run", "--json"]].concat());
    let expected = json!({ "account": ["acme"], "dry_run": true, "min_version": 2, "changed": false, "given_up": [1] });
    assert_eq!(plan, expected);
    assert!(site.text(&[&floor[..], &["--dry-run"]].concat()).contains("version 1, retired, created 20"));
    assert_eq!(site.files(), before);
    let line = site.refused(&floor, b"acme\n");
    assert!(line.contains("--yes-i-mean acme"), "{line}");
    let line = site.refused(&[&floor[..], &["--yes-i-mean", "Acme"]].concat(), b"");
    assert!(line.contains("is not the name of account acme"), "{line}");
    assert_eq!(site.ok(&["open", "--account", "acme"], &first), SECRET);

    let done = site.json(&[&floor[..], &["--yes-i-mean", "acme", "--json"]].concat());
    assert_eq!((&done["changed"], &done["given_up"]), (&json!(true), &json!([1])));
    site.refused(&["open", "--account", "acme"], &first);
    assert_eq!(site.ok(&["open", "--account", "acme"], &second), SECRET);
    // Lowered or raised to where it is, nothing is to be confirmed.
    for version in ["1", "2"] {
        let again = site.json(&["account", "min-version", "acme", "--version", version, "--json"]);
        assert_eq!((&again["changed"], &again["min_version"]), (&json!(false), &json!(2)));
    }
    let line = site.refused(&["account", "min-version", "acme", "--version", "3", "--yes-i-mean", "acme"], b"");
    assert!(line.contains("above its primary, version 2: rotate first"), "{line}");
}

#[test]
fn a_version_that_nobody_needs_is_destroyed() {
    let (site, [first, second]) = hour_old();
    site.write("first", &first);
    let began = site.json(&["rewrap", "--account", "acme", "first", "--json"])["began_at"].to_string();
    let destroy = ["account", "destroy-version", "acme", "--version", "1"];
    let before = site.files();
    let plan = site.json(&[&destroy[..], &["--dry-run", "--json"]].concat());
    assert_eq!((&plan["dry_run"], &plan["version"], &plan["changed"]), (&json!(true), &json!(1), &json!(false)));
    let text = site.text(&[&destroy[..], &["--dry-run"]].concat());
    assert!(text.contains("version 1, retired") && text.contains("is lost"), "{text}");
    let sure = [&destroy[..], &["--rewrap-began", &began]].concat();
    for wrong in [&["--yes-i-mean", "yes"][..], &[]] {
        site.refused(&[&sure[..], wrong].concat(), b"acme\n");
    }
    assert_eq!(site.files(), before);
    let facts = site.json(&[&sure[..], &["--yes-i-mean", "acme", "--json"]].concat());
    assert_eq!((&facts["changed"], &facts["kek_id"]), (&json!(true), &plan["kek_id"]));
    assert!(site.text(&sure).contains("was destroyed before"));
    let shown = site.json(&["account", "show", "acme", "--json"]);
    assert_eq!((&shown["keks"][0]["state"], &shown["keks"][0]["wrapped_by"]), (&json!("destroyed"), &json!([])));
    site.refused(&["open", "--account", "acme"], &first);
    assert_eq!(site.ok(&["open", "--account", "acme", "first"], b""), SECRET);
    assert_eq!(site.ok(&["open", "--account", "acme"], &second), SECRET);
}

#[test]
fn a_version_that_somebody_may_need_is_not() {
    let (site, [first, _]) = hour_old();
    let refused = |version: &str, began: u64, more: &[&str]| {
        let began = began.to_string();
        let destroy = ["account", "destroy-version", "acme", "--version", version, "--rewrap-began", &began];
        site.refused(&[&destroy[..], &["--yes-i-mean", "acme"], more].concat(), b"")
    };
    let line = refused("2", now(), &[]);
    assert!(line.contains("is the primary of account acme"), "{line}");
    let line = refused("3", now(), &[]);
    assert!(line.contains("has no version 3"), "{line}");
    let line = refused("1", now() - 3_590, &[]);
    assert!(line.contains("scan once more"), "{line}");
    let line = refused("1", now() + 1_000, &[]);
    assert!(line.contains("scan"), "{line}");
    let line = refused("1", now(), &["--longest-ttl", "1h"]);
    assert!(line.contains("come again in"), "{line}");
    site.ok(&["account", "rotate", "acme"], b"");
    let line = refused("2", now(), &[]);
    assert!(line.contains("come again in"), "{line}");
    assert_eq!(site.ok(&["open", "--account", "acme"], &first), SECRET);
    for wrong in [&["--rewrap-began", "yesterday"][..], &["--rewrap-began", "0", "--longest-ttl", "5"], &[]] {
        let output = site.run(&[&["account", "destroy-version", "acme", "--version", "1"], wrong].concat(), b"");
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}
