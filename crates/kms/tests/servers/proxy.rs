//! A stand-in between an adapter and its service that fails on cue, on real sockets.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What the next requests meet.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The service itself.
    None,
    /// An answer of this status and body.
    Answer(u16, String),
    /// The connection ends without an answer.
    Drop,
    /// The request is taken and nothing comes back.
    Silence,
    /// The answer ends in the middle.
    Cut,
    /// The service's answer, later.
    Late(Duration),
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    fault: Arc<Mutex<Fault>>,
    /// First lines of the requests that arrived.
    requests: Arc<Mutex<Vec<String>>>,
    listener: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port in front of `upstream`, or of nothing.
    pub(crate) async fn start(upstream: Option<u16>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (fault, requests) = (Arc::new(Mutex::new(Fault::None)), Arc::<Mutex<Vec<String>>>::default());
        let (shared, counter) = (Arc::clone(&fault), Arc::clone(&requests));
        let listener = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, upstream, Arc::clone(&shared), Arc::clone(&counter)));
            }
        });
        Self { port, fault, requests, listener }
    }

    pub(crate) fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// Requests that arrived.
    pub(crate) fn requests(&self) -> usize {
        self.requests_for("")
    }

    /// Requests that arrived and have this in their first line.
    pub(crate) fn requests_for(&self, path: &str) -> usize {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.iter().filter(|line| line.contains(path)).count()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

async fn serve(
    mut client: TcpStream,
    upstream: Option<u16>,
    fault: Arc<Mutex<Fault>>,
    requests: Arc<Mutex<Vec<String>>>,
) {
    while let Ok(request) = read_message(&mut client).await {
        let line = String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_owned();
        requests.lock().unwrap().push(line);
        let fault = fault.lock().unwrap().clone();
        let answer = match fault {
            Fault::Answer(status, body) => canned(status, &body),
            Fault::Drop => return,
            Fault::Silence => std::future::pending().await,
            Fault::Cut => {
                let whole = canned(200, &"x".repeat(1000));
                let _ = client.write_all(&whole[..whole.len() / 2]).await;
                return;
            }
            Fault::None => forward(upstream, &request).await,
            Fault::Late(delay) => {
                tokio::time::sleep(delay).await;
                forward(upstream, &request).await
            }
        };
        if client.write_all(&answer).await.is_err() {
            return;
        }
    }
}

fn canned(status: u16, body: &str) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status} Canned\r\ncontent-type: application/json\r\ncontent-length: {}\r\nx-amzn-requestid: r-42\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

async fn forward(upstream: Option<u16>, request: &[u8]) -> Vec<u8> {
    let port = upstream.expect("a stand-in for nothing is only asked for its faults");
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await.unwrap();
    stream.write_all(request).await.unwrap();
    read_message(&mut stream).await.unwrap()
}

/// A request or an answer of HTTP/1.1 whose body's length is told, as all clients and servers here do.
pub(crate) async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        let head_len = message.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4);
        if let Some(head_len) = head_len {
            let head = String::from_utf8_lossy(&message[..head_len]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let whole = head_len + length.map_or(0, |length| length.trim().parse::<usize>().unwrap());
            if message.len() >= whole {
                return Ok(message);
            }
        }
        if stream.read_buf(&mut message).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
