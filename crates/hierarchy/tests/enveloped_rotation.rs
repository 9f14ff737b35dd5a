//! The two-level form under several root keys: which are asked, how often, and what a rotation changes.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use keystrata_hierarchy::{
    Enveloped, EnvelopedError, GeneratedKey, RootContext, RootKey, RootKeyError, RootKeyId, SecretKey, Urgency,
    test_util::{
        ScriptedOperation::{self, Generate, Rewrap, Unwrap, Wrap},
        ScriptedRootKey,
    },
};

fn root(id: &str) -> Arc<ScriptedRootKey> {
    Arc::new(ScriptedRootKey::new(id))
}

fn over(root: &Arc<ScriptedRootKey>) -> Enveloped {
    Enveloped::new(Arc::clone(root))
}

/// What a root key was asked since the last time.
struct Calls<'a> {
    root: &'a ScriptedRootKey,
    before: [u64; 4],
}

impl<'a> Calls<'a> {
    fn of(root: &'a ScriptedRootKey) -> Self {
        Self { root, before: ScriptedOperation::ALL.map(|operation| root.calls_to(operation)) }
    }

    fn are(&mut self, expected: &[ScriptedOperation]) {
        let now = ScriptedOperation::ALL.map(|operation| self.root.calls_to(operation));
        let made: Vec<_> = (0..4).map(|index| now[index] - self.before[index]).collect();
        let wanted =
            ScriptedOperation::ALL.map(|wanted| expected.iter().filter(|made| **made == wanted).count() as u64);
        assert_eq!(made, wanted, "calls to {:?} of {:?}", ScriptedOperation::ALL, self.root);
        self.before = now;
    }
}

fn data(text: &str) -> &str {
    text.split_once('.').map(|parts| parts.1).expect("two parts")
}

/// Everything that is not a rejection.
fn failures() -> [RootKeyError; 5] {
    [
        RootKeyError::denied("revoked"),
        RootKeyError::throttled("slow down"),
        RootKeyError::unavailable("no answer"),
        RootKeyError::Overloaded { message: "budget".into(), retry_after: Duration::from_secs(1) },
        RootKeyError::Withdrawn,
    ]
}

fn is_rejected<T>(answer: &Result<T, EnvelopedError>) -> bool {
    matches!(answer, Err(EnvelopedError::Root(RootKeyError::Rejected)))
}

#[tokio::test]
async fn root_keys_are_asked_in_order_until_one_does_not_reject() {
    let [new, older, oldest] = ["test:new", "test:older", "test:oldest"].map(root);
    let texts = [
        over(&new).seal(b"0").await.unwrap(),
        over(&older).seal(b"1").await.unwrap(),
        over(&oldest).seal(b"2").await.unwrap(),
    ];
    let secrets = over(&new).former(Arc::clone(&older)).former(Arc::clone(&oldest));
    let [mut news, mut olders, mut oldests] = [&new, &older, &oldest].map(|root| Calls::of(root));
    let expected: [[&[ScriptedOperation]; 3]; 3] =
        [[&[Unwrap], &[], &[]], [&[Unwrap], &[Unwrap], &[]], [&[Unwrap], &[Unwrap], &[Unwrap]]];
    for (text, (plaintext, calls)) in texts.iter().zip([b"0", b"1", b"2"].into_iter().zip(expected)) {
        assert_eq!(secrets.open(text).await.unwrap(), plaintext);
        news.are(calls[0]);
        olders.are(calls[1]);
        oldests.are(calls[2]);
    }
    secrets.seal(b"3").await.unwrap();
    news.are(&[Generate]);
    olders.are(&[]);

    let stranger = over(&root("test:stranger")).seal(b"theirs").await.unwrap();
    assert!(is_rejected(&secrets.open(&stranger).await));
    for calls in [&mut news, &mut olders, &mut oldests] {
        calls.are(&[Unwrap]);
    }
}

