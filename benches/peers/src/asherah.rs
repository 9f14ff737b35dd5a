//! asherah: KMS → system key → a key for each tenant → a DEK for each object.

use asherah::{
    Config, DataRowRecord, SessionFactory,
    aead::AES256GCM,
    metastore::InMemoryMetastore,
    policy::{PolicyOption, new_crypto_policy},
    session::PublicSession,
    traits::KeyManagementService,
};
use std::{marker::PhantomData, sync::Arc};

use crate::{Process, Sealed, Tenant, kms::Kms};

/// Whether the tenants' expanded key schedules stay in ordinary memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedules {
    /// asherah's default, and its fastest.
    Cached,
    /// Its mode for higher assurance: the key is taken out of locked memory for each use.
    NotCached,
}

type Factory = SessionFactory<AES256GCM, CountingKms, InMemoryMetastore>;
type Session = PublicSession<AES256GCM, CountingKms, InMemoryMetastore>;

/// A service that has just started. `F` is the form of its sealed objects.
pub struct Service<F> {
    factory: Factory,
    form: PhantomData<fn() -> F>,
}

impl<F> Service<F> {
    /// Makes the keys of so many tenants, and starts without any in memory.
    pub fn start(schedules: Schedules, tenants: usize, kms: &Kms) -> Self {
        let metastore = Arc::new(InMemoryMetastore::new());
        let crypto = Arc::new(AES256GCM::new());
        let start = |options: &[PolicyOption]| {
            let config = Config::new("service", "product").with_policy(new_crypto_policy(options));
            let kms = Arc::new(CountingKms(kms.clone()));
            asherah::api::new_session_factory(config, Arc::clone(&metastore), kms, Arc::clone(&crypto))
        };
        let founder = start(&[PolicyOption::NoCache, PolicyOption::SessionCache(false)]);
        for number in 0..tenants {
            founder.get_session(&name(number)).encrypt(b"x").expect("the KMS answers");
        }
        kms.take_calls();
        let factory = start(&[
            PolicyOption::CacheKeySchedules(schedules == Schedules::Cached),
            PolicyOption::IntermediateKeyCacheMaxSize(tenants + 2),
            // The caller keeps its sessions, or makes them anew: what is compared is the cache of keys.
            PolicyOption::SessionCache(false),
        ]);
        Self { factory, form: PhantomData }
    }
}

fn name(number: usize) -> String {
    format!("tenant-{number}")
}

impl<F: Form> Process for Service<F> {
    type Tenant = AsherahTenant<F>;

    fn tenant(&self, number: usize) -> AsherahTenant<F> {
        AsherahTenant { session: self.factory.get_session(&name(number)), form: PhantomData }
    }
}

/// How a sealed object is handed over.
pub trait Form: Sealed + 'static {
    /// From what asherah gives.
    fn of(record: DataRowRecord) -> Self;
    /// To what it takes, which may be taken out of `self`.
    fn take(&mut self) -> DataRowRecord;
}

/// As the struct that asherah gives and takes, never written anywhere.
#[derive(Clone)]
pub struct Struct(Option<DataRowRecord>);

/// As the JSON in which it is stored and understood by asherah in other languages.
#[derive(Clone)]
pub struct Wire(String);

impl Sealed for Struct {
    fn stored_bytes(&self) -> usize {
        self.0.as_ref().expect("not yet opened").to_json_fast().len()
    }
}

impl Form for Struct {
    fn of(record: DataRowRecord) -> Self {
        Self(Some(record))
    }

    fn take(&mut self) -> DataRowRecord {
        self.0.take().expect("opened once")
    }
}

impl Sealed for Wire {
    fn stored_bytes(&self) -> usize {
        self.0.len()
    }
}

impl Form for Wire {
    fn of(record: DataRowRecord) -> Self {
        Self(record.to_json_fast())
    }

    fn take(&mut self) -> DataRowRecord {
        serde_json::from_str(&self.0).expect("written by asherah")
    }
}

/// One session.
pub struct AsherahTenant<F> {
    session: Session,
    form: PhantomData<fn() -> F>,
}

impl<F: Form> Tenant for AsherahTenant<F> {
    type Plain = Vec<u8>;
    type Sealed = F;

    fn seal(&self, plain: &Vec<u8>) -> F {
        F::of(self.session.encrypt(plain).expect("the KMS answers"))
    }

    fn open(&self, sealed: &mut F) -> Vec<u8> {
        self.session.decrypt(sealed.take()).expect("sealed here")
    }
}

#[derive(Clone)]
struct CountingKms(Kms);

impl KeyManagementService for CountingKms {
    fn encrypt_key(&self, (): &(), key: &[u8]) -> anyhow::Result<Vec<u8>> {
        Ok(self.0.wrap(key))
    }

    fn decrypt_key(&self, (): &(), wrapped: &[u8]) -> anyhow::Result<Vec<u8>> {
        self.0.unwrap(wrapped).ok_or_else(|| anyhow::anyhow!("not wrapped here"))
    }
}
