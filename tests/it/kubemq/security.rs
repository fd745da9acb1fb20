//! TLS, tokens, grants, and the guard of an open listener.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::body::to_bytes;
use http::{Request, StatusCode};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};
use tower::ServiceExt;
use tower_outbox::channels::embedded::{EmbeddedEngine, EmbeddedEngineSettings};
use tower_outbox::kubemq::{Kubemq, KubemqError, Settings, TokenAlgorithm};
use tower_outbox::kubemq_wire::kubemq_client::KubemqClient;
use tower_outbox::kubemq_wire::{Empty, Event, Response, SendQueueMessageResult, Subscribe};
use tower_outbox::testing::support::stores::until;

use super::downstream::Downstream;
use super::{Server, message, metrics};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const DENIED: &str = "Error 412: access denied to resource";

fn with_tokens(folder: &TempDir) -> Settings {
    let key = folder.path().join("key");
    fs::write(&key, SECRET).unwrap();
    let mut settings = Settings::default();
    settings.token_key = Some(key);
    settings.token_algorithm = TokenAlgorithm::Hs256;
    settings
}

fn grants(text: &str) -> Settings {
    toml::from_str(text).unwrap()
}

fn seconds(from_now: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    i64::try_from(now).unwrap() + from_now
}

fn token(claims: &Value, secret: &str) -> String {
    jsonwebtoken::encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

fn with<T>(request: T, token: &str) -> tonic::Request<T> {
    let mut request = tonic::Request::new(request);
    request.metadata_mut().insert("authorization", MetadataValue::try_from(token).unwrap());
    request
}

async fn send(server: &Server, channel: &str, token: &str) -> Result<SendQueueMessageResult, Status> {
    let answer = server.client().await.send_queue_message(with(message(channel, "x"), token)).await?;
    Ok(answer.into_inner())
}

#[tokio::test]
async fn a_client_without_a_valid_token_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::with(&with_tokens(&folder)).await;
    let good = token(&json!({"sub": "shop", "exp": seconds(600)}), SECRET);
    assert!(!send(&server, "q", &good).await.unwrap().is_error);
    assert!(!send(&server, "q", &format!("Bearer {good}")).await.unwrap().is_error);

    let claims = json!({"sub": "shop", "exp": seconds(600)});
    let mut unsigned = good.rsplit_once('.').unwrap().0.to_owned();
    unsigned.push('.');
    for bad in [
        token(&claims, "another secret of 32 bytes or so"),
        token(&json!({"sub": "shop", "exp": seconds(-600)}), SECRET),
        token(&json!({"sub": "shop", "exp": seconds(600), "nbf": seconds(300)}), SECRET),
        token(&json!({"sub": "shop"}), SECRET),
        unsigned,
        "x".repeat(100_000).chars().take(8_000).collect(),
        String::new(),
    ] {
        let status = send(&server, "q", &bad).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{bad}");
        assert!(status.message().starts_with("Error 421: authentication verification failed, "));
    }
    let status = server.client().await.ping(Empty {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn each_kind_of_public_key_verifies_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    for (ours, theirs, kind) in [
        (TokenAlgorithm::Rs256, Algorithm::RS256, &rcgen::PKCS_RSA_SHA256),
        (TokenAlgorithm::Ps512, Algorithm::PS512, &rcgen::PKCS_RSA_SHA256),
        (TokenAlgorithm::Es256, Algorithm::ES256, &rcgen::PKCS_ECDSA_P256_SHA256),
        (TokenAlgorithm::Es384, Algorithm::ES384, &rcgen::PKCS_ECDSA_P384_SHA384),
        (TokenAlgorithm::EdDsa, Algorithm::EdDSA, &rcgen::PKCS_ED25519),
    ] {
        let (key, other) = (KeyPair::generate_for(kind).unwrap(), KeyPair::generate_for(kind).unwrap());
        fs::write(&path, key.public_key_pem()).unwrap();
        let mut settings = Settings::default();
        (settings.token_key, settings.token_algorithm) = (Some(path.clone()), ours);
        let server = Server::with(&settings).await;
        let claims = json!({"sub": "shop", "exp": seconds(600)});
        let signed = |key: &KeyPair| {
            let pem = key.serialize_pem();
            let key = match ours {
                TokenAlgorithm::EdDsa => EncodingKey::from_ed_pem(pem.as_bytes()),
                TokenAlgorithm::Es256 | TokenAlgorithm::Es384 => EncodingKey::from_ec_pem(pem.as_bytes()),
                _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
            };
            jsonwebtoken::encode(&Header::new(theirs), &claims, &key.unwrap()).unwrap()
        };
        assert!(!send(&server, "q", &signed(&key)).await.unwrap().is_error, "{ours}");
        // The public key is known to all, also as a secret.
        for bad in [signed(&other), token(&claims, &key.public_key_pem())] {
            assert_eq!(send(&server, "q", &bad).await.unwrap_err().code(), Code::Unauthenticated, "{ours}");
        }
    }
}

#[tokio::test]
async fn the_metrics_count_what_is_refused_and_what_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = grants(r#"grants = [{ client = "shop", channel = "orders", write = true }]"#);
    let tokens = with_tokens(&folder);
    (settings.token_key, settings.token_algorithm) = (tokens.token_key, tokens.token_algorithm);
    let server = Server::with(&settings).await;
    let good = token(&json!({"sub": "shop", "exp": seconds(600)}), SECRET);
    assert!(send(&server, "orders", "none").await.is_err());
    assert_eq!(send(&server, "bills", &good).await.unwrap().error, DENIED);
    let text = metrics(&server.address, &good).await;
    for (reason, count) in [("token", 1), ("grant", 1), ("limit", 0), ("handshake", 0)] {
        let line = format!("tower_outbox_kubemq_refused_total{{reason=\"{reason}\"}} {count}\n");
        assert!(text.contains(&line), "{line}{text}");
    }

    let server = Server::start().await;
    let mut client = server.client().await;
    super::send(&mut client, "q", &["a", "b"]).await;
    let mut stream = Downstream::open(&mut client).await;
    let (first, _) = stream.get(1).await;
    stream.get(1).await;
    let late = Response {
        client_id: "responder".to_owned(),
        request_id: "1".to_owned(),
        reply_channel: "_INBOX.unknown".to_owned(),
        ..Default::default()
    };
    client.send_response(late).await.unwrap();
    let open = async |streams: u32, transactions: u32| {
        let text = metrics(&server.address, "").await;
        let lines = [
            format!("tower_outbox_kubemq_streams {streams}\n"),
            format!("tower_outbox_kubemq_transactions {transactions}\n"),
        ];
        assert!(text.contains("tower_outbox_kubemq_late_answers_total 1\n"), "{text}");
        lines.iter().all(|line| text.contains(line))
    };
    assert!(open(1, 2).await);
    stream.ack_all(&first).await;
    // Requests are handled one after the other.
    stream.get_answer(1).await;
    assert!(open(1, 1).await);
    drop((stream, client));
    until("all is closed", || open(0, 0)).await;
}

#[tokio::test]
async fn a_stream_ends_when_its_token_expires() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::with(&with_tokens(&folder)).await;
    // 60 s are forgiven for clocks that differ.
    let expiring = token(&json!({"sub": "shop", "exp": seconds(-58)}), SECRET);
    let subscribe = Subscribe {
        subscribe_type_data: 1,
        client_id: "client".to_owned(),
        channel: "a".to_owned(),
        ..Default::default()
    };
    let mut client = server.client().await;
    let mut events = client.subscribe_to_events(with(subscribe, &expiring)).await.unwrap().into_inner();
    let ended = timeout(Duration::from_secs(10), events.message()).await.unwrap();
    assert_eq!(ended.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_grant_bounds_what_a_client_may_do() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = grants(
        r#"
        grants = [
            { client = "shop", kinds = ["queues"], channel = "orders.>", write = true },
            { client = "mailer", channel = "orders.*", read = true },
        ]
        "#,
    );
    let tokens = with_tokens(&folder);
    (settings.token_key, settings.token_algorithm) = (tokens.token_key, tokens.token_algorithm);
    let server = Server::with(&settings).await;
    let of = |name: &str| token(&json!({"sub": name, "exp": seconds(600)}), SECRET);
    let (shop, mailer) = (of("shop"), of("mailer"));
    assert_eq!(send(&server, "orders.new", &shop).await.unwrap().error, "");
    for (channel, token) in [("bills", &shop), ("orders.new", &mailer), ("orders.new", &of("nobody"))] {
        assert_eq!(send(&server, channel, token).await.unwrap().error, DENIED);
    }
    let mut client = server.client().await;
    let event = Event {
        client_id: "shop".to_owned(),
        channel: "orders.new".to_owned(),
        body: "x".into(),
        ..Default::default()
    };
    let status = client.send_event(with(event, &shop)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, DENIED));
    let subscribe = |channel: &str| Subscribe {
        subscribe_type_data: 1,
        client_id: "client".to_owned(),
        channel: channel.to_owned(),
        ..Default::default()
    };
    assert!(client.subscribe_to_events(with(subscribe("orders.*"), &mailer)).await.is_ok());
    // More than was granted.
    for channel in ["orders.>", ">", "*.new"] {
        let status = client.subscribe_to_events(with(subscribe(channel), &mailer)).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{channel}");
    }
}

struct Certificates {
    folder: TempDir,
    ca: String,
    client: Identity,
}

fn certificates() -> Certificates {
    let folder = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let signed = |names: Vec<String>, common_name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        (params.signed_by(&key, &ca).unwrap().pem(), key.serialize_pem())
    };
    let (certificate, key) = signed(vec!["localhost".to_owned()], "localhost");
    fs::write(folder.path().join("server.pem"), format!("{certificate}{key}")).unwrap();
    fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
    let (certificate, key) = signed(Vec::new(), "shop");
    Certificates { ca: ca.pem(), client: Identity::from_pem(certificate, key), folder }
}

