//! A forecast as one page for a browser, complete in itself: no script, no font and no picture from anywhere else.

mod charts;
mod plot;
mod words;

use std::fmt::Write as _;

use self::plot::escaped;
use crate::{
    draft::Wraps,
    forecast::{Forecast, PolicyForecast},
};

const STYLE: &str = include_str!("report/style.css");

/// The page.
pub fn html(forecast: &Forecast) -> String {
    let sections = [
        summary(forecast),
        table(forecast),
        figure(
            "Calls to the KMS over time",
            &format!("{}{}", legend(forecast), charts::calls_over_time(forecast)),
            &calls_text(forecast),
        ),
        exposure(forecast),
        figure(
            "What callers wait",
            &charts::latency(forecast),
            "An operation whose key is in memory waits for nothing; one whose key is not waits for the KMS. For each policy: \
             the ring is what half of those that wait, wait; the coloured disc is what 99 of 100 operations stay under, missing \
             where they wait for nothing; the dark disc is the longest wait. The longest is what a customer notices \
             after a deploy, or when the KMS is slow.",
        ),
        figure(
            "Decrypted keys in memory over time",
            &format!("{}{}", legend(forecast), charts::keks_over_time(forecast)),
            "Account and group keys that somebody with access to a process's memory could take, all processes together. Each \
             is overwritten at the end of its time to live, used or not.",
        ),
        notes(forecast),
    ];
    format!(
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n\
         <meta name='viewport' content='width=device-width, initial-scale=1'>\n\
         <title>Keystrata: what keys will cost</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{}</main>\n</body>\n</html>\n",
        sections.concat()
    )
}

fn figure(title: &str, content: &str, text: &str) -> String {
    format!("<figure>\n<h2>{title}</h2>\n<p>{text}</p>\n{content}\n</figure>\n")
}

/// What a manager reads.
fn summary(forecast: &Forecast) -> String {
    let Forecast { traffic, outside, .. } = forecast;
    let (provider, rate) = (escaped(&outside.provider.title), forecast.operations_per_second());
    let mut text = String::new();
    let _ = write!(
        text,
        "<h1>What keys will cost</h1>\n<p class='lead'>{} processes serve {} accounts with {} operations a second over {}. ",
        words::count(traffic.processes.into()),
        words::count(traffic.accounts.into()),
        words::number(rate),
        traffic.duration,
    );
    let without = rate * 30.0 * 86_400.0 / 10_000.0 * outside.provider.usd_per_10_000_calls;
    let _ = writeln!(
        text,
        "If each of them called {provider}, that would be <b>{}</b> a month in calls{}.</p>",
        words::money(without),
        outside.quota.map_or(String::new(), |quota| format!(
            " and {} of a quota of {} a second",
            words::percent(rate / quota),
            words::number(quota)
        )),
    );
    let cached = || forecast.policies.iter().filter(|policy| policy.policy.topology != Wraps::Direct);
    let by_cost = |a: &&PolicyForecast, b: &&PolicyForecast| a.monthly_usd.total.total_cmp(&b.monthly_usd.total);
    let exposure = |policy: &PolicyForecast| policy.exposure.longest_use_after_revocation_s;
    let by_exposure = |a: &&PolicyForecast, b: &&PolicyForecast| exposure(a).total_cmp(&exposure(b));
    if let (Some(cheapest), Some(safest)) = (cached().min_by(by_cost), cached().min_by(by_exposure)) {
        let _ = writeln!(text, "<ul class='lead'>\n<li>The cheapest policy here is {}.</li>", sentence(cheapest));
        if safest.name != cheapest.name {
            let _ = writeln!(text, "<li>The one that notices a revoked key soonest is {}.</li>", sentence(safest));
        }
        let _ = writeln!(text, "{}</ul>", alarms(forecast));
    }
    text
}

fn sentence(policy: &PolicyForecast) -> String {
    format!(
        "<b>{}</b>: {} a month, {} calls a second in the busiest second, {} of operations find their key in memory, and a key \
         revoked at the KMS works for {} at most",
        escaped(&policy.name),
        words::money(policy.monthly_usd.total),
        words::count(policy.kms_calls.peak_second.into()),
        words::percent(policy.hit_rate),
        words::seconds(policy.exposure.longest_use_after_revocation_s),
    )
}

/// What has to be looked at before anything is deployed.
fn alarms(forecast: &Forecast) -> String {
    let mut text = String::new();
    for policy in &forecast.policies {
        let name = escaped(&policy.name);
        if policy.kms_calls.throttled > 0 {
            let _ = writeln!(
                text,
                "<li class='alarm'>Under {name} the KMS throttles {} calls.</li>",
                words::count(policy.kms_calls.throttled)
            );
        } else if let Some(left) = policy.kms_calls.quota_left_at_peak.filter(|left| *left < 0.2) {
            let _ = writeln!(
                text,
                "<li class='alarm'>Under {name} only {} of the quota is left in the busiest second.</li>",
                words::percent(left.max(0.0))
            );
        }
        if policy.refused.total > 0 {
            let _ = writeln!(
                text,
                "<li class='alarm'>Under {name} {} operations fail.</li>",
                words::count(policy.refused.total)
            );
        }
    }
    if text.is_empty() {
        text.push_str("<li>No operation fails and the KMS throttles none under any policy here.</li>\n");
    }
    text
}

