//! From a URI to a root key.

use std::{path::PathBuf, sync::Arc};

use keystrata_hierarchy::{Cause, RootKey, RootKeyError};

use crate::{
    LocalKeyRing, LocalRootKey, LocalRootKeyError,
    uri::{AWS, GCP, LOCAL, Scheme, Uri, VAULT},
};

/// Opens the root key that `uri` names.
///
/// | URI | root key | cargo feature |
/// |---|---|---|
/// | `local:PATH` | a key file, or a folder of them: [`LocalRootKey`], [`LocalKeyRing`] | |
/// | `aws-kms:arn:aws:kms:REGION:ACCOUNT:key/ID`, `aws-kms:alias/NAME`, `aws-kms:ID` | AWS KMS | `aws` |
/// | `vault-transit:https://vault.example:8200/MOUNT/keys/NAME` | Vault or OpenBao, transit engine | `vault` |
/// | `gcp-kms:projects/P/locations/L/keyRings/R/cryptoKeys/K` | Google Cloud KMS | `gcp` |
///
/// All but `local` take `?timeout_ms=N`, the longest that one attempt may take (50 to 60,000; 3,000 unless given), and
/// parameters of their own, which `docs/kms.md` lists. Secrets never stand in a URI.
///
/// A key that must be looked up first, such as an alias, costs one call here; the others make their first call when they
/// are used. [`verify_root`](crate::verify_root) tells whether it all works.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("root.key");
/// # keystrata_kms::LocalRootKey::create(&path)?;
/// let root = keystrata_kms::open(&format!("local:{}", path.display())).await?;
/// keystrata_kms::verify_root(&root).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`OpenRootError`], in one line that says what to do and repeats nothing of the URI that might be secret.
///
/// # Cancellation
/// Dropping the future opens nothing.
pub async fn open(uri: &str) -> Result<Arc<dyn RootKey>, OpenRootError> {
    let uri = Uri::parse(uri)?;
    if *uri.scheme == LOCAL {
        return open_local(uri.name).await;
    }
    #[cfg(feature = "aws")]
    if *uri.scheme == AWS {
        let config = crate::aws::AwsKmsConfig::from_uri(uri)?;
        return Ok(Arc::new(crate::aws::AwsKmsRootKey::open(config).await?));
    }
    #[cfg(feature = "vault")]
    if *uri.scheme == VAULT {
        let config = crate::vault::VaultTransitConfig::from_uri(uri)?;
        return Ok(Arc::new(crate::vault::VaultTransitRootKey::open(config).await?));
    }
    #[cfg(feature = "gcp")]
    if *uri.scheme == GCP {
        let config = crate::gcp::GcpKmsConfig::from_uri(uri)?;
        return Ok(Arc::new(crate::gcp::GcpKmsRootKey::open(config).await?));
    }
    Err(feature_off(uri.scheme))
}

/// Checks the form of a URI, without opening anything and whether or not its feature is compiled.
///
/// # Errors
/// [`OpenRootError::UnknownScheme`], [`OpenRootError::SecretInUri`] or [`OpenRootError::Malformed`].
pub fn check_uri(uri: &str) -> Result<(), OpenRootError> {
    let uri = Uri::parse(uri)?;
    #[cfg(feature = "aws")]
    if *uri.scheme == AWS {
        return crate::aws::AwsKmsConfig::from_uri(uri).map(drop);
    }
    #[cfg(feature = "vault")]
    if *uri.scheme == VAULT {
        return crate::vault::VaultTransitConfig::from_uri(uri).map(drop);
    }
    #[cfg(feature = "gcp")]
    if *uri.scheme == GCP {
        return crate::gcp::GcpKmsConfig::from_uri(uri).map(drop);
    }
    if uri.name.is_empty() { Err(uri.scheme.malformed("it names nothing")) } else { Ok(()) }
}

async fn open_local(path: String) -> Result<Arc<dyn RootKey>, OpenRootError> {
    if path.is_empty() {
        return Err(LOCAL.malformed("it names no path"));
    }
    let open = move || -> Result<Arc<dyn RootKey>, LocalRootKeyError> {
        let path = PathBuf::from(path);
        if path.is_dir() { Ok(Arc::new(LocalKeyRing::open(path)?)) } else { Ok(Arc::new(LocalRootKey::open(path)?)) }
    };
    // The disk may be a slow one, and other tasks should not wait for it.
    match tokio::task::spawn_blocking(open).await {
        Ok(opened) => Ok(opened?),
        Err(stopped) => {
            Err(OpenRootError::Unusable { what: "the key file was not read".into(), source: Some(Arc::new(stopped)) })
        }
    }
}

fn feature_off(scheme: &'static Scheme) -> OpenRootError {
    debug_assert!([&AWS, &VAULT, &GCP].contains(&scheme), "a local key needs no feature");
    OpenRootError::FeatureOff { service: scheme.service, feature: scheme.feature }
}

/// Why there is no root key for a URI. Each message is one line that says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenRootError {
    /// No scheme, or none that is known.
    #[error(
        "a root key is named by a URI that begins with local:, aws-kms:, vault-transit: or gcp-kms:, as in \
         local:/etc/keystrata/root.key"
    )]
    UnknownScheme,
    /// The scheme is known, and this build has not compiled it.
    #[error("this build has no {service}: build it with the cargo feature `{feature}`")]
    FeatureOff {
        /// What the scheme stands for.
        service: &'static str,
        /// The cargo feature, of `keystrata-kms` and of the `keystrata` command.
        feature: &'static str,
    },
    /// The rest of the URI is not what its scheme wants.
    #[error("this does not name a root key in {service}: {why}; write it as in {example}")]
    Malformed {
        /// What the scheme stands for.
        service: &'static str,
        /// What is wrong.
        why: String,
        /// A whole URI to go by.
        example: &'static str,
    },
    /// A secret in a URI would stand in settings files, process lists and logs.
    #[error(
        "a URI must not hold secrets: take `{parameter}` out of it, and give {service} its credentials by \
             environment or file (docs/kms.md)"
    )]
    SecretInUri {
        /// Which parameter.
        parameter: &'static str,
        /// What the scheme stands for.
        service: &'static str,
    },
    /// The key file is not one.
    #[error(transparent)]
    Local(#[from] LocalRootKeyError),
    /// A file that the URI or the environment names cannot be used.
    #[error("{what} {path:?} cannot be used: {why}")]
    File {
        /// What it should be.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        why: String,
    },
    /// Something that the adapter needs is missing or broken.
    #[error("{what}")]
    Unusable {
        /// What, and what to do.
        what: String,
        /// What a lower layer said.
        #[source]
        source: Option<Cause>,
    },
    /// The KMS was asked which key this is, and did not tell.
    #[error(transparent)]
    Kms(#[from] RootKeyError),
}
