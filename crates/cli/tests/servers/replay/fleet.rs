//! Real processes under one policy: each an engine of its own on the fleet's store and root key.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{BufRead, BufReader, Write},
    num::NonZeroU32,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use keystrata_hierarchy::{Context, Hierarchy, KeyPath, Placement, RootKey, Roots};
use keystrata_kms::{Budget, Guard, Guarded, Operation, Outcome};
use serde::{Deserialize, Serialize};
use tokio::{task::JoinSet, time::Instant};

use super::{PROCESSES, TTL, traffic};
use crate::bao::TOKEN;

/// Tells a child what it is a part of.
const PART: &str = "KEYSTRATA_TEST_PART";
/// What a line for the parent begins with: a test program prints lines of its own.
const MARK: &str = "~ ";
/// What is sealed on the way.
const NEW: &[u8] = b"new";
/// For renewals that the last requests brought about.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the fleet keeps keys; for the rest, as the engine and the simulation do by default.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Policy {
    /// How many accounts share a KEK that the KMS wraps.
    pub(super) group: Option<usize>,
    pub(super) refresh_ahead: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Fleet {
    folder: PathBuf,
    trace: PathBuf,
    policy: Policy,
    root: String,
}

/// What a fleet, or a process of it, has done.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Replayed {
    /// Attempts that reached the KMS.
    pub(super) unwraps: u64,
    pub(super) operations: u64,
    /// Those that found their KEK in memory.
    pub(super) hits: u64,
    /// How much later than in the trace operations began.
    pub(super) late_p99: Duration,
    pub(super) late_most: Duration,
}

/// An engine, and the root key that counts for it.
type Engine = (Hierarchy, Arc<Guarded<Arc<dyn RootKey>>>);

impl Fleet {
    /// One whose accounts all have their KEK and an object, as those of the simulation.
    pub(super) async fn with_keys(folder: &Path, trace: &Path, policy: Policy, root: String) -> Self {
        let folder = folder.join(root.rsplit('/').next().unwrap());
        fs::create_dir(&folder).unwrap();
        let token = folder.join("token");
        fs::write(&token, TOKEN).unwrap();
        // A busy machine is no outage.
        let root = format!("{root}?timeout_ms=20000&token_file={}", token.display());
        let fleet = Self { folder, trace: trace.to_owned(), policy, root };
        keystrata_store::create(&fleet.store()).await.unwrap();
        let (keys, _) = fleet.engine().await;
        let requests = traffic::read(trace, None);
        for account in requests.iter().map(|request| &request.account).collect::<BTreeSet<_>>() {
            let object = keys.account(account.as_str()).unwrap().seal(b"object", &Context::none()).await.unwrap();
            fs::write(fleet.object(account), object).unwrap();
        }
        fleet
    }

    fn store(&self) -> String {
        format!("sqlite:{}", self.folder.join("keys.db").display())
    }

    fn object(&self, account: &str) -> PathBuf {
        self.folder.join(format!("{account}.ks"))
    }

    async fn engine(&self) -> Engine {
        let root = keystrata_kms::open(&self.root).await.unwrap();
        // More than a process can ask for.
        let unlimited = NonZeroU32::new(1_000_000).unwrap();
        let budget = Arc::new(Budget::per_second(unlimited, unlimited));
        let guard = Guard::new("replay", budget).attempt_limit(Duration::from_secs(30));
        let root = Arc::new(guard.around(root));
        let (roots, group_size) = (Roots::new(Arc::clone(&root)), self.policy.group);
        let place = move |path: &KeyPath| match group_size.and_then(|size| group_of(path, size)) {
            Some(group) => Placement::group(group),
            None => Placement::account(&roots),
        };
        let policy = keystrata_hierarchy::Policy::builder().kek_ttl(TTL).refresh_ahead(self.policy.refresh_ahead);
        let store = keystrata_store::open(&self.store()).await.unwrap();
        let keys = Hierarchy::builder().topology(place).store(store).policy(policy.build().unwrap());
        (keys.build().unwrap(), root)
    }

    fn child(&self, process: u32) -> Process {
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--ignored", "--exact", "--nocapture", "replay::child_that_replays"]);
        child.env(PART, serde_json::to_string(&(self, process)).unwrap());
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Process { child, input, output }
    }

