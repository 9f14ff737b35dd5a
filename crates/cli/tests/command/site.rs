//! A folder of its own for each test, and the command run in it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use keystrata_hierarchy::RootKey;
use serde_json::Value;
use tempfile::TempDir;

/// What the tests seal; no message may hold it.
pub(crate) const SECRET: &[u8] = b"4111 1111 1111 1111";

/// A store that this command does not open, and what it says of it.
pub(crate) const NO_STORE: &str = "dynamodb:k";
pub(crate) const NO_STORE_SAYS: &str =
    if cfg!(feature = "dynamodb") { "3 to 255 letters" } else { "cargo feature `dynamodb`" };

/// A folder, usually with a root key, a store and settings.
pub(crate) struct Site {
    folder: TempDir,
}

impl Site {
    /// An empty folder.
    pub(crate) fn empty() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A folder after `keystrata init`.
    pub(crate) fn new() -> Self {
        let site = Self::empty();
        site.ok(&["init"], b"");
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> &Self {
        fs::write(self.path(name), bytes).unwrap();
        self
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// The command in this folder, for tests that wire up its streams themselves.
    pub(crate) fn process(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_keystrata"));
        command.args(arguments).current_dir(&self.folder);
        without_settings(&mut command);
        command
    }

    /// A shell in this folder that knows the command and stops at the first failure.
    pub(crate) fn shell(&self, commands: &str) -> std::process::Command {
        let folder = Path::new(env!("CARGO_BIN_EXE_keystrata")).parent().unwrap();
        let mut path = std::ffi::OsString::from(folder);
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut shell = std::process::Command::new("sh");
        shell.args(["-euc", commands]).current_dir(&self.folder).env("PATH", path);
        without_settings(&mut shell);
        shell
    }

    /// The command in this folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> assert_cmd::Command {
        self.process(arguments).into()
    }

    pub(crate) fn run(&self, arguments: &[&str], stdin: &[u8]) -> Output {
        self.command(arguments).write_stdin(stdin).output().unwrap()
    }

    /// Runs what must succeed silently, and returns its stdout.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str], stdin: &[u8]) -> Vec<u8> {
        let output = self.run(arguments, stdin);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*stderr), (Some(0), ""), "{arguments:?}");
        output.stdout
    }

    #[track_caller]
    pub(crate) fn text(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.ok(arguments, b"")).unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_slice(&self.ok(arguments, b"")).unwrap()
    }

    /// Runs what must be refused: status 1, nothing on stdout, no file changed, one line on stderr, which is returned.
    #[track_caller]
    pub(crate) fn refused(&self, arguments: &[&str], stdin: &[u8]) -> String {
        let before = self.files();
        let output = self.run(arguments, stdin);
        assert!(output.stdout.is_empty(), "{arguments:?} wrote to stdout");
        let line = self.failure_line(&output);
        assert_eq!(self.files(), before, "{arguments:?} changed files: {line}");
        line
    }

    /// The one line of a command that failed with status 1; it holds neither plaintext nor key.
    #[track_caller]
    pub(crate) fn failure_line(&self, output: &Output) -> String {
        let stderr = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        let line = stderr.strip_suffix('\n').expect("a whole line");
        assert!(line.starts_with("keystrata: ") && !line.contains(char::is_control), "{stderr:?}");
        assert!(!line.contains(std::str::from_utf8(SECRET).unwrap()), "{line}");
        if let Ok(key_file) = fs::read_to_string(self.path("keystrata.key")) {
            let key = key_file.trim_end().rsplit(':').next().unwrap();
            assert!(key.is_empty() || !line.contains(key), "{line}");
        }
        line.to_owned()
    }

    /// Makes one more root key, in a file of that name.
    pub(crate) fn root_key(&self, name: &str) {
        keystrata_kms::LocalRootKey::create(self.path(name)).unwrap();
    }

    /// The id of the root key in that file.
    pub(crate) fn root_id(&self, name: &str) -> String {
        keystrata_kms::LocalRootKey::open(self.path(name)).unwrap().id().to_string()
    }

    /// What wraps each KEK of an account, oldest first.
    #[track_caller]
    pub(crate) fn wraps(&self, account: &str) -> Vec<Vec<String>> {
        let shown = self.json(&["account", "show", account, "--json"]);
        let keks = shown["keks"].as_array().unwrap().iter();
        keks.map(|kek| serde_json::from_value(kek["wrapped_by"].clone()).unwrap()).collect()
    }

    /// The status of an account.
    #[track_caller]
    pub(crate) fn status(&self, account: &str) -> String {
        self.json(&["account", "show", account, "--json"])["status"].as_str().unwrap().to_owned()
    }

    /// Runs SQL on the store behind the command's back.
    pub(crate) fn sql(&self, sql: &str) {
        self.sql_on("keystrata.db", sql);
    }

    pub(crate) fn sql_on(&self, name: &str, sql: &str) {
        rusqlite::Connection::open(self.path(name)).unwrap().execute_batch(sql).unwrap();
    }

    /// Puts a store of schema version 1 there, in which a KEK of `acme` wraps that of `child`.
    pub(crate) fn old_store(&self, name: &str) {
        let old = concat!(env!("CARGO_MANIFEST_DIR"), "/../store/tests/data/schema-1.db");
        fs::copy(old, self.path(name)).unwrap();
    }

    /// Runs what must end with status 3: it found something. Returns its stdout.
    #[track_caller]
    pub(crate) fn findings(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.run(arguments, b"");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*stderr), (Some(3), ""), "{arguments:?}");
        output.stdout
    }

    /// Every file below the folder with its bytes, but what `SQLite` keeps beside an open database.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        collect(self.folder.path(), &mut files);
        files
    }
}

/// The tester's own settings must not reach the test's command.
fn without_settings(command: &mut std::process::Command) {
    let names = ["STORE", "ROOT", "KMS_RATE", "KMS_BURST", "AUDIT"];
    for variable in names.map(|name| format!("KEYSTRATA_{name}")) {
        command.env_remove(variable);
    }
}

fn collect(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if !path.to_string_lossy().ends_with("-wal") && !path.to_string_lossy().ends_with("-shm") {
            let bytes = fs::read(&path).unwrap();
            files.insert(path, bytes);
        }
    }
}
