//! Settings, certificates and secrets as people write them.

use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;
use tower_outbox::{BoxError, Bus, Settings};

/// The texts of an error, in every way it can be printed.
fn said(error: impl std::error::Error + Send + Sync + 'static) -> String {
    let debug = format!("{error:?}");
    let error: BoxError = error.into();
    let mut text = format!("{error} {debug}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause} {cause:?}"));
        source = cause.source();
    }
    text
}

/// A folder with a file of settings.
fn file(name: &str, content: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    (folder, path)
}

/// Why a bus cannot be started with these settings.
async fn refusal(text: &str) -> String {
    refusal_of("settings.toml", text).await
}

async fn refusal_of(name: &str, text: &str) -> String {
    let (_folder, path) = file(name, text);
    match Settings::from_file(&path) {
        Err(error) => said(error),
        Ok(settings) => match Bus::start(&settings).await {
            Err(error) => format!("{} {settings:?}", said(error)),
            Ok(_) => panic!("it starts: {text}"),
        },
    }
}

fn tool(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tower-outbox-cli"));
    command.args(arguments).envs(variables.iter().copied()).env_remove("RUST_LOG").output().unwrap()
}

fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

// ---- secrets

#[tokio::test]
async fn a_file_that_is_no_toml_gives_the_position_and_not_the_line() {
    let text = refusal(
        "[MESSAGE_BUS]\nDELIVERY = \"transactional\"\n[MESSAGE_BUS.OUTBOX]\nDATABASE_URL = \"postgres://app:geheim@h/app\nX = 1\n",
    )
    .await;
    assert!(text.contains("settings.toml") && text.contains("line 4, column"), "{text}");
    assert!(!text.contains("geheim"), "{text}");
}

