//! Forecasts as a user asks for them, and input that none can be made of.

use std::fmt::Write as _;

use serde_json::Value;

use crate::site::Site;

const SMALL: [&str; 9] = ["simulate", "--accounts", "5", "--processes", "2", "--rate", "10", "--duration", "2m"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    SMALL.iter().chain(more).copied().collect()
}

#[test]
fn a_forecast_is_a_table_json_or_csv() {
    let site = Site::empty();
    let lists = ["--ttl", "30s,1m", "--topology", "account,group:5,direct"];
    let table = site.text(&with(&lists));
    for expected in
        ["account 30s", "group:5 1m", "direct", "KMS calls", "AWS KMS", "5 accounts", "quota left", "seed 1"]
    {
        assert!(table.contains(expected), "{expected} in\n{table}");
    }
    let forecast: Value = site.json(&with(&[&lists[..], &["--json"]].concat()));
    let policies = forecast["policies"].as_array().unwrap();
    assert_eq!(policies.len(), 5, "direct is there once");
    for policy in policies {
        let calls = &policy["kms_calls"];
        assert!(calls["total"].as_u64() >= calls["lower_bound"].as_u64(), "{policy}");
        assert_eq!(policy["refused"]["total"], 0);
    }
    assert_eq!(forecast, site.json(&with(&[&lists[..], &["--json"]].concat())), "the same seed, the same numbers");
    let csv = site.text(&with(&[&lists[..], &["--csv"]].concat()));
    assert_eq!(csv.lines().count(), 6);
    assert!(csv.starts_with("policy,topology,ttl_s,"), "{csv}");
    assert!(site.files().is_empty(), "nothing is left behind");
}

#[test]
fn a_scenario_file_says_what_flags_do_not() {
    let site = Site::empty();
    site.write(
        "plan.toml",
        b"accounts = 7\nprocesses = 3\nrate = 5.0\nduration = \"1m\"\noutage = [\"10s/10s/silent\"]\n",
    );
    let forecast = site.json(&["simulate", "--scenario", "plan.toml", "--accounts", "4", "--json"]);
    assert_eq!((&forecast["traffic"]["accounts"], &forecast["traffic"]["processes"]), (&4.into(), &3.into()));
    assert_eq!(forecast["outside"]["outages"][0], "10s/10s/silent");
    site.write("plan.toml", b"accounts = 7\nrat = 5.0\n");
    let line = site.refused(&["simulate", "--scenario", "plan.toml"], b"");
    assert!(line.contains("plan.toml: line 2") && line.contains("rat"), "{line}");
    assert!(site.refused(&["simulate", "--scenario", "none.toml"], b"").contains("none.toml"));
}

#[test]
fn prices_of_ones_own_are_used() {
    let site = Site::empty();
    site.write(
        "prices.toml",
        b"as_of = \"2027-01\"\n[[provider]]\nname = \"ours\"\ntitle = \"Our HSM\"\nusd_per_10_000_calls = 100.0\n\
          usd_per_key_month = 7.0\ncalls_per_second = 20.0\n",
    );
    let forecast = site.json(&with(&["--prices", "prices.toml", "--provider", "ours", "--json"]));
    assert_eq!(
        (&forecast["outside"]["provider"]["title"], &forecast["outside"]["quota"]),
        (&"Our HSM".into(), &20.0.into())
    );
    assert_eq!(forecast["policies"][0]["monthly_usd"]["key"], 7.0);
    let line = site.refused(&with(&["--prices", "prices.toml"]), b"");
    assert!(line.contains("choose one of ours"), "{line}");
}

