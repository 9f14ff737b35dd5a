//! Forecasts against what can be counted by hand, and against themselves.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss)] // helpers of the tests, and counts of theirs

use std::{io::Write as _, path::Path, time::Duration};

use keystrata_simulate::{
    Draft, Forecast, PolicyForecast, Prices, Progress, Scenario, Trace, forecast, forecast_trace,
};

fn scenario(settings: &str) -> Scenario {
    Scenario::new(&Draft::parse(settings).unwrap(), &Prices::built_in().unwrap()).unwrap()
}

fn run(settings: &str) -> Forecast {
    forecast(&scenario(settings), &Progress::default()).unwrap()
}

fn only(forecast: &Forecast) -> &PolicyForecast {
    assert_eq!(forecast.policies.len(), 1);
    &forecast.policies[0]
}

fn replay(trace: &str, settings: &str) -> Forecast {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(trace.as_bytes()).unwrap();
    let scenario = scenario(settings);
    let trace = Trace::read(file.path(), &scenario.traffic, settings.contains("processes"), scenario.seed).unwrap();
    forecast_trace(&scenario, &trace, &Progress::default()).unwrap()
}

/// Answers at once, so that a life begins when the request comes, and nothing renews it before its end.
const PLAIN: &str = "kms_latency = \"0s\"\nstore_latency = \"0s\"\njitter = [0.0]\nrefresh_ahead = [\"off\"]\n";

#[test]
fn the_same_seed_makes_the_same_forecast_and_another_does_not() {
    let settings = "processes = 5\naccounts = 80\nrate = 20.0\nduration = \"20m\"\nday_curve = \"office\"\n\
                    burst = [\"5m/1m/x5\"]\ndeploy = [\"10m/10s\"]\noutage = [\"13m/1m/silent\"]\n\
                    topology = [\"account\", \"group:10\", \"direct\"]\nttl = [\"1m\", \"10m\"]\nbudget = [\"2/2\"]\n";
    let text = |settings: &str| serde_json::to_string(&run(settings)).unwrap();
    let first = text(settings);
    assert_eq!(first, text(settings));
    assert_ne!(first, text(&format!("{settings}seed = 2\n")));
}

#[test]
fn with_no_room_for_all_the_same_seed_makes_the_same_forecast_too() {
    let settings = "processes = 2\naccounts = 400\nrate = 50.0\nduration = \"30m\"\ncapacity = [200]\n";
    let (first, second) = (run(settings), run(settings));
    assert!(only(&first).evictions > 100, "{}", only(&first).evictions);
    assert_eq!(serde_json::to_string(&first).unwrap(), serde_json::to_string(&second).unwrap());
}

/// Every KEK is used all the time, so every process asks for each of them once a TTL.
#[test]
fn steady_traffic_costs_the_lower_bound_exactly() {
    for (topology, keks) in [("account", 12), ("group:5", 3)] {
        let forecast = run(&format!(
            "{PLAIN}processes = 3\naccounts = 12\nskew = 0.0\nrate = 60.0\nduration = \"1h\"\nttl = [\"5m\"]\n\
             topology = [\"{topology}\"]\n"
        ));
        let policy = only(&forecast);
        let calls = policy.kms_calls.total;
        assert_eq!(calls, policy.kms_calls.lower_bound, "{topology}");
        // Twelve windows an hour, each a little longer than the TTL as it begins with a request.
        assert!((11 * 3 * keks..=12 * 3 * keks).contains(&calls), "{topology}: {calls}");
        assert_eq!((policy.refused.total, policy.kms_calls.throttled), (0, 0));
        let age = policy.exposure.longest_use_after_revocation_s;
        assert!((299.0..300.0).contains(&age), "{topology}: {age}");
    }
}

#[test]
fn without_keks_every_operation_is_a_call() {
    let forecast = run("processes = 2\naccounts = 10\nrate = 20.0\nduration = \"10m\"\ntopology = [\"direct\"]\n");
    let policy = only(&forecast);
    assert_eq!(policy.kms_calls.total, policy.operations);
    assert!((policy.added_latency_ms.p50 - 12.0).abs() < 0.5, "{:?}", policy.added_latency_ms);
    assert!((policy.exposure.average_keks).abs() < 1e-9);
}

