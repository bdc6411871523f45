//! `banger-image` as people and pipes see it: standard output, standard error, status, in a
//! cleared environment.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A store of its own.
struct Sandbox {
    base: TempDir,
}

#[derive(Debug)]
struct Outcome {
    status: i32,
    stdout: String,
    stderr: String,
}

impl Sandbox {
    fn new() -> Self {
        Sandbox {
            base: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_banger-image"));
        command
            .env_clear()
            .env("BANGER_STORE", self.path("store"))
            .env("XDG_RUNTIME_DIR", self.base.path())
            .env("HOME", self.base.path())
            .current_dir(self.base.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        finish(self.command().args(arguments))
    }

    fn run_with(&self, arguments: &[&str], input: &[u8]) -> Outcome {
        let file = self.path("stdin");
        std::fs::write(&file, input).unwrap();
        let file = std::fs::File::open(file).unwrap();
        finish(self.command().args(arguments).stdin(file))
    }

    /// A small root file system, as tar.
    fn rootfs(&self, content: &str) -> PathBuf {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_path("etc/issue").unwrap();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
        let path = self.path(&format!("{content}.tar"));
        std::fs::write(&path, builder.into_inner().unwrap()).unwrap();
        path
    }

    /// Imports a root file system and returns the record's line.
    fn import(&self, name: &str) -> String {
        let path = self.rootfs(name);
        let outcome = self.run(&["import", path.to_str().unwrap(), "--name", name]);
        assert_eq!(outcome.status, 0, "{outcome:?}");
        outcome.stdout
    }
}

fn finish(command: &mut Command) -> Outcome {
    let output = command.output().unwrap();
    Outcome {
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn field(record: &str, name: &str) -> String {
    let record: serde_json::Value = serde_json::from_str(record).unwrap();
    match &record[name] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[test]
fn an_image_is_imported_listed_shown_tagged_and_deleted() {
    let sandbox = Sandbox::new();
    let path = sandbox.rootfs("hello");
    let path = path.to_str().unwrap();
    let import = [
        "import",
        path,
        "--name",
        "base:1",
        "--cmd",
        "/bin/sh -l",
        "--env",
        "A=b c",
    ];
    let made = sandbox.run(&import);
    assert_eq!((made.status, &*made.stderr), (0, ""));
    assert!(
        made.stdout
            .starts_with(r#"{"kind":"image","schema":1,"id":""#),
        "{}",
        made.stdout
    );
    assert_eq!(field(&made.stdout, "names"), r#"["base:1"]"#);
    assert_eq!(field(&made.stdout, "changed"), "true");
    let config = r#"{"cmd":["/bin/sh","-l"],"entrypoint":[],"env":["A=b c"],"stop_signal":"","user":"","working_dir":""}"#;
    assert_eq!(field(&made.stdout, "config"), config);
    assert_eq!(field(&sandbox.run(&import).stdout, "changed"), "false");

    let id = field(&made.stdout, "id");
    let ids = sandbox.run(&["list", "--format", "ids"]);
    assert_eq!(ids.stdout, format!("{id}\n"));
    let table = sandbox.run(&["list", "--format", "table"]).stdout;
    let mut lines = table.lines();
    assert!(lines.next().unwrap().starts_with("NAME    ID"), "{table}");
    assert!(
        lines
            .next()
            .unwrap()
            .starts_with(&format!("base:1  {}", &id[..12])),
        "{table}"
    );
    let shown = sandbox.run(&["show", &id[..6], "--format", "table"]).stdout;
    assert!(
        shown.contains("\nconfig.cmd: [\"/bin/sh\",\"-l\"]\n"),
        "{shown}"
    );

    let tagged = sandbox.run(&["tag", "base:1", "other"]);
    assert_eq!(
        field(&tagged.stdout, "names"),
        r#"["base:1","other:latest"]"#
    );
    let deleted = sandbox.run(&["delete", "other"]);
    assert_eq!(field(&deleted.stdout, "id"), id);
    assert_eq!(sandbox.run(&["list"]).stdout, "");
    let gone = sandbox.run(&["delete", "base:1"]);
    assert_eq!(gone.status, 3);
    assert!(
        gone.stderr
            .starts_with("error: there is no image `base:1`\nhint: "),
        "{}",
        gone.stderr
    );
    let gone = sandbox.run(&["delete", "base:1", "--if-exists"]);
    assert_eq!(
        (gone.status, gone.stdout, gone.stderr),
        (0, String::new(), String::new())
    );
}

#[test]
fn records_flow_through_pipes() {
    let sandbox = Sandbox::new();
    let records = sandbox.import("one") + &sandbox.import("two");
    let shown = sandbox.run_with(&["show"], records.as_bytes());
    assert_eq!((shown.status, shown.stdout.lines().count()), (0, 2));
    assert_eq!(
        sandbox.run_with(&["show", "-"], records.as_bytes()).stdout,
        shown.stdout
    );
    let empty = sandbox.run_with(&["delete"], b"");
    assert_eq!(empty.status, 2);
    assert!(
        empty.stderr.contains("image records were expected"),
        "{}",
        empty.stderr
    );
    let wrong = sandbox.run_with(&["kernel", "delete"], records.as_bytes());
    assert_eq!(wrong.status, 2);
    assert!(
        wrong.stderr.contains("kernel records were expected"),
        "{}",
        wrong.stderr
    );
    let deleted = sandbox.run_with(&["delete"], records.as_bytes());
    assert_eq!((deleted.status, deleted.stdout.lines().count()), (0, 2));
    let none = sandbox.run(&["show"]);
    assert_eq!(none.status, 2);
    assert!(
        none.stderr.starts_with("error: no image was named\nhint: "),
        "{}",
        none.stderr
    );
}

#[test]
fn one_failure_keeps_no_other_image_from_its_turn() {
    let sandbox = Sandbox::new();
    sandbox.import("one");
    let outcome = sandbox.run(&["delete", "none", "one"]);
    assert_eq!((outcome.status, outcome.stdout.lines().count()), (3, 1));
    assert_eq!(sandbox.run(&["list"]).stdout, "");
}

#[test]
fn an_archive_comes_through_standard_input() {
    let sandbox = Sandbox::new();
    let tar = std::fs::read(sandbox.rootfs("piped")).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let made = sandbox.run_with(&["import", "-"], &gzip.finish().unwrap());
    assert_eq!(made.status, 0, "{}", made.stderr);
    assert_eq!(
        field(&made.stdout, "source"),
        "root file system standard input"
    );
    let id = field(&made.stdout, "id");
    let hint = format!(
        "the image has no name; banger-image tag {} NAME gives it one\n",
        &id[..12]
    );
    assert_eq!(made.stderr, hint);
    let quiet = sandbox.run_with(&["--quiet", "import", "-"], &tar);
    assert_eq!((quiet.status, &*quiet.stderr), (0, ""));
}

#[test]
fn what_is_wrong_is_said_with_a_hint_and_a_status() {
    let sandbox = Sandbox::new();
    let text = sandbox.path("text");
    std::fs::write(&text, "no archive").unwrap();
    let text = text.to_str().unwrap();
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let refused = format!("127.0.0.1:{port}/app");
    for (arguments, status, expected) in [
        (
            &["pull", "UPPER"][..],
            2,
            "`UPPER` is not an image reference",
        ),
        (&["pull", "a:b:c"], 2, "hint: references look like"),
        (&["pull"], 2, "required"),
        (
            &["pull", "--platform", "x/y/z/w", "a"],
            2,
            "not a platform such as linux/amd64",
        ),
        (&["pull", &refused], 1, "hint: is the registry running"),
        (
            &["import", "/nonexistent"],
            3,
            "error: cannot open /nonexistent",
        ),
        (
            &["import", text],
            1,
            "is not an image: it is no tar archive",
        ),
        (
            &["import", text, "--name", "a:b:c"],
            2,
            "is not an image reference",
        ),
        (
            &["import", text, "--env", "x"],
            2,
            "--env `x` is not NAME=value",
        ),
        (&["show", "nothing"], 3, "there is no image `nothing`"),
        (
            &["kernel", "show", "nothing"],
            3,
            "there is no kernel `nothing`",
        ),
        (&["kernel", "import", text], 1, "error:"),
        (&["frobnicate"], 2, "unrecognized subcommand"),
    ] {
        let outcome = sandbox.run(arguments);
        assert_eq!(outcome.status, status, "{arguments:?} {outcome:?}");
        assert!(
            outcome.stderr.contains(expected),
            "{arguments:?} {}",
            outcome.stderr
        );
        assert_eq!(outcome.stdout, "", "{arguments:?}");
    }
}

#[test]
fn looking_makes_no_store() {
    let sandbox = Sandbox::new();
    for arguments in [
        &["list"][..],
        &["kernel", "list"],
        &["--version"],
        &["pull", "--help"],
    ] {
        assert_eq!(sandbox.run(arguments).status, 0);
    }
    assert!(!sandbox.path("store").exists());
}

#[test]
fn shells_complete_live_names() {
    let sandbox = Sandbox::new();
    let complete = |words: &[&str]| {
        let mut command = sandbox.command();
        command
            .env("COMPLETE", "fish")
            .arg("--")
            .arg("banger-image")
            .args(words);
        finish(&mut command).stdout
    };
    assert_eq!(
        complete(&["delete", ""])
            .lines()
            .find(|line| line.contains("alp")),
        None
    );
    assert!(!sandbox.path("store").exists());
    sandbox.import("alpine:3.20");
    sandbox.import("debian:12");
    assert_eq!(complete(&["delete", "alp"]), "alpine:3.20\n");
    let names = complete(&["show", ""]);
    assert!(
        names.contains("alpine:3.20\n") && names.contains("debian:12\n"),
        "{names}"
    );
    assert!(complete(&["ker"]).starts_with("kernel"));
}

#[test]
fn a_killed_import_leaves_only_what_the_next_command_sweeps() {
    let sandbox = Sandbox::new();
    let tar = std::fs::read(sandbox.rootfs("x")).unwrap();
    let mut child = sandbox
        .command()
        .args(["import", "-", "--name", "x"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // More than is looked at before anything is spooled, and no end.
    stdin.write_all(&tar).unwrap();
    stdin.write_all(&vec![0; 4 << 20]).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_ne!(entries(&sandbox.path("store/staging")), 0);
    sandbox.import("y");
    assert_eq!(entries(&sandbox.path("store/staging")), 0);
    assert_eq!(entries(&sandbox.path("store/images")), 1);
}

fn entries(directory: &Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[test]
fn content_is_identity() {
    let sandbox = Sandbox::new();
    let one = sandbox.import("same");
    let record: serde_json::Value = serde_json::from_str(&one).unwrap();
    let hex = record["digest"]
        .as_str()
        .unwrap()
        .strip_prefix("sha256:")
        .unwrap();
    let manifest = std::fs::read(sandbox.path("store/blobs/blobs/sha256").join(hex)).unwrap();
    let digest: String = Sha256::digest(manifest)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(digest, hex);
}