#[tokio::test]
async fn a_certificate_names_its_client() {
    let certificates = certificates();
    let mut settings = grants(r#"grants = [{ client = "shop", channel = "orders", write = true }]"#);
    settings.certificate = Some(certificates.folder.path().join("server.pem"));
    settings.client_cacert = Some(certificates.folder.path().join("ca.pem"));
    let server = Server::with(&settings).await;
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&certificates.ca))
        .domain_name("localhost");
    let endpoint = Endpoint::from_shared(format!("https://{}", server.address)).unwrap();
    let named = endpoint.clone().tls_config(tls.clone().identity(certificates.client)).unwrap();
    let mut client = KubemqClient::new(named.connect().await.unwrap());
    let result = client.send_queue_message(message("orders", "x")).await.unwrap().into_inner();
    assert_eq!(result.error, "");
    let result = client.send_queue_message(message("bills", "x")).await.unwrap().into_inner();
    assert_eq!(result.error, DENIED);

    // In TLS 1.3 the server's refusal comes with the first answer.
    let refused = match endpoint.tls_config(tls).unwrap().connect().await {
        Ok(channel) => KubemqClient::new(channel).ping(Empty {}).await.is_err(),
        Err(_) => true,
    };
    assert!(refused, "a client needs a certificate");
}

