//! Streams through accounts: written and read for as long as their own time, whatever becomes of the KEK.
#![allow(clippy::unwrap_used, clippy::unchecked_time_subtraction)] // test code outside a #[test], constants

mod common;

use std::{
    io::{self, Cursor, Read, Seek, SeekFrom, Write},
    time::Duration,
};

use common::{
    TTL, exact, row,
    tricky::{Tricky, settle},
};
use keystrata_hierarchy::{
    Account, EnvelopeError, Expiring, KeyError, OpenError, Opener, RootKeyError, SealError, Sealer, StreamExpired,
};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

const NANOSECOND: Duration = Duration::from_nanos(1);
const CHUNK: usize = 16 * 1_024;

/// A plaintext of some chunks in which every place is different.
fn plaintext() -> Vec<u8> {
    (0..u32::try_from(5 * CHUNK / 4).unwrap() + 7).flat_map(u32::to_le_bytes).collect()
}

async fn sealed_by(account: &Account, plain: &[u8]) -> Vec<u8> {
    let mut sealer = account.sealer(Vec::new(), &row(1)).await.unwrap();
    for part in plain.chunks(1_000) {
        sealer.write_all(part).unwrap();
    }
    sealer.finish().unwrap()
}

async fn opener<'a>(account: &Account, envelope: &'a [u8]) -> Expiring<Opener<Cursor<&'a [u8]>>> {
    account.opener(Cursor::new(envelope), &row(1)).await.unwrap()
}

/// That the error is the stream's end, and says which time was up.
fn is_expired(error: &io::Error, ttl: Duration) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<StreamExpired>());
    error.kind() == io::ErrorKind::TimedOut && inner == Some(&StreamExpired { ttl })
}

#[tokio::test]
async fn streams_and_whole_objects_are_one_format_cold_and_hot() {
    let tricky = Tricky::new();
    let plain = plaintext();
    let acme = tricky.process(exact()).account("acme").unwrap();
    let streamed = sealed_by(&acme, &plain).await;
    assert_eq!(tricky.root.calls(), 1, "the first KEK");
    let streamed_hot = sealed_by(&acme, &plain).await;
    let whole = acme.seal(&plain, &row(1)).await.unwrap();
    let mut sealer = acme.async_sealer(Vec::new(), &row(1)).await.unwrap();
    sealer.write_all(&plain).await.unwrap();
    let streamed_async = sealer.finish().await.unwrap();
    assert_eq!(tricky.root.calls(), 1);
    for envelope in [&streamed, &streamed_hot, &whole, &streamed_async] {
        assert_eq!(envelope.len(), whole.len());
        for is_cold in [true, false] {
            let account = if is_cold { tricky.process(exact()).account("acme").unwrap() } else { acme.clone() };
            let calls = tricky.root.calls();
            let mut opened = Vec::new();
            opener(&account, envelope).await.read_to_end(&mut opened).unwrap();
            assert_eq!(opened, plain);
            let mut opened = Vec::new();
            let mut async_opener = account.async_opener(envelope.as_slice(), &row(1)).await.unwrap();
            async_opener.read_to_end(&mut opened).await.unwrap();
            assert_eq!(opened, plain);
            assert_eq!(account.open(envelope, &row(1)).await.unwrap(), plain);
            assert_eq!(tricky.root.calls(), calls + usize::from(is_cold));
        }
    }
}

#[tokio::test]
async fn a_range_is_read_by_seeking() {
    let tricky = Tricky::new();
    let plain = plaintext();
    let acme = tricky.process(exact()).account("acme").unwrap();
    let envelope = sealed_by(&acme, &plain).await;
    let mut opener = opener(&acme, &envelope).await;
    let mut async_opener = acme.async_opener(Cursor::new(envelope.clone()), &row(1)).await.unwrap();
    for at in [0, 1, CHUNK - 1, CHUNK, 3 * CHUNK - 5, plain.len() - 11] {
        let mut range = [0; 11];
        opener.seek(SeekFrom::Start(at as u64)).unwrap();
        opener.read_exact(&mut range).unwrap();
        assert_eq!(range, plain[at..at + 11]);
        async_opener.seek(SeekFrom::Start(at as u64)).await.unwrap();
        async_opener.read_exact(&mut range).await.unwrap();
        assert_eq!(range, plain[at..at + 11]);
    }
    assert_eq!(opener.seek(SeekFrom::End(0)).unwrap(), plain.len() as u64);
    assert_eq!(opener.read(&mut [0; 8]).unwrap(), 0);
}

