//! Jobs over very many accounts, with every call counted.
#![allow(clippy::unwrap_used)] // test code outside a #[test]

use std::{sync::Arc, time::Instant};

use keystrata_hierarchy::{
    Hierarchy, KekId, KekRecord, KekState, KekStore, KekVersion, KeyPath, MemoryKekStore, Reroot, RootContext, RootKey,
    Roots, SecretKey, Suite, WrappedSecret, Wrapper,
    jobs::Task,
    test_util::{ScriptedOperation, ScriptedRootKey},
};
use keystrata_primitives::KekIdentity;

const ADD: Task = Task::Reroot { step: Reroot::Add, under: None };

/// How many accounts; a hundred thousand, unless the environment says otherwise.
fn accounts() -> u64 {
    std::env::var("KEYSTRATA_ACCOUNTS").map_or(100_000, |count| count.parse().unwrap())
}

/// Accounts under `old`, put in without an engine.
async fn filled(old: &ScriptedRootKey, count: u64) -> Arc<MemoryKekStore> {
    let store = Arc::new(MemoryKekStore::new());
    for n in 0..count {
        let path = KeyPath::account(&format!("account {n:06}")).unwrap();
        let (suite, version) = (Suite::default(), KekVersion::FIRST);
        let identity = KekIdentity { suite, version, id: KekId::generate().unwrap(), path };
        let secret = SecretKey::generate().unwrap();
        let ciphertext = old.wrap_key(&secret, &RootContext::of_kek(&identity)).await.unwrap();
        let wraps = vec![WrappedSecret { wrapper: Wrapper::Root(old.id().clone()), ciphertext }];
        let (state, check) = (KekState::Primary, identity.derive(&secret).check);
        store.create(&KekRecord { identity, state, check, created_at: 1, retired_at: 0, wraps }).await.unwrap();
    }
    store
}

#[tokio::test]
#[ignore = "takes a minute: a hundred thousand accounts"]
async fn a_reroot_of_a_hundred_thousand_accounts_costs_two_calls_each_and_one_where_the_kms_rewraps() {
    let count = accounts();
    let root = |id| Arc::new(ScriptedRootKey::new(id));
    let (old, new) = (root("test:old"), root("test:new"));
    let store = filled(&old, count).await;
    let keys = |roots| Hierarchy::builder().roots(roots).store(Arc::clone(&store)).build().unwrap();
    let began = Instant::now();
    let before = old.calls();
    let moving = keys(Roots::builder().current(Arc::clone(&new)).former(Arc::clone(&old)).build().unwrap());
    let done = moving.job(ADD).run(|_| {}).await.unwrap();
    assert_eq!((done.accounts, done.changed, done.added, done.failed), (count, count, count, 0));
    assert_eq!((old.calls() - before, new.calls()), (count, count), "one call to unwrap and one to wrap");
    let again = moving.job(ADD).run(|_| {}).await.unwrap();
    assert_eq!((again.changed, again.unchanged), (0, count));
    let retired = moving.job(Task::Reroot { step: Reroot::Retire, under: None }).run(|_| {}).await.unwrap();
    assert_eq!(retired.dropped, count);
    assert_eq!((old.calls() - before, new.calls()), (count, count), "what is done costs none, nor does dropping");
    println!("{count} accounts, two calls each: {:?}", began.elapsed());

    let began = Instant::now();
    let rewrapping = Arc::new(ScriptedRootKey::new("test:rewrapping").that_rewraps());
    let former = root("test:new");
    let moving = keys(Roots::builder().current(Arc::clone(&rewrapping)).former(Arc::clone(&former)).build().unwrap());
    let done = moving.job(ADD).run(|_| {}).await.unwrap();
    assert_eq!((done.changed, done.failed), (count, 0));
    assert_eq!((rewrapping.calls_to(ScriptedOperation::Rewrap), former.calls()), (count, 0), "one call");
    assert_eq!(moving.cached_keks(), 0);
    println!("{count} accounts, one call each: {:?}", began.elapsed());
}
