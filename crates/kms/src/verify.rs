//! Whether a root key does what the engine needs, found out before anything depends on it.

use keystrata_hierarchy::{KekId, KeyPath, RootContext, RootKey, RootKeyError, SecretKey, Suite};
use keystrata_primitives::{KekIdentity, KekVersion};
use secrecy::ExposeSecret;

/// Tries out `root`: generates a key, unwraps it, wraps one, and makes sure that another account's context opens neither.
///
/// Five calls, under the account `keystrata-verify`, which a policy that matches accounts has to allow. Nothing is stored.
/// Call it when a service starts, so that a missing permission shows then and not at three in the morning.
///
/// # Errors
/// [`VerifyRootError`]: which step failed, and what permission it needs.
///
/// # Cancellation
/// Dropping the future leaves nothing behind.
pub async fn verify_root(root: &(impl RootKey + ?Sized)) -> Result<(), VerifyRootError> {
    let failed = |step| move |source| VerifyRootError::Failed { step, needs: needs(root.id().as_str(), step), source };
    let (own, other) = (context("keystrata-verify"), context("keystrata-verify-other"));

    let generated = root.generate_key(&own).await.map_err(failed(VerifyStep::Generate))?;
    let back = root.unwrap_key(&generated.wrapped, &own).await.map_err(failed(VerifyStep::Unwrap))?;
    if back.expose_secret() != generated.secret.expose_secret() {
        return Err(VerifyRootError::NotTheSame);
    }
    refuses(root, &generated.wrapped, &other).await?;

    let secret = SecretKey::generate().map_err(|error| failed(VerifyStep::Wrap)(error.into()))?;
    let wrapped = root.wrap_key(&secret, &own).await.map_err(failed(VerifyStep::Wrap))?;
    let back = root.unwrap_key(&wrapped, &own).await.map_err(failed(VerifyStep::Unwrap))?;
    if back.expose_secret() == secret.expose_secret() { Ok(()) } else { Err(VerifyRootError::NotTheSame) }
}

async fn refuses(root: &(impl RootKey + ?Sized), wrapped: &[u8], other: &RootContext) -> Result<(), VerifyRootError> {
    match root.unwrap_key(wrapped, other).await {
        // A policy that matches accounts may refuse before the KMS has looked at the bytes.
        Err(RootKeyError::Rejected | RootKeyError::Denied { .. }) => Ok(()),
        Ok(_) => Err(VerifyRootError::ContextIgnored),
        Err(source) => {
            let step = VerifyStep::Unwrap;
            Err(VerifyRootError::Failed { step, needs: needs(root.id().as_str(), step), source })
        }
    }
}

fn context(account: &str) -> RootContext {
    RootContext::of_kek(&KekIdentity {
        suite: Suite::default(),
        version: KekVersion::FIRST,
        id: KekId::from_bytes([0; KekId::LEN]),
        path: KeyPath::new([account]).expect("a plain account name"),
    })
}

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VerifyStep {
    /// A fresh key, as for the first KEK of an account.
    Generate,
    /// Back from its wrapped form, as at every cache miss.
    Unwrap,
    /// A key that exists already, as when KEKs move to another root key.
    Wrap,
}

/// Why a root key is not to be relied on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyRootError {
    /// A call failed.
    #[error("the root key cannot {}; it needs {needs}", word(*.step))]
    Failed {
        /// Which.
        step: VerifyStep,
        /// The permission that it takes, in the service's own words.
        needs: String,
        /// What came back.
        source: RootKeyError,
    },
    /// What was wrapped for one account opens for another.
    #[error(
        "the root key ignores the context: what it wrapped for one account it unwraps for another; use a key that \
         authenticates it"
    )]
    ContextIgnored,
    /// Another secret came back than went in.
    #[error("the root key gives back another secret than it was given: do not use it")]
    NotTheSame,
}

fn word(step: VerifyStep) -> &'static str {
    match step {
        VerifyStep::Generate => "generate a key",
        VerifyStep::Unwrap => "unwrap a key that it wrapped",
        VerifyStep::Wrap => "wrap a key",
    }
}

/// The permission for a step with the kind of root key that `id` is of. By the id, so that wrappers need not know.
fn needs(id: &str, step: VerifyStep) -> String {
    use VerifyStep as Step;
    let (scheme, key) = id.split_once(':').unwrap_or((id, ""));
    match scheme {
        "aws-kms" => {
            let action = match step {
                Step::Generate => "kms:GenerateDataKey",
                Step::Unwrap => "kms:Decrypt",
                Step::Wrap => "kms:Encrypt",
            };
            format!("the IAM action {action} on {key}, by the key's policy or by IAM")
        }
        "vault-transit" => {
            let verb = match step {
                Step::Generate => "datakey/plaintext",
                Step::Unwrap => "decrypt",
                Step::Wrap => "encrypt",
            };
            let (mount, name) = key.rsplit_once("/keys/").unwrap_or(("MOUNT", "NAME"));
            let mount = mount.rsplit_once('@').map_or(mount, |(_, mount)| mount);
            format!("the capability \"update\" on {mount}/{verb}/{name} and on {mount}/datakey/plaintext/{name}")
        }
        "gcp-kms" => {
            let permission = match step {
                Step::Generate | Step::Wrap => "cloudkms.cryptoKeyVersions.useToEncrypt",
                Step::Unwrap => "cloudkms.cryptoKeyVersions.useToDecrypt",
            };
            format!("the permission {permission} on {key} (role roles/cloudkms.cryptoKeyEncrypterDecrypter)")
        }
        _ => "a root key that works".into(),
    }
}

#[cfg(test)]
mod tests {
    use keystrata_hierarchy::test_util::ScriptedRootKey;

    use super::*;

    #[tokio::test]
    async fn a_good_root_key_passes_with_five_calls() {
        let root = ScriptedRootKey::new("test:root");
        verify_root(&root).await.unwrap();
        assert_eq!(root.calls(), 5);
    }

    #[tokio::test]
    async fn a_step_that_fails_says_which_permission_it_needs() {
        for (id, words) in [
            ("aws-kms:arn:aws:kms:eu-west-1:111122223333:key/1", "kms:GenerateDataKey"),
            ("vault-transit:eu@team/transit/keys/k", "team/transit/datakey/plaintext/k"),
            ("gcp-kms:projects/p/locations/l/keyRings/r/cryptoKeys/k", "useToEncrypt"),
        ] {
            let root = ScriptedRootKey::new(id);
            root.fail_next(RootKeyError::denied("no"));
            let message = verify_root(&root).await.unwrap_err().to_string();
            assert!(message.contains(words) && !message.contains('\n'), "{message}");
        }
    }

    #[tokio::test]
    async fn a_root_key_that_ignores_the_context_is_found_out() {
        #[derive(Debug)]
        struct Careless(ScriptedRootKey);
        #[async_trait::async_trait]
        impl RootKey for Careless {
            fn id(&self) -> &keystrata_hierarchy::RootKeyId {
                self.0.id()
            }
            async fn wrap_key(&self, secret: &SecretKey, _: &RootContext) -> Result<Vec<u8>, RootKeyError> {
                self.0.wrap_key(secret, &RootContext::none()).await
            }
            async fn unwrap_key(&self, wrapped: &[u8], _: &RootContext) -> Result<SecretKey, RootKeyError> {
                self.0.unwrap_key(wrapped, &RootContext::none()).await
            }
        }
        let root = Careless(ScriptedRootKey::new("test:root"));
        assert!(matches!(verify_root(&root).await, Err(VerifyRootError::ContextIgnored)));
    }
}
