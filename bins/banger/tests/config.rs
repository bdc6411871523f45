//! `banger config show` as people and programs see it.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn show(directory: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_banger"))
        .args(["config", "show"])
        .args(arguments)
        .env_clear()
        .env("XDG_CONFIG_HOME", directory)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn place(config: &str) -> tempfile::TempDir {
    let base = tempfile::tempdir().unwrap();
    std::fs::create_dir(base.path().join("banger")).unwrap();
    std::fs::write(base.path().join("banger/config.toml"), config).unwrap();
    base
}

#[test]
fn settings_are_shown_with_their_origin_and_give_the_same_when_read_again() {
    let base =
        place("[vm]\nmemory = \"2G\"\n[registry.mirrors]\n\"a.example\" = [\"b.example\"]\n");
    let shown = show(
        base.path(),
        &[("BANGER_VM_CPUS", "3")],
        &["--toml", "--origin"],
    );
    let shown = text(&shown.stdout);
    let file = base.path().join("banger/config.toml");
    for line in [
        "cpus = 3   # BANGER_VM_CPUS".to_owned(),
        format!("memory = \"2G\"   # {}:2", file.display()),
        format!(
            "mirrors.\"a.example\" = [\"b.example\"]   # {}:4",
            file.display()
        ),
        "# accel is not set".to_owned(),
    ] {
        assert!(shown.lines().any(|there| there == line), "{line}\n{shown}");
    }
    let again = place(&shown);
    let plain = |base: &Path, set: &[(&str, &str)]| text(&show(base, set, &["--toml"]).stdout);
    assert_eq!(
        plain(again.path(), &[]),
        plain(base.path(), &[("BANGER_VM_CPUS", "3")])
    );
}

#[test]
fn programs_get_a_record_for_each_setting() {
    let base = place("vm.memory = \"2G\"\n");
    let shown = text(&show(base.path(), &[], &[]).stdout);
    let records: Vec<serde_json::Value> = shown
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let memory = records.iter().find(|record| record["key"] == "vm.memory");
    let memory = memory.unwrap();
    assert_eq!(
        (&memory["kind"], &memory["value"]),
        (&"setting".into(), &"2G".into())
    );
    assert!(
        memory["origin"]
            .as_str()
            .unwrap()
            .ends_with("banger/config.toml:1")
    );
    let cpus = records.iter().find(|record| record["key"] == "vm.cpus");
    assert_eq!(cpus.unwrap()["value"], serde_json::Value::Null);
    assert_eq!(shown, text(&show(base.path(), &[], &["--json"]).stdout));
}

#[test]
fn a_slip_is_an_error_with_its_place_and_a_hint() {
    let base = place("[vm]\ncpu = 1\n");
    let shown = show(base.path(), &[], &[]);
    assert_eq!(
        (shown.status.code(), text(&shown.stdout)),
        (Some(2), String::new())
    );
    let file = base.path().join("banger/config.toml");
    assert_eq!(
        text(&shown.stderr),
        format!(
            "error: {}:2: there is no setting `vm.cpu`\nhint: did you mean `vm.cpus`?\n",
            file.display()
        )
    );
}
