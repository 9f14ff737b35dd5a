//! Accounts that end, and accounts that move to another store.

use std::sync::Arc;

use keystrata_primitives::{KekId, KekRecord, KekState, KekVersion, KeyPath};
use tokio::task::JoinSet;

use super::{
    CREATORS, change::three_versions, check, create, given, is_the_only_record, kek_id, next, path, record, version,
};
use crate::store::{
    AccountCopy, Creation, Import, KekStore, MemoryKekStore, Rotation, Shred, StoreError, Tombstone, WrapperQuery,
};

const AT: u64 = 1_900_000_000;

pub(super) async fn run<S: KekStore + 'static>(make: &impl AsyncFn() -> S) {
    a_shredded_account_holds_no_secret(&make().await).await;
    a_shredded_path_is_not_used_again(&make().await).await;
    shredding_twice_is_shredding_once(&make().await).await;
    one_of_many_shredders_wins(make().await).await;
    nothing_is_created_or_rotated_past_a_shredding(make().await).await;
    a_copy_is_the_same_in_another_store(&make().await).await;
    a_copy_overwrites_nothing(&make().await).await;
    a_copy_that_breaks_a_rule_is_refused(&make().await).await;
}

async fn shred<S: KekStore>(store: &S, path: &KeyPath, at: u64, outcome: Shred) {
    let shredded = given(store.shred(path, at).await, "shred");
    check(shredded == outcome, &format!("shredding {path} is {outcome:?}, and was {shredded:?}"));
}

/// `answer` says that the account is shredded, by this tombstone.
fn says_shredded<T: std::fmt::Debug>(answer: Result<T, StoreError>, method: &str, tombstone: Tombstone) {
    match answer {
        Err(StoreError::Shredded { tombstone: found, .. }) if found == tombstone => {}
        other => panic!("KEK store conformance: `{method}` of a shredded path must be `Shredded`, and was: {other:?}"),
    }
}

async fn a_shredded_account_holds_no_secret<S: KekStore>(store: &S) {
    let acme = path(&["acme"]);
    let records = three_versions(store, acme.clone()).await;
    let other = record(path(&["globex"]));
    create(store, &other, Creation::Created).await;
    given(store.raise_min_version(&acme, version(2)).await, "raise_min_version");
    let tombstone = Tombstone { at: AT, keks: 3 };
    shred(store, &acme, AT, Shred::Shredded(tombstone)).await;

    let left = given(store.records(&acme).await, "records");
    let destroyed: Vec<_> =
        records.iter().map(|old| KekRecord { state: KekState::Destroyed, wraps: Vec::new(), ..old.clone() }).collect();
    check(left == destroyed, "a shredding leaves every record, destroyed, and no wrapped secret");
    let Some(head) = given(store.head(&acme).await, "head") else {
        panic!("KEK store conformance: a shredded path is known")
    };
    check(head.primary.is_none() && head.tombstone == Some(tombstone), "its head is a tombstone without a primary");
    says_shredded(store.primary(&acme).await, "primary", tombstone);
    for id in records.iter().map(|record| record.identity.id).chain([kek_id()]) {
        says_shredded(store.record(&acme, id).await, "record", tombstone);
    }
    let listed = given(store.accounts(None, 10).await, "accounts");
    check(listed.len() == 2 && listed[0] == head, "a shredded path is listed among the accounts, as its head");
    check(given(store.primaries(None, 1).await, "primaries") == [other.clone()], "and not among the primaries");
    let wrapper = &WrapperQuery::all_of(&records[0].wraps[0].wrapper)[0];
    let found = given(store.by_wrapper(wrapper, None, 10).await, "by_wrapper");
    check(found == [other.clone()], "nothing wraps a shredded record");
    is_the_only_record(store, &other).await;
}

