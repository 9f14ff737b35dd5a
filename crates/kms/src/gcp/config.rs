//! Where a key of Cloud KMS is and how it is reached.

use std::{path::PathBuf, time::Duration};

use reqwest::Url;

use super::{service_account::ServiceAccount, token::Source};
use crate::{
    http::{Http, is_loopback, read_certificates, read_file},
    open::OpenRootError,
    uri::{DEFAULT_TIMEOUT, GCP, Uri},
};

/// Where Google serves Cloud KMS.
const ENDPOINT: &str = "https://cloudkms.googleapis.com";
/// Where a machine of Google asks for its token, unless `GCE_METADATA_HOST` says otherwise.
const METADATA_HOST: &str = "metadata.google.internal";

/// Where a key of Cloud KMS is and how it is reached.
#[derive(Clone, Debug)]
pub struct GcpKmsConfig {
    /// `projects/P/locations/L/keyRings/R/cryptoKeys/K`. No default.
    pub key: String,
    /// Another endpoint than Google's own. Plain `http` is for stand-ins on this machine only.
    pub endpoint: Option<String>,
    /// How to get an access token.
    pub auth: GcpAuth,
    /// A PEM file of certificate authorities, trusted instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Longest time one attempt may take, connecting included.
    pub attempt_timeout: Duration,
}

/// How to get an access token from Google.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum GcpAuth {
    /// With the service account whose file `GOOGLE_APPLICATION_CREDENTIALS` names, else as [`Metadata`](Self::Metadata).
    Environment,
    /// With the service account in this JSON file.
    ServiceAccountFile(PathBuf),
    /// From the metadata server of the machine, on Compute Engine, GKE, Cloud Run.
    Metadata,
    /// Without: for a stand-in on this machine.
    None,
}

impl Default for GcpKmsConfig {
    fn default() -> Self {
        let (auth, attempt_timeout) = (GcpAuth::Environment, DEFAULT_TIMEOUT);
        Self { key: String::new(), endpoint: None, auth, ca_file: None, attempt_timeout }
    }
}

/// What the adapter is made of.
pub(super) struct Parts {
    pub(super) http: Http,
    pub(super) endpoint: Url,
    pub(super) key: String,
    pub(super) source: Source,
    /// The client for tokens.
    pub(super) token_http: Http,
}

impl GcpKmsConfig {
    pub(crate) fn from_uri(mut uri: Uri) -> Result<Self, OpenRootError> {
        let auth = match uri.take("auth").as_deref() {
            None => match uri.take("credentials_file") {
                Some(file) => GcpAuth::ServiceAccountFile(file.into()),
                None => GcpAuth::Environment,
            },
            Some("metadata") => GcpAuth::Metadata,
            Some("none") => GcpAuth::None,
            Some(_) => return Err(GCP.malformed("auth is metadata or none")),
        };
        let config = Self {
            key: std::mem::take(&mut uri.name),
            endpoint: uri.take("endpoint"),
            auth,
            ca_file: uri.take("ca_file").map(PathBuf::from),
            attempt_timeout: uri.take_timeout()?,
        };
        uri.finish("endpoint, auth, credentials_file, ca_file and timeout_ms")?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<Url, OpenRootError> {
        let is_name = |text: &str| {
            // A colon stands in the names of projects that belong to a domain.
            let is_plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b".:_-".contains(&b));
            is_plain && text.bytes().any(|b| b.is_ascii_alphanumeric())
        };
        let parts: Vec<_> = self.key.split('/').collect();
        let is_key = match parts[..] {
            ["projects", project, "locations", location, "keyRings", ring, "cryptoKeys", key] => {
                [project, location, ring, key].into_iter().all(is_name)
            }
            [.., "cryptoKeyVersions", _] => return Err(GCP.malformed("it names a version: name the key")),
            _ => false,
        };
        if !is_key {
            return Err(GCP.malformed("it is not projects/P/locations/L/keyRings/R/cryptoKeys/K"));
        }
        let endpoint = Url::parse(self.endpoint.as_deref().unwrap_or(ENDPOINT));
        let endpoint = endpoint.map_err(|_| GCP.malformed("the endpoint is not a URL"))?;
        if !endpoint.username().is_empty() || endpoint.password().is_some() {
            return Err(GCP.malformed("the endpoint names a user: credentials do not stand in a URI"));
        }
        match (endpoint.scheme(), &self.auth) {
            (_, GcpAuth::None) if !is_loopback(&endpoint) => {
                Err(GCP.malformed("auth=none is for an endpoint on this machine"))
            }
            ("https", _) => Ok(endpoint),
            ("http", _) if is_loopback(&endpoint) => Ok(endpoint),
            _ => Err(GCP.malformed("keys travel in the answers, so only https will do, or http on this machine")),
        }
    }

