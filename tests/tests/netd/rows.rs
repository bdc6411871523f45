//! What must be written down.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a directory of the workspace")
        .to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Verbs of the match that performs them; it is exhaustive, so it has all.
fn verbs() -> Vec<String> {
    let text = read("helper/proto/src/message.rs");
    let verbs = text
        .lines()
        .filter(|line| line.trim_start().starts_with("Request::"));
    let mut verbs: Vec<_> = verbs
        .filter_map(|line| {
            Some(
                line.split_once("=> \"")?
                    .1
                    .trim_end_matches("\",")
                    .to_owned(),
            )
        })
        .collect();
    verbs.sort();
    verbs
}

#[test]
fn each_verb_has_a_row_and_each_row_a_verb_and_a_test() {
    let table = read("helper/netd/OPERATIONS.md");
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let mut named = Vec::new();
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [verb, who, capability, inputs, effect, undo, test] = cells[..] else {
            panic!("a row has seven cells: {row}");
        };
        let verb = verb.trim_matches('`').to_owned();
        for cell in [who, capability, inputs, effect, undo] {
            assert!(!cell.is_empty(), "an empty cell: {row}");
        }
        let (file, function) = test
            .trim_matches('`')
            .split_once("::")
            .expect("file::function");
        let place = format!("tests/tests/netd/{file}.rs");
        assert!(
            read(&place).contains(&format!("fn {function}()")),
            "{place} has no {function}"
        );
        let code = format!("helper/netd/src/operations/{verb}.rs");
        assert!(root().join(&code).exists(), "{verb} is not in {code}");
        named.push(verb);
    }
    named.sort();
    assert_eq!(named, verbs());
    assert!(named.len() > 10, "{named:?}");
}

/// A new one is a decision: all of it runs as root.
#[test]
fn what_runs_as_root_depends_on_what_is_named_here() {
    let allowed = [
        "banger-failpoint",
        "banger-proto",
        "futures-util",
        "nix",
        "rtnetlink",
        "serde",
        "serde_json",
        "tokio",
    ];
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let netd = packages
        .iter()
        .find(|package| package["name"] == "banger-netd")
        .unwrap();
    let mut direct: Vec<_> = netd["dependencies"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|dependency| dependency["kind"].is_null())
        .map(|dependency| dependency["name"].as_str().unwrap())
        .collect();
    direct.sort_unstable();
    assert_eq!(direct, allowed);
}
