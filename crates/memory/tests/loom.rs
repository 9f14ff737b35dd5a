//! The slot protocol under every interleaving and every stale read that the memory model allows.
//!
//! `RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test -p keystrata-memory --release --test loom`
#![cfg(loom)]

use keystrata_memory::{pool::Pool, raw::RawSlot};
use loom::{
    sync::{Arc, Mutex},
    thread,
};

const OURS: [u8; 32] = [0xaa; 32];
const THEIRS: [u8; 32] = [0x55; 32];

/// A slot that holds `OURS` as generation 2.
fn slot() -> Arc<RawSlot> {
    let slot = Arc::new(RawSlot::new());
    slot.publish(2, &OURS);
    slot
}

/// The whole key, or a miss that left nothing in the buffer.
fn assert_whole_or_missed(slot: &RawSlot, generation: u64, key: [u8; 32]) -> bool {
    let mut copy = [0xff; 32];
    let hit = slot.read(generation, &mut copy);
    assert_eq!(copy, if hit { key } else { [0; 32] });
    hit
}

/// Three threads: two preemptions each are enough to place any step of one between any two of another.
fn bounded(f: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(f);
}

#[test]
fn reader_against_wiper_gets_the_whole_key_or_nothing() {
    loom::model(|| {
        let slot = slot();
        let wiper = thread::spawn({
            let slot = Arc::clone(&slot);
            move || assert!(slot.claim_and_wipe(2))
        });
        assert_whole_or_missed(&slot, 2, OURS);
        wiper.join().unwrap();
        assert!(!assert_whole_or_missed(&slot, 2, OURS));
        assert_eq!(slot.words(), [0; 4]);
    });
}

#[test]
fn reader_never_gets_the_key_of_the_next_tenant() {
    loom::model(|| {
        let slot = slot();
        let reuser = thread::spawn({
            let slot = Arc::clone(&slot);
            move || {
                assert!(slot.claim_and_wipe(2));
                slot.publish(4, &THEIRS);
            }
        });
        assert_whole_or_missed(&slot, 2, OURS);
        assert_whole_or_missed(&slot, 4, THEIRS);
        reuser.join().unwrap();
        assert!(!assert_whole_or_missed(&slot, 2, OURS));
        assert!(assert_whole_or_missed(&slot, 4, THEIRS));
    });
}

#[test]
fn slot_wiped_by_one_thread_and_reused_by_another_misses_for_the_old_reader() {
    bounded(|| {
        let slot = slot();
        let is_free = Arc::new(Mutex::new(false));
        let wiper = thread::spawn({
            let (slot, is_free) = (Arc::clone(&slot), Arc::clone(&is_free));
            move || {
                assert!(slot.claim_and_wipe(2));
                *is_free.lock().unwrap() = true;
            }
        });
        let storer = thread::spawn({
            let slot = Arc::clone(&slot);
            move || {
                let taken = *is_free.lock().unwrap();
                if taken {
                    slot.publish(4, &THEIRS);
                }
                taken
            }
        });
        assert_whole_or_missed(&slot, 2, OURS);
        wiper.join().unwrap();
        let reused = storer.join().unwrap();
        assert!(!assert_whole_or_missed(&slot, 2, OURS));
        assert_eq!(assert_whole_or_missed(&slot, 4, THEIRS), reused);
    });
}

#[test]
fn exactly_one_of_two_wipers_wins() {
    loom::model(|| {
        let slot = slot();
        let other = thread::spawn({
            let slot = Arc::clone(&slot);
            move || slot.claim_and_wipe(2)
        });
        let won = slot.claim_and_wipe(2);
        assert!(won ^ other.join().unwrap());
        assert_eq!(slot.words(), [0; 4]);
    });
}

#[test]
fn late_wiper_of_the_old_key_leaves_the_next_tenant_alone() {
    loom::model(|| {
        let slot = slot();
        let late = thread::spawn({
            let slot = Arc::clone(&slot);
            move || slot.claim_and_wipe(2)
        });
        // The slot is stored into only by whoever won it.
        let won = slot.claim_and_wipe(2);
        if won {
            slot.publish(4, &THEIRS);
        }
        assert!(won ^ late.join().unwrap());
        assert_eq!(assert_whole_or_missed(&slot, 4, THEIRS), won);
    });
}

/// A chunk of one slot, as the arena has them, and what it was numbered.
struct Chunk {
    number: usize,
    slot: RawSlot,
}

/// Two chunks whose keys are wiped at once by two threads, while a reader looks at one by a handle of its own: of the two
/// one leaves the pool, the reader's stays whole as long as it looks, and who stores next gets a slot that is dead.
#[test]
fn chunk_that_leaves_the_pool_is_not_given_out_and_stays_for_its_reader() {
    bounded(|| {
        let mut pool = Pool::<Arc<Chunk>>::default();
        let mut taken = Vec::new();
        for generation in [2, 4] {
            let vacancy = pool.vacancy(1).unwrap();
            let number = vacancy.number();
            pool.fill(vacancy, Arc::new(Chunk { number, slot: RawSlot::new() }), 1);
            let (chunk, _) = pool.take().unwrap();
            chunk.slot.publish(generation, &OURS);
            taken.push(chunk);
        }
        let pool = Arc::new(Mutex::new(pool));
        let (second, first) = (taken.pop().unwrap(), taken.pop().unwrap());
        let reader = Arc::clone(&second);
        let wipe = |chunk: Arc<Chunk>, generation| {
            let pool = Arc::clone(&pool);
            move || {
                assert!(chunk.slot.claim_and_wipe(generation));
                let leaving = pool.lock().unwrap().give_back(chunk.number, 0);
                leaving.is_some()
            }
        };
        let wiper = thread::spawn(wipe(second, 4));
        let other = wipe(first, 2)();
        assert_whole_or_missed(&reader.slot, 4, OURS);
        // Takes what there is: never the chunk that left.
        let next = pool.lock().unwrap().take();
        if let Some((chunk, _)) = &next {
            assert!(!chunk.slot.holds(2) && !chunk.slot.holds(4));
            chunk.slot.publish(6, &THEIRS);
        }
        let left = wiper.join().unwrap();
        assert!(!assert_whole_or_missed(&reader.slot, 4, OURS));
        // The first was taken again before the second came back, or one of the two left.
        assert!(left | other | next.is_some());
        if let Some((chunk, _)) = next {
            assert!(assert_whole_or_missed(&chunk.slot, 6, THEIRS));
        }
    });
}
