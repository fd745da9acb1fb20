//! TLS and client certificates.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};
use tower_outbox::Messenger;
use tower_outbox::kubemq_client::KubemqSettings;

use super::imitation::Imitation;
use super::{message, messenger, send};

/// An authority, and what it has signed.
struct Authority {
    folder: TempDir,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), &pem).unwrap();
        Self { folder, pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate for this name, and its key.
    fn signed(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_needs_the_right_authority_and_a_client_certificate() {
    let authority = Authority::new();
    let (certificate, key) = authority.signed("localhost");
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(certificate, key))
        .client_ca_root(Certificate::from_pem(&authority.pem));
    let server = Imitation::with_tls(tls).await;
    let url = format!("kubemqs://localhost:{}", server.address.port());
    let (certificate, key) = authority.signed("mailer");
    std::fs::write(authority.file("client.pem"), certificate + &key).unwrap();

    let mut settings = KubemqSettings::new([url.clone()]);
    settings.broker = settings.broker.with_cacert(authority.file("ca.pem"));
    let refused = messenger(&settings).send(vec![message("a")]).await.unwrap_err();
    assert!(refused.iter().all(|(_, failure)| failure.is_transient()), "{refused}");
    settings.broker = settings.broker.with_certificate(authority.file("client.pem"));
    send(&*messenger(&settings), vec![message("b")]).await;
    assert_eq!(server.waiting("order.created").len(), 1);

    let stranger = Authority::new();
    settings.broker = settings.broker.with_cacert(stranger.file("ca.pem"));
    let error = messenger(&settings).send(vec![message("c")]).await.unwrap_err().to_string();
    assert!(error.contains("not signed by a CA we trust: set CACERT"), "{error}");
    let plain = KubemqSettings::new([url.replace("kubemqs", "kubemq")]);
    assert!(messenger(&plain).send(vec![message("d")]).await.is_err());
}
