//! What an engine says of accounts that the store shows as shredded, disabled or given up.
#![allow(clippy::unwrap_used)] // test code outside a #[test]

mod common;

use common::{Fixture, row};
use keystrata_hierarchy::{KekRecord, KekState, KekStore, KekVersion, KeyError, KeyPath, OpenError, SealError};

fn acme() -> KeyPath {
    KeyPath::account("acme").unwrap()
}

#[tokio::test]
async fn a_shredded_account_is_told_from_an_unknown_one_and_is_not_made_again() {
    let fixture = Fixture::new();
    let sealed = fixture.process().account("acme").unwrap().seal(b"x", &row(1)).await.unwrap();
    fixture.store.shred(&acme(), 1_900_000_000).await.unwrap();
    let calls = fixture.root.calls();
    let account = fixture.process().account("acme").unwrap();
    let opened = account.open(&sealed, &row(1)).await.unwrap_err();
    assert!(matches!(&opened, OpenError::Key(KeyError::Shredded(_))), "{opened}");
    assert!(opened.to_string().contains("acme was shredded"), "{opened}");
    let refused = account.seal(b"x", &row(1)).await.unwrap_err();
    assert!(matches!(&refused, SealError::Key(KeyError::Shredded(_))), "{refused}");
    let refused = account.rotate().await.unwrap_err();
    assert!(matches!(&refused, KeyError::Shredded(_)) && !refused.is_retryable(), "{refused}");
    assert_eq!(fixture.root.calls(), calls, "no call is paid for");
}

#[tokio::test]
async fn a_disabled_primary_neither_seals_nor_is_replaced() {
    let fixture = Fixture::new();
    let sealed = fixture.process().account("acme").unwrap().seal(b"x", &row(1)).await.unwrap();
    let primary = fixture.store.primary(&acme()).await.unwrap().unwrap();
    let disabled = KekRecord { state: KekState::Disabled, ..primary.clone() };
    fixture.store.update(&primary, &disabled).await.unwrap();
    let calls = fixture.root.calls();
    let account = fixture.process().account("acme").unwrap();
    let is_disabled = |error: &KeyError| matches!(error, KeyError::WrongState { state: KekState::Disabled, .. });
    let refused = account.seal(b"x", &row(1)).await.unwrap_err();
    assert!(matches!(&refused, SealError::Key(error) if is_disabled(error)), "{refused}");
    let refused = account.rotate().await.unwrap_err();
    assert!(is_disabled(&refused), "{refused}");
    let refused = account.open(&sealed, &row(1)).await.unwrap_err();
    assert!(matches!(&refused, OpenError::Key(error) if is_disabled(error)), "{refused}");
    assert_eq!((fixture.root.calls(), fixture.store.records(&acme()).await.unwrap().len()), (calls, 1));

    fixture.store.update(&disabled, &primary).await.unwrap();
    assert_eq!(fixture.process().account("acme").unwrap().open(&sealed, &row(1)).await.unwrap(), b"x");
}

#[tokio::test]
async fn a_version_below_the_lowest_opens_nothing_more() {
    let fixture = Fixture::new();
    let account = fixture.process().account("acme").unwrap();
    let old = account.seal(b"x", &row(1)).await.unwrap();
    account.rotate().await.unwrap();
    let new = account.seal(b"y", &row(1)).await.unwrap();
    fixture.store.raise_min_version(&acme(), KekVersion::new(2).unwrap()).await.unwrap();
    let account = fixture.process().account("acme").unwrap();
    let refused = account.open(&old, &row(1)).await.unwrap_err();
    assert!(matches!(&refused, OpenError::Key(KeyError::BelowMinVersion(_))), "{refused}");
    assert_eq!(account.open(&new, &row(1)).await.unwrap(), b"y");
}