#[tokio::test]
async fn no_fault_in_a_file_prints_a_password() {
    let url = "amqp://jo:geheim@h";
    for (name, content) in [
        ("s.toml", format!("[MESSAGE_BUS]\nURLS = \"{url}\"\nURLS = \"{url}\"")),
        ("s.toml", format!("[MESSAGE_BUS]\nURLS = '{url}' {url}")),
        ("s.toml", format!("[MESSAGE_BUS]\n{url} = 1")),
        ("s.toml", format!("[MESSAGE_BUS]\nWINDOW = \"{url}\"\nBACKEND = \"amqp10\"\nURLS = \"{url}\"")),
        ("s.toml", format!("[MESSAGE_BUS]\nDELIVERY = \"{url}\"")),
        ("s.toml", format!("[MESSAGE_BUS]\nOUTBOX = \"{url}\"")),
        ("s.toml", format!("MESSAGE_BUS = \"{url}\"")),
        ("s.toml", format!("[MESSAGE_BUS.REQUEST]\nMAX_BYTES = \"{url}\"")),
        ("s.toml", format!("[MESSAGE_BUS.OUTBOX]\nLEASE = \"{url}\"")),
        ("s.toml", format!("[MESSAGE_BUS.CONSUMERS.a]\nCONCURRENCY = \"{url}\"")),
        ("s.toml", format!("[MESSAGE_BUS]\nBACKEND = \"amqp091\"\nURLS = [[\"{url}\"]]")),
        ("s.toml", "[MESSAGE_BUS]\nBACKEND = \"amqp091\"\nURLS = \"amqp://jo:geheim\"".to_owned()),
        ("s.toml", "[MESSAGE_BUS]\nBACKEND = \"amqp10\"\nURLS = \"jo:geheim\"".to_owned()),
        ("s.toml", "[MESSAGE_BUS]\nBACKEND = \"amqp10\"\nURLS = \"amqp://jo:x,geheim@h y\"".to_owned()),
        ("s.toml", "[MESSAGE_BUS]\nBACKEND = \"amqp091\"\nURLS = \"http://h?password=geheim\"".to_owned()),
        ("s.toml", format!("[MESSAGE_BUS]\nBACKEND = \"rhmsg\"\nURLS = \"{url}/path\"")),
        ("s.toml", format!("[MESSAGE_BUS]\nDELIVERY = \"transactional\"\n[MESSAGE_BUS.OUTBOX]\nDATABASE_URL = \"{url}\"")),
        ("s.toml", "[MESSAGE_BUS]\nDELIVERY = \"transactional\"\n[MESSAGE_BUS.OUTBOX]\nDATABASE_URL = \"geheim\"".to_owned()),
        ("s.toml", "[MESSAGE_BUS]\nDELIVERY = \"transactional\"\n[MESSAGE_BUS.OUTBOX]\nDATABASE_URL = \"geheim:x@h/app\"".to_owned()),
        ("s.toml", "[MESSAGE_BUS]\nDELIVERY = \"transactional\"\n[MESSAGE_BUS.OUTBOX]\nDATABASE_URL = \"postgres://jo:geheim@h:x/app\"".to_owned()),
        ("s.toml", "[MESSAGE_BUS]\nBACKEND = \"amqp10\"\nURLS = \"amqps://h\"\nCERTIFICATE = \"-----BEGIN PRIVATE KEY-----\\ngeheim\"".to_owned()),
        ("s.toml", "[MESSAGE_BUS]\nWINDOW = \"-----BEGIN PRIVATE KEY-----\\ngeheim\"\nBACKEND = \"amqp10\"\nURLS = \"amqp://h\"".to_owned()),
        ("s.yaml", format!("MESSAGE_BUS:\n  URLS: \"{url}\n  X: 1")),
        ("s.yaml", format!("MESSAGE_BUS:\n  URLS: {url}: x: *{url}")),
        ("s.yaml", format!("MESSAGE_BUS:\n  OUTBOX: {url}")),
        ("s.yaml", format!("MESSAGE_BUS: *{url}")),
        ("s.yaml", format!("MESSAGE_BUS: !{url} x")),
        ("s.yaml", format!("MESSAGE_BUS: &{url} x\nA: {{")),
        ("s.json", format!("{{\"MESSAGE_BUS\": {{\"URLS\": \"{url}\"}}")),
        ("s.json", format!("{{\"MESSAGE_BUS\": {{\"URLS\": \"{url}\n\"}}")),
        ("s.json", format!("{{\"MESSAGE_BUS\": {{\"REQUEST\": \"{url}\"}}}}")),
        ("s.json", format!("\"{url}\"")),
    ] {
        let text = refusal_of(name, &content).await;
        assert!(!text.contains("geheim"), "{content}\n{text}");
    }
}

#[tokio::test]
async fn the_configuration_of_fedora_messaging_prints_no_password() {
    for content in [
        "amqp_url = \"amqps://jo:geheim@h",
        "publish_priority = \"amqps://jo:geheim@h\"",
        "amqp_url = \"amqps://jo:geheim\"",
        "amqp_url = \"jo:geheim@h\"",
    ] {
        let (_folder, path) = file("config.toml", content);
        let text = refusal(&format!("[MESSAGE_BUS]\nBACKEND = \"fedmsg\"\nCONFIG = {path:?}")).await;
        assert!(!text.contains("geheim"), "{content}\n{text}");
        assert!(text.contains("config.toml") || text.contains("URLS"), "{text}");
    }
}

