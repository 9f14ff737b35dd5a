//! A value that others wait on until it is as they want it.

use std::{
    fmt,
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// A value, and those who wait for it to be so or so. Shared in an `Arc`.
///
/// Not tokio's `watch`: that has eight lists of those who wait, so that many threads can wait for one value at little cost,
/// and tells each of them at every change and at its end. Here each load has two values of its own that hardly anybody waits
/// for, and telling sixteen empty lists took a tenth of its time.
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

impl<T: fmt::Debug> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn whoever_waits_on_another_thread_misses_no_change() {
        let last = 1_000;
        let number = Arc::new(Watched::new(0));
        let waiters = [0; 4].map(|_| {
            let number = Arc::clone(&number);
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                for next in 1..=last {
                    runtime.block_on(number.until(|number| (*number >= next).then_some(())));
                }
            })
        });
        for next in 1..=last {
            number.change(|number| {
                *number = next;
                true
            });
        }
        for waiter in waiters {
            waiter.join().unwrap();
        }
        assert_eq!(number.look(|number| *number), last);
    }
}