    pub(super) async fn into_parts(self) -> Result<Parts, OpenRootError> {
        let endpoint = self.check()?;
        let ca = match &self.ca_file {
            Some(path) => Some(read_certificates(path).await?),
            None => None,
        };
        let http = Http::new("Google Cloud KMS", self.attempt_timeout, ca.as_deref(), is_loopback(&endpoint))?;
        let source = match self.auth {
            GcpAuth::None => Source::None,
            GcpAuth::Metadata => metadata()?,
            GcpAuth::ServiceAccountFile(path) => service_account(path).await?,
            GcpAuth::Environment => match std::env::var_os("GOOGLE_APPLICATION_CREDENTIALS") {
                Some(path) if !path.is_empty() => service_account(path.into()).await?,
                _ => metadata()?,
            },
        };
        let token_http = match source {
            // Never through a proxy: it would see the token, and knows another machine under that name.
            Source::Metadata(_) => Http::new("the metadata server", self.attempt_timeout, None, true)?,
            _ => http.clone(),
        };
        Ok(Parts { http, endpoint, key: self.key, source, token_http })
    }
}

async fn service_account(path: PathBuf) -> Result<Source, OpenRootError> {
    let what = "the service account file";
    let json = read_file(what, &path).await?;
    let account = ServiceAccount::parse(&json).map_err(|why| OpenRootError::File { what, path, why: why.into() })?;
    Ok(Source::ServiceAccount(account))
}

fn metadata() -> Result<Source, OpenRootError> {
    let host = std::env::var("GCE_METADATA_HOST").unwrap_or_else(|_| METADATA_HOST.into());
    // Plain HTTP by Google's design: the address is local to the machine's own network.
    let url = Url::parse(&format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/token"));
    let url =
        url.map_err(|_| OpenRootError::Unusable { what: "GCE_METADATA_HOST is not a host".into(), source: None })?;
    Ok(Source::Metadata(url))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "projects/example.com:acme/locations/europe-west3/keyRings/prod/cryptoKeys/keystrata";

    fn parse(text: &str) -> Result<GcpKmsConfig, OpenRootError> {
        GcpKmsConfig::from_uri(Uri::parse(text)?)
    }

    #[test]
    fn a_uri_names_the_key() {
        let config = parse(&format!("gcp-kms:{KEY}")).unwrap();
        assert_eq!((config.key.as_str(), config.endpoint), (KEY, None));
        let config = parse(&format!("gcp-kms:{KEY}?endpoint=http://127.0.0.1:1&auth=none")).unwrap();
        assert!(matches!(config.auth, GcpAuth::None));
        let config = parse(&format!("gcp-kms:{KEY}?credentials_file=/etc/sa.json")).unwrap();
        assert!(matches!(config.auth, GcpAuth::ServiceAccountFile(_)));
    }

    #[test]
    fn other_names_and_open_doors_are_refused() {
        for text in [
            "gcp-kms:".to_owned(),
            "gcp-kms:projects/p/locations/l/keyRings/r".into(),
            "gcp-kms:projects/../locations/l/keyRings/r/cryptoKeys/k".into(),
            format!("gcp-kms:{KEY}/cryptoKeyVersions/1"),
            format!("gcp-kms:{KEY}?auth=none"),
            format!("gcp-kms:{KEY}?endpoint=http://kms.example"),
            format!("gcp-kms:{KEY}?endpoint=https://user:pw@kms.example"),
            format!("gcp-kms:{KEY}?auth=magic"),
            format!("gcp-kms:{KEY}?location=x"),
        ] {
            assert!(matches!(parse(&text), Err(OpenRootError::Malformed { .. })), "{text}");
        }
    }
}
