//! Access tokens of Google: by the machine's metadata server, and by a service account on a machine whose clock is off.

use std::sync::atomic::Ordering;

use keystrata_hierarchy::{RootContext, RootKey};
use keystrata_kms::{GcpAuth, GcpKmsConfig, GcpKmsRootKey, verify_root};

use crate::{
    engine,
    gcp::{KEY, account},
    gcp_fake::FakeKms,
    own_process, verdict,
};

#[tokio::test]
async fn a_machine_gets_its_tokens_from_the_metadata_server() {
    if let Some(endpoint) = own_process::argument() {
        // With and without a word about it: a process that names no service account is on a machine of Google.
        for auth in ["", "&auth=metadata"] {
            let uri = format!("gcp-kms:{KEY}?endpoint={endpoint}{auth}");
            let root = keystrata_kms::open(&uri).await.unwrap();
            verify_root(&root).await.unwrap();
            engine::seals_and_opens(async || keystrata_kms::open(&uri).await.unwrap()).await;
        }
        return;
    }
    let fake = FakeKms::start().await;
    let test = "gcp_auth::a_machine_gets_its_tokens_from_the_metadata_server";
    let host = format!("127.0.0.1:{}", fake.port);
    let variables = [("GCE_METADATA_HOST", host.as_str()), ("GOOGLE_APPLICATION_CREDENTIALS", "")];
    own_process::run(test, &format!("http://{host}"), &variables).await;
    let tokens = fake.tokens_given.load(Ordering::SeqCst);
    assert!(tokens >= 4, "each root key got one: {tokens}");
}

#[tokio::test]
async fn a_machine_without_a_service_account_is_told_so() {
    if let Some(endpoint) = own_process::argument() {
        let root = keystrata_kms::open(&format!("gcp-kms:{KEY}?endpoint={endpoint}")).await.unwrap();
        let (class, message) = verdict::of(root.generate_key(&RootContext::none()).await);
        assert_eq!(class, "unavailable");
        assert!(message.contains("attach one to this machine"), "{message}");
        return;
    }
    let fake = FakeKms::start().await;
    fake.detach_account();
    let test = "gcp_auth::a_machine_without_a_service_account_is_told_so";
    let host = format!("127.0.0.1:{}", fake.port);
    let variables = [("GCE_METADATA_HOST", host.as_str()), ("GOOGLE_APPLICATION_CREDENTIALS", "")];
    own_process::run(test, &format!("http://{host}"), &variables).await;
}

#[tokio::test]
async fn a_clock_that_is_off_is_said_to_be_and_costs_one_request_a_call() {
    let fake = FakeKms::start().await;
    let folder = tempfile::tempdir().unwrap();
    let config = GcpKmsConfig {
        key: KEY.into(),
        endpoint: Some(format!("http://127.0.0.1:{}", fake.port)),
        auth: GcpAuth::ServiceAccountFile(account(&folder, fake.port)),
        ..GcpKmsConfig::default()
    };
    let root = GcpKmsRootKey::open(config).await.unwrap();
    for (refused, hours) in (1..).zip([2, -2]) {
        fake.set_clock(hours * 3600);
        let (class, message) = verdict::of(root.generate_key(&RootContext::none()).await);
        assert_eq!(class, "unavailable");
        assert!(message.contains("set this machine's clock") && message.contains("invalid_grant"), "{message}");
        assert_eq!(fake.tokens_refused.load(Ordering::SeqCst), refused);
    }
    assert_eq!(fake.tokens_given.load(Ordering::SeqCst), 0);
    // A minute is nothing.
    fake.set_clock(60);
    root.generate_key(&RootContext::none()).await.unwrap();
}
