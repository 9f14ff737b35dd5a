//! A token for Vault: got, renewed before it ends, and replaced once it has.

mod desk;
mod token;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use keystrata_hierarchy::RootKeyError;
use keystrata_memory::ProcessLocal;
use reqwest::{RequestBuilder, Url, header::HeaderValue};
use tokio::time::Instant;

use self::desk::{Desk, has_ended, read_token};
pub(super) use self::{desk::Credentials, token::Token};
use crate::{
    http::Http,
    turn::{Claim, Turn},
};

/// How soon a token that replaced another is not replaced again. One whose policy forbids it to ask about itself looks like
/// one that ended, each time that the key's policy refuses it: without this every refusal would be a login.
const PAUSE: Duration = Duration::from_secs(5);

/// Requests that may follow each other in one turn, and one more for what is not a request.
const REQUESTS_IN_A_TURN: u32 = 3;

/// The token in use, and who looks after it.
///
/// Getting and renewing is done by one caller for all. Nobody is waited for longer than that may take: a caller may be on
/// a runtime that is not driven any more. A forked child begins without a token.
pub(super) struct Login {
    desk: Desk,
    state: ProcessLocal<State>,
}

struct State {
    current: Mutex<Option<Arc<Token>>>,
    /// Held by whoever gets or renews a token.
    turn: Turn,
    /// The token that was last found good, and when that was asked.
    known_good: Mutex<Option<(Arc<Token>, Instant)>>,
    /// The token that last replaced a refused one, and when.
    replacement: Mutex<Option<(Arc<Token>, Instant)>>,
}

impl Login {
    pub(super) fn new(http: Http, api: Url, namespace: Option<HeaderValue>, credentials: Credentials) -> Self {
        let limit: Duration = http.timeout().saturating_mul(REQUESTS_IN_A_TURN);
        Self { desk: Desk::new(http, api, namespace, credentials), state: ProcessLocal::new(move || State::new(limit)) }
    }

    /// A token that should be good. Costs nothing but for the first, and when one is to be renewed.
    ///
    /// # Cancellation
    /// Whoever waits next does it instead.
    pub(super) async fn token(&self) -> Result<Arc<Token>, RootKeyError> {
        let (state, now) = (self.state.get(), Instant::now());
        match state.current() {
            Some(token) if !token.is_due(now) => Ok(token),
            Some(token) if !token.has_ended(now) => match state.turn.try_take() {
                Some(_claim) => Ok(self.renewed(state, &token).await),
                None => Ok(token), // somebody is at it, and this one still holds
            },
            ended => {
                let claim = state.turn.take().await;
                match state.current() {
                    // Got while this waited.
                    Some(token) if !ended.is_some_and(|ended| Arc::ptr_eq(&ended, &token)) => Ok(token),
                    _ => match claim.failure_since(now) {
                        Some(error) => Err(error),
                        None => claim.noted(self.desk.log_in().await).map(|token| state.keep(token)),
                    },
                }
            }
        }
    }

    /// Another token in place of one that Vault refused just now; `None` if that one is good, and the refusal meant.
    ///
    /// Good is a token of which that was said *after* the refusal: it may have been revoked at any moment before.
    ///
    /// # Errors
    /// [`RootKeyError::Unavailable`] if there is no other.
    pub(super) async fn replace(&self, refused: &Arc<Token>) -> Result<Option<Arc<Token>>, RootKeyError> {
        let (state, began) = (self.state.get(), Instant::now());
        let claim = state.turn.take().await;
        if let Some(token) = state.current().filter(|token| !token.is_same(refused)) {
            return Ok(Some(token));
        }
        if lock(&state.known_good).as_ref().is_some_and(|(token, at)| token.is_same(refused) && *at >= began) {
            return Ok(None);
        }
        match claim.failure_since(began) {
            Some(error) => Err(error),
            None => self.replace_now(state, &claim, refused).await,
        }
    }

    async fn replace_now(
        &self,
        state: &State,
        claim: &Claim<'_>,
        refused: &Arc<Token>,
    ) -> Result<Option<Arc<Token>>, RootKeyError> {
        let asked = Instant::now();
        if claim.noted(self.desk.is_good(refused).await)? {
            *lock(&state.known_good) = Some((Arc::clone(refused), asked));
            return Ok(None);
        }
        let is_new = |(token, at): &(Arc<Token>, Instant)| token.is_same(refused) && asked < *at + PAUSE;
        if lock(&state.replacement).as_ref().is_some_and(is_new) {
            return claim.noted(Err(RootKeyError::unavailable(
                "Vault refuses a token that it has just granted, and lets it ask nothing about itself: allow read on \
                 auth/token/lookup-self to its policy, then see what that grants on the key",
            )));
        }
        let other = claim.noted(self.other_than(refused).await).map(|token| state.keep(token))?;
        *lock(&state.replacement) = Some((Arc::clone(&other), Instant::now()));
        Ok(Some(other))
    }

    async fn other_than(&self, refused: &Token) -> Result<Token, RootKeyError> {
        match &self.desk.credentials {
            Credentials::Token(_) => Err(has_ended("give another by VAULT_TOKEN, a token file or an AppRole")),
            Credentials::TokenFile(path) => {
                let text = read_token(path).await?;
                if *text == *refused.text {
                    return Err(has_ended(&format!("put another into {}", path.display())));
                }
                Token::new(text, None)
            }
            Credentials::AppRole { .. } => self.desk.log_in().await,
        }
    }

    /// In a turn: `token` for longer, or another; the same if neither works for now.
    async fn renewed(&self, state: &State, token: &Arc<Token>) -> Arc<Token> {
        if let Some(newer) = state.current().filter(|newer| !Arc::ptr_eq(newer, token)) {
            return newer; // renewed just before this turn
        }
        // Put off before anything is sent: what cuts this call off must not let every later call try, and wait, again.
        let later = token.put_off(Instant::now());
        state.set(&later);
        match self.desk.renew(&later).await {
            Ok(token) => state.keep(token),
            Err(_) => later,
        }
    }

    /// The headers that show the token and name the namespace.
    pub(super) fn with_token(&self, request: RequestBuilder, token: &Token) -> RequestBuilder {
        token.shown_in(self.desk.in_namespace(request))
    }
}

impl State {
    fn new(limit: Duration) -> Self {
        Self {
            current: Mutex::default(),
            turn: Turn::new(limit),
            known_good: Mutex::default(),
            replacement: Mutex::default(),
        }
    }

    fn current(&self) -> Option<Arc<Token>> {
        lock(&self.current).clone()
    }

    fn set(&self, token: &Arc<Token>) {
        *lock(&self.current) = Some(Arc::clone(token));
    }

    fn keep(&self, token: Token) -> Arc<Token> {
        let token = Arc::new(token);
        self.set(&token);
        token
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
