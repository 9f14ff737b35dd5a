//! A client of a service for each runtime.

use std::sync::{Mutex, PoisonError};

use tokio::runtime::{Handle, Id};

/// Most runtimes whose clients are kept: a server with a runtime for each core has fewer. A program that makes a runtime for
/// each call loses the connections of the last one with each anyway.
const MOST: usize = 128;

/// Clients that keep connections, one for each runtime that asks.
///
/// A connection is driven by the runtime on which it was opened. One whose runtime nobody drives any more takes a request
/// and never answers, so no call from another runtime may find it. Behind a
/// [`ProcessLocal`](keystrata_memory::ProcessLocal) the same holds for forked children, who would write into their
/// parent's connections.
#[derive(Debug)]
pub(crate) struct Clients<C> {
    /// Who asked last is last.
    of_runtimes: Mutex<Vec<(Option<Id>, C)>>,
}

impl<C: Clone> Clients<C> {
    pub(crate) fn new() -> Self {
        Self { of_runtimes: Mutex::default() }
    }

    /// The client of the runtime on which this is called, made if there is none.
    pub(crate) fn get<E>(&self, make: impl FnOnce() -> Result<C, E>) -> Result<C, E> {
        let runtime = Handle::try_current().ok().map(|runtime| runtime.id());
        // A panic of `make` leaves the list as it was.
        let mut clients = self.of_runtimes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = clients.iter().position(|(of, _)| *of == runtime) {
            clients[at..].rotate_left(1);
        } else {
            let client = make()?;
            if clients.len() == MOST {
                clients.remove(0);
            }
            clients.push((runtime, client));
        }
        Ok(clients.last().expect("one was just put there").1.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn each_runtime_has_its_own_and_keeps_it_while_others_are_few() {
        let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
        let clients = Clients::new();
        let mut made = 0;
        let mut ask = |runtime: &tokio::runtime::Runtime| {
            let _entered = runtime.enter();
            let Ok(client) = clients.get(|| {
                made += 1;
                Ok::<_, Infallible>(made)
            });
            client
        };
        let [first, second] = [runtime(), runtime()];
        assert_eq!([ask(&first), ask(&second), ask(&first), ask(&second)], [1, 2, 1, 2]);
        let many: Vec<_> = (0..MOST - 1).map(|_| runtime()).collect();
        for other in &many {
            ask(other);
        }
        assert_eq!(ask(&second), 2, "who asked last is kept");
        assert_eq!(ask(&first), MOST + 2, "and who has not asked for longest is forgotten");
    }
}
