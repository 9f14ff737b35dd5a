//! The requests by which tokens are got, looked up and renewed.

use std::path::{Path, PathBuf};

use keystrata_hierarchy::RootKeyError;
use reqwest::{RequestBuilder, Url, header::HeaderValue};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{
    super::config::VaultSecret,
    token::{Lease, Token},
};
use crate::{
    base64_key::SecretText,
    http::{Answer, Http, read_file, with_json},
    text::Said,
};

/// How to get a token.
pub(in crate::vault) enum Credentials {
    Token(Zeroizing<String>),
    TokenFile(PathBuf),
    AppRole { mount: String, role_id: String, secret_id: VaultSecret },
}

/// Where tokens come from. Nothing is remembered here.
pub(super) struct Desk {
    pub(super) http: Http,
    api: Url,
    namespace: Option<HeaderValue>,
    pub(super) credentials: Credentials,
}

#[derive(Deserialize)]
struct Granted {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    client_token: SecretText,
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

#[derive(Deserialize)]
struct LookedUp {
    data: Facts,
}

#[derive(Deserialize)]
struct Facts {
    ttl: u64,
    #[serde(default)]
    renewable: bool,
}

#[derive(Serialize)]
struct AppRoleLogin<'a> {
    role_id: &'a str,
    secret_id: &'a str,
}

impl Desk {
    pub(super) fn new(http: Http, api: Url, namespace: Option<HeaderValue>, credentials: Credentials) -> Self {
        Self { http, api, namespace, credentials }
    }

    /// `request` in the namespace of the key.
    pub(super) fn in_namespace(&self, request: RequestBuilder) -> RequestBuilder {
        let request = request.header("X-Vault-Request", "true"); // an agent may demand it against forged requests
        match &self.namespace {
            Some(namespace) => request.header("X-Vault-Namespace", namespace.clone()),
            None => request,
        }
    }

    /// A token by the credentials alone.
    pub(super) async fn log_in(&self) -> Result<Token, RootKeyError> {
        let now = Instant::now();
        let (mount, role_id, secret_id) = match &self.credentials {
            Credentials::Token(text) => return self.begin_with(text.clone()).await,
            Credentials::TokenFile(path) => return self.begin_with(read_token(path).await?).await,
            Credentials::AppRole { mount, role_id, secret_id } => (mount, role_id, secret_id),
        };
        let secret_id = match secret_id {
            VaultSecret::Value(value) => Zeroizing::new(value.expose_secret().to_owned()),
            VaultSecret::File(path) => read_token(path).await?,
            VaultSecret::Environment => {
                return Err(RootKeyError::unavailable("there is no secret id: set VAULT_SECRET_ID"));
            }
        };
        let body = AppRoleLogin { role_id, secret_id: &secret_id };
        let request = self.in_namespace(self.http.post(self.url(&format!("auth/{mount}/login")))?);
        let answer = self.http.send(with_json(request, &body, 128 + role_id.len() + secret_id.len())).await?;
        if !answer.is_success() {
            let what = "the AppRole login failed: check role_id, secret_id and its uses and time left";
            return Err(refused(what, &answer));
        }
        let granted: Granted = self.http.parse(&answer)?;
        let lease = Lease::new(now, granted.auth.lease_duration, granted.auth.renewable);
        Token::new(granted.auth.client_token.0, lease)
    }

    /// A token that was given, after asking how long it lasts.
    async fn begin_with(&self, text: Zeroizing<String>) -> Result<Token, RootKeyError> {
        let now = Instant::now();
        let mut token = Token::new(text, None)?;
        let answer = self.look_up(&token).await?;
        token.lasts = if answer.is_success() {
            let LookedUp { data } = self.http.parse(&answer)?;
            Lease::new(now, data.ttl, data.renewable)
        } else if answer.status == 403 {
            None // a policy may forbid the question; the token's use will tell
        } else {
            return Err(refused("the token could not be looked up", &answer));
        };
        Ok(token)
    }

    /// Whether Vault knows the token.
    pub(super) async fn is_good(&self, token: &Token) -> Result<bool, RootKeyError> {
        let answer = self.look_up(token).await?;
        match answer.status {
            _ if answer.is_success() => Ok(true),
            403 => Ok(false),
            _ => Err(refused("whether the token is good could not be asked", &answer)),
        }
    }

    /// `token` for longer, or another.
    pub(super) async fn renew(&self, token: &Token) -> Result<Token, RootKeyError> {
        let now = Instant::now();
        let Some(lease) = token.lasts else { return Err(has_ended("log in again")) };
        let can_log_in = matches!(self.credentials, Credentials::AppRole { .. });
        if lease.is_renewable {
            let request = self.in_namespace(self.http.post(self.url("auth/token/renew-self"))?);
            let request = with_json(token.shown_in(request), &serde_json::json!({}), 2);
            let answer = self.http.send(request).await?;
            if answer.is_success() {
                let granted: Granted = self.http.parse(&answer)?;
                let longer = Lease::new(now, granted.auth.lease_duration, granted.auth.renewable);
                // A token near its greatest age is renewed for less and less: then a new one is due.
                let is_worth_it = longer.is_none_or(|longer| longer.span * 2 >= lease.span);
                if is_worth_it || !can_log_in {
                    return Token::new(granted.auth.client_token.0, longer);
                }
            }
        }
        if can_log_in { self.log_in().await } else { Err(has_ended("it cannot be renewed")) }
    }

    async fn look_up(&self, token: &Token) -> Result<Answer, RootKeyError> {
        let request = self.in_namespace(self.http.get(self.url("auth/token/lookup-self"))?);
        self.http.send(token.shown_in(request)).await
    }

    fn url(&self, path: &str) -> Url {
        self.api.join(path).expect("names were checked")
    }
}

/// The secret in a file.
pub(super) async fn read_token(path: &Path) -> Result<Zeroizing<String>, RootKeyError> {
    let unusable = |why: &str| RootKeyError::unavailable(format!("Vault's credentials in {}: {why}", path.display()));
    let bytes = read_file("the token file", path).await.map_err(|error| RootKeyError::Unavailable {
        message: "Vault's credentials cannot be read".into(),
        source: Some(Said::cause(&error.to_string())),
    })?;
    let text = std::str::from_utf8(&bytes).map_err(|_| unusable("they are not text"))?.trim();
    if text.is_empty() {
        return Err(unusable("the file is empty"));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// Why there is no token: never *denied*, since that is for what the key's policy says.
fn refused(what: &str, answer: &Answer) -> RootKeyError {
    match answer.status {
        429 => RootKeyError::throttled("Vault's rate limit quota is used up (login)"),
        503 => RootKeyError::unavailable("Vault is sealed or has no active node: unseal it (login)"),
        status => RootKeyError::unavailable(format!("{what} (status {status})")),
    }
}

pub(super) fn has_ended(advice: &str) -> RootKeyError {
    RootKeyError::unavailable(format!("the Vault token has ended or was revoked: {advice}"))
}
