//! Tenants who bring their own keys: each one's KEK under a root key of the tenant's own, and what a revocation stops.
//!
//! `cargo run -p keystrata-examples --example byok`

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use keystrata_hierarchy::{
    Context, Hierarchy, KeyError, MemoryKekStore, OpenError, Placement, RootKeyError, Roots, SealError,
    test_util::{ManualClock, ScriptedRootKey},
};

const TTL: Duration = Duration::from_secs(300);

/// Which tenants brought a root key. Read at every load of a KEK, so it is in memory; kept in the tenants' table besides.
type Brought = Arc<RwLock<HashMap<String, Roots>>>;

/// A key in the tenant's own KMS. In a service: `keystrata_kms::open("aws-kms:arn:aws:kms:…")` with the URI that the tenant
/// gave, tried with `keystrata_kms::verify_root` while the tenant is still at the form, and a `Guard` of its own around it.
fn tenants_key(id: &str) -> Arc<ScriptedRootKey> {
    Arc::new(ScriptedRootKey::new(id))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (store, clock) = (Arc::new(MemoryKekStore::new()), ManualClock::new());
    let ours = tenants_key("aws-kms:ours");
    let brought = Brought::default();
    let keys = {
        let (ours, brought) = (Roots::new(Arc::clone(&ours)), Arc::clone(&brought));
        Hierarchy::builder()
            .topology(move |path| {
                let tenant = path.segments().next().unwrap_or_default();
                let brought = brought.read().unwrap_or_else(PoisonError::into_inner);
                Placement::account(brought.get(tenant).unwrap_or(&ours))
            })
            .store(Arc::clone(&store))
            .clock(clock.clone())
            .kek_ttl(TTL)
            .build()?
    };

    // Two tenants come with keys, while the service runs.
    let (acmes, globexs) = (tenants_key("aws-kms:of-acme"), tenants_key("vault-transit:of-globex"));
    for (tenant, root) in [("acme", &acmes), ("globex", &globexs)] {
        let roots = Roots::new(Arc::clone(root));
        brought.write().unwrap_or_else(PoisonError::into_inner).insert(tenant.into(), roots);
    }
    let mut sealed = HashMap::new();
    for tenant in ["acme", "globex", "initech"] {
        let secret = format!("{tenant}'s secret");
        sealed.insert(tenant, keys.account(tenant)?.seal(secret.as_bytes(), &Context::none()).await?);
    }
    assert_eq!((acmes.calls(), globexs.calls(), ours.calls()), (1, 1, 1)); // each KEK under its tenant's root key alone
    println!("acme and globex are under their own root keys, initech is under ours");

    // Globex revokes its key. The KEK that was unwrapped before lives for its TTL and not longer.
    globexs.script(|_| Err(RootKeyError::denied("globex revoked the key")));
    keys.account("globex")?.open(&sealed["globex"], &Context::none()).await?;
    clock.advance(TTL);
    let refused = keys.account("globex")?.open(&sealed["globex"], &Context::none()).await;
    assert!(matches!(refused, Err(OpenError::Key(KeyError::Denied(_)))));
    println!("globex revoked its key: refused at the latest {TTL:?} after");
    let refused = keys.account("globex")?.seal(b"more", &Context::none()).await;
    assert!(matches!(refused, Err(SealError::Key(KeyError::Denied(_)))));

    // Nobody else notices: no other root key was asked instead, and the others' calls are their own.
    for tenant in ["acme", "initech"] {
        keys.account(tenant)?.open(&sealed[tenant], &Context::none()).await?;
    }
    assert_eq!((acmes.calls(), ours.calls()), (2, 2));

    // A record never chooses its root key. Without its own in the list, nobody is called for acme's KEK.
    brought.write().unwrap_or_else(PoisonError::into_inner).remove("acme");
    keys.invalidate("acme")?;
    let refused = keys.account("acme")?.open(&sealed["acme"], &Context::none()).await;
    assert!(matches!(refused, Err(OpenError::Key(KeyError::WrongRoot { .. }))));
    assert_eq!((acmes.calls(), ours.calls()), (2, 2));
    println!("acme's root key taken out of the list: refused without a call to any KMS");
    Ok(())
}
