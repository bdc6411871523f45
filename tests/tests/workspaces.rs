//! Repositories in real VMs with a real git on both sides; what can be shown without a VM is in
//! `helper/agent/tests/workspaces`.

use banger_tests::{Hold, Image, Sandbox, skipped};

/// busybox with this machine's own git.
pub(crate) fn with_git(sandbox: &Sandbox) {
    let busybox = Image::busybox().expect("busybox is installed");
    let image = busybox
        .with_programs(&["/usr/bin/git"])
        .expect("git is installed");
    let archive = sandbox.path("git.tar");
    image
        .write_archive(&archive, "git:latest")
        .expect("the archive can be written");
    sandbox
        .sh(&format!(
            "banger-image import --quiet {}",
            archive.display()
        ))
        .ok();
}

const REPOSITORY: &str = "git init -q -b main app && cd app && git config user.name u && git config user.email u@example.org && \
    mkdir -p src 'odd dir' && echo one > src/one && echo two > 'odd dir/t w o' && printf 'a\\0b' > binary && ln -s src/one link && \
    printf '#!/bin/sh\\n' > run.sh && chmod 755 run.sh && printf '*.o\\n' > .gitignore && git add -A && git commit -qm first && \
    echo uncommitted > new && echo o > x.o";

#[test]
fn a_repository_goes_in_and_a_reviewed_branch_comes_out() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    with_git(&sandbox);
    sandbox.sh(REPOSITORY).ok();
    let prepared = sandbox
        .sh("banger-vm create --quiet --network none --name v git | banger-ws prepare app")
        .record();
    assert_eq!(prepared["kind"], "workspace");
    assert_eq!(prepared["path"], "/root/app");
    assert_eq!(
        (&prepared["git"], &prepared["ready"]),
        (&true.into(), &true.into())
    );
    assert_eq!(prepared["sent_files"], 7);
    // Where it came from, and from which commit.
    let head = sandbox.sh("git -C app rev-parse HEAD");
    assert_eq!(
        (&prepared["source"], &prepared["base"]),
        (
            &sandbox.path("app").display().to_string().into(),
            &head.ok().trim().into()
        )
    );
    let inside = sandbox.sh(
        "banger-vm exec v -- sh -c 'cd /root/app && git status --porcelain && git log --format=%s && cat src/one link && ls -A | wc -l && ./run.sh'",
    );
    assert_eq!(inside.ok(), "?? new\nfirst\none\none\n8\n");

    sandbox
        .sh(
            "banger-vm exec v -- sh -c 'cd /root/app && git config user.name g && git config user.email g@example.org && \
             echo more >> src/one && git commit -qam \"from the guest\" && rm binary && mv \"odd dir/t w o\" moved && \
             printf \"entirely different\\0\" > data && echo \"touch /tmp/x\" > .envrc && echo junk > y.o'",
        )
        .ok();
    let status = sandbox.sh("banger-ws status v").record();
    assert_eq!(
        (&status["changes"], &status["commits"]),
        (&5.into(), &1.into()),
        "{status}"
    );
    assert_eq!(status["stale"], false);
    let diff = sandbox.sh("banger-ws diff v");
    diff.ok();
    diff.says("look at A .envrc: autorun")
        .says("5 files changed, 1 commit; sha256:");
    assert!(diff.stdout.contains("+more") && diff.stdout.contains("rename from odd dir/t w o"));
    let listed = sandbox.sh("cd app && banger-ws export --json").records();
    let risky: Vec<_> = listed
        .iter()
        .filter(|record| {
            record["risks"]
                .as_array()
                .is_some_and(|risks| !risks.is_empty())
        })
        .map(|record| record["path"].clone())
        .collect();
    assert_eq!(risky, [".envrc"]);
    let hash = listed.last().expect("a summary")["hash"]
        .as_str()
        .expect("a hash")
        .to_owned();

    // What comes after the review is not applied.
    sandbox
        .sh("banger-vm exec v -- sh -c 'echo late > /root/app/late'")
        .ok();
    sandbox
        .sh("banger-ws apply v --to try/it --hash sha256:000000000000")
        .exits(1)
        .says("not what was reviewed");
    let applied = sandbox
        .sh(&format!("banger-ws apply v --to try/it --hash {hash}"))
        .record();
    assert_eq!(
        (&applied["hash"], &applied["target"]),
        (&hash.clone().into(), &"try/it".into())
    );
    // Once more is no failure.
    let again = sandbox
        .sh(&format!("banger-ws apply v --to try/it --hash {hash}"))
        .record();
    assert_eq!(
        (&again["changed"], &again["tip"]),
        (&false.into(), &applied["tip"])
    );
    let log = sandbox.sh("git -C app log --format='%an %s' try/it");
    assert_eq!(
        log.ok(),
        "u Changes from v:/root/app\ng from the guest\nu first\n"
    );
    let names = sandbox.sh("git -C app ls-tree -r --name-only try/it");
    assert_eq!(
        names.ok(),
        ".envrc\n.gitignore\ndata\nlink\nmoved\nrun.sh\nsrc/one\n"
    );
    assert_eq!(sandbox.sh("git -C app status --porcelain").ok(), "?? new\n");

    // As a patch on a clean clone it gives the guest's tree.
    sandbox
        .sh("git clone -q app clone && cp app/new clone && banger-ws export v --quiet | git -C clone apply && \
             banger-vm exec v -- sh -c 'cp -a /root/app /tmp/app && rm -rf /tmp/app/.git /tmp/app/*.o && tar c -C /tmp/app .' | (mkdir guest && tar x -C guest) && find guest -depth -type d -empty -delete && \
             diff -r --no-dereference -x .git clone guest")
        .ok();
    sandbox.sh("cd app && banger-ws export -o ../out.bundle --as bundle v && git fetch -q ../out.bundle main:bundled").ok();

    // Again: nothing to send; then one file; a conflict is said.
    let again = sandbox.sh("banger-ws prepare v app").record();
    assert_eq!(
        (&again["sent_files"], &again["changed"]),
        (&0.into(), &false.into())
    );
    sandbox.sh("echo host > app/new").ok();
    assert_eq!(
        sandbox.sh("banger-ws prepare v app").record()["sent_files"],
        1
    );
    sandbox.sh("echo host > app/src/one").ok();
    sandbox
        .sh("banger-ws prepare v app")
        .exits(1)
        .says("changed both here and in the VM: src/one")
        .hints("banger-ws export v:/root/app");
    // What was refused changed nothing, so that can be done.
    sandbox
        .sh("banger-ws export --quiet v:/root/app | grep -q more")
        .ok();

    // Live names complete; a workspace goes with its VM.
    let completed = sandbox.sh("COMPLETE=fish banger-ws -- banger-ws diff ''");
    assert!(
        completed.ok().lines().any(|line| line.starts_with('v')),
        "{completed}"
    );
    sandbox.sh("banger ws list --format ids | grep -q .").ok();
    sandbox.sh("banger-vm delete --force v").ok();
    assert_eq!(sandbox.sh("banger-ws list").ok(), "");
    sandbox
        .sh("banger-ws diff v")
        .exits(3)
        .says("there is no workspace `v`");
}

