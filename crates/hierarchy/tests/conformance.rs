//! The suites on the engine's own adapters, bare and through `Arc`.

use std::sync::Arc;

use keystrata_hierarchy::{
    KekStore, MemoryKekStore, RootKey,
    test_util::{ScriptedRootKey, conformance},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_store_conforms() {
    conformance::kek_store(async || MemoryKekStore::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_store_conforms() {
    conformance::kek_store(async || Arc::new(MemoryKekStore::new()) as Arc<dyn KekStore>).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scripted_root_key_conforms() {
    conformance::root_key(async || ScriptedRootKey::new("test:root")).await;
    conformance::root_key(async || ScriptedRootKey::new("test:root").that_rewraps()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_root_key_conforms() {
    conformance::root_key(async || Arc::new(ScriptedRootKey::new("test:root")) as Arc<dyn RootKey>).await;
}

/// Adapters that break one rule each: a suite that lets them pass proves nothing about the others.
mod broken {
    use async_trait::async_trait;
    use keystrata_hierarchy::{
        AccountCopy, Creation, Import, KekId, KekRecord, KekStore, KekVersion, KeyPath, MemoryKekStore, PathHead,
        Raise, RootContext, RootKey, RootKeyError, RootKeyId, Rotation, SecretKey, Shred, StoreError, Update,
        WrapperQuery,
        test_util::{ScriptedRootKey, conformance},
    };

    /// Forgets the context that it was given.
    #[derive(Debug)]
    struct AnyContext(ScriptedRootKey);

    #[async_trait]
    impl RootKey for AnyContext {
        fn id(&self) -> &RootKeyId {
            self.0.id()
        }

        async fn wrap_key(&self, secret: &SecretKey, _: &RootContext) -> Result<Vec<u8>, RootKeyError> {
            self.0.wrap_key(secret, &RootContext::none()).await
        }

        async fn unwrap_key(&self, wrapped: &[u8], _: &RootContext) -> Result<SecretKey, RootKeyError> {
            self.0.unwrap_key(wrapped, &RootContext::none()).await
        }
    }

    #[tokio::test]
    #[should_panic(expected = "root key conformance: a wrapped key under the context of no account must be `Rejected`")]
    async fn a_root_key_that_ignores_the_context_is_found_out() {
        conformance::root_key(async || AnyContext(ScriptedRootKey::new("test:root"))).await;
    }

    /// What a store may get wrong.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fault {
        /// Looks before it writes, and lets others in between.
        LooksFirst,
        /// Updates whatever is stored.
        IgnoresExpected,
        /// Knows a shredded path as one that it never had.
        HidesTombstones,
        /// Gives what is below the lowest version.
        IgnoresMinVersion,
        /// Shreds and keeps what wraps the records in its index.
        KeepsIndex,
    }

    #[derive(Debug)]
    struct Broken {
        inner: MemoryKekStore,
        fault: Fault,
        index: std::sync::Mutex<Vec<KekRecord>>,
    }

    impl Broken {
        fn new(fault: Fault) -> Self {
            Self { inner: MemoryKekStore::new(), fault, index: std::sync::Mutex::default() }
        }
    }

    #[async_trait]
    impl KekStore for Broken {
        async fn head(&self, path: &KeyPath) -> Result<Option<PathHead>, StoreError> {
            let head = self.inner.head(path).await?;
            Ok(head.filter(|head| self.fault != Fault::HidesTombstones || head.tombstone.is_none()))
        }

        async fn record(&self, path: &KeyPath, id: KekId) -> Result<Option<KekRecord>, StoreError> {
            if self.fault == Fault::IgnoresMinVersion {
                let records = self.inner.records(path).await?;
                return Ok(records.into_iter().find(|record| record.identity.id == id));
            }
            self.inner.record(path, id).await
        }

        async fn export(&self, path: &KeyPath) -> Result<Option<AccountCopy>, StoreError> {
            self.inner.export(path).await
        }

        async fn create(&self, record: &KekRecord) -> Result<Creation, StoreError> {
            if self.fault == Fault::LooksFirst {
                if self.inner.primary(&record.identity.path).await?.is_some() {
                    return Ok(Creation::Exists);
                }
                tokio::task::yield_now().await;
                self.inner.create(record).await?;
                return Ok(Creation::Created);
            }
            self.inner.create(record).await
        }

        async fn rotate(&self, previous: KekId, record: &KekRecord) -> Result<Rotation, StoreError> {
            self.inner.rotate(previous, record).await
        }

        async fn update(&self, expected: &KekRecord, new: &KekRecord) -> Result<Update, StoreError> {
            let (path, id) = (&expected.identity.path, expected.identity.id);
            if self.fault == Fault::IgnoresExpected
                && let Some(stored) = self.inner.record(path, id).await?
            {
                return self.inner.update(&stored, new).await;
            }
            self.inner.update(expected, new).await
        }

        async fn raise_min_version(&self, path: &KeyPath, to: KekVersion) -> Result<Raise, StoreError> {
            self.inner.raise_min_version(path, to).await
        }

        async fn shred(&self, path: &KeyPath, at: u64) -> Result<Shred, StoreError> {
            let records = self.inner.records(path).await?;
            self.index.lock().expect("no test panics while it holds it").extend(records);
            self.inner.shred(path, at).await
        }

        async fn import(&self, copy: &AccountCopy) -> Result<Import, StoreError> {
            self.inner.import(copy).await
        }

        async fn accounts(&self, after: Option<&KeyPath>, limit: usize) -> Result<Vec<PathHead>, StoreError> {
            self.inner.accounts(after, limit).await
        }

        async fn by_wrapper(
            &self,
            wrapper: &WrapperQuery,
            after: Option<(&KeyPath, KekId)>,
            limit: usize,
        ) -> Result<Vec<KekRecord>, StoreError> {
            let mut found = self.inner.by_wrapper(wrapper, after, limit).await?;
            if self.fault == Fault::KeepsIndex {
                found.extend(
                    self.index
                        .lock()
                        .expect("no test panics while it holds it")
                        .iter()
                        .filter(|record| wrapper.matches(record))
                        .cloned(),
                );
            }
            Ok(found)
        }
    }

    async fn is_found_out(fault: Fault) {
        conformance::kek_store(async || Broken::new(fault)).await;
    }

    #[tokio::test]
    #[should_panic(expected = "KEK store conformance: of many creators of one account one wins, and 32 did")]
    async fn a_store_that_looks_before_it_writes_is_found_out() {
        is_found_out(Fault::LooksFirst).await;
    }

    #[tokio::test]
    #[should_panic(expected = "KEK store conformance: this update is Changed, and was Updated")]
    async fn a_store_that_updates_whatever_is_there_is_found_out() {
        is_found_out(Fault::IgnoresExpected).await;
    }

    #[tokio::test]
    #[should_panic(expected = "KEK store conformance: a shredded path is known")]
    async fn a_store_that_forgets_tombstones_is_found_out() {
        is_found_out(Fault::HidesTombstones).await;
    }

    #[tokio::test]
    #[should_panic(expected = "KEK store conformance: a KEK below the lowest version is given")]
    async fn a_store_that_gives_old_versions_is_found_out() {
        is_found_out(Fault::IgnoresMinVersion).await;
    }

    #[tokio::test]
    #[should_panic(expected = "KEK store conformance: nothing wraps a shredded record")]
    async fn a_store_that_still_finds_what_it_shredded_is_found_out() {
        is_found_out(Fault::KeepsIndex).await;
    }
}
