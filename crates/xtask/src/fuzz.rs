//! `cargo xtask fuzz`: the fuzz targets of `crates/primitives/fuzz`.
//!
//! They are built here as `cargo fuzz` would build them, so that nothing but a C++ compiler needs to be installed. What
//! they find and make stays under the target folder.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::Mutex,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    step::{self, cargo},
    workspace::Workspace,
};

/// What libFuzzer needs to see which way an input went, and assertions.
///
/// No sanitizer: the crates that are fuzzed have no raw memory of their own, and it would halve the speed.
const FLAGS: [&str; 9] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    // Else branches are folded into one, and two ways look the same.
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "-Cdebug-assertions",
    "-Ccodegen-units=1",
    "--cfg=fuzzing",
];

/// An input that takes longer than this has found something too.
const INPUT_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs the `chosen` targets, or all of them, for that long each; as many at a time as there are cores, at least two.
pub(crate) fn run(time: Duration, chosen: &[String]) -> Result<()> {
    let fuzzing = Fuzzing::new(&Workspace::load()?)?;
    let targets = fuzzing.targets(chosen)?;
    fuzzing.build()?;
    fuzzing.seed()?;

    let at_a_time = thread::available_parallelism().map_or(2, |cores| cores.get().max(2)).min(targets.len());
    println!("==> fuzz {}: {} s each, {at_a_time} at a time", targets.join(", "), time.as_secs());
    let waiting = Mutex::new(targets.iter());
    let finds = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().map(|mut waiting| waiting.next());
                    let Ok(Some(target)) = next else { break };
                    if let Err(error) = fuzzing.run(target, time)
                        && let Ok(mut finds) = finds.lock()
                    {
                        finds.push(format!("{error:#}"));
                    }
                }
            });
        }
    });
    let finds = finds.into_inner().unwrap_or_default();
    if !finds.is_empty() {
        bail!("{}", finds.join("\n"));
    }
    Ok(())
}

struct Fuzzing {
    /// The targets' own workspace.
    folder: PathBuf,
    /// Binaries, corpus, artifacts and logs.
    home: PathBuf,
    host: String,
}

impl Fuzzing {
    fn new(workspace: &Workspace) -> Result<Self> {
        Ok(Self {
            folder: workspace.root.join("crates/primitives/fuzz"),
            home: workspace.target.join("fuzz"),
            host: step::host()?,
        })
    }

    /// The targets to run, which must exist.
    fn targets(&self, chosen: &[String]) -> Result<Vec<String>> {
        let sources = self.folder.join("fuzz_targets");
        let mut all = BTreeSet::new();
        for entry in fs::read_dir(&sources).with_context(|| format!("read {}", sources.display()))? {
            let path = entry?.path();
            let name = path.file_stem().and_then(|name| name.to_str());
            all.extend(name.map(str::to_owned));
        }
        choose(&all, chosen)
    }

    /// Cargo in the folder of the targets, which have a lock file of their own.
    fn cargo(&self, arguments: &str) -> Command {
        let mut command = cargo(arguments);
        command.current_dir(&self.folder).env("CARGO_TARGET_DIR", &self.home);
        command
    }

    fn build(&self) -> Result<()> {
        step::run(
            "build the fuzz targets",
            // With a target given, the flags do not reach build scripts and macros, which libFuzzer is not linked to.
            self.cargo("build --release --locked --bins --target")
                .arg(&self.host)
                // The passes are unstable flags of a stable compiler; only this build uses them.
                .env("RUSTC_BOOTSTRAP", "1")
                .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f")),
        )
    }

    fn seed(&self) -> Result<()> {
        let seeds = "run --quiet --locked --no-default-features --example seed --";
        step::run("seed the corpus", self.cargo(seeds).arg(self.home.join("corpus")))
    }

    fn binary(&self, target: &str) -> PathBuf {
        self.home.join(&self.host).join("release").join(target)
    }

