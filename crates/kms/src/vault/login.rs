//! A token for Vault: got, renewed before it ends, and replaced once it has.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use keystrata_hierarchy::RootKeyError;
use reqwest::{RequestBuilder, Url, header::HeaderValue};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex as AsyncMutex, time::Instant};
use zeroize::Zeroizing;

use super::config::VaultSecret;
use crate::{
    base64_key::SecretText,
    http::{Answer, Http, read_file, with_json},
    text::Said,
};

/// How long a token that was found good is not asked about again, however often Vault refuses what it is used for.
const KNOWN_GOOD_FOR: Duration = Duration::from_secs(1);

/// Seconds in ten years, which nobody waits for: what an answer claims beyond that must not overflow.
const LONGEST_LEASE: u64 = 10 * 365 * 24 * 3600;

/// How to get a token.
pub(super) enum Credentials {
    Token(Zeroizing<String>),
    TokenFile(PathBuf),
    AppRole { mount: String, role_id: String, secret_id: VaultSecret },
}

/// A token and how long it lasts.
pub(super) struct Token {
    header: HeaderValue,
    text: Zeroizing<String>,
    lasts: Option<Lease>,
}

#[derive(Clone, Copy)]
struct Lease {
    /// When it was granted, at the earliest.
    granted: Instant,
    span: Duration,
    is_renewable: bool,
    /// When to look after it.
    due: Instant,
}

impl Token {
    /// By text: a renewal keeps it, and so does one that is put off.
    fn is_same(&self, other: &Self) -> bool {
        *self.text == *other.text
    }
}

impl Lease {
    fn new(granted: Instant, seconds: u64, is_renewable: bool) -> Option<Self> {
        let span = Duration::from_secs(seconds.min(LONGEST_LEASE));
        // At two thirds there is time for several tries before the end.
        (seconds != 0).then(|| Self { granted, span, is_renewable, due: granted + span * 2 / 3 })
    }

    fn end(&self) -> Instant {
        self.granted + self.span
    }
}

pub(super) struct Login {
    http: Http,
    api: Url,
    namespace: Option<HeaderValue>,
    credentials: Credentials,
    current: Mutex<Option<Arc<Token>>>,
    /// Held by whoever gets or renews a token, so that one does for all.
    turn: AsyncMutex<()>,
    /// Under [`turn`](Self::turn) only: the token that was last found good, and when.
    known_good: Mutex<Option<(Arc<Token>, Instant)>>,
    /// When a token could last not be got, and why: an answer for all who waited meanwhile.
    failure: Mutex<Option<(Instant, RootKeyError)>>,
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

impl Login {
    pub(super) fn new(http: Http, api: Url, namespace: Option<HeaderValue>, credentials: Credentials) -> Self {
        Self {
            http,
            api,
            namespace,
            credentials,
            current: Mutex::default(),
            turn: AsyncMutex::default(),
            known_good: Mutex::default(),
            failure: Mutex::default(),
        }
    }

    /// A token that should be good. Costs nothing but for the first, and when one is to be renewed.
    ///
    /// # Cancellation
    /// Whoever waits next does it instead.
    pub(super) async fn token(&self) -> Result<Arc<Token>, RootKeyError> {
        let now = Instant::now();
        match self.current() {
            Some(token) if token.lasts.is_none_or(|lease| now < lease.due) => Ok(token),
            Some(token) if token.lasts.is_some_and(|lease| now < lease.end()) => match self.turn.try_lock() {
                Ok(_turn) => Ok(self.renewed(token).await),
                Err(_) => Ok(token), // somebody is at it, and this one still holds
            },
            stale => {
                let _turn = self.turn.lock().await;
                match self.current() {
                    // Got while this waited.
                    Some(token) if !stale.is_some_and(|stale| Arc::ptr_eq(&stale, &token)) => Ok(token),
                    _ => match self.failure_since(now) {
                        Some(error) => Err(error),
                        None => self.noted(self.log_in().await),
                    },
                }
            }
        }
    }

