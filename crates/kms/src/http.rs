//! The REST client that Vault and Google Cloud KMS are reached with.

use std::{borrow::Cow, fmt, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use keystrata_hierarchy::{Cause, RootKeyError};
use keystrata_memory::ProcessLocal;
use reqwest::{Certificate, Method, RequestBuilder, Url, header, redirect, retry};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::{
    attempt::{self, with_request_id},
    clients::Clients,
    open::OpenRootError,
    text::{Said, chain},
};

/// Where services, or what stands in front of them, put the id of a request. Vault has it in its body.
const REQUEST_ID_HEADERS: [&str; 3] = ["x-goog-request-id", "x-request-id", "x-cloud-trace-context"];
/// Longest answer that is read: several times the longest wrapped key that a record holds, and nothing to fill memory with.
pub(crate) const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Longest file of credentials or certificates.
const MAX_FILE_BYTES: usize = 1 << 20;

/// A client of one service. One request is one attempt: nothing is retried here and no redirect is followed, which would
/// carry a token to wherever the answer says.
///
/// Connections belong to one runtime of one process: another runtime, and a forked child, opens its own.
#[derive(Clone)]
pub(crate) struct Http {
    clients: Arc<ProcessLocal<Clients<reqwest::Client>>>,
    settings: Arc<Settings>,
}

/// What each client is made with.
struct Settings {
    /// For messages.
    service: &'static str,
    timeout: Duration,
    ca: Option<Vec<Certificate>>,
    is_local: bool,
}

/// An answer's status and body. Of its headers the id of the request alone is kept.
pub(crate) struct Answer {
    pub(crate) status: u16,
    body: Zeroizing<Vec<u8>>,
    request_id: Option<String>,
}

impl Http {
    /// A client that trusts the system's certificate authorities, or those in `ca` alone.
    pub(crate) fn new(
        service: &'static str,
        timeout: Duration,
        ca: Option<&[Certificate]>,
        is_local: bool,
    ) -> Result<Self, OpenRootError> {
        let settings = Settings { service, timeout, ca: ca.map(<[_]>::to_vec), is_local };
        let http = Self { clients: Arc::new(ProcessLocal::new(Clients::new)), settings: Arc::new(settings) };
        match http.client() {
            Ok(_) => Ok(http),
            Err(source) => Err(OpenRootError::Unusable { what: http.settings.no_tls(), source: Some(source) }),
        }
    }

    /// The client of this runtime and process.
    fn client(&self) -> Result<reqwest::Client, Cause> {
        self.clients.get().get(|| self.settings.client())
    }

    /// Longest time that a request may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    pub(crate) fn post(&self, url: Url) -> Result<RequestBuilder, RootKeyError> {
        self.request(Method::POST, url)
    }

    pub(crate) fn get(&self, url: Url) -> Result<RequestBuilder, RootKeyError> {
        self.request(Method::GET, url)
    }

    fn request(&self, method: Method, url: Url) -> Result<RequestBuilder, RootKeyError> {
        match self.client() {
            Ok(client) => Ok(client.request(method, url)),
            Err(source) => Err(RootKeyError::Unavailable { message: self.settings.no_tls(), source: Some(source) }),
        }
    }

    /// Sends a request and reads the answer, whatever its status.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Answer, RootKeyError> {
        let mut response = request.send().await.map_err(|error| self.failed(error))?;
        let status = response.status().as_u16();
        let request_id = REQUEST_ID_HEADERS.iter().find_map(|name| response.headers().get(*name)?.to_str().ok());
        let request_id = request_id.and_then(attempt::request_id).map(str::to_owned);
        // All of it at once: a buffer that grows would leave parts of a plaintext behind unwiped.
        let mut body = Zeroizing::new(Vec::with_capacity(MAX_ANSWER_BYTES));
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(error))? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(self.not_used(request_id.as_deref(), "it is longer than 64 KiB"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, body, request_id })
    }

    fn failed(&self, error: reqwest::Error) -> RootKeyError {
        let Settings { service, timeout, .. } = &*self.settings;
        let is_connected = !error.is_connect();
        let message = if error.is_timeout() {
            format!("{service} did not answer within {} ms: check the network, then timeout_ms", timeout.as_millis())
        } else if !is_connected {
            format!("{service} cannot be reached: check the address, the network and the server's certificate")
        } else {
            format!("the connection to {service} broke off: try again later")
        };
        // The address is in the settings, and a path may name an account.
        let said = Said::cause(&chain(&error.without_url()));
        let source: Cause = if is_connected { said } else { Arc::new(NotConnected(said)) };
        RootKeyError::Unavailable { message, source: Some(source) }
    }

    /// An answer that the service would not give.
    pub(crate) fn nonsense(&self, answer: &Answer, what: &str) -> RootKeyError {
        self.not_used(answer.request_id().as_deref(), what)
    }

    fn not_used(&self, request_id: Option<&str>, what: &str) -> RootKeyError {
        let (service, end) = (self.settings.service, with_request_id(request_id));
        RootKeyError::unavailable(format!("the answer of {service} is not used: {what}; check the address{end}"))
    }

    /// The answer's body as JSON of this shape.
    pub(crate) fn parse<T: DeserializeOwned>(&self, answer: &Answer) -> Result<T, RootKeyError> {
        // The parser's error is dropped: it quotes values.
        answer.json().ok_or_else(|| self.nonsense(answer, "it is not the JSON that was to be expected"))
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { service, timeout, .. } = &*self.settings;
        f.debug_struct("Http").field("service", service).field("timeout", timeout).finish_non_exhaustive()
    }
}

