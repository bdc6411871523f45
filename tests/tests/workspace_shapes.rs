//! Repositories of the less common kinds, by the command line, in a real VM with real git and Git LFS: each goes in,
//! is changed there, comes out as a patch, and that on a clean clone is what the guest has. One guest for all.

use std::fs;

use banger_tests::{Sandbox, Tree, skipped, tree};

use crate::workspaces::with_git;

struct Case {
    /// Of its directory in the guest.
    name: &'static str,
    /// Makes the repositories.
    make: &'static str,
    /// Which goes, and how.
    prepare: &'static str,
    /// What it is like in there, by this script.
    look: &'static str,
    looks: &'static str,
    /// What changes in there.
    change: &'static str,
    /// Makes a clean clone, called as the directory with `.clone` behind it.
    clone: &'static str,
    /// What the guest has and no patch.
    only_there: &'static [&'static str],
    /// What a clone has and the guest has not.
    only_here: &'static [&'static str],
}

const CASES: [Case; 6] = [
    Case {
        name: "lfs",
        // One file is there, of the other there is only what stands for it.
        make: "git init -q lfs && cd lfs && git lfs track '*.bin' > /dev/null && head -c 300000 /dev/urandom > real.bin && \
            head -c 300000 /dev/urandom > pointer.bin && echo plain > plain && git add . && git commit -qm media && \
            rm pointer.bin && GIT_LFS_SKIP_SMUDGE=1 git checkout -q pointer.bin",
        prepare: "lfs",
        // Written again without a change, which is none.
        look: "head -c 11 pointer.bin; wc -c < real.bin; git status --porcelain -b; cp real.bin t; mv t real.bin",
        looks: "version htt300000\n## main\n",
        change: r#"for what in clean smudge process required; do git config filter.lfs.$what "touch $MARK"; done
            printf changed >> real.bin; echo more >> plain; printf new > new.bin"#,
        clone: "GIT_LFS_SKIP_SMUDGE=1 git clone -q lfs lfs.clone",
        only_there: &[],
        only_here: &[],
    },
    Case {
        name: "modules",
        make: "for name in deep inner; do git init -q $name; echo $name > $name/file; done && \
            git -C deep add . && git -C deep commit -qm deep && cd inner && git submodule --quiet add ../deep deep && \
            git add . && git commit -qm inner && cd .. && git init -q modules && cd modules && echo top > top && \
            git submodule --quiet add ../inner sub && git submodule --quiet update --init --recursive && \
            git add . && git commit -qm outer",
        prepare: "modules",
        look: "git status --porcelain -b; cat sub/file sub/deep/file",
        looks: "## main\ninner\ndeep\n",
        change: "echo more >> sub/file; rm sub/deep/file; printf '\\0' > sub/deep/new; chmod 755 top; mv sub/.gitmodules sub/moved",
        clone: "git clone -q --recurse-submodules modules modules.clone",
        only_there: &[],
        only_here: &[],
    },
    Case {
        name: "sparse",
        make: "git init -q sparse && cd sparse && mkdir in out && echo i > in/f && echo o > out/f && git add . && \
            git commit -qm all && git sparse-checkout set in",
        prepare: "sparse/in",
        look: "git status --porcelain -b; git ls-files -t; ls",
        looks: "## main\nH in/f\nS out/f\nin\n",
        change: "echo more >> in/f; mkdir out; echo new > out/new; ln -s in/f link",
        clone: "git clone -q sparse sparse.clone",
        only_there: &[],
        only_here: &["out/f"],
    },
    Case {
        name: "linked",
        make: "git init -q main && cd main && printf '*.log\n/target/\n.env\n' > .gitignore && echo a > a && git add . && \
            git commit -qm one && echo b > a && git commit -qam two && git tag v1 && echo c > a && git commit -qam three && \
            git worktree add -q ../linked -b topic && cd ../linked && mkdir -p target/keep && \
            for name in .env target/keep/k target/t x.log; do echo $name > $name; done",
        prepare: "linked --mode full --include-ignored .env --include-ignored 'target/keep/*'",
        look: "git status --porcelain -b; git log --format=%s; find . -name .git -prune -o -type f -print | sort",
        looks: "## topic\nthree\ntwo\none\n./.env\n./.gitignore\n./a\n./target/keep/k\n",
        change: "echo more >> a; echo changed > .env; mv target/keep/k target/keep/moved; chmod 755 a; \
            echo no > target/no; echo no > y.log",
        clone: "git clone -q -b topic main linked.clone && cd linked && cp --parents .env target/keep/k ../linked.clone",
        only_there: &["target/no", "y.log"],
        only_here: &[],
    },
    Case {
        name: "from",
        make: "true",
        prepare: "main --from v1 --branch fix/it --path from",
        look: "git status --porcelain -b; git log --format=%s; cat a",
        looks: "## fix/it\ntwo\nb\n",
        change: "echo x > new; git add new; git commit -qm guest; echo left >> a",
        clone: "git clone -q main from.clone && git -C from.clone checkout -q v1",
        only_there: &[],
        only_here: &[],
    },
    Case {
        name: "files",
        make: "true",
        prepare: "main --mode worktree-only --path files",
        look: "ls -A",
        looks: ".gitignore\na\n",
        change: "rm a; mkdir a; printf '\\377\\0' > a/binary; ln -s a/binary link; rm .gitignore",
        clone: "git clone -q main files.clone",
        only_there: &[],
        only_here: &[],
    },
];

