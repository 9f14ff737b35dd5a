//! A load on real servers: thousands of cold accounts, tens of thousands of callers, one budget.
//!
//! `cargo xtask test --load` runs these, optimised and one at a time, and they print what they find.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use keystrata_hierarchy::{
    Context, GeneratedKey, Hierarchy, MemoryKekStore, RootContext, RootKey, RootKeyError, RootKeyId, SecretKey,
};
use keystrata_kms::{Budget, Guard, VaultTransitConfig};
use tokio::task::JoinSet;

use crate::{aws, proxy::Proxy, vault};

/// What is asked of a server.
#[derive(Clone, Copy)]
struct Load {
    accounts: u32,
    callers_per_account: usize,
    per_second: u32,
    burst: u32,
}

/// Patience for a server on a busy machine; what is measured is printed.
const DEADLINE: Duration = Duration::from_secs(300);

/// A root key that notes when each request is sent. It stands where the deadline and the counters stand, right at the
/// adapter.
#[derive(Debug)]
struct Noted<R> {
    root: R,
    sent: Mutex<Vec<Instant>>,
}

impl<R> Noted<R> {
    fn new(root: R) -> Arc<Self> {
        Arc::new(Self { root, sent: Mutex::default() })
    }

    fn note(&self) {
        self.sent.lock().unwrap().push(Instant::now());
    }

    fn take(&self) -> Vec<Instant> {
        std::mem::take(&mut *self.sent.lock().unwrap())
    }
}

#[async_trait]
impl<R: RootKey> RootKey for Noted<R> {
    fn id(&self) -> &RootKeyId {
        self.root.id()
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        self.note();
        self.root.wrap_key(secret, context).await
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        self.note();
        self.root.unwrap_key(wrapped, context).await
    }

    async fn generate_key(&self, context: &RootContext) -> Result<GeneratedKey, RootKeyError> {
        self.note();
        self.root.generate_key(context).await
    }
}

impl Load {
    fn accounts(self) -> usize {
        self.accounts.try_into().unwrap()
    }

    /// Long enough for all accounts to be served, several times over.
    fn patience(self) -> Duration {
        Duration::from_secs(1) * self.accounts / self.per_second * 4 + Duration::from_secs(10)
    }
}

/// Makes a KEK for each account, then opens objects of all of them in a process that knows none of their KEKs. `requests`
/// counts what reached the server, if anything does.
async fn run<R: RootKey + 'static>(name: &str, load: Load, root: R, requests: impl Fn() -> Option<usize>) {
    let number = |n| std::num::NonZeroU32::new(n).unwrap();
    let budget = Budget::per_second(number(load.per_second), number(load.burst)).max_wait(load.patience());
    let noted = Noted::new(root);
    let guard = Guard::new("load", Arc::new(budget)).attempt_limit(Duration::from_secs(30));
    let guarded = Arc::new(guard.around(Arc::clone(&noted)));
    let store = Arc::new(MemoryKekStore::new());
    let process = || {
        let root = Arc::clone(&guarded);
        // More than there are accounts: a KEK that is evicted costs a call like one that was never there.
        Hierarchy::builder().root_key(root).store(Arc::clone(&store)).capacity(4 * load.accounts()).build().unwrap()
    };

    let sealed = Arc::new(seal_for_all(&process(), load).await);
    let made = noted.take();
    assert!(made.len() >= load.accounts(), "a KEK for each account: {}", made.len());
    assert_within_budget(&made, load);

    // To learn that a Vault key is derived takes a second request, and in this crowd that waits for its turn as a retry.
    let (calls_before, retries_before) = (guarded.kms_calls(), guarded.stats().retries);
    let (reader, requests_before) = (process(), requests());
    let memory_before = resident_bytes();
    let start = Instant::now();
    let mut opening = JoinSet::new();
    for caller in 0..load.accounts() * load.callers_per_account {
        let (account, sealed) = (caller % load.accounts(), Arc::clone(&sealed));
        let handle = reader.account(format!("account {account}")).unwrap();
        opening.spawn(async move {
            let began = Instant::now();
            let opened = handle.open(&sealed[account], &row(account)).await.unwrap();
            assert_eq!(opened, text(account), "every caller gets its own account's object");
            began.elapsed()
        });
    }
    let (mut waits, most_memory) = finished(opening).await;
    let took = start.elapsed();

    let calls = guarded.kms_calls() - calls_before;
    let stats = guarded.stats();
    assert_eq!(calls, u64::from(load.accounts), "one call for each account, however many callers: {stats:?}");
    assert_eq!(stats.retries, retries_before);
    if let (Some(before), Some(after)) = (requests_before, requests()) {
        assert_eq!(after - before, load.accounts(), "and so it arrived at the server");
    }
    let sent = noted.take();
    assert_eq!(sent.len(), load.accounts());
    assert_within_budget(&sent, load);

    waits.sort_unstable();
    let at = |percent: usize| waits[(waits.len() - 1) * percent / 100].as_secs_f64();
    println!(
        "{name}: {} accounts, {} callers, {}/s and {} at once: {calls} calls in {:.2} s, {:.0}/s; waits p50 {:.2} s, \
         p99 {:.2} s; resident {} MiB before, {} MiB at most",
        load.accounts,
        waits.len(),
        load.per_second,
        load.burst,
        took.as_secs_f64(),
        f64::from(load.accounts) / took.as_secs_f64(),
        at(50),
        at(99),
        memory_before >> 20,
        most_memory >> 20,
    );
    // A few KiB for each caller's task, however long it waits.
    let bound = memory_before + waits.len() as u64 * 4096 + (64 << 20);
    assert!(most_memory <= bound, "{most_memory} bytes are resident, {bound} were expected at most");
}

