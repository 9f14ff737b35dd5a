//! AWS KMS: `moto` over HTTP, and `winterbaume` in this process, which is strict about the states of keys.

use std::{sync::Arc, time::Duration};

use aws_sdk_kms::{
    Client,
    config::{BehaviorVersion, Credentials, Region, SharedCredentialsProvider},
};
use keystrata_hierarchy::{
    RootContext, RootKey,
    test_util::conformance::{self, RootKeyHarness},
};
use keystrata_kms::{AwsKmsRootKey, OpenRootError, verify_root};
use winterbaume_core::MockAws;
use winterbaume_kms::KmsService;

use crate::{
    engine,
    guarded::InGuard,
    process::{Server, installed},
    verdict,
};

const PATIENT: Duration = Duration::from_secs(20);

pub(crate) fn moto() -> Server {
    Server::start(&installed("moto_server"), |port, _| {
        ["-H", "127.0.0.1", "-p", &port.to_string()].map(String::from).into()
    })
}

/// A client that does not look at this machine's AWS configuration.
pub(crate) fn client(endpoint: &str) -> Client {
    let credentials = Credentials::new("AKIAEXAMPLE", "hunter2", None, None, "test");
    let config = aws_sdk_kms::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .endpoint_url(endpoint)
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build();
    Client::from_conf(config)
}

pub(crate) fn strict() -> Client {
    let aws = MockAws::builder().with_service(KmsService::new()).build();
    let config = aws_sdk_kms::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .http_client(aws.http_client())
        .credentials_provider(aws.credentials_provider())
        .build();
    Client::from_conf(config)
}

pub(crate) async fn new_key(client: &Client) -> String {
    client.create_key().send().await.unwrap().key_metadata.unwrap().arn.unwrap()
}

pub(crate) async fn open(client: &Client, key: &str) -> AwsKmsRootKey {
    AwsKmsRootKey::with_client(client.clone(), key, PATIENT).await.unwrap()
}

struct Harness {
    client: Client,
    key: String,
    other: String,
}

impl Harness {
    async fn new(client: Client) -> Self {
        let (key, other) = (new_key(&client).await, new_key(&client).await);
        Self { client, key, other }
    }
}

impl RootKeyHarness for Harness {
    type Root = AwsKmsRootKey;

    async fn root(&self) -> AwsKmsRootKey {
        open(&self.client, &self.key).await
    }

