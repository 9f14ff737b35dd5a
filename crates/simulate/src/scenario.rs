//! A simulation that can be run: all settings known and within bounds.

use keystrata_hierarchy::Policy;
use serde::Serialize;

use crate::{
    draft::{BudgetOf, Burst, DayCurve, Deploy, Draft, Outage, Routing, Switch, Wraps},
    error::SimulateError,
    prices::{Prices, Provider},
    span::Span,
};

/// Bounds that keep a simulation in a machine's memory and a person's patience.
const MOST_ACCOUNTS: u32 = 1_000_000;
const MOST_PROCESSES: u32 = 1_000;
pub(crate) const MOST_HANDLES: u64 = 20_000_000;
const LONGEST: Span = Span::seconds(31 * 86_400);
const MOST_RATE: f64 = 10_000_000.0;
const MOST_POLICIES: usize = 64;

/// What happens, and which policies have to cope with it.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What is asked of the processes.
    pub traffic: Traffic,
    /// What they ask of others.
    pub outside: Outside,
    /// How they keep keys: each is simulated.
    pub policies: Vec<KeyPolicy>,
    /// The random numbers' beginning.
    pub seed: u64,
}

/// What is asked of the processes, unless a trace says it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Traffic {
    /// From midnight on.
    pub duration: Span,
    /// How many there are.
    pub processes: u32,
    /// Whom they serve.
    pub accounts: u32,
    /// Operations a second, of all together.
    pub rate: f64,
    /// The exponent of Zipf's law.
    pub skew: f64,
    /// The part of seals.
    pub seals: f64,
    /// Who serves whom.
    pub routing: Routing,
    /// Over the day.
    pub day_curve: DayCurve,
    /// On top of that.
    pub bursts: Vec<Burst>,
    /// Restarts.
    pub deploys: Vec<Deploy>,
}

/// The KMS and the store.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outside {
    /// Prices and the quota that it is known for.
    pub provider: Provider,
    /// From when the prices are.
    pub prices_as_of: String,
    /// Calls a second that it answers; none: as many as come.
    pub quota: Option<f64>,
    /// Half of its answers take no longer.
    pub latency: Span,
    /// 99 of 100 take no longer.
    pub latency_p99: Span,
    /// When it does not work.
    pub outages: Vec<Outage>,
    /// How long the store takes.
    pub store_latency: Span,
}

/// How keys are kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct KeyPolicy {
    /// What wraps account KEKs.
    pub topology: Wraps,
    /// How long a decrypted KEK may be used.
    pub ttl: Span,
    /// How many of them a process holds.
    pub capacity: u32,
    /// Whether they are renewed ahead.
    pub refresh_ahead: Switch,
    /// By what part lives are shortened.
    pub jitter: f64,
    /// The calls that each process may make.
    pub budget: BudgetOf,
}

impl Scenario {
    /// The scenario of a draft, its gaps filled with defaults.
    ///
    /// # Errors
    /// [`SimulateError::Setting`] for what is out of bounds.
    pub fn new(draft: &Draft, prices: &Prices) -> Result<Self, SimulateError> {
        let traffic = Traffic {
            duration: draft.duration.unwrap_or(Span::seconds(86_400)),
            processes: draft.processes.unwrap_or(20),
            accounts: draft.accounts.unwrap_or(2_000),
            rate: draft.rate.unwrap_or(1_000.0),
            skew: draft.skew.unwrap_or(1.0),
            seals: draft.seals.unwrap_or(0.2),
            routing: draft.routing.unwrap_or_default(),
            day_curve: draft.day_curve.clone().unwrap_or_default(),
            bursts: draft.burst.clone(),
            deploys: draft.deploy.clone(),
        };
        let provider = prices.provider(draft.provider.as_deref().unwrap_or("aws"))?.clone();
        let latency = draft.kms_latency.unwrap_or(Span(std::time::Duration::from_millis(12)));
        let outside = Outside {
            quota: draft.quota.or(provider.calls_per_second),
            provider,
            prices_as_of: prices.as_of.clone(),
            latency,
            latency_p99: draft.kms_latency_p99.unwrap_or(Span(latency.0.saturating_mul(5))),
            outages: draft.outage.clone(),
            store_latency: draft.store_latency.unwrap_or(Span(std::time::Duration::from_millis(1))),
        };
        let scenario = Self { traffic, outside, policies: policies(draft)?, seed: draft.seed.unwrap_or(1) };
        scenario.traffic.check()?;
        scenario.outside.check()?;
        Ok(scenario)
    }
}

