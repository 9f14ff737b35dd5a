//! The stores that need a server, against a real one.
//!
//! `cargo xtask test` starts it and says by environment variables where it is.
#![cfg(any(feature = "postgres", feature = "dynamodb"))]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

#[cfg(feature = "dynamodb")]
mod dynamodb;
#[cfg(feature = "dynamodb")]
mod dynamodb_damage;
#[cfg(feature = "dynamodb")]
mod dynamodb_faults;
#[cfg(feature = "dynamodb")]
mod dynamodb_processes;
#[cfg(feature = "dynamodb")]
mod dynamodb_service;
#[cfg(feature = "dynamodb")]
mod dynamodb_soak;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "postgres")]
mod postgres_access;
#[cfg(feature = "postgres")]
mod postgres_database;
#[cfg(feature = "postgres")]
mod postgres_faults;
#[cfg(feature = "postgres")]
mod postgres_processes;
#[cfg(feature = "postgres")]
mod postgres_soak;
// One way to start servers and to read HTTP, not two.
#[cfg(feature = "dynamodb")]
#[allow(dead_code)] // here not all of it is used
#[path = "../../../kms/tests/servers/process.rs"]
mod process;
#[cfg(feature = "dynamodb")]
#[allow(dead_code)]
#[path = "../../../kms/tests/servers/proxy.rs"]
mod proxy;
#[cfg(any(feature = "dynamodb", feature = "postgres"))]
#[path = "../soak/mod.rs"]
mod soak;
#[path = "../support/mod.rs"]
mod support;
