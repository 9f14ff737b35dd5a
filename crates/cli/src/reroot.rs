//! `keystrata reroot`: the KEKs of all accounts under the root keys of the settings.

use anyhow::{Result, bail};
use keystrata_hierarchy::{
    KeyPath, Reroot, RootKeyId, WrapperQuery,
    jobs::{Tally, Task},
};

use crate::{
    account::life_advised,
    args::{RerootArgs, SettingsArgs},
    confirm,
    failure::Outcome,
    findings::Examples,
    job::{self, JobReport},
    keys::{self, OpenRoots, Opened},
    kms::Work,
    output,
};

pub(crate) async fn run(args: &RerootArgs, settings: &SettingsArgs) -> Result<Outcome> {
    let step = args.step.step();
    let account = if args.account.is_empty() { None } else { Some(KeyPath::new(&args.account)?) };
    let opened = keys::open_for(settings, Work::Bulk).await?;
    let from = args.from.as_deref().map(|from| root_of(&opened.roots, from)).transpose()?;
    if step != Reroot::Add && !args.job.dry_run {
        confirm_retiring(args, &opened.roots, account.as_ref())?;
    }
    let report = if let Some(path) = account {
        one(&opened, path, step, args).await?
    } else {
        let task = Task::Reroot { step, under: from.map(WrapperQuery::Root) };
        job::run(&opened, task, &args.job, if step == Reroot::Add { "adding" } else { "retiring" }).await?
    };
    let Tally { accounts, changed, unchanged, failed, added, dropped, .. } = report.tally;
    if args.json {
        let mut facts = report.json(args.job.dry_run);
        facts["step"] = name(step).into();
        facts["added"] = added.into();
        facts["dropped"] = dropped.into();
        output::print_json(&facts)?;
    } else {
        let would = if args.job.dry_run { "would be " } else { "" };
        output::print(&format!(
            "{}{accounts} account(s): {changed} {would}rerooted, {unchanged} as they are to be, {failed} failed; {added} wrap(s) \
             {would}added, {dropped} {would}dropped\n",
            report.examples.text()
        ))?;
    }
    Ok(report.outcome())
}

fn name(step: Reroot) -> &'static str {
    match step {
        Reroot::Add => "add",
        Reroot::Retire => "retire",
        Reroot::VerifyAndRetire => "verify-and-retire",
    }
}

/// One account, as a report of a job over one.
async fn one(opened: &Opened, path: KeyPath, step: Reroot, args: &RerootArgs) -> Result<JobReport> {
    let account = opened.keys.account(path)?;
    let rerooted = if args.job.dry_run { account.reroot_plan(step).await } else { account.reroot(step).await };
    let rerooted = rerooted.map_err(life_advised)?;
    let mut tally = Tally::default();
    let changed = u64::from(rerooted.changed > 0);
    (tally.accounts, tally.changed, tally.unchanged) = (1, changed, 1 - changed);
    (tally.added, tally.dropped) = (rerooted.added as u64, rerooted.dropped as u64);
    Ok(JobReport::new(tally, Examples::new(0), opened))
}

/// The root key that the operator means, which has to be one that is known here: a slip of the pen would find no KEK, and look as if
/// all was done.
fn root_of(roots: &OpenRoots, named: &str) -> Result<RootKeyId> {
    let all = || roots.locations.all().zip(roots.all());
    let found = all().find(|(location, root)| location.to_string() == named || root.key().id().as_str() == named);
    if let Some((_, root)) = found {
        return Ok(root.key().id().clone());
    }
    let known: Vec<_> = all().map(|(location, _)| location.to_string()).collect();
    bail!("--from {named} is none of the root keys of the settings: {}", known.join(", "))
}

/// What is dropped can be added again, as long as one of the root keys that stay does its work.
fn confirm_retiring(args: &RerootArgs, roots: &OpenRoots, account: Option<&KeyPath>) -> Result<()> {
    let staying: Vec<_> =
        roots.locations.current.iter().chain(&roots.locations.recovery).map(ToString::to_string).collect();
    let whose = account.map_or_else(|| "all accounts".to_owned(), |path| format!("account {path}"));
    let plan = format!(
        "This takes from the KEKs of {whose} the wraps by all root keys but\n  {}\nProcesses that do not know these open nothing of \
         them from then on, and without these nothing opens again.\n",
        staying.join("\n  ")
    );
    let first = roots.locations.current.first().map(ToString::to_string).unwrap_or_default();
    confirm::by_name(&plan, "the first root key that stays,", &first, args.yes_i_mean.as_deref())
}
