//! `cargo xtask benchmarks`: the tables of `docs/benchmarks.md` made anew, to be pasted there.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    peers,
    step::{self, cargo},
    workspace::Workspace,
};

/// Benches that print their own tables, with what to tell them.
const TABLES: [(&str, &str); 3] = [("primitives", "ratios"), ("cache", ""), ("allocations", "")];
/// The criterion bench whose results are read.
const CRITERION: &str = "account";
/// The libraries beside Keystrata, a workspace of their own.
const PEERS: &str = "peers";

/// What the figures depend on.
const PACKAGES: [&str; 9] =
    ["aws-lc-rs", "aws-lc-sys", "chacha20poly1305", "aes-gcm", "aes", "sha2", "blake3", "moka", "tokio"];

/// Runs the `chosen` benches, or all, optimised, and prints Markdown: first the machine, the versions and the date.
pub(crate) fn run(chosen: &[String]) -> Result<()> {
    let workspace = Workspace::load()?;
    let known: Vec<&str> = TABLES.iter().map(|(name, _)| *name).chain([CRITERION, PEERS]).collect();
    if let Some(unknown) = chosen.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("no bench `{unknown}`: choose of {}", known.join(", "));
    }
    let is_wanted = |name: &str| chosen.is_empty() || chosen.iter().any(|chosen| chosen == name);
    println!("{}\n", conditions(&workspace)?);
    for (name, arguments) in TABLES.into_iter().filter(|(name, _)| is_wanted(name)) {
        println!("## {name}\n\n{}", bench(name, arguments)?);
    }
    if is_wanted(CRITERION) {
        bench(CRITERION, "")?;
        println!("## {CRITERION}\n\n{}", table(&results(&workspace.target.join("criterion"))?));
    }
    if is_wanted(PEERS) {
        println!("## {PEERS}\n");
        peers::run(false, None, &[])?;
    }
    Ok(())
}

/// What a bench prints; what cargo says goes to stderr.
fn bench(name: &str, arguments: &str) -> Result<String> {
    step::output(&mut cargo(&format!("bench --locked -p keystrata-benches --bench {name} -- {arguments}")))
}

/// One line: when, on what, with which versions.
fn conditions(workspace: &Workspace) -> Result<String> {
    let said = |program: &str, arguments: &[&str]| -> Result<String> {
        Ok(step::output(Command::new(program).args(arguments))?.trim().to_owned())
    };
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("read {path}"));
    let processors = read("/proc/cpuinfo")?;
    let processor = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let load = read("/proc/loadavg")?;
    // The last of several versions: ours is the newest, and an older one is some dependency's.
    let versions = PACKAGES.iter().filter_map(|name| workspace.packages.iter().rfind(|package| package.name == *name));
    let versions: Vec<_> = versions.map(|package| format!("`{}` {}", package.name, package.version)).collect();
    Ok(format!(
        "Measured on {} on {} cores of {} (load {}), Linux {}, {}; {}.",
        said("date", &["-u", "+%F"])?,
        std::thread::available_parallelism()?,
        processor.map_or("an unknown processor", |(_, name)| name),
        load.split_whitespace().next().unwrap_or_default(),
        said("uname", &["-r"])?,
        said("rustc", &["-V"])?,
        versions.join(", "),
    ))
}

/// A criterion bench and its median in nanoseconds.
struct Estimate {
    bench: String,
    nanos: f64,
}

/// The newest results in criterion's folder.
fn results(folder: &Path) -> Result<Vec<Estimate>> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let about = folder.join("new/benchmark.json");
        if about.exists() {
            let read = |path: PathBuf| -> Result<Value> {
                let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
                serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
            };
            let bench = read(about)?["full_id"].as_str().context("a bench without a name")?.to_owned();
            let estimates = read(folder.join("new/estimates.json"))?;
            let nanos = estimates["median"]["point_estimate"].as_f64().context("a bench without a median")?;
            found.push(Estimate { bench, nanos });
        }
        for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    found.sort_by(|one, other| one.bench.cmp(&other.bench));
    Ok(found)
}

fn table(estimates: &[Estimate]) -> String {
    let rows = estimates.iter().map(|Estimate { bench, nanos }| format!("| {bench} | {nanos:.0} |\n"));
    format!("| bench | median, ns |\n|---|---:|\n{}", rows.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_from_where_criterion_leaves_them() {
        let folder = std::env::temp_dir().join(format!("keystrata-xtask-criterion-{}", std::process::id()));
        for (bench, nanos) in [("seal/account/64", 1_286.4), ("miss/seal", 12_000.0)] {
            let new = folder.join(bench.replace('/', "_")).join("new");
            fs::create_dir_all(&new).expect("a folder");
            fs::write(new.join("benchmark.json"), format!(r#"{{"full_id":"{bench}"}}"#)).expect("a file");
            let estimates = format!(r#"{{"median":{{"point_estimate":{nanos}}}}}"#);
            fs::write(new.join("estimates.json"), estimates).expect("a file");
        }
        let found = results(&folder);
        fs::remove_dir_all(&folder).expect("made above");
        assert_eq!(
            table(&found.expect("both are whole")),
            "| bench | median, ns |\n|---|---:|\n| miss/seal | 12000 |\n| seal/account/64 | 1286 |\n"
        );
    }
}
