//! Which slots of which chunk are free. No memory is touched here, so that loom can check what is done with it.

use std::collections::TryReserveError;

const WORD_BITS: usize = u64::BITS as usize;

/// The chunks of an arena by number, and the free slots of each.
///
/// Slots come from the chunk of the lowest number that has any, so that the later chunks empty as keys go. Of the chunks
/// without a key one is kept, so that a cache whose size goes up and down by one key does not map and unmap.
pub struct Pool<C> {
    chunks: Vec<Option<Entry<C>>>,
    /// The numbers that no chunk has, with room for all.
    vacant: Vec<usize>,
    /// One bit for each chunk: whether it has a free slot.
    available: Vec<u64>,
    /// The chunk that has no key, if there is one.
    spare: Option<usize>,
}

struct Entry<C> {
    chunk: C,
    slots: usize,
    /// Has room for all of them, so that a wipe never allocates.
    free: Vec<u16>,
}

impl<C> Entry<C> {
    fn is_unused(&self) -> bool {
        self.free.len() == self.slots
    }
}

/// A place for one more chunk, found and paid for: filling it cannot fail.
pub struct Vacancy {
    number: usize,
    free: Vec<u16>,
}

impl Vacancy {
    /// The number of the chunk to come.
    pub fn number(&self) -> usize {
        self.number
    }
}

impl<C> Default for Pool<C> {
    fn default() -> Self {
        Self { chunks: Vec::new(), vacant: Vec::new(), available: Vec::new(), spare: None }
    }
}

impl<C: Clone> Pool<C> {
    /// Slots that a chunk may have.
    pub const MAX_SLOTS: usize = 1 << u16::BITS;

    /// Whether [`take`](Self::take) would find one.
    pub fn has_free(&self) -> bool {
        self.available.iter().any(|word| *word != 0)
    }

    /// Takes a free slot: its chunk and its number in there.
    pub fn take(&mut self) -> Option<(C, usize)> {
        let (word, bits) = self.available.iter().enumerate().find(|(_, bits)| **bits != 0)?;
        let number = word * WORD_BITS + bits.trailing_zeros() as usize;
        let entry = self.chunks[number].as_mut()?;
        let slot = entry.free.pop()?;
        let taken = (entry.chunk.clone(), usize::from(slot));
        let is_full = entry.free.is_empty();
        if self.spare == Some(number) {
            self.spare = None;
        }
        if is_full {
            self.mark(number, false);
        }
        Some(taken)
    }

    /// Takes back a slot that [`take`](Self::take) gave. Returns a chunk that is no longer of the pool, if this left two
    /// without a key: the larger one goes.
    pub fn give_back(&mut self, number: usize, slot: usize) -> Option<C> {
        let entry = self.chunks.get_mut(number)?.as_mut()?;
        debug_assert!(slot < entry.slots && entry.free.len() < entry.slots, "given back once too often");
        entry.free.push(u16::try_from(slot).ok()?);
        let (is_unused, slots) = (entry.is_unused(), entry.slots);
        self.mark(number, true);
        if !is_unused {
            return None;
        }
        let Some(spare) = self.spare else {
            self.spare = Some(number);
            return None;
        };
        let spare_slots = self.chunks[spare].as_ref().map_or(0, |entry| entry.slots);
        // Of two alike the later: slots are taken from the earlier first.
        let (kept, leaving) = if (spare_slots, spare) < (slots, number) { (spare, number) } else { (number, spare) };
        self.spare = Some(kept);
        self.mark(leaving, false);
        self.vacant.push(leaving);
        self.chunks[leaving].take().map(|entry| entry.chunk)
    }

    /// Finds a place for a chunk of `slots` slots.
    ///
    /// # Errors
    /// If the heap has no memory for the bookkeeping.
    pub fn vacancy(&mut self, slots: usize) -> Result<Vacancy, TryReserveError> {
        let number = self.vacant.last().copied().unwrap_or(self.chunks.len());
        let mut free = Vec::new();
        free.try_reserve_exact(slots)?;
        self.chunks.try_reserve(1)?;
        self.vacant.try_reserve((self.chunks.len() + 1).saturating_sub(self.vacant.len()))?;
        self.available.try_reserve(1)?;
        Ok(Vacancy { number, free })
    }

