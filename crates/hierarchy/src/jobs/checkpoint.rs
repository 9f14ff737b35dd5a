//! Where a job is, as a line of text.

use std::{fmt, str::FromStr, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use keystrata_primitives::{KekId, KeyPath, RootKeyId, wire};

use super::{Tally, Task};
use crate::{
    lifecycle::Reroot,
    store::{KekStore, WrapperQuery},
};

/// What a checkpoint begins with: its form and the version of that.
const PREFIX: &str = "kscp";
const VERSION: &str = "1";

/// From where a job can be taken up: a line of text of at most some kilobytes, written with `to_string` and read with
/// `parse`. Holds nothing secret; it names the account that the job was at.
///
/// It belongs to one job on one store, as far as can be told: what is to be done, and a KEK that the store had at that
/// place. A store that was restored from a backup of before takes it, and has accounts that were done and are not any more:
/// begin anew then, which costs a read for each account that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    task: Task,
    is_dry: bool,
    place: Option<KeyPath>,
    /// A KEK that the store had at the place, or before it. Its record stays there for good, whatever becomes of it.
    anchor: Option<(KeyPath, KekId)>,
    tally: Tally,
}

/// Why a checkpoint was refused. Nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The text is not a checkpoint, or not all of one.
    #[error("not a checkpoint of a job, or not all of one: begin the job anew")]
    Malformed,
    /// A checkpoint of another version of the form.
    #[error("a checkpoint of version {0} is unknown; a newer release of keystrata may know it")]
    UnknownVersion(String),
    /// It is of a job that does something else.
    #[error("the checkpoint is of another job: of {of:?}{}, and this is to be {asked:?}", if *is_dry { ", dry" } else { "" })]
    OtherJob {
        /// What that job does.
        of: Box<Task>,
        /// Whether it only counts.
        is_dry: bool,
        /// What this one is to do.
        asked: Box<Task>,
    },
    /// It is of a job on another store, or this store was restored from before.
    #[error("the checkpoint is of another store: this one has no KEK {kek_id} of account {path}")]
    OtherStore {
        /// The account that the job was at.
        path: KeyPath,
        /// A KEK that it had there.
        kek_id: KekId,
    },
    /// The store could not be asked.
    #[error("the store could not be asked whether the checkpoint is its own: {0}")]
    Unchecked(String),
}

impl Checkpoint {
    pub(super) fn first(task: Task, is_dry: bool) -> Self {
        Self { task, is_dry, place: None, anchor: None, tally: Tally::default() }
    }

    /// What the job has done so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    pub(super) fn place(&self) -> Option<&KeyPath> {
        self.place.as_ref()
    }

    /// The checkpoint, if it is of this job and this store.
    pub(super) async fn checked(
        self,
        task: &Task,
        is_dry: bool,
        store: &dyn KekStore,
    ) -> Result<Self, CheckpointError> {
        if self.task != *task || self.is_dry != is_dry {
            let (of, asked) = (Box::new(self.task), Box::new(task.clone()));
            return Err(CheckpointError::OtherJob { of, is_dry: self.is_dry, asked });
        }
        if let Some((path, kek_id)) = &self.anchor {
            let copy = store.export(path).await.map_err(|error| CheckpointError::Unchecked(error.to_string()))?;
            if !copy.is_some_and(|copy| copy.records.iter().any(|record| record.identity.id == *kek_id)) {
                return Err(CheckpointError::OtherStore { path: path.clone(), kek_id: *kek_id });
            }
        }
        Ok(self)
    }

    pub(super) async fn move_on(&mut self, place: Option<&KeyPath>, tally: Tally, store: &dyn KekStore) {
        (self.place, self.tally) = (place.cloned(), tally);
        let Some(place) = place else { return };
        // One that cannot be read is no anchor; the earlier one holds.
        if let Ok(Some(copy)) = store.export(place).await
            && let Some(first) = copy.records.first()
        {
            self.anchor = Some((place.clone(), first.identity.id));
        }
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Vec::new();
        let (kind, step, age, under) = match &self.task {
            Task::Reroot { step, under } => (1, *step as u8 + 1, Duration::ZERO, under.as_ref()),
            Task::RotateOlderThan(age) => (2, 0, *age, None),
        };
        out.extend_from_slice(&[kind, step, u8::from(self.is_dry)]);
        out.extend_from_slice(&age.as_secs().to_le_bytes());
        out.extend_from_slice(&age.subsec_nanos().to_le_bytes());
        for count in counts(&self.tally) {
            out.extend_from_slice(&count.to_le_bytes());
        }
        match under {
            None => out.push(0),
            Some(WrapperQuery::Root(id)) => {
                out.push(1);
                wire::put_str(&mut out, id.as_str().as_bytes());
            }
            Some(WrapperQuery::Kek { path, kek_id }) => {
                out.push(2);
                wire::put_str(&mut out, path.as_bytes());
                out.extend_from_slice(kek_id.as_bytes());
            }
            Some(WrapperQuery::Path(path)) => {
                out.push(3);
                wire::put_str(&mut out, path.as_bytes());
            }
        }
        wire::put_str(&mut out, self.place.as_ref().map_or(&[][..], KeyPath::as_bytes));
        match &self.anchor {
            None => out.push(0),
            Some((path, kek_id)) => {
                out.push(1);
                wire::put_str(&mut out, path.as_bytes());
                out.extend_from_slice(kek_id.as_bytes());
            }
        }
        out.extend_from_slice(&checksum(&out).to_le_bytes());
        write!(f, "{PREFIX}{VERSION}.{}", URL_SAFE_NO_PAD.encode(out))
    }
}

impl FromStr for Checkpoint {
    type Err = CheckpointError;

