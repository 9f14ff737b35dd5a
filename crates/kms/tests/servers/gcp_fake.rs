//! A Cloud KMS of our own that checks what the real one checks: additional data, checksums, tokens. `drongo` checks less.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
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
}

pub(crate) struct FakeKms {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
    pub(crate) tokens_given: Arc<AtomicU64>,
    listener: JoinHandle<()>,
}

impl FakeKms {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State { mood: Mood::Honest, token: 1 }));
        let tokens_given = Arc::new(AtomicU64::new(0));
        let (shared, counter) = (Arc::clone(&state), Arc::clone(&tokens_given));
        let listener = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (state, counter) = (Arc::clone(&shared), Arc::clone(&counter));
                tokio::spawn(async move {
                    while let Ok(request) = read_message(&mut stream).await {
                        let (status, body) = answer(&request, &state, &counter);
                        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
                        if stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { port, state, tokens_given, listener }
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
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

fn answer(request: &[u8], state: &Mutex<State>, tokens_given: &AtomicU64) -> (u16, String) {
    let text = String::from_utf8_lossy(request);
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let state = state.lock().unwrap();
    if head.starts_with("POST /token ") {
        assert!(
            body.starts_with("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=ey"),
            "{body}"
        );
        tokens_given.fetch_add(1, Ordering::SeqCst);
        let token = format!("hunter2-{}", state.token);
        return (200, json!({ "access_token": token, "expires_in": 3600, "token_type": "Bearer" }).to_string());
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