    /// Another token in place of one that Vault refused; `None` if that one is good, and the refusal meant.
    ///
    /// # Errors
    /// [`RootKeyError::Unavailable`] if there is no other.
    pub(super) async fn replace(&self, used: &Arc<Token>) -> Result<Option<Arc<Token>>, RootKeyError> {
        let began = Instant::now();
        let _turn = self.turn.lock().await;
        if let Some(token) = self.current().filter(|token| !token.is_same(used)) {
            return Ok(Some(token));
        }
        if let Some(error) = self.failure_since(began) {
            return Err(error);
        }
        self.noted(self.replace_now(used).await)
    }

    /// Under the turn.
    async fn replace_now(&self, used: &Arc<Token>) -> Result<Option<Arc<Token>>, RootKeyError> {
        let now = Instant::now();
        let known_good = lock(&self.known_good).clone();
        if known_good.is_some_and(|(token, at)| token.is_same(used) && now < at + KNOWN_GOOD_FOR) {
            return Ok(None);
        }
        let answer = self.look_up(used).await?;
        if answer.is_success() {
            *lock(&self.known_good) = Some((Arc::clone(used), now));
            return Ok(None);
        }
        if answer.status != 403 {
            return Err(refused("whether the token is good could not be asked", &answer));
        }
        match &self.credentials {
            Credentials::Token(_) => Err(ended("give another by VAULT_TOKEN, a token file or an AppRole")),
            Credentials::TokenFile(path) => {
                let text = self.read_token(path).await?;
                if *text == *used.text {
                    return Err(ended(&format!("put another into {}", path.display())));
                }
                self.keep(text, None).map(Some)
            }
            Credentials::AppRole { .. } => self.log_in().await.map(Some),
        }
    }

    fn failure_since(&self, began: Instant) -> Option<RootKeyError> {
        lock(&self.failure).as_ref().filter(|(at, _)| *at >= began).map(|(_, error)| error.clone())
    }

    /// Under the turn: remembers a failure.
    fn noted<T>(&self, outcome: Result<T, RootKeyError>) -> Result<T, RootKeyError> {
        if let Err(error) = &outcome {
            *lock(&self.failure) = Some((Instant::now(), error.clone()));
        }
        outcome
    }

    /// The header that shows the token, and the one that names the namespace.
    pub(super) fn with_token(&self, request: RequestBuilder, token: &Token) -> RequestBuilder {
        self.in_namespace(request).header("X-Vault-Token", token.header.clone())
    }

    fn in_namespace(&self, request: RequestBuilder) -> RequestBuilder {
        let request = request.header("X-Vault-Request", "true"); // an agent may demand it against forged requests
        match &self.namespace {
            Some(namespace) => request.header("X-Vault-Namespace", namespace.clone()),
            None => request,
        }
    }

    fn current(&self) -> Option<Arc<Token>> {
        lock(&self.current).clone()
    }

    fn url(&self, path: &str) -> Url {
        self.api.join(path).expect("names were checked")
    }

    /// Under the turn.
    async fn log_in(&self) -> Result<Arc<Token>, RootKeyError> {
        let now = Instant::now();
        let (mount, role_id, secret_id) = match &self.credentials {
            Credentials::Token(text) => return self.begin_with(text.clone()).await,
            Credentials::TokenFile(path) => return self.begin_with(self.read_token(path).await?).await,
            Credentials::AppRole { mount, role_id, secret_id } => (mount, role_id, secret_id),
        };
        let secret_id = match secret_id {
            VaultSecret::Value(value) => Zeroizing::new(value.expose_secret().to_owned()),
            VaultSecret::File(path) => self.read_token(path).await?,
            VaultSecret::Environment => {
                return Err(RootKeyError::unavailable("there is no secret id: set VAULT_SECRET_ID"));
            }
        };
        let body = AppRoleLogin { role_id, secret_id: &secret_id };
        let request = self.in_namespace(self.http.post(self.url(&format!("auth/{mount}/login"))));
        let answer = self.http.send(with_json(request, &body, 128 + role_id.len() + secret_id.len())).await?;
        if !answer.is_success() {
            return Err(refused(
                "the AppRole login failed: check role_id, secret_id and its uses and time left",
                &answer,
            ));
        }
        let granted: Granted = self.http.parse(&answer)?;
        let lease = Lease::new(now, granted.auth.lease_duration, granted.auth.renewable);
        self.keep(granted.auth.client_token.0, lease)
    }

