//! Access tokens of Google: got when needed, renewed before they end.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use keystrata_hierarchy::RootKeyError;
use keystrata_memory::ProcessLocal;
use reqwest::{
    Url,
    header::{self, HeaderValue},
};
use serde::Deserialize;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{error::no_token, service_account::ServiceAccount};
use crate::{base64_key::SecretText, http::Http, turn::Turn};

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

    /// By text: one whose renewal is put off is no other.
    fn is_same(&self, other: &Self) -> bool {
        self.header == other.header
    }

    /// The same, with the next try after a quarter of what is left, and not with every call.
    fn put_off(&self, now: Instant) -> Self {
        let due = now + self.end.saturating_duration_since(now) / 4;
        Self { header: self.header.clone(), due, end: self.end }
    }
}

/// The token in use, and who gets the next.
///
/// One caller gets it for all. Nobody is waited for longer than that may take: a caller may be on a runtime that is not
/// driven any more. A forked child begins without a token.
pub(super) struct Tokens {
    http: Http,
    source: Source,
    state: ProcessLocal<State>,
}

struct State {
    current: Mutex<Option<Arc<AccessToken>>>,
    /// Held by whoever gets a token.
    turn: Turn,
}

#[derive(Deserialize)]
struct Granted {
    access_token: SecretText,
    expires_in: u64,
}

impl Tokens {
    pub(super) fn new(http: Http, source: Source) -> Self {
        // One request, and as long again for what is not a request.
        let limit = http.timeout().saturating_mul(2);
        let state = move || State { current: Mutex::default(), turn: Turn::new(limit) };
        Self { http, source, state: ProcessLocal::new(state) }
    }

    /// A token that should be good; `None` where none is needed.
    ///
    /// # Cancellation
    /// Whoever waits next gets it instead.
    pub(super) async fn get(&self) -> Result<Option<Arc<AccessToken>>, RootKeyError> {
        if matches!(self.source, Source::None) {
            return Ok(None);
        }
        let (state, now) = (self.state.get(), Instant::now());
        match state.current() {
            Some(token) if now < token.due => Ok(Some(token)),
            Some(token) if now < token.end => match state.turn.try_take() {
                Some(_claim) => Ok(Some(self.renewed(state, &token).await)),
                None => Ok(Some(token)), // somebody is at it, and this one still holds
            },
            ended => self.another_than(ended.as_ref()).await.map(Some),
        }
    }

    /// Another token in place of one that Google refused.
    pub(super) async fn replace(&self, refused: &Arc<AccessToken>) -> Result<Arc<AccessToken>, RootKeyError> {
        self.another_than(Some(refused)).await
    }

    async fn another_than(&self, old: Option<&Arc<AccessToken>>) -> Result<Arc<AccessToken>, RootKeyError> {
        let (state, began) = (self.state.get(), Instant::now());
        let claim = state.turn.take().await;
        if let Some(token) = state.current().filter(|token| !old.is_some_and(|old| old.is_same(token))) {
            return Ok(token); // got while this waited
        }
        match claim.failure_since(began) {
            Some(error) => Err(error),
            None => claim.noted(self.fetch().await).map(|token| state.keep(token)),
        }
    }

    /// In a turn: a new token, or the same if there is none for now.
    async fn renewed(&self, state: &State, token: &Arc<AccessToken>) -> Arc<AccessToken> {
        if let Some(newer) = state.current().filter(|newer| !Arc::ptr_eq(newer, token)) {
            return newer; // renewed just before this turn
        }
        // Put off before anything is sent: what cuts this call off must not let every later call try, and wait, again.
        let later = state.keep(token.put_off(Instant::now()));
        self.fetch().await.map_or(later, |token| state.keep(token))
    }

    /// In a turn.
    async fn fetch(&self) -> Result<AccessToken, RootKeyError> {
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
                    .post(account.token_url.clone())?
                    .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(form)
            }
            Source::Metadata(url) => self.http.get(url.clone())?.header("Metadata-Flavor", "Google"),
            Source::None => return Err(RootKeyError::unavailable("no credentials are configured")),
        };
        let answer = self.http.send(request).await?;
        if !answer.is_success() {
            return Err(no_token(&self.source, &answer));
        }
        let granted: Granted = self.http.parse(&answer)?;
        let text = Zeroizing::new(format!("Bearer {}", *granted.access_token.0));
        let mut header =
            HeaderValue::from_str(&text).map_err(|_| self.http.nonsense(&answer, "its access token is none"))?;
        header.set_sensitive(true);
        let span = Duration::from_secs(granted.expires_in.min(24 * 3600));
        Ok(AccessToken { header, due: now + span * 2 / 3, end: now + span })
    }
}

impl State {
    fn current(&self) -> Option<Arc<AccessToken>> {
        self.lock().clone()
    }

    fn keep(&self, token: AccessToken) -> Arc<AccessToken> {
        let token = Arc::new(token);
        *self.lock() = Some(Arc::clone(&token));
        token
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<AccessToken>>> {
        // No code panics while it holds the lock.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

    #[tokio::test]
    async fn a_renewal_that_is_cut_off_is_put_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/token", listener.local_addr().unwrap())).unwrap();
        let http = Http::new("the metadata server", Duration::from_secs(10), None, true).unwrap();
        let tokens = Tokens::new(http, Source::Metadata(url));
        let now = Instant::now();
        let token =
            AccessToken { header: HeaderValue::from_static("t"), due: now, end: now + Duration::from_secs(900) };
        tokens.state.get().keep(token);
        let (stream, _) = {
            let mut cut_off = Box::pin(tokens.get());
            tokio::select! { _ = &mut cut_off => panic!("nothing answers"), accepted = listener.accept() => accepted.unwrap() }
        };
        // The next call does not try, and so does not wait, again.
        assert_eq!(text(&tokens.get().await.unwrap().unwrap()), "t");
        drop(stream);
    }
}