#[test]
fn a_copy_holds_only_its_own_lock_and_what_was_cut_off_is_made_whole() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    sandbox.sh(REPOSITORY).ok();
    sandbox
        .sh("banger-vm create --quiet --network none --name v busybox")
        .ok();
    let hold = Hold::new();
    let prepare = sandbox.start(&format!(
        "exec env {} banger-ws prepare v app",
        hold.at("workspace.copy", 1)
    ));
    hold.wait();
    // The VM's own lock is free: this takes it.
    sandbox
        .sh("banger-vm set v --name w && banger-vm set w --name v")
        .ok();
    // A second copy waits for the first.
    let second = sandbox.start("exec banger-ws prepare v app");
    second.wait_for_stderr("waiting for the lock `ws/");
    let listed = sandbox.sh("banger-ws list").record();
    assert_eq!(listed["ready"], false);
    sandbox.sh("banger-vm list").ok();
    hold.release();
    let first = prepare.finish();
    first.says("has no git");
    assert_eq!(first.record()["sent_files"], 7);
    let second = second.finish();
    assert_eq!(second.record()["sent_files"], 0, "{second}");

    // Killed in the middle: the workspace says so, and the next command makes it whole.
    for point in [
        "workspace.write#1",
        "workspace.copy#1",
        "workspace.write#2",
        "workspace.rename#2",
    ] {
        // What it had sent by then is not taken for a change of the guest's.
        sandbox
            .sh(&format!(
                "echo {point} > app/more; echo {point} >> 'app/more {point}'; rm -f 'app/more workspace.write#2'; \
                 BANGER_FAILPOINTS='{point}=kill' banger-ws prepare v app"
            ))
            .exits(137);
        sandbox
            .sh("banger-ws diff v")
            .exits(1)
            .says("incomplete")
            .hints("banger-ws prepare");
    }
    sandbox.sh("banger-ws prepare v app").ok();
    sandbox.sh("banger-vm exec v -- cat /root/app/more").ok();
    // Without git the changes come out all the same.
    sandbox
        .sh("banger-vm exec v -- sh -c 'echo changed > /root/app/src/one'")
        .ok();
    sandbox.sh("banger-ws export v --apply-to out").ok();
    assert_eq!(
        sandbox.sh("git -C app diff --name-only main out").ok(),
        "src/one\n"
    );
    // Read-only: not even root in the guest.
    sandbox
        .sh("banger-ws prepare v app --path /root/ro --readonly")
        .ok();
    let write = sandbox.sh("banger-vm exec v -- sh -c 'echo x > /root/ro/new'");
    assert!(
        write.status != 0 && write.stderr.contains("Read-only"),
        "{write}"
    );
    sandbox
        .sh("banger-ws prepare v app --path /root/ro --readonly")
        .ok();
    sandbox.sh("banger-ws prepare v app --path /root/ro").ok();
    sandbox
        .sh("banger-vm exec v -- sh -c 'echo x > /root/ro/new'")
        .ok();

    sandbox.sh("banger-vm stop v").ok();
    sandbox
        .sh("banger-ws prepare v app")
        .exits(1)
        .says("not running")
        .hints("banger-vm start v");
    sandbox.sh("banger-ws prepare v nowhere").exits(2);
    sandbox
        .sh("PATH=$(dirname $(command -v banger-ws)) banger-ws prepare v app")
        .says("git is not installed");
}

