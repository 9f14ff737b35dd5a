//! Single flight: any number of callers that need the same thing wait for one task that gets it.
//!
//! The work runs in a task of its own, so a caller who is dropped takes nobody down, and the answer is kept for the
//! others. A task that panics, or whose runtime is shut down, answers "interrupted" and leaves the way clear.
//!
//! A load knows how much it is [wanted](Demand): by callers who wait, or by nobody but the engine itself.
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

use keystrata_primitives::KeyPath;
use tokio::runtime::{self, Handle};

use crate::{
    clock::Moment,
    error::KeyError,
    root::{Demand, Waiter},
    watched::Watched,
};

/// Why a load brought nothing.
#[derive(Clone, Debug)]
pub(crate) enum LoadError {
    Key(KeyError),
    /// What it brought was invalidated meanwhile, or nobody wanted it any more. Whoever wants it starts another.
    Outdated,
}

impl LoadError {
    /// Of a parent's load, as an answer to its child's.
    pub(crate) fn of_parent(self, child: &KeyPath, parent: &KeyPath) -> Self {
        match self {
            Self::Key(error) => Self::Key(error.of_parent(child, parent)),
            Self::Outdated => Self::Outdated,
        }
    }
}

impl From<KeyError> for LoadError {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}

pub(crate) type Answer<T> = Result<T, LoadError>;

/// What a load brought; `None` if it has to be begun anew.
pub(crate) fn unless_outdated<T>(answer: Answer<T>) -> Result<Option<T>, KeyError> {
    match answer {
        Ok(brought) => Ok(Some(brought)),
        Err(LoadError::Key(error)) => Err(error),
        Err(LoadError::Outdated) => Ok(None),
    }
}

/// What has become of a load.
enum Outcome<T> {
    UnderWay,
    /// `None` if it ended without an answer.
    Ended(Option<Answer<T>>),
}

/// Shared by a load, the list of those under way and all who wait for it.
type Awaited<T> = Arc<Watched<Outcome<T>>>;

/// The loads under way, by what they load and where.
pub(crate) struct Flights<K, T> {
    under_way: Mutex<HashMap<(K, runtime::Id), Flight<T>>>,
}

struct Flight<T> {
    awaited: Awaited<T>,
    /// From then on callers start another.
    closes: Moment,
    began: Moment,
    demand: Demand,
}

/// For whom a load is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum For<'a> {
    /// A caller, as long as he waits.
    Caller,
    /// Another load, as long as that one is wanted.
    Load(&'a Demand),
}

impl<K, T> Flights<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { under_way: Mutex::default() })
    }

    /// Waits for the load of `key` that is under way on `runtime`, or starts `load` there and waits for that. `true` with
    /// the answer of one that was under way.
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
        whom: For<'_>,
        load: impl FnOnce(Demand) -> F,
    ) -> (bool, Answer<T>)
    where
        F: Future<Output = Answer<T>> + Send + 'static,
    {
        let key = (key, runtime.id());
        let joined = self.under_way().get(&key).filter(|flight| !now.has_reached(flight.closes)).map(Joined::to);
        if let Some(joined) = joined
            && let Some(answer) = joined.answer(whom).await
        {
            return (true, answer);
        }
        let demand = match whom {
            For::Caller => Demand::of_waiters(),
            For::Load(demand) => demand.clone(),
        };
        let _waiter = matches!(whom, For::Caller).then(|| demand.wait());
        let (was_under_way, started) = self.start(runtime, (now, patience), key, demand, load);
        let answer = if was_under_way { started.answer(whom).await } else { answer_of(&started.awaited).await };
        (was_under_way, answer.unwrap_or(Err(LoadError::Key(KeyError::Interrupted))))
    }

    /// Starts `load` unless one of the same is under way, and waits for nothing. `false` if one was.
    pub(crate) fn begin<F>(
        self: &Arc<Self>,
        runtime: &Handle,
        (now, patience): (Moment, Duration),
        key: K,
        load: impl FnOnce(Demand) -> F,
    ) -> bool
    where
        F: Future<Output = Answer<T>> + Send + 'static,
    {
        !self.start(runtime, (now, patience), (key, runtime.id()), Demand::background(), load).0
    }

    /// When the load of `key` began that is under way on `runtime`.
    pub(crate) fn began(&self, runtime: &Handle, key: K) -> Option<Moment> {
        self.under_way().get(&(key, runtime.id())).map(|flight| flight.began)
    }

    fn start<F>(
        self: &Arc<Self>,
        runtime: &Handle,
        (now, patience): (Moment, Duration),
        key: (K, runtime::Id),
        demand: Demand,
        load: impl FnOnce(Demand) -> F,
    ) -> (bool, Joined<T>)
    where
        F: Future<Output = Answer<T>> + Send + 'static,
    {
        let started = {
            let mut under_way = self.under_way();
            match under_way.entry(key.clone()) {
                Entry::Occupied(earlier) if !now.has_reached(earlier.get().closes) => {
                    return (true, Joined::to(earlier.get()));
                }
                entry => {
                    let awaited = Arc::new(Watched::new(Outcome::UnderWay));
                    let flight = Flight { awaited, closes: now.after(patience), began: now, demand: demand.clone() };
                    Joined::to(entry.insert_entry(flight).get())
                }
            }
        };
        // Made here, not in the task: a runtime that drops the task before its first step still clears the way.
        let landing = Landing { flights: Arc::clone(self), key, awaited: Arc::clone(&started.awaited), answer: None };
        // Boxed: a future that another one captures and then awaits lies in it twice, and this one is kilobytes long.
        let load = Box::pin(load(demand));
        runtime.spawn(async move {
            let answer = load.await;
            landing.land(answer);
        });
        (false, started)
    }
}