impl Settings {
    fn client(&self) -> Result<reqwest::Client, Cause> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("keystrata/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .connect_timeout(self.timeout)
            .timeout(self.timeout)
            // Shorter than the idle timeout of the usual servers and balancers, which would close under a request.
            .pool_idle_timeout(Duration::from_secs(30));
        if self.is_local {
            builder = builder.no_proxy();
        }
        if let Some(ca) = &self.ca {
            builder = builder.tls_certs_only(ca.iter().cloned());
        }
        builder.build().map_err(|error| Said::cause(&chain(&error)))
    }

    fn no_tls(&self) -> String {
        format!("TLS for {} cannot be set up: check the CA file or the system's certificates", self.service)
    }
}

/// The source of the [`RootKeyError::Unavailable`] of a request that found no connection, and so was not sent.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotConnected(Cause);

/// Whether `error` is that of a request which was not sent, since there was no connection.
pub(crate) fn is_not_connected(error: &RootKeyError) -> bool {
    matches!(error, RootKeyError::Unavailable { source: Some(source), .. } if source.is::<NotConnected>())
}

impl Answer {
    #[cfg(test)]
    pub(crate) fn of(status: u16, body: &str) -> Self {
        Self { status, body: Zeroizing::new(body.as_bytes().to_vec()), request_id: None }
    }

    /// What the service calls the request, by a header or by what its answer says.
    pub(crate) fn request_id(&self) -> Option<Cow<'_, str>> {
        #[derive(Deserialize)]
        struct Body<'a> {
            #[serde(borrow, default)]
            request_id: Option<Cow<'a, str>>,
        }
        if let Some(id) = &self.request_id {
            return Some(Cow::Borrowed(id));
        }
        let id = serde_json::from_slice::<Body<'_>>(&self.body).ok()?.request_id?;
        attempt::request_id(&id).is_some().then_some(id)
    }

    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body, if it is JSON of this shape.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }
}

/// Lets a request carry `body` as JSON, in a buffer that is wiped once the request is gone.
pub(crate) fn with_json(request: RequestBuilder, body: &impl Serialize, capacity: usize) -> RequestBuilder {
    let mut buffer = Zeroizing::new(Vec::with_capacity(capacity));
    serde_json::to_writer(&mut *buffer, body).expect("strings and numbers are JSON, and memory takes them");
    request.header(header::CONTENT_TYPE, "application/json").body(Bytes::from_owner(buffer))
}