/// Renewal in the last tenth: nobody waits, for a ninth more calls, and what the end of the hour cuts off.
#[test]
fn renewal_ahead_costs_a_ninth_and_nobody_waits() {
    let with = |refresh: &str| {
        run(&format!(
            "processes = 1\naccounts = 20\nskew = 0.0\nrate = 40.0\nduration = \"1h\"\njitter = [0.0]\n\
             refresh_ahead = [\"{refresh}\"]\nstore_latency = \"0s\"\nseals = 0.0\n"
        ))
    };
    let (on, off) = (with("on"), with("off"));
    let (on, off) = (only(&on), only(&off));
    let more = on.kms_calls.total as f64 / off.kms_calls.total as f64;
    assert!((1.05..1.2).contains(&more), "{more}");
    assert!(on.added_latency_ms.waited * on.operations as f64 <= 60.0, "only at the start");
    assert!(off.added_latency_ms.waited > 2.0 * on.added_latency_ms.waited);
    assert!(on.refreshes > 0 && off.refreshes == 0);
}

#[test]
fn a_trace_is_counted_to_the_call() {
    // A process and account each: a use at 0 and 10 s (one window), and at 61 s (the next).
    let trace = "time,account,op,process\n\
                 0,a,open,p\n10,a,open,p\n10,a,seal,q\n20,b,open,p\n61,a,open,p\n69.9,a,seal,q\n70.1,a,open,q\n";
    let forecast = replay(trace, &format!("{PLAIN}ttl = [\"1m\"]\n"));
    let policy = only(&forecast);
    // p: a at 0 and 61, b at 20; q: a at 10 and 70.1.
    assert_eq!((policy.operations, policy.kms_calls.total, policy.kms_calls.lower_bound), (7, 5, 5));
    assert_eq!(forecast.traffic.processes, 2);
    let group = replay(trace, &format!("{PLAIN}ttl = [\"1m\"]\ntopology = [\"group:2\"]\n"));
    assert_eq!(only(&group).kms_calls.total, 4, "b rests on the same call as a");
}

/// All processes of a fleet come back at once after a deploy, and the KMS lets a few a second through.
#[test]
fn a_quota_throttles_and_a_budget_keeps_below_it() {
    let settings = "processes = 4\naccounts = 300\nskew = 0.0\nrate = 600.0\nduration = \"1m\"\nquota = 50.0\n\
                    store_latency = \"0s\"\nbudget = [\"unlimited\", \"10/3\"]\n";
    let forecast = run(settings);
    let [wild, tame] = &forecast.policies[..] else { panic!("two policies") };
    assert!(wild.kms_calls.throttled > 100, "{:?}", wild.kms_calls);
    assert!(wild.kms_calls.quota_left_at_peak.unwrap() < 0.0);
    assert_eq!(tame.kms_calls.throttled, 0, "{:?}", tame.kms_calls);
    assert!(tame.kms_calls.peak_second <= 4 * (10 + 3));
    assert!(tame.refused.overloaded > 0 && tame.refused.throttled == 0, "{:?}", tame.refused);
}

#[test]
fn an_outage_is_outlived_by_a_ttl_that_is_longer() {
    let with = |ttl: &str| {
        let settings = "processes = 1\naccounts = 5\nskew = 0.0\nrate = 50.0\nduration = \"30m\"\njitter = [0.0]\n\
                        outage = [\"10m30s/2m/unavailable\"]\n";
        let forecast = run(&format!("{settings}ttl = [\"{ttl}\"]\n"));
        only(&forecast).clone()
    };
    let (short, long) = (with("1m"), with("20m"));
    assert!(short.refused.unavailable > 1_000, "{:?}", short.refused);
    assert_eq!((long.refused.total, long.kms_calls.failed), (0, 0));
    assert!(short.exposure.longest_use_after_revocation_s <= 60.0);
}

