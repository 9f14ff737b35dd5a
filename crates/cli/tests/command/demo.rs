//! The demo: exact counts, and input it cannot work with.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::site::Site;

fn demo(site: &Site, arguments: &[&str]) -> Value {
    let arguments: Vec<&str> = ["demo", "--json", "--kms-latency-ms", "0"].iter().chain(arguments).copied().collect();
    serde_json::from_slice(&site.ok(&arguments, b"")).unwrap()
}

#[test]
fn calls_are_exactly_what_each_strategy_needs() {
    let site = Site::empty();
    site.write("one.txt", &[b'a'; 5_000]).write("two.bin", &(0..=255).collect::<Vec<u8>>());
    let report = demo(&site, &["--objects", "300", "--accounts", "40"]);
    assert_eq!((&report["objects"], &report["accounts"], &report["verified"]), (&300.into(), &40.into(), &300.into()));
    let calls: BTreeMap<&str, u64> = report["strategies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|strategy| (strategy["name"].as_str().unwrap(), strategy["kms_calls"].as_u64().unwrap()))
        .collect();
    // A call to seal and one to open; the same and one to make each account's KEK; one for each account, no more; one for each
    // 20 accounts.
    assert_eq!(
        calls,
        BTreeMap::from([("direct", 600), ("account-kek", 640), ("account-kek-cached", 40), ("group-kek-cached", 2)])
    );
    let saved: Vec<f64> =
        report["strategies"].as_array().unwrap().iter().map(|s| s["saved_percent"].as_f64().unwrap()).collect();
    assert_eq!(saved, [0.0, -6.67, 93.33, 99.67]);
    assert!(report["strategies"][0]["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(site.files().len(), 2, "nothing is left behind");
}

#[test]
fn the_table_names_what_was_counted() {
    let site = Site::empty();
    site.write("file", b"x");
    let table = site.ok(&["demo", "--objects", "12", "--accounts", "3", "--kms-latency-ms", "0"], b"");
    let table = String::from_utf8(table).unwrap();
    for expected in
        ["direct", "account-kek-cached", "group-kek-cached", "12 of 12", "KMS calls", "87.50 %", "24", "$0.03"]
    {
        assert!(table.contains(expected), "{expected} in\n{table}");
    }
}

#[test]
fn input_it_cannot_work_with_is_refused_with_one_line() {
    let site = Site::empty();
    site.write("file", b"x");
    assert!(site.refused(&["demo", "--input", "file"], b"").contains("not a folder"));
    assert!(site.refused(&["demo", "--input", "none"], b"").contains("--input"));
    assert!(site.refused(&["demo", "--objects", "2", "--accounts", "3"], b"").contains("at least one object"));
    let empty = Site::empty();
    assert!(empty.refused(&["demo"], b"").contains("no readable file"));
    for wrong in [["--objects", "0"], ["--accounts", "0"], ["--objects", "many"], ["--price-per-10k", "-1"]] {
        let output = site.run(&["demo", wrong[0], wrong[1]], b"");
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}
