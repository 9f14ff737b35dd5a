//! What the engine relies on in a root key.

mod harness;

use std::{
    fmt::Debug,
    sync::Arc,
    task::{Context as TaskContext, Waker},
};

use keystrata_primitives::{KekId, KekIdentity, KekRecord, KekVersion, KeyPath, RootKeyId, SecretKey, Suite};
use secrecy::ExposeSecret;
use tokio::task::JoinSet;

pub use self::harness::{RootKeyFault, RootKeyHarness};
use crate::root::{GeneratedKey, RootContext, RootKey, RootKeyError};

/// Tasks that call at once.
const CALLERS: usize = 64;

/// Runs the suite for root keys.
///
/// Each call of `make` gives an adapter of one and the same key, as a process has after a restart. The suite makes
/// a few hundred calls, most of which are to be refused: mind what they cost if a real KMS answers them. With
/// [`root_key_in`] more can be checked.
///
/// # Panics
/// If the adapter breaks a rule; the message says which.
pub async fn root_key<R: RootKey + 'static>(make: impl AsyncFn() -> R) {
    root_key_in(&harness::of(make)).await;
}

/// Runs the suite for root keys, with whatever `harness` can do beyond giving adapters: a second key, faults on cue.
///
/// # Panics
/// If the adapter breaks a rule; the message says which.
pub async fn root_key_in<H: RootKeyHarness>(harness: &H) {
    let root = harness.root().await;
    round_trip(&root).await;
    generates(&root).await;
    two_wraps_differ(&root).await;
    contexts_are_bound(&root).await;
    altered_bytes_are_rejected(&root).await;
    rewraps_or_says_that_it_cannot(&root).await;
    dropped_calls_do_no_harm(&root).await;
    another_adapter_of_the_key_unwraps(&root, &harness.root().await).await;
    if let Some(other) = harness.other_key().await {
        keys_are_bound(&root, &other).await;
    }
    faults_have_their_class(harness, &root).await;
    many_calls_at_once(root).await;
}

async fn round_trip<R: RootKey>(root: &R) {
    let secret = secret();
    for (name, context) in [
        ("no context", RootContext::none()),
        ("a plain account", context(&["acme"], 1)),
        ("an account that needs escaping", context(&["a/b\0", "größe ☃"], 1)),
        ("the longest path", context(&["x".repeat(128).as_str(); 8], 1)),
    ] {
        let wrapped = wrap(root, &secret, &context).await;
        let len = wrapped.len();
        check(
            (1..=KekRecord::MAX_CIPHERTEXT_BYTES).contains(&len),
            &format!("a wrapped key has 1 to 8,192 bytes, and one has {len}"),
        );
        let back = unwrap(root, &wrapped, &context).await;
        check(same(&secret, &back), &format!("a wrapped secret comes back equal, with {name}"));
    }
}

async fn generates<R: RootKey>(root: &R) {
    let context = context(&["acme"], 1);
    let first = generate(root, &context).await;
    let second = generate(root, &context).await;
    check(!same(&first.secret, &second.secret), "two generated secrets differ");
    for generated in [first, second] {
        let back = unwrap(root, &generated.wrapped, &context).await;
        check(same(&generated.secret, &back), "a generated secret comes back equal from its wrapped form");
    }
}

async fn two_wraps_differ<R: RootKey>(root: &R) {
    let (secret, context) = (secret(), context(&["acme"], 1));
    let first = wrap(root, &secret, &context).await;
    let second = wrap(root, &secret, &context).await;
    check(first != second, "two wraps of one secret differ, so that they do not tell which secrets are equal");
}

async fn contexts_are_bound<R: RootKey>(root: &R) {
    let home = context(&["acme", "billing"], 1);
    let wrapped = wrap(root, &secret(), &home).await;
    for (name, other) in [
        ("of no account", RootContext::none()),
        ("of another account", context(&["globex", "billing"], 1)),
        ("of the account's parent", context(&["acme"], 1)),
        ("of an account that reads alike", context(&["acme/billing"], 1)),
        ("of another KEK", context(&["acme", "billing"], 2)),
    ] {
        rejected(root, &wrapped, &other, &format!("a wrapped key under the context {name}")).await;
    }
    let bare = wrap(root, &secret(), &RootContext::none()).await;
    rejected(root, &bare, &home, "a key wrapped without a context under one").await;
}