#[tokio::test]
async fn a_stream_goes_on_when_its_kek_expires_is_invalidated_or_denied_or_all_is_closed() {
    let tricky = Tricky::new();
    let plain = plaintext();
    let keys = tricky.process(exact().stream_ttl(10 * TTL));
    let acme = keys.account("acme").unwrap();
    let envelope = sealed_by(&acme, &plain).await;
    let (mut sealer, mut opener) = (acme.sealer(Vec::new(), &row(1)).await.unwrap(), opener(&acme, &envelope).await);
    let mut read = vec![0; plain.len()];
    let ends: [&dyn Fn(); 4] = [
        &|| tricky.clock.advance(TTL),
        &|| {
            keys.invalidate_all();
        },
        &|| tricky.root.fail(Some(RootKeyError::denied("revoked"))),
        &|| keys.close(),
    ];
    let part = plain.len().div_ceil(4);
    for ((end, plain), part_read) in ends.iter().zip(plain.chunks(part)).zip(read.chunks_mut(part)) {
        end();
        assert_eq!(keys.memory().slots_used, 0);
        sealer.write_all(plain).unwrap();
        opener.read_exact(part_read).unwrap();
    }
    assert!(read == plain);
    let resealed = sealer.finish().unwrap();
    tricky.root.fail(None);
    let elsewhere = tricky.process(exact()).account("acme").unwrap();
    assert!(elsewhere.open(&resealed, &row(1)).await.unwrap() == plain);
}

#[tokio::test]
async fn an_open_stream_keeps_no_kek_when_all_else_is_dropped() {
    let tricky = Tricky::new();
    let keys = tricky.process(exact());
    let acme = keys.account("acme").unwrap();
    let mut sealer = acme.sealer(Vec::new(), &row(1)).await.unwrap();
    assert_eq!(tricky.clock.sleepers(), 1);
    drop((keys, acme));
    // Closing overwrites all, and then the sweeper leaves.
    let patience = std::time::Instant::now() + Duration::from_secs(20);
    while tricky.clock.sleepers() > 0 {
        assert!(std::time::Instant::now() < patience, "the stream keeps the cache open");
        settle().await;
    }
    sealer.write_all(b"still").unwrap();
    let envelope = sealer.finish().unwrap();
    let elsewhere = tricky.process(exact()).account("acme").unwrap();
    assert_eq!(elsewhere.open(&envelope, &row(1)).await.unwrap(), b"still");
}

#[tokio::test]
async fn a_sealer_ends_with_its_time_and_what_it_wrote_does_not_open() {
    let tricky = Tricky::new();
    let acme = tricky.process(exact().stream_ttl(Duration::from_secs(40))).account("acme").unwrap();
    let ttl = Duration::from_secs(40);
    let mut sealer: Expiring<Sealer<Vec<u8>>> = acme.sealer(Vec::new(), &row(1)).await.unwrap();
    assert_eq!(sealer.remaining(), ttl);
    let finishes_in_time = acme.sealer(Vec::new(), &row(1)).await.unwrap();
    let finishes_late = acme.sealer(Vec::new(), &row(1)).await.unwrap();
    let mut written = Vec::new();
    let mut async_sealer = acme.async_sealer(&mut written, &row(1)).await.unwrap();
    tricky.clock.advance(ttl - NANOSECOND);
    sealer.write_all(&vec![7; 3 * CHUNK]).unwrap();
    async_sealer.write_all(&vec![7; 3 * CHUNK]).await.unwrap();
    assert_eq!(acme.open(&finishes_in_time.finish().unwrap(), &row(1)).await.unwrap(), b"");
    tricky.clock.advance(NANOSECOND);
    assert_eq!(sealer.remaining(), Duration::ZERO);
    assert!(is_expired(&sealer.write(b"x").unwrap_err(), ttl));
    assert!(is_expired(&sealer.flush().unwrap_err(), ttl));
    assert!(is_expired(&sealer.finish().unwrap_err(), ttl));
    assert!(is_expired(&finishes_late.finish().unwrap_err(), ttl));
    assert!(is_expired(&async_sealer.write(b"x").await.unwrap_err(), ttl));
    assert!(is_expired(&async_sealer.flush().await.unwrap_err(), ttl));
    assert!(is_expired(&async_sealer.shutdown().await.unwrap_err(), ttl));
    assert!(is_expired(&async_sealer.finish().await.unwrap_err(), ttl));
    assert!(written.len() > CHUNK);
    let refused = acme.open(&written, &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Rejected | OpenError::Envelope(EnvelopeError::Truncated { .. })), "{refused}");
}

