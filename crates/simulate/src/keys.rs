//! The accounts' keys, as a store holds them: made beforehand, the same in every run, and only read.

use async_trait::async_trait;
use keystrata_hierarchy::{
    AccountCopy, Creation, Import, KekId, KekRecord, KekStore, KekVersion, KeyPath, PathHead, Raise, RootKeyId,
    Rotation, Shred, StoreError, Suite, Update, WrappedSecret, Wrapper, WrapperQuery,
};
use keystrata_primitives::{KekCheck, KekIdentity, KekState, SecretKey, wrap};

use crate::{
    draft::Wraps,
    error::SimulateError,
    scenario::KeyPolicy,
    world::{SimClock, Sleeps},
};

/// The keys of all accounts and groups under one policy. The root key wraps a secret by leaving it as it is.
#[derive(Debug)]
pub(crate) struct Keys {
    accounts: Vec<Stored>,
    groups: Vec<Stored>,
    group_size: u32,
    root: RootKeyId,
}

/// What a record is made of when it is read.
#[derive(Debug)]
struct Stored {
    path: KeyPath,
    check: KekCheck,
    wrapped: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Kind {
    Account = 1,
    Group = 2,
}

fn id(kind: Kind, number: u32) -> KekId {
    let mut bytes = [0; KekId::LEN];
    bytes[0] = kind as u8;
    bytes[1..5].copy_from_slice(&number.to_le_bytes());
    KekId::from_bytes(bytes)
}

fn name(kind: Kind, number: u32) -> String {
    match kind {
        Kind::Account => format!("a{number}"),
        Kind::Group => format!("g{number}"),
    }
}

/// Which account or group a path is.
fn number(path: &KeyPath) -> Option<(Kind, u32)> {
    let name = path.segments().next()?;
    let (kind, number) = match name.as_bytes().first()? {
        b'a' => (Kind::Account, &name[1..]),
        b'g' => (Kind::Group, &name[1..]),
        _ => return None,
    };
    Some((kind, number.parse().ok()?))
}

impl Keys {
    pub(crate) fn new(accounts: u32, policy: &KeyPolicy) -> Result<Self, SimulateError> {
        let root = RootKeyId::new("simulated:root").map_err(|error| SimulateError::Engine(error.to_string()))?;
        let engine = |error: &dyn std::error::Error| SimulateError::Engine(error.to_string());
        let group_size = match policy.topology {
            Wraps::Group(size) => size,
            Wraps::Account | Wraps::Direct => 0,
        };
        let mut keys = Self { accounts: Vec::new(), groups: Vec::new(), group_size, root };
        let groups = if group_size == 0 { 0 } else { accounts.div_ceil(group_size) };
        for group in 0..groups {
            let (identity, secret) = made(Kind::Group, group)?;
            let check = identity.derive(&secret).check;
            keys.groups.push(Stored { path: identity.path, check, wrapped: secret_bytes(Kind::Group, group).to_vec() });
        }
        for account in 0..accounts {
            let (identity, secret) = made(Kind::Account, account)?;
            let check = identity.derive(&secret).check;
            let wrapped = match account.checked_div(group_size) {
                None => secret_bytes(Kind::Account, account).to_vec(),
                Some(group) => {
                    let (parent, parent_secret) = made(Kind::Group, group)?;
                    let derived = parent.derive(&parent_secret);
                    wrap::wrap_child(&derived.kek(&parent), &identity, &secret)
                        .map_err(|error| engine(&error))?
                        .to_vec()
                }
            };
            keys.accounts.push(Stored { path: identity.path, check, wrapped });
        }
        Ok(keys)
    }

    pub(crate) fn root(&self) -> &RootKeyId {
        &self.root
    }

    pub(crate) fn path(&self, account: u32) -> &KeyPath {
        &self.accounts[account as usize].path
    }

    /// The KEK that everything of the account was sealed under.
    pub(crate) fn kek(account: u32) -> KekId {
        id(Kind::Account, account)
    }

    /// The group whose KEK wraps that of `path`; `None` if the root key does.
    pub(crate) fn group_of(&self, path: &KeyPath) -> Option<&KeyPath> {
        match number(path)? {
            (Kind::Account, account) if self.group_size > 0 => {
                self.groups.get((account / self.group_size) as usize).map(|group| &group.path)
            }
            _ => None,
        }
    }

