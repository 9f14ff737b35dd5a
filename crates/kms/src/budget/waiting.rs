//! The length of a queue, told outside of its lock and yet in order.

use std::sync::{
    Mutex, TryLockError,
    atomic::{AtomicU64, AtomicUsize, Ordering, fence},
};

/// How many wait. It is [set](Self::set) under the queue's lock and [told](Self::tell) outside of it, by one at a time, so that the
/// last length told is the last one set.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    length: AtomicUsize,
    /// How often the length was set.
    set: AtomicU64,
    /// What `set` was when the length was last told. Held while it is told.
    told: Mutex<u64>,
}

impl Waiting {
    /// Under the queue's lock.
    pub(super) fn set(&self, length: usize) {
        self.length.store(length, Ordering::SeqCst);
        // Though it be the same: whoever records may have come since it was told.
        self.set.fetch_add(1, Ordering::SeqCst);
    }

    /// Tells the length if it was set since it was told, unless somebody is telling, who then sees the change.
    pub(super) fn tell(&self, tell: impl Fn(usize)) {
        loop {
            // With the one at the end: either this sees who is telling gone, or that one sees what was set before.
            fence(Ordering::SeqCst);
            let mut told = match self.told.try_lock() {
                Ok(told) => told,
                Err(TryLockError::Poisoned(told)) => told.into_inner(), // a recorder panicked: the next one may not
                Err(TryLockError::WouldBlock) => return,
            };
            let set = self.set.load(Ordering::SeqCst);
            if *told == set {
                return;
            }
            *told = set;
            tell(self.length.load(Ordering::SeqCst));
            drop(told);
            fence(Ordering::SeqCst);
            if self.set.load(Ordering::SeqCst) == set {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_is_set_while_it_is_told_is_told_afterwards() {
        let waiting = Waiting::default();
        let told = Mutex::new(Vec::new());
        waiting.set(3);
        waiting.tell(|length| {
            told.lock().unwrap().push(length);
            if length == 3 {
                // As another thread would in this moment: it finds somebody telling, and goes on.
                waiting.set(4);
                waiting.tell(|_| panic!("one at a time"));
            }
        });
        waiting.tell(|_| panic!("nothing was set"));
        assert_eq!(*told.lock().unwrap(), [3, 4]);
    }

    #[test]
    fn the_last_length_told_is_the_last_one_set() {
        let (waiting, last) = (Arc::new(Waiting::default()), Arc::new(AtomicUsize::new(usize::MAX)));
        let queue = Arc::new(Mutex::new(0));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (waiting, last, queue) = (Arc::clone(&waiting), Arc::clone(&last), Arc::clone(&queue));
                std::thread::spawn(move || {
                    for _ in 0..5_000 {
                        let mut length = queue.lock().unwrap();
                        *length += 1;
                        waiting.set(*length);
                        drop(length);
                        waiting.tell(|length| last.store(length, Ordering::SeqCst));
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(last.load(Ordering::SeqCst), 20_000);
    }
}
