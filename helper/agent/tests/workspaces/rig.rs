//! The real agent on this machine behind the real library: a directory here is the guest's.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use banger_tests::Tree;
pub(crate) use banger_tests::tree;
use lib_model::{ByteSize, Digest, KernelName, OciConfig, Silent, VmId, VmName, WorkspaceRecord};
use lib_store::{
    Context, FileLock, Locks, NewImage, NewKernel, NewVm, Staged, Store, VmRow, WorkspaceRow,
};
use lib_vm::Interrupt;
use lib_ws::{Env, Limits, Prepare, Review, Target, WsError};

use crate::monitor::Monitor;

/// Everything of one test; the agent is killed when dropped.
pub(crate) struct Rig {
    pub(crate) base: tempfile::TempDir,
    pub(crate) context: Context,
    store: Store,
    locks: Locks,
    pub(crate) vm: VmRow,
    agent: Child,
    _alive: FileLock,
}

impl Rig {
    pub(crate) fn new() -> Rig {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let agent = Command::new(env!("CARGO_BIN_EXE_banger-agent"))
            .args(["serve", "--fd", "0"])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        Rig::with(agent, |listener| {
            let (events, _) = std::sync::mpsc::channel();
            std::thread::spawn(move || Monitor::new(ours, listener, events).run());
        })
    }

