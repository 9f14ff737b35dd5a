//! What was never sent is no answer of the KMS, costs nothing, and says nothing of its quota.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use keystrata_hierarchy::{RootContext, RootKey, RootKeyId};
use keystrata_kms::{
    AwsKmsConfig, AwsKmsRootKey, BreakerPolicy, BreakerState, Budget, Guard, Guarded, Operation, Outcome, RetryPolicy,
    VaultAuth, VaultSecret, VaultTransitConfig,
};
use secrecy::SecretString;

use crate::{
    aws::client,
    aws_faults::{KEY, data_key},
    process::free_port,
    proxy::{Fault, Proxy},
    vault, verdict,
};

const ATTEMPT: Duration = Duration::from_secs(2);

fn budget() -> Budget {
    let number = |n| NonZeroU32::new(n).unwrap();
    Budget::per_second(number(1_000), number(1_000))
}

/// Without retries, and with a breaker whose next call is always a probe.
fn guarded<R: RootKey>(root: R, budget: Budget) -> Guarded<R> {
    let breaker = BreakerPolicy { pause: Duration::ZERO, longest_pause: Duration::ZERO, ..BreakerPolicy::default() };
    let retry = RetryPolicy { max_attempts: 1, ..RetryPolicy::default() };
    Guard::new("test", Arc::new(budget)).breaker(breaker).retry(retry).around(root)
}

async fn aws(endpoint: &str) -> Guarded<AwsKmsRootKey> {
    guarded(AwsKmsRootKey::with_client(client(endpoint), KEY, ATTEMPT).await.unwrap(), budget())
}

#[tokio::test]
async fn what_is_refused_here_closes_no_breaker_and_costs_nothing() {
    let proxy = Proxy::start(None).await;
    let root = aws(&proxy.url()).await;
    let none = RootContext::none();
    proxy.set(Fault::Drop);
    for _ in 0..5 {
        assert_eq!(verdict::of(root.generate_key(&none).await).0, "unavailable");
    }
    assert_eq!(root.stats().breaker, BreakerState::HalfOpen);

    // The KMS would answer; what is not sent to it does not show that.
    proxy.set(Fault::Answer(200, data_key(KEY)));
    let elsewhere = RootKeyId::new("local:0123").unwrap();
    assert_eq!(verdict::of(root.unwrap_key(b"", &none).await).0, "rejected");
    assert_eq!(verdict::of(root.rewrap_key(root.id(), &[0; 10_000], &none).await).0, "rejected");
    assert!(root.rewrap_key(&elsewhere, b"x", &none).await.unwrap().is_none());
    assert_eq!(root.stats().breaker, BreakerState::HalfOpen);
    root.generate_key(&none).await.unwrap();
    assert_eq!(root.stats().breaker, BreakerState::Closed);

    let calls = root.stats().calls;
    assert_eq!((root.kms_calls(), calls.unsent(), proxy.requests()), (6, 2, 6));
    assert_eq!(calls.of(Operation::Unwrap, Outcome::Rejected), 1, "it is told of all the same");
    assert!((root.estimated_usd().unwrap() - 6.0 * 0.03 / 10_000.0).abs() < 1e-12);
}

#[tokio::test]
async fn without_a_connection_or_credentials_nothing_is_sent() {
    let none = RootContext::none();
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let aws_nowhere = aws(&nowhere).await;
    let nobody = AwsKmsConfig {
        key: KEY.into(),
        endpoint: Some(nowhere.clone()),
        profile: Some("keystrata-test-that-nobody-has".into()),
        ..AwsKmsConfig::default()
    };
    let aws_nobody = guarded(AwsKmsRootKey::open(nobody).await.unwrap(), budget());
    for root in [&aws_nowhere, &aws_nobody] {
        assert_eq!(verdict::of(root.generate_key(&none).await).0, "unavailable");
        let calls = root.stats().calls;
        assert_eq!((root.kms_calls(), calls.unsent(), calls.of(Operation::Generate, Outcome::Unavailable)), (0, 1, 1));
        assert_eq!(root.estimated_usd(), Some(0.0));
    }
    let vault_nowhere = guarded(vault::open(vault::config(&nowhere, "one")).await, budget());
    assert_eq!(verdict::of(vault_nowhere.generate_key(&none).await).0, "unavailable");
    assert_eq!((vault_nowhere.kms_calls(), vault_nowhere.stats().calls.unsent()), (0, 1));
}

#[tokio::test]
async fn a_login_that_is_throttled_slows_no_calls_of_keys() {
    let proxy = Proxy::start(None).await;
    let secret_id = VaultSecret::Value(SecretString::from("hunter2"));
    let auth = VaultAuth::AppRole { mount: "approle".into(), role_id: "role".into(), secret_id };
    let config = VaultTransitConfig { auth, ..vault::config(&proxy.url(), "one") };
    let root = guarded(vault::open(config).await, budget().adaptive());
    let none = RootContext::none();
    let per_second = root.stats().budget.per_second;
    proxy.set(Fault::Answer(429, r#"{"errors":["rate limit quota exceeded"]}"#.into()));
    let (class, message) = verdict::of(root.generate_key(&none).await);
    assert_eq!(class, "throttled");
    assert!(message.contains("login"), "{message}");
    assert!((root.stats().budget.per_second - per_second).abs() < 1e-9);
    assert_eq!(root.kms_calls(), 0);

    // The same from the key itself does.
    proxy.set(Fault::Made(|request| {
        if request.starts_with("POST /v1/auth/approle/login") {
            (200, r#"{"auth":{"client_token":"hunter2-t","lease_duration":300,"renewable":true}}"#.into())
        } else {
            (429, r#"{"errors":["rate limit quota exceeded"]}"#.into())
        }
    }));
    assert_eq!(verdict::of(root.generate_key(&none).await).0, "throttled");
    assert!(root.stats().budget.per_second < per_second);
    assert_eq!(root.kms_calls(), 1);
}
