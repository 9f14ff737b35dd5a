//! The plots of a forecast.

use std::collections::BTreeMap;

use super::{
    plot::{Axis, Plot},
    words,
};
use crate::{
    draft::Wraps,
    forecast::{Forecast, PolicyForecast},
};

const WIDE: (f64, f64) = (920.0, 320.0);
const HALF: (f64, f64) = (450.0, 330.0);

/// Which colour a policy has.
pub(super) fn class(index: usize) -> String {
    format!("c{}", index % 8)
}

/// What a plot says of a point under the pointer.
fn title(policy: &PolicyForecast) -> String {
    format!(
        "{}: {} a month, {} keys in memory, a revoked key works for up to {}",
        policy.name,
        words::money(policy.monthly_usd.total),
        words::number(policy.exposure.average_keks),
        words::seconds(policy.exposure.longest_use_after_revocation_s)
    )
}

pub(super) fn calls_over_time(forecast: &Forecast) -> String {
    let series = || forecast.policies.iter().map(|policy| &policy.over_time.calls_per_second);
    let quota = forecast.outside.quota;
    let values = series().flatten().copied().chain(quota);
    let y = Axis::over("calls a second", values, true, words::number);
    over_time(forecast, "Calls to the KMS over time", y, quota, |policy| &policy.over_time.calls_per_second)
}

pub(super) fn keks_over_time(forecast: &Forecast) -> String {
    let values = forecast.policies.iter().flat_map(|policy| policy.over_time.keks.iter().copied());
    let y = Axis::over("keys in memory", values, false, words::number);
    over_time(forecast, "Decrypted keys in memory over time", y, None, |policy| &policy.over_time.keks)
}

#[expect(clippy::cast_precision_loss, reason = "some hundred pieces")]
fn over_time(
    forecast: &Forecast,
    name: &str,
    y: Axis,
    quota: Option<f64>,
    series: fn(&PolicyForecast) -> &Vec<f64>,
) -> String {
    let end = forecast.traffic.duration.as_seconds();
    // In the unit in which the ticks come out round.
    let (axis, unit) = match end {
        end if end > 3.0 * 86_400.0 => ("days", 86_400.0),
        end if end > 7_200.0 => ("hours", 3_600.0),
        end if end > 120.0 => ("minutes", 60.0),
        _ => ("seconds", 1.0),
    };
    let x = Axis { name: axis, from: 0.0, to: end / unit, is_log: false, is_time: false, unit: words::number };
    let mut plot = Plot::new(name, x, y, WIDE);
    if let Some(quota) = quota {
        plot.level(quota, "quota", &format!("quota {}", words::number(quota)));
    }
    for (index, policy) in forecast.policies.iter().enumerate() {
        let piece = policy.over_time.piece_s / unit;
        let points = series(policy).iter().enumerate().map(|(number, value)| ((number as f64 + 0.5) * piece, *value));
        plot.line(points, &class(index), &policy.name);
    }
    plot.finish()
}

/// `None` unless there are two TTLs to compare.
pub(super) fn cost_against_ttl(forecast: &Forecast) -> Option<String> {
    let cached: Vec<_> = numbered(forecast).filter(|(_, policy)| policy.policy.topology != Wraps::Direct).collect();
    let ttl = |policy: &PolicyForecast| policy.policy.ttl.as_seconds();
    let first = cached.first().map(|(_, policy)| ttl(policy))?;
    if cached.iter().all(|(_, policy)| (ttl(policy) - first).abs() < 1e-9) {
        return None;
    }
    let x = Axis::of_time("time to live of a decrypted key", cached.iter().map(|(_, policy)| ttl(policy)));
    let y = Axis::over("US dollars a month", costs(forecast), true, words::money);
    let mut plot = Plot::new("Cost against time to live", x, y, HALF);
    if let Some((_, direct)) = numbered(forecast).find(|(_, policy)| policy.policy.topology == Wraps::Direct) {
        plot.level(direct.monthly_usd.total, "baseline", "a call for every operation");
    }
    // What differs in nothing but the TTL is one line.
    let mut lines: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for (_, policy) in &cached {
        let of = policy.policy;
        let key = format!("{} {} {} {} {}", of.topology, of.capacity, of.refresh_ahead, of.jitter, of.budget);
        lines.entry(key).or_default().push((ttl(policy), policy.monthly_usd.total));
    }
    for points in lines.values_mut() {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        plot.line(points.iter().copied(), "between", "");
    }
    for (index, policy) in &cached {
        plot.numbered((ttl(policy), policy.monthly_usd.total), &class(*index), index + 1, &title(policy));
    }
    Some(plot.finish())
}

