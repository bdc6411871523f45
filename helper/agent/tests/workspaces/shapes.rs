//! Repositories of the shapes that git's own tests build (its t/t0xxx for conversions, t3xxx for names, t4xxx
//! for patches, t6xxx for merges): each goes in, is changed, comes out, and the clone is what the guest has.

use std::fs;

use lib_ws::{Target, WsError};

use crate::rig::{Rig, repository, sh, tree};

/// A name, what makes the repository, what changes in the guest.
const SHAPES: [(&str, &str, &str); 13] = [
    (
        "names that git quotes",
        r#"LF='
'; HT=$(printf '\t'); DQ='"'
           mkdir 濱野; for n in Name "Name and a${LF}LF" "Name and an${HT}HT" "Name$DQ" 'With SP in it' "濱野${HT}純" "濱野${LF}純" \
               "濱野$DQ純" 濱野/file '[a]*?' '!x' '#y' ' lead' 'trail ' 'a\b' '-' '@{u}' ':(top)z'; do echo "$n" > "./$n"; done"#,
        r#"for f in *; do [ -d "$f" ] || echo second >> "./$f"; done; mv ./'With SP in it' ./'With  SP'; rm ./'!x'; echo n > './ new '"#,
    ),
    (
        "renames with edits, into a swap and into directories",
        "mkdir d; for f in a b c d/x d/y; do { echo $f; seq 1 100; } > $f; done",
        "mv a t; mv b a; mv t b; mkdir e; mv c e/c; sed -i 's/^50$/fifty/' e/c; mv d/x d/z; cp d/y copy; echo more >> d/y; chmod 755 d/z",
    ),
    (
        "files that become links and directories, and the other way",
        "echo a > a; ln -s a l; mkdir d; echo x > d/x; echo f > f; ln -s d dl; mkdir deep; echo y > deep/y",
        "rm a; ln -s f a; rm l; echo l > l; rm -r d; echo d > d; rm f; mkdir f; echo in > f/in; rm dl; mkdir dl; echo z > dl/z; \
         rm -r deep; ln -s f deep",
    ),
    (
        "a name before a slash and one after it",
        "mkdir a; for f in a-b a.b a/b a0; do echo $f > $f; done",
        "rm -r a; echo file > a; rm a.b; mkdir a.b a0b; echo x > a.b/c; echo y > a0b/d",
    ),
    (
        "binary files",
        r#"i=0; while [ $i -lt 256 ]; do printf "\\$(printf %03o $i)"; i=$((i+1)); done > all; cat all all all > thrice
           printf '\0' > nul; head -c 100000 /dev/urandom > noise; : > empty; printf 'text\n' > text"#,
        r#"printf x >> all; head -c 300 thrice > t; mv t thrice; rm nul; printf 'y\0' >> noise; printf '\0\377' > empty; printf 'b\0' > text
           mv all moved"#,
    ),
    (
        "ends of lines and of files",
        r#"printf 'a\nb' > none; printf 'a\nb\n' > has; printf 'a\r\nb\r\n' > crlf; printf 'a\r\nb\n' > mixed; printf 'a\rb\r' > cr; printf '\n\n' > blank"#,
        r#"printf 'a\nb\n' > none; printf 'a\nb' > has; printf 'a\nb\n' > crlf; printf 'a\r\nb\r\n' > mixed; printf 'a\rc\r' > cr; printf '\n' > blank
           printf ' trailing \t\n' > new"#,
    ),
    (
        "attributes of every kind",
        r#"printf '%s\n' '* text=auto' '*.crlf eol=crlf' '*.lf eol=lf' '*.bin binary' '*.i ident' '*.no -diff -merge' 'x export-ignore' \
               '*.utf16 working-tree-encoding=UTF-16LE eol=lf' '*.d diff=cpp' '[attr]mine -text' '*.m mine' > .gitattributes
           mkdir sub; echo '*.lf eol=crlf' > sub/.gitattributes
           printf 'a\r\nb\r\n' > 1.crlf; echo l > 1.lf; printf 'a\r\n' > sub/2.lf; printf 'a\r\n\0' > 1.bin; echo '$Id$' > 1.i; echo n > 1.no
           printf 'u\0\n\0' > 1.utf16; echo x > x; echo 'int f();' > 1.d; printf 'm\r\n' > 1.m"#,
        r#"printf 'a\r\nc\r\n' > 1.crlf; echo m > 1.lf; printf 'b\r\n' > sub/2.lf; printf 'b\r\n\0' > 1.bin; echo o > 1.no; echo y > x
           printf 'n\r\n' > 1.m; printf 'new\r\n' > new.crlf"#,
    ),
    (
        "modes",
        "for f in a b c d; do echo $f > $f; done; chmod 755 a b; chmod 600 c",
        "chmod 644 a; chmod 700 c; echo new > b; chmod 444 d; echo e > e; chmod 755 e",
    ),
    (
        "rules of what is ignored",
        r#"printf '%s\n' '*.o' '!keep.o' '/root-only' 'dir/' '**/deep/*.x' 'a/**/z' '\#hash' '\!bang' 'space\ ' 'sp' '[ab].t' '?.q' > .gitignore
           mkdir -p sub; printf '!*.o\nlocal\n' > sub/.gitignore; echo k > keep.o; echo f > forced.o; git add -f forced.o"#,
        r##"for f in x.o sub/y.o root-only sub/root-only '#hash' '!bang' 'space ' sp a.t c.t q.q qq.q sub/local; do echo n > "$f"; done
            mkdir -p dir p/deep a/m/n; echo n > dir/f; echo n > p/deep/g.x; echo n > a/m/n/z; echo n > a/other; echo changed > forced.o
            git ls-files -o -i --exclude-standard -z | xargs -0 rm"##,
    ),
    (
        "paths as long as they get",
        "p=$(printf '%0200d' 0); mkdir -p $p/$p/$p/$p/$p; echo deep > $p/$p/$p/$p/$p/file; mkdir -p $(seq -s/ 1 60); echo d > $(seq -s/ 1 60)/f",
        "p=$(printf '%0200d' 0); echo more >> $p/$p/$p/$p/$p/file; echo new > $p/$p/new; echo e >> $(seq -s/ 1 60)/f",
    ),
    (
        "names that differ by case, directories that are empty, names as long as a name gets",
        r#"for n in readme README Readme; do echo $n > $n; done; mkdir Dir dir; echo 1 > Dir/f; echo 2 > dir/f; echo 3 > dir/F
           n=$(printf '%0255d' 0); echo n > $n; mkdir -p empty/er; echo '* export-subst' > .gitattributes; echo '$Format:%H$' > Dir/v"#,
        r#"echo more >> README; mv Readme rEADME; rm dir/F; mv Dir DIR; n=$(printf '%0255d' 0); mv $n m; o=$(printf '%0255d' 1); echo o > $o
           mkdir -p new/empty; rm dir/f; echo v >> DIR/v"#,
    ),
    (
        "an index that says other than the files",
        "for f in a b c d; do echo $f > $f; done",
        "echo x > a; git add a; echo y > a; git rm -q --cached b; echo n > n; git add -N n; git update-index --assume-unchanged c; echo z > c; \
         git update-index --skip-worktree d; rm d",
    ),
    (
        "merges in the guest",
        "seq 1 30 > a; echo b > b",
        "git checkout -q -b one; sed -i 's/^1$/one/' a; git commit -qam one; git checkout -q -b two main; sed -i 's/^30$/thirty/' a; git commit -qam two; \
         git checkout -q -b three main; echo c > c; git add c; git commit -qm three; git checkout -q main; git merge -q --no-edit one three; \
         git merge -q --no-edit two; git checkout -q --detach; echo d > d; git add d; git commit -qm detached; echo left >> b",
    ),
];

