//! The host's real archive: one minimal system, and one that is given up.

#![allow(clippy::unwrap_used)] // Tests, with helpers outside of test functions.

use std::collections::BTreeMap;
use std::io::Read;

use lib_distro::{DistroError, RootFile, RootTarRequest, host, kernel_package, root_tar};
use lib_model::{Diagnose, Silent};

#[test]
fn a_minimal_system_has_what_was_asked_for_and_nothing_of_the_host() {
    let request = RootTarRequest {
        include: vec!["busybox-static".into()],
        files: vec![RootFile {
            path: "/etc/banger-nonce".into(),
            content: b"4711\n".to_vec(),
        }],
        ..RootTarRequest::default()
    };
    let tar = root_tar(&request, &Silent).unwrap();
    assert_eq!(tar.reference(), host().unwrap().reference);
    let mut archive = tar::Archive::new(tar);
    let mut small = BTreeMap::new();
    let mut names = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry
            .path()
            .unwrap()
            .to_str()
            .unwrap()
            .trim_start_matches("./")
            .to_owned();
        if [
            "etc/banger-nonce",
            "etc/apt/sources.list",
            "var/lib/dpkg/status",
        ]
        .contains(&&*name)
        {
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            small.insert(name.clone(), text);
        }
        names.push(name);
    }
    // Past the end of the archive: here the exit status is checked.
    std::io::copy(&mut archive.into_inner(), &mut std::io::sink()).unwrap();
    assert_eq!(small["etc/banger-nonce"], "4711\n");
    let installed: Vec<&str> = small["var/lib/dpkg/status"]
        .lines()
        .filter_map(|l| l.strip_prefix("Package: "))
        .collect();
    for package in [
        "base-files",
        "bash",
        "dpkg",
        "apt",
        "libc6",
        "coreutils",
        "busybox-static",
    ] {
        assert!(
            installed.contains(&package),
            "{package} is not in {installed:?}"
        );
    }
    assert!(
        !installed.contains(&"systemd") && installed.len() < 130,
        "{installed:?}"
    );
    let sources = &small["etc/apt/sources.list"];
    assert!(sources.contains(&host().unwrap().codename), "{sources}");
    assert!(!sources.contains("nodesource"), "{sources}");
    for name in [
        "etc/hostname",
        "etc/resolv.conf",
        "etc/apt/apt.conf.d/99mmdebstrap",
    ] {
        assert!(!names.iter().any(|n| n == name), "{name} is the host's");
    }
}

#[test]
fn what_is_given_up_or_fails_leaves_nothing_behind() {
    let scratch = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "child_gives_up", "--nocapture"]);
    let output = command.env("TMPDIR", scratch.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let left: Vec<_> = std::fs::read_dir(scratch.path())
        .unwrap()
        .flatten()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Run by the test above with a temporary directory of its own.
#[test]
#[ignore = "a part of another test"]
fn child_gives_up() {
    drop(root_tar(&RootTarRequest::default(), &Silent).unwrap());
    let request = RootTarRequest {
        suite: Some("no-such-suite".into()),
        mirror: Some("http://127.0.0.1:9/debian".into()),
        ..RootTarRequest::default()
    };
    let mut tar = root_tar(&request, &Silent).unwrap();
    let error = tar.read_to_end(&mut Vec::new()).unwrap_err().to_string();
    assert!(
        error.contains("mmdebstrap failed (exit status: "),
        "{error}"
    );
    assert!(error.contains("127.0.0.1"), "{error}");
}

#[test]
fn the_kernel_is_downloaded_once() {
    let directory = tempfile::tempdir().unwrap();
    let package = kernel_package(directory.path(), &Silent).unwrap();
    let made = package.image.metadata().unwrap().modified().unwrap();
    assert!(
        package
            .image
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("linux-image-")
    );
    assert_eq!(kernel_package(directory.path(), &Silent).unwrap(), package);
    assert_eq!(package.image.metadata().unwrap().modified().unwrap(), made);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_bad_request_is_a_usage_error() {
    let request = RootTarRequest {
        suite: Some("-x".into()),
        ..RootTarRequest::default()
    };
    let error = root_tar(&request, &Silent).err().unwrap();
    assert!(matches!(&error, DistroError::BadRequest { .. }));
    assert_eq!(error.exit(), lib_model::Exit::Usage);
}
