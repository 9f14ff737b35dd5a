//! Who makes room where the queue is full, and what a refusal says.

use std::time::Duration;

use keystrata_hierarchy::Urgency;

use super::{Queue, State};
use crate::budget::rules::{Reason, Refusal};

impl Queue {
    /// Gives a newcomer a place. If there is none, the last of the longest line makes room, background first: an account
    /// with many calls must not keep out one with few.
    pub(super) fn make_room(&mut self, account: &str, urgency: Urgency) -> Result<(), Refusal> {
        // By the present rate: a queue as long as the whole quota serves would keep everybody until the deadline.
        if self.waiting() < self.rules.places(self.per_second()) {
            return Ok(());
        }
        let victims = if self.background.is_empty() { Urgency::Foreground } else { Urgency::Background };
        let own = self.lane(urgency).len_of(account) + 1;
        let longest = self.lane(victims).longest();
        match longest {
            Some((len, (_, last))) if urgency > victims || (urgency == victims && own < len) => {
                self.refuse(last, Reason::QueueFull);
                Ok(())
            }
            _ => Err(self.refusal(Reason::QueueFull)),
        }
    }

    pub(super) fn refuse(&mut self, id: u64, reason: Reason) {
        let refusal = self.refusal(reason);
        if let Some(mut entry) = self.entries.remove(&id) {
            self.step_out(&entry, id);
            entry.state = State::Refused(refusal);
            self.entries.insert(id, entry);
            self.counts.refused += 1;
            self.wake(id);
        }
    }

    fn refusal(&self, reason: Reason) -> Refusal {
        let waiting = self.waiting();
        #[expect(clippy::cast_precision_loss, reason = "it is an estimate")]
        let seconds = (waiting + 1) as f64 / self.per_second();
        Refusal { reason, waiting, retry_after: Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX) }
    }
}