#[tokio::test]
async fn no_other_answer_than_a_rejection_goes_on_to_the_next_root_key() {
    let [new, old] = ["test:new", "test:old"].map(root);
    let text = over(&old).seal(b"secret").await.unwrap();
    let secrets = over(&new).former(Arc::clone(&old));
    let mut olds = Calls::of(&old);
    for failure in failures() {
        new.fail_next(failure.clone());
        let refused = secrets.open(&text).await.unwrap_err();
        assert_eq!(refused.to_string(), failure.to_string());
        assert_eq!(refused.is_retryable(), failure.is_retryable());
        olds.are(&[]);
    }
    assert_eq!(secrets.open(&text).await.unwrap(), b"secret");
    olds.are(&[Unwrap]);

    // The former ones are the first to be asked for a rewrap.
    let mut news = Calls::of(&new);
    for failure in failures() {
        old.fail_next(failure.clone());
        assert_eq!(secrets.rewrap(&text).await.unwrap_err().to_string(), failure.to_string());
        news.are(&[]);
    }
    let new = Arc::new(ScriptedRootKey::new("test:new").that_rewraps());
    let secrets = over(&new).former(Arc::clone(&old));
    let (mut news, mut olds) = (Calls::of(&new), Calls::of(&old));
    for failure in failures() {
        new.fail_next(failure.clone());
        assert_eq!(secrets.rewrap(&text).await.unwrap_err().to_string(), failure.to_string());
        news.are(&[Rewrap]);
        olds.are(&[]);
    }
}

#[tokio::test]
async fn a_root_key_is_asked_once_however_often_it_is_listed() {
    let [new, old] = ["test:new", "test:old"].map(root);
    let secrets = over(&new).former(Arc::clone(&new)).former(Arc::clone(&old)).former(Arc::clone(&old));
    let stranger = over(&root("test:stranger")).seal(b"theirs").await.unwrap();
    assert!(is_rejected(&secrets.open(&stranger).await));
    assert_eq!((new.calls(), old.calls()), (1, 1));
}

#[tokio::test]
async fn a_rewrap_leaves_the_data_as_it_is_written() {
    let [new, old] = ["test:new", "test:old"].map(root);
    let secrets = over(&new).former(Arc::clone(&old));
    let text = over(&old).seal(&[0xfb; 40]).await.unwrap();
    let (key, sealed) =
        text.split_once('.').map(|(key, sealed)| (key, URL_SAFE_NO_PAD.decode(sealed).unwrap())).unwrap();
    let padded = format!("{key}.{}", STANDARD.encode(sealed));
    for text in [text, padded] {
        let (mut news, mut olds) = (Calls::of(&new), Calls::of(&old));
        let rewrapped = secrets.rewrap(&text).await.unwrap();
        olds.are(&[Unwrap]);
        news.are(&[Wrap]);
        assert_eq!(data(&rewrapped), data(&text));
        assert_eq!(over(&new).open(&rewrapped).await.unwrap(), [0xfb; 40]);
        assert!(is_rejected(&over(&old).open(&rewrapped).await));
        assert_eq!(over(&old).open(&text).await.unwrap(), [0xfb; 40]);
    }
}

#[tokio::test]
async fn a_kms_that_rewraps_by_itself_is_asked_once() {
    let new = Arc::new(ScriptedRootKey::new("test:new").that_rewraps());
    let [older, oldest] = ["test:older", "test:oldest"].map(root);
    let secrets = over(&new).former(Arc::clone(&older)).former(Arc::clone(&oldest));
    let text = over(&older).seal(b"secret").await.unwrap();
    let (mut news, mut olders) = (Calls::of(&new), Calls::of(&older));
    let rewrapped = secrets.rewrap(&text).await.unwrap();
    news.are(&[Rewrap]);
    olders.are(&[]);
    assert_eq!((data(&rewrapped), secrets.open(&rewrapped).await.unwrap()), (data(&text), b"secret".to_vec()));
    news.are(&[Unwrap]);

    // Each one that did not wrap it costs a call more: this is the third that is asked.
    let again = secrets.rewrap(&rewrapped).await.unwrap();
    news.are(&[Rewrap, Rewrap, Rewrap]);
    assert!(again != rewrapped && data(&again) == data(&text));
}

