//! What a policy for keys costs, how exposed it leaves them, and whether its processes will be throttled, before anything is
//! deployed.
//!
//! A simulation runs the engine itself, [`keystrata_hierarchy`] behind the budget, the retries and the breaker of
//! [`keystrata_kms`], in virtual time: a day of a fleet takes a minute. Only three things are stood in for: the KMS, which
//! answers after a random time, throttles above its quota and fails when it is told to; the store, which answers after a fixed
//! time; and the ciphers, as an operation that has found its KEK costs the same under every policy. Each process of the fleet
//! is an engine of its own.
//!
//! Everything follows from the seed: the same scenario gives the same numbers, on any machine and any number of processors.
//! (One exception: where [room](KeyPolicy::capacity) runs out among KEKs that are due in the same nanosecond, as those that one
//! group's KEK unwrapped often are, which of them goes is left to chance.)
//!
//! ```
//! use keystrata_simulate::{Draft, Prices, Progress, Scenario, forecast};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let draft = Draft::parse(
//!     r#"
//!     processes = 2
//!     accounts = 100
//!     rate = 50.0
//!     duration = "20m"
//!     topology = ["account", "group:20", "direct"]
//!     ttl = ["5m"]
//!     "#,
//! )?;
//! let scenario = Scenario::new(&draft, &Prices::built_in()?)?;
//! let forecast = forecast(&scenario, &Progress::default())?;
//! let calls: Vec<_> = forecast.policies.iter().map(|policy| policy.kms_calls.total).collect();
//! assert!(calls[1] < calls[0] && calls[0] < calls[2] / 20);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod draft;
mod error;
mod forecast;
mod keys;
mod kms;
mod lane;
mod measured;
mod prices;
mod process;
mod progress;
pub mod report;
mod runner;
mod scenario;
mod span;
mod trace;
mod traffic;
mod world;

pub use self::{
    draft::{BudgetOf, Burst, DayCurve, Deploy, Draft, Outage, OutageKind, Routing, Switch, Wraps},
    error::SimulateError,
    forecast::{
        Cost, Exposure, Forecast, KmsCalls, LatencyForecast, OverTime, PolicyForecast, Refused, forecast,
        forecast_trace,
    },
    prices::{Prices, Provider},
    progress::Progress,
    scenario::{KeyPolicy, Outside, Scenario, Traffic},
    span::Span,
    trace::Trace,
};
