//! The guide: its lines are those of the code.

use std::path::Path;

use crate::peers::root;

/// All texts of the sources, with continued strings joined.
fn sources(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_log_line_of_the_troubleshooting_page_exists() {
    let page = std::fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let mut text = String::new();
    sources(&root().join("src"), &mut text);
    let lines: Vec<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |").map(|(line, _)| line))
        .collect();
    assert!(lines.len() > 30, "{lines:?}");
    let missing: Vec<_> = lines.iter().filter(|line| !text.contains(**line)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_page_is_in_the_guide() {
    let guide = std::fs::read_to_string(root().join("src/guide.rs")).unwrap();
    for entry in std::fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(page) = name.strip_suffix(".md") else { continue };
        let row = format!("[`{}`]", page.replace('-', "_"));
        assert!(guide.contains(&format!("../docs/{name}")) && guide.contains(&row), "{name}");
    }
}

/// The settings of the order service are the app's whole settings file.
#[test]
fn the_settings_of_the_order_service_are_read() {
    let page = std::fs::read_to_string(root().join("docs/order-service.md")).unwrap();
    let (_, rest) = page.split_once("```toml\n").unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.toml");
    std::fs::write(&file, text).unwrap();
    let settings = tower_outbox::Settings::from_file(file).unwrap();
    let described = tower_outbox::bus::Description::of(&settings).to_string();
    assert!(described.contains("consumer shipping") && described.contains("shipping.dead"), "{described}");
}