fn table(forecast: &Forecast) -> String {
    let mut rows = String::new();
    for (index, policy) in forecast.policies.iter().enumerate() {
        let PolicyForecast { kms_calls: calls, added_latency_ms: latency, exposure, .. } = policy;
        let row = [
            words::money(policy.monthly_usd.total),
            words::count(calls.total),
            words::number(calls.per_second),
            words::count(calls.peak_second.into()),
            calls.quota_left_at_peak.map_or("–".into(), words::percent),
            words::number(calls.times_lower_bound),
            words::percent(policy.hit_rate),
            words::millis(latency.p99),
            words::millis(latency.max),
            words::count(policy.refused.total),
            words::number(exposure.average_keks),
            words::count(exposure.most_keks.into()),
            words::seconds(exposure.longest_use_after_revocation_s),
        ];
        let columns = row.map(|cell| format!("<td>{cell}</td>")).concat();
        let _ = writeln!(
            rows,
            "<tr><th><span class='chip {}'>{}</span> {}</th>{columns}</tr>",
            charts::class(index),
            index + 1,
            escaped(&policy.name)
        );
    }
    format!(
        "<figure>\n<h2>The policies</h2>\n<p>A policy says what wraps an account's key and how long a decrypted one may stay in \
         memory. Longer is cheaper; shorter notices a revocation sooner and leaves less to steal.</p>\n<div class='wide'><table>\n\
         <thead><tr><th>Policy</th><th>a month</th><th>KMS calls</th><th>a second</th><th>busiest second</th><th>quota left \
         then</th><th>× the least possible</th><th>key in memory</th><th>wait, 99 of 100</th><th>longest wait</th><th>failed\
         </th><th>keys in memory</th><th>at most</th><th>revoked works for</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\
         </div>\n</figure>\n"
    )
}

fn legend(forecast: &Forecast) -> String {
    let chips = forecast.policies.iter().enumerate().map(|(index, policy)| {
        format!("<li><span class='chip {}'>{}</span> {}</li>", charts::class(index), index + 1, escaped(&policy.name))
    });
    format!("<ul class='legend'>{}</ul>\n", chips.collect::<String>())
}

fn calls_text(forecast: &Forecast) -> String {
    let busiest = forecast.policies.iter().max_by_key(|policy| policy.kms_calls.peak_second);
    let busiest = busiest.map_or(String::new(), |policy| {
        format!(
            " The busiest second of all is under {}, with {} calls.",
            escaped(&policy.name),
            words::count(policy.kms_calls.peak_second.into())
        )
    });
    format!(
        "What the KMS bills and counts against the quota, on a scale on which each step is ten times the one below. A flat line \
         is a steady bill; a peak is where throttling begins.{busiest}"
    )
}

fn exposure(forecast: &Forecast) -> String {
    let mut plots = Vec::new();
    if let Some(plot) = charts::cost_against_ttl(forecast) {
        plots.push((
            "Cost against time to live",
            "How much a longer life of keys in memory saves. Where a line is nearly flat, a shorter life costs little more.",
            plot,
        ));
    }
    plots.push((
        "Cost against keys in memory",
        "Left is less to steal, down is cheaper. On the dashed line are the policies that no other here beats in both.",
        charts::cost_against_exposure(forecast, false),
    ));
    plots.push((
        "Cost against how long a revoked key works",
        "Left is a revocation that bites sooner. Again, the policies on the dashed line are those to choose from.",
        charts::cost_against_exposure(forecast, true),
    ));
    let plots = plots.into_iter().map(|(title, text, plot)| figure(title, &plot, text));
    format!("<div class='pair'>\n{}</div>\n", plots.collect::<String>())
}

fn notes(forecast: &Forecast) -> String {
    let Forecast { traffic, trace, outside, seed, .. } = forecast;
    let source = trace.as_ref().map_or_else(
        || {
            format!(
                "Traffic was made up with seed {seed}: skew {}, {} % seals, {} routing, {} day.",
                traffic.skew,
                words::number(traffic.seals * 100.0),
                traffic.routing,
                escaped(&traffic.day_curve.to_string())
            )
        },
        |trace| format!("Traffic is that of {}.", escaped(trace)),
    );
    let events = traffic.bursts.iter().map(|burst| format!("burst {burst}"));
    let events = events.chain(traffic.deploys.iter().map(|deploy| format!("deploy {deploy}")));
    let events: Vec<_> = events.chain(outside.outages.iter().map(|outage| format!("outage {outage}"))).collect();
    let events = if events.is_empty() { String::new() } else { format!(" With {}.", events.join(", ")) };
    format!(
        "<section class='notes'>\n<h2>How this was found</h2>\n<p>The real engine of Keystrata ran in virtual time, one for each \
         process; only the KMS, the store and the ciphers were stood in for. {source}{events} The KMS answered half of its calls \
         within {} and 99 of 100 within {}, the store within {}. Prices are those of {} as of {}: {} for 10,000 calls and {} for a \
         root key and month, without free tiers, discounts and taxes; a month has 30 days like what was simulated. <i>The least \
         possible</i> is one call for each key that the KMS wraps, process and time to live with traffic; renewing keys ahead of \
         their end, so that nobody waits, and lives shortened at random, so that not all end at once, cost a little more.</p>\n\
         </section>\n",
        outside.latency,
        outside.latency_p99,
        outside.store_latency,
        escaped(&outside.provider.title),
        escaped(&outside.prices_as_of),
        words::money(outside.provider.usd_per_10_000_calls),
        words::money(outside.provider.usd_per_key_month),
    )
}
