//! What one process changes, others obey within the time that `docs/lifecycle.md` gives.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use keystrata_hierarchy::{
    Account, Change, Hierarchy, KeyError, OpenError, Policy, RootContext, RootKey, RootKeyError, RootKeyId, SealError,
    SecretKey,
};
use keystrata_kms::LocalRootKey;
use keystrata_primitives::envelope::Header;

use super::{Process, Site, context, put, tell};

/// A root key that denies one account from when a file says so, as a KMS does that somebody has told.
#[derive(Debug)]
struct Revocable {
    inner: LocalRootKey,
    revoked: PathBuf,
}

impl Revocable {
    fn new(site: &Site) -> Self {
        let inner = LocalRootKey::open(site.folder.join("a.key")).unwrap();
        Self { inner, revoked: site.folder.join("revoked") }
    }

    fn ask(&self, context: &RootContext) -> Result<(), RootKeyError> {
        let is_revoked = context.account() == Some("denied") && self.revoked.exists();
        if is_revoked { Err(RootKeyError::denied("revoked by the test")) } else { Ok(()) }
    }
}

#[async_trait]
impl RootKey for Revocable {
    fn id(&self) -> &RootKeyId {
        self.inner.id()
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        self.ask(context)?;
        self.inner.wrap_key(secret, context).await
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        self.ask(context)?;
        self.inner.unwrap_key(wrapped, context).await
    }
}

/// What is done, each to an account of its name.
const EVENTS: [&str; 7] = ["rotated", "open only", "disabled", "version disabled", "floor", "shredded", "denied"];

/// How a watcher's KEKs live, and within what time it obeys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lives {
    pub(crate) ttl: Duration,
    pub(crate) refresh_ahead: bool,
}

/// For which a process seals under the primary that it knows.
const POINTER: Duration = Duration::from_secs(30);

impl Lives {
    /// By when sealing and opening obey: the table's *P* and *TTL*. A KEK that is not renewed ahead brings the store's word
    /// with it at its end, which may come before *P*.
    fn bounds(self, event: &str) -> [Duration; 2] {
        match event {
            // Only the KMS knows, and it is asked when the KEK is renewed.
            "denied" => [self.ttl; 2],
            _ if self.refresh_ahead => [POINTER, self.ttl],
            _ => [POINTER.min(self.ttl), self.ttl],
        }
    }

    fn role(self, number: usize) -> String {
        format!("{number} {} {}", self.ttl.as_millis(), self.refresh_ahead)
    }
}

async fn keys(site: &Site, lives: Lives) -> Hierarchy {
    let policy = Policy::builder().kek_ttl(lives.ttl).ttl_jitter(0.0).refresh_ahead(lives.refresh_ahead);
    let builder = Hierarchy::builder().root_key(Revocable::new(site)).store(site.store().await);
    builder.policy(policy.build().unwrap()).build().unwrap()
}

fn micros() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()
}

/// What became of an operation, so that two can be compared: which KEK, or which refusal.
fn seal_outcome(sealed: Result<Vec<u8>, SealError>) -> String {
    match sealed {
        Ok(envelope) => format!("ok:{}", Header::parse(&envelope).unwrap().kek_id()),
        Err(SealError::Key(error)) => refusal(&error),
        Err(error) => panic!("{error:?}"),
    }
}

fn open_outcome(opened: Result<Vec<u8>, OpenError>) -> String {
    match opened {
        Ok(_) => "ok".to_owned(),
        Err(OpenError::Key(error)) => refusal(&error),
        Err(error) => panic!("{error:?}"),
    }
}

fn refusal(error: &KeyError) -> String {
    match error {
        KeyError::SealingDisabled { .. } => "sealing-disabled",
        KeyError::WrongState { .. } => "wrong-state",
        KeyError::Shredded(_) => "shredded",
        KeyError::Denied(_) => "denied",
        KeyError::BelowMinVersion(_) => "below-floor",
        // Another process had the file for a moment, or the machine was slow.
        error if error.is_retryable() => "busy",
        other => panic!("{other:?}"),
    }
    .to_owned()
}

