//! Four ways to keep the keys of the same objects, run the same way.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use indicatif::ProgressBar;
use keystrata_hierarchy::{Context, Enveloped, Hierarchy, KeyPath, Placement, Roots};
use keystrata_kms::LocalRootKey;
use keystrata_store::SqliteKekStore;
use tokio::task::JoinSet;

use super::corpus::Corpus;

/// Operations under way at once, as in a service with that many requests.
const CONCURRENCY: usize = 64;

/// Longer than any run, so that the count is the lower bound: one call for each account, or for each group.
const CACHED_TTL: Duration = Duration::from_secs(60 * 60);

/// Accounts of one group, where there are groups.
pub(super) const GROUP: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Direct,
    AccountKek,
    AccountKekCached,
    GroupKekCached,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Direct, Self::AccountKek, Self::AccountKekCached, Self::GroupKekCached];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::AccountKek => "account-kek",
            Self::AccountKekCached => "account-kek-cached",
            Self::GroupKekCached => "group-kek-cached",
        }
    }
}

/// What one strategy did with the whole workload.
pub(super) struct Outcome {
    /// Counted at the root key.
    pub(super) kms_calls: u64,
    pub(super) elapsed: Duration,
    /// Objects that came back byte for byte.
    pub(super) verified: u64,
}

/// Which object belongs to which account.
pub(super) struct Workload {
    shared: Arc<Shared>,
    latency: Duration,
}

struct Shared {
    corpus: Corpus,
    /// By object.
    accounts: Vec<usize>,
    account_count: usize,
}

impl Workload {
    pub(super) fn new(corpus: Corpus, account_count: usize, latency: Duration) -> Self {
        let accounts = spread(corpus.len(), account_count);
        Self { shared: Arc::new(Shared { corpus, accounts, account_count }), latency }
    }

    pub(super) fn objects(&self) -> usize {
        self.shared.corpus.len()
    }

    pub(super) fn accounts(&self) -> usize {
        self.shared.account_count
    }

    pub(super) fn corpus(&self) -> &Corpus {
        &self.shared.corpus
    }

    /// Objects of the account with the most.
    pub(super) fn largest_account(&self) -> usize {
        let mut counts = vec![0; self.shared.account_count];
        for account in &self.shared.accounts {
            counts[*account] += 1;
        }
        counts.into_iter().max().unwrap_or_default()
    }

    /// Seals all, opens all and compares every byte, with a root key and a store of its own.
    pub(super) async fn run(&self, kind: Kind, folder: &Path, bar: &ProgressBar) -> anyhow::Result<Outcome> {
        let root = LocalRootKey::create(folder.join(format!("{}.key", kind.name())))?.with_latency(self.latency);
        let root = Arc::new(root);
        let keys = match kind {
            Kind::Direct => Keys::Direct(Enveloped::new(Arc::clone(&root))),
            Kind::AccountKek | Kind::AccountKekCached | Kind::GroupKekCached => {
                let store = SqliteKekStore::open(folder.join(format!("{}.db", kind.name()))).await?;
                let ttl = if kind == Kind::AccountKek { Duration::ZERO } else { CACHED_TTL };
                let roots = Roots::new(Arc::clone(&root));
                let builder = Hierarchy::builder().roots(roots.clone()).store(store).kek_ttl(ttl);
                let builder = match kind {
                    Kind::GroupKekCached => builder.topology(move |path| placed(path, &roots)),
                    _ => builder,
                };
                Keys::Accounts(builder.capacity(self.accounts() + self.accounts().div_ceil(GROUP)).build()?)
            }
        };
        let keys = Arc::new(keys);
        let start = Instant::now();
        bar.set_message(format!("{}: sealing", kind.name()));
        let sealed = Arc::new(self.seal_all(&keys, bar).await.context(kind.name())?);
        bar.set_message(format!("{}: opening", kind.name()));
        let verified = self.open_all(&keys, &sealed, bar).await.context(kind.name())?;
        Ok(Outcome { kms_calls: root.calls(), elapsed: start.elapsed(), verified })
    }

    async fn seal_all(&self, keys: &Arc<Keys>, bar: &ProgressBar) -> anyhow::Result<Vec<Vec<u8>>> {
        let (keys, shared) = (Arc::clone(keys), Arc::clone(&self.shared));
        let seal = move |object| {
            let (keys, shared) = (Arc::clone(&keys), Arc::clone(&shared));
            async move { keys.seal(shared.accounts[object], object, shared.corpus.record(object)).await }
        };
        let mut sealed = self.for_all(bar, seal).await?;
        sealed.sort_unstable_by_key(|(object, _)| *object);
        Ok(sealed.into_iter().map(|(_, envelope)| envelope).collect())
    }

