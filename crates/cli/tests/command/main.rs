//! The command as a user meets it: every test runs the built binary.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // clippy takes only functions marked #[test] for tests

mod accounts;
mod audit;
mod demo;
mod facts;
mod init;
mod observe;
mod output;
mod processes;
mod recover;
mod refusals;
mod rekey;
mod reroot;
mod rewrap;
mod roots;
mod round_trip;
mod runbook;
mod settings;
mod shred;
mod simulate;
mod site;
mod states;
mod store_check;
mod store_copy;
mod store_upkeep;
mod versions;
