//! Where a transit key is and how Vault is reached.

use std::{path::PathBuf, time::Duration};

use reqwest::{Url, header::HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::login::Credentials;
use crate::{
    http::{Http, is_loopback, read_certificates},
    open::OpenRootError,
    uri::{Uri, VAULT},
};

/// Where a transit key is and how Vault is reached.
#[derive(Clone, Debug)]
pub struct VaultTransitConfig {
    /// `https://vault.example:8200`. Plain `http` is for an agent on this machine only, since keys travel in the answers.
    pub address: String,
    /// Where the transit engine is mounted; `transit` unless somebody chose otherwise.
    pub mount: String,
    /// The name of the key.
    pub key: String,
    /// The namespace, for Vault Enterprise and OpenBao.
    pub namespace: Option<String>,
    /// A PEM file of certificate authorities, trusted instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// How to prove who we are.
    pub auth: VaultAuth,
    /// A name for the cluster, where two have keys of one name; it goes into the id, so it must never change.
    pub cluster: Option<String>,
    /// Longest time one attempt may take, connecting included.
    pub attempt_timeout: Duration,
}

/// How to prove to Vault who we are.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum VaultAuth {
    /// The token in `BAO_TOKEN` or `VAULT_TOKEN`, else in the file `.vault-token` of the home folder.
    Environment,
    /// A token, which is renewed while it can be.
    Token(SecretString),
    /// A token in a file, such as an agent's sink: read again when it has ended.
    TokenFile(PathBuf),
    /// An AppRole. Logs in with the first call, renews the token, and logs in again when it has ended.
    AppRole {
        /// Where the method is mounted; `approle` unless somebody chose otherwise.
        mount: String,
        /// The role's id.
        role_id: String,
        /// The role's secret id.
        secret_id: VaultSecret,
    },
}

/// Where a secret comes from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum VaultSecret {
    /// From here.
    Value(SecretString),
    /// From a file, read at every login.
    File(PathBuf),
    /// From `BAO_SECRET_ID` or `VAULT_SECRET_ID`.
    Environment,
}

/// What the adapter is made of.
pub(super) struct Parts {
    pub(super) http: Http,
    /// `https://vault.example:8200/v1/`
    pub(super) api: Url,
    pub(super) mount: String,
    pub(super) key: String,
    pub(super) namespace: Option<HeaderValue>,
    pub(super) credentials: Credentials,
}

impl VaultTransitConfig {
    /// The id of the root key.
    pub(super) fn id(&self) -> String {
        let cluster = self.cluster.as_ref().map_or(String::new(), |cluster| format!("{cluster}@"));
        let namespace = self.namespace.as_ref().map_or(String::new(), |namespace| format!("{namespace}/"));
        format!("vault-transit:{cluster}{namespace}{}/keys/{}", self.mount, self.key)
    }

