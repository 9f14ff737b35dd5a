//! Several processes that seal, open, rotate and shred the same accounts at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use keystrata_hierarchy::{
    Account, Change, Hierarchy, KekState, KekStore, KeyError, KeyPath, OpenError, SealError, StoreError,
};

use super::{Current, Site, context, put, tell};

pub(crate) const PROCESSES: usize = 8;
const ACCOUNTS: usize = 4;

/// What one process came to.
#[derive(Debug, Default)]
struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    fn one(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }
}

/// Numbers that no two processes share, good enough to choose by.
struct Chance(u64);

impl Chance {
    fn new() -> Self {
        let id = keystrata_hierarchy::KekId::generate().unwrap();
        Self(u64::from_le_bytes(*id.as_bytes().first_chunk().unwrap()) | 1)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

/// One process of many.
struct Worker<'a> {
    site: &'a Site,
    number: usize,
    store: Arc<dyn KekStore>,
    keys: Hierarchy,
    chance: Chance,
    /// Which life of each account it knows: one that was shredded is followed by another of a new name.
    lives: [u32; ACCOUNTS],
    /// How many objects of each process it has seen.
    seen: [u64; PROCESSES],
    counts: Counts,
}

fn name(account: usize, life: u32) -> String {
    format!("account {account} life {life}")
}

/// Works for `seconds`, given by the role `NUMBER SECONDS`, and tells what it came to.
pub(crate) async fn work(site: &Site, role: &str) {
    let (number, seconds) = role.split_once(' ').unwrap();
    let keys = site.keys(Current::A).await;
    let mut worker = Worker {
        site,
        number: number.parse().unwrap(),
        store: site.store().await,
        keys,
        chance: Chance::new(),
        lives: [0; ACCOUNTS],
        seen: [0; PROCESSES],
        counts: Counts::default(),
    };
    let until = Instant::now() + Duration::from_secs(seconds.parse().unwrap());
    tell("began");
    while Instant::now() < until {
        worker.step().await;
    }
    for (what, count) in &worker.counts.0 {
        tell(&format!("{count} {what}"));
    }
}

impl Worker<'_> {
    fn account(&self, index: usize) -> (String, Account) {
        let name = name(index, self.lives[index]);
        let account = self.keys.account(name.as_str()).unwrap();
        (name, account)
    }

    async fn step(&mut self) {
        let index = usize::try_from(self.chance.below(ACCOUNTS as u64)).unwrap();
        match self.chance.below(1_000) {
            0..450 => self.seal(index).await,
            450..900 => self.open().await,
            900..970 => self.rotate(index).await,
            970..999 => self.look(index).await,
            _ => self.shred(index).await,
        }
    }

    /// Notes a refusal; anything that is not documented for what others do at the same time ends the test.
    fn refused(&mut self, index: usize, error: &KeyError) {
        match error {
            KeyError::Shredded(_) => {
                self.counts.one("refused, shredded");
                self.lives[index] += 1;
            }
            // The store is busy with the others.
            KeyError::StoreUnavailable(_) => self.counts.one("refused, store busy"),
            other => panic!("{} is refused: {other:?}", name(index, self.lives[index])),
        }
    }

    async fn seal(&mut self, index: usize) {
        let (account_name, account) = self.account(index);
        let object = format!("{}-{}", self.number, self.seen[self.number]);
        match account.seal(object.as_bytes(), &context(&object)).await {
            Ok(sealed) => {
                let content = [account_name.as_bytes(), b"\n", &sealed].concat();
                put(&self.site.object(&object), &content);
                self.seen[self.number] += 1;
                self.counts.one("sealed");
            }
            Err(SealError::Key(error)) => self.refused(index, &error),
            Err(error) => panic!("{error:?}"),
        }
    }

    async fn open(&mut self) {
        let of = usize::try_from(self.chance.below(PROCESSES as u64)).unwrap();
        if of != self.number && self.site.object(&format!("{of}-{}", self.seen[of])).exists() {
            self.seen[of] += 1;
        }
        if self.seen[of] == 0 {
            return;
        }
        // Every second one of the newest.
        let back = if self.chance.below(2) == 0 { self.seen[of] } else { self.seen[of].min(10) };
        let object = format!("{of}-{}", self.seen[of] - 1 - self.chance.below(back));
        match opened(self.site, &self.keys, &object).await {
            Ok(()) => self.counts.one("opened"),
            Err(KeyError::Shredded(_)) => self.counts.one("not opened, shredded"),
            Err(KeyError::StoreUnavailable(_)) => self.counts.one("not opened, store busy"),
            Err(error) => panic!("{object} does not open: {error:?}"),
        }
    }