    /// Makes the requests to one process at their times, which begin when `start` says.
    async fn replay(&self, process: u32, start: impl FnOnce() -> Instant) -> Replayed {
        let requests = traffic::read(&self.trace, Some(process));
        let accounts = requests.iter().map(|request| request.account.clone()).collect::<BTreeSet<_>>();
        let objects: BTreeMap<_, _> = accounts
            .into_iter()
            .map(|account| (account.clone(), Arc::new(fs::read(self.object(&account)).unwrap())))
            .collect();
        let (keys, root) = self.engine().await;
        let start = start();
        let (mut late, mut hits, mut waiting) = (Vec::new(), 0, JoinSet::new());
        let context = Context::none();
        for request in &requests {
            let due = start + request.at();
            tokio::time::sleep_until(due).await;
            late.push(due.elapsed());
            let (account, object) = (keys.account(request.account.as_str()).unwrap(), &objects[&request.account]);
            let found = if request.is_seal() {
                account.try_seal(NEW, &context).unwrap().is_some()
            } else {
                account.try_open(object, &context).unwrap().is_some()
            };
            if found {
                hits += 1;
            } else if request.is_seal() {
                waiting.spawn(async move { account.seal(NEW, &Context::none()).await.map(drop).unwrap() });
            } else {
                let object = Arc::clone(object);
                waiting.spawn(async move { account.open(&object, &Context::none()).await.map(drop).unwrap() });
            }
        }
        while let Some(done) = waiting.join_next().await {
            done.unwrap();
        }
        let patience = Instant::now() + PATIENCE;
        tokio::time::sleep(Duration::from_millis(100)).await;
        while root.stats().budget.admitted > root.kms_calls() && Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        late.sort_unstable();
        Replayed {
            unwraps: root.stats().calls.of(Operation::Unwrap, Outcome::Done),
            operations: requests.len() as u64,
            hits,
            late_p99: late[late.len() * 99 / 100],
            late_most: late[late.len() - 1],
        }
    }
}

/// Which group's KEK wraps that of an account: those that come first in the trace are the first group.
fn group_of(path: &KeyPath, size: usize) -> Option<KeyPath> {
    let number: usize = path.segments().next()?.strip_prefix('a')?.parse().ok()?;
    Some(KeyPath::account(&format!("g{}", number / size)).unwrap())
}

/// A child and what it is told and tells.
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn line(&mut self) -> String {
        let mut line = String::new();
        while self.output.read_line(&mut line).unwrap() > 0 {
            if let Some(line) = line.strip_prefix(MARK) {
                return line.trim_end().to_owned();
            }
            line.clear();
        }
        panic!("a child failed: {:?}", self.child.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Where a parent's assertion failed, its children go too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets all processes of all fleets do what the trace says, at the same time.
pub(super) fn replay_all(fleets: &[Fleet]) -> Vec<Replayed> {
    let children = |fleet: &Fleet| (0..PROCESSES).map(|process| fleet.child(process)).collect::<Vec<_>>();
    let mut processes: Vec<Vec<Process>> = fleets.iter().map(children).collect();
    for process in processes.iter_mut().flatten() {
        assert_eq!(process.line(), "ready");
    }
    let start = SystemTime::now() + Duration::from_secs(3);
    for process in processes.iter_mut().flatten() {
        writeln!(process.input, "{}", serde_json::to_string(&start).unwrap()).unwrap();
    }
    let read = |process: &mut Process| serde_json::from_str(&process.line()).unwrap();
    processes.iter_mut().map(|fleet| together(&fleet.iter_mut().map(read).collect::<Vec<_>>())).collect()
}

fn together(processes: &[Replayed]) -> Replayed {
    let most = |of: fn(&Replayed) -> Duration| processes.iter().map(of).max().unwrap();
    Replayed {
        unwraps: processes.iter().map(|process| process.unwraps).sum(),
        operations: processes.iter().map(|process| process.operations).sum(),
        hits: processes.iter().map(|process| process.hits).sum(),
        late_p99: most(|process| process.late_p99),
        late_most: most(|process| process.late_most),
    }
}

pub(super) fn is_child() -> bool {
    env::var_os(PART).is_some()
}

/// Does what the parent of this process wants of it.
pub(super) async fn replay_as_child() {
    let (fleet, process): (Fleet, u32) = serde_json::from_str(&env::var(PART).unwrap()).unwrap();
    let start = || {
        println!("\n{MARK}ready");
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
        let start: SystemTime = serde_json::from_str(&line).unwrap();
        Instant::now() + start.duration_since(SystemTime::now()).unwrap()
    };
    let replayed = fleet.replay(process, start).await;
    println!("\n{MARK}{}", serde_json::to_string(&replayed).unwrap());
}