#[test]
fn the_tool_prints_no_password() {
    let (_folder, path) = file("s.toml", "[MESSAGE_BUS]\nURLS = \"amqp://jo:geheim@h");
    let path = path.to_str().unwrap();
    for (arguments, variables) in [
        (&["check", "--settings", path][..], &[][..]),
        (&["status", "--settings", path], &[]),
        (&["check", "--url", "http://jo:geheim@h"], &[]),
        (&["check", "--url", "http://h?password=geheim"], &[]),
        (&["check", "--url", "geheim@h"], &[]),
        (&["check", "--http-header", "authorization geheim"], &[]),
        (&["check"], &[("TOWER_OUTBOX_URL", "http://jo:geheim@h")]),
        (&["check"], &[("TOWER_OUTBOX_HTTP_HEADER", "geheim")]),
        (
            &["--help"],
            &[("TOWER_OUTBOX_URL", "http://jo:geheim@h"), ("TOWER_OUTBOX_HTTP_HEADER", "a: geheim")],
        ),
        (&["check"], &[("MESSAGE_BUS__OUTBOX__MAX_MESSAGES", "amqp://jo:geheim@h")]),
        (&["check"], &[("MESSAGE_BUS__BACKEND", "amqp091"), ("MESSAGE_BUS__URLS", "amqp://jo:geheim@h:x")]),
    ] {
        let output = tool(arguments, variables);
        let text = printed(&output);
        assert!(
            !text.contains("geheim") && !text.contains("panicked"),
            "{arguments:?} {variables:?}\n{text}"
        );
        assert_ne!(text, "");
    }
}

// ---- the environment

#[cfg(unix)]
#[test]
fn a_variable_that_is_no_text_is_ignored_unless_it_is_ours() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let check = |name: &[u8], value: &[u8]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tower-outbox-cli"));
        command.arg("check").env(OsStr::from_bytes(name), OsStr::from_bytes(value));
        let output = command.output().unwrap();
        (output.status.code(), printed(&output))
    };
    for (name, value) in [(&b"OTHER"[..], &b"\xff"[..]), (b"\xff", b"1"), (b"MESSAGE_BUSY", b"\xff")] {
        let (code, text) = check(name, value);
        assert!(code == Some(0) && text.contains("dummy"), "{text}");
    }
    for (name, value) in [
        (&b"MESSAGE_BUS__BACKEND"[..], &b"\xff"[..]),
        (b"message_bus__URLS", b"amqp://jo:\xff@h"),
        (b"MESSAGE_BUS__\xff", b"1"),
    ] {
        let (code, text) = check(name, value);
        let named = text.to_lowercase().contains("environment variable message_bus__");
        assert!(code == Some(1) && named && !text.contains("jo:"), "{text}");
    }
}

#[test]
fn odd_names_of_variables_are_refused_by_name() {
    for (variables, why) in [
        (&[("MESSAGE_BUS__", "1")][..], "names no key"),
        (&[("MESSAGE_BUS__OUTBOX__", "1")], "names no key"),
        (
            &[("MESSAGE_BUS__URLS[9000000000]", "amqp://h"), ("MESSAGE_BUS__BACKEND", "amqp10")],
            "URLS[9000000000]",
        ),
        (&[("MESSAGE_BUS__BACKEND", "dummy"), ("message_bus__backend", "rhmsg")], "given twice"),
        (&[("MESSAGE_BUS__OUTBOX", "x"), ("MESSAGE_BUS__OUTBOX__PATH", "y")], "given twice"),
    ] {
        let text = printed(&tool(&["check"], variables));
        assert!(text.contains("FAILED") && text.contains(why), "{variables:?}: {text}");
    }
}

// ---- files

