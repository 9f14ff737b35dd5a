//! Seal and open one account's data: a key file, a SQLite store, one KMS call.
//!
//! `cargo run -p keystrata-examples --example quickstart`

use std::{sync::Arc, time::Duration};

use keystrata_hierarchy::{Context, Hierarchy};
use keystrata_kms::LocalRootKey;
use keystrata_store::SqliteKekStore;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    // Shared, to read its call counter below; `root_key` takes it plain as well.
    let root = Arc::new(LocalRootKey::create(folder.path().join("root.key"))?);
    let keys = Hierarchy::builder()
        .root_key(Arc::clone(&root))
        .store(SqliteKekStore::open(folder.path().join("keys.db")).await?)
        .kek_ttl(Duration::from_secs(300))
        .build()?;

    let acme = keys.account("acme")?;
    for row in 0..1_000 {
        let context = Context::new().with("row", row.to_string());
        let sealed = acme.seal(b"4111 1111 1111 1111", &context).await?;
        assert_eq!(acme.open(&sealed, &context).await?, b"4111 1111 1111 1111");
    }
    println!("1,000 rows sealed and opened with {} KMS call", root.calls());
    assert_eq!(root.calls(), 1);
    Ok(())
}
