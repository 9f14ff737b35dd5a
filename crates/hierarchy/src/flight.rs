//! Single flight: any number of callers that need the same thing wait for one task that gets it.
//!
//! The work runs in a task of its own, so a caller who is dropped takes nobody down, and the answer is kept for the
//! others. A task that panics, or whose runtime is shut down, answers "interrupted" and leaves the way clear.
//!
//! Two limits keep a load that makes no progress from holding everybody. Callers join loads of their own runtime only: a
//! runtime that nobody drives any more would never answer. And nobody joins a load that began too long ago.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::{self, Handle},
    sync::watch,
};

use crate::{clock::Moment, error::KeyError};

type Answer<T> = Result<T, KeyError>;
type Waiting<T> = watch::Receiver<Option<Answer<T>>>;

/// The loads under way, by what they load and where.
pub(crate) struct Flights<K, T> {
    under_way: Mutex<HashMap<(K, runtime::Id), Flight<T>>>,
}

struct Flight<T> {
    waiting: Waiting<T>,
    /// From then on callers start another.
    closes: Moment,
    began: Moment,
}

impl<K, T> Flights<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { under_way: Mutex::default() })
    }

    /// Waits for the load of `key` that is under way on `runtime`, or starts `load` there and waits for that.
    ///
    /// A caller who joined a load that ended without an answer starts one of its own, once. A load that is started can
    /// be joined for `patience`.
    ///
    /// Between a caller's own look into a cache and this call another load may have ended, so `load` looks again before
    /// it does anything that costs.
    pub(crate) async fn join<F>(
        self: &Arc<Self>,
        runtime: &Handle,
        (now, patience): (Moment, Duration),
        key: K,
        load: impl FnOnce() -> F,
    ) -> Answer<T>
    where
        F: Future<Output = Answer<T>> + Send + 'static,
    {
        let key = (key, runtime.id());
        let joined = self.under_way().get(&key).filter(|flight| !now.has_reached(flight.closes)).map(Flight::wait);
        if let Some(joined) = joined
            && let Some(answer) = answer_of(joined).await
        {
            return answer;
        }
        let started = self.start(runtime, (now, patience), key, load());
        answer_of(started).await.unwrap_or(Err(KeyError::Interrupted))
    }

    /// Starts `load` unless one of the same is under way, and waits for nothing.
    pub(crate) fn begin<F>(
        self: &Arc<Self>,
        runtime: &Handle,
        (now, patience): (Moment, Duration),
        key: K,
        load: impl FnOnce() -> F,
    ) where
        F: Future<Output = Answer<T>> + Send + 'static,
    {
        self.start(runtime, (now, patience), (key, runtime.id()), load());
    }

    /// When the load of `key` began that is under way on `runtime`.
    pub(crate) fn began(&self, runtime: &Handle, key: K) -> Option<Moment> {
        self.under_way().get(&(key, runtime.id())).map(|flight| flight.began)
    }

    fn start(
        self: &Arc<Self>,
        runtime: &Handle,
        (now, patience): (Moment, Duration),
        key: (K, runtime::Id),
        load: impl Future<Output = Answer<T>> + Send + 'static,
    ) -> Waiting<T> {
        let (answer, waiting) = watch::channel(None);
        {
            let mut under_way = self.under_way();
            match under_way.entry(key.clone()) {
                Entry::Occupied(earlier) if !now.has_reached(earlier.get().closes) => return earlier.get().wait(),
                entry => {
                    let flight = Flight { waiting: waiting.clone(), closes: now.after(patience), began: now };
                    entry.insert_entry(flight);
                }
            }
        }
        // Made here, not in the task: a runtime that drops the task before its first step still clears the way.
        let landing = Landing { flights: Arc::clone(self), key, answer };
        runtime.spawn(async move {
            let answer = load.await;
            landing.land(answer);
        });
        waiting
    }
}

impl<K, T> Flights<K, T> {
    fn under_way(&self) -> MutexGuard<'_, HashMap<(K, runtime::Id), Flight<T>>> {
        // No code panics while it holds the lock.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Flight<T> {
    fn wait(&self) -> Waiting<T> {
        self.waiting.clone()
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
    key: (K, runtime::Id),
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
        let mut under_way = self.flights.under_way();
        // Another may have taken its place, if it took too long.
        if under_way.get(&self.key).is_some_and(|flight| flight.waiting.same_channel(&self.answer.subscribe())) {
            under_way.remove(&self.key);
        }
    }
}

impl<K, T> fmt::Debug for Flights<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("under_way", &self.under_way().len()).finish()
    }
}