/// A process of the fleet: seals and opens for all accounts, over and over, and tells when an outcome is another one, and
/// when the last operation began whose outcome was as before.
pub(crate) async fn watch(site: &Site, role: &str) {
    let [_, ttl, refresh] = role.split(' ').collect::<Vec<_>>()[..] else { panic!("{role}") };
    let lives = Lives { ttl: Duration::from_millis(ttl.parse().unwrap()), refresh_ahead: refresh.parse().unwrap() };
    let keys = keys(site, lives).await;
    let watched: Vec<_> = EVENTS.iter().map(|name| (*name, keys.account(*name).unwrap())).collect();
    let mut last: BTreeMap<(&str, &str), (String, u128)> = BTreeMap::new();
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    let mut is_ready = false;
    // Until its parent kills it.
    loop {
        for (name, account) in &watched {
            let old = std::fs::read(site.object(name)).unwrap();
            for operation in ["seals", "opens"] {
                let began = micros();
                let outcome = match operation {
                    "seals" => seal_outcome(account.seal(b"x", &context("new")).await),
                    _ => open_outcome(account.open(&old, &context(name)).await),
                };
                if outcome == "busy" {
                    continue;
                }
                let before = last.insert((name, operation), (outcome.clone(), began));
                if let Some((was, last_began)) = before.filter(|(was, _)| *was != outcome) {
                    tell(&format!("{name}|{operation}|{was}|{outcome}|{last_began}"));
                }
            }
        }
        if !is_ready {
            is_ready = true;
            tell("ready");
        }
        pace.tick().await;
    }
}

/// Makes every change in this process, and asserts that each watcher turned in time. Gives the longest time that sealing and
/// opening went on after a change.
pub(crate) async fn obeys(site: &Site, test: &str, watchers: &[Lives]) -> Vec<(String, [Duration; 2])> {
    let here = keys(site, Lives { ttl: Duration::from_secs(300), refresh_ahead: true }).await;
    for name in EVENTS {
        let account = here.account(name).unwrap();
        let old = account.seal(b"x", &context(name)).await.unwrap();
        put(&site.object(name), &old);
        if matches!(name, "version disabled" | "floor") {
            account.rotate().await.unwrap(); // these end what only opens
        }
    }
    let children: Vec<Process> =
        watchers.iter().enumerate().map(|(number, lives)| site.child(test, &lives.role(number))).collect();
    for child in &children {
        assert_eq!(child.lines.recv().unwrap(), "ready");
    }
    let mut changed = BTreeMap::new();
    for name in EVENTS {
        change(site, &here.account(name).unwrap(), name).await;
        changed.insert(name, micros());
    }
    let mut longest = Vec::new();
    for (child, lives) in children.iter().zip(watchers) {
        longest.push((format!("{lives:?}"), turned(child, *lives, &changed)));
    }
    // What is taken back works again: nobody remembers the refusal.
    assert_eq!(here.account("disabled").unwrap().enable().await.unwrap(), Change::Made);
    for child in &children {
        let mut enabled = 0;
        while enabled < 2 {
            let line = child.lines.recv_timeout(Duration::from_secs(60)).unwrap();
            let [name, _, was, is, _] = line.split('|').collect::<Vec<_>>()[..] else { panic!("{line}") };
            assert_eq!((name, was), ("disabled", "wrong-state"));
            enabled += usize::from(is.starts_with("ok"));
        }
    }
    longest
}

