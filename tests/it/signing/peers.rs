//! Other implementations sign for us, and verify our signatures: OpenSSL, and Python with `cryptography`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower_outbox::Message;
use tower_outbox::signing::{SignatureFormat, Signer, SigningSettings, Verified, Verifier};

use super::{settings, signed_by};
use crate::peers::Brokers;

/// Keys that OpenSSL made, in all forms that are read.
const KEYS: [(&str, &[&str]); 3] = [
    ("ed25519", &["genpkey", "-algorithm", "ed25519"]),
    ("rsa-pkcs8", &["genpkey", "-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:3072"]),
    ("rsa-pkcs1", &["genrsa", "-traditional"]),
];

fn openssl(args: &[&str]) {
    let output = Command::new("openssl").args(args).output().unwrap();
    assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A key of OpenSSL, and the folder that trusts it.
struct Keys {
    folder: TempDir,
}

impl Keys {
    fn new(generate: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("trusted")).unwrap();
        let keys = Self { folder };
        openssl(&[generate, &["-out", &keys.private()]].concat());
        openssl(&["pkey", "-in", &keys.private(), "-pubout", "-out", &keys.public()]);
        keys
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn private(&self) -> String {
        self.path("key.pem").display().to_string()
    }

    fn public(&self) -> String {
        self.path("trusted/host-1.pem").display().to_string()
    }

    fn settings(&self, format: SignatureFormat) -> SigningSettings {
        settings().with_format(format).with_key(self.private()).with_trusted(self.path("trusted"))
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name).display().to_string()
    }

    /// The arguments with which OpenSSL signs or verifies these bytes.
    fn arguments(&self, name: &str, salt: &str) -> Vec<String> {
        let arguments: &[&str] = match name {
            "ed25519" => &["pkeyutl", "-rawin", "-in"],
            _ => &["dgst", "-sha256", "-sigopt", "rsa_padding_mode:pss", "-sigopt", salt],
        };
        arguments.iter().map(|argument| (*argument).to_owned()).collect()
    }

    fn openssl_verifies(&self, name: &str, salt: &str, bytes: &[u8], signature: &[u8]) {
        let (bytes, signature) = (self.file("bytes", bytes), self.file("signature", signature));
        let (arguments, public) = (self.arguments(name, salt), self.public());
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let rest: &[&str] = match name {
            "ed25519" => &[&bytes, "-verify", "-pubin", "-inkey", &public, "-sigfile", &signature],
            _ => &["-verify", &public, "-signature", &signature, &bytes],
        };
        openssl(&[&arguments, rest].concat());
    }

    fn openssl_signs(&self, name: &str, salt: &str, bytes: &[u8]) -> Vec<u8> {
        let (bytes, signature) = (self.file("bytes", bytes), self.path("signature").display().to_string());
        let (arguments, private) = (self.arguments(name, salt), self.private());
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let rest: &[&str] = match name {
            "ed25519" => &[&bytes, "-sign", "-inkey", &private, "-out", &signature],
            _ => &["-sign", &private, "-out", &signature, &bytes],
        };
        openssl(&[&arguments, rest].concat());
        fs::read(Path::new(&signature)).unwrap()
    }
}

const DIGEST: &str = "rsa_pss_saltlen:32";
const TYPE: &str = "application/vnd.tower-outbox.message.v1+json";

fn signed_bytes(payload: &[u8]) -> Vec<u8> {
    [format!("DSSEv1 {} {TYPE} {} ", TYPE.len(), payload.len()).as_bytes(), payload].concat()
}

fn message() -> Message {
    Message::json("user.created", &json!({"name": "größe ☃"})).unwrap().with_key("user-7").with_header("n", 7)
}

/// A message of mqfactory without its hash, in Python's way.
fn unsigned_wire(at: &str) -> String {
    let id = message().id();
    format!(
        r#"{{"payload": {{"x": 1e+20}}, "tags": {{"ack": "mq/ack", "id": "{id}", "signature": {{"origin": "host-1", "ts": "{at}"}}}}}}"#
    )
}

fn now() -> String {
    let now = humantime::format_rfc3339_micros(std::time::SystemTime::now()).to_string();
    now.replace('T', " ").trim_end_matches('Z').to_owned()
}

async fn assert_signed(settings: &SigningSettings, received: &Message) -> Message {
    match Verifier::new(settings).unwrap().verify(received).await.unwrap() {
        Verified::Signed(message, _) => {
            assert_eq!(signed_by(&message), Some("host-1"));
            message
        }
        other => panic!("{other:?}"),
    }
}

/// The description of a message that a peer signs.
fn description(message: &Message) -> String {
    let time = humantime::format_rfc3339_micros(message.time()).to_string();
    let body = "d0a2a2ed8e5c9b1e9e0d1f3b";
    let mut described = json!({
        "origin": "host-1", "signedAt": humantime::format_rfc3339_micros(std::time::SystemTime::now()).to_string(),
        "id": message.id(), "topic": message.topic().as_str(), "key": "user-7", "time": time,
        "contentType": message.content_type(), "body": body,
    });
    let digest = Command::new("sh")
        .args(["-c", "printf %s \"$1\" | openssl dgst -sha256 -r", "sh"])
        .arg(std::str::from_utf8(message.body()).unwrap())
        .output()
        .unwrap();
    described["body"] = String::from_utf8(digest.stdout).unwrap().split(' ').next().unwrap().into();
    described.to_string()
}

