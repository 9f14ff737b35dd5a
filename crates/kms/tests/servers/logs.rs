//! What a log gets to see: each request with the service's id of it, and at no level a key or a credential.

use std::{
    fmt::{Debug, Write},
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_sdk_kms::{
    Client,
    config::{BehaviorVersion, Credentials, Region, SharedCredentialsProvider},
    primitives::Blob,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use keystrata_hierarchy::{RootContext, RootKey};
use keystrata_kms::{AwsKmsRootKey, GcpAuth, GcpKmsConfig, GcpKmsRootKey, VaultTransitRootKey};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpListener, task::JoinHandle};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
    subscriber::DefaultGuard,
};

use crate::{gcp, proxy::read_message, vault, verdict};

const AWS_KEY: &str = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd";
/// What the services below give out; it must never be seen again.
const PLAINTEXT: &[u8; 32] = b"hunter2-hunter2-hunter2-hunter2!";

/// Everything that is logged on this thread, at every level. The tests' runtimes have no other threads.
#[derive(Clone, Default)]
struct Log {
    lines: Arc<Mutex<String>>,
    spans: Arc<AtomicU64>,
}

impl Log {
    fn start() -> (Self, DefaultGuard) {
        let log = Self::default();
        let guard = tracing::subscriber::set_default(log.clone());
        tracing::trace!("the log has begun");
        assert!(log.text().contains("the log has begun"));
        (log, guard)
    }

    fn text(&self) -> String {
        self.lines.lock().unwrap().clone()
    }

    /// Our own events, one a line.
    fn requests(&self) -> Vec<String> {
        self.text().lines().filter(|line| line.contains("KMS request")).map(str::to_owned).collect()
    }

    #[track_caller]
    fn assert_holds_no_secret(&self) {
        let text = self.text();
        let as_numbers = format!("{:?}", &PLAINTEXT[..7]);
        for secret in verdict::SECRETS.into_iter().chain([as_numbers.trim_matches(['[', ']'])]) {
            let found = text.lines().find(|line| line.contains(secret));
            assert!(found.is_none(), "{secret} in {found:?}");
        }
    }

