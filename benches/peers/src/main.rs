//! `peers`: measures all libraries and prints the tables of `docs/benchmarks.md`.
#![forbid(unsafe_code)]

use anyhow::Result;
use clap::Parser;
use keystrata_peers::{
    Process, about, aims, asherah, bare,
    calls::{self, Calls},
    keystrata::{Service, Topology},
    kms::Kms,
    kms_aead, memory,
    report::{Machine, Memory, Report},
    speed::{self, Case, Row},
    tink,
};
use keystrata_primitives::Suite;

#[derive(Parser)]
struct Args {
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// How often each case is timed.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let rounds = usize::try_from(args.rounds)?;
    let before = load()?;
    eprintln!("times, {rounds} rounds");
    let speed = times(rounds);
    eprintln!("calls of the KMS");
    let calls = count_calls();
    eprintln!("memory");
    let memory = measure_memory()?;
    let packages = about::ALL.iter().filter_map(|about| about.package);
    let mut versions: Vec<_> = packages.map(|package| (package, about::version(package))).collect();
    versions.sort_unstable();
    versions.dedup();
    let machine = Machine {
        processor: processor()?,
        cores: std::thread::available_parallelism()?.get(),
        load: [before, load()?],
        versions,
    };
    let mut report = Report { machine, rounds, speed, calls, memory, aims: Vec::new() };
    report.aims = aims::judge(&report);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.markdown());
    }
    Ok(())
}

fn times(rounds: usize) -> Vec<Row> {
    use asherah::{Schedules, Service as Asherah, Struct, Wire};
    let kms = Kms::default();
    let keystrata = |suite| Service::start(suite, Topology::Account, 1, &kms);
    let [suite_1, suite_2] = [Suite::XChaCha20Poly1305, Suite::Aes256Gcm].map(keystrata);
    let structs = Asherah::<Struct>::start(Schedules::Cached, 1, &kms);
    let wire = Asherah::<Wire>::start(Schedules::Cached, 1, &kms);
    let safer = Asherah::<Struct>::start(Schedules::NotCached, 1, &kms);
    let mut cases = vec![
        Case::new(about::BARE_ONE_KEY, bare::OneKey::default()),
        Case::new(about::BARE_2, bare::FreshKey(Suite::Aes256Gcm)),
        Case::new(about::BARE_1, bare::FreshKey(Suite::XChaCha20Poly1305)),
        Case::new(about::SUITE_2, suite_2.tenant(0)),
        Case::new(about::SUITE_1, suite_1.tenant(0)),
        Case::new(about::ASHERAH, structs.tenant(0)),
        Case::new(about::ASHERAH_WIRE, wire.tenant(0)),
        Case::new(about::ASHERAH_SAFER, safer.tenant(0)),
        Case::new(about::KMS_AEAD, kms_aead::Service::start(&kms).tenant(0)),
        Case::new(about::TINK, tink::Service::start(&kms).tenant(0)),
    ];
    #[cfg(feature = "aws-esdk")]
    cases.push(Case::new(about::AWS_ESDK, keystrata_peers::aws_esdk::Service::start(1, &kms).tenant(0)));
    speed::measure(&mut cases, rounds)
}

fn count_calls() -> Vec<Calls> {
    use asherah::{Schedules, Service as Asherah, Struct, Wire};
    let keystrata = |suite, topology| move |tenants, kms: &Kms| Service::start(suite, topology, tenants, kms);
    let mut all = vec![
        calls::count(about::SUITE_2, keystrata(Suite::Aes256Gcm, Topology::Account)),
        calls::count_tasks(about::SUITE_2_TASKS, keystrata(Suite::Aes256Gcm, Topology::Account)),
        calls::count(about::SUITE_1, keystrata(Suite::XChaCha20Poly1305, Topology::Account)),
        calls::count(about::GROUP, keystrata(Suite::Aes256Gcm, Topology::Group)),
        calls::count(about::ASHERAH, |tenants, kms| Asherah::<Struct>::start(Schedules::Cached, tenants, kms)),
        calls::count(about::ASHERAH_WIRE, |tenants, kms| Asherah::<Wire>::start(Schedules::Cached, tenants, kms)),
        calls::count(about::ASHERAH_SAFER, |tenants, kms| Asherah::<Struct>::start(Schedules::NotCached, tenants, kms)),
        calls::count(about::KMS_AEAD, |_, kms| kms_aead::Service::start(kms)),
        calls::count(about::TINK, |_, kms| tink::Service::start(kms)),
    ];
    all.extend(optional_calls());
    all
}

#[cfg(feature = "aws-esdk")]
fn optional_calls() -> [Calls; 2] {
    use keystrata_peers::aws_esdk::Service;
    [calls::count(about::AWS_ESDK, Service::start), calls::count_tasks(about::AWS_ESDK_TASKS, Service::start)]
}

#[cfg(not(feature = "aws-esdk"))]
fn optional_calls() -> [Calls; 0] {
    []
}

fn measure_memory() -> Result<Vec<Memory>> {
    let measure = |&(library, name)| Ok(Memory { name, bytes: memory::measure_apart(library)? });
    memory::LIBRARIES.iter().map(measure).collect()
}

fn load() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split_whitespace().next().unwrap_or_default().parse()?)
}

fn processor() -> Result<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("model name"));
    Ok(line.map_or("?", |line| line.trim_start_matches([' ', '\t', ':'])).to_owned())
}
