//! Google Cloud KMS: a strict fake of ours, and `drongo`.

use std::{path::PathBuf, sync::Arc, sync::atomic::Ordering, time::Duration};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::{KeyPair, KeySize},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use keystrata_hierarchy::{
    RootContext, RootKey,
    test_util::conformance::{self, RootKeyFault, RootKeyHarness},
};
use keystrata_kms::{GcpAuth, GcpKmsConfig, GcpKmsRootKey, verify_root};
use tempfile::TempDir;

use crate::{
    engine,
    gcp_fake::{FakeKms, Mood},
    guarded::InGuard,
    process::{Server, installed},
    verdict,
};

pub(crate) const KEY: &str = "projects/acme/locations/europe-west3/keyRings/prod/cryptoKeys/keystrata";

/// A service account that the fake gives tokens to.
pub(crate) fn account(folder: &TempDir, port: u16) -> PathBuf {
    let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&key).unwrap();
    let json = serde_json::json!({
        "type": "service_account",
        "client_email": "keystrata@acme.example",
        "private_key_id": "k1",
        "private_key": format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der.as_ref())),
        "token_uri": format!("http://127.0.0.1:{port}/token"),
    });
    let path = folder.path().join("account.json");
    std::fs::write(&path, json.to_string()).unwrap();
    path
}

struct Harness {
    fake: FakeKms,
    account: PathBuf,
    _folder: TempDir,
}

impl Harness {
    async fn new() -> Self {
        let fake = FakeKms::start().await;
        let folder = tempfile::tempdir().unwrap();
        Self { account: account(&folder, fake.port), fake, _folder: folder }
    }

    async fn key(&self, key: &str) -> GcpKmsRootKey {
        let config = GcpKmsConfig {
            key: key.into(),
            endpoint: Some(format!("http://127.0.0.1:{}", self.fake.port)),
            auth: GcpAuth::ServiceAccountFile(self.account.clone()),
            ..GcpKmsConfig::default()
        };
        GcpKmsRootKey::open(config).await.unwrap()
    }
}

impl RootKeyHarness for Harness {
    type Root = GcpKmsRootKey;

    async fn root(&self) -> GcpKmsRootKey {
        self.key(KEY).await
    }

    async fn other_key(&self) -> Option<GcpKmsRootKey> {
        Some(self.key(&format!("{KEY}-other")).await)
    }

    async fn set_fault(&self, fault: Option<RootKeyFault>) -> bool {
        self.fake.set(match fault {
            None => Mood::Honest,
            Some(RootKeyFault::Throttling) => Mood::Error(429, "RESOURCE_EXHAUSTED"),
            Some(RootKeyFault::Denying) => Mood::Error(403, "PERMISSION_DENIED"),
            Some(RootKeyFault::Failing) => Mood::Error(503, "UNAVAILABLE"),
            Some(RootKeyFault::TalkingNonsense) => Mood::NoJson,
            Some(_) => return false,
        });
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_strict_fake_conforms() {
    let harness = Harness::new().await;
    conformance::root_key_in(&harness).await;
    assert_eq!(harness.fake.tokens_given.load(Ordering::SeqCst), 3, "one token for each adapter, however many callers");
    conformance::root_key_in(&InGuard(harness)).await;
}

#[tokio::test]
async fn the_whole_engine_runs_on_the_strict_fake() {
    let harness = Harness::new().await;
    verify_root(&harness.root().await).await.unwrap();
    engine::seals_and_opens(async || Arc::new(harness.root().await) as Arc<dyn RootKey>).await;
}

#[tokio::test]
async fn answers_that_are_not_right_are_not_used() {
    let harness = Harness::new().await;
    let root = harness.root().await;
    let context = RootContext::none();
    let wrapped = root.generate_key(&context).await.unwrap().wrapped;
    for (mood, class, words) in [
        (Mood::Error(400, "FAILED_PRECONDITION"), "denied", "disabled"),
        (Mood::Error(404, "NOT_FOUND"), "denied", "knows no key"),
        (Mood::Error(500, "INTERNAL"), "unavailable", "later"),
        (Mood::Error(401, "UNAUTHENTICATED"), "unavailable", "clock"),
        (Mood::OtherKey, "unavailable", "another key"),
        (Mood::BitFlip, "unavailable", "checksum"),
        (Mood::NoChecksum, "unavailable", "JSON"),
        (Mood::Unverified, "unavailable", "checksums"),
        (Mood::Big, "unavailable", "64 KiB"),
    ] {
        harness.fake.set(mood);
        let (got, message) = verdict::of(root.generate_key(&context).await);
        assert_eq!(got, class, "{mood:?}: {message}");
        assert!(message.contains(words), "{mood:?}: {message}");
    }
    harness.fake.set(Mood::BitFlip);
    assert_eq!(verdict::of(root.unwrap_key(&wrapped, &context).await).0, "unavailable");
    harness.fake.set(Mood::Honest);
    root.unwrap_key(&wrapped, &context).await.unwrap();
}

#[tokio::test]
async fn a_token_that_ends_in_mid_flight_is_replaced_once_for_all_callers() {
    let harness = Harness::new().await;
    let root = Arc::new(harness.root().await);
    let context = RootContext::none();
    root.generate_key(&context).await.unwrap();
    harness.fake.revoke_tokens();
    let callers = (0..16).map(|_| {
        let root = Arc::clone(&root);
        tokio::spawn(async move { root.generate_key(&RootContext::none()).await.map(drop) })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap().unwrap();
    }
    assert_eq!(harness.fake.tokens_given.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs drongo, which `cargo xtask test` installs"]
async fn drongo_takes_our_requests_and_we_its_answers() {
    let drongo = Server::start(&installed("drongo"), |port, _| {
        ["server", "--host", "127.0.0.1", "--port", &port.to_string()].map(String::from).into()
    });
    let base = format!("http://127.0.0.1:{}/v1/projects/acme/locations/europe-west3", drongo.port);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for (path, body) in [
        ("keyRings?keyRingId=prod", "{}"),
        ("keyRings/prod/cryptoKeys?cryptoKeyId=keystrata", r#"{"purpose":"ENCRYPT_DECRYPT"}"#),
    ] {
        let request = http.post(format!("{base}/{path}")).header("content-type", "application/json").body(body);
        assert!(request.send().await.unwrap().status().is_success(), "{path}");
    }
    let uri = format!("gcp-kms:{KEY}?endpoint=http://127.0.0.1:{}&auth=none&timeout_ms=20000", drongo.port);
    let root = keystrata_kms::open(&uri).await.unwrap();
    verify_root(&root).await.unwrap();
    engine::seals_and_opens(async || keystrata_kms::open(&uri).await.unwrap()).await;
    assert_eq!(root.id().as_str(), format!("gcp-kms:{KEY}"));

    let missing = GcpKmsConfig {
        key: format!("{KEY}-missing"),
        endpoint: Some(format!("http://127.0.0.1:{}", drongo.port)),
        auth: GcpAuth::None,
        attempt_timeout: Duration::from_secs(20),
        ..GcpKmsConfig::default()
    };
    let missing = GcpKmsRootKey::open(missing).await.unwrap();
    assert_eq!(verdict::of(missing.generate_key(&RootContext::none()).await).0, "denied");
}
