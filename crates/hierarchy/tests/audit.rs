//! Who did what to which KEK, and what becomes of it when it cannot be written down.
#![allow(clippy::unwrap_used)] // test code outside a #[test]

mod common;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use common::{
    exact, row,
    tricky::{Tricky, settle},
};
use keystrata_hierarchy::{
    AuditAction, AuditError, AuditEvent, AuditFsync, AuditOutcome, AuditSink, Change, Hierarchy, JsonLinesAudit,
    KekStore, KekVersion, KeyError, LifecycleError, OnAuditFailure, Reroot, RootKeyError, SealError, TracingAudit,
};

#[derive(Debug, Default)]
struct Notes {
    events: Mutex<Vec<AuditEvent>>,
    /// How many events are taken before all others are refused.
    room: AtomicUsize,
}

impl Notes {
    fn new() -> Arc<Self> {
        Arc::new(Self { room: AtomicUsize::new(usize::MAX), ..Self::default() })
    }

    fn take(&self) -> Vec<(String, AuditAction, AuditOutcome)> {
        let events = std::mem::take(&mut *self.events.lock().unwrap());
        events.into_iter().map(|event| (event.actor.to_string(), event.action, event.outcome)).collect()
    }
}

#[async_trait]
impl AuditSink for Notes {
    async fn record(&self, event: &AuditEvent) -> Result<(), AuditError> {
        let take = |room: usize| if room == usize::MAX { Some(room) } else { room.checked_sub(1) };
        if self.room.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_err() {
            return Err(AuditError::new("the notebook is full"));
        }
        self.events.lock().unwrap().push(event.clone());
        Ok(())
    }
}

fn process(tricky: &Tricky, notes: &Arc<Notes>, policy: OnAuditFailure) -> Hierarchy {
    let builder = tricky.builder().policy(exact().build().unwrap()).actor("service");
    builder.audit(Arc::clone(notes)).on_audit_failure(policy).build().unwrap()
}

