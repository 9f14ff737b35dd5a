//! Access tokens of Google: got when needed, renewed before they end.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use keystrata_hierarchy::RootKeyError;
use reqwest::{
    Url,
    header::{self, HeaderValue},
};
use serde::Deserialize;
use tokio::{sync::Mutex as AsyncMutex, time::Instant};
use zeroize::Zeroizing;

use super::service_account::ServiceAccount;
use crate::{base64_key::SecretText, http::Http};

/// Where tokens come from.
#[derive(Debug)]
pub(super) enum Source {
    ServiceAccount(ServiceAccount),
    Metadata(Url),
    None,
}

/// A token, as a header that is not shown in logs.
pub(super) struct AccessToken {
    header: HeaderValue,
    /// When another is due; there is time for several tries before this one ends.
    due: Instant,
    end: Instant,
}

impl AccessToken {
    pub(super) fn header(&self) -> HeaderValue {
        self.header.clone()
    }
}

pub(super) struct Tokens {
    http: Http,
    source: Source,
    current: Mutex<Option<Arc<AccessToken>>>,
    /// Held by whoever gets a token, so that one does for all.
    turn: AsyncMutex<()>,
    /// When a token could last not be got, and why: an answer for all who waited meanwhile.
    failure: Mutex<Option<(Instant, RootKeyError)>>,
}

#[derive(Deserialize)]
struct Granted {
    access_token: SecretText,
    expires_in: u64,
}

impl Tokens {
    pub(super) fn new(http: Http, source: Source) -> Self {
        Self { http, source, current: Mutex::default(), turn: AsyncMutex::default(), failure: Mutex::default() }
    }

    /// A token that should be good; `None` where none is needed.
    ///
    /// # Cancellation
    /// Whoever waits next gets it instead.
    pub(super) async fn get(&self) -> Result<Option<Arc<AccessToken>>, RootKeyError> {
        if matches!(self.source, Source::None) {
            return Ok(None);
        }
        let now = Instant::now();
        match self.current() {
            Some(token) if now < token.due => Ok(Some(token)),
            Some(token) if now < token.end => match self.turn.try_lock() {
                Ok(_turn) => match self.fetch().await {
                    Ok(token) => Ok(Some(token)),
                    Err(_) => Ok(Some(self.put_off(&token))),
                },
                Err(_) => Ok(Some(token)), // somebody is at it, and this one still holds
            },
            stale => self.another_than(stale.as_ref()).await.map(Some),
        }
    }

    /// Another token in place of one that Google refused.
    pub(super) async fn replace(&self, refused: &Arc<AccessToken>) -> Result<Arc<AccessToken>, RootKeyError> {
        self.another_than(Some(refused)).await
    }

    async fn another_than(&self, old: Option<&Arc<AccessToken>>) -> Result<Arc<AccessToken>, RootKeyError> {
        let began = Instant::now();
        let _turn = self.turn.lock().await;
        if let Some(token) = self.current().filter(|token| !old.is_some_and(|old| Arc::ptr_eq(old, token))) {
            return Ok(token); // got while this waited
        }
        if let Some((_, error)) = lock(&self.failure).as_ref().filter(|(at, _)| *at >= began) {
            return Err(error.clone());
        }
        let outcome = self.fetch().await;
        if let Err(error) = &outcome {
            *lock(&self.failure) = Some((Instant::now(), error.clone()));
        }
        outcome
    }

    fn current(&self) -> Option<Arc<AccessToken>> {
        lock(&self.current).clone()
    }

    /// The same token, with the next try after a quarter of what is left, and not with every call.
    fn put_off(&self, token: &AccessToken) -> Arc<AccessToken> {
        let now = Instant::now();
        let due = now + token.end.saturating_duration_since(now) / 4;
        let later = Arc::new(AccessToken { header: token.header.clone(), due, end: token.end });
        *lock(&self.current) = Some(Arc::clone(&later));
        later
    }

    /// Under the turn.
    async fn fetch(&self) -> Result<Arc<AccessToken>, RootKeyError> {
        let now = Instant::now();
        let request = match &self.source {
            Source::ServiceAccount(account) => {
                let seconds =
                    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
                let assertion = account.assertion(seconds).ok_or_else(|| {
                    RootKeyError::unavailable("the service account's key signs nothing: make another")
                })?;
                let form = format!(
                    "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={}",
                    *assertion
                );
                self.http
                    .post(account.token_url.clone())
                    .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(form)
            }
            Source::Metadata(url) => self.http.get(url.clone()).header("Metadata-Flavor", "Google"),
            Source::None => return Err(RootKeyError::unavailable("no credentials are configured")),
        };
        let answer = self.http.send(request).await?;
        if !answer.is_success() {
            return Err(match answer.status {
                429 => RootKeyError::throttled("Google gives out no more access tokens for now"),
                status => RootKeyError::unavailable(format!(
                    "Google gives no access token: check the service account, its key and the clock (status {status})"
                )),
            });
        }
        let granted: Granted = self.http.parse(&answer)?;
        let text = Zeroizing::new(format!("Bearer {}", *granted.access_token.0));
        let mut header = HeaderValue::from_str(&text).map_err(|_| self.http.nonsense("its access token is none"))?;
        header.set_sensitive(true);
        let span = Duration::from_secs(granted.expires_in.min(24 * 3600));
        let token = Arc::new(AccessToken { header, due: now + span * 2 / 3, end: now + span });
        *lock(&self.current) = Some(Arc::clone(&token));
        Ok(token)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
