//! Certificates by an authority that only a file names.

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};

use keystrata_hierarchy::{RootContext, RootKey};
use keystrata_kms::{AwsKmsConfig, AwsKmsRootKey, GcpAuth, GcpKmsConfig, GcpKmsRootKey};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

use crate::{
    aws_faults::{KEY as AWS_KEY, data_key},
    gcp::{KEY as GCP_KEY, account},
    gcp_fake::FakeKms,
    own_process,
    proxy::{Fault, Proxy},
    verdict,
};

const PATIENT: Duration = Duration::from_secs(20);

/// TLS in front of a server that speaks none, as `localhost`, by an authority of its own.
struct Front {
    port: u16,
    folder: TempDir,
    listener: JoinHandle<()>,
}

impl Front {
    async fn start(upstream: u16) -> Self {
        let mut of_ca = CertificateParams::new(Vec::new()).unwrap();
        of_ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let ca = of_ca.self_signed(&ca_key).unwrap();
        let of_server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = of_server.signed_by(&key, &ca, &ca_key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();

        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], secret)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let listener = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut client) = acceptor.accept(stream).await else { return };
                    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, upstream)).await.unwrap();
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Self { port, folder, listener }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// Credentials for the AWS SDK in a process of its own.
pub(crate) const AWS_CREDENTIALS: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "hunter2")];

#[tokio::test]
async fn aws_trusts_the_authorities_of_ssl_cert_file() {
    let open = async |endpoint: String| {
        let endpoint = Some(endpoint);
        let config =
            AwsKmsConfig { key: AWS_KEY.into(), endpoint, attempt_timeout: PATIENT, ..AwsKmsConfig::default() };
        AwsKmsRootKey::open(config).await.unwrap()
    };
    if let Some(endpoints) = own_process::argument() {
        let (ours, other) = endpoints.split_once(' ').unwrap();
        open(ours.into()).await.generate_key(&RootContext::none()).await.unwrap();
        let (class, message) = verdict::of(open(other.into()).await.generate_key(&RootContext::none()).await);
        assert_eq!(class, "unavailable");
        assert!(message.contains("certificate"), "{message}");
        return;
    }
    let proxy = Proxy::start(None).await;
    proxy.set(Fault::Answer(200, data_key(AWS_KEY)));
    let (front, other) = (Front::start(proxy.port).await, Front::start(proxy.port).await);
    let ca = front.ca();
    let variables = [&AWS_CREDENTIALS[..], &[("SSL_CERT_FILE", ca.to_str().unwrap())]].concat();
    let endpoints = format!("{} {}", front.url(), other.url());
    own_process::run("tls::aws_trusts_the_authorities_of_ssl_cert_file", &endpoints, &variables).await;
    assert_eq!(proxy.requests(), 1, "nothing was sent to the one whose certificate does not verify");
}

async fn gcp(endpoint: &str, account: PathBuf, ca_file: Option<PathBuf>) -> GcpKmsRootKey {
    let config = GcpKmsConfig {
        key: GCP_KEY.into(),
        endpoint: Some(endpoint.into()),
        auth: GcpAuth::ServiceAccountFile(account),
        ca_file,
        attempt_timeout: PATIENT,
    };
    GcpKmsRootKey::open(config).await.unwrap()
}

#[tokio::test]
async fn google_trusts_the_ca_file_instead_of_the_system() {
    let fake = FakeKms::start().await;
    let (front, other) = (Front::start(fake.port).await, Front::start(fake.port).await);
    let folder = tempfile::tempdir().unwrap();
    let account = account(&folder, fake.port);
    let root = gcp(&front.url(), account.clone(), Some(front.ca())).await;
    let wrapped = root.generate_key(&RootContext::none()).await.unwrap().wrapped;
    root.unwrap_key(&wrapped, &RootContext::none()).await.unwrap();
    for wrong in [None, Some(other.ca())] {
        let root = gcp(&front.url(), account.clone(), wrong).await;
        let (class, message) = verdict::of(root.generate_key(&RootContext::none()).await);
        assert_eq!(class, "unavailable");
        assert!(message.contains("certificate"), "{message}");
    }
}

#[tokio::test]
async fn google_trusts_the_authorities_of_ssl_cert_file_if_no_ca_file_is_named() {
    if let Some(argument) = own_process::argument() {
        let (endpoint, account) = argument.split_once(' ').unwrap();
        let root = gcp(endpoint, account.into(), None).await;
        root.generate_key(&RootContext::none()).await.unwrap();
        return;
    }
    let fake = FakeKms::start().await;
    let front = Front::start(fake.port).await;
    let folder = tempfile::tempdir().unwrap();
    let account = account(&folder, fake.port);
    let (ca, argument) = (front.ca(), format!("{} {}", front.url(), account.display()));
    let variables = [("SSL_CERT_FILE", ca.to_str().unwrap())];
    let test = "tls::google_trusts_the_authorities_of_ssl_cert_file_if_no_ca_file_is_named";
    own_process::run(test, &argument, &variables).await;
}
