//! Tests of your own code: a clock that you turn by hand, a root key that fails as it is told, and no waiting.
//!
//! `cargo run -p keystrata-examples --example testing`, and `cargo test -p keystrata-examples --example testing` runs them as
//! the tests that they would be in your project. There the dev-dependency is `keystrata-hierarchy` with the feature `test-util`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use keystrata_hierarchy::{
    Context, Hierarchy, KeyError, MemoryKekStore, OpenError, RootKeyError, SealError,
    test_util::{ManualClock, ScriptedOperation, ScriptedRootKey},
};

/// The code under test: notes of tenants, of which the last that could be read is shown while the KMS is slow.
struct Notes {
    keys: Hierarchy,
    sealed: Mutex<HashMap<String, Vec<u8>>>,
}

#[derive(Debug, PartialEq)]
enum Answer {
    Text(String),
    TryLater,
    Revoked,
}

impl Notes {
    fn new(keys: Hierarchy) -> Self {
        Self { keys, sealed: Mutex::default() }
    }

    async fn write(&self, tenant: &str, note: &str) -> Result<(), SealError> {
        let account = self.keys.account(tenant).expect("tenants have short names");
        let sealed = account.seal(note.as_bytes(), &Context::new().with("note", tenant)).await?;
        self.sealed.lock().unwrap_or_else(PoisonError::into_inner).insert(tenant.into(), sealed);
        Ok(())
    }

    async fn read(&self, tenant: &str) -> Result<Answer, OpenError> {
        let account = self.keys.account(tenant).expect("tenants have short names");
        let sealed = self.sealed.lock().unwrap_or_else(PoisonError::into_inner)[tenant].clone();
        match account.open(&sealed, &Context::new().with("note", tenant)).await {
            Ok(note) => Ok(Answer::Text(String::from_utf8_lossy(&note).into_owned())),
            Err(OpenError::Key(KeyError::Denied(_))) => Ok(Answer::Revoked),
            Err(OpenError::Key(error)) if error.is_retryable() => Ok(Answer::TryLater),
            Err(error) => Err(error),
        }
    }
}

const TTL: Duration = Duration::from_secs(300);

/// What every test begins with. The store can be shared to play a second process.
fn notes() -> (Notes, Arc<ScriptedRootKey>, ManualClock) {
    let (root, clock) = (Arc::new(ScriptedRootKey::new("test:root")), ManualClock::new());
    let keys = Hierarchy::builder()
        .root_key(Arc::clone(&root))
        .store(MemoryKekStore::new())
        .clock(clock.clone())
        .kek_ttl(TTL)
        .build()
        .expect("a root key and a store are all it needs");
    (Notes::new(keys), root, clock)
}

fn text(note: &str) -> Answer {
    Answer::Text(note.into())
}

#[cfg_attr(test, tokio::test)]
async fn reading_costs_one_kms_call_in_each_time_to_live() {
    let (notes, root, clock) = notes();
    notes.write("acme", "buy milk").await.expect("the root key works");
    for _ in 0..1_000 {
        assert_eq!(notes.read("acme").await.expect("it opens"), text("buy milk"));
    }
    assert_eq!((root.calls(), root.calls_to(ScriptedOperation::Generate)), (1, 1));
    clock.advance(TTL); // five minutes in no time
    assert_eq!(notes.read("acme").await.expect("it opens"), text("buy milk"));
    assert_eq!((root.calls(), root.calls_to(ScriptedOperation::Unwrap)), (2, 1));
}

#[cfg_attr(test, tokio::test)]
async fn a_kms_that_throttles_asks_the_reader_to_come_back() {
    let (notes, root, clock) = notes();
    notes.write("acme", "buy milk").await.expect("the root key works");
    clock.advance(TTL);
    root.fail_next(RootKeyError::throttled("by the test"));
    assert_eq!(notes.read("acme").await.expect("no error"), Answer::TryLater);
    assert_eq!(notes.read("acme").await.expect("it opens"), text("buy milk"));
}

#[cfg_attr(test, tokio::test)]
async fn an_outage_is_not_noticed_before_the_time_to_live_is_over() {
    let (notes, root, clock) = notes();
    notes.write("acme", "buy milk").await.expect("the root key works");
    root.script(|_| Err(RootKeyError::unavailable("by the test")));
    clock.advance(TTL / 2);
    assert_eq!(notes.read("acme").await.expect("it opens"), text("buy milk"));
    clock.advance(TTL / 2);
    assert_eq!(notes.read("acme").await.expect("no error"), Answer::TryLater);
    root.script(|_| Ok(()));
    assert_eq!(notes.read("acme").await.expect("it opens"), text("buy milk"));
}

#[cfg_attr(test, tokio::test)]
async fn a_revoked_tenant_is_told_so_and_the_others_go_on() {
    let (notes, root, clock) = notes();
    for tenant in ["acme", "globex"] {
        notes.write(tenant, "buy milk").await.expect("the root key works");
    }
    root.script(|call| match call.context.account() {
        Some("globex") => Err(RootKeyError::denied("revoked by the test")),
        _ => Ok(()),
    });
    clock.advance(TTL);
    assert_eq!(notes.read("acme").await.expect("it opens"), text("buy milk"));
    assert_eq!(notes.read("globex").await.expect("no error"), Answer::Revoked);
}

#[cfg(not(test))]
#[tokio::main]
async fn main() {
    reading_costs_one_kms_call_in_each_time_to_live().await;
    a_kms_that_throttles_asks_the_reader_to_come_back().await;
    an_outage_is_not_noticed_before_the_time_to_live_is_over().await;
    a_revoked_tenant_is_told_so_and_the_others_go_on().await;
    println!("four tests over 25 minutes, in a moment");
}
