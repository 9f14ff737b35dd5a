//! TLS by rustls, for the PostgreSQL client.
//!
//! The server proves by its certificate that it is the host of the URL. Binding the password's proof to the connection
//! (SCRAM with channel binding) adds nothing to that here and is not offered.

use std::{
    fs, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use keystrata_hierarchy::StoreError;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, InvalidDnsNameError, ServerName, pem::PemObject};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::{Connect, TlsConnector, client};

use super::config::{Tls, shown_path};

#[derive(Clone)]
pub(super) struct Rustls(Arc<ClientConfig>);

impl Rustls {
    /// `None` for no TLS. Reads the file of authorities.
    pub(super) fn new(tls: &Tls) -> Result<Option<Self>, StoreError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder
            .with_safe_default_protocol_versions()
            .map_err(|error| StoreError::unavailable("TLS cannot be set up on this machine: see the cause", error))?;
        let config = match tls {
            Tls::Off => return Ok(None),
            Tls::SystemRoots => builder.with_platform_verifier().map_err(|error| {
                let message = "the system's certificate authorities cannot be read: name a file in sslrootcert";
                StoreError::unavailable(message, error)
            })?,
            Tls::Roots(file) => {
                let name = shown_path(file);
                let pem = fs::read(file).map_err(|error| {
                    StoreError::unavailable(format!("sslrootcert {name} cannot be read: check the path"), error)
                })?;
                let not_pem = |error: &dyn std::fmt::Display| {
                    let message = format!("sslrootcert {name} holds no certificates in PEM");
                    StoreError::unavailable(message, io::Error::other(error.to_string()))
                };
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(&pem) {
                    let certificate = certificate.map_err(|error| not_pem(&error))?;
                    roots.add(certificate).map_err(|error| not_pem(&error))?;
                }
                if roots.is_empty() {
                    return Err(not_pem(&"there is none in it"));
                }
                builder.with_root_certificates(roots)
            }
        };
        Ok(Some(Self(Arc::new(config.with_no_client_auth()))))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Rustls {
    type Stream = Stream<S>;
    type TlsConnect = ToHost;
    type Error = InvalidDnsNameError;

    fn make_tls_connect(&mut self, host: &str) -> Result<ToHost, InvalidDnsNameError> {
        let name = ServerName::try_from(host)?.to_owned();
        Ok(ToHost { connector: TlsConnector::from(Arc::clone(&self.0)), name })
    }
}

pub(super) struct ToHost {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for ToHost {
    type Stream = Stream<S>;
    type Error = io::Error;
    type Future = Handshake<S>;

    fn connect(self, stream: S) -> Handshake<S> {
        Handshake(self.connector.connect(self.name, stream))
    }
}

pub(super) struct Handshake<S>(Connect<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Handshake<S> {
    type Output = io::Result<Stream<S>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_ok(Stream)
    }
}

pub(super) struct Stream<S>(client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Stream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
