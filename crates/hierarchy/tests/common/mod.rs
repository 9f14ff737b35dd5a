//! A hierarchy on a scripted root key, a memory store and a manual clock.
#![allow(dead_code, unreachable_pub)] // each test file uses a part of it
#![allow(clippy::unwrap_used)] // test code outside a #[test]

use std::{sync::Arc, time::Duration};

use keystrata_hierarchy::{
    Context, Hierarchy, HierarchyBuilder, MemoryKekStore,
    test_util::{ManualClock, ScriptedRootKey},
};

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
            .kek_ttl(TTL)
    }
}

pub fn row(n: u32) -> Context {
    Context::new().with("row", n.to_string())
}