async fn change(site: &Site, account: &Account, name: &str) {
    let old = std::fs::read(site.object(name)).unwrap();
    let keks = site.store().await.records(account.path()).await.unwrap();
    let first = keks[0].identity.id;
    match name {
        "rotated" => drop(account.rotate().await.unwrap()),
        "open only" => assert_eq!(account.open_only().await.unwrap(), Change::Made),
        "disabled" => assert_eq!(account.disable().await.unwrap(), Change::Made),
        "version disabled" => assert_eq!(account.disable_version(first).await.unwrap(), Change::Made),
        "floor" => assert_eq!(account.set_min_version(keks[1].identity.version).await.unwrap(), Change::Made),
        "shredded" => drop(account.shred().await.unwrap()),
        _ => put(&site.folder.join("revoked"), b""),
    }
    // Here it holds when the call returns; of a denial nobody knows until the next call.
    let [seals, opens] = expected(name);
    if name != "denied" {
        let opened = open_outcome(account.open(&old, &context(name)).await);
        assert_eq!(opened, opens.unwrap_or("ok"), "{name}");
        let sealed = seal_outcome(account.seal(b"x", &context("new")).await);
        assert!(seals.map_or(sealed.starts_with("ok"), |seals| sealed.starts_with(seals)), "{name}: {sealed}");
    }
}

/// What sealing and opening turn to; `None`: they go on.
fn expected(name: &str) -> [Option<&'static str>; 2] {
    match name {
        "rotated" => [Some("ok"), None],
        "open only" => [Some("sealing-disabled"), None],
        "disabled" => [Some("wrong-state"); 2],
        "version disabled" => [None, Some("wrong-state")],
        "floor" => [None, Some("below-floor")],
        "shredded" => [Some("shredded"); 2],
        _ => [Some("denied"); 2],
    }
}

/// For what was on its way when a change was made: a load that had read its record, and the watcher's own turn.
const UNDER_WAY: Duration = Duration::from_secs(2);

fn turned(child: &Process, lives: Lives, changed: &BTreeMap<&str, u128>) -> [Duration; 2] {
    let mut waiting: Vec<(&str, usize, &str)> = Vec::new();
    for name in EVENTS {
        for (operation, turn) in expected(name).into_iter().enumerate() {
            waiting.extend(turn.map(|turn| (name, operation, turn)));
        }
    }
    let mut longest = [Duration::ZERO; 2];
    let until = Instant::now() + POINTER + lives.ttl + Duration::from_secs(60);
    while !waiting.is_empty() {
        let line = child.lines.recv_timeout(until.saturating_duration_since(Instant::now()));
        let line = line.unwrap_or_else(|_| panic!("{lives:?}: nothing came of {waiting:?}"));
        let [name, operation, was, is, last_began] = line.split('|').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let operation = usize::from(operation == "opens");
        let place = waiting.iter().position(|(of, by, turn)| *of == name && *by == operation && is.starts_with(turn));
        let place = place.unwrap_or_else(|| panic!("{lives:?}: nobody asked for this: {line}"));
        waiting.swap_remove(place);
        assert!(was.starts_with("ok"), "{line}");
        let went_on = last_began.parse::<u128>().unwrap().saturating_sub(changed[name]);
        let went_on = Duration::from_micros(u64::try_from(went_on).unwrap());
        let bound = lives.bounds(name)[operation] + UNDER_WAY;
        assert!(went_on <= bound, "{lives:?}: {name} went on for {went_on:?}, and {bound:?} were allowed");
        longest[operation] = longest[operation].max(went_on);
    }
    longest
}

/// Watchers of which none is renewed ahead: they obey within their TTL, a few seconds.
pub(crate) fn quick() -> Vec<Lives> {
    [1, 2, 3].map(|ttl| Lives { ttl: Duration::from_secs(ttl), refresh_ahead: false }).to_vec()
}

/// The same with some that are renewed all the time, and hear of a new primary within half a minute.
pub(crate) fn thorough() -> Vec<Lives> {
    let renewed = [2, 10, 60].map(|ttl| Lives { ttl: Duration::from_secs(ttl), refresh_ahead: true });
    [quick(), renewed.to_vec()].concat()
}