    fn run(&self, target: &str, time: Duration) -> Result<()> {
        let corpus = self.home.join("corpus").join(target);
        let artifacts = self.home.join("artifacts").join(target);
        let log = self.home.join(target).with_extension("log");
        for folder in [&corpus, &artifacts] {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let known = files(&artifacts)?;
        let binary = self.binary(target);
        let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        // New inputs go to the corpus; what was found before is tried again first.
        let status = Command::new(&binary)
            .args([&corpus, &artifacts])
            .arg(format!("-max_total_time={}", time.as_secs()))
            .arg(format!("-timeout={}", INPUT_TIMEOUT.as_secs()))
            .arg("-print_final_stats=1")
            .arg(prefix(&artifacts))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .status()
            .with_context(|| format!("run {}", binary.display()))?;
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        if status.success() {
            println!("==> fuzz {target}: {}", executed(&text).context("libFuzzer gave no count of its inputs")?);
            return Ok(());
        }
        let new: Vec<_> = files(&artifacts)?.difference(&known).cloned().collect();
        Err(anyhow::Error::msg(found(target, status, &binary, &log, &new)))
    }
}

fn choose(all: &BTreeSet<String>, chosen: &[String]) -> Result<Vec<String>> {
    if let Some(unknown) = chosen.iter().find(|name| !all.contains(*name)) {
        let names = all.iter().map(String::as_str).collect::<Vec<_>>();
        bail!("there is no fuzz target {unknown:?}; there are {}", names.join(", "));
    }
    Ok(all.iter().filter(|name| chosen.is_empty() || chosen.contains(*name)).cloned().collect())
}

/// libFuzzer joins its own names to this as it is, so it ends in a slash.
fn prefix(artifacts: &Path) -> OsString {
    let mut argument = OsString::from("-artifact_prefix=");
    argument.push(artifacts);
    argument.push("/");
    argument
}

fn files(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// The count of inputs in libFuzzer's closing lines.
fn executed(log: &str) -> Option<String> {
    let count = log.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?;
    Some(format!("{} inputs, nothing found", count.trim()))
}

/// What was found and how to see it again.
fn found(target: &str, status: ExitStatus, binary: &Path, log: &Path, new: &[PathBuf]) -> String {
    let mut lines = vec![format!("fuzz {target} found something: {status}; its output is in {}", log.display())];
    lines.extend(new.iter().map(|input| format!("  to run the input alone: {} {}", binary.display(), input.display())));
    if new.is_empty() {
        lines.push("  with no new input: one that was found before, or the target itself failed".to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_all_or_those_chosen_and_must_exist() {
        let all: BTreeSet<_> = ["open", "parse", "text"].map(str::to_owned).into();
        assert_eq!(choose(&all, &[]).unwrap(), ["open", "parse", "text"]);
        assert_eq!(choose(&all, &["text".to_owned(), "open".to_owned()]).unwrap(), ["open", "text"]);
        let error = choose(&all, &["opne".to_owned()]).unwrap_err().to_string();
        assert_eq!(error, "there is no fuzz target \"opne\"; there are open, parse, text");
    }

    #[test]
    fn the_count_of_inputs_is_found_in_the_log() {
        let log = "Done 12 runs in 1 second(s)\nstat::number_of_executed_units: 12\nstat::average_exec_per_sec: 6\n";
        assert_eq!(executed(log).as_deref(), Some("12 inputs, nothing found"));
        assert_eq!(executed("==1== ERROR: libFuzzer: deadly signal\n"), None);
    }

    #[test]
    fn a_find_says_how_to_run_its_input_again() {
        use std::os::unix::process::ExitStatusExt as _;

        let inputs = [PathBuf::from("/t/fuzz/artifacts/open/crash-1")];
        let text = found("open", ExitStatus::from_raw(77 << 8), "/t/open".as_ref(), "/t/open.log".as_ref(), &inputs);
        assert!(text.contains("/t/open /t/fuzz/artifacts/open/crash-1"), "{text}");
        assert!(text.contains("/t/open.log"), "{text}");
    }
}
