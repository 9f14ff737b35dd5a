//! What the engine relies on in a store.

mod change;
mod listing;
mod shred;

use std::{fmt::Debug, sync::Arc};

use keystrata_primitives::{
    KekCheck, KekId, KekIdentity, KekRecord, KekState, KekVersion, KeyPath, RootKeyId, Suite, WrappedSecret, Wrapper,
};
use tokio::task::JoinSet;

use crate::store::{Creation, KekStore, Rotation, StoreError};

/// Tasks that create one account at once.
const CREATORS: usize = 32;

/// Runs the suite for stores.
///
/// Each call of `make` gives a store of its own that is empty. The suite makes some forty stores and writes some two hundred accounts
/// into them.
///
/// # Panics
/// If the store breaks a rule; the message says which.
pub async fn kek_store<S: KekStore + 'static>(make: impl AsyncFn() -> S) {
    let make = async || Box::pin(make()).await;
    knows_nothing_at_first(&make().await).await;
    a_created_record_comes_back(&make().await).await;
    the_first_record_of_an_account_stays(&make().await).await;
    every_kind_of_record_fits(&make().await).await;
    what_is_no_first_primary_is_refused(&make().await).await;
    paths_are_kept_apart(&make().await).await;
    pages_are_in_order_and_complete(&make().await).await;
    one_of_many_creators_wins(make().await).await;
    creators_of_other_accounts_do_not_disturb(make().await).await;
    a_rotation_swaps_the_primary(&make().await).await;
    a_rotation_that_came_late_changes_nothing(&make().await).await;
    what_is_no_later_primary_is_refused(&make().await).await;
    one_of_many_rotators_wins(make().await).await;
    dropped_calls_do_no_harm(&make().await).await;
    // Boxed: what `make` does may take a lot of stack, and here it would take it once for every case.
    Box::pin(change::run(&make)).await;
    Box::pin(listing::run(&make)).await;
    Box::pin(shred::run(&make)).await;
}

async fn knows_nothing_at_first<S: KekStore>(store: &S) {
    let acme = path(&["acme"]);
    check(given(store.primary(&acme).await, "primary").is_none(), "an unknown account has no primary");
    check(given(store.record(&acme, kek_id()).await, "record").is_none(), "an unknown account has no KEK of any id");
    check(given(store.records(&acme).await, "records").is_empty(), "an unknown account has no records");
    check(given(store.head(&acme).await, "head").is_none(), "an unknown account has no head");
    check(given(store.primaries(None, 10).await, "primaries").is_empty(), "an empty store lists no account");
}

async fn a_created_record_comes_back<S: KekStore>(store: &S) {
    let record = record(path(&["acme"]));
    create(store, &record, Creation::Created).await;
    is_the_only_record(store, &record).await;
    let other = given(store.record(&record.identity.path, kek_id()).await, "record");
    check(other.is_none(), "a KEK id that the account does not have is not found");
    let elsewhere = given(store.record(&path(&["globex"]), record.identity.id).await, "record");
    check(elsewhere.is_none(), "the KEK id of one account is not found under another");
}

async fn the_first_record_of_an_account_stays<S: KekStore>(store: &S) {
    let first = record(path(&["acme"]));
    create(store, &first, Creation::Created).await;
    create(store, &first, Creation::Exists).await;
    let mut second = record(path(&["acme"]));
    create(store, &second, Creation::Exists).await;
    second.identity.version = KekVersion::new(2).expect("not 0");
    create(store, &second, Creation::Exists).await;
    is_the_only_record(store, &first).await;
}

async fn every_kind_of_record_fits<S: KekStore>(store: &S) {
    let mut plain = record(path(&["plain"]));
    plain.wraps[0].ciphertext = vec![0];
    let mut extreme = record(path(&["extreme"]));
    extreme.identity.version = KekVersion::new(u32::MAX).expect("not 0");
    (extreme.created_at, extreme.retired_at) = (u64::MAX, u64::MAX);
    let mut several = record(path(&["several"]));
    several.wraps = vec![
        WrappedSecret { wrapper: root("local:1"), ciphertext: b"\0\xff\0".to_vec() },
        WrappedSecret { wrapper: root("local:2"), ciphertext: vec![7; 300] },
        WrappedSecret {
            wrapper: Wrapper::Parent { path: path(&["group"]), kek_id: kek_id() },
            ciphertext: vec![8; 72],
        },
    ];
    let mut largest = record(path(&["x".repeat(128).as_str(); 8]));
    let wrapper = root(&"r".repeat(RootKeyId::MAX_BYTES));
    let wrap = WrappedSecret { wrapper, ciphertext: vec![9; KekRecord::MAX_CIPHERTEXT_BYTES] };
    largest.wraps = vec![wrap; KekRecord::MAX_WRAPS];
    for record in [plain, extreme, several, largest] {
        create(store, &record, Creation::Created).await;
        is_the_only_record(store, &record).await;
    }
}

