//! A Cloud KMS of our own that checks what the real one checks: additional data, checksums, tokens. `drongo` checks less.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use keystrata_primitives::{SecretKey, wrap};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpListener, task::JoinHandle};

use crate::proxy::read_message;

/// What the fake does besides its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Honest,
    /// Answers with this status and Google's word for it.
    Error(u16, &'static str),
    /// As if another key had been asked.
    OtherKey,
    /// A ciphertext that changed on the way.
    BitFlip,
    NoChecksum,
    Unverified,
    NoJson,
    Big,
}

struct State {
    mood: Mood,
    /// The token that is good now.
    token: u64,
    /// Seconds by which its clock is ahead of this machine's.
    ahead: i64,
    /// Whether its metadata server knows of a service account.
    has_account: bool,
}

pub(crate) struct FakeKms {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
    pub(crate) tokens_given: Arc<AtomicU64>,
    pub(crate) tokens_refused: Arc<AtomicU64>,
    listener: JoinHandle<()>,
}

impl FakeKms {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State { mood: Mood::Honest, token: 1, ahead: 0, has_account: true }));
        let [tokens_given, tokens_refused] = [Arc::<AtomicU64>::default(), Arc::default()];
        let (shared, counters) = (Arc::clone(&state), [Arc::clone(&tokens_given), Arc::clone(&tokens_refused)]);
        let listener = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (state, counters) = (Arc::clone(&shared), counters.clone());
                tokio::spawn(async move {
                    while let Ok(request) = read_message(&mut stream).await {
                        let (status, body) = answer(&request, &state, &counters);
                        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
                        if stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { port, state, tokens_given, tokens_refused, listener }
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    pub(crate) fn set_clock(&self, seconds_ahead: i64) {
        self.state.lock().unwrap().ahead = seconds_ahead;
    }

    /// Lets the machine have no service account.
    pub(crate) fn detach_account(&self) {
        self.state.lock().unwrap().has_account = false;
    }

    /// Lets no token that was given before be good.
    pub(crate) fn revoke_tokens(&self) {
        self.state.lock().unwrap().token += 1;
    }
}

impl Drop for FakeKms {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

fn answer(request: &[u8], state: &Mutex<State>, counters: &[Arc<AtomicU64>; 2]) -> (u16, String) {
    let text = String::from_utf8_lossy(request);
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let state = state.lock().unwrap();
    if let Some(answer) = token(head, body, &state) {
        let [given, refused] = counters;
        let counter = if answer.0 == 200 { given } else { refused };
        counter.fetch_add(1, Ordering::SeqCst);
        return answer;
    }
    let good = format!("authorization: bearer hunter2-{}", state.token);
    if !head.to_ascii_lowercase().lines().any(|line| line == good) {
        return error(401, "UNAUTHENTICATED", "token");
    }
    match state.mood {
        Mood::Error(status, word) => return error(status, word, "the words\nof Google"),
        Mood::NoJson => return (200, "<html>hunter2</html>".into()),
        Mood::Big => return (200, "hunter2 ".repeat(128 * 1024)),
        _ => {}
    }
    let path = head.split(' ').nth(1).unwrap().strip_prefix("/v1/").unwrap();
    let (name, method) = path.rsplit_once(':').unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    let Some(aad) = field(&body, "additionalAuthenticatedData") else {
        return error(400, "INVALID_ARGUMENT", "additional_authenticated_data_crc32c does not match");
    };
    let key = SecretKey::from_slice(&[u8::try_from(name.len()).unwrap(); 32]).unwrap();
    if method == "encrypt" {
        let Some(plaintext) = field(&body, "plaintext") else {
            return error(400, "INVALID_ARGUMENT", "plaintext_crc32c does not match");
        };
        let ciphertext = wrap::wrap_key(&key, &aad, &SecretKey::from_slice(&plaintext).unwrap()).unwrap();
        (200, encrypted(name, &ciphertext, state.mood).to_string())
    } else {
        let Some(ciphertext) = field(&body, "ciphertext") else {
            return error(400, "INVALID_ARGUMENT", "ciphertext_crc32c does not match");
        };
        let Ok(secret) = wrap::unwrap_key(&key, &aad, &ciphertext) else {
            return error(400, "INVALID_ARGUMENT", "Decryption failed: the ciphertext is invalid.");
        };
        let checksum = crc32c::crc32c(secret.expose_secret()) ^ u32::from(state.mood == Mood::BitFlip);
        let reply =
            json!({ "plaintext": STANDARD.encode(secret.expose_secret()), "plaintextCrc32c": checksum.to_string() });
        (200, reply.to_string())
    }
}

/// An answer to a request for a token.
fn token(head: &str, body: &str, state: &State) -> Option<(u16, String)> {
    let granted =
        json!({ "access_token": format!("hunter2-{}", state.token), "expires_in": 3600, "token_type": "Bearer" });
    if head.starts_with("GET /computeMetadata/v1/instance/service-accounts/default/token ") {
        assert!(head.to_ascii_lowercase().contains("\r\nmetadata-flavor: google"), "{head}");
        return Some(if state.has_account { (200, granted.to_string()) } else { (404, "<html>no such thing".into()) });
    }
    if !head.starts_with("POST /token ") {
        return None;
    }
    let assertion =
        body.strip_prefix("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=").unwrap();
    let claims = URL_SAFE_NO_PAD.decode(assertion.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let now = i64::try_from(now).unwrap() + state.ahead;
    let (made, ends) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
    if made > now + 300 || ends < now || ends - made > 3600 {
        let said = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your \
                    iat and exp values in the JWT claim.";
        return Some((400, json!({ "error": "invalid_grant", "error_description": said }).to_string()));
    }
    Some((200, granted.to_string()))
}

fn encrypted(name: &str, ciphertext: &[u8], mood: Mood) -> Value {
    let mut altered = ciphertext.to_vec();
    if mood == Mood::BitFlip {
        altered[7] ^= 1;
    }
    let mut reply = json!({
        "name": format!("{name}/cryptoKeyVersions/3"),
        "ciphertext": STANDARD.encode(altered),
        "ciphertextCrc32c": crc32c::crc32c(ciphertext).to_string(),
        "verifiedPlaintextCrc32c": true,
        "verifiedAdditionalAuthenticatedDataCrc32c": true,
    });
    match mood {
        Mood::OtherKey => reply["name"] = json!(format!("{name}-other/cryptoKeyVersions/3")),
        Mood::NoChecksum => drop(reply.as_object_mut().unwrap().remove("ciphertextCrc32c")),
        Mood::Unverified => reply["verifiedPlaintextCrc32c"] = json!(false),
        _ => {}
    }
    reply
}

/// A field's bytes, if its checksum, without which the request is refused, is theirs.
fn field(body: &Value, name: &str) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(body[name].as_str()?).ok()?;
    let checksum: u32 = body[format!("{name}Crc32c")].as_str()?.parse().ok()?;
    (checksum == crc32c::crc32c(&bytes)).then_some(bytes)
}

fn error(status: u16, word: &str, message: &str) -> (u16, String) {
    (status, json!({ "error": { "code": status, "status": word, "message": message } }).to_string())
}
