//! Requests in order of time, though their log has them in order of their ends.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use super::Record;

/// Holds requests back until none that is earlier can come.
pub(super) struct Reordered {
    by_time: BinaryHeap<Reverse<(i128, u64, Record)>>,
    window: i128,
    latest: i128,
    written: i128,
    number: u64,
}

impl Reordered {
    pub(super) fn new(window: Duration) -> Self {
        let window = i128::try_from(window.as_nanos()).unwrap_or(i128::MAX);
        Self { by_time: BinaryHeap::new(), window, latest: i128::MIN, written: i128::MIN, number: 0 }
    }

    /// Takes one in, unless its place has been passed.
    pub(super) fn push(&mut self, time: i128, record: Record) -> Result<(), String> {
        if time < self.written {
            return Err("its time is further back than lines are put in order over".into());
        }
        self.latest = self.latest.max(time);
        self.number += 1;
        self.by_time.push(Reverse((time, self.number, record)));
        Ok(())
    }

    /// The next one, if none that is earlier may still come.
    pub(super) fn ready(&mut self) -> Option<(i128, Record)> {
        let Reverse((time, ..)) = self.by_time.peek()?;
        if time.saturating_add(self.window) > self.latest { None } else { self.last() }
    }

    /// The next one, when no more come.
    pub(super) fn last(&mut self) -> Option<(i128, Record)> {
        let Reverse((time, _, record)) = self.by_time.pop()?;
        self.written = time;
        Some((time, record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_put_in_order_and_what_is_not_is_refused() {
        let mut reordered = Reordered::new(Duration::from_nanos(10));
        let record = || Record::default();
        let mut out = Vec::new();
        for time in [5, 3, 12, 11, 22, 40] {
            reordered.push(time, record()).unwrap();
            out.extend(std::iter::from_fn(|| reordered.ready()).map(|(time, _)| time));
        }
        assert!(reordered.push(21, record()).is_err());
        out.extend(std::iter::from_fn(|| reordered.last()).map(|(time, _)| time));
        assert_eq!(out, [3, 5, 11, 12, 22, 40]);
    }
}