async fn what_is_no_first_primary_is_refused<S: KekStore>(store: &S) {
    let acme = path(&["acme"]);
    let no_wraps = KekRecord { wraps: Vec::new(), ..record(acme.clone()) };
    let retired = KekRecord { state: KekState::Retired, ..record(acme.clone()) };
    let disabled = KekRecord { state: KekState::Disabled, ..record(acme.clone()) };
    for (name, record) in [("no wrapped secret", no_wraps), ("state retired", retired), ("state disabled", disabled)] {
        match store.create(&record).await {
            Err(StoreError::Corrupt { path, .. }) if path == acme => {}
            other => panic!("KEK store conformance: creating a record of {name} must be `Corrupt`, and was: {other:?}"),
        }
    }
    check(given(store.records(&acme).await, "records").is_empty(), "a refused record is not stored");
    create(store, &record(acme), Creation::Created).await;
}

async fn paths_are_kept_apart<S: KekStore>(store: &S) {
    let long = "x".repeat(128);
    let mut almost = [long.as_str(); 8];
    let nearly_long = format!("{}y", "x".repeat(127));
    almost[7] = &nearly_long;
    let paths = [
        path(&["a", "b"]),
        path(&["a/b"]),
        path(&["a\0b"]),
        path(&["a\0", "b"]),
        path(&["a", "\0b"]),
        path(&["a"]),
        path(&["a\0"]),
        path(&["A"]),
        path(&["a "]),
        path(&["%"]),
        path(&["'"]),
        path(&["é"]),        // one code point
        path(&["e\u{301}"]), // the same letter in two
        path(&["größe", "☃", "日本"]),
        path(&[long.as_str(); 8]),
        path(&[long.as_str(); 7]),
        path(&almost),
    ];
    let records = paths.map(record);
    for record in &records {
        create(store, record, Creation::Created).await;
    }
    for record in &records {
        is_the_only_record(store, record).await;
    }
}

async fn pages_are_in_order_and_complete<S: KekStore>(store: &S) {
    // In the order of the encodings, which begin with lengths: shorter before longer, not as a dictionary has it.
    let names = ["z", "aa", "zz", "\u{7f}x", "é", "abc", "zzz"];
    let mut records: Vec<KekRecord> = names.iter().map(|name| record(path(&[name]))).collect();
    records.extend([record(path(&["a", "b"])), record(path(&["zz", "a"])), record(path(&["a", "b", "c"]))]);
    for record in &records {
        create(store, record, Creation::Created).await;
    }
    records.sort_by(|a, b| a.identity.path.as_bytes().cmp(b.identity.path.as_bytes()));

    let all = given(store.primaries(None, usize::MAX).await, "primaries");
    check(all == records, "primaries are listed in the order of `KeyPath::as_bytes`, all of them and each once");
    check(given(store.primaries(None, 0).await, "primaries").is_empty(), "a limit of 0 lists nothing");
    for limit in 1..=records.len() + 1 {
        let mut listed: Vec<KekRecord> = Vec::new();
        loop {
            let after = listed.last().map(|record| record.identity.path.clone());
            let page = given(store.primaries(after.as_ref(), limit).await, "primaries");
            let left = records.len() - listed.len();
            check(page.len() == limit.min(left), &format!("a page of limit {limit} is full unless it is the last"));
            if page.is_empty() {
                break;
            }
            listed.extend(page);
        }
        check(listed == records, &format!("pages of {limit} list what one page lists"));
    }
    let between = path(&["zy"]);
    let rest = given(store.primaries(Some(&between), usize::MAX).await, "primaries");
    let expected = records.iter().filter(|record| record.identity.path > between);
    check(rest.iter().eq(expected), "a page may begin after an account that does not exist");
}

async fn one_of_many_creators_wins<S: KekStore + 'static>(store: S) {
    let store = Arc::new(store);
    let mut creators = JoinSet::new();
    for _ in 0..CREATORS {
        let store = Arc::clone(&store);
        creators.spawn(async move {
            let own = record(path(&["acme"]));
            let creation = given(store.create(&own).await, "create");
            // A loser has to find the winner's record at once: it goes on to seal under it.
            let seen = given(store.primary(&own.identity.path).await, "primary");
            (creation, own, seen)
        });
    }
    let outcomes = creators.join_all().await;
    let winners: Vec<_> = outcomes.iter().filter(|(creation, ..)| *creation == Creation::Created).collect();
    check(winners.len() == 1, &format!("of many creators of one account one wins, and {} did", winners.len()));
    let winner = &winners[0].1;
    check(
        outcomes.iter().all(|(.., seen)| seen.as_ref() == Some(winner)),
        "every creator sees the winner's record as soon as its own call returns",
    );
    is_the_only_record(&store, winner).await;
}

