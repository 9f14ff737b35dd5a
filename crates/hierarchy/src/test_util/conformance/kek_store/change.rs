//! Records that change, and the version below which none is used.

use std::sync::Arc;

use keystrata_primitives::{KekCheck, KekRecord, KekState, KekVersion, KeyPath, WrappedSecret};
use tokio::task::JoinSet;

use super::{CREATORS, are_all_records, check, create, given, kek_id, next, path, record, root, version};
use crate::store::{Creation, KekStore, Raise, Rotation, StoreError, Update};

pub(super) async fn run<S: KekStore + 'static>(make: &impl AsyncFn() -> S) {
    an_update_replaces_what_was_expected(&make().await).await;
    an_update_of_something_else_changes_nothing(&make().await).await;
    what_may_not_change_is_refused(&make().await).await;
    a_primary_that_only_opens_stays_the_primary(&make().await).await;
    a_disabled_primary_stays_the_primary(&make().await).await;
    destroyed_is_final(&make().await).await;
    one_of_many_updates_wins(make().await).await;
    updates_and_rotations_do_not_undo_each_other(make().await).await;
    the_lowest_version_only_rises(&make().await).await;
    versions_below_the_lowest_are_not_given(&make().await).await;
}

/// An account of three versions, the third of them primary.
pub(super) async fn three_versions<S: KekStore>(store: &S, path: KeyPath) -> [KekRecord; 3] {
    let first = record(path);
    let (second, third) = (next(&first, 2), next(&first, 3));
    create(store, &first, Creation::Created).await;
    for (previous, new) in [(&first, &second), (&second, &third)] {
        let rotation = given(store.rotate(previous.identity.id, new).await, "rotate");
        check(rotation == Rotation::Rotated, "rotating from the primary is `Rotated`");
    }
    let retired =
        |record: KekRecord, by: &KekRecord| KekRecord { state: KekState::Retired, retired_at: by.created_at, ..record };
    [retired(first, &second), retired(second, &third), third]
}

async fn update<S: KekStore>(store: &S, expected: &KekRecord, new: &KekRecord, outcome: Update) {
    let updated = given(store.update(expected, new).await, "update");
    check(updated == outcome, &format!("this update is {outcome:?}, and was {updated:?}"));
}

async fn is_refused<S: KekStore>(store: &S, expected: &KekRecord, new: &KekRecord, what: &str) {
    match store.update(expected, new).await {
        Err(StoreError::Corrupt { path, .. }) if path == new.identity.path => {}
        other => panic!("KEK store conformance: an update of {what} must be `Corrupt`, and was: {other:?}"),
    }
}

fn in_state(record: &KekRecord, state: KekState) -> KekRecord {
    let wraps = if state == KekState::Destroyed { Vec::new() } else { record.wraps.clone() };
    KekRecord { state, wraps, ..record.clone() }
}

fn rewrapped(record: &KekRecord, by: &str) -> KekRecord {
    let wrap = WrappedSecret { wrapper: root(by), ciphertext: by.as_bytes().to_vec() };
    KekRecord { wraps: vec![wrap], ..record.clone() }
}

async fn an_update_replaces_what_was_expected<S: KekStore>(store: &S) {
    let [mut first, mut second, mut third] = three_versions(store, path(&["acme"])).await;
    for record in [&mut first, &mut second, &mut third] {
        let new = rewrapped(record, "test:new");
        update(store, record, &new, Update::Updated).await;
        update(store, &new, &new, Update::Updated).await;
        *record = new;
    }
    let disabled = KekRecord { retired_at: 7, ..in_state(&first, KekState::Disabled) };
    update(store, &first, &disabled, Update::Updated).await;
    let retired = in_state(&disabled, KekState::Retired);
    update(store, &disabled, &retired, Update::Updated).await;
    are_all_records(store, &[retired, second, third]).await;
}

async fn an_update_of_something_else_changes_nothing<S: KekStore>(store: &S) {
    let unknown = record(path(&["nobody"]));
    update(store, &unknown, &rewrapped(&unknown, "test:new"), Update::Changed).await;
    check(given(store.head(&unknown.identity.path).await, "head").is_none(), "an update makes no account");
    let records = three_versions(store, path(&["acme"])).await;
    let of_another_id = next(&records[2], 3);
    let stale = [
        of_another_id.clone(),
        rewrapped(&records[2], "test:other"),
        KekRecord { retired_at: 1, ..records[2].clone() },
        in_state(&records[2], KekState::Disabled),
    ];
    for expected in &stale {
        update(store, expected, &rewrapped(expected, "test:new"), Update::Changed).await;
    }
    are_all_records(store, &records).await;
}

