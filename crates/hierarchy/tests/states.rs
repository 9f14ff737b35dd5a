//! States, the floor, destroying and shredding: here at once, elsewhere within the promised time.
#![allow(clippy::unwrap_used, clippy::unchecked_time_subtraction)] // test code outside a #[test], constants

mod common;

use std::time::Duration;

use common::{
    Fixture, TTL, exact, row,
    tree::{one_group, path, process, services},
    tricky::{Hold, Tricky, settle},
};
use keystrata_hierarchy::{
    Account, Change, Hierarchy, KekId, KekState, KekStore, KekVersion, KeyError, LifecycleError, OpenError, Reroot,
    RewrapScan, SealError, StoreError,
};

const SECOND: Duration = Duration::from_secs(1);
const POINTER: Duration = Duration::from_secs(30);

fn kek_of(envelope: &[u8]) -> KekId {
    KekId::from_bytes(envelope[4..20].try_into().unwrap())
}

async fn open_error(account: &Account, sealed: &[u8]) -> KeyError {
    match account.open(sealed, &row(1)).await {
        Err(OpenError::Key(error)) => error,
        other => panic!("{other:?}"),
    }
}

async fn seal_error(account: &Account) -> KeyError {
    match account.seal(b"x", &row(1)).await {
        Err(SealError::Key(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// Two processes that have the account's KEKs of two versions in memory.
async fn two_warm(fixture: &Fixture) -> (Hierarchy, Hierarchy, [Vec<u8>; 2]) {
    let (here, there) = (fixture.process(), fixture.process());
    let acme = here.account("acme").unwrap();
    let first = acme.seal(b"x", &row(1)).await.unwrap();
    acme.rotate().await.unwrap();
    let second = acme.seal(b"x", &row(1)).await.unwrap();
    for keys in [&here, &there] {
        let acme = keys.account("acme").unwrap();
        for sealed in [&first, &second] {
            acme.open(sealed, &row(1)).await.unwrap();
        }
        acme.seal(b"x", &row(1)).await.unwrap();
    }
    (here, there, [first, second])
}

#[tokio::test]
async fn a_disabled_account_stops_here_at_once_and_elsewhere_within_the_pointer_time() {
    let fixture = Fixture::new();
    let (here, there, sealed) = two_warm(&fixture).await;
    let [ours, theirs] = [&here, &there].map(|keys| keys.account("acme").unwrap());
    assert_eq!(ours.disable().await.unwrap(), Change::Made);
    assert_eq!((here.cached_keks(), here.memory().slots_used), (0, 0));
    let calls = fixture.root.calls();
    for sealed in &sealed {
        let refused = open_error(&ours, sealed).await;
        assert!(matches!(refused, KeyError::WrongState { state: KekState::Disabled, .. }), "{refused}");
        assert!(refused.to_string().contains("disabled"), "{refused}");
        theirs.open(sealed, &row(1)).await.unwrap();
    }
    assert!(matches!(seal_error(&ours).await, KeyError::WrongState { .. }));
    theirs.seal(b"x", &row(1)).await.unwrap();
    // Whoever seals there asks the store, hears of it, and overwrites what it has.
    fixture.clock.advance(POINTER);
    assert!(matches!(seal_error(&theirs).await, KeyError::WrongState { .. }));
    assert_eq!((there.cached_keks(), there.memory().slots_used), (0, 0), "long before the TTL");
    assert!(matches!(open_error(&theirs, &sealed[0]).await, KeyError::WrongState { .. }));
    assert_eq!(fixture.root.calls(), calls, "no call was made for what is disabled");
    // And back, with all that was sealed.
    assert_eq!(theirs.enable().await.unwrap(), Change::Made);
    assert_eq!(theirs.enable().await.unwrap(), Change::AlreadySo);
    for account in [&ours, &theirs] {
        for sealed in &sealed {
            account.open(sealed, &row(1)).await.unwrap();
        }
        let again = account.seal(b"x", &row(1)).await.unwrap();
        assert_eq!(kek_of(&again), kek_of(&sealed[1]), "the primary is the one that it was");
    }
}

#[tokio::test]
async fn whoever_only_opens_elsewhere_obeys_within_the_ttl() {
    let fixture = Fixture::new();
    let (here, there, sealed) = two_warm(&fixture).await;
    here.account("acme").unwrap().disable().await.unwrap();
    let theirs = there.account("acme").unwrap();
    fixture.clock.advance(TTL.saturating_sub(SECOND));
    theirs.open(&sealed[0], &row(1)).await.unwrap();
    fixture.clock.advance(SECOND);
    assert!(matches!(open_error(&theirs, &sealed[0]).await, KeyError::WrongState { .. }));
}

#[tokio::test]
async fn an_account_that_opens_only_seals_nothing_anywhere() {
    let fixture = Fixture::new();
    let (here, there, sealed) = two_warm(&fixture).await;
    let [ours, theirs] = [&here, &there].map(|keys| keys.account("acme").unwrap());
    assert_eq!(ours.open_only().await.unwrap(), Change::Made);
    assert_eq!(ours.open_only().await.unwrap(), Change::AlreadySo);
    assert!(matches!(seal_error(&ours).await, KeyError::SealingDisabled { .. }));
    assert!(matches!(ours.rotate().await.unwrap_err(), KeyError::SealingDisabled { .. }));
    fixture.clock.advance(POINTER);
    let calls = fixture.root.calls();
    assert!(matches!(seal_error(&theirs).await, KeyError::SealingDisabled { .. }));
    for sealed in &sealed {
        ours.open(sealed, &row(1)).await.unwrap();
        theirs.open(sealed, &row(1)).await.unwrap();
    }
    assert_eq!(fixture.root.calls(), calls + 2, "what is in memory there goes on opening");
    // From disabled to opening only, without sealing in between.
    ours.disable().await.unwrap();
    assert_eq!(ours.open_only().await.unwrap(), Change::Made);
    ours.open(&sealed[1], &row(1)).await.unwrap();
    assert!(matches!(seal_error(&ours).await, KeyError::SealingDisabled { .. }));
    ours.enable().await.unwrap();
    ours.seal(b"x", &row(1)).await.unwrap();
    let primary = fixture.store.primary(&path(["acme"])).await.unwrap().unwrap();
    assert_eq!((primary.state, primary.retired_at), (KekState::Primary, 0));
}

#[tokio::test]
async fn a_store_that_fails_later_does_not_bring_back_a_primary_that_seals_no_more() {
    let tricky = Tricky::new();
    let [here, there] = [(); 2].map(|()| tricky.process(exact()));
    let [ours, theirs] = [&here, &there].map(|keys| keys.account("acme").unwrap());
    ours.seal(b"x", &row(1)).await.unwrap();
    let sealed = theirs.seal(b"x", &row(1)).await.unwrap();
    ours.open_only().await.unwrap();
    tricky.clock.advance(POINTER);
    assert!(matches!(seal_error(&theirs).await, KeyError::SealingDisabled { .. }));
    // What it knew before it knows no more, though the KEK is in memory and opens.
    tricky.store.set_down(true);
    assert!(matches!(seal_error(&theirs).await, KeyError::StoreUnavailable(_)));
    theirs.open(&sealed, &row(1)).await.unwrap();
}

#[tokio::test]
async fn one_version_is_disabled_by_itself() {
    let fixture = Fixture::new();
    let (here, _there, sealed) = two_warm(&fixture).await;
    let ours = here.account("acme").unwrap();
    let [old, primary] = [kek_of(&sealed[0]), kek_of(&sealed[1])];
    assert_eq!(ours.disable_version(old).await.unwrap(), Change::Made);
    let refused = open_error(&ours, &sealed[0]).await;
    assert!(matches!(&refused, KeyError::WrongState { kek_id, .. } if *kek_id == old), "{refused}");
    ours.open(&sealed[1], &row(1)).await.unwrap();
    ours.seal(b"x", &row(1)).await.unwrap();
    assert_eq!(ours.enable_version(old).await.unwrap(), Change::Made);
    assert_eq!(ours.disable_version(primary).await.unwrap(), Change::Made);
    ours.open(&sealed[0], &row(1)).await.unwrap();
    assert!(matches!(seal_error(&ours).await, KeyError::WrongState { .. }));
    assert!(matches!(ours.rotate().await.unwrap_err(), KeyError::WrongState { .. }), "that would enable it");
    ours.enable_version(primary).await.unwrap();
    ours.seal(b"x", &row(1)).await.unwrap();
    let unknown = ours.disable_version(KekId::from_bytes([9; 16])).await.unwrap_err();
    assert!(matches!(unknown, LifecycleError::Key(KeyError::NotFound { .. })), "{unknown}");
}

#[tokio::test]
async fn what_is_not_there_is_not_changed() {
    let fixture = Fixture::new();
    let nobody = fixture.process().account("nobody").unwrap();
    let is_unknown = |error: LifecycleError| matches!(error, LifecycleError::Key(KeyError::NoAccount { .. }));
    assert!(is_unknown(nobody.disable().await.unwrap_err()));
    assert!(is_unknown(nobody.enable().await.unwrap_err()));
    assert!(is_unknown(nobody.open_only().await.unwrap_err()));
    assert!(is_unknown(nobody.set_min_version(KekVersion::new(2).unwrap()).await.unwrap_err()));
    assert!(is_unknown(nobody.shred().await.unwrap_err()));
    assert!(is_unknown(nobody.shred_plan().await.unwrap_err()));
    assert!(is_unknown(nobody.reroot(Reroot::Add).await.unwrap_err()));
    nobody.seal(b"x", &row(1)).await.unwrap();
}

#[tokio::test]
async fn versions_below_the_floor_end_here_at_once_and_elsewhere_within_the_ttl() {
    let fixture = Fixture::new();
    let (here, there, sealed) = two_warm(&fixture).await;
    let [ours, theirs] = [&here, &there].map(|keys| keys.account("acme").unwrap());
    let version = |n| KekVersion::new(n).unwrap();
    let above = ours.set_min_version(version(3)).await.unwrap_err();
    assert!(matches!(above, LifecycleError::AbovePrimary { .. }), "{above}");
    assert_eq!(ours.set_min_version(version(2)).await.unwrap(), Change::Made);
    assert_eq!(ours.set_min_version(version(1)).await.unwrap(), Change::AlreadySo);
    let refused = open_error(&ours, &sealed[0]).await;
    assert!(matches!(refused, KeyError::BelowMinVersion(StoreError::BelowMinVersion { .. })), "{refused}");
    theirs.open(&sealed[0], &row(1)).await.unwrap();
    fixture.clock.advance(TTL);
    assert!(matches!(open_error(&theirs, &sealed[0]).await, KeyError::BelowMinVersion(_)));
    for account in [&ours, &theirs] {
        account.open(&sealed[1], &row(1)).await.unwrap();
        account.seal(b"x", &row(1)).await.unwrap();
    }
}

#[tokio::test]
async fn a_roll_back_is_seen_after_the_floor_was_raised() {
    let tricky = Tricky::new();
    let keys = tricky.process(exact());
    let acme = keys.account("acme").unwrap();
    acme.seal(b"x", &row(1)).await.unwrap();
    acme.rotate().await.unwrap();
    acme.set_min_version(KekVersion::new(2).unwrap()).await.unwrap();
    tricky.store.show(|mut record| {
        let is_first = record.identity.version == KekVersion::FIRST;
        record.state = if is_first { KekState::Primary } else { KekState::Retired };
        Some(record)
    });
    assert!(matches!(seal_error(&acme).await, KeyError::RolledBack { .. }), "the floor's own invalidation forgot it");
}

/// When a version may be destroyed, by the exact policy of the tests: 300 s of TTL, 300 s of a stream, 60 s of clocks.
const UNUSED: Duration = Duration::from_secs(300 + 300 + 60);

#[tokio::test]
async fn a_version_is_destroyed_once_nobody_can_seal_under_it_and_all_was_scanned() {
    let fixture = Fixture::new();
    let (here, there, sealed) = two_warm(&fixture).await;
    let [ours, theirs] = [&here, &there].map(|keys| keys.account("acme").unwrap());
    let [old, primary] = [kek_of(&sealed[0]), kek_of(&sealed[1])];
    let scan = ours.begin_rewrap_scan();
    let refused = ours.destroy_version(primary, scan).await.unwrap_err();
    assert!(matches!(refused, LifecycleError::IsPrimary { .. }), "{refused}");
    let refused = ours.destroy_version(old, scan).await.unwrap_err();
    assert!(matches!(refused, LifecycleError::TooEarly { wait, .. } if wait == UNUSED), "{refused}");
    assert!(refused.is_retryable());
    fixture.clock.advance(UNUSED.saturating_sub(SECOND));
    let refused = ours.destroy_version(old, ours.begin_rewrap_scan()).await.unwrap_err();
    assert!(matches!(refused, LifecycleError::TooEarly { wait, .. } if wait.as_secs() == 1), "{refused}");
    fixture.clock.advance(SECOND);
    let refused = ours.destroy_version(old, scan).await.unwrap_err();
    assert!(matches!(refused, LifecycleError::ScanTooEarly { .. }), "{refused}");
    let ahead = RewrapScan { started_at: ours.begin_rewrap_scan().started_at + 1 };
    let refused = ours.destroy_version(old, ahead).await.unwrap_err();
    assert!(matches!(refused, LifecycleError::ScanTooEarly { .. }), "{refused}");
    ours.open(&sealed[0], &row(1)).await.unwrap();
    let scan = ours.begin_rewrap_scan();
    assert_eq!(ours.destroy_version(old, scan).await.unwrap(), Change::Made);
    assert_eq!(ours.destroy_version(old, scan).await.unwrap(), Change::AlreadySo);
    assert_eq!(here.cached_keks(), 0);
    for account in [&ours, &theirs] {
        let refused = open_error(account, &sealed[0]).await;
        assert!(matches!(refused, KeyError::WrongState { state: KekState::Destroyed, .. }), "{refused}");
        account.open(&sealed[1], &row(1)).await.unwrap();
    }
    let refused = ours.enable_version(old).await.unwrap_err();
    assert!(matches!(refused, LifecycleError::Key(KeyError::WrongState { state: KekState::Destroyed, .. })));
    ours.disable().await.unwrap();
    ours.enable().await.unwrap();
    let records = fixture.store.records(&path(["acme"])).await.unwrap();
    assert_eq!(records.iter().map(|r| r.state).collect::<Vec<_>>(), [KekState::Destroyed, KekState::Primary]);
}

#[tokio::test]
async fn a_version_that_wraps_others_is_not_destroyed() {
    let tricky = Tricky::new();
    let keys = process(&tricky, exact(), one_group);
    let (group, member) = (keys.account("group").unwrap(), keys.account("a").unwrap());
    let sealed = member.seal(b"x", &row(1)).await.unwrap();
    let old = tricky.store.inner.primary(&path(["group"])).await.unwrap().unwrap().identity.id;
    group.rotate().await.unwrap();
    tricky.clock.advance(UNUSED);
    let scan = group.begin_rewrap_scan();
    let refused = group.destroy_version(old, scan).await.unwrap_err();
    let LifecycleError::WrapsOthers { children, has_more: false, .. } = &refused else { panic!("{refused}") };
    assert_eq!(*children, [path(["a"])]);
    // Rerooted under the group's primary and rid of the old wrap, it needs the old version no more.
    assert_eq!(member.reroot(Reroot::Add).await.unwrap().added, 1);
    assert_eq!(member.reroot(Reroot::Retire).await.unwrap().dropped, 1);
    assert_eq!(group.destroy_version(old, scan).await.unwrap(), Change::Made);
    tricky.clock.advance(TTL);
    member.open(&sealed, &row(1)).await.unwrap();
}

#[tokio::test]
async fn shredding_ends_an_account_here_at_once_elsewhere_within_the_ttl_and_for_ever() {
    let fixture = Fixture::new();
    let (here, there, sealed) = two_warm(&fixture).await;
    let [ours, theirs] = [&here, &there].map(|keys| keys.account("acme").unwrap());
    let plan = ours.shred_plan().await.unwrap();
    assert_eq!((plan.keks, plan.destroyed, plan.children.len(), plan.tombstone), (2, 0, 0, None));
    let shredded = ours.shred().await.unwrap();
    assert_eq!((shredded.change, shredded.tombstone.keks, shredded.stranded.len()), (Change::Made, 2, 0));
    assert_eq!((here.cached_keks(), here.memory().slots_used), (0, 0));
    for sealed in &sealed {
        assert!(matches!(open_error(&ours, sealed).await, KeyError::Shredded(_)));
        theirs.open(sealed, &row(1)).await.unwrap();
    }
    assert!(matches!(seal_error(&ours).await, KeyError::Shredded(_)));
    fixture.clock.advance(POINTER);
    assert!(matches!(seal_error(&theirs).await, KeyError::Shredded(_)));
    assert_eq!((there.cached_keks(), there.memory().slots_used), (0, 0), "it heard, and overwrote all of it");
    assert!(matches!(open_error(&theirs, &sealed[0]).await, KeyError::Shredded(_)));
    for account in [&ours, &theirs, &fixture.process().account("acme").unwrap()] {
        for error in [
            account.enable().await.unwrap_err(),
            account.set_min_version(KekVersion::FIRST).await.unwrap_err(),
            account.reroot(Reroot::Add).await.unwrap_err(),
        ] {
            assert!(matches!(error, LifecycleError::Key(KeyError::Shredded(_))), "{error}");
        }
        assert!(matches!(account.rotate().await.unwrap_err(), KeyError::Shredded(_)));
        assert!(matches!(seal_error(account).await, KeyError::Shredded(_)), "no KEK is made for it again");
    }
    let again = theirs.shred().await.unwrap();
    assert_eq!((again.change, again.tombstone), (Change::AlreadySo, shredded.tombstone));
    let plan = ours.shred_plan().await.unwrap();
    assert_eq!((plan.keks, plan.destroyed, plan.tombstone), (0, 2, Some(shredded.tombstone)));
}

#[tokio::test]
async fn a_load_under_way_does_not_bring_back_what_was_shredded() {
    let tricky = Tricky::new();
    let sealed = tricky.sealed_for("acme").await;
    let keys = tricky.process(exact());
    let acme = keys.account("acme").unwrap();
    tricky.root.hold(Hold::Unwraps);
    let opening = tokio::spawn({
        let (acme, sealed) = (acme.clone(), sealed.clone());
        async move { acme.open(&sealed, &row(1)).await }
    });
    settle().await;
    acme.shred().await.unwrap();
    tricky.root.hold(Hold::Nothing);
    let opened = opening.await.unwrap();
    assert!(matches!(opened, Err(OpenError::Key(KeyError::Shredded(_)))), "{opened:?}");
    assert_eq!(keys.memory().slots_used, 0);
}

#[tokio::test]
async fn what_wraps_others_is_not_shredded_before_them() {
    let tricky = Tricky::new();
    let keys = process(&tricky, exact(), services);
    let acme = keys.account("acme").unwrap();
    let services: Vec<_> = (0..10).map(|n| keys.account(path(["acme", &n.to_string()])).unwrap()).collect();
    for service in &services {
        service.seal(b"x", &row(1)).await.unwrap();
    }
    let plan = acme.shred_plan().await.unwrap();
    assert_eq!((plan.children.len(), plan.has_more_children), (8, true));
    let refused = acme.shred().await.unwrap_err();
    assert!(matches!(&refused, LifecycleError::WrapsOthers { children, has_more: true, .. } if children.len() == 8));
    assert_eq!(keys.cached_keks(), 11, "a refusal overwrites nothing");
    for service in &services {
        service.shred().await.unwrap();
    }
    assert_eq!(acme.shred().await.unwrap().change, Change::Made);
    assert_eq!(keys.memory().slots_used, 0);
    assert!(matches!(seal_error(&services[0]).await, KeyError::Shredded(_)));
}

#[tokio::test]
async fn what_a_disabled_account_wraps_below_stops_too() {
    let tricky = Tricky::new();
    let keys = process(&tricky, exact(), one_group);
    let (group, member) = (keys.account("group").unwrap(), keys.account("a").unwrap());
    let sealed = member.seal(b"x", &row(1)).await.unwrap();
    group.disable().await.unwrap();
    assert_eq!(keys.memory().slots_used, 0);
    let refused = open_error(&member, &sealed).await;
    let KeyError::Parent { source, .. } = &refused else { panic!("{refused}") };
    assert!(matches!(**source, KeyError::WrongState { state: KekState::Disabled, .. }), "{refused}");
    group.enable().await.unwrap();
    member.open(&sealed, &row(1)).await.unwrap();
}
