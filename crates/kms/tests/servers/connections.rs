//! Whose connections requests go by: each process has its own, and each runtime.

use std::time::Duration;

use keystrata_hierarchy::{RootContext, RootKey};
use keystrata_kms::{AwsKmsRootKey, VaultTransitConfig};
use keystrata_memory::test_util::in_forked_child;
use tokio::runtime::{Builder, Runtime};

use crate::{
    aws::client,
    aws_faults::{KEY as AWS_KEY, data_key},
    own_process,
    proxy::{Fault, Proxy},
    tls::AWS_CREDENTIALS,
    vault,
};

/// Longer than a request takes, and shorter than the patience of the test.
const ATTEMPT: Duration = Duration::from_secs(5);

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A server on a thread of its own, so that it answers whatever the tests do with their runtimes.
struct Apart {
    proxy: Proxy,
    _runtime: Runtime,
}

impl Apart {
    fn start(fault: Fault) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let proxy = runtime.block_on(Proxy::start(None));
        proxy.set(fault);
        Self { proxy, _runtime: runtime }
    }
}

/// As Vault answers about a derived key.
fn vault_says(request: &str) -> (u16, String) {
    if request.starts_with("GET /v1/auth/token/lookup-self") {
        (200, r#"{"data":{"ttl":0}}"#.into())
    } else if request.contains(r#""context""#) {
        let plaintext = "aHVudGVyMi1odW50ZXIyLWh1bnRlcjItaHVudGVyMjE=";
        (200, format!(r#"{{"data":{{"plaintext":"{plaintext}","ciphertext":"vault:v1:AAAA"}}}}"#))
    } else {
        (400, r#"{"errors":["missing 'context' for key derivation; the key was created using a derived key"]}"#.into())
    }
}

fn works(root: &impl RootKey, runtime: &Runtime) -> bool {
    runtime.block_on(root.generate_key(&RootContext::none())).is_ok()
}

/// The connections of the requests since there were `since`.
fn connections(proxy: &Proxy, since: usize) -> Vec<usize> {
    proxy.requests_since(since).iter().map(|request| request.connection).collect()
}

/// Nothing that another process or runtime does goes over the connections of this one, and they stay whole.
fn keeps_to_itself(proxy: &Proxy, root: &impl RootKey, first: &Runtime) {
    assert!(works(root, first));
    let (own, requests) = (connections(proxy, 0), proxy.requests());

    assert!(in_forked_child(|| works(root, &runtime())), "in a forked child");
    let others = connections(proxy, requests);
    assert!(!others.is_empty() && others.iter().all(|other| !own.contains(other)), "{others:?} are none of {own:?}");

    // The first runtime is there, and nobody drives it.
    let requests = proxy.requests();
    assert!(works(root, &runtime()), "on another runtime");
    let others = connections(proxy, requests);
    assert!(!others.is_empty() && others.iter().all(|other| !own.contains(other)), "{others:?} are none of {own:?}");

    let requests = proxy.requests();
    assert!(works(root, first), "where it began");
    assert!(connections(proxy, requests).iter().all(|connection| !others.contains(connection)));
}

#[test]
fn vault_is_asked_over_connections_of_this_process_and_runtime() {
    let Apart { proxy, _runtime } = Apart::start(Fault::Made(vault_says));
    let first = runtime();
    let config = VaultTransitConfig { attempt_timeout: ATTEMPT, ..vault::config(&proxy.url(), "one") };
    let root = first.block_on(vault::open(config));
    keeps_to_itself(&proxy, &root, &first);
}

#[test]
fn aws_is_asked_over_connections_of_this_process_and_runtime() {
    let Apart { proxy, _runtime } = Apart::start(Fault::Answer(200, data_key(AWS_KEY)));
    let first = runtime();
    let root = first.block_on(AwsKmsRootKey::with_client(client(&proxy.url()), AWS_KEY, ATTEMPT)).unwrap();
    keeps_to_itself(&proxy, &root, &first);
}

#[test]
fn a_forked_child_reads_the_aws_configuration_again() {
    let test = "connections::a_forked_child_reads_the_aws_configuration_again";
    if let Some(endpoint) = own_process::argument() {
        let first = runtime();
        let root = first.block_on(keystrata_kms::open(&format!("aws-kms:{AWS_KEY}?endpoint={endpoint}"))).unwrap();
        assert!(works(&root, &first) && in_forked_child(|| works(&root, &runtime())) && works(&root, &first));
        return;
    }
    let Apart { proxy, _runtime } = Apart::start(Fault::Answer(200, data_key(AWS_KEY)));
    // The key's region wins over the configured one: requests are signed for it.
    let variables = [&AWS_CREDENTIALS[..], &[("AWS_REGION", "us-east-1")]].concat();
    runtime().block_on(own_process::run(test, &proxy.url(), &variables));
    let requests = proxy.requests_since(0);
    assert_eq!(requests.len(), 3);
    for request in &requests {
        assert!(request.head.contains("/eu-west-1/kms/aws4_request"), "{request:?}");
    }
    assert_ne!(requests[0].connection, requests[1].connection);
    assert_ne!(requests[2].connection, requests[1].connection);
}
