//! The version of Rust that Cargo.toml and the README promise.

use std::collections::HashMap;
use std::process::Command;

use serde_json::Value;

use crate::peers::root;

/// A version of Rust, as its major and minor numbers.
type Version = (u64, u64);

fn version(text: &str) -> Version {
    let (major, minor) = text.split_once('.').unwrap();
    (major.parse().unwrap(), minor.split('.').next().unwrap().parse().unwrap())
}

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output =
        Command::new(cargo).args(arguments).args(["--locked", "--offline"]).current_dir(root()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The highest version that a package needs which is compiled with this feature, and the name of that package.
fn highest(feature: &str, needs: &HashMap<String, Version>) -> (Version, String) {
    let tree = cargo(&[
        "tree",
        "--package=tower-outbox",
        "--edges=normal,build",
        "--prefix=none",
        "--format={p}",
        "--no-default-features",
        "--features",
        feature,
    ]);
    let packages = tree.lines().skip(1).filter_map(|line| {
        let mut words = line.split(' ');
        let package = format!("{} {}", words.next()?, words.next()?.trim_start_matches('v'));
        Some((*needs.get(&package)?, package))
    });
    packages.max().unwrap()
}

#[test]
fn each_feature_compiles_with_the_version_of_rust_that_is_promised_for_it() {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--format-version=1"])).unwrap();
    let needs = metadata["packages"].as_array().unwrap().iter().filter_map(|package| {
        let name = format!("{} {}", package["name"].as_str()?, package["version"].as_str()?);
        Some((name, version(package["rust_version"].as_str()?)))
    });
    let needs: HashMap<_, _> = needs.collect();

    let manifest: toml::Table = std::fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let promised = version(manifest["package"]["rust-version"].as_str().unwrap());
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, text) = readme.split_once("Rust 1.").expect("the README names the version of Rust");
    let minor = |text: &str| (1, text[..2].parse().unwrap());
    assert_eq!(minor(text), promised, "README and Cargo.toml");
    let promised_with = |features: &str| {
        let (before, _) = text.split_once(features).expect("the README names the version for a feature");
        minor(&before[before.len() - 2..])
    };
    let with_databases = promised_with(" with `postgres` or `sqlite`");
    let with_kafka = promised_with(" with `kafka`");

    for feature in manifest["features"].as_table().unwrap().keys() {
        let (needed, package) = highest(feature, &needs);
        match feature.as_str() {
            "postgres" | "sqlite" | "_sql" => assert_eq!(needed, with_databases, "{feature}: {package}"),
            "kafka" => assert_eq!(needed, with_kafka, "{feature}: {package}"),
            _ => assert!(needed <= promised, "{feature}: {package} needs {needed:?}"),
        }
    }
}
