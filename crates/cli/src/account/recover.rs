//! `keystrata account recover`: an account's KEKs by the recovery root, when an operator says so.

use anyhow::{Context, Result, bail};
use keystrata_hierarchy::{KekRecord, KekState, KeyPath, Reroot, Roots, Wrapper};
use serde_json::json;

use super::{advised, life_advised, segments, state::export};
use crate::{
    args::{NameArgs, SettingsArgs},
    failure::{self, Outcome},
    findings::chain,
    keys::{self, Opened},
    kms::Work,
    output,
};

/// Twice: the engine unwraps by the recovery root, which shows that it can and is recorded as what it is; and then once more to
/// wrap anew, where that root stands in the place of a former one.
pub(super) async fn run(args: &NameArgs, settings: &SettingsArgs) -> Result<Outcome> {
    let path = KeyPath::new(&args.account)?;
    if settings.roots()?.recovery.is_none() {
        bail!(
            "no recovery root key is named: give --recovery-root, or recovery_root in the settings file; a KEK can be got by it \
             only if it was named there when that KEK was made"
        );
    }
    let Opened { keys, store, roots } = keys::open_for(settings, Work::Few).await?;
    let recovery = roots.recovery.as_ref().context("no recovery root key was opened")?.key();
    let recovered = keys.account(path.clone())?.recover().await.map_err(advised)?;
    keys.close();

    let list = roots.current.iter().fold(Roots::builder(), |roots, root| roots.current(root.key()));
    let again = keys::builder(settings, &store)?.roots(list.former(recovery).build()?).build()?;
    let rerooted = again.account(path.clone())?.reroot(Reroot::Add).await;
    if let (Err(error), true) = (rerooted, recovered.failed.is_empty()) {
        return Err(life_advised(error)); // else it is of a KEK of which that is known already
    }
    let copy = export(&*store, &path).await?;
    let keks: Vec<_> = copy.records.iter().filter(|record| record.state != KekState::Destroyed).collect();
    let current: Vec<_> = roots.current.iter().map(|root| Wrapper::Root(root.key().id().clone())).collect();
    let is_wrapped =
        |record: &&&KekRecord| current.iter().all(|root| record.wraps.iter().any(|wrap| wrap.wrapper == *root));
    let (of, wrapped) = (keks.len(), keks.iter().filter(is_wrapped).count());
    if args.json {
        let failed: Vec<_> = recovered
            .failed
            .iter()
            .map(|(id, error)| json!({ "kek_id": id.to_string(), "error": chain(error) }))
            .collect();
        output::print_json(&json!({
            "account": segments(&path), "recovered": recovered.keks, "keks": of, "wrapped": wrapped, "failed": failed,
        }))?;
    } else {
        let lines: String = recovered
            .failed
            .iter()
            .map(|(id, error)| failure::one_line(&format!("not recovered  KEK {id}: {}", chain(error))) + "\n")
            .collect();
        output::print(&format!(
            "{lines}{} KEK(s) of account {path} recovered; the current root keys wrap {wrapped} of {of}\n",
            recovered.keks
        ))?;
    }
    Ok(if wrapped == of { Outcome::Done } else { Outcome::Findings })
}