    fn from_str(text: &str) -> Result<Self, CheckpointError> {
        let rest = text.trim_ascii_end().strip_prefix(PREFIX).ok_or(CheckpointError::Malformed)?;
        let (version, body) = rest.split_once('.').ok_or(CheckpointError::Malformed)?;
        if version != VERSION {
            let is_number = (1..=9).contains(&version.len()) && version.bytes().all(|byte| byte.is_ascii_digit());
            let unknown = CheckpointError::UnknownVersion(version.to_owned());
            return Err(if is_number { unknown } else { CheckpointError::Malformed });
        }
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| CheckpointError::Malformed)?;
        read(&bytes).ok_or(CheckpointError::Malformed)
    }
}

fn read(bytes: &[u8]) -> Option<Checkpoint> {
    let (body, sum) = bytes.split_last_chunk()?;
    let mut r = Reader((checksum(body) == u64::from_le_bytes(*sum)).then_some(body)?);
    let [kind, step, dry] = r.array()?;
    let age = Duration::from_secs(u64::from_le_bytes(r.array()?));
    let nanos = u32::from_le_bytes(r.array()?);
    let age = age.checked_add(Duration::from_nanos(nanos.into()))?;
    let mut tally = Tally::default();
    for count in counts_mut(&mut tally) {
        *count = u64::from_le_bytes(r.array()?);
    }
    let under = match r.array()? {
        [0] => None,
        [1] => Some(WrapperQuery::Root(RootKeyId::new(std::str::from_utf8(r.bytes()?).ok()?).ok()?)),
        [2] => Some(WrapperQuery::Kek { path: r.path()?, kek_id: r.kek_id()? }),
        [3] => Some(WrapperQuery::Path(r.path()?)),
        _ => return None,
    };
    let task = match (kind, step, under) {
        (1, 1, under) => Task::Reroot { step: Reroot::Add, under },
        (1, 2, under) => Task::Reroot { step: Reroot::Retire, under },
        (1, 3, under) => Task::Reroot { step: Reroot::VerifyAndRetire, under },
        (2, 0, None) => Task::RotateOlderThan(age),
        _ => return None,
    };
    let place = match r.bytes()? {
        [] => None,
        path => Some(KeyPath::from_bytes(path).ok()?),
    };
    let anchor = match r.array()? {
        [0] => None,
        [1] => Some((r.path()?, r.kek_id()?)),
        _ => return None,
    };
    let is_dry = [false, true].get(usize::from(dry)).copied()?;
    r.0.is_empty().then_some(Checkpoint { task, is_dry, place, anchor, tally })
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(u32::from_le_bytes(self.array()?)).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn path(&mut self) -> Option<KeyPath> {
        KeyPath::from_bytes(self.bytes()?).ok()
    }

    fn kek_id(&mut self) -> Option<KekId> {
        self.array().map(KekId::from_bytes)
    }
}

fn counts(tally: &Tally) -> [u64; 6] {
    let Tally { accounts, changed, unchanged, failed, added, dropped } = *tally;
    [accounts, changed, unchanged, failed, added, dropped]
}

fn counts_mut(tally: &mut Tally) -> [&mut u64; 6] {
    let Tally { accounts, changed, unchanged, failed, added, dropped } = tally;
    [accounts, changed, unchanged, failed, added, dropped]
}

/// FNV-1a, against a line that was cut or mistyped. Nobody is kept from writing one of his own.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoints() -> Vec<Checkpoint> {
        let path = KeyPath::new(["acme", "größe/\0"]).unwrap();
        let kek_id = KekId::from_bytes([7; 16]);
        let root = WrapperQuery::Root(RootKeyId::new("aws-kms:arn").unwrap());
        let tasks = [
            Task::Reroot { step: Reroot::Add, under: None },
            Task::Reroot { step: Reroot::Retire, under: Some(root) },
            Task::Reroot { step: Reroot::VerifyAndRetire, under: Some(WrapperQuery::Path(path.clone())) },
            Task::Reroot { step: Reroot::Add, under: Some(WrapperQuery::Kek { path: path.clone(), kek_id }) },
            Task::RotateOlderThan(Duration::new(86_400, 5)),
        ];
        let full = |task: Task| Checkpoint {
            place: Some(path.clone()),
            anchor: Some((path.clone(), kek_id)),
            tally: Tally { accounts: 9, changed: 1, unchanged: 7, failed: 1, added: 2, dropped: u64::MAX },
            ..Checkpoint::first(task, true)
        };
        tasks.iter().flat_map(|task| [Checkpoint::first(task.clone(), false), full(task.clone())]).collect()
    }

    #[test]
    fn every_checkpoint_reads_back() {
        for checkpoint in checkpoints() {
            let text = checkpoint.to_string();
            assert_eq!(text.parse().as_ref(), Ok(&checkpoint));
            assert_eq!(format!("{text}\n").parse(), Ok(checkpoint));
        }
    }

    #[test]
    fn what_is_cut_altered_or_of_another_version_is_refused() {
        for checkpoint in checkpoints() {
            let text = checkpoint.to_string();
            for len in 0..text.len() {
                assert_eq!(text[..len].parse::<Checkpoint>(), Err(CheckpointError::Malformed), "{}", &text[..len]);
            }
            for at in 6..text.len() {
                let mut altered = text.clone().into_bytes();
                altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
                let altered = String::from_utf8(altered).unwrap();
                assert_eq!(altered.parse::<Checkpoint>(), Err(CheckpointError::Malformed), "{altered}");
            }
            let newer = text.replacen("kscp1", "kscp2", 1);
            assert_eq!(newer.parse::<Checkpoint>(), Err(CheckpointError::UnknownVersion("2".into())));
        }
    }
}
