//! Single flight: any number of callers that need the same thing wait for one task that gets it.
//!
//! The work runs in a task of its own, so a caller who is dropped takes nobody down, and the answer is kept for the
//! others. A task that panics, or whose runtime is shut down, answers "interrupted" and leaves the way clear.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{runtime::Handle, sync::watch};

use crate::error::KeyError;

type Answer<T> = Result<T, KeyError>;
type Waiting<T> = watch::Receiver<Option<Answer<T>>>;

/// The loads under way, by what they load.
pub(crate) struct Flights<K, T> {
    under_way: Mutex<HashMap<K, Waiting<T>>>,
}

impl<K, T> Flights<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { under_way: Mutex::default() })
    }

    /// Waits for the load of `key` that is under way, or starts `load` and waits for that.
    ///
    /// A caller who joined a load that ended without an answer starts one of its own, once.
    ///
    /// Between a caller's own look into a cache and this call another load may have ended, so `load` looks again before
    /// it does anything that costs.
    pub(crate) async fn join<F>(self: &Arc<Self>, key: K, load: impl FnOnce() -> F) -> Answer<T>
    where
        F: Future<Output = Answer<T>> + Send + 'static,
    {
        let joined = self.under_way().get(&key).cloned();
        if let Some(joined) = joined
            && let Some(answer) = answer_of(joined).await
        {
            return answer;
        }
        let started = self.start(key, load())?;
        answer_of(started)
            .await
            .unwrap_or(Err(KeyError::Interrupted("its task panicked, or its runtime was shut down")))
    }

    fn start(
        self: &Arc<Self>,
        key: K,
        load: impl Future<Output = Answer<T>> + Send + 'static,
    ) -> Result<Waiting<T>, KeyError> {
        let runtime = Handle::try_current()
            .map_err(|_| KeyError::Interrupted("there is no tokio runtime here: call from within one"))?;
        let (answer, waiting) = watch::channel(None);
        {
            let mut under_way = self.under_way();
            if let Some(earlier) = under_way.get(&key) {
                return Ok(earlier.clone());
            }
            under_way.insert(key.clone(), waiting.clone());
        }
        // Made here, not in the task: a runtime that drops the task before its first step still clears the way.
        let landing = Landing { flights: Arc::clone(self), key, answer };
        runtime.spawn(async move {
            let answer = load.await;
            landing.land(answer);
        });
        Ok(waiting)
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<K, Waiting<T>>> {
        // No code panics while it holds the lock.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer, or `None` from a load that ended without one.
async fn answer_of<T: Clone>(mut waiting: Waiting<T>) -> Option<Answer<T>> {
    let answer = waiting.wait_for(Option::is_some).await.ok()?;
    answer.clone()
}

/// Takes a load off the list however it ends, and only then lets go of those who wait: nobody joins what has ended.
struct Landing<K: Eq + Hash, T> {
    flights: Arc<Flights<K, T>>,
    key: K,
    answer: watch::Sender<Option<Answer<T>>>,
}

impl<K: Eq + Hash, T> Landing<K, T> {
    fn land(self, answer: Answer<T>) {
        let sender = self.answer.clone();
        drop(self);
        sender.send_replace(Some(answer));
    }
}

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        self.flights.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl<K, T> fmt::Debug for Flights<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner).len();
        f.debug_struct("Flights").field("under_way", &under_way).finish()
    }
}