async fn creators_of_other_accounts_do_not_disturb<S: KekStore + 'static>(store: S) {
    let store = Arc::new(store);
    let mut creators = JoinSet::new();
    for creator in 0..CREATORS {
        let store = Arc::clone(&store);
        creators.spawn(async move {
            let record = record(path(&["account", &creator.to_string()]));
            create(&store, &record, Creation::Created).await;
            is_the_only_record(&store, &record).await;
        });
    }
    creators.join_all().await;
    let listed = given(store.primaries(None, usize::MAX).await, "primaries").len();
    check(listed == CREATORS, "accounts created at once are all listed");
}

async fn a_rotation_swaps_the_primary<S: KekStore>(store: &S) {
    let mut expected = vec![record(path(&["acme"]))];
    create(store, &expected[0], Creation::Created).await;
    create(store, &record(path(&["globex"])), Creation::Created).await;
    for number in 2..=5 {
        let new = next(&expected[expected.len() - 1], number);
        let rotation = given(store.rotate(expected[expected.len() - 1].identity.id, &new).await, "rotate");
        check(rotation == Rotation::Rotated, "rotating from the primary is `Rotated`");
        let old = expected.last_mut().expect("not empty");
        (old.state, old.retired_at) = (KekState::Retired, new.created_at);
        expected.push(new);
        are_all_records(store, &expected).await;
    }
    let listed = given(store.primaries(None, 10).await, "primaries");
    check(listed.len() == 2 && listed[0] == expected[4], "an account is listed once, by its newest primary");
}

async fn a_rotation_that_came_late_changes_nothing<S: KekStore>(store: &S) {
    let first = record(path(&["acme"]));
    let second = next(&first, 2);
    let superseded = given(store.rotate(first.identity.id, &second).await, "rotate");
    check(superseded == Rotation::Superseded, "an unknown account cannot be rotated");
    create(store, &first, Creation::Created).await;
    let superseded = given(store.rotate(kek_id(), &second).await, "rotate");
    check(superseded == Rotation::Superseded, "rotating from a KEK that is not there is `Superseded`");
    is_the_only_record(store, &first).await;
    given(store.rotate(first.identity.id, &second).await, "rotate");
    for late in [next(&first, 2), next(&first, 3)] {
        let superseded = given(store.rotate(first.identity.id, &late).await, "rotate");
        check(superseded == Rotation::Superseded, "rotating from a retired KEK is `Superseded`");
    }
    let retired = KekRecord { state: KekState::Retired, retired_at: second.created_at, ..first };
    are_all_records(store, &[retired, second]).await;
}

async fn what_is_no_later_primary_is_refused<S: KekStore>(store: &S) {
    let first = KekRecord {
        identity: KekIdentity { version: version(2), ..record(path(&["acme"])).identity },
        ..record(path(&["acme"]))
    };
    create(store, &first, Creation::Created).await;
    let retired = KekRecord { state: KekState::Retired, ..next(&first, 3) };
    let no_wraps = KekRecord { wraps: Vec::new(), ..next(&first, 3) };
    let cases = [
        ("state retired", retired),
        ("no wrapped secret", no_wraps),
        ("the same version", next(&first, 2)),
        ("an earlier version", next(&first, 1)),
    ];
    for (name, record) in cases {
        match store.rotate(first.identity.id, &record).await {
            Err(StoreError::Corrupt { .. }) => {}
            other => panic!("KEK store conformance: rotating to {name} must be `Corrupt`, and was: {other:?}"),
        }
        is_the_only_record(store, &first).await;
    }
}

async fn one_of_many_rotators_wins<S: KekStore + 'static>(store: S) {
    let store = Arc::new(store);
    let first = record(path(&["acme"]));
    create(&store, &first, Creation::Created).await;
    let mut rotators = JoinSet::new();
    for _ in 0..CREATORS {
        let (store, first) = (Arc::clone(&store), first.clone());
        rotators.spawn(async move {
            let own = next(&first, 2);
            let rotation = given(store.rotate(first.identity.id, &own).await, "rotate");
            let seen = given(store.primary(&own.identity.path).await, "primary");
            (rotation, own, seen)
        });
    }
    let outcomes = rotators.join_all().await;
    let winners: Vec<_> = outcomes.iter().filter(|(rotation, ..)| *rotation == Rotation::Rotated).collect();
    check(winners.len() == 1, &format!("of many rotators of one account one wins, and {} did", winners.len()));
    let winner = &winners[0].1;
    check(
        outcomes.iter().all(|(.., seen)| seen.as_ref() == Some(winner)),
        "every rotator sees the winner's record as soon as its own call returns",
    );
    let retired = KekRecord { state: KekState::Retired, retired_at: winner.created_at, ..first };
    are_all_records(&store, &[retired, winner.clone()]).await;
}