async fn a_shredded_path_is_not_used_again<S: KekStore>(store: &S) {
    let acme = path(&["acme"]);
    let [first, _, third] = three_versions(store, acme.clone()).await;
    let tombstone = Tombstone { at: AT, keks: 3 };
    shred(store, &acme, AT, Shred::Shredded(tombstone)).await;
    let before = given(store.export(&acme).await, "export");
    says_shredded(store.create(&record(acme.clone())).await, "create", tombstone);
    says_shredded(store.rotate(third.identity.id, &next(&third, 4)).await, "rotate", tombstone);
    says_shredded(store.update(&first, &first).await, "update", tombstone);
    says_shredded(store.raise_min_version(&acme, version(2)).await, "raise_min_version", tombstone);
    let live = AccountCopy {
        path: acme.clone(),
        records: vec![third.clone()],
        primary: Some(third.identity.id),
        min_version: KekVersion::FIRST,
        tombstone: None,
    };
    check(given(store.import(&live).await, "import") == Import::Differs, "a copy does not undo a shredding");
    check(given(store.export(&acme).await, "export") == before, "what was refused changed nothing");
    // Neither a path inside it nor one around it.
    create(store, &record(path(&["acme", "billing"])), Creation::Created).await;
}

async fn shredding_twice_is_shredding_once<S: KekStore>(store: &S) {
    let acme = path(&["acme"]);
    shred(store, &acme, AT, Shred::Unknown).await;
    check(given(store.head(&acme).await, "head").is_none(), "shredding an unknown path leaves no tombstone");
    create(store, &record(acme.clone()), Creation::Created).await;
    let tombstone = Tombstone { at: u64::MAX, keks: 1 };
    shred(store, &acme, u64::MAX, Shred::Shredded(tombstone)).await;
    shred(store, &acme, AT, Shred::Already(tombstone)).await;
}

async fn one_of_many_shredders_wins<S: KekStore + 'static>(store: S) {
    let store = Arc::new(store);
    let acme = path(&["acme"]);
    three_versions(&store, acme.clone()).await;
    let mut shredders = JoinSet::new();
    for at in (0..).take(CREATORS) {
        let (store, acme) = (Arc::clone(&store), acme.clone());
        shredders.spawn(async move { given(store.shred(&acme, at).await, "shred") });
    }
    let outcomes = shredders.join_all().await;
    let winners: Vec<_> = outcomes.iter().filter(|shred| matches!(shred, Shred::Shredded(_))).collect();
    check(winners.len() == 1, &format!("of many shredders of one account one wins, and {} did", winners.len()));
    let Some(Shred::Shredded(tombstone)) = winners.first() else { return };
    let others = outcomes.iter().filter(|shred| **shred == Shred::Already(*tombstone)).count();
    check(others == CREATORS - 1, "every shredder sees the winner's tombstone");
}

async fn nothing_is_created_or_rotated_past_a_shredding<S: KekStore + 'static>(store: S) {
    let store = Arc::new(store);
    for round in 0..8 {
        let first = record(path(&["acme", &round.to_string()]));
        let own = first.identity.path.clone();
        create(&store, &first, Creation::Created).await;
        let mut all = JoinSet::new();
        for _ in 0..4 {
            let (store, first, new) = (Arc::clone(&store), first.clone(), next(&first, 2));
            all.spawn(async move {
                match store.rotate(first.identity.id, &new).await {
                    Ok(_) | Err(StoreError::Shredded { .. }) => {}
                    Err(error) => panic!("KEK store conformance: `rotate` failed: {error:?}"),
                }
            });
        }
        let (shredding, path) = (Arc::clone(&store), own.clone());
        all.spawn(async move {
            given(shredding.shred(&path, AT).await, "shred");
        });
        all.join_all().await;
        let left = given(store.records(&own).await, "records");
        let is_gone = left.iter().all(|record| record.state == KekState::Destroyed);
        check(is_gone && left.len() <= 2, "a rotation beside a shredding leaves no record that is not destroyed");
        let Some(Tombstone { keks, .. }) = given(store.head(&own).await, "head").and_then(|head| head.tombstone) else {
            panic!("KEK store conformance: a shredded path has a tombstone")
        };
        check(usize::try_from(keks) == Ok(left.len()), "a tombstone counts the KEKs");
    }
}

