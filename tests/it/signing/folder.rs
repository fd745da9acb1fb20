//! The folder of trusted keys.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use tower_outbox::signing::{KeyKind, Signer, SigningKey, TrustedFolder, Verified, Verifier};

use super::{key, message, settings, signed_by};

struct Host {
    key: SigningKey,
    signer: Signer,
}

impl Host {
    fn new(kind: KeyKind) -> Self {
        let made = key(kind);
        let signer = Signer::with_key(SigningKey::from_pem(&made.to_pem().unwrap()).unwrap(), &settings());
        Self { key: made, signer: signer.unwrap() }
    }

    fn public(&self) -> String {
        self.key.public_pem().unwrap()
    }
}

fn trusting(files: &[(&str, &str)]) -> (TempDir, Verifier) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let verifier = Verifier::new(&settings().with_trusted(folder.path())).unwrap();
    (folder, verifier)
}

async fn verified(verifier: &Verifier, host: &Host) -> Result<(), String> {
    match verifier.verify(&host.signer.sign(&message(7)).unwrap()).await.unwrap() {
        Verified::Signed(message, _) => {
            assert_eq!(signed_by(&message), Some("host-1"));
            Ok(())
        }
        Verified::Refused(reason) => Err(reason),
        unsigned => panic!("{unsigned:?}"),
    }
}

/// Waits until it is so: the folder is looked at once a second.
async fn until(verifier: &Verifier, host: &Host, accepted: bool) {
    let wait = async {
        while verified(verifier, host).await.is_ok() != accepted {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(super::STUCK, wait).await.expect("it does not become so");
}

/// Both keys are trusted until the file has the new one alone.
#[tokio::test]
async fn a_key_is_replaced_without_a_restart() {
    let (old, new) = (Host::new(KeyKind::Ed25519), Host::new(KeyKind::Rsa));
    let (folder, verifier) = trusting(&[("host-1.pem", &old.public())]);
    let file = folder.path().join("host-1.pem");
    verified(&verifier, &old).await.unwrap();
    assert!(verified(&verifier, &new).await.unwrap_err().contains("fits no key"));
    fs::write(&file, old.public() + &new.public()).unwrap();
    until(&verifier, &new, true).await;
    verified(&verifier, &old).await.unwrap();
    fs::write(&file, new.public()).unwrap();
    until(&verifier, &old, false).await;
    verified(&verifier, &new).await.unwrap();
    fs::remove_file(&file).unwrap();
    until(&verifier, &new, false).await;
    assert!(verified(&verifier, &new).await.unwrap_err().contains("host-1 is not trusted"));
}

#[tokio::test]
async fn a_file_that_becomes_unreadable_keeps_its_last_keys() {
    let (first, second) = (Host::new(KeyKind::Ed25519), Host::new(KeyKind::Ed25519));
    let (folder, verifier) = trusting(&[("host-1.pem", &first.public()), ("notes.txt", "any text")]);
    let file = folder.path().join("host-1.pem");
    fs::write(&file, "-----BEGIN PUBLIC KEY-----\nAAAA").unwrap();
    // Long enough for the folder to be looked at.
    assert!(verified(&verifier, &second).await.is_err());
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    verified(&verifier, &first).await.unwrap();
    fs::write(&file, second.public()).unwrap();
    until(&verifier, &second, true).await;
    until(&verifier, &first, false).await;
}

#[test]
fn what_is_wrong_at_the_start_is_an_error_that_names_the_file() {
    let private = Host::new(KeyKind::Ed25519).key.to_pem().unwrap();
    let open = |path: &Path| TrustedFolder::open(path).unwrap_err().to_string();
    let folder = tempfile::tempdir().unwrap();
    assert!(open(&folder.path().join("missing")).contains("SIGNING.TRUSTED"));
    fs::write(folder.path().join("host-1.pem"), private).unwrap();
    let error = open(folder.path());
    assert!(error.contains("host-1.pem") && error.contains("only a PUBLIC KEY belongs there"), "{error}");
}

#[test]
fn the_keys_of_a_folder_are_listed() {
    let hosts = [Host::new(KeyKind::Ed25519), Host::new(KeyKind::Rsa)];
    let both = hosts[0].public() + &hosts[1].public();
    let files =
        [("b.pem", both.as_str()), ("a.pem", &hosts[1].public()), (".hidden.pem", "x"), ("x y.pem", "x")];
    let folder = trusting(&files).0;
    let list = TrustedFolder::open(folder.path()).unwrap().list();
    let shown: Vec<_> = list
        .iter()
        .map(|(origin, keys)| (origin.as_str(), keys.iter().map(|key| key.kind()).collect::<Vec<_>>()))
        .collect();
    assert_eq!(shown, [("a", vec![KeyKind::Rsa]), ("b", vec![KeyKind::Ed25519, KeyKind::Rsa])]);
    assert_eq!(list[0].1[0].fingerprint(), hosts[1].key.public().unwrap().fingerprint());
    let _ = Arc::clone(&list[0].1);
}