    async fn open_all(&self, keys: &Arc<Keys>, sealed: &Arc<Vec<Vec<u8>>>, bar: &ProgressBar) -> anyhow::Result<u64> {
        let (keys, shared, sealed) = (Arc::clone(keys), Arc::clone(&self.shared), Arc::clone(sealed));
        let open = move |object: usize| {
            let (keys, shared, sealed) = (Arc::clone(&keys), Arc::clone(&shared), Arc::clone(&sealed));
            async move {
                let opened = keys.open(shared.accounts[object], object, &sealed[object]).await?;
                anyhow::ensure!(opened == shared.corpus.record(object), "object {object} came back altered");
                Ok(())
            }
        };
        Ok(self.for_all(bar, open).await?.len() as u64)
    }

    /// Runs `work` for every object, [`CONCURRENCY`] at a time.
    async fn for_all<T, F>(
        &self,
        bar: &ProgressBar,
        work: impl Fn(usize) -> F + Clone + Send + 'static,
    ) -> anyhow::Result<Vec<(usize, T)>>
    where
        T: Send + 'static,
        F: Future<Output = anyhow::Result<T>> + Send,
    {
        let next = Arc::new(AtomicUsize::new(0));
        let objects = self.objects();
        let mut workers = JoinSet::new();
        for _ in 0..CONCURRENCY {
            let (next, work, bar) = (Arc::clone(&next), work.clone(), bar.clone());
            workers.spawn(async move {
                let mut done = Vec::new();
                loop {
                    let object = next.fetch_add(1, Ordering::Relaxed);
                    if object >= objects {
                        return anyhow::Ok(done);
                    }
                    done.push((object, work(object).await?));
                    bar.inc(1);
                }
            });
        }
        let mut all = Vec::with_capacity(objects);
        while let Some(worker) = workers.join_next().await {
            all.extend(worker.context("a worker stopped")??);
        }
        Ok(all)
    }
}

enum Keys {
    Direct(Enveloped),
    Accounts(Hierarchy),
}

impl Keys {
    async fn seal(&self, account: usize, object: usize, plaintext: &[u8]) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::Direct(enveloped) => Ok(enveloped.seal(plaintext).await?.into_bytes()),
            Self::Accounts(keys) => Ok(keys.account(name(account))?.seal(plaintext, &context(object)).await?),
        }
    }

    async fn open(&self, account: usize, object: usize, sealed: &[u8]) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::Direct(enveloped) => Ok(enveloped.open(std::str::from_utf8(sealed)?).await?),
            Self::Accounts(keys) => Ok(keys.account(name(account))?.open(sealed, &context(object)).await?),
        }
    }
}

fn name(account: usize) -> String {
    format!("account-{account}")
}

/// Each account in its group, and the groups under the root key.
fn placed(path: &KeyPath, roots: &Roots) -> Placement {
    let number = path.segments().next().and_then(|name| name.strip_prefix("account-")?.parse::<usize>().ok());
    let group = number.and_then(|number| KeyPath::account(&format!("group-{}", number / GROUP)).ok());
    group.map_or_else(|| Placement::account(roots), Placement::group)
}

fn context(object: usize) -> Context {
    Context::new().with("object", object.to_string())
}

/// The account of each object: shares fall with the account's rank (Zipf, exponent 1), and every account has at least
/// one object. The order is shuffled in a fixed way, so that accounts come and go as they do in a service.
fn spread(objects: usize, accounts: usize) -> Vec<usize> {
    /// The first account's weight, of which the others have fractions.
    const WHOLE: usize = 1 << 30;
    let weights: Vec<usize> = (1..=accounts).map(|rank| WHOLE / rank).collect();
    let total: usize = weights.iter().sum();
    let extra = objects - accounts;
    let mut spread: Vec<usize> = (0..accounts).collect();
    for (account, weight) in weights.iter().enumerate() {
        spread.extend(std::iter::repeat_n(account, extra * weight / total));
    }
    // What rounding left over.
    spread.extend((0..accounts).cycle().take(objects - spread.len()));
    // A multiplicative generator, so that the same numbers make the same demo everywhere.
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for i in (1..objects).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        #[allow(clippy::cast_possible_truncation)] // the high half of 64 bits
        let random = (state >> 33) as usize;
        spread.swap(i, random % (i + 1));
    }
    spread
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_account_has_an_object_and_the_first_has_the_most() {
        for (objects, accounts) in [(1, 1), (7, 7), (200, 7), (20_000, 200), (1_000, 999)] {
            let spread = spread(objects, accounts);
            assert_eq!(spread.len(), objects);
            let count = |account| spread.iter().filter(|a| **a == account).count();
            assert!((0..accounts).all(|account| count(account) >= 1), "{objects} over {accounts}");
            assert!((0..accounts).all(|account| count(account) <= count(0)), "{objects} over {accounts}");
        }
    }
}
