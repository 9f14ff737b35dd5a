//! What the cache of KEKs costs: a hit beside the primitives, memory for each KEK, putting in and taking out, the sweeper.
//!
//! `cargo bench -p keystrata-benches --bench cache [-- hits|threads|memory|inserts|sweeper]` prints the tables of
//! docs/benchmarks.md. Not criterion: it compares within one round, and measures memory and single slow calls.

#![allow(clippy::cast_precision_loss, clippy::unwrap_used)] // figures for people; a bench that fails stops

use std::{
    hint::black_box,
    sync::{Arc, Barrier},
    time::{Duration, Instant},
};

use keystrata_hierarchy::{
    Account, Context, Hierarchy, KekVersion, KeyPath, MemoryKekStore, Policy, SecretKey, SystemClock,
    clock::Clock,
    test_util::{ManualClock, ScriptedRootKey},
};
use keystrata_primitives::{KekId, KekIdentity, Suite, envelope};
use rustix::time::{ClockId, clock_gettime};

const ROUNDS: usize = 400;
/// A timed batch: some hundred microseconds, far above the clock's grain.
const BATCH: usize = 200;

fn main() {
    let tables: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let all: [(&str, fn()); 5] =
        [("hits", hits), ("threads", threads), ("memory", memory), ("inserts", inserts), ("sweeper", sweeper)];
    for (name, print) in all {
        if tables.is_empty() || tables.iter().any(|table| table == name) {
            println!("## {name}\n");
            print();
            println!();
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

fn context() -> Context {
    Context::new().with("row", "42")
}

struct Site {
    keys: Hierarchy,
    accounts: Vec<Account>,
}

impl Site {
    /// `count` accounts with their KEKs in memory.
    fn new(count: usize, suite: Suite, clock: impl Clock + 'static) -> Self {
        let store = Arc::new(MemoryKekStore::new());
        Self::on(&store, count, suite, clock)
    }

    fn on(store: &Arc<MemoryKekStore>, count: usize, suite: Suite, clock: impl Clock + 'static) -> Self {
        let policy = Policy::builder().kek_ttl(Duration::from_secs(3_600)).refresh_ahead(false).ttl_jitter(0.0);
        let builder = Hierarchy::builder().root_key(ScriptedRootKey::new("bench:root")).store(Arc::clone(store));
        let builder = builder.policy(policy.build().unwrap()).capacity(count.max(1_000)).suite(suite).clock(clock);
        let keys = builder.build().unwrap();
        let accounts: Vec<Account> = (0..count).map(|n| keys.account(format!("account {n}")).unwrap()).collect();
        runtime().block_on(async {
            for account in &accounts {
                account.seal(b"x", &context()).await.unwrap();
            }
        });
        Self { keys, accounts }
    }
}

/// The least nanoseconds of one call, over many rounds of all cases.
fn least<const N: usize>(mut cases: [Box<dyn FnMut() + '_>; N]) -> [f64; N] {
    let mut best = [f64::INFINITY; N];
    for _ in 0..ROUNDS {
        for (case, best) in cases.iter_mut().zip(&mut best) {
            let start = Instant::now();
            for _ in 0..BATCH {
                case();
            }
            *best = best.min(start.elapsed().as_nanos() as f64 / BATCH as f64);
        }
    }
    best
}

fn hits() {
    println!(
        "| KEKs | suite | bytes | seal, primitives | seal, account | adds | open, primitives | open, account | adds |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for suite in [Suite::Aes256Gcm, Suite::XChaCha20Poly1305] {
        for count in [1_000, 1_000_000] {
            let site = Site::new(count, suite, SystemClock);
            hits_of(&site, suite, "one hot account", 1);
            hits_of(&site, suite, "each in turn", site.accounts.len());
        }
    }
    let times: [Box<dyn FnMut()>; 1] = [Box::new(|| {
        black_box(SystemClock.now());
    })];
    println!("\nboth clocks: {:.0} ns", least(times)[0]);
}

fn hits_of(filled: &Site, suite: Suite, which: &str, of: usize) {
    let id = KekId::generate().unwrap();
    let path = KeyPath::account("account 0").unwrap();
    let identity = KekIdentity { suite, version: KekVersion::FIRST, id, path };
    let derived = identity.derive(&SecretKey::generate().unwrap());
    let kek = derived.kek(&identity);
    let (context, plaintext) = (context(), [7; 64]);
    let sealed_bare = envelope::seal(&kek, &context, &plaintext).unwrap();
    // A stride that visits all of them, far from each other.
    let (mut next, mut at) = (0, 0);
    let mut account = || {
        next = (next + 7_919) % of;
        &filled.accounts[next]
    };
    let sealed: Vec<Vec<u8>> = filled
        .accounts
        .iter()
        .take(of.min(20_000))
        .map(|account| account.try_seal(&plaintext, &context).unwrap().unwrap())
        .collect();
    let [bare_seal, seal, bare_open, open] = least([
        Box::new(|| {
            black_box(envelope::seal(&kek, &context, black_box(&plaintext)).unwrap());
        }),
        Box::new(|| {
            black_box(account().try_seal(black_box(&plaintext), &context).unwrap().unwrap());
        }),
        Box::new(|| {
            black_box(envelope::open(&kek, &context, black_box(&sealed_bare)).unwrap());
        }),
        Box::new(|| {
            at = (at + 7_919) % sealed.len();
            black_box(filled.accounts[at].try_open(black_box(&sealed[at]), &context).unwrap().unwrap());
        }),
    ]);
    println!(
        "| {}, {which} | {} | 64 | {bare_seal:.0} | {seal:.0} | **{:.0}** | {bare_open:.0} | {open:.0} | **{:.0}** |",
        filled.accounts.len(),
        suite.to_byte(),
        seal - bare_seal,
        open - bare_open
    );
}

/// Seals in a second, by one and by two threads on one account.
fn threads() {
    let site = Site::new(1, Suite::Aes256Gcm, SystemClock);
    let run = |threads: usize| {
        let barrier = Barrier::new(threads);
        let per_thread = 100_000;
        let slowest = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| {
                        let (context, plaintext) = (context(), [7; 64]);
                        barrier.wait();
                        let start = Instant::now();
                        for _ in 0..per_thread {
                            black_box(site.accounts[0].try_seal(&plaintext, &context).unwrap().unwrap());
                        }
                        start.elapsed()
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).max().unwrap()
        });
        (threads * per_thread) as f64 / slowest.as_secs_f64()
    };
    let mut best = [0.0_f64; 2];
    for _ in 0..20 {
        best = [best[0].max(run(1)), best[1].max(run(2))];
    }
    println!("one thread {:.0}/s, two {:.0}/s: {:.2} ×", best[0], best[1], best[1] / best[0]);
}

/// Resident and locked memory that a KEK takes, handles not kept.
fn memory() {
    /// Loaded before it is measured: loading takes memory for a while, and that is used again.
    const FEW: usize = 2_000;
    println!("| KEKs | bytes of memory each | of them locked |");
    println!("|---|---|---|");
    for count in [10_000, 1_000_000] {
        let store = stored(count);
        let policy = Policy::builder().kek_ttl(Duration::from_secs(3_600)).build().unwrap();
        let builder = Hierarchy::builder().root_key(ScriptedRootKey::new("bench:root")).store(Arc::clone(&store));
        let keys = builder.policy(policy).capacity(count).build().unwrap();
        let runtime = runtime();
        // What is taken once for all, by another cache that stays.
        let others = Site::new(10_000, Suite::default(), SystemClock);
        let few = (0..FEW).map(|n| KeyPath::account(&format!("account {n}")).unwrap());
        runtime.block_on(keys.warm(few)).unwrap();
        let before = resident_bytes();
        for from in (FEW..count).step_by(1_000) {
            let some = (from..count.min(from + 1_000)).map(|n| KeyPath::account(&format!("account {n}")).unwrap());
            let warmed = runtime.block_on(keys.warm(some)).unwrap();
            assert!(warmed.failed.is_empty() && warmed.unknown.is_empty());
        }
        let grown = resident_bytes().saturating_sub(before);
        let report = keys.memory();
        assert_eq!((keys.cached_keks(), others.keys.cached_keks()), (count, 10_000));
        let locked = report.secret_bytes + report.locked_bytes;
        println!("| {count} | {:.0} | {:.0} |", grown as f64 / (count - FEW) as f64, locked as f64 / count as f64);
    }
}

/// A store with the KEKs of so many accounts, of which none was ever in a cache: memory that was given back and used again
/// would not be seen to grow.
fn stored(count: usize) -> Arc<MemoryKekStore> {
    let store = Arc::new(MemoryKekStore::new());
    let builder = Hierarchy::builder().root_key(ScriptedRootKey::new("bench:root")).store(Arc::clone(&store));
    let keys = builder.kek_ttl(Duration::ZERO).build().unwrap();
    runtime().block_on(async {
        for n in 0..count {
            keys.account(format!("account {n}")).unwrap().seal(b"x", &context()).await.unwrap();
        }
    });
    store
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

/// Runs whose least time counts for each insertion: what is slow in one of them alone is the machine's doing.
const RUNS: usize = 3;
/// Some ten microseconds, as an insertion takes.
const CONTROL_STEPS: u64 = 9_000;

/// Every one of a million cold seals, then as many that evict. On a machine that does other things too, the slowest is
/// slow because its thread had to wait for a processor. The thread's own time leaves that out, but not interrupts nor what
/// a hypervisor takes: those the control shows, arithmetic of the same length after each insertion. So the same is run
/// several times, and the least time of each insertion counts.
fn inserts() {
    let count = 1_000_000;
    let store = stored(count);
    println!("| the thread's own time | median | 99.9 % | 99.99 % | slowest | the first |");
    println!("|---|---|---|---|---|---|");
    for (what, capacity) in [("put in", count), ("put in and evict", 10_000)] {
        let mut least = vec![Insertion::SLOWEST; count];
        for run in 1..=RUNS {
            let times = run_of_inserts(&store, count, capacity);
            print_inserts(&format!("{what}, run {run}"), times.iter().map(|time| time.seal));
            print_inserts("the control", times.iter().map(|time| time.control));
            for (least, time) in least.iter_mut().zip(times) {
                *least = Insertion { seal: least.seal.min(time.seal), control: least.control.min(time.control) };
            }
        }
        print_inserts(&format!("{what}, the least of {RUNS} runs"), least.iter().map(|time| time.seal));
        print_inserts("the control", least.iter().map(|time| time.control));
    }
}

#[derive(Clone, Copy)]
struct Insertion {
    seal: Duration,
    control: Duration,
}

impl Insertion {
    const SLOWEST: Self = Self { seal: Duration::MAX, control: Duration::MAX };
}

fn run_of_inserts(store: &Arc<MemoryKekStore>, count: usize, capacity: usize) -> Vec<Insertion> {
    let builder = Hierarchy::builder().root_key(ScriptedRootKey::new("bench:root")).store(Arc::clone(store));
    let keys = builder.capacity(capacity).kek_ttl(Duration::from_secs(3_600)).build().unwrap();
    let context = context();
    let mut times = Vec::with_capacity(count);
    runtime().block_on(async {
        for n in 0..count {
            let account = keys.account(format!("account {n}")).unwrap();
            let start = cpu_time(ClockId::ThreadCPUTime);
            account.seal(b"x", &context).await.unwrap();
            let sealed = cpu_time(ClockId::ThreadCPUTime);
            black_box((0..CONTROL_STEPS).fold(1_u64, |state, step| black_box(state).wrapping_mul(step | 1)));
            let done = cpu_time(ClockId::ThreadCPUTime);
            times.push(Insertion { seal: sealed.saturating_sub(start), control: done.saturating_sub(sealed) });
        }
    });
    times
}

/// The first apart: it also starts the sweeper's thread.
fn print_inserts(what: &str, times: impl Iterator<Item = Duration>) {
    let mut times: Vec<Duration> = times.collect();
    let first = times.remove(0);
    times.sort_unstable();
    let at = |per_myriad: usize| times[(times.len() * per_myriad / 10_000).min(times.len() - 1)];
    println!("| {what} | {:?} | {:?} | {:?} | {:?} | {first:?} |", at(5_000), at(9_990), at(9_999), at(10_000));
}

fn cpu_time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap())
}

/// How long after its deadline the last of a million KEKs is overwritten, and what the sweeper takes while nothing is due.
fn sweeper() {
    let clock = ManualClock::new();
    let site = Site::new(1_000_000, Suite::default(), clock.clone());
    let start = Instant::now();
    let overwritten = std::thread::scope(|scope| {
        let last = scope.spawn(|| {
            while site.keys.memory().slots_used > 0 {
                std::thread::yield_now();
            }
            start.elapsed()
        });
        clock.advance(Duration::from_secs(3_600)); // returns when the sweeper sleeps again
        last.join().unwrap()
    });
    println!("a million due at once: overwritten after {overwritten:?}, all given back after {:?}", start.elapsed());
    drop(site);

    let site = Site::new(1_000_000, Suite::default(), SystemClock);
    let before = cpu_time(ClockId::ProcessCPUTime);
    std::thread::sleep(Duration::from_secs(20));
    let used = cpu_time(ClockId::ProcessCPUTime).saturating_sub(before);
    println!("idle with a million: {:.3} % of a core", used.as_secs_f64() / 20.0 * 100.0);
    drop(site);
}
