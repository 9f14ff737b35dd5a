//! The adapters against servers that speak their protocols, and against stand-ins that misbehave on cue.
//!
//! Tests marked `ignore` need what `cargo xtask test` installs into the target folder; the others need nothing.
#![cfg(all(feature = "aws", feature = "vault", feature = "gcp"))]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod aws;
mod aws_faults;
mod connections;
mod engine;
mod enveloped;
mod gcp;
mod gcp_auth;
mod gcp_fake;
mod guarded;
mod load;
mod logs;
mod own_process;
mod process;
mod proxy;
mod tls;
mod unsent;
mod vault;
mod vault_auth;
mod vault_faults;
mod verdict;