/// Copies of an account of several versions, one that is disabled, one with a floor and one that is shredded.
async fn copies() -> Vec<AccountCopy> {
    let source = MemoryKekStore::new();
    let names = ["several", "disabled", "raised", "shredded"].map(|name| path(&["copied", name]));
    for name in &names {
        let [_, _, primary] = three_versions(&source, name.clone()).await;
        match name.segments().nth(1) {
            Some("disabled") => {
                let disabled = KekRecord { state: KekState::Disabled, ..primary.clone() };
                given(source.update(&primary, &disabled).await, "update");
            }
            Some("raised") => drop(given(source.raise_min_version(name, version(2)).await, "raise_min_version")),
            Some("shredded") => drop(given(source.shred(name, AT).await, "shred")),
            _ => {}
        }
    }
    let mut copies = Vec::new();
    for name in &names {
        copies.extend(given(source.export(name).await, "export"));
    }
    copies
}

async fn a_copy_is_the_same_in_another_store<S: KekStore>(store: &S) {
    check(given(store.export(&path(&["copied", "several"])).await, "export").is_none(), "an unknown path has no copy");
    for copy in copies().await {
        for outcome in [Import::Imported, Import::Same] {
            check(given(store.import(&copy).await, "import") == outcome, &format!("this import is {outcome:?}"));
        }
        let read = given(store.export(&copy.path).await, "export");
        check(read.as_ref() == Some(&copy), "an account that was copied is exported as it was");
        check(given(store.head(&copy.path).await, "head") == Some(copy.head()), "its head is the same too");
        let Some(primary) = copy.head().primary else { continue };
        let wrapper = &WrapperQuery::all_of(&primary.wraps[0].wrapper)[0];
        let found =
            given(store.by_wrapper(wrapper, Some((&copy.path, KekId::from_bytes([0; 16]))), 3).await, "by_wrapper");
        check(found.len() == 3 && found.contains(&primary), "it is found by what wraps it");
        if primary.state == KekState::Primary {
            let rotation = given(store.rotate(primary.identity.id, &next(&primary, 4)).await, "rotate");
            check(rotation == Rotation::Rotated, "it can be rotated");
        }
    }
}

async fn a_copy_overwrites_nothing<S: KekStore>(store: &S) {
    for copy in copies().await {
        let other = record(copy.path.clone());
        create(store, &other, Creation::Created).await;
        check(
            given(store.import(&copy).await, "import") == Import::Differs,
            "what is there already is not overwritten",
        );
        is_the_only_record(store, &other).await;
    }
}

async fn a_copy_that_breaks_a_rule_is_refused<S: KekStore>(store: &S) {
    let copies = copies().await;
    let (live, shredded) = (&copies[0], &copies[3]);
    let with = |copy: &AccountCopy, edit: &dyn Fn(&mut AccountCopy)| {
        let mut copy = copy.clone();
        edit(&mut copy);
        copy
    };
    for (what, copy) in [
        ("no record", with(live, &|copy| (copy.records, copy.primary) = (Vec::new(), None))),
        ("another account's record", with(live, &|copy| copy.records[0].identity.path = path(&["other"]))),
        ("versions in disorder", with(live, &|copy| copy.records.swap(0, 1))),
        ("a KEK id twice", with(live, &|copy| copy.records[0].identity.id = copy.records[1].identity.id)),
        ("no primary", with(live, &|copy| copy.primary = None)),
        ("an unknown primary", with(live, &|copy| copy.primary = Some(kek_id()))),
        ("a retired primary", with(live, &|copy| copy.primary = Some(copy.records[0].identity.id))),
        ("two primaries", with(live, &|copy| copy.records[0].state = KekState::Primary)),
        ("a record that breaks a limit", with(live, &|copy| copy.records[0].wraps.clear())),
        ("a lowest version above the primary", with(live, &|copy| copy.min_version = version(4))),
        ("a tombstone on live records", with(live, &|copy| copy.tombstone = Some(Tombstone { at: AT, keks: 3 }))),
        (
            "a tombstone that counts too few",
            with(shredded, &|copy| copy.tombstone = Some(Tombstone { at: AT, keks: 2 })),
        ),
        ("a tombstone with a primary", with(shredded, &|copy| copy.primary = Some(copy.records[2].identity.id))),
    ] {
        match store.import(&copy).await {
            Err(StoreError::Corrupt { path, .. }) if path == copy.path => {}
            other => panic!("KEK store conformance: importing {what} must be `Corrupt`, and was: {other:?}"),
        }
        check(given(store.head(&copy.path).await, "head").is_none(), "a copy that is refused is not stored");
    }
}
