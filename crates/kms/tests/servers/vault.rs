//! Transit in a real OpenBao.

use std::{sync::Arc, time::Duration};

use keystrata_hierarchy::{
    RootContext, RootKey,
    test_util::conformance::{self, RootKeyFault, RootKeyHarness},
};
use keystrata_kms::{VaultAuth, VaultTransitConfig, VaultTransitRootKey, verify_root};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::{
    aws::same,
    engine,
    guarded::InGuard,
    process::{Server, bao},
    proxy::{Fault, Proxy},
    verdict,
};

/// A server in memory with a transit engine that holds the derived keys `one` and `two`.
pub(crate) struct Bao {
    server: Server,
    http: reqwest::Client,
}

pub(crate) const ROOT_TOKEN: &str = "hunter2-root";

impl Bao {
    pub(crate) async fn start() -> Self {
        let server = Server::start(&bao(), |port, _| {
            let address = format!("-dev-listen-address=127.0.0.1:{port}");
            vec!["server".into(), "-dev".into(), format!("-dev-root-token-id={ROOT_TOKEN}"), address]
        });
        let bao = Self { server, http: reqwest::Client::builder().no_proxy().build().unwrap() };
        bao.make_keys("").await;
        bao
    }

    async fn make_keys(&self, namespace: &str) {
        // It listens before it is unsealed and has its root token.
        let mut status = 503;
        for _ in 0..100 {
            status = self.try_post(namespace, "sys/mounts/transit", &json!({ "type": "transit" })).await.0;
            if status == 204 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(status, 204);
        for key in ["one", "two"] {
            self.post(namespace, &format!("transit/keys/{key}"), &json!({ "derived": true })).await;
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.server.port
    }

    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    pub(crate) async fn post(&self, namespace: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.try_post(namespace, path, body).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer
    }

    async fn try_post(&self, namespace: &str, path: &str, body: &Value) -> (u16, Value) {
        let request = self
            .http
            .post(format!("{}/v1/{path}", self.address()))
            .header("X-Vault-Token", ROOT_TOKEN)
            .header("X-Vault-Namespace", namespace)
            .body(body.to_string());
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let request = self.http.get(format!("{}/v1/{path}", self.address())).header("X-Vault-Token", ROOT_TOKEN);
        serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap()
    }
}

/// The key `key` of the engine at `address`, with the root token.
pub(crate) fn config(address: &str, key: &str) -> VaultTransitConfig {
    VaultTransitConfig {
        address: address.into(),
        mount: "transit".into(),
        key: key.into(),
        namespace: None,
        ca_file: None,
        auth: VaultAuth::Token(SecretString::from(ROOT_TOKEN)),
        cluster: None,
        attempt_timeout: Duration::from_secs(3),
    }
}

pub(crate) async fn open(config: VaultTransitConfig) -> VaultTransitRootKey {
    VaultTransitRootKey::open(config).await.unwrap()
}

struct Harness {
    proxy: Proxy,
    patience: Duration,
}

impl Harness {
    async fn key(&self, key: &str) -> VaultTransitRootKey {
        open(VaultTransitConfig { attempt_timeout: self.patience, ..config(&self.proxy.url(), key) }).await
    }
}

impl RootKeyHarness for Harness {
    type Root = VaultTransitRootKey;

    async fn root(&self) -> VaultTransitRootKey {
        self.key("one").await
    }

    async fn other_key(&self) -> Option<VaultTransitRootKey> {
        Some(self.key("two").await)
    }

    async fn set_fault(&self, fault: Option<RootKeyFault>) -> bool {
        self.proxy.set(match fault {
            None => Fault::None,
            Some(RootKeyFault::Throttling) => Fault::Answer(429, r#"{"errors":["quota"]}"#.into()),
            Some(RootKeyFault::Failing) => Fault::Answer(500, "{}".into()),
            Some(RootKeyFault::HangingUp) => Fault::Drop,
            Some(RootKeyFault::Silent) => Fault::Silence,
            Some(RootKeyFault::TalkingNonsense) => Fault::Answer(200, "<html>".into()),
            Some(_) => return false,
        });
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs OpenBao, which `cargo xtask test` installs"]
async fn openbao_conforms_and_the_whole_engine_runs_on_it() {
    let bao = Bao::start().await;
    let proxy = Proxy::start(Some(bao.port())).await;
    conformance::root_key_in(&Harness { proxy, patience: Duration::from_secs(3) }).await;
    // Each call to a silent server waits for this, three times over.
    let harness = Harness { proxy: Proxy::start(Some(bao.port())).await, patience: Duration::from_secs(1) };
    conformance::root_key_in(&InGuard(harness)).await;

    let address = bao.address();
    verify_root(&open(config(&address, "one")).await).await.unwrap();
    engine::seals_and_opens(async || Arc::new(open(config(&address, "one")).await) as Arc<dyn RootKey>).await;
}

#[tokio::test]
#[ignore = "needs OpenBao, which `cargo xtask test` installs"]
async fn a_key_that_would_ignore_the_context_is_refused() {
    let bao = Bao::start().await;
    bao.post("", "transit/keys/plain", &json!({})).await;
    let root = open(config(&bao.address(), "plain")).await;
    let (class, message) = verdict::of(root.generate_key(&RootContext::none()).await);
    assert_eq!(class, "denied");
    assert!(message.contains("derived=true"), "{message}");
    let (class, message) =
        verdict::of(open(config(&bao.address(), "nowhere")).await.generate_key(&RootContext::none()).await);
    assert_eq!(class, "denied");
    assert!(message.contains("no transit key of this name"), "{message}");
    let elsewhere = VaultTransitConfig { mount: "elsewhere".into(), ..config(&bao.address(), "one") };
    let (class, message) = verdict::of(open(elsewhere).await.generate_key(&RootContext::none()).await);
    assert_eq!(class, "denied");
    assert!(message.contains("mount"), "{message}");
}

#[tokio::test]
#[ignore = "needs OpenBao, which `cargo xtask test` installs"]
async fn versions_rotate_and_old_ones_can_be_forbidden() {
    let bao = Bao::start().await;
    let root = open(config(&bao.address(), "one")).await;
    let context = RootContext::none();
    let old = root.generate_key(&context).await.unwrap();
    bao.post("", "transit/keys/one/rotate", &json!({})).await;
    assert!(same(&root.unwrap_key(&old.wrapped, &context).await.unwrap(), &old.secret));
    let new = root.rewrap_key(root.id(), &old.wrapped, &context).await.unwrap().unwrap();
    assert_eq!((old.wrapped[1], new[1]), (1, 2), "the key's version stands in the wrapped form");

    bao.post("", "transit/keys/one/config", &json!({ "min_decryption_version": 2 })).await;
    for outcome in [
        root.unwrap_key(&old.wrapped, &context).await.map(drop),
        root.rewrap_key(root.id(), &old.wrapped, &context).await.map(drop),
    ] {
        assert_eq!(verdict::of(outcome).0, "rejected", "other records of the account still open");
    }
    assert!(same(&root.unwrap_key(&new, &context).await.unwrap(), &old.secret));
}

#[tokio::test]
#[ignore = "needs OpenBao, which `cargo xtask test` installs"]
async fn a_quota_throttles_and_a_seal_makes_unavailable() {
    let bao = Bao::start().await;
    let root = open(config(&bao.address(), "one")).await;
    let context = RootContext::none();
    let wrapped = root.generate_key(&context).await.unwrap().wrapped;
    let quota = json!({ "path": "transit", "rate": 1, "interval": "60s" });
    bao.post("", "sys/quotas/rate-limit/few", &quota).await;
    let mut outcomes = Vec::new();
    for _ in 0..3 {
        outcomes.push(root.unwrap_key(&wrapped, &context).await);
    }
    let (class, message) = verdict::of(outcomes.pop().unwrap());
    assert_eq!(class, "throttled");
    assert!(message.contains("rate limit quota"), "{message}");

    bao.post("", "sys/seal", &json!({})).await;
    let (class, message) = verdict::of(root.unwrap_key(&wrapped, &context).await);
    assert_eq!(class, "unavailable");
    assert!(message.contains("unseal"), "{message}");
}

#[tokio::test]
#[ignore = "needs OpenBao, which `cargo xtask test` installs"]
async fn a_key_in_a_namespace_is_another_key() {
    let bao = Bao::start().await;
    bao.post("", "sys/namespaces/team", &json!({})).await;
    bao.make_keys("team").await;
    let outside = open(config(&bao.address(), "one")).await;
    let inside = VaultTransitConfig { namespace: Some("team".into()), ..config(&bao.address(), "one") };
    let inside = open(inside).await;
    assert_eq!(inside.id().as_str(), "vault-transit:team/transit/keys/one");
    let wrapped = inside.generate_key(&RootContext::none()).await.unwrap().wrapped;
    inside.unwrap_key(&wrapped, &RootContext::none()).await.unwrap();
    assert_eq!(verdict::of(outside.unwrap_key(&wrapped, &RootContext::none()).await).0, "rejected");
}