    async fn other_key(&self) -> Option<AwsKmsRootKey> {
        Some(open(&self.client, &self.other).await)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_strict_kms_conforms() {
    conformance::root_key_in(&Harness::new(strict()).await).await;
    conformance::root_key_in(&InGuard(Harness::new(strict()).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs moto, which `cargo xtask test` installs"]
async fn moto_conforms_but_for_its_error_codes() {
    let moto = moto();
    let client = client(&format!("http://127.0.0.1:{}", moto.port));
    let key = new_key(&client).await;
    let root = open(&client, &key).await;
    verify_root(&root).await.unwrap();
    engine::seals_and_opens(async || Arc::new(open(&client, &key).await) as Arc<dyn RootKey>).await;

    // moto writes the key's id in clear into its blobs and answers `AccessDenied` where another id comes out of that.
    let context = RootContext::none();
    let wrapped = root.generate_key(&context).await.unwrap().wrapped;
    for index in 0..wrapped.len() {
        let mut flipped = wrapped.clone();
        flipped[index] ^= 1;
        let (class, _) = verdict::of(root.unwrap_key(&flipped, &context).await);
        assert!(class == "rejected" || (index < 36 && class == "denied"), "{index}: {class}");
    }
    let other = open(&client, &new_key(&client).await).await;
    let (class, message) = verdict::of(other.unwrap_key(&wrapped, &context).await);
    assert_eq!(class, "denied");
    assert!(message.contains("kms:Decrypt"), "{message}");
}

#[tokio::test]
async fn the_whole_engine_runs_on_the_strict_kms() {
    let client = strict();
    let key = new_key(&client).await;
    engine::seals_and_opens(async || Arc::new(open(&client, &key).await) as Arc<dyn RootKey>).await;
}

#[tokio::test]
async fn keys_that_may_not_be_used_are_denied_with_what_to_do() {
    let client = strict();
    let key = new_key(&client).await;
    let root = open(&client, &key).await;
    let context = RootContext::none();
    let wrapped = root.generate_key(&context).await.unwrap().wrapped;

    client.disable_key().key_id(&key).send().await.unwrap();
    for outcome in [root.generate_key(&context).await.map(drop), root.unwrap_key(&wrapped, &context).await.map(drop)] {
        let (class, message) = verdict::of(outcome);
        assert_eq!(class, "denied");
        assert!(message.contains("DisabledException") && message.contains("enable it"), "{message}");
    }
    assert_eq!(root.describe().await.unwrap().state, "Disabled");
    client.enable_key().key_id(&key).send().await.unwrap();
    root.unwrap_key(&wrapped, &context).await.unwrap();

    client.schedule_key_deletion().key_id(&key).pending_window_in_days(7).send().await.unwrap();
    let (class, message) = verdict::of(root.unwrap_key(&wrapped, &context).await);
    assert_eq!(class, "denied");
    assert!(message.contains("KMSInvalidStateException"), "{message}");
    client.cancel_key_deletion().key_id(&key).send().await.unwrap();
    client.enable_key().key_id(&key).send().await.unwrap();
    root.unwrap_key(&wrapped, &context).await.unwrap();
}

#[tokio::test]
async fn an_alias_is_resolved_once_and_the_id_names_the_key() {
    let client = strict();
    let (first, second) = (new_key(&client).await, new_key(&client).await);
    client.create_alias().alias_name("alias/keystrata").target_key_id(&first).send().await.unwrap();
    let root = open(&client, "alias/keystrata").await;
    assert_eq!(root.id().as_str(), format!("aws-kms:{first}"));
    let wrapped = root.generate_key(&RootContext::none()).await.unwrap().wrapped;
    client.update_alias().alias_name("alias/keystrata").target_key_id(&second).send().await.unwrap();
    root.unwrap_key(&wrapped, &RootContext::none()).await.unwrap();
    assert_eq!(open(&client, "alias/keystrata").await.id().as_str(), format!("aws-kms:{second}"));

    let by_id = open(&client, first.rsplit('/').next().unwrap()).await;
    assert_eq!(by_id.arn(), first);
    let missing = AwsKmsRootKey::with_client(client, "alias/nowhere", PATIENT).await;
    let Err(OpenRootError::Kms(error)) = missing else { panic!("{missing:?}") };
    assert_eq!(verdict::of(Err::<(), _>(error)).0, "denied");
}

#[tokio::test]
async fn rewrapping_moves_a_key_to_another_root_key_inside_the_kms() {
    let client = strict();
    let (old, new) = (open(&client, &new_key(&client).await).await, open(&client, &new_key(&client).await).await);
    let context = RootContext::none();
    let generated = old.generate_key(&context).await.unwrap();
    let rewrapped = new.rewrap_key(old.id(), &generated.wrapped, &context).await.unwrap().unwrap();
    assert!(same(&new.unwrap_key(&rewrapped, &context).await.unwrap(), &generated.secret));
    assert_eq!(verdict::of(new.unwrap_key(&generated.wrapped, &context).await).0, "rejected");
    // From what KMS does not hold, or not in this region, there is no way inside.
    for other in ["local:0123", "aws-kms:arn:aws:kms:us-east-1:111122223333:key/1"] {
        let id = keystrata_hierarchy::RootKeyId::new(other).unwrap();
        assert!(new.rewrap_key(&id, &generated.wrapped, &context).await.unwrap().is_none());
    }
}

pub(crate) fn same(a: &keystrata_hierarchy::SecretKey, b: &keystrata_hierarchy::SecretKey) -> bool {
    use secrecy::ExposeSecret;
    a.expose_secret() == b.expose_secret()
}