/// What a guest's git can be told to run, each with a file of this host's as its mark.
const EVIL: &str = r##"cd /root/app && git config user.name g && git config user.email g@example.org &&
    for key in core.fsmonitor core.sshCommand core.pager core.editor filter.evil.clean filter.evil.smudge filter.evil.process \
        diff.evil.textconv diff.evil.command diff.external merge.evil.driver gpg.program core.alternateRefsCommand \
        uploadpack.packObjectsHook; do git config $key "touch $MARK"; done
    git config core.hooksPath hooks; mkdir -p hooks .git/hooks
    for h in post-checkout pre-commit reference-transaction post-index-change; do
        printf "#!/bin/sh\ntouch $MARK\n" > hooks/$h; cp hooks/$h .git/hooks/$h; chmod 755 hooks/$h .git/hooks/$h; done
    echo '* filter=evil diff=evil merge=evil' > .gitattributes; echo evil >> src/one
    mkdir -p .github/workflows .GIT; echo ci > .github/workflows/x.yml; echo evil > .GIT/config; echo . > .profile
    ln -s ../../../etc up; ln -s /etc abs; printf new > "$(printf 'new\nline')"; rm -r 'odd dir'; ln -s /etc 'odd dir'
    printf 'clear\033[2J\n' > esc; chmod 755 binary; true"##;

const BOMB: &str = r#"cat > /bin/git << 'END'
#!/bin/sh
case "$*" in
    *pack-objects*) printf 'PACK\0\0\0\2\0\0\0\1\240\200\200\200\200\1'; head -c 1000 /dev/zero ;;
    *) printf '%040d\n' 1 ;;
esac
END"#;

