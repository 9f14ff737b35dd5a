//! Accounts as nobody expects them: odd names, made twice, gone, or of a store from before.
#![allow(clippy::unwrap_used)] // test code outside a #[test]

mod common;

use std::{sync::Arc, time::Duration};

use common::{
    Fixture, TTL, exact, row,
    tree::{builder, path, services},
    tricky::{Hold, Tricky, TrickyRoot, settle},
};
use keystrata_hierarchy::{
    Change, Creation, KekStore, KekVersion, KeyError, KeyPath, LifecycleError, MemoryKekStore, OpenError, PathError,
    Reroot, Roots, SealError, Suite,
    jobs::{Checkpoint, CheckpointError, JobError, Task},
};

/// Names that look alike, or that a careless program takes for one another.
fn look_alikes() -> Vec<KeyPath> {
    let longest = "x".repeat(128);
    let one =
        ["acme/mail", "acme", "Acme", "acme ", " acme", "acme\0", "\0", "/", "~YWNtZQ", "acme\0mail", "*", "%", "'"];
    // é as one character and as two, a ligature and its letters, a Greek letter and the Latin one.
    let unicode = ["caf\u{e9}", "cafe\u{301}", "\u{fb01}n", "fin", "\u{391}cme", "\u{200b}acme", "acme\u{202e}"];
    let one = one.into_iter().chain(unicode).chain([longest.as_str(), &longest[..127]]);
    let inner = [["acme", "mail"], ["acme/mail", "x"], ["acme", "mail/x"], ["acme\0", "mail"], ["acme", "\0mail"]];
    one.map(|name| path([name])).chain(inner.map(path)).collect()
}

