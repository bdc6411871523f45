//! Repositories that git's own tests build: scripts of the distribution's source package run once, with the git that
//! is installed, and what they leave is kept. Of git itself nothing is built, and of its text nothing is kept.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use banger_tests::Fixtures;

use crate::fixtures;
use crate::packages::Suite;
use crate::step::{Result, run};

/// Scripts that leave a repository behind them, and why it is one to try.
const SCRIPTS: [&str; 12] = [
    // Names: quoting, tabs, newlines, other alphabets, wildcards.
    "t3300-funny-names",
    "t3902-quoted",
    "t4016-diff-quote",
    "t3001-ls-files-others-exclude",
    // Ends of lines, attributes.
    "t0020-crlf",
    "t0025-crlf-renormalize",
    "t5001-archive-attr",
    // Renames, rewrites, changes of type, binary files.
    "t4003-diff-rename-1",
    "t4008-diff-break-rewrite",
    "t4103-apply-binary",
    "t4114-apply-typechange",
    // Additions by intent only, modes, ignored files.
    "t3700-add",
];

/// What the scripts ask of git's own helper program, which is not built: nothing but the value of a variable.
const HELPER: &str = r#"#!/bin/sh
[ "$1" = env-helper ] || exit 1
shift
for word; do
    case $word in --default=*) value=${word#*=} ;; -*) ;; *) eval "value=\${$word:-$value}" ;; esac
done
case $value in true | yes | on | [1-9]*) exit 0 ;; esac
exit 1
"#;

/// What `make` would have written for the scripts.
const OPTIONS: &str = "SHELL_PATH=/bin/sh\nTEST_SHELL_PATH=/bin/sh\nPERL_PATH=/usr/bin/perl\nDIFF=diff\nNO_PERL=\n\
    NO_PYTHON=YesPlease\nNO_CURL=YesPlease\nNO_GETTEXT=YesPlease\nUSE_LIBPCRE2=\nX=\n";

/// Makes them.
pub(crate) fn repositories(fixtures: &Fixtures, directory: &Path) -> Result<()> {
    let place = fixtures.git_repositories();
    if place.exists() {
        println!("   repositories of git's own tests are there");
        return Ok(());
    }
    println!(
        "   downloading git's source for the repositories that its tests build (nothing is installed)"
    );
    let work = tempfile::tempdir_in(directory)?;
    Suite::open_sources(&fixtures::suite()?, work.path())?.download_source("git", work.path())?;
    let archive = archive(work.path())?;
    let source = work.path().join("git");
    let tests = source.join("t");
    fs::create_dir_all(source.join("templates/blt"))?;
    run(Command::new("tar")
        .args(["--extract", "--strip-components=1", "--wildcards", "--file"])
        .arg(archive)
        .arg("--directory")
        .arg(&source)
        .args(["*/t/*.sh", "*/t/lib-*", "*/t/t[0-9][0-9][0-9][0-9]"])
        .arg("*/t/chainlint*"))?;
    fs::write(source.join("GIT-BUILD-OPTIONS"), OPTIONS)?;
    fs::create_dir_all(tests.join("helper"))?;
    let helper = tests.join("helper/test-tool");
    fs::write(&helper, HELPER)?;
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755))?;
    let made = work.path().join("repositories");
    for script in SCRIPTS {
        script_leaves(&tests, script, &made)?;
    }
    fs::rename(made, place)?;
    Ok(())
}

/// The upstream part of the source.
fn archive(directory: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.contains(".orig.tar.") && !name.ends_with(".asc") {
            return Ok(path);
        }
    }
    Err("apt-get source git left no .orig.tar".into())
}

/// Runs a script; that tests of it fail without git's helper program does not matter, what is left does.
fn script_leaves(tests: &Path, script: &str, made: &Path) -> Result<()> {
    let root = made.join(script);
    fs::create_dir_all(&root)?;
    let mut shell = Command::new("/bin/sh");
    shell
        .arg(format!("{script}.sh"))
        // Or it would remove what it made.
        .arg("--debug")
        .arg(format!("--root={}", root.display()))
        .current_dir(tests)
        .env("GIT_TEST_INSTALLED", "/usr/bin")
        .env("GIT_TEST_CHAIN_LINT", "0")
        .env("TEST_NO_MALLOC_CHECK", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    shell.status()?;
    let left = root.join(format!("trash directory.{script}"));
    match left.join(".git").is_dir() {
        true => Ok(()),
        false => Err(format!("{script} of git's tests left no repository").into()),
    }
}
