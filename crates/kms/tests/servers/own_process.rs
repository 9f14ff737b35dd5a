//! A test in a process of its own, since what it is about is read from the environment.

use std::process::Command;

/// What a test was given by itself in another process.
const ARGUMENT: &str = "KEYSTRATA_TEST_ARGUMENT";

/// What [`run`] gave to this process; `None` in the process that runs all tests.
pub(crate) fn argument() -> Option<String> {
    std::env::var(ARGUMENT).ok()
}

/// Runs `test`, named from the crate on, in another process with these variables. There [`argument`] is `argument`.
pub(crate) async fn run(test: &str, argument: &str, variables: &[(&str, &str)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--include-ignored", "--nocapture", "--test-threads", "1"]).env(ARGUMENT, argument);
    // As if nobody had ever set up anything on this machine.
    for variable in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "AWS_PROFILE"]
    {
        command.env_remove(variable);
    }
    for file in ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"] {
        command.env(file, "/nowhere");
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true").envs(variables.iter().copied());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("1 passed"), "{test} in a process of its own:\n{said}");
}
