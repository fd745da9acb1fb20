//! A fault that can be known without a broker is an error at start, which names the file or key and the cure.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use tower_outbox::amqp10::{Amqp10, Amqp10Settings, Sasl};
use tower_outbox::{BoxError, Message, Messenger};

fn refusal(settings: &Amqp10Settings) -> String {
    let error = Amqp10::new(settings).expect_err("refused at start");
    chain(&error)
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

struct Files {
    folder: TempDir,
    settings: Amqp10Settings,
}

impl Files {
    fn new() -> Self {
        let mut settings = Amqp10Settings::new(["amqps://localhost"]);
        let files = Self { folder: tempfile::tempdir().unwrap(), settings: settings.clone() };
        let (certificate, key) = identity(|_| {});
        settings.broker.cacert = Some(files.write("ca.pem", &certificate));
        settings.broker.certificate = Some(files.write("client.pem", &format!("{certificate}{key}")));
        Self { settings, ..files }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn identity(change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn a_good_pair_is_taken() {
    let files = Files::new();
    Amqp10::new(&files.settings).unwrap();
}

#[test]
fn a_missing_file_is_named() {
    let files = Files::new();
    type Change = fn(&mut Amqp10Settings, PathBuf);
    let changes: [(&str, Change); 3] = [
        ("CERTIFICATE", |settings, path| settings.broker.certificate = Some(path)),
        ("PRIVATE_KEY", |settings, path| settings.broker.private_key = Some(path)),
        ("CACERT", |settings, path| settings.broker.cacert = Some(path)),
    ];
    for (key, change) in changes {
        let mut settings = files.settings.clone();
        change(&mut settings, Path::new("/nowhere/x.pem").to_owned());
        let error = refusal(&settings);
        assert!(
            error.contains(key) && error.contains("/nowhere/x.pem") && error.contains("check the path"),
            "{error}"
        );
    }
}

#[test]
fn garbage_is_not_pem() {
    let files = Files::new();
    let garbage = files.write(
        "garbage.pem",
        "-----BEGIN CERTIFICATE-----\nnot base64 at all !\n-----END CERTIFICATE-----\n",
    );
    let empty = files.write("empty.pem", "");
    for path in [garbage, empty] {
        let mut settings = files.settings.clone();
        settings.broker.certificate = Some(path.clone());
        let error = refusal(&settings);
        assert!(
            error.contains("CERTIFICATE") && error.contains("holds no certificate in PEM form"),
            "{error}"
        );
        let mut settings = files.settings.clone();
        settings.broker.cacert = Some(path.clone());
        assert!(refusal(&settings).contains("CACERT"), "{}", path.display());
        let mut settings = files.settings.clone();
        settings.broker.private_key = Some(path);
        assert!(refusal(&settings).contains("holds no private key"));
    }
}

#[test]
fn a_certificate_alone_wants_its_key() {
    let mut files = Files::new();
    files.settings.broker.certificate = Some(files.write("alone.pem", &identity(|_| {}).0));
    let error = refusal(&files.settings);
    assert!(error.contains("alone.pem") && error.contains("PRIVATE_KEY"), "{error}");
}

#[test]
fn a_key_that_does_not_match_is_refused() {
    let mut files = Files::new();
    let ((certificate, _), (_, other_key)) = (identity(|_| {}), identity(|_| {}));
    files.settings.broker.certificate = Some(files.write("pair.pem", &format!("{certificate}{other_key}")));
    let error = refusal(&files.settings);
    assert!(
        error.contains("does not fit") && error.contains("pair.pem") && error.contains("KeyMismatch"),
        "{error}"
    );
}

#[test]
fn an_expired_certificate_and_one_of_tomorrow_are_refused() {
    let mut files = Files::new();
    let (certificate, key) = identity(|params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    files.settings.broker.certificate = Some(files.write("old.pem", &format!("{certificate}{key}")));
    let error = refusal(&files.settings);
    assert!(
        error.contains("old.pem expired on") && error.contains("2021") && error.contains("renew"),
        "{error}"
    );
    let (certificate, key) = identity(|params| params.not_before = rcgen::date_time_ymd(2090, 1, 1));
    files.settings.broker.certificate = Some(files.write("new.pem", &format!("{certificate}{key}")));
    assert!(refusal(&files.settings).contains("valid only from"));
}

#[test]
fn values_that_make_no_sense_are_refused() {
    type Change = fn(&mut Amqp10Settings);
    let cases: [(&str, Change); 12] = [
        ("URLS is empty", |settings| settings.broker.urls.clear()),
        ("not the address of a broker", |settings| settings.broker.urls = vec!["broker".to_owned()]),
        ("WINDOW is 0", |settings| settings.broker.window = 0),
        ("PRIORITY is above 9", |settings| settings.priority = 10),
        ("CONNECTION_TIMEOUT", |settings| settings.broker.connection_timeout = Some(Duration::ZERO)),
        ("IDLE_TIMEOUT is below", |settings| settings.broker.idle_timeout = Duration::from_millis(10)),
        ("TOPIC_PREFIX", |settings| settings.broker.topic_prefix = Some("a b".to_owned())),
        ("ADDRESS knows only {topic}", |settings| settings.address = Some("/topic/{tpic}".to_owned())),
        ("external needs CERTIFICATE", |settings| settings.broker.sasl = Sasl::External),
        ("plain needs a user", |settings| settings.broker.sasl = Sasl::Plain),
        ("no URL begins with amqps", |settings| settings.broker.cacert = Some("ca.pem".into())),
        ("PRIVATE_KEY is set without", |settings| {
            settings.broker.urls = vec!["amqps://h".to_owned()];
            settings.broker.private_key = Some("key.pem".into());
        }),
    ];
    for (text, change) in cases {
        let mut settings = Amqp10Settings::new(["amqp://localhost"]);
        change(&mut settings);
        let error = refusal(&settings);
        assert!(error.contains(text), "{text}: {error}");
    }
}

#[test]
fn unsendable_messages_are_refused_at_enqueue() {
    let mut settings = Amqp10Settings::new(["amqp://localhost"]);
    settings.broker.topic_prefix = Some("p".repeat(200));
    let messenger = Amqp10::new(&settings).unwrap();
    let check = |message: Message| -> Result<(), BoxError> { messenger.check(&message) };
    check(Message::new("t".repeat(54), "").unwrap()).unwrap();
    assert!(check(Message::new("t".repeat(55), "").unwrap()).unwrap_err().to_string().contains("255 bytes"));
    let delayed = Message::new("t", "").unwrap().with_delay(Duration::from_secs(1));
    assert!(check(delayed).unwrap_err().to_string().contains("without a delay"));
}

#[test]
fn settings_and_messengers_do_not_print_passwords() {
    let settings = Amqp10Settings::new(["amqp://jo:geheim@localhost"]);
    let messenger = Amqp10::new(&settings).unwrap();
    let printed = format!("{settings:?} {messenger:?}");
    assert!(printed.contains("localhost") && !printed.contains("geheim"), "{printed}");
}
