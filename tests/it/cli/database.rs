//! The tool on an outbox in a database.

use serde_json::Value;
use tempfile::TempDir;

use super::tool;

fn settings(folder: &TempDir) -> String {
    let url = format!("sqlite:{}", folder.path().join("app.db").display());
    let path = folder.path().join("settings.toml");
    let text = format!(
        "[MESSAGE_BUS]\nDELIVERY = \"transactional\"\n[MESSAGE_BUS.OUTBOX]\nDATABASE_URL = \"{url}\"\n"
    );
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn it_makes_the_tables_stores_a_message_and_drops_it() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder);
    let on = |args: &[&str]| {
        let args = [&["--settings", settings.as_str()], args].concat();
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        async move { tool(&args.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };
    on(&["status"]).await.fails(4, "tower-outbox migrate");
    let version = on(&["migrate", "--json"]).await.json()["version"].as_u64().unwrap();
    assert!(version >= 1);
    let again = on(&["migrate"]).await.ok();
    assert!(again.contains(&format!("have version {version}")), "{again}");
    let checked = on(&["check", "--json"]).await.json();
    let findings = checked["findings"].as_array().unwrap();
    let of_outbox = findings.iter().find(|finding| finding["what"] == "OUTBOX").unwrap();
    assert_eq!(of_outbox["level"], "ok", "{checked}");

    on(&["send", "user.created", "{\"id\": 7}"]).await.ok();
    let pending = |status: &Value| status["outbox"]["pending"].as_u64().unwrap();
    assert_eq!(pending(&on(&["status", "--json"]).await.json()), 1);
    let listed = on(&["list", "--json"]).await.json_lines();
    assert_eq!(listed[0]["topic"], "user.created");
    on(&["drop", "--topic", "user.created", "--yes"]).await.ok();
    assert_eq!(pending(&on(&["status", "--json"]).await.json()), 0);
}

#[tokio::test]
async fn the_state_of_an_app_that_was_not_asked_is_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder);
    let on = ["--settings", settings.as_str()];
    tool(&[&on[..], &["migrate"]].concat()).await.ok();
    tool(&[&on[..], &["send", "user.created", "{}"]].concat()).await.ok();
    let status = tool(&[&on[..], &["status"]].concat()).await.ok();
    assert!(
        status.contains("not asked; --url asks a running app") && !status.contains("stopped"),
        "{status}"
    );
    assert_eq!(tool(&[&on[..], &["status", "--json"]].concat()).await.json()["running"], Value::Null);
    let listed = tool(&[&on[..], &["list"]].concat()).await.ok();
    assert!(listed.contains("a running app sends it") && !listed.contains("the app is stopped"), "{listed}");
}

/// The cure for a shell is a key or an option, not a function.
#[tokio::test]
async fn a_missing_database_url_is_named_as_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("settings.toml");
    std::fs::write(&path, "[MESSAGE_BUS]\nDELIVERY = \"transactional\"\n").unwrap();
    for command in ["status", "migrate", "list"] {
        let run = tool(&["--settings", path.to_str().unwrap(), command]).await;
        assert!(
            run.err.contains("MESSAGE_BUS__OUTBOX__DATABASE_URL") && run.err.contains("--url"),
            "{run:?}"
        );
        assert!(!run.err.contains("with_postgres"), "{run:?}");
        assert_eq!(run.code, 4);
    }
}