#[tokio::test]
async fn every_change_is_told_twice_with_who_made_it() {
    use AuditAction::{Created, Destroyed, Disabled, Enabled, MinVersionRaised, Rotated, SealingDisabled, Shredded};
    use AuditOutcome::{Done, Intended, Unchanged};
    let (tricky, notes) = (Tricky::new(), Notes::new());
    let keys = process(&tricky, &notes, OnAuditFailure::Refuse);
    let acme = keys.as_actor("alice").account("acme").unwrap();
    let twice =
        |actor: &str, action, outcome| vec![(actor.to_owned(), action, Intended), (actor.to_owned(), action, outcome)];
    acme.seal(b"x", &row(1)).await.unwrap();
    assert_eq!(notes.take(), twice("service", Created, Done), "nobody asked for it by name");
    acme.rotate().await.unwrap();
    {
        let primary = tricky.store.inner.primary(acme.path()).await.unwrap().unwrap().identity;
        let events = notes.events.lock().unwrap();
        assert!(events.iter().all(|event| event.kek_id == Some(primary.id) && event.version == Some(primary.version)));
        assert!(events.iter().all(|event| event.path == *acme.path() && event.at.as_secs() == 1_800_000_000));
    }
    assert_eq!(notes.take(), twice("alice", Rotated, Done));
    acme.disable().await.unwrap();
    acme.disable().await.unwrap();
    assert_eq!(notes.take(), [twice("alice", Disabled, Done), twice("alice", Disabled, Unchanged)].concat());
    acme.open_only().await.unwrap();
    assert_eq!(notes.take(), twice("alice", SealingDisabled, Done));
    acme.enable().await.unwrap();
    assert_eq!(notes.take(), twice("alice", Enabled, Done));
    acme.set_min_version(KekVersion::new(2).unwrap()).await.unwrap();
    assert_eq!(notes.take(), twice("alice", MinVersionRaised, Done));
    acme.reroot(Reroot::Add).await.unwrap();
    assert_eq!(notes.take(), [], "of an account that is as it is to be there is nothing to tell");
    let old = tricky.store.inner.records(acme.path()).await.unwrap()[0].identity.id;
    let refused = acme.destroy_version(old, acme.begin_rewrap_scan()).await.unwrap_err().to_string();
    assert_eq!(notes.take(), twice("alice", Destroyed, AuditOutcome::Failed(refused)));
    acme.shred().await.unwrap();
    assert_eq!(notes.take(), twice("alice", Shredded, Done));
    let other = keys.account("other").unwrap();
    tricky.root.fail(Some(RootKeyError::denied("revoked")));
    assert!(other.seal(b"x", &row(1)).await.is_err());
    settle().await;
    let denied = notes.take();
    assert!(matches!(&denied[..], [(_, AuditAction::Denied, AuditOutcome::Failed(_))]), "{denied:?}");
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_done() {
    let (tricky, notes) = (Tricky::new(), Notes::new());
    let keys = process(&tricky, &notes, OnAuditFailure::Refuse);
    let acme = keys.account("acme").unwrap();
    let sealed = acme.seal(b"x", &row(1)).await.unwrap();
    notes.room.store(0, Ordering::SeqCst);
    let is_refused = |error: LifecycleError| matches!(error, LifecycleError::Key(KeyError::NotRecorded(_)));
    let before = tricky.store.inner.export(acme.path()).await.unwrap();
    assert!(is_refused(acme.disable().await.unwrap_err()));
    assert!(is_refused(acme.shred().await.unwrap_err()));
    assert!(is_refused(acme.set_min_version(KekVersion::FIRST).await.unwrap_err()));
    assert!(matches!(acme.rotate().await.unwrap_err(), KeyError::NotRecorded(_)));
    assert_eq!(tricky.store.inner.export(acme.path()).await.unwrap(), before);
    let SealError::Key(refused) = keys.account("new").unwrap().seal(b"x", &row(1)).await.unwrap_err() else { panic!() };
    assert!(matches!(refused, KeyError::NotRecorded(_)), "{refused}");
    assert_eq!(tricky.store.versions("new").await, 0);
    assert_eq!(
        (keys.cached_keks(), keys.stats().audit_failures),
        (1, 5),
        "what was made and not stored is overwritten"
    );
    // Sealing and opening under what there is goes on.
    acme.open(&sealed, &row(1)).await.unwrap();
    acme.seal(b"x", &row(1)).await.unwrap();
}

#[tokio::test]
async fn an_outcome_that_cannot_be_recorded_takes_nothing_back() {
    let (tricky, notes) = (Tricky::new(), Notes::new());
    let keys = process(&tricky, &notes, OnAuditFailure::Refuse);
    let acme = keys.account("acme").unwrap();
    acme.seal(b"x", &row(1)).await.unwrap();
    notes.room.store(1, Ordering::SeqCst);
    assert_eq!(acme.disable().await.unwrap(), Change::Made);
    assert_eq!(keys.stats().audit_failures, 1);
}

#[tokio::test]
async fn by_policy_a_change_goes_on_without_a_record() {
    let (tricky, notes) = (Tricky::new(), Notes::new());
    let keys = process(&tricky, &notes, OnAuditFailure::GoOn);
    notes.room.store(0, Ordering::SeqCst);
    let acme = keys.account("acme").unwrap();
    acme.seal(b"x", &row(1)).await.unwrap();
    acme.rotate().await.unwrap();
    acme.shred().await.unwrap();
    assert_eq!(keys.stats().audit_failures, 6);
}

#[tokio::test]
async fn lines_of_json_survive_a_torn_line_and_have_one_writer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let tricky = Tricky::new();
    {
        let sink = JsonLinesAudit::open(&path, AuditFsync::EachEvent).unwrap();
        let second = JsonLinesAudit::open(&path, AuditFsync::Never).unwrap_err();
        assert!(second.to_string().contains("another writer"), "{second}");
        let keys = tricky.builder().audit(sink).actor("a \"quoted\"\nactor").build().unwrap();
        keys.account("line\nbreak").unwrap().seal(b"x", &row(1)).await.unwrap();
    }
    // As a crash leaves it.
    let mut text = std::fs::read_to_string(&path).unwrap();
    text.push_str("{\"action\":\"sh");
    std::fs::write(&path, text).unwrap();
    {
        let sink = JsonLinesAudit::open(&path, AuditFsync::Never).unwrap();
        let keys = tricky.builder().audit(sink).build().unwrap();
        keys.account("acme").unwrap().seal(b"x", &row(1)).await.unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = text.lines().map(serde_json::from_str::<serde_json::Value>).collect();
    assert_eq!(lines.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, true, true]);
    let first = lines[0].as_ref().unwrap();
    assert_eq!(first["actor"], "a \"quoted\"\nactor");
    assert_eq!(first["path"], serde_json::json!(["line\nbreak"]));
    assert_eq!((&first["action"], &first["outcome"]), (&"created".into(), &"intended".into()));
    assert_eq!(first["at_ms"], 1_800_000_000_000_u64);
    assert_eq!(first["version"], 1);
    assert_eq!(first["kek_id"].as_str().unwrap().len(), 32);
    assert!(!text.contains("secret"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_share_a_file_write_whole_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    std::fs::write(&path, "{\"action\":\"sh").unwrap(); // as a crash leaves it
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let sink = JsonLinesAudit::open_shared(&path, AuditFsync::Never).unwrap();
        writers.spawn(async move {
            let tricky = Tricky::new();
            let keys = tricky.builder().audit(sink).actor(&"x".repeat(5_000)).build().unwrap();
            for account in 0..10 {
                keys.account(format!("{writer}-{account}")).unwrap().seal(b"x", &row(1)).await.unwrap();
            }
        });
    }
    writers.join_all().await;
    let text = std::fs::read_to_string(&path).unwrap();
    let whole = text.lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()).count();
    assert_eq!((whole, text.lines().count()), (80, 81));
    JsonLinesAudit::open(&path, AuditFsync::Never).expect("nobody keeps it");
}

#[tokio::test]
async fn the_log_is_a_sink_that_never_fails() {
    let tricky = Tricky::new();
    let keys = tricky.builder().audit(TracingAudit).build().unwrap();
    keys.account("acme").unwrap().seal(b"x", &row(1)).await.unwrap();
    assert_eq!(keys.stats().audit_failures, 0);
}
