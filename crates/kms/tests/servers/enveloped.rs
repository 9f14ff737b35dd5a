//! The two-level form over key services of several kinds: each says *rejected*, and nothing else, of what another wrapped.

use std::sync::Arc;

use keystrata_hierarchy::{Enveloped, EnvelopedError, RootKey, RootKeyError};
use keystrata_kms::LocalRootKey;

use crate::{
    aws,
    vault::{self, Bao},
};

/// Texts of each root key under each other one as the primary: opened, and rewrapped.
async fn any_takes_over_from_any(roots: &[Arc<dyn RootKey>]) {
    for old in roots {
        let text = Enveloped::new(Arc::clone(old)).seal(b"secret").await.unwrap();
        let (_, data) = text.split_once('.').unwrap();
        for new in roots {
            let both = Enveloped::new(Arc::clone(new)).former(Arc::clone(old));
            assert_eq!(both.open(&text).await.unwrap(), b"secret", "{} after {}", new.id(), old.id());
            // Twice: of a former root key's, and of the primary's own.
            for text in [&text, &both.rewrap(&text).await.unwrap()] {
                let rewrapped = both.rewrap(text).await.unwrap();
                assert!(rewrapped != *text && rewrapped.ends_with(data), "{} after {}", new.id(), old.id());
                let alone = Enveloped::new(Arc::clone(new));
                assert_eq!(alone.open(&rewrapped).await.unwrap(), b"secret", "{} after {}", new.id(), old.id());
            }
            if new.id() != old.id() {
                let refused = Enveloped::new(Arc::clone(new)).open(&text).await;
                let is_rejected = matches!(refused, Err(EnvelopedError::Root(RootKeyError::Rejected)));
                assert!(is_rejected, "{} of {}: {refused:?}", new.id(), old.id());
            }
        }
    }
}

async fn aws_keys() -> [Arc<dyn RootKey>; 2] {
    let client = aws::strict();
    let (one, two) = (aws::new_key(&client).await, aws::new_key(&client).await);
    [Arc::new(aws::open(&client, &one).await), Arc::new(aws::open(&client, &two).await)]
}

fn local_key() -> Arc<dyn RootKey> {
    let folder = tempfile::tempdir().unwrap();
    Arc::new(LocalRootKey::create(folder.path().join("root.key")).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_and_local_root_keys_take_over_from_each_other() {
    let [one, two] = aws_keys().await;
    any_takes_over_from_any(&[one, two, local_key()]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs OpenBao, which `cargo xtask test` installs"]
async fn openbao_takes_over_from_others_and_they_from_it() {
    let bao = Bao::start().await;
    let key = async |name| vault::open(vault::config(&bao.address(), name)).await;
    let [aws, _] = aws_keys().await;
    any_takes_over_from_any(&[Arc::new(key("one").await), Arc::new(key("two").await), aws, local_key()]).await;
}