#[test]
fn a_report_is_written_whole_or_not_at_all() {
    let site = Site::empty();
    site.write("old.html", b"old");
    let table = site.text(&with(&["--report", "old.html"]));
    let page = String::from_utf8(site.read("old.html")).unwrap();
    assert!(table.contains("KMS calls") && page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    for path in ["none/plan.html", ".", "/dev/full"] {
        let line = site.refused(&with(&["--report", path]), b"");
        assert!(line.contains(path), "{line}");
    }
    assert!(site.refused(&with(&["--report", "none/plan.html"]), b"").contains("--report"));
    site.write("trace.csv", b"time,account,op,process\n2,a,open,p\n1,a,open,p\n");
    site.refused(&["simulate", "--trace", "trace.csv", "--report", "old.html"], b"");
    assert_eq!(site.files().len(), 2);
}

#[test]
fn traces_that_are_wrong_are_refused_by_file_and_line() {
    let site = Site::empty();
    let header = "time,account,op,process\n";
    for (text, expected) in [
        (String::new(), "line 1: no column"),
        (header.to_owned(), "no request in it"),
        ("time,account,op\n1,a,open\n".into(), "no column `process`"),
        (format!("{header}1,a,open,p\n0,a,open,p\n"), "line 3: time `0` is before"),
        (format!("{header}1,a,write,p\n"), "line 2: op `write`: expected seal or open"),
        (format!("{header}noon,a,open,p\n"), "line 2: time `noon`"),
        (format!("{header}1,a,open\n"), "line 2: 3 columns: expected 4"),
    ] {
        site.write("trace.csv", text.as_bytes());
        let line = site.refused(&["simulate", "--trace", "trace.csv"], b"");
        assert!(line.contains("trace.csv") && line.contains(expected), "{line}");
    }
    assert!(site.refused(&["simulate", "--trace", "none.csv"], b"").contains("none.csv"));
}

/// What Parquet begins and ends with, and nothing in between.
#[test]
fn parquet_is_read_or_the_feature_that_it_needs_is_named() {
    let site = Site::empty();
    for name in ["trace.parquet", "trace.csv"] {
        site.write(name, b"PAR1\0\0\0\0PAR1");
        let line = site.refused(&["simulate", "--trace", name], b"");
        let expected =
            if cfg!(feature = "parquet") { "it cannot be read as Parquet" } else { "the cargo feature `parquet`" };
        assert!(line.contains(name) && line.contains(expected), "{line}");
    }
}

#[cfg(feature = "parquet")]
#[test]
fn parquet_makes_the_forecast_that_csv_makes() {
    let site = Site::empty();
    site.write("trace.parquet", include_bytes!("../../../simulate/tests/traces/pyarrow.parquet"));
    let mut csv = String::from("time,account,op,process\n");
    for row in 0..20 {
        let op = if row % 5 == 0 { "seal" } else { "open" };
        writeln!(csv, "{},tenant-{},{op},web-{}", f64::from(row) / 4.0, row % 3, row % 2).unwrap();
    }
    site.write("trace.csv", csv.as_bytes());
    let of = |trace| site.text(&["simulate", "--csv", "--ttl", "1s", "--trace", trace]);
    assert_eq!(of("trace.parquet"), of("trace.csv"));
}

#[test]
fn a_trace_of_a_million_and_one_accounts_is_refused_where_they_begin() {
    let site = Site::empty();
    let mut trace = String::from("time,account,op,process\n");
    for account in 0..=1_000_000 {
        writeln!(trace, "{account},{account},open,p").unwrap();
    }
    site.write("trace.csv", trace.as_bytes());
    let line = site.refused(&["simulate", "--trace", "trace.csv"], b"");
    assert!(line.contains("line 1000002") && line.contains("more than 1000000"), "{line}");
}

#[test]
fn absurd_policies_and_traffic_are_refused() {
    let site = Site::empty();
    for (flags, expected) in [
        (["--accounts", "10000000"], "accounts"),
        (["--accounts", "0"], "accounts"),
        (["--rate", "-5"], "rate"),
        (["--ttl", "25h"], "ttl"),
        (["--jitter", "-0.1"], "jitter"),
        (["--duration", "90d"], "duration"),
        (["--capacity", "0"], "capacity"),
        (["--quota", "0"], "quota"),
        (["--seals", "1.5"], "seals"),
    ] {
        let line = site.refused(&[&["simulate"][..], &flags].concat(), b"");
        assert!(line.contains(expected), "{flags:?}: {line}");
    }
    for wrong in [
        ["--ttl", "-5m"],
        ["--ttl", "soon"],
        ["--topology", "group:0"],
        ["--budget", "50"],
        ["--burst", "12h"],
        ["--outage", "1h/1m/maybe"],
        ["--day-curve", "1,2,3"],
    ] {
        let output = site.run(&["simulate", wrong[0], wrong[1]], b"");
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
