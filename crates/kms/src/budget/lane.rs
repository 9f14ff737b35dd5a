//! Who is next among those who wait: accounts take turns, and within an account the nearest deadline goes first.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

/// One place in the queue: by deadline, then by arrival.
pub(super) type Place = (Duration, u64);

/// Those who wait with the same urgency. All operations take logarithmic time.
#[derive(Debug, Default)]
pub(super) struct Lane {
    lines: HashMap<Arc<str>, Line>,
    /// Whose turn comes when; the first is next.
    turns: BTreeMap<u64, Arc<str>>,
    next_turn: u64,
    /// The longest line is last.
    by_len: BTreeSet<(usize, Arc<str>)>,
    len: usize,
}

#[derive(Debug)]
struct Line {
    turn: u64,
    places: BTreeSet<Place>,
}

impl Lane {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn len_of(&self, account: &str) -> usize {
        self.lines.get(account).map_or(0, |line| line.places.len())
    }

    /// The account's name as it is already held here, so that a long line holds it once.
    pub(super) fn name(&self, account: &str) -> Option<Arc<str>> {
        self.lines.get_key_value(account).map(|(name, _)| Arc::clone(name))
    }

    pub(super) fn push(&mut self, account: &Arc<str>, place: Place) {
        let (turns, next_turn) = (&mut self.turns, &mut self.next_turn);
        let line = self.lines.entry(Arc::clone(account)).or_insert_with(|| {
            let turn = *next_turn;
            *next_turn += 1;
            turns.insert(turn, Arc::clone(account));
            Line { turn, places: BTreeSet::new() }
        });
        let before = line.places.len();
        line.places.insert(place);
        self.len += 1;
        self.moved(account, before, before + 1);
    }

    /// Takes out who is next, and sends the account to the end.
    pub(super) fn pop(&mut self) -> Option<u64> {
        let (_, account) = self.turns.pop_first()?;
        let line = self.lines.get_mut(&account).expect("who has a turn has a line");
        let before = line.places.len();
        let (_, id) = line.places.pop_first().expect("a line is not empty");
        self.len -= 1;
        if before == 1 {
            self.lines.remove(&account);
        } else {
            line.turn = self.next_turn;
            self.next_turn += 1;
            self.turns.insert(line.turn, Arc::clone(&account));
        }
        self.moved(&account, before, before - 1);
        Some(id)
    }

    pub(super) fn remove(&mut self, account: &Arc<str>, place: Place) {
        let Some(line) = self.lines.get_mut(account) else { return };
        let before = line.places.len();
        if !line.places.remove(&place) {
            return;
        }
        self.len -= 1;
        if before == 1 {
            self.turns.remove(&line.turn);
            self.lines.remove(account);
        }
        self.moved(account, before, before - 1);
    }

    /// The longest line: its length, its account, and its last place.
    pub(super) fn longest(&self) -> Option<(usize, Place)> {
        let (len, account) = self.by_len.last()?;
        let last = self.lines.get(account)?.places.last()?;
        Some((*len, *last))
    }

    fn moved(&mut self, account: &Arc<str>, from: usize, to: usize) {
        if from > 0 {
            self.by_len.remove(&(from, Arc::clone(account)));
        }
        if to > 0 {
            self.by_len.insert((to, Arc::clone(account)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, id: u64) -> Place {
        (Duration::from_secs(seconds), id)
    }

    fn lane(places: &[(&str, Place)]) -> Lane {
        let mut lane = Lane::default();
        for (account, place) in places {
            lane.push(&Arc::from(*account), *place);
        }
        lane
    }

    fn drain(mut lane: Lane) -> Vec<u64> {
        let order = std::iter::from_fn(|| lane.pop()).collect();
        assert!(lane.is_empty() && lane.lines.is_empty() && lane.turns.is_empty() && lane.by_len.is_empty());
        order
    }

    #[test]
    fn accounts_take_turns_and_the_nearest_deadline_goes_first() {
        let lane = lane(&[("a", at(3, 1)), ("a", at(1, 2)), ("a", at(2, 3)), ("b", at(9, 4)), ("c", at(9, 5))]);
        assert_eq!(drain(lane), [2, 4, 5, 3, 1]);
    }

    #[test]
    fn who_leaves_is_not_called_and_keeps_nobody_waiting() {
        let mut lane = lane(&[("a", at(1, 1)), ("b", at(1, 2)), ("b", at(2, 3)), ("c", at(1, 4))]);
        lane.remove(&Arc::from("a"), at(1, 1));
        lane.remove(&Arc::from("b"), at(1, 2));
        lane.remove(&Arc::from("b"), at(1, 2));
        lane.remove(&Arc::from("nobody"), at(1, 9));
        assert_eq!((lane.len(), lane.len_of("b")), (2, 1));
        assert_eq!(drain(lane), [3, 4]);
    }

    #[test]
    fn the_longest_line_is_known() {
        let mut lane = lane(&[("a", at(1, 1)), ("b", at(1, 2)), ("b", at(2, 3))]);
        assert_eq!(lane.longest(), Some((2, at(2, 3))));
        lane.push(&Arc::from("a"), at(5, 4));
        lane.push(&Arc::from("a"), at(4, 5));
        assert_eq!(lane.longest(), Some((3, at(5, 4))));
    }
}
