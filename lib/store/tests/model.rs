//! The store against a plain map: random operations, each through a connection chosen at random, as
//! separate processes would have them.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use lib_model::{ByteSize, Digest, ImageId, KernelName, OciConfig, VmId, VmName};
use lib_store::{Context, Locks, NewImage, NewKernel, NewVm, Staged, Store, StoreError, VmSpec};
use proptest::prelude::*;

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
    }
}

fn new_vm(name: &str, image: &ImageId, kernel: &lib_model::KernelId) -> NewVm {
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
        },
    }
}

fn kernel(store: &mut Store, locks: &mut Locks) -> lib_model::KernelId {
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
    store.publish_kernel(&guard, staged, &new).unwrap().id
}

fn apply(
    store: &mut Store,
    locks: &mut Locks,
    kernel: &lib_model::KernelId,
    model: &mut Model,
    operation: &Operation,
) {
    match *operation {
        Operation::Publish { name } => {
            let name = format!("n{name}:latest");
            let staged = Staged::new(store.context()).unwrap();
            let guard = locks.images().unwrap();
            let image = store
                .publish_image(&guard, staged, &new_image(), Some(&name))
                .unwrap();
            model.images.push(image.id.clone());
            model.names.insert(name, image.id);
        }
        Operation::Rename { image, name } => {
            let Some(id) = model.images.get(image).cloned() else {
                return;
            };
            let name = format!("n{name}:latest");
            let guard = locks.images().unwrap();
            let changed = store.name_image(&guard, &id, &name).unwrap();
            assert_eq!(changed, model.names.insert(name, id.clone()) != Some(id));
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
            let guard = locks.images().unwrap();
            match store.delete_image(&guard, &id) {
                Ok(trash) => {
                    drop(trash);
                    assert!(users.is_empty(), "an image in use was deleted");
                    model.images.retain(|other| *other != id);
                    model.names.retain(|_, other| *other != id);
                }
                Err(StoreError::InUse { users: said, .. }) => assert_eq!(said, users),
                Err(error) => panic!("{error}"),
            }
        }
        Operation::CreateVm { name, image } => {
            let Some(image) = model.images.get(image) else {
                return;
            };
            let new = new_vm(&format!("vm{name}"), image, kernel);
            let taken = model.vms.contains_key(new.name.as_str());
            let guard = locks.create().unwrap();
            match store.publish_vm(&guard, Staged::new(store.context()).unwrap(), &new) {
                Ok(row) => {
                    assert!(!taken, "a taken name was given twice");
                    model.vms.insert(row.name.to_string(), (row.id, row.image));
                }
                Err(StoreError::NameTaken { .. }) => assert!(taken),
                Err(error) => panic!("{error}"),
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
            let guard = locks.vm(&id).unwrap();
            store.delete_vm(&guard, &id).unwrap();
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
    fn random_operations_through_several_connections(
        operations in prop::collection::vec((operation(), 0usize..3), 1..40),
    ) {
        let base = tempfile::tempdir().unwrap();
        let context = context(base.path());
        let mut stores: Vec<Store> = (0..3).map(|_| Store::open(&context).unwrap()).collect();
        let mut locks = Locks::new(&context, |_, _| {});
        let kernel = kernel(&mut stores[0], &mut locks);
        let mut model = Model::default();
        for (operation, through) in &operations {
            apply(&mut stores[*through], &mut locks, &kernel, &mut model, operation);
        }
        for store in &stores {
            compare(store, &model);
        }
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
        .publish_image(&guard, staged, &new_image(), None)
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
                                staged,
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
