//! `tower-outbox check`.

use std::path::Path;

use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::Value;
use time::{Duration, OffsetDateTime};
use tokio::net::TcpListener;

use super::{Run, RunningApp, Stopped, command, run};
use crate::admin::Does;
use crate::nats::raw::Place;
use crate::peers::{Brokers, unique};
use crate::support::message;

/// A certificate with its key that is valid for so many days more, in this file.
fn certificate(file: &Path, name: &str, days: i64) -> KeyPair {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = OffsetDateTime::now_utc() - Duration::days(1_000);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(days) + Duration::hours(1);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem() + &key.serialize_pem();
    std::fs::write(file, pem).unwrap();
    key
}

/// A URL of a port nobody listens on.
async fn refusing(scheme: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("{scheme}://{}", listener.local_addr().unwrap())
}

async fn check(keys: &[(&str, &str)], args: &[&str]) -> Run {
    let mut command = command(&[&["check"], args].concat());
    for (key, value) in keys {
        command.env(format!("MESSAGE_BUS__{key}"), value);
    }
    run(command, b"").await
}

/// The findings about this, as `level: message`.
fn findings(run: &Run, what: &str) -> Vec<String> {
    let document: Value = serde_json::from_str(&run.out).unwrap_or_else(|_| panic!("{run:?}"));
    let findings = document["findings"].as_array().unwrap().iter().filter(|finding| finding["what"] == what);
    let said = findings.map(|finding| {
        format!("{}: {}", finding["level"].as_str().unwrap(), finding["message"].as_str().unwrap())
    });
    said.collect()
}

#[tokio::test]
async fn settings_that_are_wrong_fail() {
    for (keys, part) in [
        (&[("DELIVRY", "direct")][..], "unknown key DELIVRY; did you mean DELIVERY?"),
        (&[("BACKEND", "rhmsq")], "\"rhmsq\" is not known"),
        (
            &[("BACKEND", "rhmsg"), ("URLS", "amqp://h"), ("WINDO", "1")],
            "unknown key WINDO; did you mean WINDOW?",
        ),
        (&[("BACKEND", "rhmsg"), ("URLS", "amqp://h"), ("WINDOW", "0")], "WINDOW is 0"),
        (&[("BACKEND", "rhmsg"), ("URLS", "http://h")], "scheme"),
        (&[("BACKEND", "rhmsg")], "URLS is empty"),
        (&[("URLS", "amqp://h")], "the key URLS but no BACKEND"),
        (&[("DELIVERY", "sometimes")], "durable"),
    ] {
        let found = check(keys, &[]).await;
        assert!(found.out.contains("FAILED") && found.out.contains(part), "{part}: {found:?}");
        assert!(found.err.contains("1 failed"), "{found:?}");
        found.ends(1);
    }
}

#[tokio::test]
async fn a_consumers_table_that_the_app_rejects_fails() {
    let url = refusing("amqp").await;
    let backend = [("BACKEND", "amqp091"), ("URLS", &*url)];
    for (key, value, what, part) in [
        ("CONSUMERS__ORDERS__QUEU", "a", "SETTINGS", "unknown key CONSUMERS.ORDERS.QUEU"),
        ("CONSUMERS__ORDERS__BINDINGS", "a", "CONSUMERS", "ORDERS: cannot set up BACKEND \"amqp091\": QUEUE"),
    ] {
        let found = check(&[&backend[..], &[(key, value)]].concat(), &["--json"]).await;
        let said = findings(&found, what);
        assert!(said.len() == 1 && said[0].starts_with("failed: ") && said[0].contains(part), "{found:?}");
        found.ends(1);
    }
    let found = check(&[&backend[..], &[("CONSUMERS__ORDERS__QUEUE", "a")]].concat(), &["--json"]).await;
    assert!(findings(&found, "CONSUMERS")[0].starts_with("ok: ORDERS"), "{found:?}");
}

#[tokio::test]
async fn an_unknown_key_is_a_finding_about_the_settings() {
    for keys in [
        &[("DELIVRY", "direct")][..],
        &[("BACKEND", "rhmsg"), ("URLS", "amqp://h"), ("WINDO", "1")],
        &[("BACKEND", "rhmsg"), ("URLS", "amqp://h"), ("WINDOW", "many")],
    ] {
        let found = check(keys, &["--json"]).await;
        let said = findings(&found, "SETTINGS");
        assert!(said.len() == 1 && said[0].starts_with("failed: "), "{found:?}");
        assert!(findings(&found, "BACKEND").is_empty(), "{found:?}");
    }
}

