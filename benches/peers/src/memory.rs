//! Bytes of memory for each tenant whose key is cached, handles not kept.

use std::{alloc::System, process::Command};

use anyhow::{Context, Result, bail};
use keystrata_primitives::Suite;
use serde::{Deserialize, Serialize};
use stats_alloc::{Region, StatsAlloc};

use crate::{Plain, Process, Tenant, about, asherah, keystrata, kms::Kms};

/// Tenants in memory.
const TENANTS: usize = 10_000;
/// The same for aws-esdk: the DynamoDB of this process copies its table at each request, so that time grows with the square.
#[cfg(feature = "aws-esdk")]
const FEWER_TENANTS: usize = 1_000;

/// The libraries that keep tenants' keys in memory, each with its row of the tables.
pub const LIBRARIES: &[(&str, &str)] = &[
    ("keystrata", about::SUITE_2),
    ("asherah", about::ASHERAH),
    ("asherah-no-schedules", about::ASHERAH_SAFER),
    #[cfg(feature = "aws-esdk")]
    ("aws-esdk", about::AWS_ESDK),
];

/// What a tenant takes.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Bytes {
    /// How many tenants were in memory.
    pub tenants: usize,
    /// By the allocator's count.
    pub heap: usize,
    /// Locked in memory, which the allocator does not know of.
    pub locked: usize,
}

/// Measures one of [`LIBRARIES`] in this process, all of whose memory `allocator` counts.
///
/// # Errors
/// For another name, or if the kernel does not say what is locked.
pub fn measure(name: &str, allocator: &StatsAlloc<System>) -> Result<Bytes> {
    let kms = Kms::default();
    Ok(match name {
        "keystrata" => {
            let service = keystrata::Service::start(Suite::Aes256Gcm, keystrata::Topology::Account, TENANTS + 1, &kms);
            let bytes = grown(&service, TENANTS, allocator)?;
            assert_eq!(service.cached_keks(), TENANTS + 1);
            bytes
        }
        "asherah" => grown(&asherah_service(asherah::Schedules::Cached, &kms), TENANTS, allocator)?,
        "asherah-no-schedules" => grown(&asherah_service(asherah::Schedules::NotCached, &kms), TENANTS, allocator)?,
        #[cfg(feature = "aws-esdk")]
        "aws-esdk" => grown(&crate::aws_esdk::Service::start(FEWER_TENANTS + 1, &kms), FEWER_TENANTS, allocator)?,
        _ => {
            let names: Vec<_> = LIBRARIES.iter().map(|(library, _)| *library).collect();
            bail!("no library `{name}` here: choose of {}", names.join(", "))
        }
    })
}

fn asherah_service(schedules: asherah::Schedules, kms: &Kms) -> asherah::Service<asherah::Struct> {
    asherah::Service::start(schedules, TENANTS + 1, kms)
}

/// What `tenants` take, of as many and one more whose keys are at rest.
fn grown<P: Process>(process: &P, tenants: usize, allocator: &StatsAlloc<System>) -> Result<Bytes> {
    let plain = Plain::of(b"x");
    let seal_and_open = |tenant: P::Tenant| tenant.open(&mut tenant.seal(&plain));
    // What is taken once for all.
    seal_and_open(process.tenant(tenants));
    let (region, locked) = (Region::new(allocator), locked_bytes()?);
    for number in 0..tenants {
        seal_and_open(process.tenant(number));
    }
    let change = region.change();
    // What was reallocated is counted as allocated or given back.
    let heap = change.bytes_allocated.saturating_sub(change.bytes_deallocated);
    let locked = locked_bytes()?.saturating_sub(locked);
    Ok(Bytes { tenants, heap: heap / tenants, locked: locked / tenants })
}

fn locked_bytes() -> Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmLck:")).context("no VmLck in /proc/self/status")?;
    let kib: usize = line.split_whitespace().nth(1).context("no figure after VmLck")?.parse()?;
    Ok(kib * 1024)
}

/// Measures one of [`LIBRARIES`] in a process of its own, which counts every allocation and so is no place to measure time.
///
/// # Errors
/// If that process cannot be started or fails.
pub fn measure_apart(name: &str) -> Result<Bytes> {
    let program = std::env::current_exe()?.with_file_name("peers-memory");
    let output = Command::new(&program).arg(name).output().with_context(|| format!("run {}", program.display()))?;
    if !output.status.success() {
        bail!("{} {name}: {}: {}", program.display(), output.status, String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("what {} printed", program.display()))
}