    async fn rotate(&mut self, index: usize) {
        let (_, account) = self.account(index);
        match account.rotate().await {
            Ok(_) => self.counts.one("rotated"),
            // Nobody has sealed for it yet.
            Err(KeyError::NoAccount { .. }) => {}
            Err(error) => self.refused(index, &error),
        }
    }

    /// One primary at a time, and the records in order, whenever anybody looks.
    async fn look(&mut self, index: usize) {
        let (name, account) = self.account(index);
        match self.store.export(account.path()).await {
            Ok(Some(copy)) => {
                is_sound(&name, &copy);
                self.counts.one("looked at");
            }
            Ok(None) => {}
            Err(error) => panic!("{name}: {error:?}"),
        }
    }

    async fn shred(&mut self, index: usize) {
        let (_, account) = self.account(index);
        match account.shred().await {
            Ok(shredded) => {
                self.counts.one(if shredded.change == Change::Made { "shredded" } else { "refused, shredded" });
                self.lives[index] += 1;
            }
            Err(keystrata_hierarchy::LifecycleError::Key(KeyError::NoAccount { .. })) => {}
            Err(keystrata_hierarchy::LifecycleError::Key(error)) => self.refused(index, &error),
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn is_sound(name: &str, copy: &keystrata_hierarchy::AccountCopy) {
    StoreError::check_copy(copy).unwrap();
    let primaries = copy.records.iter().filter(|record| record.state == KekState::Primary).count();
    assert_eq!(primaries, usize::from(copy.tombstone.is_none()), "{name}");
    let versions = copy.records.iter().map(|record| record.identity.version.get());
    assert!(versions.eq(1..=u32::try_from(copy.records.len()).unwrap()), "{name} has a version too many or too few");
}

async fn opened(site: &Site, keys: &Hierarchy, object: &str) -> Result<(), KeyError> {
    let content = std::fs::read(site.object(object)).unwrap();
    let end = content.iter().position(|byte| *byte == b'\n').unwrap();
    let account = keys.account(std::str::from_utf8(&content[..end]).unwrap()).unwrap();
    match account.open(&content[end + 1..], &context(object)).await {
        Ok(plaintext) => {
            assert_eq!(plaintext, object.as_bytes());
            Ok(())
        }
        Err(OpenError::Key(error)) => Err(error),
        Err(error) => panic!("{object} does not open: {error:?}"),
    }
}

/// Lets them work at once, and looks at what they leave. Gives what they came to together.
pub(crate) async fn survives(site: &Site, test: &str, seconds: u64) -> BTreeMap<String, u64> {
    let workers: Vec<_> = (0..PROCESSES).map(|number| site.child(test, &format!("{number} {seconds}"))).collect();
    let mut together = BTreeMap::new();
    for worker in workers {
        let lines = worker.finish();
        assert_eq!(lines[0], "began");
        for line in &lines[1..] {
            let (count, what) = line.split_once(' ').unwrap();
            *together.entry(what.to_owned()).or_default() += count.parse::<u64>().unwrap();
        }
    }
    let (store, keys) = (site.store().await, site.keys(Current::A).await);
    let mut shredded = BTreeSet::new();
    let mut after: Option<KeyPath> = None;
    loop {
        let page = store.accounts(after.as_ref(), 100).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.path.clone());
        for head in page {
            let copy = store.export(&head.path).await.unwrap().unwrap();
            is_sound(&head.path.to_string(), &copy);
            if copy.tombstone.is_some() {
                shredded.insert(head.path);
            }
        }
    }
    let objects = site.names("objects");
    assert_eq!(together["sealed"], objects.len() as u64);
    let mut lost = 0;
    for object in &objects {
        match opened(site, &keys, object).await {
            Ok(()) => {}
            Err(KeyError::Shredded(_)) => lost += 1,
            Err(error) => panic!("{object} does not open: {error:?}"),
        }
    }
    let tombstones = shredded.len() as u64;
    assert!(lost == 0 || tombstones > 0);
    together.insert("tombstones".to_owned(), tombstones);
    together.insert("objects of shredded accounts".to_owned(), lost);
    together
}