/// An object of each account, in the accounts' order.
async fn seal_for_all(writer: &Hierarchy, load: Load) -> Vec<Vec<u8>> {
    let mut sealing = JoinSet::new();
    for account in 0..load.accounts() {
        let handle = writer.account(format!("account {account}")).unwrap();
        sealing.spawn(async move { (account, handle.seal(&text(account), &row(account)).await.unwrap()) });
    }
    let (mut sealed, _) = finished(sealing).await;
    sealed.sort_unstable_by_key(|(account, _)| *account);
    sealed.into_iter().map(|(_, envelope)| envelope).collect()
}

/// At most `burst + rate × t` in every window, by when requests were sent. The clock is read after the token was taken, on
/// a thread that may be held up in between: then two come closer together than they were let through, by as long.
fn assert_within_budget(sent: &[Instant], load: Load) {
    let mut sent = sent.to_vec();
    sent.sort_unstable();
    let period = 1.0 / f64::from(load.per_second);
    // A bucket that holds the burst: its level falls with each request and must not fall below nothing.
    let (mut level, mut lowest) = (f64::from(load.burst), f64::from(load.burst));
    for pair in sent.windows(2) {
        level -= 1.0;
        lowest = lowest.min(level);
        level = (level + (pair[1] - pair[0]).as_secs_f64() / period).min(f64::from(load.burst));
    }
    let held_up = 0.05 * f64::from(load.per_second);
    assert!(lowest >= -held_up, "{} requests too many at some moment", -lowest);
}

/// What the tasks came to, and the most memory that was resident meanwhile.
async fn finished<T: 'static>(mut tasks: JoinSet<T>) -> (Vec<T>, u64) {
    let (mut all, mut most_memory) = (Vec::new(), resident_bytes());
    while let Some(done) =
        tokio::time::timeout(DEADLINE, tasks.join_next()).await.expect("the server goes on answering")
    {
        all.push(done.unwrap());
        if all.len() % 1_000 == 1 {
            most_memory = most_memory.max(resident_bytes());
        }
    }
    (all, most_memory)
}

fn text(account: usize) -> Vec<u8> {
    format!("object of account {account}").into_bytes()
}

fn row(account: usize) -> Context {
    Context::new().with("row", account.to_string())
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a load on OpenBao, which `cargo xtask test --load` runs"]
async fn cold_accounts_on_openbao() {
    let bao = vault::Bao::start().await;
    let proxy = Proxy::start(Some(bao.port())).await;
    // Longer than this process needs to come round to an answer with all those callers on a busy machine.
    let config = VaultTransitConfig { attempt_timeout: Duration::from_secs(20), ..vault::config(&proxy.url(), "one") };
    let root = vault::open(config).await;
    let load = Load { accounts: 2_000, callers_per_account: 16, per_second: 500, burst: 50 };
    run("OpenBao", load, root, || Some(proxy.requests_for("/decrypt/"))).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a load on moto, which `cargo xtask test --load` runs"]
async fn cold_accounts_on_moto() {
    let moto = aws::moto();
    let client = aws::client(&format!("http://127.0.0.1:{}", moto.port));
    let key = aws::new_key(&client).await;
    let load = Load { accounts: 2_000, callers_per_account: 16, per_second: 100, burst: 20 };
    run("moto", load, aws::open(&client, &key).await, || None).await;
}
