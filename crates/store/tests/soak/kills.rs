//! Rounds of killing a process at a random moment, and what must be true after each.

use std::{
    collections::BTreeSet,
    sync::{Arc, mpsc::RecvTimeoutError},
    time::{Duration, Instant},
};

use keystrata_hierarchy::{
    CheckEvent, Hierarchy, KekId, KekState, KekStore, KeyError, KeyPath, OpenError, RootKey, RootKeyId, StoreError,
    Wrapper, check_store,
};
use keystrata_kms::LocalRootKey;

use super::{
    Current, Process, Site, context,
    lives::{MOVED, OPERATIONS, copy_all, reroot_step, seal, wrapped_after},
};

/// Rounds on one store before another is begun, so that a round does not take longer and longer.
const ROUNDS_PER_STORE: u64 = 120;

/// For a child to do so much; then it is killed all the same.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the rounds came to, for a report.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    rounds: u64,
    objects: usize,
    accounts: u64,
    shredded: usize,
    told: usize,
    /// Reroots that began from a checkpoint, and copies that found a part of the accounts there.
    resumed: usize,
    steps: usize,
}

/// Rounds of killing: a few, unless the environment says how many.
pub(crate) fn rounds() -> u64 {
    super::setting("KEYSTRATA_KILLS", 2 * OPERATIONS.len() as u64)
}

/// Kills a child, which runs the test `name`, so often. `new_site` makes a store; `copy_of` names one to copy it to.
pub(crate) async fn survives(
    rounds: u64,
    name: &str,
    mut new_site: impl AsyncFnMut() -> Site,
    copy_of: impl Fn(&Site, u64) -> String,
) -> Figures {
    let mut figures = Figures::default();
    let mut site = new_site().await;
    prepare(&site).await;
    for round in 0..rounds {
        if round > 0 && round.is_multiple_of(ROUNDS_PER_STORE) {
            all_is_well(&site, &mut figures).await;
            site = new_site().await;
            prepare(&site).await;
        }
        let operation = OPERATIONS[usize::try_from(round).unwrap() % OPERATIONS.len()];
        let copy = copy_of(&site, round);
        let told = kill_at_random(site.child(name, &format!("{operation} {copy}")), operation);
        figures.rounds += 1;
        figures.told += told.len();
        figures.resumed += usize::from(told.iter().any(|line| line == "resumed"));
        figures.steps += told.iter().filter(|line| line.starts_with("step ")).count();
        round_is_well(&site, operation, &told).await;
        if operation == "copy" {
            let (accounts, same) = copy_all(&site, &copy).await;
            figures.resumed += usize::from(same > 0 && same < accounts);
            is_same(&*site.store().await, &*keystrata_store::open(&copy).await.unwrap()).await;
        }
    }
    all_is_well(&site, &mut figures).await;
    figures
}

/// The accounts that reroots move.
async fn prepare(site: &Site) {
    let keys = site.keys(Current::A).await;
    for n in 0..MOVED {
        seal(site, &keys.account(format!("moved {n:04}")).unwrap(), &format!("moved {n:04}~0")).await;
    }
}

/// Kills it after so many lines, or some time after it began, and gives what it told.
fn kill_at_random(child: Process, operation: &str) -> Vec<String> {
    let random = KekId::generate().unwrap();
    let [a, b, ..] = *random.as_bytes();
    let mut told = vec![child.lines.recv().expect("the child begins")];
    // Every second time by what it has done, which comes to any of it on a slow machine too; else anywhere in a quarter of
    // a second.
    let (lines, wait) = match (a % 2, operation) {
        (0, "reroot") => (usize::from(b % 4), PATIENCE), // one for each batch of accounts
        (0, "copy") => (usize::from(b), PATIENCE),
        (0, _) => (usize::from(b % 32), PATIENCE),
        _ => (usize::MAX, Duration::from_micros(1_000 * u64::from(b))),
    };
    let until = Instant::now() + wait;
    while told.len() <= lines {
        match child.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => told.push(line),
            Err(RecvTimeoutError::Timeout) => break,
            Err(RecvTimeoutError::Disconnected) => panic!("the child ended by itself: {told:?}"),
        }
    }
    told.extend(child.kill());
    told
}

