//! The slot protocol: a seqlock made of atomics only, with no allocation and no system call, so that loom can check it.
//!
//! A slot is in one of three states, told by its generation:
//!
//! | generation | state |
//! |---|---|
//! | 0 | never used, or wiped by the kernel in a forked child |
//! | even, not 0 | live: the words are the key stored under that generation |
//! | odd | dead: claimed by a wiper, its words being overwritten or already zero |
//!
//! A live generation is used once in the life of the process, so a reader that finds *its* generation twice, before and
//! after copying, has copied words of its own key only. Why the second look cannot miss a change: whoever overwrites the
//! words has made the generation odd first, then passed a release fence, then stored. A reader that picked up any such
//! word passes an acquire fence and therefore sees the odd generation, or a later one.

use zeroize::Zeroize;

use crate::sync::{AtomicU64, Ordering, fence};

/// Set in the generation of a slot whose key was claimed for wiping.
const DEAD: u64 = 1;

const WORDS: usize = 4;

/// The place of one key. All zero bytes are a valid, empty slot.
#[cfg_attr(not(loom), repr(C))]
pub struct RawSlot {
    generation: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl RawSlot {
    /// An empty slot outside an arena, for model checking.
    #[cfg(loom)]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self { generation: AtomicU64::new(0), words: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Puts `key` into a slot that no one else may write and makes it readable under `generation`.
    ///
    /// `generation` must be even, not 0 and never used before. The caller owns the slot: it is fresh, or the caller got
    /// it from the winner of [`claim_and_wipe`](Self::claim_and_wipe) through a lock.
    pub fn publish(&self, generation: u64, key: &[u8; 32]) {
        debug_assert!(generation != 0 && generation & DEAD == 0);
        // A slow reader of the previous generation may pick up the words stored below. This fence, not the wiper's, is
        // what shows that reader the end of its generation: the wiper's claim happened before it, through the lock.
        fence(Ordering::Release);
        for (word, bytes) in self.words.iter().zip(key.as_chunks::<8>().0) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        self.generation.store(generation, Ordering::Release);
    }

    /// Copies the key of `generation` into `out`; `false` and `out` all zero if the slot does not hold it throughout.
    pub fn read(&self, generation: u64, out: &mut [u8; 32]) -> bool {
        if self.generation.load(Ordering::Acquire) != generation {
            out.zeroize();
            return false;
        }
        for (word, bytes) in self.words.iter().zip(out.as_chunks_mut::<8>().0) {
            *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        // Pairs with the release fences in `publish` and `claim_and_wipe`.
        fence(Ordering::Acquire);
        if self.generation.load(Ordering::Relaxed) != generation {
            out.zeroize();
            return false;
        }
        true
    }

    /// Ends `generation` and overwrites its key; `false`, touching nothing, if the slot does not hold it any more.
    ///
    /// Of any number of callers one gets `true`, and owns the slot from then on.
    pub fn claim_and_wipe(&self, generation: u64) -> bool {
        // Acquire: the zeros must follow the key's words in each word's order of modification.
        if self
            .generation
            .compare_exchange(generation, generation | DEAD, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            return false;
        }
        // No zero may be seen by a reader that cannot also see the claim.
        fence(Ordering::Release);
        for word in &self.words {
            word.store(0, Ordering::Relaxed);
        }
        true
    }

    /// Whether the slot holds the key of `generation` at this moment.
    pub fn holds(&self, generation: u64) -> bool {
        self.generation.load(Ordering::Acquire) == generation
    }

    /// The words as they are, for tests that look for remains.
    #[cfg(any(loom, test))]
    pub fn words(&self) -> [u64; WORDS] {
        std::array::from_fn(|i| self.words[i].load(Ordering::Relaxed))
    }
}