    /// Uses a token that was given, after asking how long it lasts.
    async fn begin_with(&self, text: Zeroizing<String>) -> Result<Arc<Token>, RootKeyError> {
        let now = Instant::now();
        let token = Token { header: header(&text)?, text, lasts: None };
        let answer = self.look_up(&token).await?;
        let lease = if answer.is_success() {
            let LookedUp { data } = self.http.parse(&answer)?;
            Lease::new(now, data.ttl, data.renewable)
        } else if answer.status == 403 {
            None // a policy may forbid the question; the token's use will tell
        } else {
            return Err(refused("the token could not be looked up", &answer));
        };
        self.keep(token.text, lease)
    }

    /// Under the turn: `token` for longer, or another; the same if neither works for now.
    async fn renewed(&self, token: Arc<Token>) -> Arc<Token> {
        if let Ok(better) = self.renew(&token).await {
            return better;
        }
        // The next try after a quarter of what is left, and not with every call.
        let now = Instant::now();
        let lasts =
            token.lasts.map(|lease| Lease { due: now + lease.end().saturating_duration_since(now) / 4, ..lease });
        let later = Arc::new(Token { header: token.header.clone(), text: token.text.clone(), lasts });
        *lock(&self.current) = Some(Arc::clone(&later));
        later
    }

    async fn renew(&self, token: &Token) -> Result<Arc<Token>, RootKeyError> {
        let now = Instant::now();
        let Some(lease) = token.lasts else { return Err(ended("log in again")) };
        let can_log_in = matches!(self.credentials, Credentials::AppRole { .. });
        if lease.is_renewable {
            let request = self.with_token(self.http.post(self.url("auth/token/renew-self")), token);
            let answer = self.http.send(with_json(request, &serde_json::json!({}), 2)).await?;
            if answer.is_success() {
                let granted: Granted = self.http.parse(&answer)?;
                let longer = Lease::new(now, granted.auth.lease_duration, granted.auth.renewable);
                // A token near its greatest age is renewed for less and less: then a new one is due.
                let is_worth_it = longer.is_none_or(|longer| longer.span * 2 >= lease.span);
                if is_worth_it || !can_log_in {
                    return self.keep(granted.auth.client_token.0, longer);
                }
            }
        }
        if can_log_in { self.log_in().await } else { Err(ended("it cannot be renewed")) }
    }

    async fn look_up(&self, token: &Token) -> Result<Answer, RootKeyError> {
        self.http.send(self.with_token(self.http.get(self.url("auth/token/lookup-self")), token)).await
    }

    fn keep(&self, text: Zeroizing<String>, lasts: Option<Lease>) -> Result<Arc<Token>, RootKeyError> {
        let token = Arc::new(Token { header: header(&text)?, text, lasts });
        *lock(&self.current) = Some(Arc::clone(&token));
        Ok(token)
    }

    async fn read_token(&self, path: &std::path::Path) -> Result<Zeroizing<String>, RootKeyError> {
        let unusable =
            |why: &str| RootKeyError::unavailable(format!("Vault's credentials in {}: {why}", path.display()));
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
}

/// Why there is no token: never *denied*, since that is for what the key's policy says.
fn refused(what: &str, answer: &Answer) -> RootKeyError {
    match answer.status {
        429 => RootKeyError::throttled("Vault's rate limit quota is used up (login)"),
        503 => RootKeyError::unavailable("Vault is sealed or has no active node: unseal it (login)"),
        status => RootKeyError::unavailable(format!("{what} (status {status})")),
    }
}

fn ended(advice: &str) -> RootKeyError {
    RootKeyError::unavailable(format!("the Vault token has ended or was revoked: {advice}"))
}

fn header(token: &str) -> Result<HeaderValue, RootKeyError> {
    let mut header = HeaderValue::from_str(token)
        .map_err(|_| RootKeyError::unavailable("the Vault token holds characters that no token has"))?;
    header.set_sensitive(true);
    Ok(header)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
