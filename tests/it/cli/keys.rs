//! `tower-outbox keys`.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use tower_outbox::Message;
use tower_outbox::signing::{Signer, SigningSettings};

use super::{Run, command, run, tool};

/// A key of host-1 and the folder that trusts it, made by the tool.
async fn keys(kind: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("trusted")).unwrap();
    let (key, public) = (path(&folder, "key.pem"), path(&folder, "trusted/host-1.pem"));
    tool(&["keys", "generate", "--kind", kind, &key, &public]).await.ok();
    folder
}

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).display().to_string()
}

async fn with_keys(folder: &TempDir, args: &[&str], input: &str) -> Run {
    let mut command = command(args);
    command
        .env("MESSAGE_BUS__SIGNING__KEY", folder.path().join("key.pem"))
        .env("MESSAGE_BUS__SIGNING__TRUSTED", folder.path().join("trusted"))
        .env("MESSAGE_BUS__SIGNING__ORIGIN", "host-1");
    run(command, input.as_bytes()).await
}

#[tokio::test]
async fn a_generated_key_is_secret_trusted_and_never_overwritten() {
    for kind in ["ed25519", "rsa"] {
        let folder = keys(kind).await;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(folder.path().join("key.pem")).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let verified = with_keys(&folder, &["keys", "verify"], "").await.ok();
        assert_eq!(verified, "signatures of host-1 are trusted\n");
        let key = path(&folder, "key.pem");
        tool(&["keys", "generate", &key]).await.fails(1, "key.pem: File exists");
        let other = tool(&["keys", "generate", "--json", &path(&folder, "other.pem")]).await.ok();
        let other: Value = serde_json::from_str(&other).unwrap();
        assert!(other["public"].as_str().unwrap().starts_with("-----BEGIN PUBLIC KEY-----\n"), "{other}");
        std::fs::write(folder.path().join("trusted/host-1.pem"), other["public"].as_str().unwrap()).unwrap();
        with_keys(&folder, &["keys", "verify"], "").await.fails(1, "fits no key of host-1");
        let list = with_keys(&folder, &["keys", "list", "--json"], "").await.ok();
        let list: Value = serde_json::from_str(&list).unwrap();
        let expected = json!({"origin": "host-1", "kind": "Ed25519", "fingerprint": other["fingerprint"]});
        assert_eq!(list["keys"], json!([expected]));
    }
}

#[tokio::test]
async fn messages_are_verified() {
    let folder = keys("ed25519").await;
    let settings = SigningSettings::default().with_origin("host-1").with_key(folder.path().join("key.pem"));
    let message = Message::json("user.created", &7).unwrap();
    let signed = Signer::new(&settings).unwrap().sign(&message).unwrap();
    let line = |body: u32| {
        let signature = signed.header("signature").unwrap().as_str().unwrap();
        let time = humantime_of(&signed);
        json!({
            "id": signed.id(), "topic": "user.created", "time": time, "content_type": "application/json",
            "body": body, "headers": {"signature": signature},
        })
    };
    let good = with_keys(&folder, &["keys", "verify", "-"], &line(7).to_string()).await.ok();
    assert_eq!(good, format!("{}  signed by host-1\n", signed.id()));
    let both = format!("{}\n\n{}\n", line(7), line(8));
    let run = with_keys(&folder, &["keys", "verify", "-"], &both).await;
    assert!(
        run.out.contains("refused: its body was changed") && run.err.contains("1 message refused"),
        "{run:?}"
    );
    run.ends(1);
    with_keys(&folder, &["keys", "verify", "missing.jsonl"], "").await.fails(1, "missing.jsonl");
    tool(&["keys", "verify"]).await.fails(1, "no table SIGNING");
    assert!(Path::new(&path(&folder, "key.pem")).exists());
}

fn humantime_of(message: &Message) -> String {
    humantime::format_rfc3339_micros(message.time()).to_string()
}

#[tokio::test]
async fn keys_in_a_database_are_trusted_listed_and_revoked() {
    let folder = keys("ed25519").await;
    let url = format!("sqlite:{}", path(&folder, "app.db"));
    let tool = async |args: &[&str]| {
        let mut command = command(args);
        command
            .env("MESSAGE_BUS__OUTBOX__DATABASE_URL", &url)
            .env("MESSAGE_BUS__SIGNING__KEY", folder.path().join("key.pem"))
            .env("MESSAGE_BUS__SIGNING__TRUSTED", "database")
            .env("MESSAGE_BUS__SIGNING__ORIGIN", "host-1");
        run(command, b"").await
    };
    let public = path(&folder, "trusted/host-1.pem");
    tool(&["keys", "list"]).await.fails(1, "run `tower-outbox migrate`");
    tool(&["migrate"]).await.ok();
    tool(&["keys", "verify"]).await.fails(1, "host-1 is not trusted");
    let trusted = tool(&["keys", "trust", "host-1", &public, "--json"]).await.ok();
    let trusted: Value = serde_json::from_str(&trusted).unwrap();
    tool(&["keys", "trust", "host-1", &path(&folder, "key.pem")])
        .await
        .fails(1, "key.pem: it holds a PRIVATE KEY");
    assert_eq!(tool(&["keys", "verify"]).await.ok(), "signatures of host-1 are trusted\n");
    let fingerprint = trusted["trusted"][0].as_str().unwrap();
    assert_eq!(tool(&["keys", "list"]).await.ok(), format!("host-1  Ed25519  {fingerprint}\n"));
    tool(&["keys", "revoke", "host-1", "0011"]).await.fails(1, "no such key of host-1");
    assert_eq!(tool(&["keys", "revoke", "host-1", fingerprint]).await.ok(), "revoked 1 key of host-1\n");
    tool(&["keys", "verify"]).await.fails(1, "host-1 is not trusted");
    // A folder is changed with files.
    with_keys(&folder, &["keys", "trust", "host-2", &public], "").await.fails(1, "is not \"database\"");
}
