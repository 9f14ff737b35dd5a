//! The whole engine in several real processes on one store: killed at any moment, all at once, and obeying each other.
//!
//! A plain run takes seconds. `cargo xtask test --soak` says by environment variables how long a thorough one takes.
#![allow(dead_code)] // each test program uses a part of it

pub(crate) mod fleet;
pub(crate) mod kills;
pub(crate) mod lives;
pub(crate) mod traffic;

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
};

use keystrata_hierarchy::{Context, Hierarchy, HierarchyBuilder, KekStore, Roots};
use keystrata_kms::LocalRootKey;

/// Tells a child where its site is, and what it is to do there.
const SITE: &str = "KEYSTRATA_TEST_SITE";
const ROLE: &str = "KEYSTRATA_TEST_ROLE";

/// A store, two root keys, and objects in files.
pub(crate) struct Site {
    pub(crate) folder: PathBuf,
    pub(crate) uri: String,
}

/// Which root key is current, and which the former one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Current {
    A,
    B,
}

impl Site {
    /// An empty one.
    pub(crate) async fn new(folder: &Path, uri: String) -> Self {
        for root in ["a.key", "b.key"] {
            LocalRootKey::create(folder.join(root)).unwrap();
        }
        for part in ["objects", "shredding"] {
            std::fs::create_dir(folder.join(part)).unwrap();
        }
        keystrata_store::create(&uri).await.unwrap();
        Self { folder: folder.to_owned(), uri }
    }

    /// The one that a parent gave this process, and what it is to do; `None` where the test runs by itself.
    pub(crate) fn given() -> Option<(Self, String)> {
        let site = std::env::var(SITE).ok()?;
        let (folder, uri) = site.split_once('|')?;
        Some((Self { folder: folder.into(), uri: uri.to_owned() }, std::env::var(ROLE).ok()?))
    }

    /// A process that runs the ignored test `name` of this program here.
    pub(crate) fn child(&self, name: &str, role: &str) -> Process {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--ignored", "--exact", "--nocapture", name]);
        child.env(SITE, format!("{}|{}", self.folder.display(), self.uri)).env(ROLE, role);
        Process::new(child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    pub(crate) async fn store(&self) -> Arc<dyn KekStore> {
        keystrata_store::open(&self.uri).await.unwrap()
    }

    pub(crate) fn root(&self, name: &str) -> Arc<LocalRootKey> {
        Arc::new(LocalRootKey::open(self.folder.join(name)).unwrap())
    }

    pub(crate) async fn builder(&self, current: Current) -> HierarchyBuilder {
        let (a, b) = (self.root("a.key"), self.root("b.key"));
        let (now, before) = if current == Current::A { (a, b) } else { (b, a) };
        let roots = Roots::builder().current(now).former(before).build().unwrap();
        Hierarchy::builder().roots(roots).store(self.store().await)
    }

    pub(crate) async fn keys(&self, current: Current) -> Hierarchy {
        self.builder(current).await.build().unwrap()
    }

    pub(crate) fn object(&self, name: &str) -> PathBuf {
        self.folder.join("objects").join(name)
    }

    /// The names of all files in one of the folders.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.join(folder)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.starts_with('.')).collect()
    }
}

/// Puts these bytes there as a whole, whatever was there.
pub(crate) fn put(place: &Path, bytes: &[u8]) {
    // A kill ends a process, not the machine: what was renamed is there.
    let name = place.file_name().unwrap().to_str().unwrap();
    let new = place.with_file_name(format!(".{name}.{}", std::process::id()));
    std::fs::write(&new, bytes).unwrap();
    std::fs::rename(&new, place).unwrap();
}

/// The context of an object.
pub(crate) fn context(name: &str) -> Context {
    Context::new().with("object", name)
}

/// A number from the environment, for how thorough a run is.
pub(crate) fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |number| number.parse().unwrap())
}

/// A child, and the lines that it prints for its parent.
pub(crate) struct Process {
    child: Child,
    pub(crate) lines: Receiver<String>,
}

/// What a line for the parent begins with: a test program prints lines of its own.
const MARK: &str = "~ ";

/// Prints a line for the parent, if there is one.
pub(crate) fn tell(line: &str) {
    if std::env::var_os(ROLE).is_some() {
        println!("\n{MARK}{line}");
    }
}

impl Process {
    fn new(mut child: Child) -> Self {
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            // A line that was cut by a kill has no end.
            while output.read_line(&mut line).is_ok_and(|len| len > 0) && line.ends_with('\n') {
                if let Some(line) = line.trim_end().strip_prefix(MARK)
                    && sender.send(line.to_owned()).is_err()
                {
                    break;
                }
                line.clear();
            }
        });
        Self { child, lines }
    }

    /// Ends it by SIGKILL, wherever it is, and gives what it had printed.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.lines.iter().collect()
    }

    /// Lets it end, and gives what it had printed. Panics if it failed.
    pub(crate) fn finish(mut self) -> Vec<String> {
        drop(self.child.stdin.take());
        let lines = self.lines.iter().collect();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "a child failed: {lines:?}");
        lines
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Where a parent's assertion failed, its children go too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