#[test]
fn every_kind_of_repository_makes_its_round_in_a_vm() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    with_git(&sandbox);
    let booting = sandbox.start("exec banger-vm create --quiet --network none --name v git");
    sandbox
        .sh(
            "git config --global user.name u && git config --global user.email u@example.org && \
             git config --global init.defaultBranch main && git config --global protocol.file.allow always && \
             git config --global advice.detachedHead false && git lfs install --skip-repo",
        )
        .ok();
    for case in &CASES {
        sandbox.sh(case.make).ok();
    }
    booting.finish().ok();
    let mark = sandbox.path("executed");
    let guest = |script: &str| {
        let line = format!(
            "banger-vm exec -e MARK={} --no-workspace v -- sh -e",
            mark.display()
        );
        sandbox.feed(&line, script.as_bytes()).ok().to_owned()
    };
    let in_each = |script: fn(&Case) -> &'static str| -> String {
        let each = CASES.iter().map(|case| {
            let script = script(case);
            format!(
                "(cd /root/{} && echo = {0} && {{ {script}\n}})\n",
                case.name
            )
        });
        each.collect()
    };
    for case in &CASES {
        sandbox
            .sh(&format!("banger-ws prepare --quiet v {}", case.prepare))
            .ok();
    }
    let looks = guest(&in_each(|case| case.look));
    let expected: String = CASES
        .iter()
        .map(|case| format!("= {}\n{}", case.name, case.looks))
        .collect();
    assert_eq!(looks, expected);
    let status = sandbox.sh("banger-ws status v:/root/lfs").record();
    assert_eq!(status["changes"], 0, "{status}");

    guest(&in_each(|case| case.change));
    for case in &CASES {
        let exported = sandbox.sh(&format!(
            "banger-ws export v:/root/{0} -o {0}.patch",
            case.name
        ));
        exported.ok();
        if case.name == "lfs" {
            exported.says("look at M real.bin: filtered");
            // The host's filter stands before a name, not only before what went in.
            exported.says("look at A new.bin: filtered");
            exported.says("git add --renormalize");
        }
    }
    assert!(!mark.exists(), "the guest's filter ran on the host");
    fs::create_dir(sandbox.path("guest")).expect("the sandbox is new");
    sandbox
        .sh("banger-vm exec --no-workspace v -- tar c -C /root . | tar x -C guest")
        .ok();
    for case in &CASES {
        let name = case.name;
        sandbox.sh(case.clone).ok();
        let applied = sandbox.sh(&format!("git -C {name}.clone apply ../{name}.patch"));
        applied.ok();
        let mut here = tree(&sandbox.path(&format!("{name}.clone")));
        let mut there = tree(&sandbox.path(&format!("guest/{name}")));
        for path in case.only_there {
            assert!(there.remove(path.as_bytes()).is_some(), "{name}: {path}");
        }
        for path in case.only_here {
            assert!(here.remove(path.as_bytes()).is_some(), "{name}: {path}");
        }
        assert!(here == there, "{name}: {}", difference(&here, &there));
    }
    // What the note says: then they are kept by Git LFS.
    sandbox
        .sh("git -C lfs.clone add new.bin && git -C lfs.clone add --renormalize real.bin")
        .ok();
    for file in ["real.bin", "new.bin"] {
        let kept = sandbox.sh(&format!("git -C lfs.clone cat-file blob :{file}"));
        assert!(kept.ok().starts_with("version "), "{kept}");
    }

    // A branch, with the guest's commit on the commit that was asked for; the files of a linked working tree.
    sandbox
        .sh("banger-ws apply v:/root/from --to fix/it && banger-ws apply v:/root/linked --worktree")
        .ok();
    let again = sandbox
        .sh("banger-ws apply v:/root/linked --worktree")
        .record();
    assert_eq!(again["changed"], false);
    sandbox
        .sh("echo mine > linked/a && banger-ws apply v:/root/linked --worktree")
        .exits(1)
        .says("do not fit the files in")
        .hints("banger-ws apply v:/root/linked --to BRANCH");
    sandbox
        .sh("git -C linked checkout -q a && chmod 755 linked/a && echo more >> linked/a && banger-ws apply v")
        .exits(2)
        .says("--to <BRANCH>|--worktree");
    sandbox
        .sh("banger-ws apply v --worktree")
        .exits(2)
        .hints("such as v:/root/");
    let log = sandbox.sh("git -C linked log --format=%s fix/it && cat linked/.env linked/a && git -C main status --porcelain");
    assert_eq!(
        log.ok(),
        "Changes from v:/root/from\nguest\ntwo\none\nchanged\nc\nmore\n"
    );
    assert!(!mark.exists(), "the guest's filter ran on the host");
}

/// Names and kinds on both sides; the contents can be long.
fn difference(here: &Tree, there: &Tree) -> String {
    let names = here.keys().chain(there.keys());
    let differ = names.filter(|name| here.get(*name) != there.get(*name));
    let shown = |tree: &Tree, name: &Vec<u8>| {
        tree.get(name)
            .map(|(kind, content)| format!("{kind} {} bytes", content.len()))
    };
    differ
        .map(|name| {
            format!(
                "{}: clone {:?}, guest {:?}; ",
                name.escape_ascii(),
                shown(here, name),
                shown(there, name)
            )
        })
        .collect()
}
