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

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A metadata server that numbers its tokens, each good for `seconds`.
    async fn metadata_server(seconds: u64) -> Tokens {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/computeMetadata/v1/token", listener.local_addr().unwrap());
        tokio::spawn(async move {
            for number in 1.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    stream.read_buf(&mut request).await.unwrap();
                }
                let is_asked_rightly =
                    String::from_utf8_lossy(&request).to_lowercase().contains("metadata-flavor: google");
                let granted = format!(r#"{{"access_token":"t{number}","expires_in":{seconds},"token_type":"Bearer"}}"#);
                let (status, body) = if is_asked_rightly { (200, granted) } else { (403, String::new()) };
                let head =
                    format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            }
        });
        let http = Http::new("the metadata server", Duration::from_secs(10), None, true).unwrap();
        Tokens::new(http, Source::Metadata(Url::parse(&url).unwrap()))
    }

    fn text(token: &AccessToken) -> &str {
        token.header.to_str().unwrap()
    }

    #[tokio::test]
    async fn a_token_of_the_metadata_server_is_kept_until_it_is_refused() {
        let tokens = metadata_server(3600).await;
        let first = tokens.get().await.unwrap().unwrap();
        assert_eq!(text(&first), "Bearer t1");
        assert!(Arc::ptr_eq(&first, &tokens.get().await.unwrap().unwrap()));
        let second = tokens.replace(&first).await.unwrap();
        assert_eq!(text(&second), "Bearer t2");
        assert!(Arc::ptr_eq(&second, &tokens.replace(&first).await.unwrap()), "somebody replaced it already");
        assert!(second.header().is_sensitive());
    }

    #[tokio::test]
    async fn a_token_that_lasts_no_time_is_got_anew_each_time() {
        let tokens = metadata_server(0).await;
        for number in 1..4 {
            assert_eq!(text(&tokens.get().await.unwrap().unwrap()), format!("Bearer t{number}"));
        }
    }
}
