//! `keystrata store check`.

use std::{fmt::Write, sync::Arc};

use anyhow::{Context, Result};
use keystrata_hierarchy::{
    CheckEvent, CheckReport, Finding, KekStore, RootKey, RootKeyId, UnwrapReport, check_store, unwrap_all,
};
use keystrata_kms::ListPrice;
use serde_json::{Value, json};

use super::CheckArgs;
use crate::{
    args::SettingsArgs,
    confirm,
    failure::Outcome,
    findings::{Example, Examples, chain},
    keys::{self, OpenRoot, OpenRoots},
    kms::{self, Work},
    output, progress,
};

pub(super) async fn run(args: &CheckArgs, settings: &SettingsArgs) -> Result<Outcome> {
    let location = settings.store()?;
    let roots =
        if args.any_root { None } else { Some(keys::open_roots(settings, Work::Bulk).await.with_context(any_root)?) };
    let store = keys::open_store(&location).await?;
    let mut examples = Examples::new(args.examples);

    let ids = roots.as_ref().map(|roots| roots.all().map(|root| root.key().id().clone()).collect::<Vec<RootKeyId>>());
    let bar = progress::over_accounts(&store, "checking").await?;
    let looked = check_store(&store, ids.as_deref(), |event| note(&mut examples, event, || bar.inc(1))).await;
    bar.finish_and_clear();
    if looked.is_err() && !args.json {
        output::print(&examples.text())?; // what was found until then is worth knowing
    }
    let looked = looked?;

    let tried = match roots.as_ref().filter(|_| args.unwrap) {
        Some(roots) => Some((try_all(args, &store, roots, looked, &mut examples).await?, roots)),
        None => None,
    };
    let findings = looked.findings + tried.map_or(0, |(tried, _)| tried.findings);
    if args.json {
        output::print_json(&json!({
            "store": location.to_string(), "clean": findings == 0,
            "accounts": looked.accounts, "shredded": looked.shredded, "keks": looked.keks,
            "root_wraps": looked.root_wraps, "parent_wraps": looked.parent_wraps,
            "findings": findings, "kinds": examples.kinds, "examples": examples.json(),
            "unwrap": tried.map(|(tried, roots)| unwrap_json(tried, roots)),
        }))?;
    } else {
        output::print(&text(&examples, looked, tried.map(|(tried, _)| tried), findings)?)?;
    }
    Ok(if findings == 0 { Outcome::Done } else { Outcome::Findings })
}

fn any_root() -> &'static str {
    "the root keys that may have wrapped KEKs are not known; with --any-root they need not be"
}

fn note(examples: &mut Examples, event: CheckEvent, on_account: impl FnOnce()) {
    match event {
        CheckEvent::Finding(Finding { path, kek_id, fault, .. }) => examples.add(Example {
            path,
            kek_id: kek_id.map(|id| id.to_string()),
            kind: fault.kind(),
            message: chain(&fault),
        }),
        _ => on_account(),
    }
}

/// Counts the calls first: they cost money, and a quota that others use too.
async fn try_all(
    args: &CheckArgs,
    store: &Arc<dyn KekStore>,
    roots: &OpenRoots,
    looked: CheckReport,
    examples: &mut Examples,
) -> Result<UnwrapReport> {
    let is_in_kms = roots.in_kms().next().is_some();
    if is_in_kms && looked.root_wraps > 0 {
        confirm::go_on(&format!("{}.", cost(roots, looked.root_wraps)), args.yes)?;
    }
    let bar = progress::over_accounts(store, "unwrapping").await?;
    let keys: Vec<Arc<dyn RootKey>> = roots.unwrapping().map(OpenRoot::key).collect();
    let tried = unwrap_all(store, &keys, |event| note(examples, event, || bar.inc(1))).await;
    bar.finish_and_clear();
    Ok(tried?)
}

/// As if all of them went to the dearest, since it is not known which wraps how many.
fn cost(roots: &OpenRoots, calls: u64) -> String {
    let prices = roots.unwrapping().filter_map(|root| ListPrice::of(root.key().id()));
    let dearest = prices.max_by(|one, other| one.usd_per_10_000_calls.total_cmp(&other.usd_per_10_000_calls));
    let usd = dearest.map_or_else(String::new, |price| {
        let usd = keystrata_kms::estimated_cost(calls, price.usd_per_10_000_calls);
        format!(", at most ${usd:.4} by the list of {} of {}", price.service, price.as_of)
    });
    format!("To unwrap every KEK takes {calls} call(s) to the KMS{usd}")
}

fn text(examples: &Examples, looked: CheckReport, tried: Option<UnwrapReport>, findings: u64) -> Result<String> {
    let CheckReport { accounts, shredded, keks, root_wraps, parent_wraps, .. } = looked;
    let mut text = examples.text();
    writeln!(
        text,
        "{accounts} account(s), {shredded} of them shredded; {keks} KEK(s), wrapped {root_wraps} time(s) by root keys and \
         {parent_wraps} by other KEKs"
    )?;
    if let Some(UnwrapReport { root_wraps, parent_wraps, unwrapped, .. }) = tried {
        writeln!(text, "{unwrapped} of {} wrap(s) gave their KEK", root_wraps + parent_wraps)?;
    }
    match findings {
        0 => writeln!(text, "nothing wrong was found")?,
        _ => writeln!(text, "{findings} finding(s): {}", examples.counts())?,
    }
    Ok(text)
}

fn unwrap_json(tried: UnwrapReport, roots: &OpenRoots) -> Value {
    let (calls, usd) = kms::calls(roots.in_kms()).unwrap_or_default();
    json!({
        "root_wraps": tried.root_wraps, "parent_wraps": tried.parent_wraps,
        "unwrapped": tried.unwrapped, "findings": tried.findings,
        "kms_calls": calls, "estimated_usd": usd,
    })
}
