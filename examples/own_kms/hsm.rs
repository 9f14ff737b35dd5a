//! Stands in for the service that the adapter is for, so that the example runs anywhere.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};

/// Encrypts and decrypts a few bytes under keys that never leave it.
pub(crate) struct Hsm {
    keys: HashMap<&'static str, XChaCha20Poly1305>,
    refusal: Mutex<Option<Refusal>>,
    calls: AtomicU64,
}

/// What it says instead of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Refusal {
    Busy,
    NotYours,
    BadBytes,
    NoAnswer,
}

const NONCE_LEN: usize = 24;

impl Hsm {
    pub(crate) fn new<const N: usize>(names: [&'static str; N]) -> Self {
        let keys = names.map(|name| (name, XChaCha20Poly1305::new(&random::<32>().into())));
        Self { keys: keys.into(), refusal: Mutex::default(), calls: AtomicU64::new(0) }
    }

    pub(crate) async fn encrypt(&self, key: &str, aad: &[u8], msg: &[u8]) -> Result<Vec<u8>, Refusal> {
        let (key, nonce) = (self.key(key).await?, random::<NONCE_LEN>());
        let sealed = key.encrypt(&XNonce::from(nonce), Payload { msg, aad }).map_err(|_| Refusal::BadBytes)?;
        Ok([&nonce[..], &sealed].concat())
    }

    pub(crate) async fn decrypt(&self, key: &str, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Refusal> {
        let key = self.key(key).await?;
        let (nonce, msg) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(Refusal::BadBytes)?;
        key.decrypt(&XNonce::from(*nonce), Payload { msg, aad }).map_err(|_| Refusal::BadBytes)
    }

    /// Lets every call fail, or none.
    pub(crate) fn refuse(&self, refusal: Option<Refusal>) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = refusal;
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// As a call over the network does, this gives other tasks a turn.
    async fn key(&self, name: &str) -> Result<&XChaCha20Poly1305, Refusal> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        match *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(refusal) => Err(refusal),
            None => self.keys.get(name).ok_or(Refusal::NotYours),
        }
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    bytes
}

impl fmt::Debug for Hsm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hsm").field("calls", &self.calls()).finish_non_exhaustive()
    }
}
