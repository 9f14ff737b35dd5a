//! `keystrata root verify`: whether the root keys do what the engine needs.

use anyhow::Result;
use serde_json::{Value, json};

use crate::{
    args::{RootArgs, RootCommand, SettingsArgs},
    failure::{self, Outcome},
    keys::{self, OpenRoot},
    kms::Work,
    output,
    settings::RootLocation,
};

pub(crate) async fn run(args: &RootArgs, settings: &SettingsArgs) -> Result<Outcome> {
    let RootCommand::Verify { json } = &args.command;
    let mut verdicts = Vec::new();
    let mut locations = settings.roots()?;
    // What would try it out is what only an operator may ask it, on the day it is needed.
    locations.recovery = None;
    let budget = settings.shared_budget(&locations, Work::Few)?;
    for location in locations.all().cloned() {
        let verdict = match keys::open_root(&location, budget.as_ref()).await {
            Ok(root) => {
                let verified = keystrata_kms::verify_root(&root.key()).await;
                Verdict::of(location, Some(root), verified.err().map(Into::into))
            }
            Err(error) => Verdict::of(location, None, Some(error)),
        };
        if !json {
            output::print(&verdict.line())?;
        }
        verdicts.push(verdict);
    }
    if *json {
        let roots: Vec<_> = verdicts.iter().map(Verdict::json).collect();
        output::print_json(&json!({ "roots": roots }))?;
    }
    let is_well = verdicts.iter().all(|verdict| verdict.error.is_none());
    Ok(if is_well { Outcome::Done } else { Outcome::Findings })
}

struct Verdict {
    location: RootLocation,
    root: Option<OpenRoot>,
    error: Option<String>,
}

impl Verdict {
    fn of(location: RootLocation, root: Option<OpenRoot>, error: Option<anyhow::Error>) -> Self {
        let error = error.map(|error| failure::one_line(&format!("{error:#}")));
        Self { location, root, error }
    }

    fn line(&self) -> String {
        match &self.error {
            None => format!("works   {}{}\n", self.location, self.calls()),
            Some(error) => format!("fails   {}: {error}\n", self.location),
        }
    }

    fn calls(&self) -> String {
        match &self.root {
            Some(OpenRoot::Kms(root)) => format!(" ({} calls)", root.kms_calls()),
            _ => String::new(),
        }
    }

    fn json(&self) -> Value {
        let kms = match &self.root {
            Some(OpenRoot::Kms(root)) => {
                json!({ "calls": root.kms_calls(), "estimated_usd": root.estimated_usd() })
            }
            _ => Value::Null,
        };
        json!({
            "location": self.location.to_string(),
            "id": self.root.as_ref().map(|root| root.key().id().to_string()),
            "works": self.error.is_none(),
            "error": self.error,
            "kms": kms,
        })
    }
}