fn with_signature(message: &Message, payload: &str, signature: &[u8]) -> Message {
    let encoded = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
    // A peer may leave blanks, and write the fields in any order.
    let header = json!({
        "signatures": [{"sig": encoded(signature), "keyid": "host-1"}],
        "payloadType": TYPE,
        "payload": encoded(payload.as_bytes()),
        "more": 1,
    });
    message.clone().with_header("signature", serde_json::to_string_pretty(&header).unwrap())
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn openssl_verifies_our_signatures_and_we_verify_those_of_openssl() {
    for (name, generate) in KEYS {
        let keys = Keys::new(generate);
        let settings = keys.settings(SignatureFormat::Dsse);
        let signed = Signer::new(&settings).unwrap().sign(&message()).unwrap();
        let header: Value =
            serde_json::from_str(signed.header("signature").unwrap().as_str().unwrap()).unwrap();
        let decoded = |value: &Value| BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap();
        let payload = decoded(&header["payload"]);
        keys.openssl_verifies(
            name,
            DIGEST,
            &signed_bytes(&payload),
            &decoded(&header["signatures"][0]["sig"]),
        );

        let message = message();
        let payload = description(&message);
        let signature = keys.openssl_signs(name, DIGEST, &signed_bytes(payload.as_bytes()));
        let verified = assert_signed(&settings, &with_signature(&message, &payload, &signature)).await;
        assert_eq!((verified.id(), verified.key()), (message.id(), Some("user-7")));
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn openssl_and_we_agree_on_mqfactory() {
    for (name, generate, salt) in
        [(KEYS[1].0, KEYS[1].1, "rsa_pss_saltlen:350"), (KEYS[2].0, KEYS[2].1, "rsa_pss_saltlen:222")]
    {
        let keys = Keys::new(generate);
        let settings = keys.settings(SignatureFormat::Mqfactory);
        let signed = Signer::new(&settings).unwrap().sign(&message()).unwrap();
        let wire = std::str::from_utf8(signed.body()).unwrap();
        let (before, rest) = wire.split_once("\"hash\": \"").unwrap();
        let (hash, after) = rest.split_once("\", ").unwrap();
        let bytes = BASE64_STANDARD.encode(format!("{before}{after}"));
        keys.openssl_verifies(name, salt, bytes.as_bytes(), &BASE64_STANDARD.decode(hash).unwrap());

        let text = unsigned_wire(&now());
        let hash = keys.openssl_signs(name, salt, BASE64_STANDARD.encode(&text).as_bytes());
        let hash = format!("{{\"hash\": \"{}\", \"origin\"", BASE64_STANDARD.encode(hash));
        let wire = text.replace("{\"origin\"", &hash);
        let verified = assert_signed(&settings, &Message::new("user/created", wire).unwrap()).await;
        assert_eq!(verified.body(), "{\"x\": 1e+20}");
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn python_verifies_our_signatures_and_we_verify_those_of_python() {
    let brokers = Brokers::running();
    for (_, generate) in KEYS {
        let keys = Keys::new(generate);
        let settings = keys.settings(SignatureFormat::Dsse).with_headers(["n", "missing"]);
        let (signed, body) =
            (Signer::new(&settings).unwrap().sign(&message()).unwrap(), r#"{"name":"größe ☃"}"#);
        let header = signed.header("signature").unwrap().as_str().unwrap();
        let described = brokers.python("signatures.py", &["verify-dsse", &keys.public(), header, body]).await;
        assert_eq!(described[0]["headers"], json!([["n", [7]], ["missing", null]]));
        assert_eq!(
            (&described[0]["topic"], &described[0]["key"]),
            (&json!("user.created"), &json!("user-7"))
        );

        let message = message();
        let args = ["sign-dsse", &keys.private(), "host-1", &description(&message)];
        let header = brokers.python("signatures.py", &args).await[0].as_str().unwrap().to_owned();
        let settings = keys.settings(SignatureFormat::Dsse);
        assert_signed(&settings, &message.with_header("signature", header)).await;
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn python_and_we_agree_on_mqfactory() {
    let brokers = Brokers::running();
    let keys = Keys::new(KEYS[2].1);
    let settings = keys.settings(SignatureFormat::Mqfactory);
    let message = message().with_header("ratio", 1e-7).with_header("text", "\u{7f}\u{1f600}");
    let signed = Signer::new(&settings).unwrap().sign(&message).unwrap();
    let wire = std::str::from_utf8(signed.body()).unwrap();
    let verified = brokers.python("signatures.py", &["verify-mqfactory", &keys.public(), wire]).await;
    assert_eq!(verified[0]["payload"], json!({"name": "größe ☃"}));
    assert_eq!(verified[0]["tags"]["id"], message.id().to_string());

    let sent = json!({"payload": {"a": [1, 2.5, "é😀"]}, "tags": {"id": message.id(), "ack": "mq/ack"}});
    let args = ["sign-mqfactory", &keys.private(), "host-1", &sent.to_string()];
    let wire = brokers.python("signatures.py", &args).await[0].as_str().unwrap().to_owned();
    let verified = assert_signed(&settings, &Message::new("user/created", wire).unwrap()).await;
    assert_eq!((verified.id(), verified.header("ack")), (message.id(), Some(&"mq/ack".into())));
    let body: Value = serde_json::from_slice(verified.body()).unwrap();
    assert_eq!(body, sent["payload"]);
}