    pub(crate) fn from_uri(mut uri: Uri) -> Result<Self, OpenRootError> {
        let url = Url::parse(&uri.name).map_err(|_| VAULT.malformed("there is no https:// URL after the scheme"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(OpenRootError::SecretInUri { parameter: "user@", service: VAULT.service });
        }
        let path = url.path().trim_start_matches('/');
        let (mount, key) =
            path.rsplit_once("/keys/").ok_or_else(|| VAULT.malformed("its path is not MOUNT/keys/NAME"))?;
        let auth = match uri.take("auth").as_deref() {
            None | Some("token") => match uri.take("token_file") {
                Some(file) => VaultAuth::TokenFile(file.into()),
                None => VaultAuth::Environment,
            },
            Some("approle") => VaultAuth::AppRole {
                mount: uri.take("approle_mount").unwrap_or_else(|| "approle".into()),
                role_id: uri.take("role_id").ok_or_else(|| VAULT.malformed("auth=approle needs role_id"))?,
                secret_id: uri
                    .take("secret_id_file")
                    .map_or(VaultSecret::Environment, |file| VaultSecret::File(file.into())),
            },
            Some(_) => return Err(VAULT.malformed("auth is token or approle")),
        };
        let config = Self {
            address: url.origin().ascii_serialization(),
            mount: mount.into(),
            key: key.into(),
            namespace: uri.take("namespace").map(|namespace| namespace.trim_matches('/').to_owned()),
            ca_file: uri.take("ca_file").map(PathBuf::from),
            auth,
            cluster: uri.take("cluster"),
            attempt_timeout: uri.take_timeout()?,
        };
        uri.finish(
            "namespace, ca_file, auth, token_file, role_id, secret_id_file, approle_mount, cluster and timeout_ms",
        )?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<Url, OpenRootError> {
        let is_name = |text: &str| {
            let is_plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
            !text.is_empty() && is_plain && text.bytes().any(|b| b != b'.')
        };
        let is_path = |text: &str| text.split('/').all(is_name);
        if !is_path(&self.mount) || !is_name(&self.key) {
            return Err(VAULT.malformed("mount and key are made of letters, digits and . _ -"));
        }
        if !self.namespace.as_deref().is_none_or(is_path) || !self.cluster.as_deref().is_none_or(is_name) {
            return Err(VAULT.malformed("namespace and cluster are made of letters, digits and . _ -"));
        }
        if let VaultAuth::AppRole { mount, .. } = &self.auth
            && !is_path(mount)
        {
            return Err(VAULT.malformed("approle_mount is made of letters, digits and . _ -"));
        }
        let url = Url::parse(&self.address).map_err(|_| VAULT.malformed("the address is not a URL"))?;
        match url.scheme() {
            "https" if url.has_host() => Ok(url),
            "http" if is_loopback(&url) => Ok(url),
            _ => Err(VAULT.malformed("keys travel in the answers, so only https will do, or http on this machine")),
        }
    }

    pub(super) async fn into_parts(self) -> Result<Parts, OpenRootError> {
        let address = self.check()?;
        let ca = match &self.ca_file {
            Some(path) => Some(read_certificates(path).await?),
            None => None,
        };
        let http = Http::new("Vault", self.attempt_timeout, ca.as_deref(), is_loopback(&address))?;
        let api = address.join("/v1/").map_err(|_| VAULT.malformed("the address is not a URL"))?;
        let namespace = match self.namespace.as_deref().map(HeaderValue::from_str) {
            Some(value) => Some(value.map_err(|_| VAULT.malformed("the namespace is not a header's value"))?),
            None => None,
        };
        let credentials = credentials(self.auth)?;
        Ok(Parts { http, api, mount: self.mount, key: self.key, namespace, credentials })
    }
}

fn credentials(auth: VaultAuth) -> Result<Credentials, OpenRootError> {
    Ok(match auth {
        VaultAuth::Environment => match variable(["BAO_TOKEN", "VAULT_TOKEN"]) {
            Some(token) => Credentials::Token(token),
            None => Credentials::TokenFile(home_token()?),
        },
        VaultAuth::Token(token) => Credentials::Token(Zeroizing::new(token.expose_secret().to_owned())),
        VaultAuth::TokenFile(path) => Credentials::TokenFile(path),
        VaultAuth::AppRole { mount, role_id, secret_id } => Credentials::AppRole {
            mount,
            role_id,
            secret_id: match secret_id {
                VaultSecret::Environment => VaultSecret::Value(SecretString::from(
                    variable(["BAO_SECRET_ID", "VAULT_SECRET_ID"])
                        .ok_or_else(|| {
                            unusable("there is no secret id: set VAULT_SECRET_ID, or add secret_id_file to the URI")
                        })?
                        .as_str(),
                )),
                given => given,
            },
        },
    })
}

fn variable(names: [&str; 2]) -> Option<Zeroizing<String>> {
    let mut values = names.into_iter().filter_map(|name| std::env::var(name).ok().map(Zeroizing::new));
    // One that is set to nothing, as tools for containers like to, does not hide the other.
    values.find(|value| !value.is_empty())
}

fn home_token() -> Result<PathBuf, OpenRootError> {
    let path = std::env::home_dir().map(|home| home.join(".vault-token")).filter(|path| path.exists());
    path.ok_or_else(|| {
        unusable("there is no Vault token: set VAULT_TOKEN, or add token_file or auth=approle to the URI")
    })
}

fn unusable(what: &str) -> OpenRootError {
    OpenRootError::Unusable { what: what.into(), source: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<VaultTransitConfig, OpenRootError> {
        VaultTransitConfig::from_uri(Uri::parse(text)?)
    }

    #[test]
    fn a_uri_names_address_mount_and_key() {
        let config =
            parse("vault-transit:https://vault.example:8200/infra/transit/keys/k1?namespace=team/a/&cluster=eu")
                .unwrap();
        assert_eq!(config.address, "https://vault.example:8200");
        assert_eq!((config.mount.as_str(), config.key.as_str()), ("infra/transit", "k1"));
        assert_eq!(config.id(), "vault-transit:eu@team/a/infra/transit/keys/k1");
        assert!(matches!(config.auth, VaultAuth::Environment));
        let config =
            parse("vault-transit:http://127.0.0.1:8200/transit/keys/k?auth=approle&role_id=r&secret_id_file=/s");
        assert!(matches!(config.unwrap().auth, VaultAuth::AppRole { secret_id: VaultSecret::File(_), .. }));
    }

    #[test]
    fn other_addresses_paths_and_parameters_are_refused() {
        for text in [
            "vault-transit:",
            "vault-transit:vault.example/transit/keys/k",
            "vault-transit:http://vault.example/transit/keys/k",
            "vault-transit:https://vault.example/transit/k",
            "vault-transit:https://vault.example/keys/k",
            "vault-transit:https://vault.example/transit/keys/",
            "vault-transit:https://vault.example/transit/keys/a%2Fb",
            "vault-transit:https://vault.example/transit/keys/k?auth=ldap",
            "vault-transit:https://vault.example/transit/keys/k?auth=approle",
            "vault-transit:https://vault.example/transit/keys/k?namespace=a//b",
            "vault-transit:https://vault.example/transit/keys/k?role_id=x",
        ] {
            assert!(matches!(parse(text), Err(OpenRootError::Malformed { .. })), "{text}");
        }
        let error = parse(&format!("vault-transit:https://{}@vault.example/transit/keys/k", "hunter2")).unwrap_err();
        assert!(matches!(error, OpenRootError::SecretInUri { .. }) && !error.to_string().contains("hunter2"));
    }
}