async fn what_may_not_change_is_refused<S: KekStore>(store: &S) {
    let records = three_versions(store, path(&["acme"])).await;
    let [first, _, third] = &records;
    let with = |edit: &dyn Fn(&mut KekRecord)| {
        let mut new = third.clone();
        edit(&mut new);
        new
    };
    let other = KekCheck::from_bytes([0x3c; 32]);
    for (what, new) in [
        ("the path", with(&|new| new.identity.path = path(&["globex"]))),
        ("the KEK id", with(&|new| new.identity.id = kek_id())),
        ("the version", with(&|new| new.identity.version = version(4))),
        ("the check", with(&|new| new.check = other)),
        ("the time of creation", with(&|new| new.created_at += 1)),
        ("the wraps to none", with(&|new| new.wraps.clear())),
        ("a primary to a destroyed KEK", in_state(third, KekState::Destroyed)),
    ] {
        is_refused(store, third, &new, what).await;
    }
    is_refused(store, first, &in_state(first, KekState::Primary), "a retired KEK to a second primary").await;
    are_all_records(store, &records).await;
}

async fn a_primary_that_only_opens_stays_the_primary<S: KekStore>(store: &S) {
    let [first, second, third] = three_versions(store, path(&["acme"])).await;
    let retired = KekRecord { retired_at: 9, ..in_state(&third, KekState::Retired) };
    update(store, &third, &retired, Update::Updated).await;
    are_all_records(store, &[first.clone(), second.clone(), retired.clone()]).await;
    let head = given(store.head(&path(&["acme"])).await, "head").and_then(|head| head.primary);
    check(head.as_ref() == Some(&retired), "a primary that was retired is still the head's");
    check(given(store.primary(&path(&["acme"])).await, "primary") == head, "and the primary, whose state says so");
    let rotation = given(store.rotate(third.identity.id, &next(&third, 4)).await, "rotate");
    check(rotation == Rotation::Superseded, "a primary that only opens is not replaced");
    let rotation = given(store.create(&record(path(&["acme"]))).await, "create");
    check(rotation == Creation::Exists, "an account that only opens exists");
    is_refused(store, &retired, &in_state(&retired, KekState::Destroyed), "the head's KEK to a destroyed one").await;
    is_refused(store, &first, &in_state(&first, KekState::Primary), "another KEK to a primary").await;
    let copy = given(store.export(&path(&["acme"])).await, "export");
    let is_valid = copy.as_ref().is_some_and(|copy| StoreError::check_copy(copy).is_ok());
    check(is_valid, "what is exported of it may be imported");
    update(store, &retired, &third, Update::Updated).await;
    are_all_records(store, &[first, second, third]).await;
}

async fn a_disabled_primary_stays_the_primary<S: KekStore>(store: &S) {
    let [first, second, third] = three_versions(store, path(&["acme"])).await;
    let disabled = in_state(&third, KekState::Disabled);
    update(store, &third, &disabled, Update::Updated).await;
    are_all_records(store, &[first.clone(), second.clone(), disabled.clone()]).await;
    is_refused(store, &disabled, &in_state(&disabled, KekState::Destroyed), "a disabled primary to a destroyed KEK")
        .await;
    let rotation = given(store.rotate(third.identity.id, &next(&third, 4)).await, "rotate");
    check(rotation == Rotation::Superseded, "a disabled primary is not replaced");
    let rotation = given(store.create(&record(path(&["acme"]))).await, "create");
    check(rotation == Creation::Exists, "an account with a disabled primary exists");
    // A KEK that was retired before it was disabled does not come back as a primary.
    let off = in_state(&first, KekState::Disabled);
    update(store, &first, &off, Update::Updated).await;
    is_refused(store, &off, &in_state(&off, KekState::Primary), "a disabled KEK to a second primary").await;
    update(store, &disabled, &third, Update::Updated).await;
    are_all_records(store, &[off, second, third]).await;
}

async fn destroyed_is_final<S: KekStore>(store: &S) {
    let [first, second, third] = three_versions(store, path(&["acme"])).await;
    let gone = in_state(&first, KekState::Destroyed);
    is_refused(store, &first, &KekRecord { wraps: first.wraps.clone(), ..gone.clone() }, "wraps kept").await;
    update(store, &first, &gone, Update::Updated).await;
    for state in [KekState::Primary, KekState::Retired, KekState::Disabled] {
        let back = KekRecord { state, ..first.clone() };
        is_refused(store, &gone, &back, &format!("a destroyed KEK to {state}")).await;
        update(store, &first, &back, Update::Changed).await;
    }
    are_all_records(store, &[gone, second, third]).await;
}

async fn one_of_many_updates_wins<S: KekStore + 'static>(store: S) {
    let store = Arc::new(store);
    let first = record(path(&["acme"]));
    create(&store, &first, Creation::Created).await;
    let mut updates = JoinSet::new();
    for number in 0..CREATORS {
        let (store, first) = (Arc::clone(&store), first.clone());
        updates.spawn(async move {
            let own = rewrapped(&first, &format!("test:{number}"));
            (given(store.update(&first, &own).await, "update"), own)
        });
    }
    let outcomes = updates.join_all().await;
    let winners: Vec<_> = outcomes.iter().filter(|(update, _)| *update == Update::Updated).collect();
    check(winners.len() == 1, &format!("of many updates of one record one wins, and {} did", winners.len()));
    are_all_records(&store, &[winners[0].1.clone()]).await;
}

