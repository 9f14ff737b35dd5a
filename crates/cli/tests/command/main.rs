//! The command as a user meets it: every test runs the built binary.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // clippy takes only functions marked #[test] for tests

mod demo;
mod facts;
mod init;
mod output;
mod processes;
mod refusals;
mod round_trip;
mod settings;
mod site;
