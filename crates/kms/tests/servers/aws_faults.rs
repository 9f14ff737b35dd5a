//! AWS KMS that fails: every fault is a class and a line, and costs one request.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use keystrata_hierarchy::{RootContext, RootKey};
use keystrata_kms::{AwsKmsConfig, AwsKmsRootKey, Budget, Guard, RetryPolicy};

use crate::{
    aws::{client, moto, new_key, strict},
    proxy::{Fault, Proxy},
    verdict,
};

pub(crate) const KEY: &str = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd";
const ATTEMPT: Duration = Duration::from_millis(400);

async fn root(proxy: &Proxy, key: &str) -> AwsKmsRootKey {
    AwsKmsRootKey::with_client(client(&proxy.url()), key, ATTEMPT).await.unwrap()
}

/// 32 bytes that say hunter2, in base64.
const PLAINTEXT: &str = "aHVudGVyMi1odW50ZXIyLWh1bnRlcjItaHVudGVyMjE=";

pub(crate) fn data_key(key: &str) -> String {
    format!(r#"{{"KeyId":"{key}","CiphertextBlob":"AAAA","Plaintext":"{PLAINTEXT}"}}"#)
}

fn error(code: &str) -> String {
    format!(r#"{{"__type":"{code}","message":"words\nof KMS"}}"#)
}

#[tokio::test]
async fn each_fault_is_a_class_and_one_request() {
    let proxy = Proxy::start(None).await;
    let root = root(&proxy, KEY).await;
    let answer = |status, body: &str| Fault::Answer(status, body.to_owned());
    for (fault, class, words) in [
        (answer(400, &error("ThrottlingException")), "throttled", "slow down"),
        (answer(400, &error("LimitExceededException")), "throttled", "slow down"),
        (answer(400, &error("AccessDeniedException")), "denied", "kms:GenerateDataKey"),
        (answer(400, &error("ExpiredTokenException")), "unavailable", "renew"),
        (answer(400, &error("NotFoundException").replace("words", "Invalid arn us-east-1")), "denied", "its region"),
        (answer(403, &error("UnrecognizedClientException")), "unavailable", "renew"),
        (answer(400, &error("RequestTimeTooSkewed")), "unavailable", "clock"),
        (answer(500, &error("KMSInternalException")), "unavailable", "r-42"),
        (answer(503, &error("DependencyTimeoutException")), "unavailable", "later"),
        (answer(500, ""), "unavailable", ""),
        (answer(200, "<html>hunter2</html>"), "unavailable", "not an answer"),
        (answer(200, "{}"), "unavailable", "another key"),
        (answer(200, &"hunter2 ".repeat(128 * 1024)), "unavailable", "not an answer"),
        (answer(200, &data_key("arn:aws:kms:eu-west-1:111122223333:key/other")), "unavailable", "another key"),
        (answer(200, &data_key("arn:aws:kms:us-east-1:111122223333:key/1234abcd")), "unavailable", "another key"),
        (answer(200, &data_key(KEY).replace(PLAINTEXT, "aHVudGVyMg==")), "unavailable", "32 bytes"),
        (Fault::Drop, "unavailable", "connection"),
        (Fault::Cut, "unavailable", ""),
        (Fault::Silence, "unavailable", "in time"),
    ] {
        proxy.set(fault.clone());
        let (before, start) = (proxy.requests(), Instant::now());
        let (got, message) = verdict::of(root.generate_key(&RootContext::none()).await);
        assert_eq!(got, class, "{fault:?}: {message}");
        assert!(message.contains(words), "{fault:?}: {message}");
        assert_eq!(proxy.requests() - before, 1, "{fault:?}");
        assert!(start.elapsed() < Duration::from_secs(10), "{fault:?}");
    }
    proxy.set(answer(200, &data_key(KEY)));
    root.generate_key(&RootContext::none()).await.unwrap();
}

#[tokio::test]
async fn a_multi_region_key_may_answer_from_another_region_by_the_same_id() {
    let proxy = Proxy::start(None).await;
    let root = root(&proxy, "arn:aws:kms:eu-west-1:111122223333:key/mrk-1234abcd").await;
    assert_eq!(root.id().as_str(), "aws-kms:arn:aws:kms:*:111122223333:key/mrk-1234abcd");
    proxy.set(Fault::Answer(200, data_key("arn:aws:kms:us-east-1:111122223333:key/mrk-1234abcd")));
    root.generate_key(&RootContext::none()).await.unwrap();
    for other in
        ["arn:aws:kms:us-east-1:111122223333:key/mrk-other", "arn:aws:kms:us-east-1:444455556666:key/mrk-1234abcd"]
    {
        proxy.set(Fault::Answer(200, data_key(other)));
        assert_eq!(verdict::of(root.generate_key(&RootContext::none()).await).0, "unavailable", "{other}");
    }
}

#[tokio::test]
async fn nobody_there_and_nobody_to_be_are_unavailable() {
    let config = AwsKmsConfig {
        key: KEY.into(),
        endpoint: Some(format!("http://127.0.0.1:{}", crate::process::free_port())),
        profile: Some("keystrata-test-that-nobody-has".into()),
        attempt_timeout: ATTEMPT,
        ..AwsKmsConfig::default()
    };
    let root = AwsKmsRootKey::open(config.clone()).await.unwrap();
    let (class, message) = verdict::of(root.generate_key(&RootContext::none()).await);
    assert_eq!(class, "unavailable");
    assert!(message.contains("credentials"), "{message}");

    let root = AwsKmsRootKey::with_client(client(&config.endpoint.unwrap()), KEY, ATTEMPT).await.unwrap();
    let (class, message) = verdict::of(root.generate_key(&RootContext::none()).await);
    assert_eq!(class, "unavailable");
    assert!(message.contains("no connection"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs moto, which `cargo xtask test` installs"]
async fn moto_behind_what_fails_is_asked_again_on_connections_that_are_whole() {
    let moto = moto();
    let proxy = Proxy::start(Some(moto.port)).await;
    let key = new_key(&client(&format!("http://127.0.0.1:{}", moto.port))).await;
    let patient = Duration::from_secs(2);
    let root = Arc::new(AwsKmsRootKey::with_client(client(&proxy.url()), &key, patient).await.unwrap());
    let number = |n| NonZeroU32::new(n).unwrap();
    let retry = RetryPolicy { first_bound: Duration::from_millis(50), ..RetryPolicy::default() };
    let guard = Guard::new("moto", Arc::new(Budget::per_second(number(100), number(100)))).retry(retry);
    let guarded = guard.around(Arc::clone(&root));
    let none = RootContext::none();
    let wrapped = root.generate_key(&none).await.unwrap().wrapped;
    for (fault, class) in [
        (Fault::Answer(400, error("ThrottlingException")), "throttled"),
        (Fault::Answer(500, error("KMSInternalException")), "unavailable"),
        (Fault::Answer(503, String::new()), "unavailable"),
        (Fault::Drop, "unavailable"),
        (Fault::Cut, "unavailable"),
        (Fault::Silence, "unavailable"),
        (Fault::Late(2 * patient), "unavailable"),
    ] {
        let before = proxy.requests();
        proxy.set_for(1, fault.clone());
        let (got, message) = verdict::of(root.unwrap_key(&wrapped, &none).await);
        assert_eq!(got, class, "{fault:?}: {message}");
        root.unwrap_key(&wrapped, &none).await.unwrap();
        assert_eq!(proxy.requests() - before, 2, "{fault:?}");

        // Behind a guard one fault, or two, cost retries and nothing else.
        let (before, calls, retries) = (proxy.requests(), guarded.kms_calls(), guarded.stats().retries);
        proxy.set_for(2, fault.clone());
        guarded.unwrap_key(&wrapped, &none).await.unwrap();
        assert_eq!(proxy.requests() - before, 3, "{fault:?}");
        assert_eq!((guarded.kms_calls() - calls, guarded.stats().retries - retries), (3, 2), "{fault:?}");
    }
}

#[tokio::test]
async fn a_key_of_another_region_is_not_taken_for_ours() {
    // This KMS does not look at regions and answers with the key that it has; AWS itself says `NotFoundException`.
    let client = strict();
    let elsewhere = new_key(&client).await.replace(":eu-west-1:", ":us-east-1:");
    let root = AwsKmsRootKey::with_client(client, &elsewhere, ATTEMPT).await.unwrap();
    let (class, message) = verdict::of(root.generate_key(&RootContext::none()).await);
    assert_eq!(class, "unavailable");
    assert!(message.contains("us-east-1") && message.contains("another key"), "{message}");
}