#[tokio::test]
async fn accounts_whose_names_look_alike_have_nothing_in_common() {
    let tricky = Tricky::new();
    let keys = builder(&tricky, services).build().unwrap();
    let mut envelopes = Vec::new();
    for path in look_alikes() {
        envelopes.push((path.clone(), keys.account(&path).unwrap().seal(b"x", &row(1)).await.unwrap()));
    }
    for (path, envelope) in &envelopes {
        for (of, _) in &envelopes {
            let opened = keys.account(of).unwrap().open(envelope, &row(1)).await;
            match opened {
                Ok(plaintext) => assert!(of == path && plaintext == b"x", "{path} opens as {of}"),
                Err(OpenError::Key(KeyError::NotFound { .. })) => assert_ne!(of, path),
                Err(error) => panic!("{path} as {of}: {error}"),
            }
        }
    }
    // What is done to one is done to no other, but to what is inside it.
    for name in ["caf\u{e9}", "acme\0mail", "Acme"] {
        keys.account(name).unwrap().shred().await.unwrap();
        keys.invalidate_all();
        for (path, envelope) in &envelopes {
            let opened = keys.account(path).unwrap().open(envelope, &row(1)).await;
            let is_shredded = tricky.store.inner.head(path).await.unwrap().unwrap().tombstone.is_some();
            assert_eq!(opened.is_err(), is_shredded, "{path} after {name:?}");
        }
    }
    let mut shredded = 0;
    for path in look_alikes() {
        shredded += usize::from(tricky.store.inner.head(&path).await.unwrap().unwrap().tombstone.is_some());
    }
    assert_eq!(shredded, 3);
    for refused in [keys.account(""), keys.account("x".repeat(129)), keys.account("\u{e9}".repeat(65))] {
        assert!(
            matches!(refused, Err(PathError::EmptySegment { .. } | PathError::SegmentTooLong { .. })),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn processes_of_different_policies_and_suites_make_an_account_once_and_each_keeps_to_its_own() {
    let fixture = Fixture::new();
    let held = fixture.root.hold().await;
    let process = |ttl: Duration, suite| {
        let policy = exact().kek_ttl(ttl).build().unwrap();
        fixture.builder().policy(policy).suite(suite).build().unwrap()
    };
    let all = [
        process(TTL, Suite::XChaCha20Poly1305),
        process(Duration::from_secs(10), Suite::Aes256Gcm),
        process(Duration::ZERO, Suite::XChaCha20Poly1305),
    ];
    let sealing: Vec<_> = all
        .iter()
        .map(|keys| {
            let account = keys.account("acme").unwrap();
            tokio::spawn(async move { (account.create().await.unwrap(), account.seal(b"x", &row(1)).await.unwrap()) })
        })
        .collect();
    settle().await;
    drop(held);
    let (mut created, mut envelopes) = (0, Vec::new());
    for sealed in sealing {
        let (creation, envelope) = sealed.await.unwrap();
        created += usize::from(creation == Creation::Created);
        envelopes.push(envelope);
    }
    let records = fixture.store.records(&path(["acme"])).await.unwrap();
    assert_eq!((created, records.len()), (1, 1));
    for keys in &all {
        for envelope in &envelopes {
            assert_eq!(keys.account("acme").unwrap().open(envelope, &row(1)).await.unwrap(), b"x");
        }
    }
    assert_eq!([all[0].cached_keks(), all[1].cached_keks(), all[2].cached_keks()], [1, 1, 0]);
    fixture.clock.advance(Duration::from_secs(10));
    let is_at_hand = |n: usize| all[n].account("acme").unwrap().try_open(&envelopes[0], &row(1)).unwrap().is_some();
    assert_eq!([is_at_hand(0), is_at_hand(1)], [true, false], "each by its own policy");
}

#[tokio::test]
async fn an_account_that_is_unknown_or_shredded_is_not_rotated_and_no_call_is_made() {
    let tricky = Tricky::new();
    for ttl in [TTL, Duration::ZERO] {
        let keys = tricky.process(exact().kek_ttl(ttl));
        let gone = keys.account(format!("gone {ttl:?}")).unwrap();
        gone.seal(b"x", &row(1)).await.unwrap();
        gone.shred().await.unwrap();
        let calls = tricky.root.calls();
        let never = keys.account("never").unwrap();
        assert!(matches!(never.rotate().await, Err(KeyError::NoAccount { .. })));
        assert!(matches!(never.reroot(Reroot::Add).await, Err(LifecycleError::Key(KeyError::NoAccount { .. }))));
        for keys in [keys.clone(), tricky.process(exact().kek_ttl(ttl))] {
            let gone = keys.account(gone.path()).unwrap();
            assert!(matches!(gone.rotate().await, Err(KeyError::Shredded(_))));
            assert!(matches!(gone.create().await, Err(KeyError::Shredded(_))));
            assert!(matches!(gone.seal(b"x", &row(1)).await, Err(SealError::Key(KeyError::Shredded(_)))));
            assert!(matches!(gone.reroot(Reroot::Add).await, Err(LifecycleError::Key(KeyError::Shredded(_)))));
            assert_eq!(gone.shred().await.unwrap().change, Change::AlreadySo);
        }
        tricky.clock.advance(Duration::from_secs(600));
        let done = keys.job(Task::RotateOlderThan(Duration::from_secs(60))).run(|_| {}).await.unwrap();
        assert_eq!((done.accounts, done.changed, done.failed), (0, 0, 0));
        assert_eq!((tricky.root.calls(), keys.cached_keks()), (calls, 0));
    }
}

#[tokio::test]
async fn while_a_reroot_waits_for_a_root_that_never_answers_all_goes_on() {
    let tricky = Tricky::new();
    let sealed = tricky.sealed_for("acme").await;
    let silent = Arc::new(TrickyRoot::named("test:silent"));
    silent.hold(Hold::Everything);
    let roots = Roots::builder().current(Arc::clone(&silent)).former(Arc::clone(&tricky.root)).build().unwrap();
    let keys = tricky.builder().roots(roots).build().unwrap();
    let acme = keys.account("acme").unwrap();
    let (one, all) = (acme.clone(), keys.job(Task::Reroot { step: Reroot::Add, under: None }));
    let waiting = (
        tokio::spawn(async move { one.reroot(Reroot::Add).await }),
        tokio::spawn(async move { all.run(|_| {}).await }),
    );
    settle().await;
    assert!(silent.calls() >= 1 && !waiting.0.is_finished() && !waiting.1.is_finished());
    assert_eq!(acme.open(&sealed, &row(1)).await.unwrap(), b"x");
    acme.seal(b"y", &row(1)).await.unwrap();
    assert!(matches!(acme.reroot(Reroot::Retire).await, Err(LifecycleError::NotAdded { .. })), "nothing is dropped");
    // Given up, and asked for again when it answers: one KEK, one more wrap.
    waiting.0.abort();
    waiting.1.abort();
    silent.hold(Hold::Nothing);
    settle().await;
    acme.reroot(Reroot::Add).await.unwrap();
    let records = tricky.store.inner.records(acme.path()).await.unwrap();
    assert_eq!((records.len(), records[0].wraps.len()), (1, 2));
}

/// What can be told of a store that was restored from before a rotation, and what cannot.
#[tokio::test]
async fn a_store_from_before_a_rotation_is_noticed_by_who_saw_it_and_never_opens_with_another_key() {
    let fixture = Fixture::new();
    let acme = path(["acme"]);
    let keys = fixture.process();
    let account = keys.account("acme").unwrap();
    let old = account.seal(b"old", &row(1)).await.unwrap();
    let backup = fixture.store.export(&acme).await.unwrap().unwrap();
    let mut checkpoint = String::new();
    account.rotate().await.unwrap();
    keys.account("later").unwrap().seal(b"x", &row(1)).await.unwrap();
    let rotated = account.seal(b"rotated", &row(1)).await.unwrap();
    let task = || Task::RotateOlderThan(Duration::from_secs(3_600));
    keys.job(task()).run(|progress| checkpoint = progress.checkpoint.to_string()).await.unwrap();

    let restored = Arc::new(MemoryKekStore::new());
    restored.import(&backup).await.unwrap();
    let process = || fixture.builder().store(Arc::clone(&restored)).build().unwrap();
    // A job of before does not go on past accounts that it has done and that are not done any more.
    let refused =
        process().job(task()).resume(checkpoint.parse::<Checkpoint>().unwrap()).run(|_| {}).await.unwrap_err();
    assert!(matches!(refused, JobError::Checkpoint(CheckpointError::OtherStore { .. })), "{refused}");
    // A new process cannot tell. What was sealed since is not found, and it says so.
    let keys = process();
    let account = keys.account("acme").unwrap();
    assert_eq!(account.open(&old, &row(1)).await.unwrap(), b"old");
    let refused = account.open(&rotated, &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Key(KeyError::NotFound { .. })), "{refused}");
    // The next version has the number of the one that is lost, and is another KEK.
    assert_eq!(account.rotate().await.unwrap(), KekVersion::new(2).unwrap());
    let anew = account.seal(b"anew", &row(1)).await.unwrap();
    fixture.clock.advance(Duration::from_secs(1));
    let refused = account.open(&rotated, &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Key(KeyError::NotFound { .. })), "{refused}");
    assert_eq!(account.open(&anew, &row(1)).await.unwrap(), b"anew");
}