#[tokio::test]
async fn a_file_of_settings_is_read_as_editors_write_it() {
    let text = "[MESSAGE_BUS]\nBACKEND = \"memory\"\n";
    let yaml = "MESSAGE_BUS:\n  BACKEND: memory\n";
    let json = r#"{"MESSAGE_BUS": {"BACKEND": "memory"}}"#;
    for (name, content) in [
        ("s.toml", format!("\u{feff}{text}")),
        ("S.TOML", text.replace('\n', "\r\n")),
        ("s.json", format!("\u{feff}{json}")),
        ("s.yml", format!("\u{feff}{yaml}")),
        ("s.yaml", yaml.replace('\n', "\r\n")),
    ] {
        let (_folder, path) = file(name, content);
        assert_eq!(Settings::from_file(&path).unwrap().backend, "memory", "{name}");
    }
    for (name, content, why) in [
        ("s.toml", text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>(), "UTF-16"),
        ("s.toml", b"[MESSAGE_BUS]\nX = \"\xff\"".to_vec(), "line 2 is not UTF-8"),
        ("s.ini", text.as_bytes().to_vec(), ".yaml"),
        ("s.toml", vec![b' '; (16 << 20) + 1], "larger than 16 MiB"),
    ] {
        let (_folder, path) = file(name, content);
        let said = said(Settings::from_file(&path).unwrap_err());
        assert!(said.contains(why) && said.contains(name), "{said}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(said(Settings::from_file(folder.path()).unwrap_err()).contains("directory"));
}

#[tokio::test]
async fn a_file_of_settings_without_bounds_is_refused() {
    let nested = |n: usize| (0..n).map(|n| format!("{}a:\n", " ".repeat(n))).collect::<String>();
    let lists = format!("MESSAGE_BUS:\n  URLS:\n    {}x", "- ".repeat(20_000));
    let bomb: String = ('b'..='k')
        .map(|name| {
            let before = char::from(name as u8 - 1);
            format!("{name}: &{name} [{}]\n", vec![format!("*{before}"); 9].join(","))
        })
        .collect();
    for (name, content, why) in [
        ("s.yaml", nested(3_000), "line 65: tables are nested more than 64 deep"),
        ("s.yaml", lists, "more than 64 deep"),
        ("s.yaml", format!("MESSAGE_BUS: {}", "[".repeat(100_000)), "recursion limit"),
        ("s.yaml", format!("a: &a [x,x,x,x,x,x,x,x,x]\n{bomb}"), "aliases repeat more than 64 MiB"),
        ("s.toml", format!("[MESSAGE_BUS]\nX = {}", "[".repeat(100_000)), "recursion"),
        ("s.toml", format!("[MESSAGE_BUS{}]", ".a".repeat(100_000)), "recursion"),
        ("s.json", "[".repeat(100_000), "expected a map"),
        ("s.json", format!("{{\"MESSAGE_BUS\":{}", "[".repeat(100_000)), "recursion"),
    ] {
        let said = refusal_of(name, &content).await;
        assert!(said.contains(why) && said.contains(name), "{why}: {}", &said[..said.len().min(400)]);
    }
    let (_folder, path) = file("s.yaml", "common: &b\n  BACKEND: memory\nother: *b\nMESSAGE_BUS: *b\n");
    assert_eq!(Settings::from_file(&path).unwrap().backend, "memory");
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_named_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| format!("sqlite:{}", folder.path().join(name).display());
    std::fs::write(folder.path().join("garbage.db"), "garbage ".repeat(100)).unwrap();
    let postgres = "postgres://jo:geheim@127.0.0.1/app?sslmode=odd".to_owned();
    for (url, why) in [
        (
            path("garbage.db"),
            "garbage.db) cannot be used: error returned from database: (code: 26) file is not",
        ),
        (path("missing/app.db"), "missing/app.db) cannot be used: error returned from database: (code: 14)"),
        (path("app.db?mode=odd"), "unknown value"),
        (postgres, "(postgres://***@127.0.0.1/app?sslmode=odd) cannot be used"),
    ] {
        let outbox = format!("[MESSAGE_BUS.OUTBOX]\nDATABASE_URL = \"{url}\"");
        let said = refusal(&format!("[MESSAGE_BUS]\nDELIVERY = \"transactional\"\n{outbox}")).await;
        assert!(said.contains(why) && said.contains("OUTBOX.DATABASE_URL"), "{why}: {said}");
        assert!(!said.contains("geheim"), "{said}");
    }
}

// ---- certificates

/// A certificate and its key.
fn pair() -> (String, String) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["h".to_owned()]).unwrap();
    (cert.pem(), signing_key.serialize_pem())
}

/// Why the backend cannot be set up with these files, if so.
async fn tls(keys: &str) -> Option<String> {
    let text = format!("[MESSAGE_BUS]\nBACKEND = \"amqp10\"\nURLS = \"amqps://127.0.0.1:1\"\n{keys}");
    let (_folder, path) = file("s.toml", text);
    Bus::start(&Settings::from_file(&path).unwrap()).await.err().map(said)
}

