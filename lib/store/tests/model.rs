//! The store against a plain map: random operations, each by a process chosen at random.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use lib_model::{ByteSize, Digest, ImageId, KernelId, KernelName, OciConfig, VmId, VmName};
use lib_store::{Context, Locks, NewImage, NewKernel, NewVm, Staged, Store, StoreError, VmSpec};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone)]
enum Operation {
    Publish { name: u8 },
    Rename { image: usize, name: u8 },
    DeleteImage { image: usize },
    CreateVm { name: u8, image: usize },
    DeleteVm { vm: usize },
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (0u8..4).prop_map(|name| Operation::Publish { name }),
        (0usize..6, 0u8..4).prop_map(|(image, name)| Operation::Rename { image, name }),
        (0usize..6).prop_map(|image| Operation::DeleteImage { image }),
        (0u8..5, 0usize..6).prop_map(|(name, image)| Operation::CreateVm { name, image }),
        (0usize..6).prop_map(|vm| Operation::DeleteVm { vm }),
    ]
}

/// What the store should hold.
#[derive(Default)]
struct Model {
    images: Vec<ImageId>,
    names: BTreeMap<String, ImageId>,
    vms: BTreeMap<String, (VmId, ImageId)>,
}

fn context(base: &Path) -> Context {
    Context::from_environment(Some(&base.join("store")), |name| {
        (name == "BANGER_RUNTIME_DIR").then(|| base.join("run").into_os_string())
    })
    .unwrap()
}

fn new_image() -> NewImage {
    NewImage {
        digest: Digest::from_sha256([7; 32]),
        source: "model".into(),
        architecture: "amd64".into(),
        filesystem: "ext4".into(),
        size: ByteSize(1),
        used: ByteSize(1),
        config: OciConfig::default(),
        kernel: None,
    }
}

fn new_vm(name: &str, image: &ImageId, kernel: &KernelId) -> NewVm {
    NewVm {
        id: VmId::random().unwrap(),
        name: VmName::try_from(name).unwrap(),
        image: image.clone(),
        kernel: kernel.clone(),
        spec: VmSpec {
            image_name: "i".into(),
            cpus: 1,
            memory: ByteSize(1),
            disk: ByteSize(1),
            network: "none".into(),
            vmm: "qemu".into(),
            accel: "auto".into(),
            entrypoint: Vec::new(),
            ephemeral: false,
            idle_stop_s: None,
            publish: Vec::new(),
            address: None,
            init: "none".into(),
            env: Vec::new(),
            disk_kind: "overlay".into(),
            machine: String::new(),
            work_disk: None,
            volumes: Vec::new(),
            shares: Vec::new(),
            generation: 0,
            cpu_limit: None,
            memory_limit: None,
            unknown: serde_json::Map::new(),
            share_store: false,
        },
    }
}

fn kernel(store: &mut Store, locks: &mut Locks) -> KernelId {
    let new = NewKernel {
        name: KernelName::try_from("k").unwrap(),
        release: "1".into(),
        architecture: "amd64".into(),
        digest: Digest::from_sha256([1; 32]),
        source: "model".into(),
        vmlinux: true,
        modules: 0,
    };
    let staged = Staged::new(store.context()).unwrap();
    let guard = locks.images().unwrap();
    store
        .publish_kernel(&guard, staged.complete().unwrap(), &new)
        .unwrap()
        .id
}

/// What a process is told to do.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    Publish {
        name: String,
    },
    Rename {
        image: ImageId,
        name: String,
    },
    DeleteImage {
        image: ImageId,
    },
    CreateVm {
        name: String,
        image: ImageId,
        kernel: KernelId,
    },
    DeleteVm {
        vm: VmId,
    },
}

/// What came of it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Reply {
    Image(ImageId),
    Vm(VmId),
    Changed(bool),
    Deleted,
    InUse(Vec<String>),
    Taken,
}

