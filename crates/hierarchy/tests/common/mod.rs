//! A hierarchy on a scripted root key, a memory store and a manual clock.
#![allow(dead_code, unreachable_pub)] // each test file uses a part of it
#![allow(clippy::unwrap_used)] // test code outside a #[test]

pub mod shaky;
pub mod tree;
pub mod tricky;

use std::{sync::Arc, time::Duration};

use keystrata_hierarchy::{
    Account, Context, Hierarchy, HierarchyBuilder, MemoryKekStore, Policy, PolicyBuilder, SealError,
    test_util::{ManualClock, ScriptedRootKey},
};
use tokio::task::JoinHandle;

pub const TTL: Duration = Duration::from_secs(300);

pub struct Fixture {
    pub root: Arc<ScriptedRootKey>,
    pub store: Arc<MemoryKekStore>,
    pub clock: ManualClock,
}

impl Fixture {
    pub fn new() -> Self {
        Self {
            root: Arc::new(ScriptedRootKey::new("test:root")),
            store: Arc::new(MemoryKekStore::new()),
            clock: ManualClock::new(),
        }
    }

    /// One more process, as far as an engine can tell: it shares nothing but the root key and the store.
    pub fn process(&self) -> Hierarchy {
        self.builder().build().unwrap()
    }

    pub fn builder(&self) -> HierarchyBuilder {
        Hierarchy::builder()
            .root_key(Arc::clone(&self.root))
            .store(Arc::clone(&self.store))
            .clock(self.clock.clone())
            .policy(exact().build().unwrap())
    }

    /// Begins to seal in a task, and comes back once the root key was called. The test holds the root key meanwhile.
    pub async fn begin_seal(&self, account: &Account) -> JoinHandle<Result<Vec<u8>, SealError>> {
        let before = self.root.calls();
        let account = account.clone();
        let sealing = tokio::spawn(async move { account.seal(b"x", &row(1)).await });
        while self.root.calls() == before {
            tokio::task::yield_now().await;
        }
        sealing
    }
}

/// Lives of exactly the TTL, and nothing ahead of its time.
pub fn exact() -> PolicyBuilder {
    Policy::builder().kek_ttl(TTL).ttl_jitter(0.0).refresh_ahead(false)
}

pub fn row(n: u32) -> Context {
    Context::new().with("row", n.to_string())
}