async fn face(folder: &Path) -> Kubemq {
    let engine = EmbeddedEngine::open(EmbeddedEngineSettings::new(folder.join("channels"))).await.unwrap();
    Kubemq::new(Arc::new(engine))
}

#[tokio::test]
async fn a_listener_for_other_machines_needs_a_guard() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let served = face(folder.path()).await.serve(listener, async {}).await;
    assert!(matches!(served, Err(KubemqError::Open { .. })));
    let error = served.unwrap_err().to_string();
    assert!(error.contains("TOKEN_KEY") && error.contains("ALLOW_ANYONE"), "{error}");

    let mut settings = Settings::default();
    settings.allow_anyone = true;
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let face = face(folder.path()).await.with_settings(&settings).unwrap();
    face.serve(listener, async {}).await.unwrap();
}

#[tokio::test]
async fn settings_that_guard_nothing_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("short"), "secret").unwrap();
    let short = folder.path().join("short").display().to_string();
    for (text, part) in [
        ("grants = [{ client = \"shop\", channel = \"a b\", read = true }]".to_owned(), "white space"),
        (
            "grants = [{ client = \"shop\", kinds = [\"queue\"], read = true }]".to_owned(),
            "queues, events_store",
        ),
        ("grants = [{ client = \"shop\" }]".to_owned(), "READ or WRITE"),
        ("client_cacert = \"ca.pem\"".to_owned(), "CERTIFICATE"),
        ("token_key = \"/nowhere/key\"".to_owned(), "/nowhere/key"),
        (format!("token_algorithm = \"HS256\"\ntoken_key = \"{short}\""), "32 bytes"),
        (format!("token_key = \"{short}\""), "PUBLIC KEY"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let error = face(folder.path()).await.with_settings(&grants(&text)).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test]
async fn the_router_answers_health_and_metrics_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let router = face(folder.path()).await.into_router();
    let get = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        (status, String::from_utf8(to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap())
    };
    assert_eq!(get("/health").await, (StatusCode::OK, "ok\n".to_owned()));
    let (status, text) = get("/metrics").await;
    assert_eq!(status, StatusCode::OK);
    assert!(text.contains("# TYPE tower_outbox_channel_messages gauge\n"), "{text}");
    assert_eq!(get("/").await.0, StatusCode::NOT_FOUND);
    assert_eq!(get("/other.Service/Call").await.0, StatusCode::NOT_FOUND);
}