fn serve(store: &mut Store, locks: &mut Locks, request: Request) -> Reply {
    match request {
        Request::Publish { name } => {
            let staged = Staged::new(store.context()).unwrap();
            let guard = locks.images().unwrap();
            let image = store.publish_image(
                &guard,
                staged.complete().unwrap(),
                &new_image(),
                Some(&name),
            );
            Reply::Image(image.unwrap().id)
        }
        Request::Rename { image, name } => {
            let guard = locks.images().unwrap();
            Reply::Changed(store.name_image(&guard, &image, &name).unwrap())
        }
        Request::DeleteImage { image } => {
            let guard = locks.images().unwrap();
            match store.delete_image(&guard, &image) {
                Ok(trash) => {
                    drop(guard);
                    drop(trash);
                    Reply::Deleted
                }
                Err(StoreError::InUse { users, .. }) => Reply::InUse(users),
                Err(error) => panic!("{error}"),
            }
        }
        Request::CreateVm {
            name,
            image,
            kernel,
        } => {
            let staged = Staged::new(store.context()).unwrap();
            let guard = locks.create().unwrap();
            match store.publish_vm(
                &guard,
                staged.complete().unwrap(),
                &new_vm(&name, &image, &kernel),
            ) {
                Ok(row) => Reply::Vm(row.id),
                Err(StoreError::NameTaken { .. }) => Reply::Taken,
                Err(error) => panic!("{error}"),
            }
        }
        Request::DeleteVm { vm } => {
            let guard = locks.vm(&vm).unwrap();
            store.delete_vm(&guard, &vm).unwrap();
            Reply::Deleted
        }
    }
}

/// Where a worker finds the store; without it, it is no worker.
const VARIABLE: &str = "BANGER_MODEL_STORE";
/// Replies are among what the test harness prints.
const MARK: &str = "reply: ";

/// A process with the store open.
struct Worker {
    child: Child,
    output: std::io::Lines<BufReader<ChildStdout>>,
}

