//! TLS and client certificates.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use tower_outbox::Messenger;
use tower_outbox::kubemq_client::KubemqSettings;

use super::imitation::Imitation;
use super::{message, messenger, send};

/// An authority, and what it has signed.
struct Authority {
    folder: TempDir,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { folder, der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    /// A certificate for this name, and its key.
    fn signed(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// The settings of a server that asks its clients for certificates.
    fn server(&self) -> ServerConfig {
        let (certificate, key) = self.signed("localhost");
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .unwrap();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Ends TLS before a server.
async fn terminate(config: ServerConfig, to: SocketAddr) -> (u16, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let task = tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let mut server = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (port, AbortOnDropHandle::new(task))
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_needs_the_right_authority_and_a_client_certificate() {
    let (authority, server) = (Authority::new("ours"), Imitation::start().await);
    let (port, _task) = terminate(authority.server(), server.address).await;
    let url = format!("kubemqs://localhost:{port}");
    let (certificate, key) = authority.signed("mailer");
    std::fs::write(authority.file("client.pem"), certificate.pem() + &key.serialize_pem()).unwrap();

    let mut settings = KubemqSettings::new([url.clone()]);
    settings.broker = settings.broker.with_cacert(authority.file("ca.pem"));
    let refused = messenger(&settings).send(vec![message("a")]).await.unwrap_err();
    assert!(refused.iter().all(|(_, failure)| failure.is_transient()), "{refused}");
    settings.broker = settings.broker.with_certificate(authority.file("client.pem"));
    send(&*messenger(&settings), vec![message("b")]).await;
    assert_eq!(server.waiting("order.created").len(), 1);

    let stranger = Authority::new("theirs");
    settings.broker = settings.broker.with_cacert(stranger.file("ca.pem"));
    let error = messenger(&settings).send(vec![message("c")]).await.unwrap_err().to_string();
    assert!(error.contains("not signed by a CA we trust: set CACERT"), "{error}");
    let plain = KubemqSettings::new([url.replace("kubemqs", "kubemq")]);
    assert!(messenger(&plain).send(vec![message("d")]).await.is_err());
}