#[test]
fn a_hostile_guest_gets_nothing_run_or_written() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    with_git(&sandbox);
    sandbox.sh(REPOSITORY).ok();
    sandbox
        .sh("banger-vm create --quiet --network none --name v git | banger-ws prepare --quiet app")
        .ok();
    let mark = sandbox.path("executed");
    let guest = |script: &str| {
        let line = format!(
            "banger-vm exec -e MARK={} --no-workspace v -- sh",
            mark.display()
        );
        sandbox.feed(&line, script.as_bytes()).ok().to_owned()
    };
    let before = sandbox
        .sh("git -C app config --list --local; git -C app rev-parse HEAD; ls -A app/.git/hooks");
    guest(EVIL);

    // Everything comes out, what is dangerous by name, and what is no file's name is refused.
    let listed = sandbox.sh("banger-ws export --json v");
    listed
        .exits(1)
        .says(".GIT: a name that git could take for its own");
    let risks: Vec<String> = listed
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("a record"))
        .filter(|record: &serde_json::Value| record["kind"] == "change")
        .map(|record| {
            format!(
                "{} {}",
                record["path"].as_str().unwrap_or_default(),
                record["risks"]
            )
        })
        .collect();
    for expected in [
        ".github/workflows/x.yml [\"ci\"]",
        ".gitattributes [\"attributes\"]",
        ".profile [\"autorun\"]",
        "hooks/pre-commit [\"hook\",\"executable\"]",
        "binary [\"executable\"]",
        "up [\"symlink\",\"symlink-out\"]",
        "abs [\"symlink\",\"symlink-out\"]",
        "new\\nline [\"odd-name\"]",
    ] {
        assert!(
            risks.iter().any(|risk| risk == expected),
            "no {expected} in {risks:#?}"
        );
    }
    for line in [
        "export v -o p.patch",
        "export v --as bundle -o p.bundle",
        "export v --apply-to evil",
        "diff v",
    ] {
        sandbox
            .sh(&format!("banger-ws {line} > out"))
            .exits(1)
            .says("1 paths of the VM were refused");
    }
    // On a terminal it is as harmless.
    let shown = sandbox.sh("script -qec 'PAGER=cat banger-ws diff v' /dev/null");
    assert!(
        shown.stdout.contains("+clear\\u{1b}[2J") && !shown.stdout.contains("\u{1b}[2J"),
        "{shown}"
    );
    sandbox.sh("banger-ws apply v --worktree").ok();
    assert_eq!(
        sandbox.sh("cat app/src/one; readlink app/up").ok(),
        "one\nevil\n../../../etc\n"
    );
    sandbox.sh("git -C app fsck --strict --no-dangling && git -C app reset -q --hard && git -C app clean -qfd").ok();
    assert!(!mark.exists(), "the host ran what the guest had configured");
    let after = sandbox
        .sh("git -C app config --list --local; git -C app rev-parse HEAD; ls -A app/.git/hooks");
    assert_eq!(after.ok(), before.ok());

    // A `.git` that leads elsewhere, objects of somebody else's, a git that does not end or lies.
    guest("cd /root/app && rm -rf .GIT up abs hooks .git/hooks && mv .git /root/kept");
    let top = sandbox.path("app/.git").display().to_string();
    for (script, words) in [
        (format!("echo 'gitdir: {top}' > .git"), ""),
        (format!("ln -s {top} .git"), ""),
        (
            format!("cp -r /root/kept .git; mkdir -p .git/objects/info; echo {top}/objects > .git/objects/info/alternates"),
            "",
        ),
        (
            r#"cp -r /root/kept .git; git config --remove-section core; blob=$(echo e | git hash-object -w --stdin);
               tree=$(printf "100644 ..\\0$(echo $blob | sed 's/../\\x&/g')" | git hash-object -t tree -w --stdin --literally);
               git update-ref refs/heads/main $(git commit-tree -p main -m evil $tree)"#
                .into(),
            "does not accept",
        ),
        ("printf '#!/bin/sh\nexec yes\n' > /bin/git; chmod 755 /bin/git; mv /usr/bin/git /usr/bin/git.real".into(), "where a line was asked for"),
        ("printf '#!/bin/sh\necho main\n' > /bin/git".into(), "no commit"),
        // A pack whose one tree says that it is 4 GiB long.
        (BOMB.into(), "an object of more than 512 MiB"),
    ] {
        guest(&format!("cd /root/app && rm -rf .git; {script}"));
        let exported = sandbox.sh("banger-ws export v --apply-to again");
        match words {
            "" => drop(exported.ok()),
            words => drop(exported.exits(1).says(words)),
        }
        sandbox.sh("git -C app update-ref -d refs/heads/again; git -C app fsck --strict --no-dangling").ok();
        let after = sandbox.sh("git -C app config --list --local; git -C app rev-parse HEAD; ls -A app/.git/hooks");
        assert_eq!(after.ok(), before.ok(), "after {script}");
    }
    assert!(!mark.exists());

    // A tree that does not come to rest, and more than is taken.
    guest(
        "rm /bin/git; mv /usr/bin/git.real /usr/bin/git; cd /root/app; rm -rf .git; truncate -s 100G huge",
    );
    sandbox
        .sh("banger-ws export v -o x.patch")
        .exits(1)
        .says("bytes of changed files")
        .hints("--max-size");
    sandbox
        .sh("banger-ws export --max-size 1K v -o x.patch")
        .exits(1)
        .says("1024 bytes");
    assert!(!sandbox.path("x.patch").exists());
    let writing = sandbox.start(
        "exec banger-vm exec --no-workspace v -- sh -c \
        'cd /root/app; rm huge; echo ready; while :; do echo $((n=n+1)) > src/one; done'",
    );
    writing.wait_for_stdout("ready");
    sandbox
        .sh("banger-ws export v -o x.patch")
        .exits(1)
        .says("src/one")
        .hints("until nothing writes");
    assert!(!sandbox.path("x.patch").exists());
    writing.signal(nix::sys::signal::Signal::SIGINT);
    writing.finish();
    sandbox.sh("banger-ws export v -o x.patch").ok();
}