    fn write(&self, about: &Metadata<'_>, record: impl FnOnce(&mut Line)) {
        let mut line = Line(format!("{} {}", about.level(), about.target()));
        record(&mut line);
        let mut lines = self.lines.lock().unwrap();
        lines.push_str(&line.0.replace('\n', " "));
        lines.push('\n');
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        self.write(span.metadata(), |line| span.record(line));
        span::Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        let mut line = Line(String::new());
        values.record(&mut line);
        self.lines.lock().unwrap().push_str(&(line.0 + "\n"));
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        self.write(event.metadata(), |line| event.record(line));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// A service that answers each request by its first line, with a header and a body.
struct Service {
    port: u16,
    listener: JoinHandle<()>,
}

impl Service {
    async fn start(answer: impl Fn(&str) -> (u16, &'static str, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = Arc::new(answer);
        let listener = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = Arc::clone(&answer);
                tokio::spawn(async move {
                    while let Ok(request) = read_message(&mut stream).await {
                        let text = String::from_utf8_lossy(&request);
                        let (status, header, body) = answer(text.lines().next().unwrap_or_default());
                        let head = format!("HTTP/1.1 {status} X\r\n{header}\r\ncontent-length: {}\r\n\r\n", body.len());
                        if stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { port, listener }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

#[track_caller]
fn assert_tells(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(line.starts_with(Level::DEBUG.as_str()) && line.contains("took_us="), "{line}");
}

/// A client with a session token, as roles have them.
fn aws_client(service: &Service) -> Client {
    let credentials = Credentials::new("AKIAEXAMPLE", "hunter2-secret", Some("hunter2-session".into()), None, "test");
    let config = aws_sdk_kms::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .endpoint_url(service.url())
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build();
    Client::from_conf(config)
}

async fn aws() -> Service {
    let plaintext = STANDARD.encode(PLAINTEXT);
    Service::start(move |_| {
        let facts = json!({ "Arn": AWS_KEY, "KeyId": AWS_KEY, "AWSAccountId": "111122223333" });
        let answer = json!({
            "KeyId": AWS_KEY, "CiphertextBlob": "AAAA", "Plaintext": plaintext, "KeyMetadata": facts,
            "SourceKeyId": AWS_KEY,
        });
        (200, "x-amzn-requestid: r-42", answer.to_string())
    })
    .await
}

#[tokio::test]
async fn the_requests_to_aws_are_told_of_and_nothing_in_them() {
    let service = aws().await;
    let (log, _guard) = Log::start();
    let root = AwsKmsRootKey::with_client(aws_client(&service), "alias/k", Duration::from_secs(20)).await.unwrap();
    let context = RootContext::none();
    let secret = root.generate_key(&context).await.unwrap().secret;
    root.unwrap_key(b"x", &context).await.unwrap();
    root.wrap_key(&secret, &context).await.unwrap();
    root.rewrap_key(&root.id().clone(), b"x", &context).await.unwrap().unwrap();
    log.assert_holds_no_secret();
    let requests = log.requests();
    let operations = ["DescribeKey", "GenerateDataKey", "Decrypt", "Encrypt", "ReEncrypt"];
    assert_eq!(requests.len(), operations.len(), "{requests:?}");
    for (line, operation) in requests.iter().zip(operations) {
        assert_tells(line, &["root=\"aws-kms\"", &format!("operation=\"{operation}\""), "outcome=\"done\"", "r-42"]);
        assert!(!line.contains("1234abcd"), "{line}");
    }
}

#[tokio::test]
async fn without_that_care_the_sdk_would_log_plaintext_keys() {
    let service = aws().await;
    let (log, _guard) = Log::start();
    aws_client(&service).encrypt().key_id(AWS_KEY).plaintext(Blob::new(PLAINTEXT)).send().await.unwrap();
    assert!(log.text().contains(&STANDARD.encode(PLAINTEXT)), "the other tests could not fail");
}

#[tokio::test]
async fn a_refusal_names_the_request_in_the_log_and_in_the_error() {
    let service = Service::start(|_| {
        let body = json!({ "__type": "AccessDeniedException", "message": "no" });
        (400, "x-amzn-requestid: r-42", body.to_string())
    })
    .await;
    let (log, _guard) = Log::start();
    let root = AwsKmsRootKey::with_client(aws_client(&service), AWS_KEY, Duration::from_secs(20)).await.unwrap();
    let (class, message) = verdict::of(root.unwrap_key(b"x", &RootContext::none()).await);
    assert_eq!(class, "denied");
    assert!(message.contains("request id r-42"), "{message}");
    log.assert_holds_no_secret();
    assert_tells(&log.requests()[0], &["operation=\"Decrypt\"", "outcome=\"denied\"", "r-42"]);
}

#[tokio::test]
async fn a_request_that_is_cut_off_is_told_of_too() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let service = Service { port: silent.local_addr().unwrap().port(), listener: tokio::spawn(std::future::pending()) };
    let (log, _guard) = Log::start();
    let root = AwsKmsRootKey::with_client(aws_client(&service), AWS_KEY, Duration::from_secs(20)).await.unwrap();
    let context = RootContext::none();
    tokio::select! {
        _ = root.unwrap_key(b"x", &context) => panic!("nobody answers"),
        _ = silent.accept() => {}
    }
    assert_tells(&log.requests()[0], &["operation=\"Decrypt\"", "outcome=\"dropped\""]);
}

#[tokio::test]
async fn the_requests_to_vault_are_told_of_and_nothing_in_them() {
    let plaintext = STANDARD.encode(PLAINTEXT);
    let is_first = AtomicU64::new(0);
    let service = Service::start(move |line| {
        let body = if line.contains("lookup-self") {
            json!({ "request_id": "v-1", "data": { "ttl": 3600 } })
        } else if line.contains("decrypt") && line.contains("/one") {
            json!({ "request_id": "v-2", "data": { "plaintext": plaintext } })
        } else if is_first.fetch_add(1, Ordering::SeqCst) == 0 {
            let body =
                json!({ "errors": ["missing 'context' for key derivation; the key was created using a derived key"] });
            return (400, "x: y", body.to_string());
        } else {
            json!({ "request_id": "v-3", "data": { "plaintext": plaintext, "ciphertext": "vault:v1:AAAA*" } })
        };
        (200, "x: y", body.to_string())
    })
    .await;
    let (log, _guard) = Log::start();
    let root = VaultTransitRootKey::open(vault::config(&service.url(), "one")).await.unwrap();
    let context = RootContext::none();
    root.unwrap_key(&[1, 1, 0, 0, 0, 7], &context).await.unwrap();
    let (class, message) = verdict::of(root.generate_key(&context).await);
    assert_eq!(class, "unavailable");
    assert!(message.contains("not one of transit") && message.contains("request id v-3"), "{message}");
    log.assert_holds_no_secret();
    let requests = log.requests();
    assert_eq!(requests.len(), 3, "{requests:?}");
    assert_tells(&requests[0], &["root=\"vault-transit\"", "operation=\"datakey\"", "outcome=\"done\""]);
    assert_tells(&requests[1], &["operation=\"decrypt\"", "outcome=\"done\"", "v-2"]);
    assert_tells(&requests[2], &["operation=\"datakey\"", "outcome=\"unavailable\"", "v-3"]);
}

#[tokio::test]
async fn the_requests_to_google_are_told_of_and_nothing_in_them() {
    let plaintext = STANDARD.encode(PLAINTEXT);
    let checksum = crc32c::crc32c(PLAINTEXT).to_string();
    let service = Service::start(move |line| {
        let body = if line.contains("/token") {
            json!({ "access_token": "hunter2-token", "expires_in": 3600 })
        } else if line.contains(":decrypt") {
            json!({ "plaintext": plaintext, "plaintextCrc32c": checksum })
        } else {
            let error = json!({ "code": 403, "status": "PERMISSION_DENIED", "message": "no" });
            return (403, "x-goog-request-id: g-43", json!({ "error": error }).to_string());
        };
        (200, "x-goog-request-id: g-42", body.to_string())
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let config = GcpKmsConfig {
        key: gcp::KEY.into(),
        endpoint: Some(service.url()),
        auth: GcpAuth::ServiceAccountFile(gcp::account(&folder, service.port)),
        attempt_timeout: Duration::from_secs(20),
        ..GcpKmsConfig::default()
    };
    let (log, _guard) = Log::start();
    let root = GcpKmsRootKey::open(config).await.unwrap();
    let context = RootContext::none();
    let secret = root.unwrap_key(b"x", &context).await.unwrap();
    let (class, message) = verdict::of(root.wrap_key(&secret, &context).await);
    assert_eq!(class, "denied");
    assert!(message.contains("request id g-43"), "{message}");
    log.assert_holds_no_secret();
    let requests = log.requests();
    assert_eq!(requests.len(), 2, "{requests:?}");
    assert_tells(&requests[0], &["root=\"gcp-kms\"", "operation=\"decrypt\"", "outcome=\"done\"", "g-42"]);
    assert_tells(&requests[1], &["operation=\"encrypt\"", "outcome=\"denied\"", "g-43"]);
}