#[tokio::test]
async fn a_primary_rewraps_what_it_wrapped_itself() {
    let root = root("test:root");
    let secrets = over(&root);
    let text = secrets.seal(b"secret").await.unwrap();
    let mut calls = Calls::of(&root);
    let rewrapped = secrets.rewrap(&text).await.unwrap();
    calls.are(&[Unwrap, Wrap]);
    assert!(rewrapped != text && data(&rewrapped) == data(&text));
    assert_eq!(secrets.open(&rewrapped).await.unwrap(), b"secret");
}

#[tokio::test]
async fn a_data_key_that_does_not_open_the_data_is_not_wrapped_again() {
    let root = root("test:root");
    let secrets = over(&root);
    let (one, two) = (secrets.seal(b"one").await.unwrap(), secrets.seal(b"two").await.unwrap());
    let (key, _) = one.split_once('.').unwrap();
    let mixed = format!("{key}.{}", data(&two));
    let mut calls = Calls::of(&root);
    assert!(matches!(secrets.rewrap(&mixed).await, Err(EnvelopedError::Rejected)));
    calls.are(&[Unwrap]);
    assert!(matches!(secrets.rekey(&mixed).await, Err(EnvelopedError::Rejected)));
    calls.are(&[Unwrap]);
}

#[tokio::test]
async fn a_rekey_makes_another_data_key_and_another_text() {
    let [new, old] = ["test:new", "test:old"].map(root);
    let secrets = over(&new).former(Arc::clone(&old));
    let text = over(&old).seal(b"secret").await.unwrap();
    let (mut news, mut olds) = (Calls::of(&new), Calls::of(&old));
    let rekeyed = secrets.rekey(&text).await.unwrap();
    news.are(&[Unwrap, Generate]);
    olds.are(&[Unwrap]);
    assert_ne!(data(&rekeyed), data(&text));
    assert_eq!(over(&new).open(&rekeyed).await.unwrap(), b"secret");
    let (key, _) = rekeyed.split_once('.').unwrap();
    let mixed = format!("{key}.{}", data(&text));
    assert!(matches!(secrets.open(&mixed).await, Err(EnvelopedError::Rejected)), "the data key is another");
}

#[tokio::test]
async fn a_malformed_text_is_rotated_without_a_call() {
    let root = root("test:root");
    let secrets = over(&root);
    for bad in ["", ".", "AAAA", "AAAA.", "AAAA.AAAA", "ks1.AAAA"] {
        assert!(matches!(secrets.rewrap(bad).await, Err(EnvelopedError::Malformed)), "{bad}");
        assert!(matches!(secrets.rekey(bad).await, Err(EnvelopedError::Malformed)), "{bad}");
    }
    assert_eq!(root.calls(), 0);
}

#[tokio::test]
async fn background_work_says_so_to_the_budget() {
    let root = root("test:root");
    let secrets = over(&root);
    for (secrets, urgency) in [(secrets.in_background(), Urgency::Background), (secrets.clone(), Urgency::Foreground)] {
        root.script(move |call| {
            assert_eq!(call.context.demand().urgency(), urgency, "call {}, {:?}", call.number, call.operation);
            Ok(())
        });
        let text = secrets.seal(b"secret").await.unwrap();
        secrets.rekey(&secrets.rewrap(&text).await.unwrap()).await.unwrap();
    }
}

/// Answers with a wrapped key of no bytes.
#[derive(Debug)]
struct Empty(ScriptedRootKey);

#[async_trait]
impl RootKey for Empty {
    fn id(&self) -> &RootKeyId {
        self.0.id()
    }

    async fn wrap_key(&self, _: &SecretKey, _: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        Ok(Vec::new())
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        self.0.unwrap_key(wrapped, context).await
    }

    async fn generate_key(&self, context: &RootContext) -> Result<GeneratedKey, RootKeyError> {
        Ok(GeneratedKey { wrapped: Vec::new(), ..self.0.generate_key(context).await? })
    }
}

#[tokio::test]
async fn a_wrapped_key_of_no_bytes_makes_no_text() {
    let text = over(&root("test:root")).seal(b"secret").await.unwrap();
    let secrets = Enveloped::new(Empty(ScriptedRootKey::new("test:root")));
    for answer in [secrets.seal(b"secret").await, secrets.rewrap(&text).await, secrets.rekey(&text).await] {
        assert!(matches!(answer, Err(EnvelopedError::Root(RootKeyError::Unavailable { .. }))));
    }
}
