//! Keystrata: root key → account KEK → a DEK for each object.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use keystrata_hierarchy::{
    Account, Context, Hierarchy, HierarchyBuilder, KeyPath, MemoryKekStore, Placement, Policy, RootContext, RootKey,
    RootKeyError, RootKeyId, Roots, SecretKey, Suite,
};
use keystrata_primitives::wrap;
use tokio::runtime::Runtime;

use crate::{CONTEXT, Process, Tenant, calls::AsyncProcess, kms::Kms};

/// Where the tenants' KEKs stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Each is wrapped by the root key.
    Account,
    /// All are wrapped by the KEK of one group, which the root key wraps.
    Group,
}

/// A service that has just started.
pub struct Service {
    keys: Hierarchy,
    runtime: Arc<Runtime>,
    context: Context,
}

impl Service {
    /// Makes the KEKs of so many tenants, and starts without any in memory.
    pub fn start(suite: Suite, topology: Topology, tenants: usize, kms: &Kms) -> Self {
        let store = Arc::new(MemoryKekStore::new());
        let builder = |ttl: u64| {
            let policy =
                Policy::builder().kek_ttl(Duration::from_secs(ttl)).build().expect("a policy within its limits");
            let builder = Hierarchy::builder().store(Arc::clone(&store)).policy(policy).suite(suite);
            root(builder.capacity(tenants + 2), topology, Root::new(kms)).build().expect("all that is required")
        };
        let runtime = Arc::new(Runtime::new().expect("threads"));
        // Without a cache: memory that it gave back would hide what the next one takes.
        let founder = builder(0);
        runtime.block_on(async {
            for number in 0..tenants {
                let account = founder.account(name(number)).expect("a valid name");
                account.create().await.expect("the KMS answers");
            }
        });
        kms.take_calls();
        Self { keys: builder(3_600), runtime, context: Context::new().with(CONTEXT.0, CONTEXT.1) }
    }

    /// How many KEKs are in memory.
    pub fn cached_keks(&self) -> usize {
        self.keys.cached_keks()
    }
}

fn name(number: usize) -> String {
    format!("tenant-{number}")
}

fn root(builder: HierarchyBuilder, topology: Topology, root: Root) -> HierarchyBuilder {
    match topology {
        Topology::Account => builder.root_key(root),
        Topology::Group => {
            let roots = Roots::new(root);
            let group = KeyPath::new(["groups", "all"]).expect("a valid path");
            builder.topology(move |path: &KeyPath| match path.segments().next() {
                Some("groups") => Placement::account(&roots),
                _ => Placement::group(group.clone()),
            })
        }
    }
}

impl Process for Service {
    type Tenant = KeystrataTenant;

    fn tenant(&self, number: usize) -> KeystrataTenant {
        KeystrataTenant {
            account: self.keys.account(name(number)).expect("a valid name"),
            runtime: Arc::clone(&self.runtime),
            context: self.context.clone(),
        }
    }
}

impl AsyncProcess for Service {
    fn seal_one(&self) -> impl Future<Output = ()> + Send + 'static {
        let tenant = self.tenant(0);
        async move {
            tenant.account.seal(b"x", &tenant.context).await.expect("the KMS answers");
        }
    }
}

/// One account.
pub struct KeystrataTenant {
    account: Account,
    runtime: Arc<Runtime>,
    context: Context,
}

impl Tenant for KeystrataTenant {
    type Plain = Vec<u8>;
    type Sealed = Vec<u8>;

    fn seal(&self, plain: &Vec<u8>) -> Vec<u8> {
        match self.account.try_seal(plain, &self.context).expect("the KMS answers") {
            Some(sealed) => sealed,
            None => self.runtime.block_on(self.account.seal(plain, &self.context)).expect("the KMS answers"),
        }
    }

    fn open(&self, sealed: &mut Vec<u8>) -> Vec<u8> {
        match self.account.try_open(sealed, &self.context).expect("sealed here") {
            Some(plain) => plain,
            None => self.runtime.block_on(self.account.open(sealed, &self.context)).expect("sealed here"),
        }
    }
}

/// The counting KMS as a root key: it counts and takes its time, and a key kept here wraps.
struct Root {
    id: RootKeyId,
    key: SecretKey,
    kms: Kms,
}

impl Root {
    fn new(kms: &Kms) -> Self {
        Self {
            id: RootKeyId::new("peers:root").expect("a valid id"),
            key: SecretKey::from_slice(&[0x5a; SecretKey::LEN]).expect("32 bytes"),
            kms: kms.clone(),
        }
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Root").field(&self.id).finish()
    }
}

#[async_trait]
impl RootKey for Root {
    fn id(&self) -> &RootKeyId {
        &self.id
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        self.kms.call_async().await;
        Ok(wrap::wrap_key(&self.key, &context.to_aad(), secret)?.to_vec())
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        self.kms.call_async().await;
        wrap::unwrap_key(&self.key, &context.to_aad(), wrapped).map_err(|_| RootKeyError::Rejected)
    }
}
