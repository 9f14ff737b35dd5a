//! Logs as traces.

use crate::site::Site;

const LOG: &str = r#"{"ts": "2026-11-27T10:00:01Z", "tenant": "acme", "method": "POST", "host": {"name": "web-1"}}
{"ts": "2026-11-27T10:00:00.5Z", "tenant": "globex", "method": "GET", "host": {"name": "web-2"}}
{"ts": "2026-11-27T10:00:02Z", "tenant": "acme", "method": "GET", "host": {"name": "web-1"}}
"#;

const FIELDS: [&str; 9] = [
    "observe",
    "--time-field",
    "ts",
    "--account-field",
    "tenant",
    "--op-field",
    "method",
    "--process-field",
    "host.name",
];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    FIELDS.iter().chain(more).copied().collect()
}

#[test]
fn a_log_becomes_a_trace_that_can_be_simulated() {
    let site = Site::empty();
    let kept = String::from_utf8(site.ok(&with(&["--keep-names"]), LOG.as_bytes())).unwrap();
    let second = 1_795_773_600;
    assert_eq!(
        kept,
        format!(
            "time,account,op,process\n{second}.500000000,globex,open,web-2\n{}.000000000,acme,seal,web-1\n\
             {}.000000000,acme,open,web-1\n",
            second + 1,
            second + 2
        )
    );
    site.write("access.log", LOG.as_bytes());
    let trace = site.text(&with(&["access.log"]));
    assert!(!trace.contains("acme") && !trace.contains("globex"), "{trace}");
    let account = |line: usize| trace.lines().nth(line).unwrap().split(',').nth(1).unwrap().to_owned();
    assert!(account(2) == account(3) && account(1) != account(2) && account(1).len() == 16, "{trace}");
    site.write("trace.csv", trace.as_bytes());
    let forecast = site.json(&["simulate", "--trace", "trace.csv", "--json"]);
    assert_eq!((&forecast["traffic"]["accounts"], &forecast["traffic"]["processes"]), (&2.into(), &2.into()));
    assert_eq!(
        (&forecast["policies"][0]["operations"], &forecast["policies"][0]["kms_calls"]["total"]),
        (&3.into(), &2.into())
    );
}

#[test]
fn lines_of_nobody_are_left_out_and_counted() {
    let site = Site::empty();
    let log =
        format!("{LOG}{{\"ts\": 1795773602, \"tenant\": null, \"method\": \"GET\", \"host\": {{\"name\": \"w\"}}}}\n");
    let output = site.run(&with(&[]), log.as_bytes());
    assert!(output.status.success() && String::from_utf8(output.stdout).unwrap().lines().count() == 4);
    assert!(String::from_utf8(output.stderr).unwrap().contains("left out 1 lines"));
}

#[test]
fn logs_that_are_wrong_are_refused_by_line_and_nothing_is_written() {
    let site = Site::empty();
    for (log, expected) in [
        (format!("{LOG}nonsense\n"), "line 4: expected a JSON object"),
        (format!("{LOG}{{\"tenant\": \"a\"}}\n"), "line 4: no field `ts`"),
        (format!("{LOG}{{\"ts\": \"noon\"}}\n"), "line 4: time `noon`"),
        (String::new(), "no request was found"),
    ] {
        let line = site.refused(&with(&[]), log.as_bytes());
        assert!(line.contains(expected), "{line}");
    }
    assert!(site.refused(&with(&["none.log"]), b"").contains("none.log"));
}
