//! The folders are the trust map: dependencies point down, and every crate keeps the lints.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What both ends of a channel must do alike.
const WIRES: [&str; 4] = [
    "helper/wire",
    "helper/tree",
    "helper/journal",
    "helper/proto",
];

/// Packages of the workspace: folder, name, names of its own path dependencies.
fn packages() -> Vec<(String, PathBuf, Vec<String>)> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let root = Path::new(metadata["workspace_root"].as_str().expect("a path"));
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    metadata["packages"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|package| {
            let manifest = PathBuf::from(text(&package["manifest_path"]));
            let folder = manifest
                .parent()
                .and_then(|path| path.strip_prefix(root).ok());
            let folder = folder.expect("in the workspace").display().to_string();
            let own = package["dependencies"]
                .as_array()
                .expect("a list")
                .iter()
                .filter(|dependency| dependency["path"].is_string() && dependency["kind"].is_null())
                .map(|dependency| {
                    let path = PathBuf::from(text(&dependency["path"]));
                    let path = path.strip_prefix(root).expect("in the workspace");
                    path.display().to_string()
                });
            (folder, manifest, own.collect())
        })
        .collect()
}

#[test]
fn dependencies_point_down() {
    let packages = packages();
    assert!(packages.len() > 10);
    for (folder, _, dependencies) in &packages {
        for dependency in dependencies {
            // Nothing at all but in tests.
            let points = dependency == "helper/failpoint";
            let wire = WIRES.contains(&dependency.as_str());
            let allowed = match folder.split('/').next().unwrap() {
                "bins" => dependency.starts_with("lib/") || dependency == "helper/wire",
                "lib" => dependency.starts_with("lib/") || wire || points,
                // What runs as root, or beside or inside a guest shares nothing but the wire.
                "helper" => wire || points,
                "tests" => false,
                "xtask" => dependency == "tests",
                other => panic!("`{other}` is no folder of the trust map"),
            };
            assert!(allowed, "{folder} must not depend on {dependency}");
        }
    }
}

#[test]
fn every_crate_keeps_the_lints_and_is_used() {
    let packages = packages();
    for (folder, manifest, _) in &packages {
        let text = std::fs::read_to_string(manifest).unwrap();
        assert!(
            text.contains("[lints]\nworkspace = true"),
            "{folder} has lints of its own"
        );
        let shared =
            folder.starts_with("lib/") || matches!(&**folder, "helper/wire" | "helper/proto");
        let used = packages
            .iter()
            .any(|(_, _, dependencies)| dependencies.contains(folder));
        // The executables' tests do.
        let for_tests = folder == "lib/generated";
        assert!(used || for_tests || !shared, "nothing uses {folder}");
    }
}
