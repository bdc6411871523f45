//! The harness's Nix: a store of each test's own, and none on the machine.

use std::path::Path;

use banger_tests::{Nix, Sandbox, skipped};

#[test]
fn a_test_has_a_store_of_its_own_and_the_machine_none() {
    if skipped("root") {
        return;
    }
    let there = Path::new("/nix").exists();
    let (one, other) = (Sandbox::empty(), Sandbox::empty());
    let script = "derivation { name = \"x\"; system = \"x86_64-linux\"; builder = \"/bin/sh\"; \
                  args = [ \"-c\" \"echo it is > $out\" ]; }";
    let build = format!("nix build --no-link --print-out-paths --impure --expr '{script}'");
    let nix = Nix::new(&one);
    let made = nix.sh(&build).ok().trim().to_owned();
    assert!(made.starts_with("/nix/store/"), "{made}");
    assert_eq!(
        nix.sh(&format!("cat {made} && nix-store --verify")).ok(),
        "it is\n"
    );
    let inside = nix.root().join(made.trim_start_matches("/nix/"));
    assert_eq!(std::fs::read_to_string(inside).unwrap(), "it is\n");
    Nix::new(&other)
        .sh(&format!(
            "test ! -e {made} && test -d /nix && banger-image --version"
        ))
        .ok();
    assert_eq!(Path::new("/nix").exists(), there);
}