/// Cost against what it leaves in memory, or against how long a revocation goes unnoticed.
pub(super) fn cost_against_exposure(forecast: &Forecast, by_time: bool) -> String {
    let exposure = |policy: &PolicyForecast| {
        if by_time { policy.exposure.longest_use_after_revocation_s } else { policy.exposure.average_keks }
    };
    let values = forecast.policies.iter().map(exposure);
    let (name, x) = if by_time {
        ("Cost against how long a revoked key works", Axis::of_time("a revoked key works for", values))
    } else {
        ("Cost against keys in memory", Axis::over("keys in memory, on the average", values, true, words::number))
    };
    let y = Axis::over("US dollars a month", costs(forecast), true, words::money);
    let mut plot = Plot::new(name, x, y, HALF);
    let front = front(forecast.policies.iter().map(|policy| (exposure(policy), policy.monthly_usd.total)));
    let corner = |index: usize| (exposure(&forecast.policies[index]), forecast.policies[index].monthly_usd.total);
    // In steps: between two policies there is none that has the better of both.
    let steps = front.iter().enumerate().flat_map(|(number, index)| {
        let (x, y) = corner(*index);
        let before = number.checked_sub(1).map(|previous| (x, corner(front[previous]).1));
        before.into_iter().chain([(x, y)])
    });
    plot.line(steps.collect::<Vec<_>>().into_iter(), "front", "the best of both: nothing is cheaper and exposes less");
    for (index, policy) in numbered(forecast) {
        plot.numbered((exposure(policy), policy.monthly_usd.total), &class(index), index + 1, &title(policy));
    }
    plot.finish()
}

/// Those that no other beats in both, by the first.
pub(super) fn front(points: impl Iterator<Item = (f64, f64)>) -> Vec<usize> {
    let points: Vec<_> = points.collect();
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|a, b| points[*a].0.total_cmp(&points[*b].0).then(points[*a].1.total_cmp(&points[*b].1)));
    let mut best = f64::INFINITY;
    order.retain(|index| {
        let is_better = points[*index].1 < best;
        best = best.min(points[*index].1);
        is_better
    });
    order
}

pub(super) fn latency(forecast: &Forecast) -> String {
    let latency = |policy: &PolicyForecast| policy.added_latency_ms.clone();
    let values = forecast.policies.iter().flat_map(|policy| {
        let of = latency(policy);
        [of.p50_of_waits, of.p99, of.max]
    });
    let x = Axis::over("added latency", values.chain([1.0]), true, words::millis);
    let rows: Vec<_> = numbered(forecast).map(|(index, policy)| format!("{}  {}", index + 1, policy.name)).collect();
    let mut plot = Plot::of_rows("Added latency", x, &rows, 920.0);
    for (index, policy) in numbered(forecast) {
        let of = latency(policy);
        let marks = [
            (of.p50_of_waits, "middle", format!("half of those that wait: {}", words::millis(of.p50_of_waits))),
            (of.p99, "p99", format!("99 of 100 operations: {}", words::millis(of.p99))),
            (of.max, "max", format!("the longest: {}", words::millis(of.max))),
        ];
        let marks: Vec<_> = marks.into_iter().filter(|(value, ..)| *value > 0.0).collect();
        let values = || marks.iter().map(|(value, ..)| *value);
        let (from, to) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
        if to > 0.0 {
            plot.row(index, &class(index), (from, to), &marks);
        }
    }
    plot.finish()
}

fn numbered(forecast: &Forecast) -> impl Iterator<Item = (usize, &PolicyForecast)> {
    forecast.policies.iter().enumerate()
}

fn costs(forecast: &Forecast) -> impl Iterator<Item = f64> {
    forecast.policies.iter().map(|policy| policy.monthly_usd.total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_has_those_that_nothing_beats_in_both() {
        let points = [(1.0, 9.0), (2.0, 9.0), (2.0, 4.0), (3.0, 5.0), (4.0, 1.0), (4.0, 1.0)];
        assert_eq!(front(points.into_iter()), [0, 2, 4]);
        assert_eq!(front([(1.0, 1.0)].into_iter()), [0]);
    }
}
