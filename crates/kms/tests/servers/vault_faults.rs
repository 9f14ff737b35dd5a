//! A Vault that fails, and one whose certificate nobody vouches for.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use keystrata_hierarchy::{RootContext, RootKey};
use keystrata_kms::{OpenRootError, VaultAuth, VaultSecret, VaultTransitConfig, VaultTransitRootKey};
use secrecy::SecretString;
use tokio::task::JoinSet;

use crate::{
    process::{Server, bao, free_port},
    proxy::{Fault, Proxy},
    vault::{ROOT_TOKEN, config, open},
    verdict,
};

const ATTEMPT: Duration = Duration::from_millis(400);

#[tokio::test]
async fn each_fault_is_a_class_and_one_request() {
    let proxy = Proxy::start(None).await;
    let answer = |status, body: &str| Fault::Answer(status, body.to_owned());
    for (fault, class, words) in [
        (answer(429, r#"{"errors":["rate limit\nquota exceeded"]}"#), "throttled", "quota"),
        (answer(500, ""), "unavailable", "500"),
        (answer(503, r#"{"errors":["Vault is sealed"]}"#), "unavailable", "unseal"),
        (answer(307, ""), "unavailable", "307"),
        (answer(200, "<html>hunter2</html>"), "unavailable", "JSON"),
        (answer(200, &"hunter2 ".repeat(128 * 1024)), "unavailable", "64 KiB"),
        (Fault::Drop, "unavailable", "broke off"),
        (Fault::Cut, "unavailable", "broke off"),
        (Fault::Silence, "unavailable", "within 400 ms"),
        (Fault::Late(Duration::from_secs(5)), "unavailable", "within 400 ms"),
    ] {
        let root = open(VaultTransitConfig { attempt_timeout: ATTEMPT, ..config(&proxy.url(), "one") }).await;
        proxy.set(fault.clone());
        let (before, start) = (proxy.requests(), Instant::now());
        let (got, message) = verdict::of(root.generate_key(&RootContext::none()).await);
        assert_eq!(got, class, "{fault:?}: {message}");
        assert!(message.contains(words), "{fault:?}: {message}");
        assert_eq!(proxy.requests() - before, 1, "{fault:?}");
        assert!(start.elapsed() < Duration::from_secs(10), "{fault:?}");
    }
    let nobody = config(&format!("http://127.0.0.1:{}", free_port()), "one");
    let (class, message) = verdict::of(open(nobody).await.generate_key(&RootContext::none()).await);
    assert_eq!(class, "unavailable");
    assert!(message.contains("cannot be reached"), "{message}");
}

#[tokio::test]
async fn a_login_that_fails_is_tried_once_for_all_who_wait() {
    let proxy = Proxy::start(None).await;
    proxy.set(Fault::Answer(400, r#"{"errors":["invalid role or secret ID"]}"#.into()));
    let secret_id = VaultSecret::Value(SecretString::from("hunter2"));
    let auth = VaultAuth::AppRole { mount: "approle".into(), role_id: "role".into(), secret_id };
    let root = Arc::new(open(VaultTransitConfig { auth, ..config(&proxy.url(), "one") }).await);
    let mut callers = JoinSet::new();
    for _ in 0..64 {
        let root = Arc::clone(&root);
        callers.spawn(async move { root.generate_key(&RootContext::none()).await.map(drop) });
    }
    for outcome in callers.join_all().await {
        let (class, message) = verdict::of(outcome);
        assert_eq!(class, "unavailable");
        assert!(message.contains("AppRole login"), "{message}");
    }
    assert_eq!(proxy.requests(), 1);
}

/// A server with a certificate by an authority of its own, and that authority's file.
fn with_tls() -> (Server, PathBuf, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let certificates = folder.path().to_owned();
    let server = Server::start(&bao(), |port, _| {
        vec![
            "server".into(),
            "-dev".into(),
            "-dev-tls".into(),
            format!("-dev-tls-cert-dir={}", certificates.display()),
            format!("-dev-root-token-id={ROOT_TOKEN}"),
            format!("-dev-listen-address=127.0.0.1:{port}"),
        ]
    });
    let ca = std::fs::read_dir(&certificates).unwrap().map(|entry| entry.unwrap().path());
    let ca = ca.into_iter().find(|path| path.to_string_lossy().ends_with("ca.pem")).unwrap();
    (server, ca, folder)
}

#[tokio::test]
#[ignore = "needs OpenBao, which `cargo xtask test` installs"]
async fn a_certificate_must_verify_against_the_ca_file_or_the_system() {
    let ((server, ca, _folder), (_other, other_ca, _other_folder)) = (with_tls(), with_tls());
    let call = async |ca: Option<&Path>| {
        let address = format!("https://127.0.0.1:{}", server.port);
        let config = VaultTransitConfig { ca_file: ca.map(Into::into), ..config(&address, "one") };
        verdict::of(open(config).await.generate_key(&RootContext::none()).await)
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    let (class, message) = loop {
        let answer = call(Some(&ca)).await;
        // It listens before it is unsealed.
        if answer.0 != "unavailable" || Instant::now() > deadline {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(class, "denied", "{message}");
    assert!(message.contains("no transit engine"), "the server was reached: {message}");
    for wrong in [None, Some(other_ca.as_path())] {
        let (class, message) = call(wrong).await;
        assert_eq!(class, "unavailable");
        assert!(message.contains("certificate"), "{message}");
    }
    let no_ca = tempfile::NamedTempFile::new().unwrap();
    let config = VaultTransitConfig { ca_file: Some(no_ca.path().into()), ..config("https://vault.example", "one") };
    assert!(matches!(VaultTransitRootKey::open(config).await, Err(OpenRootError::File { .. })));
}
