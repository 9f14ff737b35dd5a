//! Who we are to Vault: tokens that end, logins by role, policies that say no.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use keystrata_hierarchy::{RootContext, RootKey};
use keystrata_kms::{VaultAuth, VaultSecret, VaultTransitConfig, VaultTransitRootKey, verify_root};
use secrecy::SecretString;
use serde_json::json;

use crate::{
    proxy::Proxy,
    vault::{Bao, config, open},
    verdict,
};

/// Longest that a condition is waited for.
const DEADLINE: Duration = Duration::from_secs(60);

const POLICY: &str = r#"
path "transit/datakey/plaintext/one" { capabilities = ["update"] }
path "transit/encrypt/one" { capabilities = ["update"] }
path "transit/decrypt/one" { capabilities = ["update"] }
"#;

/// An AppRole whose tokens last `ttl` and at most `max_ttl`, and a root key that logs in with it through a proxy.
async fn app_role(bao: &Bao, ttl: &str, max_ttl: &str) -> (Proxy, VaultTransitRootKey) {
    bao.post("", "sys/policies/acl/keystrata", &json!({ "policy": POLICY })).await;
    bao.post("", "sys/auth/approle", &json!({ "type": "approle" })).await;
    let role = json!({ "token_policies": "keystrata", "token_ttl": ttl, "token_max_ttl": max_ttl });
    bao.post("", "auth/approle/role/ks", &role).await;
    let role_id = bao.get("auth/approle/role/ks/role-id").await["data"]["role_id"].as_str().unwrap().to_owned();
    let secret_id = bao.post("", "auth/approle/role/ks/secret-id", &json!({})).await;
    let secret_id = SecretString::from(secret_id["data"]["secret_id"].as_str().unwrap());
    let proxy = Proxy::start(Some(bao.port())).await;
    let auth = VaultAuth::AppRole { mount: "approle".into(), role_id, secret_id: VaultSecret::Value(secret_id) };
    let root = open(VaultTransitConfig { auth, ..config(&proxy.url(), "one") }).await;
    (proxy, root)
}

