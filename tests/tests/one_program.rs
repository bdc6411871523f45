//! An image that is one static program and nothing else: no shell, no accounts, no directory. It is the first that the
//! guest runs, too, and finds loopback up.

use std::process::Command;

use banger_tests::{Compression, Entry, Image, Layer, Sandbox, skipped};
use serde_json::json;

/// The example `witness`, for a guest that has nothing to link it to.
fn witness(sandbox: &Sandbox) -> Vec<u8> {
    let program = sandbox.path("witness");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/witness.rs");
    let compiled = Command::new("rustc")
        .args(["--edition", "2024", "-C", "target-feature=+crt-static"])
        .args(["-C", "strip=symbols", "-o"])
        .args([program.as_os_str(), source.as_ref()])
        .output()
        .expect("the compiler of these tests is there");
    let said = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{said}");
    std::fs::read(program).expect("it was written just now")
}

#[test]
fn runs_with_its_arguments_environment_user_and_directory() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let layer = Layer::new(
        &[Entry::File("witness".into(), 0o755, witness(&sandbox))],
        Compression::Gzip,
    )
    .expect("nothing but memory is needed");
    let mut image = Image::new(vec![layer]);
    image.config = json!({
        "Entrypoint": ["/witness", "first"], "Cmd": ["two words", ""],
        "Env": ["GREETING=hello world", "EMPTY="],
        "User": "4242:4343", "WorkingDir": "/not/there/yet",
    });
    let archive = sandbox.path("witness.tar");
    image
        .write_archive(&archive, "witness:1")
        .expect("the sandbox can be written");
    sandbox
        .sh(&format!("banger-image import {}", archive.display()))
        .ok();
    let ran = sandbox.sh("banger-vm run --quiet --network none witness:1");
    assert_eq!(
        ran.exits(42).stdout,
        r#"arguments ["/witness", "first", "two words", ""]
environment [("EMPTY", ""), ("GREETING", "hello world"), ("HOME", "/"), ("LANG", "C.UTF-8"), ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")]
Uid: 4242 4242 4242 4242
Gid: 4343 4343 4343 4343
Groups: 4343
directory Ok(("/not/there/yet", Some(0)))
127.0.0.1:0 Ok(())
[::1]:0 Ok(())
"#,
        "{ran}"
    );
    assert_eq!(sandbox.sh("banger-vm list").ok(), "", "it is gone");
}