#[test]
fn a_deploy_begins_with_nothing_in_memory() {
    let with = |deploy: &str| {
        run(&format!(
            "processes = 3\naccounts = 20\nskew = 0.0\nrate = 60.0\nduration = \"20m\"\nttl = [\"1h\"]\n{deploy}"
        ))
    };
    let (without, with) = (with(""), with("deploy = [\"10m/30s\"]\n"));
    assert_eq!((only(&without).kms_calls.total, only(&with).kms_calls.total), (60, 120));
}

#[test]
fn nothing_cached_asks_the_kms_every_time() {
    let forecast =
        run(&format!("{PLAIN}processes = 2\naccounts = 5\nrate = 10.0\nduration = \"5m\"\nttl = [\"0s\"]\n"));
    let policy = only(&forecast);
    assert_eq!((policy.kms_calls.total, policy.hit_rate), (policy.operations, 0.0));
}

/// The page needs nothing from anywhere else, and every tag that is opened is closed.
#[test]
fn a_report_is_complete_in_itself_and_well_formed() {
    let forecast = replay(
        "time,account,op,process\n0,a,open,p\n500,a,seal,p\n",
        "ttl = [\"1m\", \"5m\"]\ntopology = [\"account\", \"group:2\", \"direct\"]\nburst = [\"1m/1m/x2\"]\n",
    );
    let page = keystrata_simulate::report::html(&forecast);
    for outside in ["http:", "https:", "//", "<script", "<link", "<img", "@import", "url(", "NaN", "inf"] {
        assert!(!page.contains(outside), "{outside}");
    }
    let body = page.split_once("<body>").unwrap().1;
    let mut open: Vec<String> = vec!["html".into(), "body".into()];
    for tag in body.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').expect("a tag ends");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "{tag}");
        } else if !tag.ends_with('/') && !tag.starts_with("br") {
            open.push(tag.split([' ', '\n']).next().unwrap().to_owned());
        }
    }
    assert_eq!(open, Vec::<String>::new());
    assert!(page.contains("<svg") && page.contains("group:2 5m"));
}

#[test]
fn settings_out_of_bounds_are_refused_with_what_was_expected() {
    for (settings, expected) in [
        ("accounts = 0", "accounts: 0 is out of bounds"),
        ("accounts = 10000000", "1 to 1000000"),
        ("accounts = 1000000\nprocesses = 1000", "a part of the processes"),
        ("rate = -1.0", "rate: -1"),
        ("rate = nan", "rate: NaN"),
        ("seals = 2.0", "seals"),
        ("duration = \"40d\"", "expected 1s to 31d"),
        ("ttl = [\"25h\"]", "ttl"),
        ("jitter = [0.9]", "jitter"),
        ("capacity = [0]", "capacity"),
        ("quota = 0.0", "quota"),
        ("kms_latency_p99 = \"1ms\"", "kms_latency_p99"),
        ("provider = \"acme\"", "aws, gcp, azure"),
    ] {
        let error = Scenario::new(&Draft::parse(settings).unwrap(), &Prices::built_in().unwrap()).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{settings}: {error}");
    }
}

#[test]
fn a_trace_that_is_not_there_is_refused_by_name() {
    let error = Trace::read(Path::new("no/such/trace.csv"), &scenario("").traffic, false, 1).unwrap_err();
    assert!(error.to_string().contains("no/such/trace.csv"), "{error}");
}

/// An hour of 20 processes: 3.6 million operations. Prints the speed; run it built for release.
#[test]
#[ignore = "measures; takes minutes unless built for release"]
fn speed_of_an_hour_of_a_fleet() {
    for settings in
        ["duration = \"1h\"", "duration = \"1h\"\nttl = [\"1h\"]", "duration = \"1h\"\ntopology = [\"group:20\"]"]
    {
        let began = std::time::Instant::now();
        let forecast = run(settings);
        let took: Duration = began.elapsed();
        let policy = only(&forecast);
        println!(
            "{settings:?}: {} operations, {} calls, hits {:.4}, in {took:.2?}: {:.0} operations a second",
            policy.operations,
            policy.kms_calls.total,
            policy.hit_rate,
            policy.operations as f64 / took.as_secs_f64()
        );
    }
}
