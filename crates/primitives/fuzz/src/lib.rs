//! What the targets share: a fixed account, envelopes of it made without randomness, and damage to them.

use arbitrary::Arbitrary;
use keystrata_primitives::{Context, Kek, KekId, KekIdentity, KekVersion, KeyPath, Suite, envelope, hazmat};
use rand::{TryCryptoRng, TryRng};

/// Chunks of the longest plaintext that the targets make.
const MAX_PLAINTEXT_LEN: usize = 4 * envelope::CHUNK_LEN + 100;
const SEALED_CHUNK_LEN: usize = envelope::CHUNK_LEN + 16;

/// A KEK and what it is bound to.
pub struct Account {
    key: [u8; 32],
    identity: KekIdentity,
}

impl Account {
    /// The one account; `n` tells its KEKs apart.
    pub fn new(suite: AnySuite, n: u8) -> Self {
        let identity = KekIdentity {
            suite: suite.into(),
            version: KekVersion::FIRST,
            id: KekId::from_bytes([n; 16]),
            path: KeyPath::account("fuzz").expect("a short name"),
        };
        Self { key: [n; 32], identity }
    }

    /// Its KEK.
    pub fn kek(&self) -> Kek<'_> {
        Kek::new(&self.key, &self.identity)
    }
}

/// A suite that can be arbitrary.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum AnySuite {
    One,
    Two,
}

impl From<AnySuite> for Suite {
    fn from(suite: AnySuite) -> Self {
        match suite {
            AnySuite::One => Self::XChaCha20Poly1305,
            AnySuite::Two => Self::Aes256Gcm,
        }
    }
}

/// The context of every envelope here.
pub fn context() -> Context {
    Context::new().with("row", "42")
}

/// `len` bytes, at most four chunks and a little, no two chunks alike.
pub fn plaintext(len: u32) -> Vec<u8> {
    let len = len as usize % MAX_PLAINTEXT_LEN;
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 14)) as u8).collect()
}

/// The envelope of `plaintext`, always the same.
pub fn seal(account: &Account, plaintext: &[u8]) -> Vec<u8> {
    hazmat::seal_envelope_with_rng(&mut Counting(1), &account.kek(), &context(), plaintext).expect("no limit is near")
}

/// Random bytes that are not.
pub struct Counting(pub u8);

impl TryRng for Counting {
    type Error = core::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        self.0 = self.0.wrapping_add(1);
        Ok(u32::from(self.0))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        self.try_next_u32().map(u64::from)
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

/// One way to damage an envelope.
#[derive(Arbitrary, Debug)]
pub enum Damage {
    Flip { bit: u32 },
    Truncate { len: u32 },
    Append { bytes: Vec<u8> },
    SwapChunks { a: u8, b: u8 },
    DropChunk { number: u8 },
    RepeatChunk { number: u8 },
}

impl Damage {
    /// Does it to `envelope`, or nothing where there is nothing to do it to.
    pub fn apply(&self, envelope: &mut Vec<u8>) {
        match self {
            Self::Flip { bit } if !envelope.is_empty() => {
                let bit = *bit as usize % (envelope.len() * 8);
                envelope[bit / 8] ^= 1 << (bit % 8);
            }
            Self::Truncate { len } => envelope.truncate(*len as usize % (envelope.len() + 1)),
            Self::Append { bytes } => envelope.extend_from_slice(bytes),
            Self::SwapChunks { a, b } => edit_chunks(envelope, |chunks| {
                let (a, b) = (*a as usize % chunks.len(), *b as usize % chunks.len());
                chunks.swap(a, b);
            }),
            Self::DropChunk { number } => edit_chunks(envelope, |chunks| {
                chunks.remove(*number as usize % chunks.len());
            }),
            Self::RepeatChunk { number } => edit_chunks(envelope, |chunks| {
                let number = *number as usize % chunks.len();
                chunks.insert(number, chunks[number].clone());
            }),
            Self::Flip { .. } => {}
        }
    }
}

fn edit_chunks(envelope: &mut Vec<u8>, edit: impl FnOnce(&mut Vec<Vec<u8>>)) {
    if envelope.len() <= envelope::HEADER_LEN {
        return;
    }
    let body = envelope.split_off(envelope::HEADER_LEN);
    let mut chunks: Vec<_> = body.chunks(SEALED_CHUNK_LEN).map(<[u8]>::to_vec).collect();
    edit(&mut chunks);
    envelope.extend(chunks.into_iter().flatten());
}
