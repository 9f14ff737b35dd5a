//! aws-esdk, with its hierarchical keyring: KMS → a branch key for each tenant, kept in DynamoDB → a DEK for each object.

mod cloud;

use std::{collections::HashMap, fmt::Debug};

use aws_esdk::{
    client::Client,
    key_store,
    material_providers::{
        self,
        operation::get_branch_key_id::{GetBranchKeyIdInput, GetBranchKeyIdOutput},
        types::{
            CacheType, DefaultCache, EsdkAlgorithmSuiteId, branch_key_id_supplier::BranchKeyIdSupplier, error::Error,
            keyring::KeyringRef, material_providers_config::MaterialProvidersConfig,
        },
    },
    types::{aws_encryption_sdk_config::AwsEncryptionSdkConfig, error::Error as EncryptionError},
};
use aws_sdk_kms::primitives::Blob;
use futures_util::FutureExt;

use self::cloud::Cloud;
use crate::{CONTEXT, Plain, Process, Sealed, Tenant, calls::AsyncProcess, kms::Kms};

/// Its committing suite that does not sign: by default each object is signed with ECDSA P-384 too.
const SUITE: EsdkAlgorithmSuiteId = EsdkAlgorithmSuiteId::AlgAes256GcmHkdfSha512CommitKey;
/// The pair of the context that says whose an object is.
const TENANT: &str = "tenant";

/// A service that has just started.
pub struct Service {
    client: Client,
    keyring: KeyringRef,
}

impl Service {
    /// Makes the branch keys of so many tenants, and starts without any in memory.
    pub fn start(tenants: usize, kms: &Kms) -> Self {
        let store = Cloud::start(kms).key_store();
        finished(store.create_key_store().send());
        for number in 0..tenants {
            let context = HashMap::from([(TENANT.to_owned(), name(number))]);
            finished(store.create_key().branch_key_identifier(name(number)).encryption_context(context).send());
        }
        kms.take_calls();
        let client = Client::from_conf(AwsEncryptionSdkConfig::builder().build().expect("its defaults"));
        Self { client: client.expect("a client"), keyring: keyring(store, tenants) }
    }
}

fn name(number: usize) -> String {
    format!("tenant-{number}")
}

/// With the cache that it has by default: one caller asks the KMS, and those after it wait.
fn keyring(store: key_store::client::Client, tenants: usize) -> KeyringRef {
    let config = MaterialProvidersConfig::builder().build().expect("its defaults");
    let providers = material_providers::client::Client::from_conf(config).expect("a client");
    // A tenant has two entries: one to encrypt with and one to decrypt with.
    let capacity = i32::try_from(2 * tenants + 2).expect("as many as fit in memory");
    let cache = DefaultCache::builder().entry_capacity(capacity).build().expect("all that is required");
    let new = providers
        .create_aws_kms_hierarchical_keyring()
        .key_store(store)
        .branch_key_id_supplier(OfContext)
        .cache(CacheType::Default(cache))
        .ttl_seconds(3_600);
    finished(new.send())
}

/// What a future gives that never waits: it blocks the thread where it asks the KMS, and is ready when polled once.
fn finished<T, E: Debug>(future: impl Future<Output = Result<T, E>>) -> T {
    future.now_or_never().expect("blocks where it has to wait").expect("the clouds answer, and sealed here")
}

/// The tenant that the context names.
struct OfContext;

impl BranchKeyIdSupplier for OfContext {
    fn get_branch_key_id(&self, input: GetBranchKeyIdInput) -> Result<GetBranchKeyIdOutput, Error> {
        let id = input.encryption_context.and_then(|mut context| context.remove(TENANT));
        GetBranchKeyIdOutput::builder()
            .set_branch_key_id(id)
            .build()
            .map_err(|missing| Error::AwsCryptographicMaterialProvidersException { message: missing.to_string() })
    }
}

impl Process for Service {
    type Tenant = AwsEsdkTenant;

    fn tenant(&self, number: usize) -> AwsEsdkTenant {
        AwsEsdkTenant {
            client: self.client.clone(),
            keyring: self.keyring.clone(),
            context: [(TENANT.to_owned(), name(number)), (CONTEXT.0.to_owned(), CONTEXT.1.to_owned())].into(),
        }
    }
}

impl AsyncProcess for Service {
    fn seal_one(&self) -> impl Future<Output = ()> + Send + 'static {
        let tenant = self.tenant(0);
        async move {
            tenant.encrypt(&Plain::of(b"x")).await.expect("the clouds answer");
        }
    }
}

/// One tenant: the keyring that all share, and a context that names it.
pub struct AwsEsdkTenant {
    client: Client,
    keyring: KeyringRef,
    context: HashMap<String, String>,
}

impl AwsEsdkTenant {
    async fn encrypt(&self, plain: &Blob) -> Result<Blob, EncryptionError> {
        let encrypt = self.client.encrypt().algorithm_suite_id(SUITE).plaintext(plain.clone());
        let encrypt = encrypt.keyring(self.keyring.clone()).encryption_context(self.context.clone());
        Ok(encrypt.send().await?.ciphertext.expect("as it answered"))
    }
}

impl Tenant for AwsEsdkTenant {
    type Plain = Blob;
    type Sealed = Blob;

    fn seal(&self, plain: &Blob) -> Blob {
        finished(self.encrypt(plain))
    }

    fn open(&self, sealed: &mut Blob) -> Blob {
        let decrypt = self.client.decrypt().ciphertext(std::mem::replace(sealed, Blob::new([])));
        // The context is in the sealed object too; here it is compared with the caller's.
        let plain = finished(decrypt.keyring(self.keyring.clone()).encryption_context(self.context.clone()).send());
        plain.plaintext.expect("as it answered")
    }
}

impl Plain for Blob {
    fn of(bytes: &[u8]) -> Self {
        Self::new(bytes)
    }

    fn bytes(&self) -> &[u8] {
        self.as_ref()
    }
}

impl Sealed for Blob {
    fn stored_bytes(&self) -> usize {
        self.as_ref().len()
    }
}