#[tokio::test]
async fn a_certificate_is_read_as_editors_and_tools_write_it() {
    let (certificate, key) = pair();
    let both = format!("{certificate}{key}");
    for content in [
        both.clone(),
        format!("\u{feff}{both}"),
        both.replace('\n', "\r\n"),
        both.replace('\n', "  \r\n"),
        both.replace('\n', "\n   "),
        both.replace('\n', "\r"),
        format!("Bag Attributes\n  friendlyName: jo\n{both}\n\ntext after it"),
        format!("{key}{certificate}{certificate}"),
        both.trim_end().to_owned(),
    ] {
        let (_folder, path) = file("pair.pem", &content);
        assert_eq!(tls(&format!("CERTIFICATE = {path:?}\nCACERT = {path:?}")).await, None, "{content}");
    }
    let mut latin = b"subject=/O=M\xfcller\n".to_vec();
    latin.extend(both.as_bytes());
    let (_folder, path) = file("pair.pem", latin);
    assert_eq!(tls(&format!("CERTIFICATE = {path:?}")).await, None);
}

#[tokio::test]
async fn every_fault_of_a_certificate_names_setting_file_number_and_cure() {
    let (certificate, key) = pair();
    let (other, _) = pair();
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    let marked: Vec<u8> = [0xff, 0xfe].into_iter().chain(utf16(&certificate)).collect();
    let half = certificate.len() / 2;
    let spoilt = certificate.replacen("MII", "QUJ", 1);
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    for (content, whys) in [
        (Vec::new(), &["CACERT", "it is empty"][..]),
        (b" \n\n".to_vec(), &["it is empty"]),
        (utf16(&certificate), &["UTF-16", "save it as UTF-8"]),
        (marked, &["UTF-16"]),
        (vec![0x30, 0x82, 1, 2, 3], &["DER", "openssl"]),
        (key.clone().into_bytes(), &["holds no certificate", "PRIVATE KEY"]),
        (encrypted.clone().into_bytes(), &["encrypted", "openssl pkey"]),
        (b"hello".to_vec(), &["another text"]),
        (certificate.as_bytes()[..half].to_vec(), &["certificate 1", "cut off"]),
        (format!("{certificate}{spoilt}").into_bytes(), &["certificate 2", "no X.509"]),
        (
            format!("{certificate}{certificate}-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----")
                .into_bytes(),
            &["certificate 3", "base64"],
        ),
        (vec![b'\n'; (16 << 20) + 1], &["larger than 16 MiB"]),
    ] {
        let (folder, path) = file("ca.pem", content);
        let said = tls(&format!("CACERT = {path:?}")).await.unwrap();
        let check = {
            let text = format!(
                "[MESSAGE_BUS]\nBACKEND = \"amqp10\"\nURLS = \"amqps://127.0.0.1:1\"\nCACERT = {path:?}"
            );
            let settings = folder.path().join("s.toml");
            std::fs::write(&settings, text).unwrap();
            printed(&tool(&["check", "--settings", settings.to_str().unwrap()], &[]))
        };
        for said in [said, check] {
            assert!(said.contains("CACERT") && said.contains("ca.pem"), "{said}");
            assert!(whys.iter().all(|why| said.contains(why)), "{whys:?}: {said}");
        }
    }
    let (_folder, good) = file("good.pem", &certificate);
    for (content, whys) in [
        (other.as_str(), &["PRIVATE_KEY", "holds no private key", "holds a CERTIFICATE"][..]),
        (&encrypted, &["its key is encrypted", "openssl pkey"]),
        (legacy, &["its key is encrypted"]),
        ("", &["it is empty"]),
        ("-----BEGIN PRIVATE KEY-----\n!!geheim\n-----END PRIVATE KEY-----", &["base64"]),
        ("-----BEGIN PRIVATE KEY-----\nAAAA", &["cut off"]),
    ] {
        let (_folder, path) = file("key.pem", content);
        let said = tls(&format!("CERTIFICATE = {good:?}\nPRIVATE_KEY = {path:?}")).await.unwrap();
        assert!(whys.iter().all(|why| said.contains(why)) && said.contains("key.pem"), "{whys:?}: {said}");
        assert!(!said.contains("geheim"), "{said}");
    }
    let (_other, path) = file("key.pem", pair().1);
    let said = tls(&format!("CERTIFICATE = {good:?}\nPRIVATE_KEY = {path:?}")).await.unwrap();
    assert!(said.contains("does not fit the certificate") && said.contains("good.pem"), "{said}");
    let folder = tempfile::tempdir().unwrap();
    let said = tls(&format!("CACERT = {:?}", folder.path())).await.unwrap();
    assert!(said.contains("CACERT") && said.contains("directory"), "{said}");
    let inline = key.replace('\n', "\\n");
    let said = tls(&format!("CERTIFICATE = {good:?}\nPRIVATE_KEY = \"{inline}\"")).await.unwrap();
    assert!(said.contains("PRIVATE_KEY holds the text of a PEM") && !said.contains(&key[40..60]), "{said}");
}

