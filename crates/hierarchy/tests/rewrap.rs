//! Old objects under the new primary: rewrapped by their headers, rekeyed with their data.
#![allow(clippy::unwrap_used)] // test code outside a #[test]

mod common;

use std::{
    convert::Infallible,
    num::{NonZeroU64, NonZeroUsize},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{Fixture, exact, row};
use keystrata_hierarchy::{
    KekId, KekVersion, KeyError, OpenError, RekeyError, RewrapEachError, RewrapError, Rewrapped, SealError,
};

fn kek_of(envelope: &[u8]) -> KekId {
    KekId::from_bytes(envelope[4..20].try_into().unwrap())
}

fn new(rewrapped: Rewrapped) -> [u8; 124] {
    match rewrapped {
        Rewrapped::New(header) => header,
        Rewrapped::Unchanged => panic!("unchanged"),
    }
}

#[tokio::test]
async fn a_rewrapped_header_is_under_the_primary_and_changes_nothing_else() {
    let fixture = Fixture::new();
    let acme = fixture.process().account("acme").unwrap();
    let old = acme.seal(&vec![7; 50_000], &row(1)).await.unwrap();
    assert_eq!(acme.try_rewrap(&old).unwrap(), Some(Rewrapped::Unchanged));
    acme.rotate().await.unwrap();
    let calls = fixture.root.calls();
    // The header alone, and at hand: no call, no wait.
    let header = new(acme.try_rewrap(&old[..124]).unwrap().expect("both KEKs are in memory"));
    assert_eq!(fixture.root.calls(), calls);
    let mut rewrapped = old.clone();
    rewrapped[..124].copy_from_slice(&header);
    assert_ne!(kek_of(&rewrapped), kek_of(&old));
    assert_eq!(kek_of(&rewrapped), kek_of(&acme.seal(b"x", &row(1)).await.unwrap()));
    assert_eq!(acme.open(&rewrapped, &row(1)).await.unwrap(), vec![7; 50_000]);
    assert_eq!(acme.rewrap(&rewrapped).await.unwrap(), Rewrapped::Unchanged);
    // With the old version given up, what was rewrapped opens and what was not does not.
    acme.set_min_version(KekVersion::new(2).unwrap()).await.unwrap();
    acme.open(&rewrapped, &row(1)).await.unwrap();
    let refused = acme.rewrap(&old).await.unwrap_err();
    assert!(matches!(refused, RewrapError::Key(KeyError::BelowMinVersion(_))), "{refused}");
}

#[tokio::test]
async fn what_is_not_in_memory_is_got_with_one_call_each() {
    let fixture = Fixture::new();
    let acme = fixture.process().account("acme").unwrap();
    let old = acme.seal(b"x", &row(1)).await.unwrap();
    acme.rotate().await.unwrap();
    for (keys, calls) in [(fixture.process(), 2), (fixture.builder().kek_ttl(Duration::ZERO).build().unwrap(), 2)] {
        let (acme, before) = (keys.account("acme").unwrap(), fixture.root.calls());
        assert!(acme.try_rewrap(&old).unwrap().is_none());
        let header = new(acme.rewrap(&old).await.unwrap());
        assert_eq!(fixture.root.calls() - before, calls);
        let rewrapped = [&header[..], &old[124..]].concat();
        assert_eq!(acme.open(&rewrapped, &row(1)).await.unwrap(), b"x");
    }
}

#[tokio::test]
async fn a_header_that_is_not_the_accounts_or_was_altered_is_refused() {
    let fixture = Fixture::new();
    let keys = fixture.process();
    let [acme, globex] = ["acme", "globex"].map(|name| keys.account(name).unwrap());
    let old = acme.seal(b"x", &row(1)).await.unwrap();
    globex.seal(b"x", &row(1)).await.unwrap();
    acme.rotate().await.unwrap();
    let refused = globex.rewrap(&old).await.unwrap_err();
    assert!(matches!(refused, RewrapError::Key(KeyError::NotFound { .. })), "{refused}");
    for byte in 20..92 {
        let mut altered = old.clone();
        altered[byte] ^= 1;
        assert!(matches!(acme.rewrap(&altered).await.unwrap_err(), RewrapError::Rejected), "{byte}");
    }
    let mut of_another_suite = old.clone();
    of_another_suite[3] = 2;
    let refused = acme.rewrap(&of_another_suite).await.unwrap_err();
    assert!(matches!(refused, RewrapError::SuiteMismatch { .. }), "{refused}");
    for len in 0..124 {
        assert!(matches!(acme.rewrap(&old[..len]).await.unwrap_err(), RewrapError::Envelope(_)), "{len}");
    }
    acme.open_only().await.unwrap();
    let refused = acme.rewrap(&old).await.unwrap_err();
    assert!(matches!(refused, RewrapError::Key(KeyError::SealingDisabled { .. })), "{refused}");
}

#[tokio::test]
async fn a_scan_over_what_is_done_wears_no_primary_out() {
    let fixture = Fixture::new();
    let policy = exact().max_wraps(NonZeroU64::new(10).unwrap()).build().unwrap();
    let keys = fixture.builder().policy(policy).build().unwrap();
    let acme = keys.account("acme").unwrap();
    let sealed = acme.seal(b"x", &row(1)).await.unwrap();
    for _ in 0..100 {
        assert_eq!(acme.rewrap(&sealed).await.unwrap(), Rewrapped::Unchanged);
    }
    assert_eq!(keys.stats().rotations, 0);
}

#[tokio::test]
async fn rekeyed_data_is_under_another_dek() {
    let fixture = Fixture::new();
    let acme = fixture.process().account("acme").unwrap();
    for len in [0, 1, 16 * 1024, 40_000] {
        let old = acme.seal(&vec![7; len], &row(1)).await.unwrap();
        acme.rotate().await.unwrap();
        let rekeyed = acme.rekey(&old, &row(1)).await.unwrap();
        assert_eq!(rekeyed.len(), old.len());
        assert_ne!(rekeyed[92..], old[92..], "another commitment, and so another DEK");
        assert_ne!(kek_of(&rekeyed), kek_of(&old));
        assert_eq!(acme.open(&rekeyed, &row(1)).await.unwrap(), vec![7; len]);
    }
    let old = acme.seal(b"x", &row(1)).await.unwrap();
    let refused = acme.rekey(&old, &row(2)).await.unwrap_err();
    assert!(matches!(refused, RekeyError::Open(OpenError::Rejected)), "{refused}");
    acme.open_only().await.unwrap();
    let refused = acme.rekey(&old, &row(1)).await.unwrap_err();
    assert!(matches!(refused, RekeyError::Seal(SealError::Key(KeyError::SealingDisabled { .. }))), "{refused}");
    // In another process, which has to get both KEKs.
    acme.enable().await.unwrap();
    let there = fixture.process().account("acme").unwrap();
    let rekeyed = there.rekey(&old, &row(1)).await.unwrap();
    assert_eq!(acme.open(&rekeyed, &row(1)).await.unwrap(), b"x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_rows_are_rewrapped_a_few_at_a_time_and_none_is_lost_to_another_writer() {
    let fixture = Fixture::new();
    let acme = fixture.process().account("acme").unwrap();
    let mut rows = Vec::new();
    for id in 0..100_usize {
        rows.push(acme.seal(&[1], &row(u32::try_from(id).unwrap())).await.unwrap());
    }
    acme.rotate().await.unwrap();
    let table = Arc::new(Mutex::new(rows.clone()));
    // Rewrapped before; broken; changed between the scan's read and its write.
    table.lock().unwrap()[3] = acme.seal(&[1], &row(3)).await.unwrap();
    rows[3] = table.lock().unwrap()[3].clone();
    rows[4][30] ^= 1;
    table.lock().unwrap()[5] = acme.seal(&[2], &row(5)).await.unwrap();
    let (under_way, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = (Arc::clone(&under_way), Arc::clone(&most), Arc::clone(&table));
    let store = move |id: usize, old: [u8; 124], new: [u8; 124]| {
        let (under_way, most, table) = counted.clone();
        async move {
            most.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            under_way.fetch_sub(1, Ordering::SeqCst);
            if id == 6 {
                return Err("the table is read-only");
            }
            let mut table = table.lock().unwrap();
            let is_still_there = table[id].starts_with(&old);
            if is_still_there {
                table[id][..124].copy_from_slice(&new);
            }
            Ok(is_still_there)
        }
    };
    let at_once = NonZeroUsize::new(4).unwrap();
    let tally = acme.rewrap_each(rows.into_iter().enumerate(), at_once, store).await.unwrap();
    assert_eq!((tally.rewrapped, tally.unchanged, tally.changed_meanwhile), (96, 1, 1));
    let mut failed: Vec<_> = tally.failed.iter().map(|(id, _)| *id).collect();
    failed.sort_unstable();
    assert_eq!(failed, [4, 6]);
    let is_rejected = |(id, error): &(usize, RewrapEachError<&str>)| match error {
        RewrapEachError::Rewrap(RewrapError::Rejected) => *id == 4,
        RewrapEachError::Store(_) => *id == 6,
        RewrapEachError::Rewrap(_) => false,
    };
    assert!(tally.failed.iter().all(is_rejected), "{:?}", tally.failed);
    assert!((1..=4).contains(&most.load(Ordering::SeqCst)));
    let table = table.lock().unwrap().clone();
    for (id, envelope) in table.iter().enumerate() {
        let opened = acme.open(envelope, &row(u32::try_from(id).unwrap())).await.unwrap();
        assert_eq!(opened, [if id == 5 { 2 } else { 1 }], "{id}");
    }
    let none = acme
        .rewrap_each(Vec::<((), Vec<u8>)>::new(), at_once, async |(), _, _| Ok::<_, Infallible>(true))
        .await
        .unwrap();
    assert_eq!(none.rewrapped, 0);
}