#[tokio::test]
async fn an_opener_ends_with_its_time_and_gives_nothing_afterwards() {
    for (policy, ttl) in [(exact(), TTL), (exact().stream_ttl(Duration::from_secs(40)), Duration::from_secs(40))] {
        let tricky = Tricky::new();
        let acme = tricky.process(policy).account("acme").unwrap();
        let envelope = sealed_by(&acme, &plaintext()).await;
        let mut opener = opener(&acme, &envelope).await;
        let mut async_opener = acme.async_opener(Cursor::new(envelope.clone()), &row(1)).await.unwrap();
        let mut out = [0; 8];
        tricky.clock.advance(ttl - NANOSECOND);
        opener.read_exact(&mut out).unwrap();
        async_opener.read_exact(&mut out).await.unwrap();
        tricky.clock.advance(NANOSECOND);
        // Not even of the chunk that it had opened already.
        for _ in 0..2 {
            out = [0; 8];
            assert!(is_expired(&opener.read(&mut out).unwrap_err(), ttl));
            assert!(is_expired(&opener.seek(SeekFrom::Start(0)).unwrap_err(), ttl));
            assert!(is_expired(&async_opener.read(&mut out).await.unwrap_err(), ttl));
            assert!(is_expired(&async_opener.seek(SeekFrom::Start(0)).await.unwrap_err(), ttl));
            assert_eq!((out, opener.remaining()), ([0; 8], Duration::ZERO));
        }
        // A clock set back does not bring it to life.
        tricky.clock.set_real(Duration::ZERO);
        assert!(is_expired(&opener.read(&mut out).unwrap_err(), ttl));
    }
}

#[tokio::test]
async fn with_a_ttl_of_zero_streams_have_a_time_all_the_same() {
    let tricky = Tricky::new();
    let acme = tricky.process(exact().kek_ttl(Duration::ZERO)).account("acme").unwrap();
    let envelope = sealed_by(&acme, b"x").await;
    let mut opener = opener(&acme, &envelope).await;
    assert_eq!(opener.remaining(), TTL);
    let mut read = Vec::new();
    opener.read_to_end(&mut read).unwrap();
    assert_eq!(read, b"x");
}

#[tokio::test]
async fn what_cannot_be_begun_says_why() {
    let tricky = Tricky::new();
    let acme = tricky.process(exact()).account("acme").unwrap();
    tricky.root.fail(Some(RootKeyError::throttled("slow down")));
    let refused = acme.sealer(Vec::new(), &row(1)).await.unwrap_err();
    assert!(matches!(refused, SealError::Key(KeyError::Throttled(_))), "{refused}");
    tricky.root.fail(None);
    let envelope = sealed_by(&acme, &plaintext()).await;
    let refused = acme.opener(envelope.as_slice(), &row(2)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Rejected), "{refused}");
    let refused = acme.async_opener(&envelope[..50], &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Envelope(EnvelopeError::Truncated { .. })), "{refused}");
    let refused = acme.opener(&b""[..], &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Envelope(EnvelopeError::Empty)), "{refused}");
    let mut opener = opener(&acme, &envelope[..envelope.len() - CHUNK / 2]).await;
    let mut out = Vec::new();
    opener.read_to_end(&mut out).unwrap_err();
    assert!(out.len() <= plaintext().len() && plaintext().starts_with(&out), "authenticated bytes only");
}