async fn dropped_calls_do_no_harm<S: KekStore>(store: &S) {
    let acme = path(&["acme"]);
    for _ in 0..CREATORS {
        let own = record(acme.clone());
        let waker = &mut std::task::Context::from_waker(std::task::Waker::noop());
        // Polled once, each call has begun whatever it does; then it is dropped wherever it stands.
        let _ = store.create(&own).as_mut().poll(waker);
        let _ = store.rotate(kek_id(), &next(&own, 2)).as_mut().poll(waker);
        let _ = store.primary(&acme).as_mut().poll(waker);
        let _ = store.record(&acme, own.identity.id).as_mut().poll(waker);
        let _ = store.records(&acme).as_mut().poll(waker);
        let _ = store.primaries(None, 1).as_mut().poll(waker);
        let _ = store.head(&acme).as_mut().poll(waker);
        let _ = store.export(&acme).as_mut().poll(waker);
        let _ = store.update(&own, &own).as_mut().poll(waker);
        let _ = store.raise_min_version(&acme, KekVersion::FIRST).as_mut().poll(waker);
        let _ = store.shred(&path(&["globex"]), 1).as_mut().poll(waker);
        let _ = store.accounts(None, 1).as_mut().poll(waker);
    }
    given(store.create(&record(acme.clone())).await, "create");
    let Some(primary) = given(store.primary(&acme).await, "primary") else {
        panic!("KEK store conformance: the account has a primary after calls that were dropped half-way");
    };
    is_the_only_record(store, &primary).await;
}

async fn create<S: KekStore>(store: &S, record: &KekRecord, expected: Creation) {
    let path = &record.identity.path;
    let creation = given(store.create(record).await, "create");
    check(creation == expected, &format!("creating {path} is {expected:?}, and was {creation:?}"));
}

/// Every way of reading the account gives `expected` and nothing else.
async fn is_the_only_record<S: KekStore>(store: &S, expected: &KekRecord) {
    let KekIdentity { id, path, .. } = &expected.identity;
    let is_expected = |found: Option<KekRecord>| found.as_ref() == Some(expected);
    check(
        is_expected(given(store.record(path, *id).await, "record")),
        &format!("the record of {path} reads back equal"),
    );
    check(is_expected(given(store.primary(path).await, "primary")), &format!("the primary of {path} reads back equal"));
    let records = given(store.records(path).await, "records");
    check(records == [expected.clone()], &format!("{path} has the one record that was created"));
    let [record] = &records[..] else { return };
    check(record.encode() == expected.encode(), &format!("the record of {path} keeps its bytes"));
}

/// Every way of reading the account gives these, oldest first, the last of them the primary.
async fn are_all_records<S: KekStore>(store: &S, expected: &[KekRecord]) {
    let Some(last) = expected.last() else { return };
    let path = &last.identity.path;
    check(given(store.records(path).await, "records") == expected, "all versions are listed, oldest first");
    check(given(store.primary(path).await, "primary").as_ref() == Some(last), "the primary is the newest version");
    for record in expected {
        let found = given(store.record(path, record.identity.id).await, "record");
        check(found.as_ref() == Some(record), "every version is found by its KEK id");
    }
}

fn given<T>(answer: Result<T, impl Debug>, method: &str) -> T {
    answer.unwrap_or_else(|error| panic!("KEK store conformance: `{method}` failed: {error:?}"))
}

fn check(holds: bool, rule: &str) {
    assert!(holds, "KEK store conformance: {rule}");
}

fn record(path: KeyPath) -> KekRecord {
    KekRecord {
        identity: KekIdentity { suite: Suite::default(), version: KekVersion::FIRST, id: kek_id(), path },
        state: KekState::Primary,
        check: KekCheck::from_bytes([0xc5; KekCheck::LEN]),
        created_at: 1_800_000_000,
        retired_at: 0,
        wraps: vec![WrappedSecret { wrapper: root("test:root"), ciphertext: vec![0x5a; 72] }],
    }
}

/// A later version of the same account's KEK.
fn next(previous: &KekRecord, number: u32) -> KekRecord {
    let mut next = record(previous.identity.path.clone());
    next.identity.version = version(number);
    next.created_at = previous.created_at + 60;
    next
}

fn version(number: u32) -> KekVersion {
    KekVersion::new(number).expect("not 0")
}

fn root(id: &str) -> Wrapper {
    Wrapper::Root(RootKeyId::new(id).expect("a valid id"))
}

fn path(segments: &[&str]) -> KeyPath {
    KeyPath::new(segments).expect("a valid path")
}

fn kek_id() -> KekId {
    KekId::generate().expect("the system gives random bytes")
}
