//! A small storm; `cargo xtask storm` raises the full one.
#![allow(clippy::print_stdout, reason = "what was tried is part of the result")]

use banger_tests::{Sandbox, Storm, skipped};

#[test]
fn a_small_storm_leaves_a_true_store_and_nothing_else() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let storm = Storm {
        processes: 8,
        operations: 30,
        boots: 1,
        // The same choices each time; the full storm makes new ones.
        seed: 1,
    };
    judge(&sandbox, storm);
}

#[test]
#[ignore = "minutes long; `cargo xtask storm` runs it"]
fn a_full_storm() {
    let sandbox = Sandbox::for_guests();
    let storm = Storm {
        processes: 16,
        operations: 200,
        boots: 2,
        seed: std::process::id().into(),
    };
    judge(&sandbox, storm);
}

fn judge(sandbox: &Sandbox, storm: Storm) {
    let report = storm.rage(sandbox);
    println!("{storm:?}: {report:?}");
    assert!(report.wrong.is_empty(), "{storm:?}: {:#?}", report.wrong);
    assert!(report.killed > 0, "nothing was killed: {report:#?}");
    sandbox.assert_nothing_leaked();
    let every = "banger-vm list --format ids | xargs -r banger-vm delete --quiet --force";
    sandbox.sh(every).ok();
    assert_eq!(sandbox.sh("banger-vm list").ok(), "");
    sandbox.assert_nothing_leaked();
}
