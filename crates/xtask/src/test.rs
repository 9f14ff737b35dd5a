//! `cargo xtask test`: every test there is, in the order in which a failure is cheapest.

use std::{process::Command, time::Duration};

use anyhow::Result;

use crate::{
    check, fuzz, setup,
    step::{self, cargo},
    workspace::Workspace,
};

/// How long each fuzz target runs here: enough to see that none is broken. `cargo xtask fuzz` is for longer.
const FUZZ_TIME: Duration = Duration::from_mins(1);

pub(crate) fn run() -> Result<()> {
    setup::dependencies()?;
    let workspace = Workspace::load()?;
    check::run()?;
    // Unit, integration and doc tests. Ignored ones stay out: those that regenerate vectors must only run by hand.
    step::run("tests", &mut cargo("test --locked --workspace --all-features"))?;
    simulation()?;
    optimised()?;
    setup::kms_servers(&workspace)?;
    let postgres = setup::Postgres::start()?;
    servers(&postgres)?;
    examples(&workspace, &postgres)?;
    drop(postgres);
    vectors(&workspace)?;
    loom(&workspace)?;
    address_sanitizer(&workspace)?;
    fuzz::run(FUZZ_TIME, &[])
}

/// The load tests alone: real servers under thousands of accounts, and the budget over millions of virtual attempts, one at
/// a time. They print what they find.
pub(crate) fn load() -> Result<()> {
    setup::dependencies()?;
    let workspace = Workspace::load()?;
    setup::kms_servers(&workspace)?;
    // The dev profile has its dependencies optimised already; release would link for longer than these run.
    let optimised = |arguments: &str| {
        let mut command = cargo(&format!("test --locked -p keystrata-kms --all-features {arguments}"));
        command.env("CARGO_PROFILE_DEV_OPT_LEVEL", "2");
        command
    };
    step::run(
        "the budget over millions of attempts",
        &mut optimised("--lib -- --ignored --nocapture --test-threads 1"),
    )?;
    step::run(
        "load on OpenBao and moto",
        &mut optimised("--test servers load:: -- --ignored --nocapture --test-threads 1"),
    )
}

/// What a plain run does for seconds, for as long as it takes to believe it; and what has too many accounts for a plain run.
/// They print what they find.
pub(crate) fn soak() -> Result<()> {
    setup::dependencies()?;
    let soak = |arguments: &str, kills: u32| {
        let mut command = cargo(&format!("test --locked --workspace --all-features {arguments}"));
        command.env("KEYSTRATA_KILLS", kills.to_string());
        command.env("KEYSTRATA_TRAFFIC_SECONDS", "60").env("KEYSTRATA_THOROUGH", "1");
        command
    };
    step::run("very many accounts", &mut soak("--test large -- --ignored --nocapture", 0))?;
    step::run("many processes on SQLite", &mut soak("--test many_processes -- --nocapture --test-threads 1", 2_000))?;
    setup::kms_servers(&Workspace::load()?)?;
    let postgres = setup::Postgres::start()?;
    step::run(
        "many processes on PostgreSQL and DynamoDB",
        soak("--test servers -- --include-ignored --nocapture --test-threads 1 _soak::", 500)
            .envs(postgres.environment()),
    )
}

/// The engine over that many seeds of each kind; a plain `cargo test` runs a few hundred.
fn simulation() -> Result<()> {
    step::run(
        "simulation",
        // As the tests before it were built; for one package alone the dependencies have fewer features, and are built anew.
        cargo("test --locked --workspace --all-features --test simulation").env("KEYSTRATA_SEEDS", "10000"),
    )
}

/// What keys leave in memory is a matter of the optimiser too: these tests look at a release build from outside.
fn optimised() -> Result<()> {
    step::run(
        "key_remains and residence, optimised",
        &mut cargo(
            "test --locked --release -p keystrata-primitives -p keystrata-hierarchy --all-features --test key_remains --test residence",
        ),
    )
}

/// Tests that need a server are ignored ones in a test target named `servers`, and run here, where setup provides it.
fn servers(postgres: &setup::Postgres) -> Result<()> {
    step::run(
        "tests with servers",
        // Load tests take minutes and mean little unoptimised: `--load` is for them.
        cargo("test --locked --workspace --all-features --test servers -- --include-ignored --skip load:: --skip replay::")
            .envs(postgres.environment()),
    )?;
    // By itself: it does things at their time.
    step::run(
        "a forecast against reality",
        &mut cargo(
            "test --locked --workspace --all-features --test servers -- --include-ignored --nocapture replay::real",
        ),
    )
}

/// Examples assert what they show, so running them tests them. Those that need a server are told where it is.
fn examples(workspace: &Workspace, postgres: &setup::Postgres) -> Result<()> {
    // Built as the tests before them were: for one package alone the dependencies have fewer features, and are built anew.
    step::run("examples", &mut cargo("build --locked --workspace --all-features --examples"))?;
    let moto = setup::Moto::start(workspace)?;
    for package in workspace.members() {
        for example in package.targets_of("example") {
            let mut program = Command::new(workspace.target.join("debug/examples").join(&example.name));
            program.current_dir(&workspace.root).envs(postgres.environment_of_examples()).envs(moto.environment());
            step::run(&format!("example {}", example.name), &mut program)?;
        }
    }
    Ok(())
}

/// The vectors against another implementation, in Python.
fn vectors(workspace: &Workspace) -> Result<()> {
    let Some(python) = setup::vectors_python(workspace)? else { return Ok(()) };
    step::run("vectors", Command::new(python).arg(workspace.root.join("docs/vectors/check.py")))
}

/// The slot protocol under every interleaving. Release, since loom runs each test thousands of times.
fn loom(workspace: &Workspace) -> Result<()> {
    step::run(
        "loom",
        cargo("test --locked -p keystrata-memory --release --test loom")
            .env("RUSTFLAGS", "--cfg loom")
            .env("CARGO_PROFILE_RELEASE_LTO", "off") // linking would take longer than it saves
            .env("CARGO_TARGET_DIR", workspace.target.join("loom")),
    )
}

/// The one crate with raw pointers under the address sanitizer.
fn address_sanitizer(workspace: &Workspace) -> Result<()> {
    let mut options = std::env::var_os("ASAN_OPTIONS").unwrap_or_default();
    // Arenas live as long as the process by design.
    options.push(":detect_leaks=0");
    step::run(
        "address sanitizer",
        // With a target given, the flags do not reach build scripts and macros, which would not load. Doc tests are
        // left out: they would need the flag in RUSTDOCFLAGS too and touch nothing that the tests do not.
        cargo("test --locked -p keystrata-memory --all-features --lib --tests --target")
            .arg(step::host()?)
            // A scan of the process would go through the terabytes of address space that the sanitizer sets aside.
            .args(["--", "--skip", "test_util::scan"])
            // The sanitizer is an unstable flag of a stable compiler; only this test build uses it.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", "-Zsanitizer=address")
            .env("ASAN_OPTIONS", options)
            .env("CARGO_TARGET_DIR", workspace.target.join("asan")),
    )
}
