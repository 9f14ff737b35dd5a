//! An account in either suite, plaintexts of telling lengths, and random bytes that are not.
#![allow(dead_code, reason = "every test file uses a part of this")]

use keystrata_primitives::{Context, Kek, KekId, KekIdentity, KekVersion, KeyPath, Suite, hazmat};
use rand::{TryCryptoRng, TryRng};

pub(crate) const CHUNK: usize = 16_384;
pub(crate) const SEALED_CHUNK: usize = CHUNK + 16;
pub(crate) const HEADER: usize = 124;

/// Around the ends of chunks, where an off-by-one would be.
pub(crate) const LENGTHS: [usize; 8] = [0, 1, 500, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK + 7];

pub(crate) struct Account {
    pub(crate) key: [u8; 32],
    pub(crate) identity: KekIdentity,
}

impl Account {
    pub(crate) fn new(suite: Suite, n: u8) -> Self {
        let path = KeyPath::account("acme").expect("a valid name");
        Self {
            key: [n; 32],
            identity: KekIdentity { suite, version: KekVersion::FIRST, id: KekId::from_bytes([n; 16]), path },
        }
    }

    /// In the default suite.
    pub(crate) fn any() -> Self {
        Self::new(Suite::default(), 1)
    }

    pub(crate) fn kek(&self) -> Kek<'_> {
        Kek::new(&self.key, &self.identity)
    }

    /// Always the same bytes.
    pub(crate) fn seal(&self, plaintext: &[u8]) -> Vec<u8> {
        hazmat::seal_envelope_with_rng(&mut Counting(7), &self.kek(), &context(), plaintext).expect("no limit is near")
    }
}

pub(crate) fn context() -> Context {
    Context::new().with("table", "cards").with("row", "42")
}

/// Bytes that differ between any two chunks and places in them.
pub(crate) fn plaintext(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from((i ^ (i >> 8) ^ (7 * (i >> 14))) % 256).expect("below 256")).collect()
}

/// Counts instead of being random.
pub(crate) struct Counting(pub(crate) u8);

impl TryRng for Counting {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes).map(|()| u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes).map(|()| u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(5).wrapping_add(1);
            *byte = self.0;
        }
        Ok(())
    }
}

impl TryCryptoRng for Counting {}

/// A source of random bytes that has none.
pub(crate) struct Broken;

impl TryRng for Broken {
    type Error = std::io::Error;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn try_fill_bytes(&mut self, _: &mut [u8]) -> Result<(), Self::Error> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

impl TryCryptoRng for Broken {}
