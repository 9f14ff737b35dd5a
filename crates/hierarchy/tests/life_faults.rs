//! Changes that are cut off at each of their writes, and changes that meet each other.
#![allow(clippy::unwrap_used)] // test code outside a #[test]

mod common;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use common::{
    exact, row,
    shaky::{Fault, Shaky},
    tree::path,
    tricky::settle,
};
use keystrata_hierarchy::{
    Account, Hierarchy, KekId, KekState, KekStore, KekVersion, KeyError, LifecycleError, OpenError, Reroot, Roots,
    SealError,
    test_util::{ManualClock, ScriptedRootKey},
};

struct World {
    store: Arc<Shaky>,
    clock: ManualClock,
    roots: [Arc<ScriptedRootKey>; 2],
}

impl World {
    fn new(store: Shaky) -> Self {
        let roots = ["test:new", "test:old"].map(|id| Arc::new(ScriptedRootKey::new(id)));
        Self { store: Arc::new(store), clock: ManualClock::new(), roots }
    }

    /// A process of before the move to the new root key.
    fn before(&self) -> Hierarchy {
        self.process(Roots::new(Arc::clone(&self.roots[1])))
    }

    /// One that knows the new root key and does not use it yet: without such a time in between, what a process of the move
    /// makes would not open in one of before.
    fn prepared(&self) -> Hierarchy {
        let [new, old] = self.roots.each_ref().map(Arc::clone);
        self.process(Roots::builder().current(old).former(new).build().unwrap())
    }

    /// One of the time of the move.
    fn moving(&self) -> Hierarchy {
        let [new, old] = self.roots.each_ref().map(Arc::clone);
        self.process(Roots::builder().current(new).former(old).build().unwrap())
    }

    fn process(&self, roots: Roots) -> Hierarchy {
        let builder = Hierarchy::builder().roots(roots).store(Arc::clone(&self.store)).clock(self.clock.clone());
        builder.policy(exact().build().unwrap()).build().unwrap()
    }

    /// An account of three versions, the first of which nothing needs any more.
    async fn account(&self) -> Vec<Vec<u8>> {
        let keys = self.before();
        let acme = keys.account("acme").unwrap();
        let mut sealed = vec![acme.seal(b"x", &row(1)).await.unwrap()];
        for _ in 0..2 {
            acme.rotate().await.unwrap();
            sealed.push(acme.seal(b"x", &row(1)).await.unwrap());
        }
        self.clock.advance(Duration::from_secs(660));
        sealed
    }

    async fn states(&self) -> Vec<KekState> {
        let records = self.store.inner.records(&path(["acme"])).await.unwrap();
        records.into_iter().map(|record| record.state).collect()
    }

    async fn wraps(&self) -> Vec<usize> {
        let records = self.store.inner.records(&path(["acme"])).await.unwrap();
        records.into_iter().map(|record| record.wraps.len()).collect()
    }
}

type Doing = Pin<Box<dyn Future<Output = Result<(), LifecycleError>> + Send>>;

/// Something that is done to an account whose oldest KEK has this id.
type Deed = fn(Account, KekId) -> Doing;

