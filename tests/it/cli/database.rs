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
