//! The stores that need a server, against a real one.
//!
//! `cargo xtask test` starts it and says by environment variables where it is.
#![cfg(feature = "postgres")]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod postgres;
mod postgres_access;
mod postgres_database;
mod postgres_faults;
mod postgres_processes;
#[path = "../support/mod.rs"]
mod support;