#[tokio::test]
async fn a_bus_that_sends_nowhere_or_is_the_apps_own_is_a_warning() {
    let found = check(&[], &["--json"]).await;
    assert!(findings(&found, "BACKEND")[0].starts_with("warning: \"dummy\""), "{found:?}");
    let found = check(&[("BACKEND", "acme.Kafka"), ("BROKERS", "h")], &["--json"]).await;
    assert!(findings(&found, "BACKEND")[0].contains("a backend of the app"), "{found:?}");
    assert_eq!(found.json()["ok"], true);
}

#[tokio::test]
async fn every_broker_is_tried_and_said() {
    let urls = [refusing("amqp").await, refusing("amqp").await];
    for backend in ["amqp10", "rhmsg", "amqp091"] {
        let found = check(&[("BACKEND", backend), ("URLS", &urls.join(","))], &["--json"]).await;
        let brokers = findings(&found, "URLS");
        assert_eq!(brokers.len(), 2, "{found:?}");
        for (said, url) in brokers.iter().zip(&urls) {
            assert!(said.starts_with(&format!("failed: {url}: ")) && said.contains("refused"), "{said}");
        }
        found.ends(1);
    }
}

#[tokio::test]
async fn certificates_are_shown_with_the_days_they_have_left() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    certificate(Path::new(&file("good.pem")), "jo", 400);
    certificate(Path::new(&file("soon.pem")), "jo", 29);
    certificate(Path::new(&file("expired.pem")), "jo", -3);
    let url = refusing("amqps").await;
    for (name, expected) in [
        ("good.pem", "ok: {file}: CN=jo; expires on {date}, 400 days left"),
        ("soon.pem", "warning: {file}: CN=jo; expires on {date}, 29 days left"),
        ("expired.pem", "failed: {file}: CN=jo; expired on {date}, 2 days ago: renew it"),
    ] {
        let days = match name {
            "good.pem" => 400,
            "soon.pem" => 29,
            _ => -3,
        };
        let date = (OffsetDateTime::now_utc() + Duration::days(days) + Duration::hours(1)).date().to_string();
        let expected = expected.replace("{file}", &file(name)).replace("{date}", &date);
        for backend in ["amqp10", "fedmsg"] {
            let found = check(
                &[
                    ("BACKEND", backend),
                    ("URLS", &url),
                    ("CERTIFICATE", &file(name)),
                    ("CACERT", &file("good.pem")),
                ],
                &["--json"],
            )
            .await;
            assert!(findings(&found, "CERTIFICATE")[0].contains(&expected), "{expected}: {found:?}");
            assert!(findings(&found, "CACERT")[0].starts_with("ok: "), "{found:?}");
            found.ends(1);
        }
    }
}

/// One old authority among good ones is no reason to fail.
#[tokio::test]
async fn an_authority_that_is_valid_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    certificate(Path::new(&file("good.pem")), "good", 400);
    certificate(Path::new(&file("old.pem")), "old", -3);
    let both = std::fs::read_to_string(file("good.pem")).unwrap()
        + &std::fs::read_to_string(file("old.pem")).unwrap();
    std::fs::write(file("both.pem"), &both).unwrap();
    std::fs::write(file("many.pem"), both.repeat(4)).unwrap();
    let url = refusing("amqps").await;
    for (name, levels) in [
        ("good.pem", &["ok"][..]),
        ("old.pem", &["failed"]),
        ("both.pem", &["ok", "warning"]),
        ("many.pem", &["warning"]),
    ] {
        let keys = [("BACKEND", "amqp10"), ("URLS", &*url), ("CACERT", &*file(name))];
        let found = check(&keys, &["--json"]).await;
        let said = findings(&found, "CACERT");
        let said: Vec<_> = said.iter().map(|finding| finding.split(": ").next().unwrap()).collect();
        assert_eq!(said, levels, "{name}");
    }
}

#[tokio::test]
async fn a_key_that_does_not_fit_fails_and_so_does_a_file_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    certificate(Path::new(&file("good.pem")), "jo", 400);
    std::fs::write(file("other.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let url = refusing("amqps").await;
    let keys = [("BACKEND", "amqp10"), ("URLS", &*url), ("CERTIFICATE", &*file("good.pem"))];
    let found = check(&[&keys[..], &[("PRIVATE_KEY", &file("other.key"))]].concat(), &["--json"]).await;
    assert!(findings(&found, "BACKEND")[0].contains("does not fit the certificate"), "{found:?}");
    found.ends(1);
    let found =
        check(&[("BACKEND", "amqp10"), ("URLS", &url), ("CERTIFICATE", "/nowhere/c.pem")], &["--json"]).await;
    assert!(findings(&found, "CERTIFICATE")[0].contains("/nowhere/c.pem"), "{found:?}");
    found.ends(1);
}

/// The file of fedora-messaging may name the certificate.
#[tokio::test]
async fn certificates_in_the_configuration_of_fedora_messaging_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let pem = folder.path().join("soon.pem");
    certificate(&pem, "jo", 7);
    let config = folder.path().join("config.toml");
    let url = refusing("amqps").await;
    std::fs::write(
        &config,
        format!("amqp_url = {url:?}\n[tls]\nca_cert = {pem:?}\ncertfile = {pem:?}\nkeyfile = {pem:?}\n"),
    )
    .unwrap();
    let found = check(&[("BACKEND", "fedmsg"), ("CONFIG", config.to_str().unwrap())], &["--json"]).await;
    assert!(findings(&found, "CERTIFICATE")[0].contains("7 days left"), "{found:?}");
    assert!(findings(&found, "URLS")[0].contains(&url), "{found:?}");
}

