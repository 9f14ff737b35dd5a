//! A new KEK for an account, old objects brought under it without touching their data, and the old KEK destroyed.
//!
//! `cargo run -p keystrata-examples --example rotate_and_rewrap`

use std::{sync::Arc, time::Duration};

use keystrata_hierarchy::{
    AuditError, AuditEvent, AuditOutcome, AuditSink, Context, Hierarchy, KeyError, LifecycleError, MemoryKekStore,
    OpenError, RewrapScan, Rewrapped,
    test_util::{ManualClock, ScriptedRootKey},
};

/// Says who did what.
#[derive(Debug)]
struct Told;

#[async_trait::async_trait]
impl AuditSink for Told {
    async fn record(&self, event: &AuditEvent) -> Result<(), AuditError> {
        if event.outcome == AuditOutcome::Done {
            println!("    audit: {} by {}", event.action, event.actor);
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (root, clock) = (Arc::new(ScriptedRootKey::new("test:root")), ManualClock::new());
    let keys = Hierarchy::builder()
        .root_key(Arc::clone(&root))
        .store(MemoryKekStore::new())
        .clock(clock.clone())
        .audit(Told)
        .actor("the service")
        .build()?;
    let context = Context::new().with("document", "1");

    println!("sealed under version 1");
    let document = vec![7; 100_000];
    let old = keys.account("acme")?.seal(&document, &context).await?;

    // An operator, whom your service has asked for a password.
    let acme = keys.as_actor("alice").account("acme")?;
    println!("rotated: what is sealed from now on is under version 2, and what was sealed before still opens");
    assert_eq!(acme.rotate().await?.get(), 2);
    assert_eq!(acme.open(&old, &context).await?, document);
    assert_eq!(root.calls(), 2); // one for each KEK

    println!("rewrapped: 124 bytes of the envelope are new, the others as they were");
    let Rewrapped::New(header) = acme.rewrap(&old).await? else { anyhow::bail!("it was under version 1") };
    let new = [&header[..], &old[124..]].concat();
    assert_eq!(acme.open(&new, &context).await?, document);
    assert_eq!(acme.rewrap(&new).await?, Rewrapped::Unchanged);
    assert_eq!(root.calls(), 2); // both KEKs were in memory

    // The old version goes once no process can seal under it any more, and all that it holds was looked through after that.
    let [version_1, version_2] = [&old, &new].map(|envelope| kek_of(envelope));
    let too_early = acme.destroy_version(version_1, acme.begin_rewrap_scan()).await;
    assert!(matches!(too_early, Err(LifecycleError::TooEarly { .. })));
    clock.advance(Duration::from_secs(15 * 60));
    let scan: RewrapScan = acme.begin_rewrap_scan();
    // … `rewrap_each` over every envelope, as in the example rewrap_table …
    println!("version 1 destroyed: a copy from before the rewrap does not open again");
    acme.destroy_version(version_1, scan).await?;
    assert!(matches!(
        acme.open(&old, &context).await,
        Err(OpenError::Key(KeyError::WrongState { .. } | KeyError::NotFound { .. }))
    ));
    assert_eq!(acme.open(&new, &context).await?, document);
    assert_ne!(version_1, version_2);

    // Whoever may have learnt a KEK may have unwrapped the objects' keys: against that, seal the data anew.
    println!("rekeyed: the data itself sealed again under a key of its own");
    let rekeyed = acme.rekey(&new, &context).await?;
    assert_ne!(rekeyed[124..], new[124..]);
    assert_eq!(acme.open(&rekeyed, &context).await?, document);
    Ok(())
}

/// Which KEK an envelope is under stands in its bytes 4 to 20.
fn kek_of(envelope: &[u8]) -> keystrata_hierarchy::KekId {
    let id = envelope[4..20].try_into().expect("an envelope has a header of 124 bytes");
    keystrata_hierarchy::KekId::from_bytes(id)
}
