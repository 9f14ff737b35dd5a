//! A KMS in this process that counts its calls and takes as long as it is told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::aead::Key;

/// One key in a KMS. Clones are the same key.
#[derive(Clone, Debug)]
pub struct Kms(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    key: Key,
    calls: AtomicU64,
    latency_millis: AtomicU64,
}

impl Default for Kms {
    fn default() -> Self {
        Self(Arc::new(Inner {
            key: Key::new(&[0x5a; 32]),
            calls: AtomicU64::new(0),
            latency_millis: AtomicU64::new(0),
        }))
    }
}

impl Kms {
    /// From now on every call takes this long.
    pub fn slow_down(&self, latency: Duration) {
        let millis = u64::try_from(latency.as_millis()).expect("less than a human life");
        self.0.latency_millis.store(millis, Ordering::SeqCst);
    }

    /// Calls since the count was last taken.
    pub fn take_calls(&self) -> u64 {
        self.0.calls.swap(0, Ordering::SeqCst)
    }

    /// Wraps a key; a synchronous client's call.
    pub fn wrap(&self, key: &[u8]) -> Vec<u8> {
        self.call();
        self.0.key.seal(key)
    }

    /// Unwraps what [`wrap`](Self::wrap) made.
    pub fn unwrap(&self, wrapped: &[u8]) -> Option<Vec<u8>> {
        self.call();
        self.0.key.open(wrapped)
    }

    /// One call, whatever it is for; blocks.
    pub fn call(&self) {
        std::thread::sleep(self.begin());
    }

    fn begin(&self) -> Duration {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        Duration::from_millis(self.0.latency_millis.load(Ordering::SeqCst))
    }

    /// The same for an asynchronous client.
    pub async fn call_async(&self) {
        let latency = self.begin();
        // A KMS that answers at once must not cost a turn of the runtime's timer.
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
    }
}
