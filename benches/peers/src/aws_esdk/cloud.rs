//! DynamoDB and AWS KMS in this process, the KMS one that counts its calls and takes as long as it is told.

use aws_esdk::key_store::{
    client::Client,
    types::{KmsConfiguration, key_store_config::KeyStoreConfig},
};
use aws_sdk_kms::config::{BehaviorVersion, Region};
use aws_smithy_runtime_api::client::{
    http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
    },
    orchestrator::HttpRequest,
    runtime_components::RuntimeComponents,
};
use tokio::runtime::Runtime;
use winterbaume_core::MockAws;
use winterbaume_dynamodb::DynamoDbService;
use winterbaume_kms::KmsService;

use crate::kms::Kms;

const TABLE: &str = "branch-keys";

/// What a service that uses the hierarchical keyring has in AWS.
pub(super) struct Cloud {
    kms: aws_sdk_kms::Client,
    dynamodb: aws_sdk_dynamodb::Client,
    root_key: String,
}

impl Cloud {
    /// With one root key and no table.
    pub(super) fn start(kms: &Kms) -> Self {
        let aws = MockAws::builder().with_service(KmsService::new()).with_service(DynamoDbService::new()).build();
        let region = Region::new("eu-west-1");
        let counted = SharedHttpClient::new(Counted { client: aws.http_client(), kms: kms.clone() });
        let config = aws_sdk_kms::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(region.clone())
            .http_client(counted)
            .credentials_provider(aws.credentials_provider())
            .build();
        let kms = aws_sdk_kms::Client::from_conf(config);
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(region)
            .http_client(aws.http_client())
            .credentials_provider(aws.credentials_provider())
            .build();
        let dynamodb = aws_sdk_dynamodb::Client::from_conf(config);
        let runtime = Runtime::new().expect("threads");
        let created = runtime.block_on(kms.create_key().send()).expect("the KMS answers");
        let root_key = created.key_metadata.and_then(|key| key.arn).expect("a key has a name");
        Self { kms, dynamodb, root_key }
    }

    /// The branch keys in DynamoDB, none yet.
    pub(super) fn key_store(self) -> Client {
        let config = KeyStoreConfig::builder()
            .kms_client(self.kms)
            .ddb_client(self.dynamodb)
            .ddb_table_name(TABLE)
            .logical_key_store_name(TABLE)
            .kms_configuration(KmsConfiguration::KmsKeyArn(self.root_key))
            .build()
            .expect("all that is required");
        Client::from_conf(config).expect("a client")
    }
}

/// An HTTP client whose every request is a call of the KMS.
#[derive(Clone, Debug)]
struct Counted {
    client: SharedHttpClient,
    kms: Kms,
}

impl HttpClient for Counted {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        let connector = self.client.http_connector(settings, components);
        SharedHttpConnector::new(CountedConnector { connector, kms: self.kms.clone() })
    }
}

#[derive(Debug)]
struct CountedConnector {
    connector: SharedHttpConnector,
    kms: Kms,
}

impl HttpConnector for CountedConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (connector, kms) = (self.connector.clone(), self.kms.clone());
        HttpConnectorFuture::new(async move {
            kms.call_async().await;
            connector.call(request).await
        })
    }
}