// ---- values

#[tokio::test]
async fn a_value_without_sense_is_refused_by_its_key_and_with_the_cure() {
    let broker = "BACKEND = \"amqp10\"\nURLS = \"amqp://127.0.0.1:1\"\n";
    for (text, whys) in [
        ("[MESSAGE_BUS.REQUEST]\nMAX_MESSAGES = 0", &["REQUEST.MAX_MESSAGES is 0", "1 or more"][..]),
        ("[MESSAGE_BUS.REQUEST]\nMAX_MESSAGES = -1", &["max_messages", "-1"]),
        ("[MESSAGE_BUS.REQUEST]\nMAX_MESSAGES = nan", &["max_messages", "NaN"]),
        ("[MESSAGE_BUS.REQUEST]\nMAX_MESSAGES = inf", &["max_messages", "inf"]),
        ("[MESSAGE_BUS.REQUEST]\nMAX_MESSAGES = [1]", &["max_messages", "sequence"]),
        ("[MESSAGE_BUS.REQUEST]\nMAX_MESSAGES = 99999999999999999999999999", &["request.max_messages"]),
        ("[MESSAGE_BUS.REQUEST]\nMAX_BYTES = \"1e30GiB\"", &["max_bytes", "1e30GiB", "8MiB"]),
        ("[MESSAGE_BUS.REQUEST]\nMAX_BYTES = \"99999999999999GiB\"", &["max_bytes", "8MiB"]),
        ("[MESSAGE_BUS.REQUEST]\nMAX_BYTES = \"-5MiB\"", &["max_bytes", "-5MiB"]),
        ("[MESSAGE_BUS.REQUEST]\nMAX_BYTES = -5", &["max_bytes", "-5"]),
        ("[MESSAGE_BUS.REQUEST]\nMAX_BYTES = \"\"", &["max_bytes"]),
        ("[MESSAGE_BUS.REQUEST]\nMAX_BYTES = []", &["max_bytes", "8MiB"]),
        ("[MESSAGE_BUS.REQUEST]\nIDEMPOTENCY_KEY = \"maybe\"", &["idempotency_key", "maybe"]),
        ("[MESSAGE_BUS.BACKGROUND]\nMAX_MESSAGES = 0", &["BACKGROUND.MAX_MESSAGES is 0"]),
        ("[MESSAGE_BUS.BACKGROUND]\nMAX_MESSAGES = 4294967296", &["max_messages", "4294967296"]),
        ("[MESSAGE_BUS.OUTBOX]\nWINDOW = 0", &["OUTBOX.WINDOW is 0", "1 or more"]),
        ("[MESSAGE_BUS.OUTBOX]\nWINDOW = 9223372036854775807", &["OUTBOX.WINDOW", "1000000 or less"]),
        ("[MESSAGE_BUS.OUTBOX]\nMAX_CONNECTIONS = 0", &["OUTBOX.MAX_CONNECTIONS is 0"]),
        ("[MESSAGE_BUS.OUTBOX]\nMAX_CONNECTIONS = 4294967295", &["OUTBOX.MAX_CONNECTIONS", "10000 or less"]),
        ("[MESSAGE_BUS.OUTBOX]\nMAX_ATTEMPTS = 0", &["OUTBOX.MAX_ATTEMPTS is 0"]),
        ("[MESSAGE_BUS.OUTBOX]\nLEASE = 0", &["OUTBOX.LEASE is 0", "or more"]),
        ("[MESSAGE_BUS.OUTBOX]\nLEASE = \"10 years\"", &["OUTBOX.LEASE", "or less"]),
        ("[MESSAGE_BUS.OUTBOX]\nEXPIRY = 0", &["OUTBOX.EXPIRY is 0"]),
        ("[MESSAGE_BUS.OUTBOX]\nEXPIRY = \"99999999999999 y\"", &["expiry", "99999999999999 y", "30s"]),
        ("[MESSAGE_BUS.OUTBOX]\nEXPIRY = \"1e300\"", &["expiry", "30s"]),
        ("[MESSAGE_BUS.OUTBOX]\nEXPIRY = \"NaN\"", &["expiry", "30s"]),
        ("[MESSAGE_BUS.OUTBOX]\nEXPIRY = -0.5", &["expiry", "-0.5", "30s"]),
        ("[MESSAGE_BUS.OUTBOX]\nEXPIRY = true", &["expiry", "30s"]),
        ("[MESSAGE_BUS.OUTBOX]\nPATH = \"\"", &["OUTBOX.PATH is empty"]),
        ("[MESSAGE_BUS.OUTBOX]\nWHEN_FULL = \"\"", &["when_full", "drop_oldest"]),
        ("[MESSAGE_BUS.OUTBUX]\nPATH = \"x\"", &["OUTBUX", "did you mean OUTBOX?"]),
        ("[MESSAGE_BUS]\nDelivery = \"direct\"\nDELIVERY = \"direct\"", &["delivery", "twice"]),
        ("[MESSAGE_BUS]\nBACKEND = \"\"", &["BACKEND", "known are"]),
        ("[MESSAGE_BUS]\nBACKEND = [\"amqp10\"]", &["backend", "sequence"]),
        ("[MESSAGE_BUS.CONSUMERS.a]\nCONCURRENCY = 0", &["CONSUMERS.A.CONCURRENCY is 0"]),
        (
            "[MESSAGE_BUS.CONSUMERS.a]\nCONCURRENCY = 9223372036854775807",
            &["CONSUMERS.A.CONCURRENCY", "or less"],
        ),
        ("[MESSAGE_BUS.CONSUMERS.a]\nMAX_ATTEMPTS = 0", &["CONSUMERS.A.MAX_ATTEMPTS is 0"]),
        ("[MESSAGE_BUS.CONSUMERS.a]\nTIMEOUT = 0", &["CONSUMERS.A.TIMEOUT is 0"]),
        ("[MESSAGE_BUS.CONSUMERS.a]\nTIMEOUT = \"soon\"", &["timeout", "CONSUMERS.A"]),
        ("[MESSAGE_BUS.CHAOS]\nFAILED = 1.5", &["CHAOS.FAILED is 1.5"]),
        ("[MESSAGE_BUS]\nBACKEND = \"amqp10\"\nURLS = []", &["URLS is empty"]),
        ("[MESSAGE_BUS]\nBACKEND = \"amqp10\"\nURLS = \"\"", &["URLS is empty"]),
        ("[MESSAGE_BUS]\nBACKEND = \"amqp10\"\nURLS = [\"\"]", &["URLS", "not a URL"]),
        (
            "[MESSAGE_BUS]\nBACKEND = \"amqp10\"\nURLS = \"amqp://h:99999\"",
            &["amqp://h:99999", "amqps://host:5671"],
        ),
        ("[MESSAGE_BUS]\nBACKEND = \"amqp10\"\nURLS = \"amqp://h:0\"", &["amqp://h:0", "port is 0"]),
        ("[MESSAGE_BUS]\nBACKEND = \"amqp10\"\nURLS = [\"amqp://h h\"]", &["URLS", "amqps://host:5671"]),
        ("[MESSAGE_BUS]\nBACKEND = \"amqp10\"\nURLS = \"amqp://bücher.example\"", &["xn--"]),
        ("[MESSAGE_BUS]\nBACKEND = \"amqp10\"\nURLS = \"amqp://jo:a%00b@h\"", &["NUL", "amqp://***@h"]),
        (
            "[MESSAGE_BUS]\nBACKEND = \"amqp10\"\nURLS = \"amqp://jo:a%zz@h\"",
            &["percent-encoded", "amqp://***@h"],
        ),
        ("[MESSAGE_BUS]\nBACKEND = \"amqp10\"\nURLS = \"amqp://[::1\"", &["URLS"]),
        (
            &format!("[MESSAGE_BUS]\nBACKEND = \"amqp091\"\nURLS = \"amqp://h/{}\"", "v".repeat(256)),
            &["its virtual host is longer than 255 bytes"],
        ),
        (
            &format!("[MESSAGE_BUS]\nBACKEND = \"amqp091\"\nURLS = \"amqp://{}\"", "h".repeat(100_000)),
            &["its host is longer than 255 bytes"],
        ),
    ] {
        let said = refusal(text).await;
        assert!(whys.iter().all(|why| said.contains(why)), "{text}\n{whys:?}\n{said}");
    }
    for (key, why) in [
        ("WINDOW = 0", "WINDOW"),
        ("WINDOW = -1", "window"),
        ("CONNECTION_TIMEOUT = 0", "CONNECTION_TIMEOUT"),
        ("CONNECTION_TIMEOUT = \"99999999999999 y\"", "connection_timeout"),
        ("PRIORITY = 256", "priority"),
        ("WINDOWS = 1", "did you mean WINDOW?"),
        ("TOPIC_PREFIX = \"a b\\u0000\"", "TOPIC_PREFIX"),
        ("CERTIFICATE = [1]", "certificate"),
    ] {
        let said = refusal(&format!("[MESSAGE_BUS]\n{broker}{key}")).await;
        assert!(said.contains(why), "{key}: {said}");
    }
}

