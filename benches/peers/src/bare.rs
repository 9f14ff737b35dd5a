//! The bare ciphers: what nobody who gives each object a key of its own can undercut, and less than that.

use keystrata_primitives::Suite;

use crate::{Sealed, Tenant, aead::Key};

#[path = "../../primitives/bare.rs"]
#[allow(dead_code)] // the criterion benches use all of it
mod with_fresh_key;

/// A suite's cipher of AWS-LC under a fresh key for each object, which is left lying beside it.
pub struct FreshKey(pub Suite);

/// Sealed bytes, and the key that opens them.
#[derive(Clone)]
pub struct KeyAndSealed(with_fresh_key::Bare);

impl Sealed for KeyAndSealed {
    fn stored_bytes(&self) -> usize {
        self.0.sealed().len()
    }
}

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

    fn seal(&self, plain: &Vec<u8>) -> Vec<u8> {
        self.0.seal(plain)
    }

    fn open(&self, sealed: &mut Vec<u8>) -> Vec<u8> {
        self.0.open(sealed).expect("sealed here")
    }
}