async fn round_is_well(site: &Site, operation: &str, told: &[String]) {
    let (store, keys) = (site.store().await, site.keys(Current::A).await);
    // Those of this child: of the line "sealed OWN-NUMBER~NUMBER" what comes before the first number.
    let own = told.iter().find_map(|line| line.strip_prefix("sealed ")?.split_once('-'));
    let is_own = |name: &String| own.is_some_and(|(own, _)| name.starts_with(own));
    let objects: Vec<String> = site.names("objects").into_iter().filter(is_own).collect();
    let shredding: BTreeSet<String> = site.names("shredding").into_iter().collect();
    for line in told {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["sealed" | "rewrapped", name] => assert!(site.object(name).exists(), "{name} is lost"),
            ["rotated", name, version] => {
                let primary = store.primary(&path(name)).await.unwrap().unwrap();
                let version: u32 = version.parse().unwrap();
                assert!(primary.identity.version.get() >= version, "version {version} of {name} is lost");
            }
            ["shredded", name] => {
                let head = store.head(&path(name)).await.unwrap().unwrap();
                assert!(head.tombstone.is_some(), "the shredding of {name} is lost");
            }
            _ => {}
        }
    }
    for name in &objects {
        opens(site, &keys, name, &shredding).await;
    }
    let accounts: BTreeSet<&str> = objects.iter().map(|name| account_of(name)).collect();
    for account in accounts {
        is_sound(&*store, &path(account)).await;
    }
    if operation == "reroot" {
        for n in [0, MOVED / 2, MOVED - 1] {
            opens(site, &keys, &format!("moved {n:04}~0"), &shredding).await;
        }
    }
}

fn path(name: &str) -> KeyPath {
    KeyPath::account(name).unwrap()
}

fn account_of(object: &str) -> &str {
    object.split_once('~').unwrap().0
}

/// The object holds its name, unless its account is shredded or was about to be.
async fn opens(site: &Site, keys: &Hierarchy, name: &str, shredding: &BTreeSet<String>) {
    let (envelope, account) = (std::fs::read(site.object(name)).unwrap(), account_of(name));
    match keys.account(account).unwrap().open(&envelope, &context(name)).await {
        Ok(plaintext) => assert_eq!(plaintext, name.as_bytes()),
        Err(OpenError::Key(KeyError::Shredded(_))) if shredding.contains(account) => {}
        Err(error) => panic!("{name} was sealed and does not open: {error}"),
    }
}

/// The account's records keep the rules of a copy, and it has one primary or a tombstone.
async fn is_sound(store: &dyn KekStore, path: &KeyPath) {
    let copy = store.export(path).await.unwrap().unwrap();
    StoreError::check_copy(&copy).unwrap();
    let primaries = copy.records.iter().filter(|record| record.state == KekState::Primary).count();
    assert_eq!(primaries, usize::from(copy.tombstone.is_none()), "{copy:?}");
}

async fn is_same(store: &dyn KekStore, other: &dyn KekStore) {
    let mut after = None;
    loop {
        let page = store.accounts(after.as_ref(), 100).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.path.clone());
        for head in &page {
            assert_eq!(store.export(&head.path).await.unwrap(), other.export(&head.path).await.unwrap());
        }
    }
}

/// Every object that was ever sealed here opens, every account is sound, and the reroot comes to its end.
async fn all_is_well(site: &Site, figures: &mut Figures) {
    let shredding: BTreeSet<String> = site.names("shredding").into_iter().collect();
    let keys = site.keys(Current::B).await;
    let objects = site.names("objects");
    for name in &objects {
        opens(site, &keys, name, &shredding).await;
    }
    let root = loop {
        if let Some(root) = wrapped_after(reroot_step(site).await) {
            break root;
        }
    };
    let (store, root) = (site.store().await, LocalRootKey::open(site.folder.join(root)).unwrap());
    let roots = [root.id().clone()];
    let report = check_store(&store, Some(&roots), |event| {
        if let CheckEvent::Finding(finding) = event {
            panic!("{finding:?}");
        }
    });
    figures.accounts += report.await.unwrap().accounts;
    wrapped_by_alone(&store, root.id()).await;
    figures.objects += objects.len();
    figures.shredded += shredding.len();
}

async fn wrapped_by_alone(store: &Arc<dyn KekStore>, root: &RootKeyId) {
    let mut after = None;
    loop {
        let page = store.primaries(after.as_ref(), 100).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.identity.path.clone());
        for record in &page {
            assert!(matches!(&record.wraps[..], [wrap] if wrap.wrapper == Wrapper::Root(root.clone())), "{record:?}");
        }
    }
}
