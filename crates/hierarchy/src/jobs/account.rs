//! What a job does to one account.

use std::sync::Arc;

use keystrata_primitives::{KekState, KeyPath};

use super::Task;
use crate::{
    engine::{Engine, audited::Actor},
    error::KeyError,
    lifecycle::{LifecycleError, Rerooted},
    store::PathHead,
};

/// What was done to it.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// It was shredded, or is not there any more.
    pub(super) is_gone: bool,
    pub(super) is_changed: bool,
    pub(super) added: u64,
    pub(super) dropped: u64,
}

impl From<Rerooted> for Done {
    fn from(rerooted: Rerooted) -> Self {
        let [added, dropped] = [rerooted.added, rerooted.dropped].map(|count| count as u64);
        Self { is_gone: false, is_changed: rerooted.changed > 0, added, dropped }
    }
}

impl Engine {
    /// `head` is what was listed of it, if it was listed by heads.
    pub(super) async fn work_on(
        self: &Arc<Self>,
        path: &KeyPath,
        head: Option<PathHead>,
        task: &Task,
        is_dry: bool,
        actor: &Actor,
    ) -> Result<Done, LifecycleError> {
        if head.as_ref().is_some_and(|head| head.tombstone.is_some()) {
            return Ok(Done { is_gone: true, ..Done::default() });
        }
        let account = self.account(path);
        let worked = match task {
            Task::Reroot { step, .. } if is_dry => self.reroot_plan(&account, *step).await.map(Done::from),
            Task::Reroot { step, .. } => self.reroot_behind(&account, *step, actor).await.map(Done::from),
            Task::RotateOlderThan(age) => {
                // Without a primary that seals there is nothing that anybody would still add to.
                let primary = head.and_then(|head| head.primary).filter(|primary| primary.state == KekState::Primary);
                let is_old = primary.is_some_and(|primary| self.is_older(&primary, *age));
                let is_changed = is_old && (is_dry || self.rotate_old(&account, *age, actor).await?);
                Ok(Done { is_changed, ..Done::default() })
            }
        };
        match worked {
            Err(LifecycleError::Key(KeyError::Shredded(_) | KeyError::NoAccount { .. })) => {
                Ok(Done { is_gone: true, ..Done::default() })
            }
            worked => worked,
        }
    }
}
