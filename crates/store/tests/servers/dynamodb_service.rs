//! A DynamoDB for one test, reached through a stand-in that fails on cue.
//!
//! It is moto, unless `KEYSTRATA_TEST_DYNAMODB` names the address of another, as `127.0.0.1:8000` of DynamoDB Local. moto
//! carries out one request beside another and half of each: here it gets one after the other.

use std::{
    collections::{HashMap, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex as StdMutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_sdk_dynamodb::{
    Client,
    config::{BehaviorVersion, Credentials, Region, SharedCredentialsProvider},
    types::AttributeValue,
};
use keystrata_store::{DynamoDbConfig, DynamoDbKekStore};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::Mutex,
    task::JoinHandle,
};

use crate::{
    process::{Server, installed},
    proxy::read_message,
};

/// What a request meets.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// An error answer of this code, without its being done.
    Refuse(u16, &'static str),
    /// A transaction that is cancelled, by this reason of its first item.
    Cancel(&'static str),
    /// An answer that is none of DynamoDB's.
    Nonsense,
    /// It is not done, and the connection ends.
    Drop,
    /// It is done, and the connection ends without an answer.
    Swallow,
    /// The connection stays open, and nothing comes.
    Silence,
}

#[derive(Default)]
struct Script {
    /// By operation, what its next requests meet.
    next: HashMap<String, VecDeque<Fault>>,
    /// What happens all the time, in turns.
    always: Vec<(u64, Fault)>,
    seen: HashMap<String, usize>,
}

pub(crate) struct Service {
    _moto: Option<Server>,
    pub(crate) port: u16,
    script: Arc<StdMutex<Script>>,
    listener: JoinHandle<()>,
}

static TABLES: AtomicU32 = AtomicU32::new(0);

impl Service {
    pub(crate) async fn start() -> Self {
        let (moto, upstream) = if let Ok(address) = std::env::var("KEYSTRATA_TEST_DYNAMODB") {
            (None, address.parse().expect("an address and a port"))
        } else {
            let moto = Server::start(&installed("moto_server"), |port, _| {
                ["-H", "127.0.0.1", "-p", &port.to_string()].map(String::from).into()
            });
            let upstream = SocketAddr::from((Ipv4Addr::LOCALHOST, moto.port));
            (Some(moto), upstream)
        };
        let alone = moto.is_some().then(|| Arc::new(Mutex::new(())));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let script = Arc::<StdMutex<Script>>::default();
        let (shared, count) = (Arc::clone(&script), Arc::new(AtomicU64::new(0)));
        let listener = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let way =
                    Way { upstream, alone: alone.clone(), script: Arc::clone(&shared), count: Arc::clone(&count) };
                tokio::spawn(way.serve(stream));
            }
        });
        Self { _moto: moto, port, script, listener }
    }

    /// What the next requests of this operation meet, one each.
    pub(crate) fn then(&self, operation: &str, faults: impl IntoIterator<Item = Fault>) {
        self.script.lock().unwrap().next.insert(operation.to_owned(), faults.into_iter().collect());
    }

    /// What every so many requests meet.
    pub(crate) fn always(&self, faults: &[(u64, Fault)]) {
        self.script.lock().unwrap().always = faults.to_vec();
    }

    /// Requests of this operation that arrived so far.
    pub(crate) fn seen(&self, operation: &str) -> usize {
        self.script.lock().unwrap().seen.get(operation).copied().unwrap_or_default()
    }

    /// A name that no other test uses.
    pub(crate) fn table() -> String {
        format!("test.{}.{}", std::process::id(), TABLES.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn uri(&self, table: &str) -> String {
        format!("dynamodb:{table}?region=eu-west-1&endpoint=http://127.0.0.1:{}&call_timeout=120", self.port)
    }

    /// Without a look at this machine's AWS configuration.
    pub(crate) fn config(&self, table: &str) -> DynamoDbConfig {
        let config = DynamoDbConfig::new(table).unwrap().call_timeout(Duration::from_mins(2)).unwrap();
        config.sdk_config(self.client().config().clone())
    }

    pub(crate) fn client(&self) -> Client {
        let credentials = Credentials::new("AKIAEXAMPLE", "hunter2", None, None, "test");
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .endpoint_url(format!("http://127.0.0.1:{}", self.port))
            .credentials_provider(SharedCredentialsProvider::new(credentials));
        Client::from_conf(config.build())
    }

    /// An empty store in a table of its own, and the table's name.
    pub(crate) async fn store(&self) -> (DynamoDbKekStore, String) {
        let table = Self::table();
        assert_eq!(DynamoDbKekStore::migrate(self.config(&table)).await.unwrap(), 1);
        (self.open(&table).await, table)
    }

    pub(crate) async fn open(&self, table: &str) -> DynamoDbKekStore {
        DynamoDbKekStore::open(self.config(table)).await.unwrap()
    }

    /// All items of the table.
    pub(crate) async fn items(&self, table: &str) -> Vec<HashMap<String, AttributeValue>> {
        let pages = self.client().scan().table_name(table).consistent_read(true).into_paginator().items().send();
        pages.collect::<Result<Vec<_>, _>>().await.unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

struct Way {
    upstream: SocketAddr,
    alone: Option<Arc<Mutex<()>>>,
    script: Arc<StdMutex<Script>>,
    count: Arc<AtomicU64>,
}

impl Way {
    async fn serve(self, mut client: TcpStream) {
        while let Ok(request) = read_message(&mut client).await {
            let answer = match self.fault_of(&request) {
                None => self.forward(&request).await,
                Some(Fault::Refuse(status, code)) => {
                    canned(status, &format!(r#"{{"__type":"x#{code}","message":"words\nof it"}}"#))
                }
                Some(Fault::Cancel(reason)) => canned(
                    400,
                    &format!(
                        r#"{{"__type":"x#TransactionCanceledException","Message":"words","CancellationReasons":[{{"Code":"{reason}"}},{{"Code":"None"}}]}}"#
                    ),
                ),
                Some(Fault::Nonsense) => canned(200, "<html>hunter2</html>"),
                Some(Fault::Drop) => return,
                Some(Fault::Swallow) => {
                    self.forward(&request).await;
                    return;
                }
                Some(Fault::Silence) => std::future::pending().await,
            };
            if client.write_all(&answer).await.is_err() {
                return;
            }
        }
    }

    fn fault_of(&self, request: &[u8]) -> Option<Fault> {
        let head = String::from_utf8_lossy(&request[..request.len().min(4096)]).to_string();
        let target = head.lines().find(|line| line.to_ascii_lowercase().starts_with("x-amz-target:"))?;
        let operation = target.rsplit('.').next()?.trim();
        let mut script = self.script.lock().unwrap();
        *script.seen.entry(operation.to_owned()).or_default() += 1;
        if let Some(fault) = script.next.get_mut(operation).and_then(VecDeque::pop_front) {
            return Some(fault);
        }
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let meets = |(every, fault): &&(u64, Fault)| {
            let may_be = !matches!(fault, Fault::Cancel(_)) || operation.starts_with("Transact");
            may_be && number.is_multiple_of(*every)
        };
        script.always.iter().find(meets).map(|(_, fault)| fault.clone())
    }

    async fn forward(&self, request: &[u8]) -> Vec<u8> {
        let _alone = match &self.alone {
            Some(alone) => Some(alone.lock().await),
            None => None,
        };
        let mut stream = TcpStream::connect(self.upstream).await.unwrap();
        stream.write_all(request).await.unwrap();
        read_message(&mut stream).await.unwrap()
    }
}

fn canned(status: u16, body: &str) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status} Canned\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {}\r\nx-amzn-requestid: r-42\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body.as_bytes()].concat()
}