    /// With anything behind the VM's socket.
    pub(crate) fn with(agent: Child, serve: impl FnOnce(UnixListener)) -> Rig {
        let base = tempfile::tempdir().unwrap();
        let runtime = base.path().join("r");
        let context = Context::from_environment(Some(&base.path().join("s")), |name| {
            (name == "BANGER_RUNTIME_DIR").then(|| runtime.clone().into_os_string())
        })
        .unwrap();
        let mut store = Store::open(&context).unwrap();
        let mut locks = Locks::new(&context, |_, _| {});
        let vm = vm(&context, &mut store, &mut locks);
        let sockets = context.make_vm_runtime(&vm.id).unwrap();
        serve(UnixListener::bind(sockets.join("agent.sock")).unwrap());
        let alive = FileLock::try_take(&context.vm(&vm.id).join("alive.lock"))
            .unwrap()
            .unwrap();
        Rig {
            base,
            context,
            store,
            locks,
            vm,
            agent,
            _alive: alive,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    /// The guest's directory.
    pub(crate) fn guest(&self) -> PathBuf {
        self.path("guest/ws")
    }

    pub(crate) fn env<'a>(&'a mut self, interrupt: &'a Interrupt) -> Env<'a> {
        Env {
            context: &self.context,
            store: &mut self.store,
            locks: &mut self.locks,
            interrupt,
            progress: &Silent,
            note: &|_| {},
        }
    }

    pub(crate) fn request(&self, source: &Path) -> Prepare {
        Prepare {
            source: source.to_owned(),
            path: Some(self.guest().display().to_string()),
            ..Prepare::default()
        }
    }

    pub(crate) fn prepare(&mut self, request: &Prepare) -> Result<WorkspaceRecord, WsError> {
        let vm = self.vm.clone();
        lib_ws::prepare(&mut self.env(&Interrupt::never()), &vm, request)
    }

    pub(crate) fn row(&self) -> WorkspaceRow {
        self.store.workspace(self.vm.name.as_str()).unwrap()
    }

    pub(crate) fn review(&mut self) -> Result<Review, WsError> {
        self.review_within(Limits::default())
    }

    pub(crate) fn review_within(&mut self, limits: Limits) -> Result<Review, WsError> {
        let row = self.row();
        lib_ws::review(&mut self.env(&Interrupt::never()), &row, limits)
    }

    pub(crate) fn apply(&mut self, target: &Target) -> Result<Review, WsError> {
        let row = self.row();
        lib_ws::apply(&mut self.env(&Interrupt::never()), &row, target, None)
    }

    /// The patch of everything that changed.
    pub(crate) fn patch(&mut self) -> PathBuf {
        self.review().unwrap();
        let file = self.path("out.patch");
        self.apply(&Target::Patch(Some(file.clone()))).unwrap();
        file
    }

    /// What changed comes out: a patch on a clean clone, and a clone of a branch, are what the guest has.
    #[track_caller]
    pub(crate) fn comes_out(&mut self, source: &Path, what: &str) {
        let expected = tree(&self.guest());
        let patch = self.patch();
        let clone = clone_and_apply(self, source, &patch);
        assert_same(&clone, &expected, &format!("{what}: the patch"));
        if self.review().unwrap().is_empty() {
            return;
        }
        self.apply(&Target::Branch("come/out".into())).unwrap();
        fs::remove_dir_all(&clone).unwrap();
        sh(self.base.path(), "git clone -q -b come/out src clone");
        assert_same(&clone, &expected, &format!("{what}: the branch"));
    }
}

#[track_caller]
fn assert_same(directory: &Path, expected: &Tree, what: &str) {
    let found = tree(directory);
    let names = found.keys().chain(expected.keys());
    let other: Vec<_> = names
        .filter(|name| found.get(*name) != expected.get(*name))
        .map(|name| {
            (
                name.escape_ascii().to_string(),
                found.get(name),
                expected.get(name),
            )
        })
        .collect();
    assert!(other.is_empty(), "{what}: {other:?}");
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

fn vm(context: &Context, store: &mut Store, locks: &mut Locks) -> VmRow {
    let guard = locks.images().unwrap();
    let image = NewImage {
        digest: Digest::from_sha256([1; 32]),
        source: "test".into(),
        architecture: "amd64".into(),
        filesystem: "ext4".into(),
        size: ByteSize(1),
        used: ByteSize(1),
        config: OciConfig::default(),
        kernel: None,
    };
    let image = store
        .publish_image(
            &guard,
            Staged::new(context).unwrap().complete().unwrap(),
            &image,
            Some("i"),
        )
        .unwrap();
    let kernel = NewKernel {
        name: KernelName::try_from("k").unwrap(),
        release: "6.1".into(),
        architecture: "amd64".into(),
        digest: Digest::from_sha256([0; 32]),
        source: "test".into(),
        vmlinux: true,
        modules: 0,
    };
    let kernel = store
        .publish_kernel(
            &guard,
            Staged::new(context).unwrap().complete().unwrap(),
            &kernel,
        )
        .unwrap();
    drop(guard);
    let spec = serde_json::json!({
        "image_name": "i", "cpus": 1, "memory": 1 << 30, "disk": 1 << 30, "network": "none",
        "vmm": "qemu", "accel": "auto",
    });
    let new = NewVm {
        id: VmId::random().unwrap(),
        name: VmName::try_from("dev").unwrap(),
        image: image.id,
        kernel: kernel.id,
        spec: serde_json::from_value(spec).unwrap(),
    };
    let guard = locks.create().unwrap();
    store
        .publish_vm(
            &guard,
            Staged::new(context).unwrap().complete().unwrap(),
            &new,
        )
        .unwrap()
}

/// Runs a shell script in a directory, with a git of its own configuration.
#[track_caller]
pub(crate) fn sh(directory: &Path, script: &str) -> String {
    let output = Command::new("/bin/sh")
        .args(["-euc", script])
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_AUTHOR_NAME", "a")
        .env("GIT_AUTHOR_EMAIL", "a@example.org")
        .env("GIT_COMMITTER_NAME", "c")
        .env("GIT_COMMITTER_EMAIL", "c@example.org")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{script}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A repository with a commit of what the script leaves.
pub(crate) fn repository(rig: &Rig, script: &str) -> PathBuf {
    let source = rig.path("src");
    fs::create_dir_all(&source).unwrap();
    let identity = "git config user.name u; git config user.email u@example.org";
    sh(
        &source,
        &format!("git init -q -b main; {identity}; {script}\ngit add -A; git commit -q -m first"),
    );
    source
}

/// Clones a repository as it is committed, and applies a patch to it.
pub(crate) fn clone_and_apply(rig: &Rig, source: &Path, patch: &Path) -> PathBuf {
    let clone = rig.path("clone");
    let _ = fs::remove_dir_all(&clone);
    sh(
        rig.base.path(),
        &format!("git clone -q {} {}", source.display(), clone.display()),
    );
    if fs::metadata(patch).unwrap().len() > 0 {
        sh(
            &clone,
            &format!("git apply --whitespace=nowarn {}", patch.display()),
        );
    }
    clone
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
