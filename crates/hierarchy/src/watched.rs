//! A value that others wait on until it is as they want it.

use std::{
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// A value, and those who wait for it to be so or so. Shared in an `Arc`.
///
/// Not tokio's `watch`: that has eight lists of those who wait, so that many threads can wait for one value at little cost,
/// and tells each of them at every change and at its end. Here each load has two values of its own, for most of which
/// few wait, and telling sixteen lists took a tenth of its time.
pub(crate) struct Watched<T> {
    value: Mutex<T>,
    changed: Notify,
}

impl<T> Watched<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value: Mutex::new(value), changed: Notify::new() }
    }

    fn value(&self) -> MutexGuard<'_, T> {
        // No code panics while it holds the lock.
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `look` makes of it now.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.value())
    }

    /// Changes it, and tells those who wait if `change` says that this may be what they wait for.
    pub(crate) fn change(&self, change: impl FnOnce(&mut T) -> bool) {
        let is_to_be_told = change(&mut self.value());
        if is_to_be_told {
            self.changed.notify_waiters();
        }
    }

    /// Waits until `look` makes something of it.
    ///
    /// # Cancellation
    /// Dropping the future changes nothing.
    pub(crate) async fn until<R>(&self, look: impl Fn(&T) -> Option<R>) -> R {
        if let Some(found) = self.look(&look) {
            return found;
        }
        loop {
            // From before the look on, so that no change is missed.
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(found) = self.look(&look) {
                return found;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
        time::{Duration, Instant},
    };

    use super::*;

    /// The next change comes as soon as all have seen the last one, so just when they begin to wait for it.
    #[test]
    fn whoever_waits_on_another_thread_misses_no_change() {
        const WAITERS: usize = 4;
        const CHANGES: usize = 500;
        let (number, seen) = (Watched::new(0), AtomicUsize::new(0));
        let wait = || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for next in 1..=CHANGES {
                runtime.block_on(number.until(|number| (*number >= next).then_some(())));
                seen.fetch_add(1, Ordering::SeqCst);
            }
        };
        let patience = Instant::now() + Duration::from_secs(60);
        thread::scope(|scope| {
            for _ in 0..WAITERS {
                scope.spawn(wait);
            }
            for next in 1..=CHANGES {
                number.change(|number| {
                    *number = next;
                    true
                });
                while seen.load(Ordering::SeqCst) < WAITERS * next {
                    if Instant::now() > patience {
                        // Whoever still waits would keep the test from ending.
                        number.change(|number| {
                            *number = usize::MAX;
                            true
                        });
                        panic!("change {next} was missed");
                    }
                    thread::yield_now();
                }
            }
        });
        assert_eq!(number.look(|number| *number), CHANGES);
    }
}
