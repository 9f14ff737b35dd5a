//! A stand-in between an adapter and its service that fails on cue, on real sockets.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
    /// The status and body that this makes of the request.
    Made(fn(&str) -> (u16, String)),
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
    state: Arc<Mutex<State>>,
    listener: JoinHandle<()>,
}

struct State {
    fault: Fault,
    /// How many requests meet it; all, unless it is said.
    times: Option<usize>,
    requests: Vec<Request>,
}

/// A request that arrived.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The number of its connection.
    pub(crate) connection: usize,
    /// Its first line and its headers.
    pub(crate) head: String,
}

impl State {
    fn meet(&mut self, request: Request) -> Fault {
        self.requests.push(request);
        match &mut self.times {
            Some(0) => return Fault::None,
            Some(times) => *times -= 1,
            None => {}
        }
        self.fault.clone()
    }
}

impl Proxy {
    /// Listens on a free port in front of `upstream`, or of nothing.
    pub(crate) async fn start(upstream: Option<u16>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State { fault: Fault::None, times: None, requests: Vec::new() }));
        let shared = Arc::clone(&state);
        let listener = tokio::spawn(async move {
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                tokio::spawn(serve(stream, connection, upstream, Arc::clone(&shared)));
            }
        });
        Self { port, state, listener }
    }

    pub(crate) fn set(&self, fault: Fault) {
        let mut state = self.state();
        (state.fault, state.times) = (fault, None);
    }

    /// The next `times` requests meet `fault`, and those after them the service.
    pub(crate) fn set_for(&self, times: usize, fault: Fault) {
        let mut state = self.state();
        (state.fault, state.times) = (fault, Some(times));
    }

    /// How many requests arrived.
    pub(crate) fn requests(&self) -> usize {
        self.state().requests.len()
    }

    /// How many requests arrived that have this in their first line.
    pub(crate) fn requests_for(&self, path: &str) -> usize {
        let is_for = |request: &&Request| request.head.lines().next().is_some_and(|line| line.contains(path));
        self.state().requests.iter().filter(is_for).count()
    }

    /// The requests since there were `since`.
    pub(crate) fn requests_since(&self, since: usize) -> Vec<Request> {
        self.state().requests[since..].to_vec()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

async fn serve(mut client: TcpStream, connection: usize, upstream: Option<u16>, state: Arc<Mutex<State>>) {
    while let Ok(request) = read_message(&mut client).await {
        let text = String::from_utf8_lossy(&request);
        let head = text.split("\r\n\r\n").next().unwrap_or_default().to_owned();
        let fault = state.lock().unwrap().meet(Request { connection, head });
        let answer = match fault {
            Fault::Answer(status, body) => canned(status, &body),
            Fault::Made(make) => {
                let (status, body) = make(&text);
                canned(status, &body)
            }
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

/// A request or an answer of HTTP/1.1 whose body's length is told before or by its last chunk.
pub(crate) async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        let head_len = message.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4);
        if let Some(head_len) = head_len {
            let head = String::from_utf8_lossy(&message[..head_len]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let whole = head_len + length.map_or(0, |length| length.trim().parse::<usize>().unwrap());
            let is_chunked = head.contains("transfer-encoding: chunked");
            let is_whole = if is_chunked { message.ends_with(b"\r\n0\r\n\r\n") } else { message.len() >= whole };
            if is_whole {
                return Ok(message);
            }
        }
        if stream.read_buf(&mut message).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