async fn altered_bytes_are_rejected<R: RootKey>(root: &R) {
    let context = context(&["acme"], 1);
    let wrapped = wrap(root, &secret(), &context).await;
    rejected(root, &[], &context, "no bytes").await;
    for len in [1, wrapped.len() / 2, wrapped.len() - 1] {
        rejected(root, &wrapped[..len], &context, &format!("a wrapped key cut to {len} bytes")).await;
    }
    for index in 0..wrapped.len() {
        let mut flipped = wrapped.clone();
        flipped[index] ^= 1 << (index % 8);
        rejected(root, &flipped, &context, &format!("a wrapped key with a flipped bit in byte {index}")).await;
    }
    for extra in [1, 64 * 1024] {
        let mut longer = wrapped.clone();
        longer.resize(wrapped.len() + extra, 0);
        rejected(root, &longer, &context, &format!("a wrapped key with {extra} bytes after it")).await;
    }
    rejected(root, &[0; KekRecord::MAX_CIPHERTEXT_BYTES], &context, "zeros").await;
    // The refusals above must not have been the adapter's mood.
    unwrap(root, &wrapped, &context).await;
}

async fn rewraps_or_says_that_it_cannot<R: RootKey>(root: &R) {
    let (secret, context, other) = (secret(), context(&["acme"], 1), context(&["globex"], 1));
    let wrapped = wrap(root, &secret, &context).await;
    let rewrapped = given(root.rewrap_key(root.id(), &wrapped, &context).await, "rewraps, or says that it cannot");
    if let Some(rewrapped) = rewrapped {
        check(same(&secret, &unwrap(root, &rewrapped, &context).await), "a rewrapped secret comes back equal");
        rejected(root, &rewrapped, &other, "a rewrapped key under another account's context").await;
        for (what, wrapped, context) in
            [("under another context", &wrapped[..], &other), ("that was cut", &wrapped[..wrapped.len() - 1], &context)]
        {
            let refused = root.rewrap_key(root.id(), wrapped, context).await;
            check(matches!(refused, Err(RootKeyError::Rejected)), &format!("rewrapping what is {what} is `Rejected`"));
        }
    }
    let stranger = RootKeyId::new("conformance:another-kms").expect("plain characters");
    let outcome = root.rewrap_key(&stranger, &wrapped, &context).await;
    check(matches!(outcome, Ok(None)), "what a root key of another kind wrapped cannot be rewrapped inside: `None`");
}

async fn keys_are_bound<R: RootKey>(root: &R, other: &R) {
    check(root.id() != other.id(), "two keys have two ids, since a record's id decides who is asked");
    let context = context(&["acme"], 1);
    let wrapped = wrap(root, &secret(), &context).await;
    rejected(other, &wrapped, &context, "what another key wrapped").await;
    let generated = generate(other, &context).await;
    rejected(root, &generated.wrapped, &context, "what another key generated").await;
}

async fn faults_have_their_class<H: RootKeyHarness>(harness: &H, root: &H::Root) {
    let context = context(&["acme"], 1);
    let secret = secret();
    let wrapped = wrap(root, &secret, &context).await;
    for fault in RootKeyFault::ALL {
        if !harness.set_fault(Some(fault)).await {
            continue;
        }
        for (call, outcome) in [
            ("wrap", root.wrap_key(&secret, &context).await.map(drop)),
            ("unwrap", root.unwrap_key(&wrapped, &context).await.map(drop)),
            ("generate", root.generate_key(&context).await.map(drop)),
        ] {
            let is_right = outcome.as_ref().is_err_and(|error| fault.is_told_by(error));
            check(is_right, &format!("a {call} while the KMS is {fault:?} says so, and was {outcome:?}"));
        }
        harness.set_fault(None).await;
        let back = unwrap(root, &wrapped, &context).await;
        check(same(&secret, &back), &format!("the root key works again after the KMS was {fault:?}"));
    }
}