impl Traffic {
    fn check(&self) -> Result<(), SimulateError> {
        let setting = SimulateError::setting;
        let within = |name, value: f64, least: f64, most: f64| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(setting(name, format!("{value} is out of bounds: expected {least} to {most}")))
        };
        within("accounts", f64::from(self.accounts), 1.0, f64::from(MOST_ACCOUNTS))?;
        within("processes", f64::from(self.processes), 1.0, f64::from(MOST_PROCESSES))?;
        self.check_handles()?;
        within("rate", self.rate, 1e-6, MOST_RATE)?;
        within("skew", self.skew, 0.0, 10.0)?;
        within("seals", self.seals, 0.0, 1.0)?;
        if !(Span::seconds(1)..=LONGEST).contains(&self.duration) {
            let message = format!("{} is out of bounds: expected 1s to {LONGEST}", self.duration);
            return Err(setting("duration", message));
        }
        Ok(())
    }

    /// Each process keeps a handle of each account.
    pub(crate) fn check_handles(&self) -> Result<(), SimulateError> {
        let handles = u64::from(self.accounts) * u64::from(self.processes);
        if handles <= MOST_HANDLES {
            return Ok(());
        }
        let message = format!(
            "{} accounts in each of {} processes are {handles} to keep track of: expected at most {MOST_HANDLES}; simulate \
             a part of the processes, with that part of the traffic",
            self.accounts, self.processes
        );
        Err(SimulateError::setting("accounts", message))
    }
}

impl Outside {
    fn check(&self) -> Result<(), SimulateError> {
        if let Some(quota) = self.quota.filter(|quota| !(1.0..=1e9).contains(quota)) {
            return Err(SimulateError::setting(
                "quota",
                format!("{quota} is out of bounds: expected 1 a second or more"),
            ));
        }
        let hour = Span::seconds(3_600);
        if self.latency > hour || self.store_latency > hour {
            return Err(SimulateError::setting("kms_latency, store_latency", "over an hour: expected milliseconds"));
        }
        if self.latency_p99 < self.latency {
            let message = format!("{} is less than half of the answers take, {}", self.latency_p99, self.latency);
            return Err(SimulateError::setting("kms_latency_p99", message));
        }
        Ok(())
    }
}

impl KeyPolicy {
    /// The same for the engine.
    pub(crate) fn engine_policy(&self) -> Result<Policy, SimulateError> {
        let policy = Policy::builder().kek_ttl(self.ttl.0).ttl_jitter(self.jitter).refresh_ahead(self.refresh_ahead.0);
        policy.build().map_err(|error| SimulateError::setting("ttl, jitter", error.to_string()))
    }

    /// How many root calls' worth of KEKs there are for so many accounts.
    pub(crate) fn tops(&self, accounts: u32) -> u32 {
        match self.topology {
            Wraps::Direct | Wraps::Account => accounts,
            Wraps::Group(size) => accounts.div_ceil(size),
        }
    }

    /// Which of them an account rests on.
    pub(crate) fn top_of(&self, account: u32) -> u32 {
        match self.topology {
            Wraps::Direct | Wraps::Account => account,
            Wraps::Group(size) => account / size,
        }
    }

    /// A short name among `all`: what differs.
    pub fn name(&self, all: &[Self]) -> String {
        type Part = fn(&KeyPolicy) -> String;
        let cached = || all.iter().filter(|policy| policy.topology != Wraps::Direct);
        let differs = |part: Part| cached().any(|other| part(other) != part(self));
        let mut name = self.topology.to_string();
        if self.topology == Wraps::Direct {
            return name;
        }
        name.push(' ');
        name.push_str(&self.ttl.to_string());
        let parts: [Part; 4] = [
            |policy| format!(" capacity {}", policy.capacity),
            |policy| format!(" refresh {}", policy.refresh_ahead),
            |policy| format!(" jitter {}", policy.jitter),
            |policy| format!(" budget {}", policy.budget),
        ];
        for part in parts {
            if differs(part) {
                name.push_str(&part(self));
            }
        }
        name
    }
}

/// All combinations of what is listed.
fn policies(draft: &Draft) -> Result<Vec<KeyPolicy>, SimulateError> {
    fn of<T: Clone>(listed: &[T], default: T) -> Vec<T> {
        if listed.is_empty() { vec![default] } else { listed.to_vec() }
    }
    let topologies = of(&draft.topology, Wraps::Account);
    let ttls = of(&draft.ttl, Span::seconds(300));
    let capacities = of(&draft.capacity, 100_000);
    let refreshes = of(&draft.refresh_ahead, Switch(true));
    let jitters = of(&draft.jitter, 0.05);
    let budgets = of(&draft.budget, BudgetOf::Unlimited);
    if let Some(capacity) = capacities.iter().find(|capacity| **capacity == 0) {
        return Err(SimulateError::setting("capacity", format!("{capacity}: expected room for 1 KEK or more")));
    }
    let mut policies: Vec<KeyPolicy> = Vec::new();
    for &topology in &topologies {
        for &ttl in &ttls {
            for &capacity in &capacities {
                for &refresh_ahead in &refreshes {
                    for &jitter in &jitters {
                        for &budget in &budgets {
                            let policy = KeyPolicy { topology, ttl, capacity, refresh_ahead, jitter, budget };
                            policy.engine_policy()?;
                            // Nothing is cached there, so nothing of the rest matters.
                            let is_repeated = topology == Wraps::Direct
                                && policies.iter().any(|other| other.topology == Wraps::Direct);
                            if !is_repeated && !policies.contains(&policy) {
                                policies.push(policy);
                            }
                        }
                    }
                }
            }
        }
    }
    if policies.len() > MOST_POLICIES {
        let message = format!("the lists make {} policies: expected at most {MOST_POLICIES}", policies.len());
        return Err(SimulateError::setting("topology, ttl, …", message));
    }
    Ok(policies)
}