#[test]
fn each_shape_comes_out_as_the_guest_has_it() {
    for (name, script, change) in SHAPES {
        let mut rig = Rig::new();
        let source = repository(&rig, script);
        // As git checks it out, where attributes say otherwise than the script wrote.
        sh(&source, "git rm -rq --cached .; git reset -q --hard");
        let request = rig.request(&source);
        rig.prepare(&request).unwrap();
        let guest = rig.guest();
        assert_eq!(tree(&guest), tree(&source), "{name}");
        assert_eq!(sh(&guest, "git status --porcelain"), "", "{name}");
        assert!(rig.review().unwrap().is_empty(), "{name}");
        sh(&guest, change);
        rig.comes_out(&source, name);
        sh(&source, "git fsck --strict --no-dangling");
        rig.apply(&Target::Worktree).unwrap();
        assert_eq!(tree(&source), tree(&guest), "{name}: the working tree");
    }
}

#[test]
fn a_host_in_the_middle_of_a_merge_gives_what_its_files_are() {
    let mut rig = Rig::new();
    let source = repository(&rig, "echo a > a; echo b > b");
    sh(
        &source,
        "git checkout -q -b other; echo o > a; git commit -qam other; git checkout -q main; echo m > a; git commit -qam main; \
         git merge -q other 2> /dev/null > /dev/null || true; git update-index --assume-unchanged b; echo hidden > b",
    );
    let request = rig.request(&source);
    rig.prepare(&request).unwrap();
    assert!(
        fs::read_to_string(rig.guest().join("a"))
            .unwrap()
            .contains("<<<<<<<")
    );
    assert_eq!(
        fs::read_to_string(rig.guest().join("b")).unwrap(),
        "hidden\n"
    );
    assert!(rig.review().unwrap().is_empty());
    fs::write(rig.guest().join("a"), "resolved\n").unwrap();
    assert_eq!(rig.review().unwrap().record.files, 1);
    rig.apply(&Target::Worktree).unwrap();
    assert_eq!(fs::read_to_string(source.join("a")).unwrap(), "resolved\n");
}

#[test]
fn history_that_was_rewritten_in_the_guest_is_said_and_its_files_come() {
    let mut rig = Rig::new();
    let source = repository(&rig, "echo a > a");
    let request = rig.request(&source);
    rig.prepare(&request).unwrap();
    sh(&rig.guest(), "echo b > a; git commit -qa --amend -m other");
    let review = rig.review().unwrap();
    assert_eq!((review.record.commits, review.record.files), (0, 1));
    assert!(
        review
            .record
            .left_out
            .iter()
            .any(|words| words.contains("rewritten")),
        "{:?}",
        review.record.left_out
    );
    rig.apply(&Target::Branch("out".into())).unwrap();
    assert_eq!(
        sh(&source, "git show out:a; git log --format=%s out | tail -1"),
        "b\nfirst\n"
    );
    // What was prepared again while that is so would lose it.
    sh(&source, "echo c > c; git add c; git commit -qm second");
    let error = rig.prepare(&request).unwrap_err();
    assert!(matches!(error, WsError::Conflict { .. }), "{error}");
}
