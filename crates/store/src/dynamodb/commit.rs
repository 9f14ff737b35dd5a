//! How a change is committed, and what became of one that got no answer.

use aws_sdk_dynamodb::{
    error::BuildError,
    types::{AttributeValue, Delete, Put, TransactWriteItem},
};

use super::{
    error::{Failure, Kind},
    items::{Head, Item, keyed},
    keys::Key,
    table::{LOST_ATTEMPTS, Table, pause},
};

/// Items in one transaction at most, by DynamoDB's limit.
pub(super) const TRANSACTION: usize = 100;

/// What a change of an account is based on.
#[derive(Clone, Debug)]
pub(super) enum Base {
    /// There is no such account.
    Nothing,
    /// It has this revision.
    Revision(String),
}

#[derive(Clone, Debug)]
pub(super) enum Write {
    /// Only if the item is as `only_if` says.
    Put {
        item: Item,
        only_if: Base,
    },
    Set {
        item: Item,
    },
    Delete {
        key: Key,
    },
}

impl Write {
    fn request(&self, table: &str) -> Result<TransactWriteItem, BuildError> {
        let request = TransactWriteItem::builder();
        let put = |item: &Item| Put::builder().table_name(table).set_item(Some(item.clone()));
        let request = match self {
            Self::Put { item, only_if: Base::Nothing } => {
                request.put(put(item).condition_expression("attribute_not_exists(pk)").build()?)
            }
            Self::Put { item, only_if: Base::Revision(revision) } => {
                let put = put(item).condition_expression("rev = :rev");
                request.put(put.expression_attribute_values(":rev", AttributeValue::S(revision.clone())).build()?)
            }
            Self::Set { item } => request.put(put(item).build()?),
            Self::Delete { key } => {
                request.delete(Delete::builder().table_name(table).set_key(Some(keyed(key))).build()?)
            }
        };
        Ok(request.build())
    }
}

impl Table {
    /// Changes an account by one transaction, or not at all. `head` is what its head is to be, `writes` are the others;
    /// [`Kind::Condition`] if the account is not any more as it was when the change began.
    ///
    /// Without an answer it is looked into, and sent once more if nothing has happened: the condition can hold only once.
    pub(super) async fn commit(&self, head: &Head, mut writes: Vec<Write>, base: &Base) -> Result<(), Failure> {
        writes.insert(0, Write::Put { item: head.item(), only_if: base.clone() });
        let mut lost: Option<Failure> = None;
        for attempt in 1..=LOST_ATTEMPTS {
            let failure = match self.transact(&writes).await {
                Err(failure) if failure.kind == Kind::Lost => failure,
                // Of the second: the first may be why.
                Err(failure) if failure.kind == Kind::Condition && lost.is_some() => failure,
                answer => return answer,
            };
            match self.was_done(head, base).await {
                Some(true) => return Ok(()),
                // Another came first, so that its condition will never hold.
                Some(false) => return Err(Failure { kind: Kind::Condition, ..failure }),
                None => lost = lost.or(Some(failure)),
            }
            pause(attempt).await;
        }
        Err(lost.unwrap_or_else(|| self.busy().into()))
    }

    /// What became of a change that got no answer, if that can be told already.
    async fn was_done(&self, head: &Head, base: &Base) -> Option<bool> {
        let path = &head.account.path;
        let item = self.get(&Key::head(path)).await.ok()??;
        let base = match base {
            Base::Nothing => None,
            Base::Revision(revision) => Some(revision.as_str()),
        };
        Head::read(path, &item).ok()?.was_changed(&head.revision, base)
    }

    /// Sent again only if it surely was not done.
    pub(super) async fn transact(&self, writes: &[Write]) -> Result<(), Failure> {
        let mut items = Vec::with_capacity(writes.len());
        for write in writes {
            items.push(
                write.request(self.name()).map_err(|error| self.unavailable("no request can be made of it", error))?,
            );
        }
        let request = || self.client().transact_write_items().set_transact_items(Some(items.clone())).send();
        self.ask("TransactWriteItems", request, 1).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use keystrata_hierarchy::{KekVersion, KeyPath};

    use super::*;
    use crate::rows::Account;

    #[test]
    fn a_condition_names_the_revision_that_is_replaced() {
        let path = KeyPath::account("acme").unwrap();
        let item = keyed(&Key::head(&path));
        let put = |only_if| Write::Put { item: item.clone(), only_if }.request("keys").unwrap().put.unwrap();
        assert_eq!(put(Base::Nothing).condition_expression(), Some("attribute_not_exists(pk)"));
        let of_revision = put(Base::Revision("r".into()));
        assert_eq!(of_revision.condition_expression(), Some("rev = :rev"));
        assert_eq!(of_revision.expression_attribute_values().unwrap()[":rev"], AttributeValue::S("r".into()));
        assert!(Write::Set { item }.request("keys").unwrap().put.unwrap().condition_expression().is_none());
    }

    #[test]
    fn a_head_tells_what_became_of_a_change() {
        let path = KeyPath::account("acme").unwrap();
        let account = Account { path: path.clone(), primary: None, min_version: KekVersion::FIRST, tombstone: None };
        let made = Head::new(account, None).unwrap();
        let made_by_other = Head::new(made.account.clone(), None).unwrap();
        assert_eq!(made.was_changed(&made.revision, None), Some(true));
        assert_eq!(made.was_changed(&made_by_other.revision, None), Some(false));
        // Nothing has happened yet: it may be on its way.
        let own = made.changed().unwrap();
        assert_eq!(made.was_changed(&own.revision, Some(&made.revision)), None);
        let other = made.changed().unwrap();
        assert_eq!(other.was_changed(&own.revision, Some(&made.revision)), Some(false));
        let mut later = own.clone();
        for _ in 0..6 {
            later = Head::read(&path, &later.changed().unwrap().item()).unwrap();
            assert_eq!(later.was_changed(&own.revision, Some(&made.revision)), Some(true));
        }
        assert_eq!(later.was_changed(&other.revision, Some(&own.revision)), Some(false));
        // By then it has forgotten.
        let later = later.changed().unwrap();
        assert_eq!(later.was_changed(&own.revision, Some(&made.revision)), None);
        assert_eq!(later.was_changed(&made_by_other.revision, None), None);
    }
}