#[tokio::test]
async fn the_outbox_must_be_writable() {
    let app = Stopped::new();
    let found = app.run(&["check", "--json"]).await;
    assert!(
        findings(&found, "OUTBOX")[0].starts_with("ok: ")
            && findings(&found, "OUTBOX")[0].contains("can be created")
    );
    let app = Stopped::with(vec![message("a")], Vec::new()).await;
    let found = app.run(&["check", "--json"]).await;
    assert!(findings(&found, "OUTBOX")[0].contains("is writable"), "{found:?}");
    let nowhere = [("DELIVERY", "durable"), ("OUTBOX__PATH", "/nowhere/at/all")];
    let found = check(&nowhere, &["--json"]).await;
    assert!(findings(&found, "OUTBOX")[0].starts_with("failed: /nowhere/at/all does not exist"), "{found:?}");
    found.ends(1);
    let file = [("DELIVERY", "durable"), ("OUTBOX__PATH", &*app.settings)];
    let found = check(&file, &["--json"]).await;
    assert!(findings(&found, "OUTBOX")[0].starts_with("failed: cannot write in "), "{found:?}");
}

/// It does not open the outbox, so that it can be run beside the app.
#[tokio::test]
async fn an_app_that_runs_is_no_obstacle_and_is_asked_by_its_url() {
    let app = RunningApp::with(vec![message("a")], vec![message("b")]).await;
    let path = app.folder.path().join("outbox").display().to_string();
    let keys = [("DELIVERY", "durable"), ("OUTBOX__PATH", &*path)];
    let found = check(&keys, &["--json", "--url", &app.url]).await;
    assert!(findings(&found, "OUTBOX")[0].starts_with("ok: "), "{found:?}");
    assert!(
        findings(&found, "APP")[0].starts_with("failed: running; the broker is down: no broker"),
        "{found:?}"
    );
    found.ends(1);
    app.backend.set(Does::Take);
    let found = check(&keys, &["--json", "--url", &app.url]).await;
    assert!(findings(&found, "APP")[0].contains("1 dead letter"), "{found:?}");
    found.ends(0);
    let gone = refusing("http").await;
    let found = check(&keys, &["--json", "--url", &gone]).await;
    assert!(findings(&found, "APP")[0].contains("cannot be reached"), "{found:?}");
    found.ends(1);
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn one_broker_that_answers_and_one_that_does_not_are_both_said() {
    let brokers = Brokers::running();
    let (good, closed) = (brokers.get("RABBIT1_AMQP"), refusing("amqp").await);
    for backend in ["amqp10", "amqp091"] {
        let found = check(&[("BACKEND", backend), ("URLS", &format!("{closed},{good}"))], &["--json"]).await;
        let said = findings(&found, "URLS");
        assert!(
            said[0].starts_with(&format!("failed: {closed}: ")) && said[0].contains("refused"),
            "{found:?}"
        );
        assert_eq!(said[1], format!("ok: {good}: connected"));
        found.ends(1);
        let found = check(&[("BACKEND", backend), ("URLS", good)], &[]).await;
        assert!(found.out.contains(good) && found.err.contains("no fault found"), "{found:?}");
        found.ends(0);
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_broker_is_reached_with_the_certificates_of_the_settings() {
    let brokers = Brokers::running();
    let file = |name: &str| brokers.certificate(name).display().to_string();
    let (client, ca) = (file("client.pem"), file("ca.pem"));
    let keys = [
        ("BACKEND", "amqp10"),
        ("URLS", brokers.get("RABBIT1_AMQPS")),
        ("CERTIFICATE", &*client),
        ("CACERT", &*ca),
    ];
    let found = check(&keys, &["--json"]).await;
    assert!(findings(&found, "CERTIFICATE")[0].contains("CN=tower-outbox"), "{found:?}");
    assert!(findings(&found, "URLS")[0].ends_with(": connected"), "{found:?}");
    found.ends(0);
    let found = check(&keys[..2], &["--json"]).await;
    assert!(findings(&found, "URLS")[0].starts_with("failed: "), "{found:?}");
    found.ends(1);
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_port_of_tls_and_a_virtual_host_that_is_not_there_are_named() {
    let brokers = Brokers::running();
    let (plain, tls) =
        (brokers.get("RABBIT1_AMQP"), brokers.get("RABBIT1_AMQPS").replace("amqps://", "amqp://"));
    for backend in ["amqp091", "amqp10"] {
        let found = check(&[("BACKEND", backend), ("URLS", &tls)], &["--json"]).await;
        assert!(
            findings(&found, "URLS")[0].ends_with("answers no AMQP but TLS: write amqps:// in URLS"),
            "{found:?}"
        );
    }
    let url = format!("{}/no%2Fsuch", plain.trim_end_matches('/'));
    let found = check(&[("BACKEND", "amqp091"), ("URLS", &url)], &["--json"]).await;
    let said = &findings(&found, "URLS")[0];
    assert!(said.contains("/no%2Fsuch: no virtual host \"no/such\""), "{said}");
    assert_eq!(said.matches("NOT_ALLOWED").count(), 1, "{said}");
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn an_exchange_or_a_queue_that_is_missing_or_loses_messages_is_found() {
    let brokers = Brokers::running();
    let url = brokers.get("RABBIT1_AMQP");
    let (queue, odd) = (unique("check"), unique("check-odd"));
    let connection = lapin::Connection::connect(url, lapin::ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let mut arguments = lapin::types::FieldTable::default();
    arguments.insert("x-message-ttl".into(), lapin::types::AMQPValue::LongInt(60_000));
    let options = lapin::options::QueueDeclareOptions { durable: false, ..Default::default() };
    channel.queue_declare(odd.as_str().into(), options, arguments).await.unwrap();
    let keys = |exchange, queue| {
        [("BACKEND", "amqp091"), ("URLS", url), ("EXCHANGE", exchange), ("CONSUMERS__ORDERS__QUEUE", queue)]
    };
    let found = check(&keys("no-such-exchange", &queue), &["--json"]).await;
    assert!(
        findings(&found, "EXCHANGE")[0].starts_with("failed: the exchange \"no-such-exchange\""),
        "{found:?}"
    );
    let said = findings(&found, "CONSUMERS").join("; ");
    assert!(said.contains(&format!("warning: ORDERS: the queue {queue:?} does not exist yet")), "{said}");
    assert!(said.contains(&format!("creates the queue \"{queue}.dead\"")), "{said}");
    found.ends(1);
    let found = check(&keys("amq.topic", &odd), &["--json"]).await;
    let said = findings(&found, "CONSUMERS").join("; ");
    assert!(
        said.contains("is not durable") && said.contains("has a TTL") && said.contains("60000 ms"),
        "{said}"
    );
    found.ends(0);
    // It has created nothing.
    let passive = lapin::options::QueueDeclareOptions { passive: true, ..Default::default() };
    assert!(channel.queue_declare(queue.as_str().into(), passive, Default::default()).await.is_err());
    let channel = connection.create_channel().await.unwrap();
    channel.queue_delete(odd.as_str().into(), Default::default()).await.unwrap();
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_stream_that_is_missing_or_forgets_ids_is_found() {
    let place = Place::with(|config| config.duplicate_window = std::time::Duration::from_secs(1)).await;
    let missing = unique("missing");
    let keys = |stream, subjects| {
        [
            ("BACKEND", "nats"),
            ("URLS", &*place.url),
            ("CONSUMERS__ORDERS__STREAM", stream),
            ("CONSUMERS__ORDERS__DURABLE", "orders"),
            ("CONSUMERS__ORDERS__SUBJECTS", subjects),
        ]
    };
    let found = check(&keys(&place.stream, &place.topic), &["--json"]).await;
    let said = findings(&found, "CONSUMERS").join("; ");
    assert!(
        said.contains(&format!("warning: ORDERS: the stream {:?} forgets the ids", place.stream)),
        "{said}"
    );
    assert!(said.contains("warning: ORDERS: the consumer \"orders\""), "{said}");
    assert!(said.contains(&format!("\"{}-orders-dead\"", place.stream)), "{said}");
    found.ends(0);
    let found = check(&keys(&missing, "order.>"), &["--json"]).await;
    let said = findings(&found, "CONSUMERS").join("; ");
    assert!(said.contains(&format!("warning: ORDERS: the stream {missing:?} does not exist yet")), "{said}");
    found.ends(0);
    let found = check(&keys(&missing, "")[..4], &["--json"]).await;
    let said = findings(&found, "CONSUMERS").join("; ");
    assert!(
        said.contains(&format!("failed: ORDERS: the stream {missing:?} does not exist: create it")),
        "{said}"
    );
    found.ends(1);
    // It has created nothing.
    assert!(place.context.get_stream(&missing).await.is_err());
    let stream = place.context.get_stream(&place.stream).await.unwrap();
    assert!(stream.consumer_info("orders").await.is_err());
}
