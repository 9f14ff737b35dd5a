//! The root key for tests does as it is told.

use std::sync::Arc;

use keystrata_hierarchy::{
    RootContext, RootKey, RootKeyError, SecretKey,
    test_util::{
        ScriptedOperation::{Generate, Rewrap, Unwrap, Wrap},
        ScriptedRootKey,
    },
};

#[tokio::test]
async fn a_script_sees_every_call_and_decides_on_it() {
    let root = Arc::new(ScriptedRootKey::new("test:root").that_rewraps());
    let context = RootContext::none();
    let (seen, calls) = std::sync::mpsc::channel();
    root.script(move |call| {
        let _ = seen.send((call.number, call.operation));
        if call.operation == Wrap { Err(RootKeyError::denied("it only reads")) } else { Ok(()) }
    });
    let generated = root.generate_key(&context).await.unwrap();
    assert!(matches!(root.wrap_key(&generated.secret, &context).await, Err(RootKeyError::Denied { .. })));
    root.unwrap_key(&generated.wrapped, &context).await.unwrap();
    root.rewrap_key(root.id(), &generated.wrapped, &context).await.unwrap().unwrap();
    assert_eq!(calls.try_iter().collect::<Vec<_>>(), [(1, Generate), (2, Wrap), (3, Unwrap), (4, Rewrap)]);
    assert_eq!([Generate, Wrap, Unwrap, Rewrap].map(|operation| root.calls_to(operation)), [1; 4]);

    // What was queued comes first, and is not seen by the script.
    root.fail_next(RootKeyError::throttled("once"));
    assert!(matches!(root.generate_key(&context).await, Err(RootKeyError::Throttled { .. })));
    root.generate_key(&context).await.unwrap();
    assert_eq!((calls.try_iter().count(), root.calls()), (1, 6));

    root.script(|_| Ok(()));
    root.wrap_key(&generated.secret, &context).await.unwrap();
}

#[tokio::test]
async fn a_script_that_panics_leaves_the_root_key_usable() {
    let root = Arc::new(ScriptedRootKey::new("test:root"));
    root.script(|_| panic!("by the script"));
    let panicking = Arc::clone(&root);
    let call = tokio::spawn(async move { panicking.generate_key(&RootContext::none()).await.map(drop) });
    assert!(call.await.unwrap_err().is_panic());
    root.script(|_| Ok(()));
    root.generate_key(&RootContext::none()).await.unwrap();
}

#[tokio::test]
async fn ids_that_differ_only_at_their_end_are_different_keys() {
    let context = RootContext::none();
    let secret = SecretKey::generate().unwrap();
    let arn = "aws-kms:arn:aws:kms:eu-west-1:111122223333:key/";
    let [one, two] = ["1", "2"].map(|end| ScriptedRootKey::new(&format!("{arn}{end}")));
    let wrapped = one.wrap_key(&secret, &context).await.unwrap();
    assert!(matches!(two.unwrap_key(&wrapped, &context).await, Err(RootKeyError::Rejected)));
    let rewrapping = ScriptedRootKey::new(two.id().as_str()).that_rewraps();
    let rewrapped = rewrapping.rewrap_key(one.id(), &wrapped, &context).await.unwrap().unwrap();
    two.unwrap_key(&rewrapped, &context).await.unwrap();
}
