//! A root key in AWS KMS: opened by its URI, tried, under a budget; and replaced by another without a key leaving KMS.
//!
//! With a key of yours, and the usual AWS configuration (the first key needs the permissions of `docs/kms.md`):
//! `cargo run -p keystrata-examples --features aws --example aws -- aws-kms:alias/keystrata`
//!
//! Against something that speaks the protocol, in which it makes keys: set `AWS_ENDPOINT_URL_KMS`, `AWS_REGION`,
//! `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, and give no argument.

use std::{num::NonZeroU32, sync::Arc};

use anyhow::Context as _;
use aws_config::BehaviorVersion;
use keystrata_hierarchy::{Context, Hierarchy, MemoryKekStore, Reroot, RootKey, Roots};
use keystrata_kms::{Budget, Guard, Guarded, verify_root};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let uris = if given.is_empty() { made().await? } else { given };

    // One budget for each quota, and quotas are per AWS account and region: all root keys there share it.
    let number = |n| NonZeroU32::new(n).expect("not zero");
    let budget = Arc::new(Budget::per_second(number(100), number(20)).named("aws"));
    let mut roots = Vec::new();
    for uri in &uris {
        let root = Arc::new(Guard::new("root", Arc::clone(&budget)).around(keystrata_kms::open(uri).await?));
        verify_root(&root).await?; // says which IAM action is missing, now and not at three in the morning
        println!("{} can be used", root.id());
        roots.push(root);
    }

    let store = Arc::new(MemoryKekStore::new()); // `PostgresKekStore` in a service
    let keys = Hierarchy::builder().root_key(Arc::clone(&roots[0])).store(Arc::clone(&store)).build()?;
    let mut sealed = Vec::new();
    for object in 0..1_000 {
        let (tenant, context) = (format!("tenant-{}", object % 10), Context::new().with("object", object.to_string()));
        let envelope = keys.account(&*tenant)?.seal(b"4111 1111 1111 1111", &context).await?;
        assert_eq!(keys.account(&*tenant)?.open(&envelope, &context).await?, b"4111 1111 1111 1111");
        sealed.push((tenant, context, envelope));
    }
    assert_eq!(roots[0].kms_calls(), VERIFY + 10);
    println!("1,000 objects of 10 tenants sealed and opened; {}", bill(&roots[0]));
    keys.close();

    // To another key: within KMS by ReEncrypt, one call for each KEK, and the objects are not touched.
    if let [old, new] = &roots[..] {
        let both = Roots::builder().current(Arc::clone(new)).former(Arc::clone(old)).build()?;
        let keys = Hierarchy::builder().roots(both).store(Arc::clone(&store)).build()?;
        for tenant in 0..10 {
            let account = keys.account(format!("tenant-{tenant}"))?;
            assert_eq!(account.reroot(Reroot::Add).await?.added, 1);
            assert_eq!(account.reroot(Reroot::Retire).await?.dropped, 1);
        }
        assert_eq!((old.kms_calls(), new.kms_calls()), (VERIFY + 10, VERIFY + 10));
        println!("10 KEKs moved to the second key; {}", bill(new));

        let keys = Hierarchy::builder().root_key(Arc::clone(new)).store(store).build()?;
        for (tenant, context, envelope) in &sealed {
            assert_eq!(keys.account(&**tenant)?.open(envelope, context).await?, b"4111 1111 1111 1111");
        }
        assert_eq!((old.kms_calls(), new.kms_calls()), (VERIFY + 10, VERIFY + 20));
        println!("everything opens under the second key alone");
    }
    Ok(())
}

/// The calls of [`verify_root`].
const VERIFY: u64 = 5;

fn bill(root: &Guarded<Arc<dyn RootKey>>) -> String {
    format!("{} calls so far, ${:.5} at list price", root.kms_calls(), root.estimated_usd().unwrap_or_default())
}

/// Two keys in a stand-in for AWS.
async fn made() -> anyhow::Result<Vec<String>> {
    keystrata_examples::needed(
        "AWS_ENDPOINT_URL_KMS",
        "the URI of an AWS KMS key as its argument, or a stand-in: `pip install 'moto[server]'`, run `moto_server -p 5000` and set \
         AWS_ENDPOINT_URL_KMS to http://127.0.0.1:5000, with any AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    );
    let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let client = aws_sdk_kms::Client::new(&config);
    let mut uris = Vec::new();
    for _ in 0..2 {
        let key = client.create_key().send().await?.key_metadata.context("the answer describes no key")?;
        uris.push(format!("aws-kms:{}", key.arn.context("the key has no ARN")?));
    }
    Ok(uris)
}
