use std::sync::atomic::{AtomicU32, Ordering};

use secrecy::SecretString;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{
    super::config::VaultSecret,
    token::{Lease, Token},
    *,
};

const TIMEOUT: Duration = Duration::from_secs(10);

/// A Vault that numbers the tokens of its logins.
struct FakeVault {
    api: Url,
    /// Requests so far, by what they ask for.
    logins: Arc<AtomicU32>,
    look_ups: Arc<AtomicU32>,
    renewals: Arc<AtomicU32>,
}

/// What it does with a request that is not a login.
#[derive(Clone, Copy, PartialEq)]
enum Memory {
    /// It knows every token.
    Good,
    /// It knows none.
    Gone,
    /// It takes the request and never answers.
    Silent,
}

impl FakeVault {
    async fn start(memory: Memory) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = Url::parse(&format!("http://{}/v1/", listener.local_addr().unwrap())).unwrap();
        let vault = Self { api, logins: Arc::default(), look_ups: Arc::default(), renewals: Arc::default() };
        let [logins, look_ups, renewals] = [&vault.logins, &vault.look_ups, &vault.renewals].map(Arc::clone);
        tokio::spawn(async move {
            let mut silent = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    stream.read_buf(&mut request).await.unwrap();
                }
                let is_login = request.starts_with(b"POST /v1/auth/approle/login");
                let counter = match &request[..] {
                    _ if is_login => &logins,
                    text if text.starts_with(b"GET /v1/auth/token/lookup-self") => &look_ups,
                    _ => &renewals,
                };
                let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
                if memory == Memory::Silent && !is_login {
                    silent.push(stream);
                    continue;
                }
                let (status, body) = if is_login {
                    let token = format!(r#""client_token":"t{number}","lease_duration":300,"renewable":true"#);
                    (200, format!(r#"{{"auth":{{{token}}}}}"#))
                } else if memory == Memory::Good {
                    (200, r#"{"data":{"ttl":300}}"#.into())
                } else {
                    (403, r#"{"errors":[]}"#.into())
                };
                let head =
                    format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            }
        });
        vault
    }

    fn login(&self) -> Login {
        let secret_id = VaultSecret::Value(SecretString::from("secret"));
        let credentials = Credentials::AppRole { mount: "approle".into(), role_id: "role".into(), secret_id };
        Login::new(Http::new("Vault", TIMEOUT, None, true).unwrap(), self.api.clone(), None, credentials)
    }
}

/// A token that is to be renewed, and lasts for some time yet.
fn due_token() -> Token {
    let granted = Instant::now().checked_sub(Duration::from_secs(250)).unwrap();
    Token::new("due".to_owned().into(), Lease::new(granted, 300, true)).unwrap()
}

#[tokio::test]
async fn a_dead_token_that_was_renewed_is_no_other_token() {
    let vault = FakeVault::start(Memory::Gone).await;
    let login = vault.login();
    let first = login.token().await.unwrap();
    // A renewal by somebody else keeps the text.
    login.state.get().keep(Token::new(first.text.clone(), None).unwrap());
    let second = login.replace(&first).await.unwrap().unwrap();
    assert_eq!(second.text.as_str(), "t2");
    assert_eq!(login.replace(&first).await.unwrap().unwrap().text.as_str(), "t2", "somebody replaced it already");
}

#[tokio::test]
async fn a_token_that_may_not_ask_about_itself_costs_one_login_and_not_one_a_refusal() {
    let vault = FakeVault::start(Memory::Gone).await;
    let login = vault.login();
    let first = login.token().await.unwrap();
    let second = login.replace(&first).await.unwrap().unwrap();
    for _ in 0..3 {
        let error = login.replace(&second).await.err().unwrap();
        assert!(
            matches!(&error, RootKeyError::Unavailable { .. }) && error.to_string().contains("lookup-self"),
            "{error}"
        );
    }
    assert_eq!(vault.logins.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_token_that_was_good_a_moment_ago_is_asked_about_after_each_refusal() {
    let vault = FakeVault::start(Memory::Good).await;
    let login = vault.login();
    let token = login.token().await.unwrap();
    for asked in 1..4 {
        assert!(login.replace(&token).await.unwrap().is_none());
        assert_eq!(vault.look_ups.load(Ordering::SeqCst), asked, "it may have been revoked since");
    }
}

#[tokio::test]
async fn many_refusals_at_once_are_one_or_two_questions() {
    let vault = FakeVault::start(Memory::Good).await;
    let login = Arc::new(vault.login());
    let token = login.token().await.unwrap();
    let callers = (0..32).map(|_| {
        let (login, token) = (Arc::clone(&login), Arc::clone(&token));
        tokio::spawn(async move { login.replace(&token).await.map(|other| other.is_none()) })
    });
    for caller in callers.collect::<Vec<_>>() {
        assert!(caller.await.unwrap().unwrap());
    }
    let look_ups = vault.look_ups.load(Ordering::SeqCst);
    assert!((1..=2).contains(&look_ups), "{look_ups}");
}

#[tokio::test]
async fn a_renewal_that_is_cut_off_is_put_off() {
    let vault = FakeVault::start(Memory::Silent).await;
    let login = vault.login();
    login.state.get().keep(due_token());
    {
        let mut cut_off = Box::pin(login.token());
        while vault.renewals.load(Ordering::SeqCst) == 0 {
            let is_pending = std::future::poll_fn(|cx| std::task::Poll::Ready(cut_off.as_mut().poll(cx).is_pending()));
            assert!(is_pending.await);
            tokio::task::yield_now().await;
        }
    }
    // The next call does not try, and so does not wait, again.
    assert_eq!(login.token().await.unwrap().text.as_str(), "due");
    assert_eq!(vault.renewals.load(Ordering::SeqCst), 1);
}

#[test]
fn a_runtime_that_nobody_drives_any_more_keeps_nobody_from_a_token() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (stopped, driven) = (runtime(), runtime());
    let vault = driven.block_on(FakeVault::start(Memory::Good));
    // Turns that have run out as soon as they are taken.
    let state = || State::new(Duration::ZERO);
    let login = Arc::new(Login { state: ProcessLocal::new(state), ..vault.login() });
    let stuck = Arc::clone(&login);
    stopped.spawn(async move {
        let _claim = stuck.state.get().turn.take().await;
        std::future::pending::<()>().await;
    });
    stopped.block_on(tokio::task::yield_now());
    assert_eq!(driven.block_on(login.token()).unwrap().text.as_str(), "t1");
}