/// Whether plain HTTP may be spoken with this host: only if nothing leaves the machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback()),
        None => false,
    }
}

/// The certificates in a PEM file.
pub(crate) async fn read_certificates(path: &Path) -> Result<Vec<Certificate>, OpenRootError> {
    let pem = read_file("the CA file", path).await?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(OpenRootError::File {
            what: "the CA file",
            path: path.into(),
            why: "it holds no certificate in PEM form".into(),
        }),
    }
}

/// A small file, read off the async threads and wiped when dropped.
///
/// Not a pipe, a device or a folder: reading one may never end, on a thread that then never comes back.
pub(crate) async fn read_file(what: &'static str, path: &Path) -> Result<Zeroizing<Vec<u8>>, OpenRootError> {
    let owned = path.to_owned();
    let read = move || -> Result<Zeroizing<Vec<u8>>, String> {
        use std::io::Read;
        let io = |error: std::io::Error| chain(&error);
        let file = open_without_waiting(&owned).map_err(io)?;
        // Asked of the open file, not of the path, which may name another file by now.
        let facts = file.metadata().map_err(io)?;
        if !facts.is_file() {
            return Err("it is not a regular file".into());
        }
        let len = usize::try_from(facts.len()).unwrap_or(usize::MAX).min(MAX_FILE_BYTES);
        let mut bytes = Zeroizing::new(Vec::with_capacity(len + 1));
        file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() > MAX_FILE_BYTES {
            return Err("it is longer than 1 MiB".into());
        }
        Ok(bytes)
    };
    let failed = |why: String| OpenRootError::File { what, path: path.into(), why };
    match tokio::task::spawn_blocking(read).await {
        Ok(read) => read.map_err(failed),
        Err(stopped) => Err(failed(chain(&stopped))),
    }
}

#[cfg(unix)]
fn open_without_waiting(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    // Without this flag, opening a pipe waits for somebody to write to it.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).expect("one low bit");
    std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)
}

#[cfg(not(unix))]
fn open_without_waiting(path: &Path) -> std::io::Result<std::fs::File> {
    std::fs::File::open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine_only() {
        for (url, local) in [
            ("http://127.0.0.1:8200", true),
            ("http://[::1]:8200", true),
            ("http://localhost", true),
            ("http://vault.example", false),
            ("http://127.0.0.1.example", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), local, "{url}");
        }
    }

    #[test]
    fn an_answer_may_say_what_its_request_is_called() {
        let id = |body: &str| Answer::of(200, body).request_id().map(Cow::into_owned);
        assert_eq!(id(r#"{"request_id":"9f-1","data":{"plaintext":"x"}}"#).as_deref(), Some("9f-1"));
        for none in ["", "<html>", "{}", r#"{"request_id":7}"#, r#"{"request_id":"a\nb"}"#] {
            assert_eq!(id(none), None, "{none}");
        }
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_is_named() {
        let message = read_certificates(Path::new("/nowhere/ca.pem")).await.unwrap_err().to_string();
        assert!(message.contains("/nowhere/ca.pem") && !message.contains('\n'), "{message}");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn what_might_never_end_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        for path in [pipe.as_path(), Path::new("/dev/zero"), folder.path()] {
            let message = read_file("the token file", path).await.unwrap_err().to_string();
            assert!(message.contains("not a regular file"), "{message}");
        }
        let long = folder.path().join("long");
        std::fs::write(&long, vec![b'x'; MAX_FILE_BYTES + 1]).unwrap();
        let message = read_file("the token file", &long).await.unwrap_err().to_string();
        assert!(message.contains("longer than 1 MiB"), "{message}");
        std::fs::write(&long, vec![b'x'; MAX_FILE_BYTES]).unwrap();
        assert_eq!(read_file("the token file", &long).await.unwrap().len(), MAX_FILE_BYTES);
    }
}
