//! The whole engine over a root key: what an adapter is for.

use std::sync::Arc;

use keystrata_hierarchy::{Context, Hierarchy, KeyPath, MemoryKekStore, RootKey};

/// Seals for two accounts in one process and opens in another that shares the store.
pub(crate) async fn seals_and_opens(root: impl AsyncFn() -> Arc<dyn RootKey>) {
    let store = Arc::new(MemoryKekStore::new());
    let context = Context::new().with("row", "42");
    let mut sealed = Vec::new();
    let writer = process(root().await, &store);
    for account in [vec!["acme"], vec!["globex", "größe/☃"]] {
        let path = KeyPath::new(&account).unwrap();
        sealed.push((path.clone(), writer.account(path).unwrap().seal(b"4111 1111", &context).await.unwrap()));
    }
    let reader = process(root().await, &store);
    for (path, envelope) in &sealed {
        let account = reader.account(path.clone()).unwrap();
        assert_eq!(account.open(envelope, &context).await.unwrap(), b"4111 1111");
    }
    let stranger = reader.account(sealed[0].0.clone()).unwrap();
    assert!(stranger.open(&sealed[1].1, &context).await.is_err(), "an account opens its own objects only");
}

fn process(root: Arc<dyn RootKey>, store: &Arc<MemoryKekStore>) -> Hierarchy {
    Hierarchy::builder().root_key(root).store(Arc::clone(store)).build().unwrap()
}
