//! The bare ciphers: what nobody who gives each object a key of its own can undercut, and less than that.

use keystrata_primitives::Suite;

use crate::{Tenant, aead::Key};

#[path = "../../primitives/bare.rs"]
#[allow(dead_code)] // the criterion benches use all of it
mod with_fresh_key;

/// A suite's cipher of AWS-LC under a fresh key for each object, which is left lying beside it.
pub struct FreshKey(pub Suite);

/// Sealed bytes, and the key that opens them.
#[derive(Clone)]
pub struct KeyAndSealed(with_fresh_key::Bare);

/// AES-256-GCM of AWS-LC under one key for all objects, whose schedule is kept.
pub struct OneKey(Key);

impl Default for OneKey {
    fn default() -> Self {
        Self(Key::new(&[7; 32]))
    }
}

impl Tenant for FreshKey {
    type Plain = Vec<u8>;
    type Sealed = KeyAndSealed;

    fn plain(bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }

    fn bytes(plain: &Vec<u8>) -> &[u8] {
        plain
    }

    fn stored_bytes(sealed: &KeyAndSealed) -> usize {
        sealed.0.sealed().len()
    }

    fn seal(&self, plain: &Vec<u8>) -> KeyAndSealed {
        KeyAndSealed(with_fresh_key::seal(self.0, plain))
    }

    fn open(&self, sealed: &mut KeyAndSealed) -> Vec<u8> {
        with_fresh_key::open(self.0, &sealed.0)
    }
}

impl Tenant for OneKey {
    type Plain = Vec<u8>;
    type Sealed = Vec<u8>;

    fn plain(bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }

    fn bytes(plain: &Vec<u8>) -> &[u8] {
        plain
    }

    fn stored_bytes(sealed: &Vec<u8>) -> usize {
        sealed.len()
    }

    fn seal(&self, plain: &Vec<u8>) -> Vec<u8> {
        self.0.seal(plain)
    }

    fn open(&self, sealed: &mut Vec<u8>) -> Vec<u8> {
        self.0.open(sealed).expect("sealed here")
    }
}