impl<K, T> Flights<K, T> {
    fn under_way(&self) -> MutexGuard<'_, HashMap<(K, runtime::Id), Flight<T>>> {
        // No code panics while it holds the lock.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A load to wait for.
struct Joined<T> {
    awaited: Awaited<T>,
    demand: Demand,
}

impl<T: Clone> Joined<T> {
    fn to(flight: &Flight<T>) -> Self {
        Self { awaited: Arc::clone(&flight.awaited), demand: flight.demand.clone() }
    }

    /// Waits for the answer, and lets the load know for whom.
    async fn answer(self, whom: For<'_>) -> Option<Answer<T>> {
        let answer = answer_of(&self.awaited);
        let behind = match whom {
            For::Caller => return waited(&self.demand.wait(), answer).await,
            For::Load(behind) => behind,
        };
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            biased; // the same in every run of a simulation
            answer = &mut answer => answer,
            // From now on somebody waits for this one too.
            () = behind.lifted() => waited(&self.demand.wait(), answer).await,
        }
    }
}

/// The answer, which the waiter waits for until it is there.
async fn waited<T>(_: &Waiter, answer: impl Future<Output = T>) -> T {
    answer.await
}

/// The answer, or `None` from a load that ended without one.
async fn answer_of<T: Clone>(awaited: &Watched<Outcome<T>>) -> Option<Answer<T>> {
    let answer = |outcome: &Outcome<T>| match outcome {
        Outcome::UnderWay => None,
        Outcome::Ended(answer) => Some(answer.clone()),
    };
    awaited.until(answer).await
}

/// Takes a load off the list however it ends, and only then lets go of those who wait: nobody joins what has ended.
struct Landing<K: Eq + Hash, T> {
    flights: Arc<Flights<K, T>>,
    key: (K, runtime::Id),
    awaited: Awaited<T>,
    answer: Option<Answer<T>>,
}

impl<K: Eq + Hash, T> Landing<K, T> {
    fn land(mut self, answer: Answer<T>) {
        self.answer = Some(answer);
    }
}

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        let mut under_way = self.flights.under_way();
        // Another may have taken its place, if it took too long.
        if under_way.get(&self.key).is_some_and(|flight| Arc::ptr_eq(&flight.awaited, &self.awaited)) {
            under_way.remove(&self.key);
        }
        drop(under_way);
        self.awaited.change(|outcome| {
            *outcome = Outcome::Ended(self.answer.take());
            true
        });
    }
}

impl<K, T> fmt::Debug for Flights<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("under_way", &self.under_way().len()).finish()
    }
}