/// Each would overwrite the other if it wrote what it had read before.
async fn updates_and_rotations_do_not_undo_each_other<S: KekStore + 'static>(store: S) {
    let store = Arc::new(store);
    for round in 0..8 {
        let first = record(path(&["acme", &round.to_string()]));
        create(&store, &first, Creation::Created).await;
        let (second, disabled) = (next(&first, 2), in_state(&first, KekState::Disabled));
        let mut both = JoinSet::new();
        both.spawn({
            let (store, first, second) = (Arc::clone(&store), first.clone(), second.clone());
            async move { given(store.rotate(first.identity.id, &second).await, "rotate") == Rotation::Rotated }
        });
        both.spawn({
            let (store, first, disabled) = (Arc::clone(&store), first.clone(), disabled.clone());
            async move { given(store.update(&first, &disabled).await, "update") == Update::Updated }
        });
        let won = both.join_all().await.into_iter().filter(|won| *won).count();
        check(won == 1, &format!("a rotation or an update of the same record wins, and {won} did"));
        let retired = KekRecord { state: KekState::Retired, retired_at: second.created_at, ..first };
        let records = given(store.records(&second.identity.path).await, "records");
        check(records == [disabled] || records == [retired, second], "the account is as the winner left it");
    }
}

async fn raise<S: KekStore>(store: &S, path: &KeyPath, to: u32, outcome: Raise) {
    let raised = given(store.raise_min_version(path, version(to)).await, "raise_min_version");
    check(raised == outcome, &format!("raising the lowest version to {to} is {outcome:?}, and was {raised:?}"));
}

async fn lowest<S: KekStore>(store: &S, path: &KeyPath) -> Option<KekVersion> {
    given(store.head(path).await, "head").map(|head| head.min_version)
}

async fn the_lowest_version_only_rises<S: KekStore>(store: &S) {
    let acme = path(&["acme"]);
    raise(store, &acme, 1, Raise::AbovePrimary).await;
    check(lowest(store, &acme).await.is_none(), "raising makes no account");
    let records = three_versions(store, acme.clone()).await;
    check(lowest(store, &acme).await == Some(KekVersion::FIRST), "the lowest version is 1 at first");
    for (to, outcome, then) in [
        (1, Raise::Stands, 1),
        (2, Raise::Raised, 2),
        (2, Raise::Stands, 2),
        (1, Raise::Stands, 2),
        (4, Raise::AbovePrimary, 2),
        (u32::MAX, Raise::AbovePrimary, 2),
        (3, Raise::Raised, 3),
    ] {
        raise(store, &acme, to, outcome).await;
        check(lowest(store, &acme).await == Some(version(then)), &format!("the lowest version is {then} then"));
    }
    let fourth = next(&records[2], 4);
    given(store.rotate(records[2].identity.id, &fourth).await, "rotate");
    let disabled = in_state(&fourth, KekState::Disabled);
    update(store, &fourth, &disabled, Update::Updated).await;
    check(lowest(store, &acme).await == Some(version(3)), "neither a rotation nor an update moves the lowest version");
    raise(store, &acme, 4, Raise::Raised).await;
}

async fn versions_below_the_lowest_are_not_given<S: KekStore>(store: &S) {
    let acme = path(&["acme"]);
    let records = three_versions(store, acme.clone()).await;
    let other = record(path(&["globex"]));
    create(store, &other, Creation::Created).await;
    raise(store, &acme, 3, Raise::Raised).await;
    for old in &records[..2] {
        match store.record(&acme, old.identity.id).await {
            Err(StoreError::BelowMinVersion { path, kek_id, version: found, min_version }) => {
                let is_it = path == acme && kek_id == old.identity.id && found == old.identity.version;
                check(is_it && min_version == version(3), "`BelowMinVersion` names the KEK and the lowest version");
            }
            other => panic!("KEK store conformance: a KEK below the lowest version is given: {other:?}"),
        }
    }
    let third = given(store.record(&acme, records[2].identity.id).await, "record");
    check(third.as_ref() == Some(&records[2]), "a KEK of the lowest version is given");
    check(given(store.primary(&acme).await, "primary") == third, "and is the primary");
    check(given(store.records(&acme).await, "records") == records, "all versions are listed, however low");
    let unaffected = given(store.record(&other.identity.path, other.identity.id).await, "record");
    check(unaffected == Some(other), "the lowest version of one account is not that of another");
    // It can still be destroyed, and its wraps changed: neither uses it.
    update(store, &records[0], &in_state(&records[0], KekState::Destroyed), Update::Updated).await;
    update(store, &records[1], &rewrapped(&records[1], "test:new"), Update::Updated).await;
}