#[tokio::test]
async fn the_largest_values_are_taken_and_nothing_panics() {
    let most = i64::MAX;
    let text = format!(
        "[MESSAGE_BUS]\nBACKEND = \"memory\"\nDELIVERY = \"background\"\n[MESSAGE_BUS.REQUEST]\nMAX_MESSAGES = {most}\nMAX_BYTES = {most}\n\
         [MESSAGE_BUS.BACKGROUND]\nMAX_MESSAGES = 4294967295\nMAX_BYTES = 4294967295\n\
         [MESSAGE_BUS.CONSUMERS.a]\nCONCURRENCY = 1000000\nMAX_ATTEMPTS = 4294967295\nTIMEOUT = \"1000 years\"\nMAX_BACKOFF = \"1000 years\"\nMAX_BYTES = {most}"
    );
    let (_folder, path) = file("s.toml", text);
    let variables = [
        ("MESSAGE_BUS__OUTBOX__MAX_MESSAGES", "18446744073709551615"),
        ("MESSAGE_BUS__OUTBOX__MAX_ATTEMPTS", "7"),
    ];
    let output = tool(&["check", "--settings", path.to_str().unwrap()], &variables);
    assert!(output.status.success(), "{}", printed(&output));
    let bus = Bus::start(&Settings::from_file(&path).unwrap()).await.unwrap();
    let consumer = bus.consumer("a", axum::Router::new()).unwrap();
    let running = tokio::spawn(
        consumer.with_graceful_shutdown(std::future::ready(()), std::time::Duration::from_secs(5)),
    );
    running.await.unwrap();
    let _ = bus.shutdown(std::time::Duration::from_secs(5)).await;
}
