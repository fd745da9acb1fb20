//! A broker that breaks off during EXTERNAL, as RabbitMQ 3.10 does with clients that send no initial response.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tower_outbox::amqp10::{Amqp10, Amqp10Settings, Sasl};
use tower_outbox::{Message, Messenger};

const HEADER: &[u8] = b"AMQP\x03\x01\x00\x00";

/// A SASL frame (AMQP 1.0, 5.3.1) with a list of one field.
fn frame(descriptor: u8, field: &[u8]) -> Vec<u8> {
    let list = [&[0, 0x53, descriptor, 0xc0, field.len() as u8 + 1, 1], field].concat();
    [&(list.len() as u32 + 8).to_be_bytes()[..], &[2, 1, 0, 0], &list].concat()
}

fn mechanisms() -> Vec<u8> {
    let symbols = b"\xa3\x08EXTERNAL\x09ANONYMOUS";
    frame(0x40, &[&[0xe0, symbols.len() as u8 + 1, 2], &symbols[..]].concat())
}

#[tokio::test]
async fn external_that_is_broken_off_is_followed_by_anonymous_only_if_auto() {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (ca, client) = (folder.path().join("ca.pem"), folder.path().join("client.pem"));
    std::fs::write(&ca, certificate.pem()).unwrap();
    std::fs::write(&client, certificate.pem() + &key.serialize_pem()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config =
        builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], private).unwrap();

    for (sasl, expected) in [(Sasl::Auto, &["EXTERNAL", "ANONYMOUS"][..]), (Sasl::External, &["EXTERNAL"])] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut settings =
            Amqp10Settings::new([format!("amqps://localhost:{}", listener.local_addr().unwrap().port())]);
        (settings.broker.sasl, settings.broker.cacert, settings.broker.certificate) =
            (sasl, Some(ca.clone()), Some(client.clone()));
        let (chosen, mut choices) = mpsc::unbounded_channel();
        let acceptor = TlsAcceptor::from(Arc::new(config.clone()));
        tokio::spawn(async move {
            loop {
                let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
                stream.write_all(&[HEADER, &mechanisms()].concat()).await.unwrap();
                let mut init = vec![0; 8 + 1];
                while !init.windows(9).any(|window| window == b"anonymous" || window.starts_with(b"EXTERNAL"))
                {
                    let read = stream.read_buf(&mut init).await.unwrap();
                    assert!(read > 0, "an init arrives");
                }
                // The connection is dropped, whatever the choice.
                let external = init.windows(8).any(|window| window == b"EXTERNAL");
                chosen.send(if external { "EXTERNAL" } else { "ANONYMOUS" }).unwrap();
            }
        });
        let error =
            Amqp10::new(&settings).unwrap().send(vec![Message::new("a", "x").unwrap()]).await.unwrap_err();
        let seen: Vec<_> = std::iter::from_fn(|| choices.try_recv().ok()).collect();
        assert_eq!(seen, expected, "{error}");
        assert!(
            error.to_string().contains(&format!("disconnected during SASL {}", expected.last().unwrap())),
            "{error}"
        );
    }
}
