//! Why a key found no slot.

use std::{io, sync::Arc};

/// Why [`Arena::store`](crate::Arena::store) took no key.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The system gave no memory for more slots. Wiping keys frees slots.
    #[error("no memory for key slots: wipe keys that are no longer needed, or raise the process's memory limit")]
    OutOfMemory(#[source] Arc<io::Error>),
    /// The memory cannot be locked in RAM and the policy is [`OnUnprotected::Refuse`](crate::OnUnprotected::Refuse).
    #[error(
        "cannot lock {needed_bytes} more bytes of key memory (limit: {}): raise RLIMIT_MEMLOCK (`ulimit -l`, or \
         `LimitMEMLOCK=` in a systemd unit), or allow degraded memory with `OnUnprotected::Degrade`",
        limit_text(*limit_bytes)
    )]
    Unprotected {
        /// How many more bytes were to be locked; the limit counts all locked bytes of the process (of the user, on some
        /// kernels).
        needed_bytes: usize,
        /// The soft `RLIMIT_MEMLOCK` in force; `None` if unlimited or unknown.
        limit_bytes: Option<u64>,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// There is no more secret memory and the backing is [`Backing::Secret`](crate::Backing::Secret).
    #[error(
        "cannot get {needed_bytes} more bytes of secret key memory (limit on locked memory: {}): it takes Linux 5.14 with \
         memfd_secret switched on and room under RLIMIT_MEMLOCK (`ulimit -l`); or choose `Backing::Automatic`",
        limit_text(*limit_bytes)
    )]
    NoSecretMemory {
        /// How many more bytes were to be mapped.
        needed_bytes: usize,
        /// The soft `RLIMIT_MEMLOCK` in force, which secret memory counts against; `None` if unlimited or unknown.
        limit_bytes: Option<u64>,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The arena was made by a parent of this process, where its keys are; here it is empty for good.
    #[error("this key memory belongs to the parent process: make a new arena after a fork")]
    Forked,
}

fn limit_text(limit_bytes: Option<u64>) -> String {
    limit_bytes.map_or_else(|| "none known".to_owned(), |bytes| format!("{bytes} bytes"))
}