    /// Adds a chunk whose `slots` slots are all free; at most [`MAX_SLOTS`](Self::MAX_SLOTS).
    pub fn fill(&mut self, vacancy: Vacancy, chunk: C, slots: usize) {
        let Vacancy { number, mut free } = vacancy;
        // In reverse, so that slots are used from the start of the chunk.
        free.extend((0..slots).rev().filter_map(|slot| u16::try_from(slot).ok()));
        let entry = Entry { chunk, slots: free.len(), free };
        if number == self.chunks.len() {
            self.chunks.push(Some(entry));
        } else {
            self.vacant.pop(); // the one that the vacancy named
            self.chunks[number] = Some(entry);
        }
        if number / WORD_BITS == self.available.len() {
            self.available.push(0);
        }
        self.mark(number, true);
        self.spare = Some(number);
    }

    /// The chunks there are.
    #[cfg(test)]
    pub fn chunks(&self) -> impl Iterator<Item = &C> {
        self.chunks.iter().flatten().map(|entry| &entry.chunk)
    }

    fn mark(&mut self, number: usize, is_available: bool) {
        let bit = 1 << (number % WORD_BITS);
        let word = &mut self.available[number / WORD_BITS];
        *word = if is_available { *word | bit } else { *word & !bit };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn grow(pool: &mut Pool<usize>, slots: usize) -> usize {
        let vacancy = pool.vacancy(slots).unwrap();
        let number = vacancy.number();
        pool.fill(vacancy, number, slots);
        number
    }

    #[test]
    fn slots_come_from_the_first_chunk_that_has_any() {
        let mut pool = Pool::default();
        for slots in [2, 3] {
            assert!(!pool.has_free());
            let number = grow(&mut pool, slots);
            for slot in 0..slots {
                assert_eq!(pool.take(), Some((number, slot)));
            }
            assert_eq!(pool.take(), None);
        }
        assert_eq!(pool.give_back(1, 2), None);
        assert_eq!(pool.give_back(0, 1), None);
        assert_eq!([pool.take(), pool.take(), pool.take()], [Some((0, 1)), Some((1, 2)), None]);
    }

    #[test]
    fn of_two_unused_chunks_the_larger_leaves_and_its_number_is_used_again() {
        let mut pool = Pool::default();
        for slots in [1, 2] {
            grow(&mut pool, slots);
            while pool.take().is_some() {}
        }
        assert_eq!(pool.give_back(1, 0), None);
        assert_eq!(pool.give_back(1, 1), None, "the one unused chunk stays");
        assert_eq!(pool.give_back(0, 0), Some(1));
        assert_eq!([pool.take(), pool.take()], [Some((0, 0)), None]);
        assert_eq!(grow(&mut pool, 1), 1);
        assert_eq!([pool.take(), pool.take()], [Some((1, 0)), None]);
    }

    #[test]
    fn a_size_that_goes_up_and_down_by_one_neither_adds_nor_removes_a_chunk() {
        let mut pool = Pool::default();
        for _ in 0..2 {
            grow(&mut pool, 1);
            pool.take();
        }
        for _ in 0..10 {
            assert_eq!(pool.give_back(1, 0), None);
            assert_eq!(pool.take(), Some((1, 0)));
        }
    }

    #[test]
    fn no_slot_is_given_twice_and_none_is_lost_over_many_chunks() {
        let mut pool = Pool::default();
        let mut held = HashSet::new();
        let mut random = 1_u64;
        for step in 0..200_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Grows past two words of the bits, shrinks to nothing, and so on.
            let grows = (step / 20_000) % 2 == 0;
            if (random >> 33) % 4 < if grows { 3 } else { 1 } {
                if !pool.has_free() {
                    grow(&mut pool, 1 + usize::try_from(random >> 60).unwrap() * 4);
                }
                assert!(held.insert(pool.take().unwrap()));
            } else if let Some(&(number, slot)) = held.iter().next() {
                held.remove(&(number, slot));
                let left = pool.give_back(number, slot);
                assert!(left.is_none_or(|gone| held.iter().all(|(number, _)| *number != gone)));
            }
        }
        let free = pool.chunks.iter().flatten().map(|entry| entry.free.len()).sum::<usize>();
        let slots = pool.chunks.iter().flatten().map(|entry| entry.slots).sum::<usize>();
        assert_eq!(free + held.len(), slots);
        for (number, slot) in held {
            pool.give_back(number, slot);
        }
        assert_eq!(pool.chunks().count(), 1, "the spare");
    }
}
