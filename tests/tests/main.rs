//! All end-to-end tests in one executable: a test that waits for a guest, a server or a deadline leaves the processors to
//! the others, and the harness is linked once.

mod archives;
mod bridge;
mod clumsy;
mod configuration;
mod copy;
mod crash;
mod disks;
mod dns;
mod docker;
mod events;
mod exactness;
mod exec;
mod failpoints;
mod failures;
mod hostile;
mod images;
mod init;
mod interleavings;
mod lifecycle;
mod limits;
mod mounts;
mod netd;
mod nix_flake;
mod nix_harness;
mod nix_images;
mod nix_module;
mod one_program;
mod operations;
mod pipeline;
mod ports;
mod registry;
mod resolved;
mod shells;
mod ssh;
mod ssh_config;
mod ssh_forwards;
mod state;
mod storm;
mod system;
mod systemd;
mod up;
mod workspace;
mod workspace_exec;
mod workspace_faults;
mod workspace_run;
mod workspace_shapes;
mod workspaces;

/// A file that nobody declares would never run.
#[test]
fn every_file_is_declared() {
    let main = include_str!("main.rs");
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for entry in std::fs::read_dir(directory).expect("the directory is there") {
        let name = entry.expect("the directory can be read").file_name();
        let name = name
            .to_str()
            .expect("names are ASCII")
            .trim_end_matches(".rs");
        let declared = main.lines().any(|line| line == format!("mod {name};"));
        assert!(
            declared || name == "main",
            "{name} is not declared in tests/tests/main.rs"
        );
    }
}
