//! A key service of your own as a root key: the adapter, and how it is tried.
//!
//! `cargo run -p keystrata-examples --example own_kms`

mod hsm;

use std::sync::Arc;

use async_trait::async_trait;
use keystrata_hierarchy::{
    Context, Hierarchy, MemoryKekStore, RootContext, RootKey, RootKeyError, RootKeyId, SecretKey,
    test_util::conformance::{self, RootKeyFault, RootKeyHarness},
};
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use self::hsm::{Hsm, Refusal};

/// A key of the hardware module in the cellar.
#[derive(Debug)]
struct HsmRootKey {
    id: RootKeyId,
    hsm: Arc<Hsm>,
    key: String,
}

impl HsmRootKey {
    fn new(hsm: Arc<Hsm>, key: &str) -> anyhow::Result<Self> {
        // Records name the key by this: no address, which may change, and nothing secret.
        Ok(Self { id: RootKeyId::new(&format!("cellar-hsm:{key}"))?, hsm, key: key.to_owned() })
    }
}

#[async_trait]
impl RootKey for HsmRootKey {
    fn id(&self) -> &RootKeyId {
        &self.id
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        self.hsm.encrypt(&self.key, &context.to_aad(), secret.expose_secret()).await.map_err(class)
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        let secret = Zeroizing::new(self.hsm.decrypt(&self.key, &context.to_aad(), wrapped).await.map_err(class)?);
        SecretKey::from_slice(&secret).map_err(|_| RootKeyError::Rejected)
    }
}

/// The one thing to think about: what a caller can do about each refusal.
fn class(refusal: Refusal) -> RootKeyError {
    match refusal {
        Refusal::Busy => RootKeyError::throttled("the HSM is busy"),
        Refusal::NotYours => RootKeyError::denied("the HSM refuses this key: have the role `envelopes` given back"),
        Refusal::BadBytes => RootKeyError::Rejected,
        Refusal::NoAnswer => RootKeyError::unavailable("the HSM does not answer: look at its cable"),
    }
}

/// What the conformance suite is told about the service, to see each class come back.
struct Cellar(Arc<Hsm>);

impl RootKeyHarness for Cellar {
    type Root = HsmRootKey;

    async fn root(&self) -> HsmRootKey {
        HsmRootKey::new(Arc::clone(&self.0), "envelopes").expect("a plain name")
    }

    async fn other_key(&self) -> Option<HsmRootKey> {
        HsmRootKey::new(Arc::clone(&self.0), "invoices").ok()
    }

    async fn set_fault(&self, fault: Option<RootKeyFault>) -> bool {
        let refusal = match fault {
            None => None,
            Some(RootKeyFault::Throttling) => Some(Refusal::Busy),
            Some(RootKeyFault::Denying) => Some(Refusal::NotYours),
            Some(RootKeyFault::HangingUp) => Some(Refusal::NoAnswer),
            Some(_) => return false, // cannot be arranged here
        };
        self.0.refuse(refusal);
        true
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let hsm = Arc::new(Hsm::new(["envelopes", "invoices"]));

    // In a test of yours: every rule that the engine relies on, from contexts to concurrency.
    conformance::root_key_in(&Cellar(Arc::clone(&hsm))).await;
    println!("the adapter conforms");

    // When the service starts: whether this key may be used, and what is missing if not.
    let root = HsmRootKey::new(Arc::clone(&hsm), "envelopes")?;
    keystrata_kms::verify_root(&root).await?;
    hsm.refuse(Some(Refusal::NotYours));
    let missing = keystrata_kms::verify_root(&root).await.expect_err("the HSM refuses");
    println!("without its role: {:#}", anyhow::Error::from(missing));
    hsm.refuse(None);

    let calls = hsm.calls();
    let keys = Hierarchy::builder().root_key(root).store(MemoryKekStore::new()).build()?;
    let acme = keys.account("acme")?;
    for row in 0..1_000 {
        let context = Context::new().with("row", row.to_string());
        let sealed = acme.seal(b"4111 1111 1111 1111", &context).await?;
        assert_eq!(acme.open(&sealed, &context).await?, b"4111 1111 1111 1111");
    }
    assert_eq!(hsm.calls() - calls, 1);
    println!("1,000 rows sealed and opened with {} call to the HSM", hsm.calls() - calls);
    Ok(())
}