/// Makes calls, all of which must succeed, until `is_enough`.
async fn call_until(root: &VaultTransitRootKey, is_enough: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_enough() {
        assert!(Instant::now() < deadline, "it never came to that");
        root.generate_key(&RootContext::none()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
#[ignore = "needs OpenBao, which `cargo xtask test` installs"]
async fn an_app_role_logs_in_once_and_renews_its_token_before_it_ends() {
    let bao = Bao::start().await;
    let (proxy, root) = app_role(&bao, "3s", "1h").await;
    verify_root(&root).await.unwrap();
    call_until(&root, || proxy.requests_for("renew-self") >= 2).await;
    assert_eq!(proxy.requests_for("approle/login"), 1);
}

#[tokio::test]
#[ignore = "needs OpenBao, which `cargo xtask test` installs"]
async fn an_app_role_logs_in_again_when_its_token_can_grow_no_older() {
    let bao = Bao::start().await;
    let (proxy, root) = app_role(&bao, "3s", "4s").await;
    call_until(&root, || proxy.requests_for("approle/login") >= 3).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs OpenBao, which `cargo xtask test` installs"]
async fn a_token_revoked_in_mid_flight_is_replaced_once_for_all_callers() {
    let bao = Bao::start().await;
    let (proxy, root) = app_role(&bao, "1h", "1h").await;
    root.generate_key(&RootContext::none()).await.unwrap();
    bao.post("", "sys/leases/revoke-prefix/auth/approle", &json!({ "sync": true })).await;
    let root = Arc::new(root);
    let callers = (0..16).map(|_| {
        let root = Arc::clone(&root);
        tokio::spawn(async move { root.generate_key(&RootContext::none()).await.map(drop) })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap().unwrap();
    }
    assert_eq!(proxy.requests_for("approle/login"), 2);
}

#[tokio::test]
#[ignore = "needs OpenBao, which `cargo xtask test` installs"]
async fn a_policy_that_says_no_is_denied_and_a_token_that_ended_unavailable() {
    let bao = Bao::start().await;
    let token = async |policy: &str| {
        let token = bao.post("", "auth/token/create", &json!({ "policies": [policy], "ttl": "1h" })).await;
        token["auth"]["client_token"].as_str().unwrap().to_owned()
    };
    let powerless = token("default").await;
    let proxy = Proxy::start(Some(bao.port())).await;
    let with = |token: &str| VaultTransitConfig {
        auth: VaultAuth::Token(SecretString::from(token)),
        ..config(&proxy.url(), "one")
    };
    let root = open(with(&powerless)).await;
    let (class, message) = verdict::of(root.generate_key(&RootContext::none()).await);
    assert_eq!(class, "denied");
    assert!(message.contains("\"update\" on MOUNT/datakey/plaintext/one"), "{message}");
    let before = proxy.requests();
    for _ in 0..5 {
        assert_eq!(verdict::of(root.generate_key(&RootContext::none()).await).0, "denied");
    }
    // One request, and one question whether the token is good.
    assert_eq!(proxy.requests() - before, 10);

    bao.post("", "auth/token/revoke", &json!({ "token": powerless })).await;
    let root = open(with(&powerless)).await;
    let (class, message) = verdict::of(root.generate_key(&RootContext::none()).await);
    assert_eq!(class, "unavailable");
    assert!(message.contains("ended or was revoked"), "{message}");
    assert!(!message.contains(&powerless));

    bao.post("", "sys/policies/acl/keystrata", &json!({ "policy": POLICY })).await;
    let (first, second) = (token("keystrata").await, token("keystrata").await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{first}\n")).unwrap();
    let root =
        open(VaultTransitConfig { auth: VaultAuth::TokenFile(file.clone()), ..config(&proxy.url(), "one") }).await;
    root.generate_key(&RootContext::none()).await.unwrap();
    bao.post("", "auth/token/revoke", &json!({ "token": first })).await;
    assert_eq!(verdict::of(root.generate_key(&RootContext::none()).await).0, "unavailable");
    std::fs::write(&file, second).unwrap();
    root.generate_key(&RootContext::none()).await.unwrap();
}

#[tokio::test]
#[ignore = "needs OpenBao, which `cargo xtask test` installs"]
async fn a_token_revoked_just_after_it_was_found_good_is_not_a_denial() {
    let bao = Bao::start().await;
    let token = bao.post("", "auth/token/create", &json!({ "policies": ["default"], "ttl": "1h" })).await;
    let token = token["auth"]["client_token"].as_str().unwrap().to_owned();
    let auth = VaultAuth::Token(SecretString::from(token.as_str()));
    let root = open(VaultTransitConfig { auth, ..config(&bao.address(), "one") }).await;
    assert_eq!(verdict::of(root.generate_key(&RootContext::none()).await).0, "denied");
    bao.post("", "auth/token/revoke", &json!({ "token": token })).await;
    let (class, message) = verdict::of(root.generate_key(&RootContext::none()).await);
    assert_eq!(class, "unavailable", "{message}");
}

#[tokio::test]
#[ignore = "needs OpenBao, which `cargo xtask test` installs"]
async fn a_login_that_fails_is_unavailable_and_says_so() {
    let bao = Bao::start().await;
    bao.post("", "sys/auth/approle", &json!({ "type": "approle" })).await;
    let auth = |secret_id| VaultAuth::AppRole { mount: "approle".into(), role_id: "nobody".into(), secret_id };
    let wrong = VaultSecret::Value(SecretString::from("hunter2"));
    for secret_id in [wrong, VaultSecret::File("/nowhere/secret-id".into())] {
        let root = open(VaultTransitConfig { auth: auth(secret_id), ..config(&bao.address(), "one") }).await;
        let (class, _) = verdict::of(root.generate_key(&RootContext::none()).await);
        assert_eq!(class, "unavailable");
    }
}