impl Worker {
    fn start(base: &Path) -> Worker {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "worker", "--ignored", "--nocapture"])
            .env(VARIABLE, base)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Worker { child, output }
    }

    fn ask(&mut self, request: &Request) -> Reply {
        let line = serde_json::to_string(request).unwrap();
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
        loop {
            let line = self.output.next().expect("the worker answers").unwrap();
            if let Some((_, reply)) = line.split_once(MARK) {
                return serde_json::from_str(reply).unwrap();
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "the other processes of the model test"]
fn worker() {
    let Some(base) = std::env::var_os(VARIABLE) else {
        return;
    };
    let context = context(Path::new(&base));
    let mut store = Store::open(&context).unwrap();
    let mut locks = Locks::new(&context, |_, _| {});
    for line in std::io::stdin().lines() {
        let request = serde_json::from_str(&line.unwrap()).unwrap();
        let reply = serve(&mut store, &mut locks, request);
        println!("{MARK}{}", serde_json::to_string(&reply).unwrap());
    }
}

fn apply(worker: &mut Worker, kernel: &KernelId, model: &mut Model, operation: &Operation) {
    match *operation {
        Operation::Publish { name } => {
            let name = format!("n{name}:latest");
            let Reply::Image(id) = worker.ask(&Request::Publish { name: name.clone() }) else {
                panic!("an image is published");
            };
            model.images.push(id.clone());
            model.names.insert(name, id);
        }
        Operation::Rename { image, name } => {
            let Some(id) = model.images.get(image).cloned() else {
                return;
            };
            let name = format!("n{name}:latest");
            let request = Request::Rename {
                image: id.clone(),
                name: name.clone(),
            };
            let changes = model.names.insert(name, id.clone()) != Some(id);
            assert_eq!(worker.ask(&request), Reply::Changed(changes));
        }
        Operation::DeleteImage { image } => {
            let Some(id) = model.images.get(image).cloned() else {
                return;
            };
            let users: Vec<String> = model
                .vms
                .iter()
                .filter(|(_, (_, used))| *used == id)
                .map(|(name, _)| name.clone())
                .collect();
            let reply = worker.ask(&Request::DeleteImage { image: id.clone() });
            if users.is_empty() {
                assert_eq!(reply, Reply::Deleted);
                model.images.retain(|other| *other != id);
                model.names.retain(|_, other| *other != id);
            } else {
                assert_eq!(reply, Reply::InUse(users));
            }
        }
        Operation::CreateVm { name, image } => {
            let Some(image) = model.images.get(image).cloned() else {
                return;
            };
            let name = format!("vm{name}");
            let request = Request::CreateVm {
                name: name.clone(),
                image: image.clone(),
                kernel: kernel.clone(),
            };
            match worker.ask(&request) {
                Reply::Vm(id) => {
                    let before = model.vms.insert(name, (id, image));
                    assert!(before.is_none(), "a taken name was given twice");
                }
                reply => {
                    assert_eq!(reply, Reply::Taken);
                    assert!(model.vms.contains_key(&name));
                }
            }
        }
        Operation::DeleteVm { vm } => {
            let Some((name, (id, _))) = model
                .vms
                .iter()
                .nth(vm)
                .map(|(n, v)| (n.clone(), v.clone()))
            else {
                return;
            };
            assert_eq!(worker.ask(&Request::DeleteVm { vm: id }), Reply::Deleted);
            model.vms.remove(&name);
        }
    }
}

fn compare(store: &Store, model: &Model) {
    let mut images: Vec<_> = store
        .images()
        .unwrap()
        .into_iter()
        .map(|image| image.id)
        .collect();
    let mut expected = model.images.clone();
    images.sort();
    expected.sort();
    assert_eq!(images, expected);
    let directories = std::fs::read_dir(store.context().data().join("images"))
        .unwrap()
        .count();
    assert_eq!(
        directories,
        expected.len(),
        "a directory for each row, a row for each directory"
    );
    assert_eq!(
        store.image_names().unwrap(),
        model.names.keys().cloned().collect::<Vec<_>>()
    );
    for (name, id) in &model.names {
        assert_eq!(store.image(name).unwrap().id, *id);
    }
    assert_eq!(
        store.vm_names().unwrap(),
        model.vms.keys().cloned().collect::<Vec<_>>()
    );
    for (name, (id, image)) in &model.vms {
        let row = store.vm(name).unwrap();
        assert_eq!((&row.id, &row.image), (id, image));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn random_operations_of_several_processes(
        operations in prop::collection::vec((operation(), 0usize..3), 1..40),
    ) {
        let base = tempfile::tempdir().unwrap();
        let context = context(base.path());
        let mut store = Store::open(&context).unwrap();
        let mut locks = Locks::new(&context, |_, _| {});
        let kernel = kernel(&mut store, &mut locks);
        let mut workers: Vec<Worker> = (0..3).map(|_| Worker::start(base.path())).collect();
        let mut model = Model::default();
        for (operation, by) in &operations {
            apply(&mut workers[*by], &kernel, &mut model, operation);
        }
        compare(&store, &model);
        drop(workers);
        compare(&Store::open(&context).unwrap(), &model);
    }
}

#[test]
fn of_many_who_want_one_name_exactly_one_gets_it() {
    let base = tempfile::tempdir().unwrap();
    let context = context(base.path());
    let mut store = Store::open(&context).unwrap();
    let mut locks = Locks::new(&context, |_, _| {});
    let kernel = kernel(&mut store, &mut locks);
    let guard = locks.images().unwrap();
    let staged = Staged::new(&context).unwrap();
    let image = store
        .publish_image(&guard, staged.complete().unwrap(), &new_image(), None)
        .unwrap()
        .id;
    drop(guard);

    let winners: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut store = Store::open(&context).unwrap();
                    let mut locks = Locks::new(&context, |_, _| {});
                    (0..8)
                        .filter(|name| {
                            let staged = Staged::new(&context).unwrap();
                            let guard = locks.create().unwrap();
                            match store.publish_vm(
                                &guard,
                                staged.complete().unwrap(),
                                &new_vm(&format!("vm{name}"), &image, &kernel),
                            ) {
                                Ok(_) => true,
                                Err(StoreError::NameTaken { .. }) => false,
                                Err(error) => panic!("{error}"),
                            }
                        })
                        .count()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(winners, 8);
    assert_eq!(store.vm_names().unwrap().len(), 8);
}