async fn dropped_calls_do_no_harm<R: RootKey>(root: &R) {
    let (secret, context) = (secret(), context(&["acme"], 1));
    let wrapped = wrap(root, &secret, &context).await;
    for _ in 0..CALLERS {
        let waker = &mut TaskContext::from_waker(Waker::noop());
        // Polled once, each call has begun whatever it does; then it is dropped wherever it stands.
        let _ = root.wrap_key(&secret, &context).as_mut().poll(waker);
        let _ = root.unwrap_key(&wrapped, &context).as_mut().poll(waker);
        let _ = root.generate_key(&context).as_mut().poll(waker);
    }
    for turns in 1..CALLERS {
        // Further along, as the scheduler would have it: a request half sent, an answer half read.
        let ends = async || {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! { biased; _ = root.unwrap_key(&wrapped, &context) => {}, () = ends() => {} }
        tokio::select! { biased; _ = root.generate_key(&context) => {}, () = ends() => {} }
    }
    let back = unwrap(root, &wrapped, &context).await;
    check(same(&secret, &back), "the root key works after calls that were dropped half-way");
}

async fn another_adapter_of_the_key_unwraps<R: RootKey>(root: &R, other: &R) {
    check(root.id() == other.id(), "two adapters of one key have one id, since records name it");
    let (secret, context) = (secret(), context(&["acme"], 1));
    let wrapped = wrap(root, &secret, &context).await;
    check(same(&secret, &unwrap(other, &wrapped, &context).await), "what one adapter wrapped another unwraps");
}

async fn many_calls_at_once<R: RootKey + 'static>(root: R) {
    let root = Arc::new(root);
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let root = Arc::clone(&root);
        callers.spawn(async move {
            let (secret, context) = (secret(), context(&["acme", &caller.to_string()], 1));
            let wrapped = wrap(&root, &secret, &context).await;
            same(&secret, &unwrap(&root, &wrapped, &context).await)
        });
    }
    for own_secret_came_back in callers.join_all().await {
        check(own_secret_came_back, "each of many callers at once gets its own secret back");
    }
}

async fn wrap<R: RootKey>(root: &R, secret: &SecretKey, context: &RootContext) -> Vec<u8> {
    given(root.wrap_key(secret, context).await, "wraps a secret")
}

async fn unwrap<R: RootKey>(root: &R, wrapped: &[u8], context: &RootContext) -> SecretKey {
    given(root.unwrap_key(wrapped, context).await, "unwraps what it wrapped")
}

async fn generate<R: RootKey>(root: &R, context: &RootContext) -> GeneratedKey {
    given(root.generate_key(context).await, "generates a secret")
}

async fn rejected<R: RootKey>(root: &R, wrapped: &[u8], context: &RootContext, what: &str) {
    match root.unwrap_key(wrapped, context).await {
        Err(RootKeyError::Rejected) => {}
        Err(other) => panic!("root key conformance: {what} must be `Rejected`, and was: {other:?}"),
        Ok(_) => panic!("root key conformance: {what} must be `Rejected`, and was unwrapped"),
    }
}

fn given<T>(answer: Result<T, impl Debug>, what: &str) -> T {
    answer.unwrap_or_else(|error| panic!("root key conformance: it {what}, and did not: {error:?}"))
}

fn check(holds: bool, rule: &str) {
    assert!(holds, "root key conformance: {rule}");
}

fn same(a: &SecretKey, b: &SecretKey) -> bool {
    a.expose_secret() == b.expose_secret()
}

fn secret() -> SecretKey {
    SecretKey::generate().expect("the system gives random bytes")
}

fn context(segments: &[&str], kek: u8) -> RootContext {
    RootContext::of_kek(&KekIdentity {
        suite: Suite::default(),
        version: KekVersion::FIRST,
        id: KekId::from_bytes([kek; KekId::LEN]),
        path: KeyPath::new(segments).expect("a valid path"),
    })
}
