//! Prints the bytes of memory that a tenant takes in one library: started by `peers`.
#![forbid(unsafe_code)]

use std::alloc::System;

use anyhow::{Context, Result};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> Result<()> {
    let name = std::env::args().nth(1).context("name a library")?;
    println!("{}", serde_json::to_string(&keystrata_peers::memory::measure(&name, ALLOCATOR)?)?);
    Ok(())
}