fn deeds() -> [(&'static str, Deed); 8] {
    [
        ("disable", |acme, _| Box::pin(async move { acme.disable().await.map(drop) })),
        ("open only", |acme, _| Box::pin(async move { acme.open_only().await.map(drop) })),
        ("floor", |acme, _| Box::pin(async move { acme.set_min_version(KekVersion::new(2).unwrap()).await.map(drop) })),
        ("destroy", |acme, id| {
            Box::pin(async move { acme.destroy_version(id, acme.begin_rewrap_scan()).await.map(drop) })
        }),
        ("reroot", |acme, _| Box::pin(async move { acme.reroot(Reroot::Add).await.map(drop) })),
        ("retire", |acme, _| {
            Box::pin(async move {
                acme.reroot(Reroot::Add).await?;
                acme.reroot(Reroot::Retire).await.map(drop)
            })
        }),
        ("rotate", |acme, _| Box::pin(async move { Ok(acme.rotate().await.map(drop)?) })),
        ("shred", |acme, _| Box::pin(async move { acme.shred().await.map(drop) })),
    ]
}

/// After whatever became of `what`, every envelope opens in a process of its own, or is refused for its documented reason.
async fn is_sound(world: &World, what: &str, sealed: &[Vec<u8>], is_done: bool) {
    let acme = world.moving().account("acme").unwrap();
    for (n, sealed) in sealed.iter().enumerate() {
        let opened = acme.open(sealed, &row(1)).await;
        let is_reason = match (&opened, what) {
            (Ok(plain), "open only" | "reroot" | "retire" | "rotate") => plain == b"x",
            (Ok(plain), _) => plain == b"x" && (!is_done || n > 0 && matches!(what, "floor" | "destroy")),
            (Err(OpenError::Key(KeyError::WrongState { state, .. })), "disable") => *state == KekState::Disabled,
            (Err(OpenError::Key(KeyError::BelowMinVersion(_))), "floor") => n == 0,
            (Err(OpenError::Key(KeyError::WrongState { state, .. })), "destroy") => {
                n == 0 && *state == KekState::Destroyed
            }
            (Err(OpenError::Key(KeyError::Shredded(_))), "shred") => true,
            _ => false,
        };
        assert!(is_reason, "{what}, done {is_done}, envelope {n}: {opened:?}");
    }
    if !matches!(what, "disable" | "open only" | "shred") {
        acme.seal(b"x", &row(1)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_cut_off_at_any_write_is_made_whole_by_asking_again() {
    let mut cuts = 0;
    for (what, deed) in deeds() {
        for fault in Fault::ALL {
            for nth in 0.. {
                let world = World::new(Shaky::new());
                let sealed = world.account().await;
                let id = KekId::from_bytes(sealed[0][4..20].try_into().unwrap());
                let keys = world.moving();
                let acme = keys.account("acme").unwrap();
                for sealed in &sealed {
                    acme.open(sealed, &row(1)).await.unwrap();
                }
                world.store.fail_write(nth, fault);
                let doing = deed(acme.clone(), id);
                // In virtual time: a store that hangs is given up by whoever waits for it.
                let cut = tokio::time::timeout(Duration::from_secs(60), doing).await;
                settle().await;
                if world.store.take_plan() {
                    assert!(matches!(cut, Ok(Ok(()))), "{what}: {cut:?}");
                    assert!(nth > 0, "{what} writes nothing");
                    break; // there are no more writes
                }
                cuts += 1;
                match (fault, &cut) {
                    // After the write what is stored says that it was made, whatever became of the answer.
                    (Fault::HangBefore | Fault::HangAfter, Err(_)) | (Fault::After, Ok(Ok(()))) => {}
                    (Fault::Before, Ok(Err(error))) => assert!(error.is_retryable(), "{what}: {error}"),
                    _ => panic!("{what}, {fault:?} at write {nth}: {cut:?}"),
                }
                is_sound(&world, what, &sealed, false).await;
                // By another process, as after a crash.
                deed(world.moving().account("acme").unwrap(), id)
                    .await
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
                is_sound(&world, what, &sealed, true).await;
                let (states, wraps) = (world.states().await, world.wraps().await);
                match what {
                    "disable" => assert_eq!(states, [KekState::Disabled; 3]),
                    "open only" => assert_eq!(states, [KekState::Retired; 3]),
                    "destroy" => assert_eq!(states, [KekState::Destroyed, KekState::Retired, KekState::Primary]),
                    "reroot" => assert_eq!(wraps, [2; 3]),
                    "retire" => assert_eq!(wraps, [1; 3]),
                    "shred" => assert_eq!(states, [KekState::Destroyed; 3]),
                    _ => assert_eq!(states.iter().filter(|state| **state == KekState::Primary).count(), 1),
                }
            }
        }
    }
    assert!(cuts >= 4 * (3 + 1 + 1 + 1 + 3 + 6 + 1 + 1), "{cuts}");
}

fn is_contradicted(error: &LifecycleError) -> bool {
    match error {
        LifecycleError::Key(error) => {
            matches!(error, KeyError::WrongState { .. } | KeyError::SealingDisabled { .. } | KeyError::Interrupted)
        }
        error => matches!(error, LifecycleError::Contended { .. }),
    }
}

/// Three processes change one account at once, in an order that the seed decides.
#[tokio::test]
async fn changes_that_meet_leave_one_primary_and_lose_nothing() {
    let (mut sealed_in_all, mut refused_in_all) = (0, 0);
    for seed in 0..300 {
        let world = World::new(Shaky::shuffled(seed));
        let mut sealed = world.account().await;
        let processes = [world.prepared(), world.moving(), world.moving()];
        let mut tasks = Vec::new();
        for (n, keys) in processes.iter().enumerate() {
            let (acme, mut chance) = (keys.account("acme").unwrap(), fastrand::Rng::with_seed(seed * 3 + n as u64));
            let may_reroot = n > 0;
            tasks.push(tokio::spawn(async move {
                let mut sealed = Vec::new();
                let mut refused = 0;
                for _ in 0..8 {
                    let changed = match chance.usize(0..6) {
                        0 => acme.rotate().await.map(drop).map_err(LifecycleError::from),
                        1 => acme.disable().await.map(drop),
                        2 => acme.open_only().await.map(drop),
                        3 if may_reroot => acme.reroot(Reroot::Add).await.map(drop),
                        _ => acme.enable().await.map(drop),
                    };
                    if let Err(error) = changed {
                        assert!(is_contradicted(&error), "{error}");
                        refused += 1;
                    }
                    match acme.seal(b"x", &row(1)).await {
                        Ok(envelope) => sealed.push(envelope),
                        Err(SealError::Key(
                            KeyError::WrongState { .. } | KeyError::SealingDisabled { .. } | KeyError::Interrupted,
                        )) => refused += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
                (sealed, refused)
            }));
        }
        for task in tasks {
            let (more, refused) = task.await.unwrap();
            sealed_in_all += more.len();
            refused_in_all += refused;
            sealed.extend(more);
        }
        let keys = world.moving();
        let acme = keys.account("acme").unwrap();
        acme.enable().await.unwrap();
        let states = world.states().await;
        assert_eq!(states.iter().filter(|state| **state == KekState::Primary).count(), 1, "{seed}: {states:?}");
        assert_eq!(states.last(), Some(&KekState::Primary), "{seed}");
        for sealed in &sealed {
            assert_eq!(acme.open(sealed, &row(1)).await.unwrap(), b"x", "{seed}");
        }
    }
    assert!(sealed_in_all > 1_000 && refused_in_all > 1_000, "{sealed_in_all} {refused_in_all}");
}

/// A shredding that meets everything else: it wins, and in the process that shredded nothing is left.
#[tokio::test]
async fn a_shredding_wins_against_whatever_it_meets() {
    for seed in 0..300 {
        let world = World::new(Shaky::shuffled(seed));
        let sealed = world.account().await;
        let [shredding, other] = [world.moving(), world.moving()];
        let [here, there] = [&shredding, &other].map(|keys| keys.account("acme").unwrap());
        let racing = [here.clone(), there.clone()].map(|acme| {
            let sealed = sealed.clone();
            tokio::spawn(async move {
                // Whatever these answer: it must be one of the documented reasons, checked below by the store's state.
                let _ = acme.open(&sealed[0], &row(1)).await;
                let _ = acme.rotate().await;
                let _ = acme.reroot(Reroot::Add).await;
                let _ = acme.disable().await;
                let _ = acme.seal(b"x", &row(1)).await;
                let _ = acme.enable().await;
                let _ = acme.open(&sealed[2], &row(1)).await;
            })
        });
        for _ in 0..seed % 60 {
            tokio::task::yield_now().await;
        }
        let shredded = here.shred().await.unwrap();
        for task in racing {
            task.await.unwrap();
        }
        settle().await;
        assert_eq!(shredding.memory().slots_used, 0, "{seed}");
        let copy = world.store.inner.export(&path(["acme"])).await.unwrap().unwrap();
        assert!(copy.records.iter().all(|record| record.state == KekState::Destroyed && record.wraps.is_empty()));
        assert_eq!(copy.tombstone, Some(shredded.tombstone), "{seed}");
        let OpenError::Key(refused) = here.open(&sealed[0], &row(1)).await.unwrap_err() else { panic!() };
        assert!(matches!(refused, KeyError::Shredded(_)), "{seed}: {refused}");
        // Elsewhere at its deadline, and nothing was renewed.
        world.clock.advance(common::TTL);
        let OpenError::Key(refused) = there.open(&sealed[0], &row(1)).await.unwrap_err() else { panic!() };
        assert!(matches!(refused, KeyError::Shredded(_)), "{seed}: {refused}");
        assert_eq!(other.memory().slots_used, 0, "{seed}");
    }
}
