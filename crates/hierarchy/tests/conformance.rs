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

    /// Looks before it writes, and lets others in between.
    #[derive(Debug, Default)]
    struct LooksFirst(MemoryKekStore);

    #[async_trait]
    impl KekStore for LooksFirst {
        async fn record(&self, path: &KeyPath, id: KekId) -> Result<Option<KekRecord>, StoreError> {
            self.0.record(path, id).await
        }

        async fn primary(&self, path: &KeyPath) -> Result<Option<KekRecord>, StoreError> {
            self.0.primary(path).await
        }

        async fn create(&self, record: &KekRecord) -> Result<Creation, StoreError> {
            if self.0.primary(&record.identity.path).await?.is_some() {
                return Ok(Creation::Exists);
            }
            tokio::task::yield_now().await;
            self.0.create(record).await?;
            Ok(Creation::Created)
        }

        async fn rotate(&self, previous: KekId, record: &KekRecord) -> Result<Rotation, StoreError> {
            self.0.rotate(previous, record).await
        }

        async fn records(&self, path: &KeyPath) -> Result<Vec<KekRecord>, StoreError> {
            self.0.records(path).await
        }

        async fn primaries(&self, after: Option<&KeyPath>, limit: usize) -> Result<Vec<KekRecord>, StoreError> {
            self.0.primaries(after, limit).await
        }

        async fn head(&self, path: &KeyPath) -> Result<Option<PathHead>, StoreError> {
            self.0.head(path).await
        }

        async fn export(&self, path: &KeyPath) -> Result<Option<AccountCopy>, StoreError> {
            self.0.export(path).await
        }

        async fn update(&self, expected: &KekRecord, new: &KekRecord) -> Result<Update, StoreError> {
            self.0.update(expected, new).await
        }

        async fn raise_min_version(&self, path: &KeyPath, to: KekVersion) -> Result<Raise, StoreError> {
            self.0.raise_min_version(path, to).await
        }

        async fn shred(&self, path: &KeyPath, at: u64) -> Result<Shred, StoreError> {
            self.0.shred(path, at).await
        }

        async fn import(&self, copy: &AccountCopy) -> Result<Import, StoreError> {
            self.0.import(copy).await
        }

        async fn accounts(&self, after: Option<&KeyPath>, limit: usize) -> Result<Vec<PathHead>, StoreError> {
            self.0.accounts(after, limit).await
        }

        async fn by_wrapper(
            &self,
            wrapper: &WrapperQuery,
            after: Option<(&KeyPath, KekId)>,
            limit: usize,
        ) -> Result<Vec<KekRecord>, StoreError> {
            self.0.by_wrapper(wrapper, after, limit).await
        }
    }

    #[tokio::test]
    #[should_panic(expected = "KEK store conformance: of many creators of one account one wins, and 32 did")]
    async fn a_store_that_looks_before_it_writes_is_found_out() {
        conformance::kek_store(async || LooksFirst::default()).await;
    }
}