    fn record(&self, path: &KeyPath) -> Option<KekRecord> {
        let (kind, number) = number(path)?;
        let stored = match kind {
            Kind::Account => self.accounts.get(number as usize)?,
            Kind::Group => self.groups.get(number as usize)?,
        };
        let wrapper = match self.group_of(path) {
            Some(group) => Wrapper::Parent { path: group.clone(), kek_id: id(Kind::Group, number / self.group_size) },
            None => Wrapper::Root(self.root.clone()),
        };
        let identity = KekIdentity {
            suite: Suite::default(),
            version: KekVersion::FIRST,
            id: id(kind, number),
            path: stored.path.clone(),
        };
        let wraps = vec![WrappedSecret { wrapper, ciphertext: stored.wrapped.clone() }];
        let (check, created_at) = (stored.check, 1_700_000_000);
        Some(KekRecord { identity, state: KekState::Primary, check, created_at, retired_at: 0, wraps })
    }
}

/// Worthless secrets: nothing is ever sealed under them.
fn secret_bytes(kind: Kind, number: u32) -> [u8; SecretKey::LEN] {
    *blake3::Hasher::new_derive_key("keystrata simulation secret v1")
        .update(name(kind, number).as_bytes())
        .finalize()
        .as_bytes()
}

fn made(kind: Kind, number: u32) -> Result<(KekIdentity, SecretKey), SimulateError> {
    let path = KeyPath::account(&name(kind, number)).map_err(|error| SimulateError::Engine(error.to_string()))?;
    let secret =
        SecretKey::from_slice(&secret_bytes(kind, number)).map_err(|error| SimulateError::Engine(error.to_string()))?;
    let identity = KekIdentity { suite: Suite::default(), version: KekVersion::FIRST, id: id(kind, number), path };
    Ok((identity, secret))
}

/// One process's way to the store.
#[derive(Debug)]
pub(crate) struct SimStore {
    pub(crate) keys: std::sync::Arc<Keys>,
    pub(crate) clock: SimClock,
    pub(crate) sleeps: Sleeps,
    pub(crate) latency: u64,
}

impl SimStore {
    async fn read(&self, path: &KeyPath) -> Option<KekRecord> {
        if self.latency > 0 {
            self.sleeps.sleep(&self.clock, self.latency).await;
        }
        self.keys.record(path)
    }
}

/// All accounts have their keys and keep them.
fn only_read<T>() -> Result<T, StoreError> {
    Err(StoreError::unavailable("a simulated store is only read", std::io::Error::other("not simulated")))
}

#[async_trait]
impl KekStore for SimStore {
    async fn primary(&self, path: &KeyPath) -> Result<Option<KekRecord>, StoreError> {
        Ok(self.read(path).await)
    }

    async fn record(&self, path: &KeyPath, id: KekId) -> Result<Option<KekRecord>, StoreError> {
        Ok(self.read(path).await.filter(|record| record.identity.id == id))
    }

    async fn head(&self, _: &KeyPath) -> Result<Option<PathHead>, StoreError> {
        only_read()
    }

    async fn export(&self, _: &KeyPath) -> Result<Option<AccountCopy>, StoreError> {
        only_read()
    }

    async fn create(&self, _: &KekRecord) -> Result<Creation, StoreError> {
        only_read()
    }

    async fn rotate(&self, _: KekId, _: &KekRecord) -> Result<Rotation, StoreError> {
        only_read()
    }

    async fn update(&self, _: &KekRecord, _: &KekRecord) -> Result<Update, StoreError> {
        only_read()
    }

    async fn raise_min_version(&self, _: &KeyPath, _: KekVersion) -> Result<Raise, StoreError> {
        only_read()
    }

    async fn shred(&self, _: &KeyPath, _: u64) -> Result<Shred, StoreError> {
        only_read()
    }

    async fn import(&self, _: &AccountCopy) -> Result<Import, StoreError> {
        only_read()
    }

    async fn accounts(&self, _: Option<&KeyPath>, _: usize) -> Result<Vec<PathHead>, StoreError> {
        only_read()
    }

    async fn by_wrapper(
        &self,
        _: &WrapperQuery,
        _: Option<(&KeyPath, KekId)>,
        _: usize,
    ) -> Result<Vec<KekRecord>, StoreError> {
        only_read()
    }
}
