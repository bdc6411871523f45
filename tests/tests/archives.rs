//! Archives as other tools write them, through pipes; sizes; and what `verify` finds.

use std::fs;
use std::os::unix::fs::FileExt;

use banger_tests::{Compression, Entry, Layer, Sandbox, sha256};

/// A docker archive as Nix streams it: layers first, `manifest.json` last, all names absolute.
fn streamed(name: &str) -> Vec<u8> {
    let file = |path: &str, content: &[u8]| Entry::File(path.into(), 0o644, content.to_vec());
    let tar = |entries: &[Entry]| {
        Layer::new(entries, Compression::None)
            .expect("short names fit")
            .blob
    };
    let layer = tar(&[file("etc/name", name.as_bytes())]);
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [sha256(&layer)]},
    });
    let layer_name = "/aa/layer.tar";
    let manifest = serde_json::json!([
        {"Config": "/config.json", "RepoTags": [name], "Layers": [layer_name]},
    ]);
    tar(&[
        file("/repositories", b"{}"),
        file(layer_name, &layer),
        file("/config.json", config.to_string().as_bytes()),
        file("/manifest.json", manifest.to_string().as_bytes()),
    ])
}

#[test]
fn a_streamed_docker_archive_is_imported_from_a_pipe_however_it_is_packed() {
    let sandbox = Sandbox::empty();
    for (name, pack) in [
        ("plain:1", "cat"),
        ("gz:1", "gzip -c"),
        ("zst:1", "zstd -qc"),
    ] {
        let archive = streamed(name);
        let line = format!("{pack} | banger-image import -");
        let mut import = sandbox.start(&line);
        import.write(&archive);
        import.close_stdin();
        let record = import.finish().record();
        assert_eq!(record["names"][0], name, "{record}");
        assert_eq!(record["config"]["cmd"][0], "/bin/sh", "{record}");
        let disk = sandbox.image_disk(name);
        let shown = sandbox.sh(&format!("debugfs -R 'cat /etc/name' {}", disk.display()));
        assert_eq!(shown.ok(), name);
    }
}

#[test]
fn a_pipe_without_end_is_stopped() {
    let sandbox = Sandbox::empty();
    sandbox
        .sh("mkdir tree && echo x > tree/x && tar -C tree -cf end.tar .")
        .ok();
    for flag in ["--max-download 2M", "--max-unpacked 2M"] {
        sandbox
            .sh(&format!(
                "cat end.tar /dev/zero | banger-image import --name x:1 {flag} -"
            ))
            .exits(1)
            .says("the limit is 2097152")
            .hints(flag.split(' ').next().unwrap());
    }
    assert_eq!(sandbox.sh("banger-image list").ok(), "");
    let staging = sandbox.store().join("staging");
    assert_eq!(fs::read_dir(staging).unwrap().count(), 0);
}

#[test]
fn an_image_is_verified_and_its_damage_named() {
    let sandbox = Sandbox::empty();
    let archive = sandbox.path("app.tar");
    fs::write(&archive, streamed("app:1")).unwrap();
    let import = format!("banger-image import --min-size 16M {}", archive.display());
    let record = sandbox.sh(&import).record();
    assert!(record["size"].as_u64() >= Some(16 << 20), "{record}");
    let verified = sandbox.sh("banger-image verify app:1").record();
    assert_eq!(verified["id"], record["id"]);

    let disk = fs::File::options()
        .write(true)
        .open(sandbox.image_disk("app:1"))
        .unwrap();
    // The bitmaps and tables behind the superblock and the descriptors.
    disk.write_all_at(&[0xff; 64 << 10], 8192).unwrap();
    sandbox
        .sh("banger-image verify app:1")
        .exits(1)
        .says("the image `app:1` is damaged: e2fsck -f -n finds the file system damaged")
        .hints("banger-image delete app:1");
    sandbox.sh("banger-image delete app:1").ok();

    sandbox.sh(&import).ok();
    let layer = sandbox.sh("banger-image cache list").records();
    let layer = layer
        .iter()
        .max_by_key(|blob| blob["size"].as_u64())
        .unwrap();
    let digest = layer["digest"].as_str().unwrap();
    let blob = sandbox
        .store()
        .join("blobs/blobs/sha256")
        .join(digest.trim_start_matches("sha256:"));
    let mut bytes = fs::read(&blob).unwrap();
    bytes[600] ^= 1;
    fs::write(&blob, bytes).unwrap();
    sandbox
        .sh("banger-image verify app:1")
        .exits(1)
        .says(&format!("blob {digest} is damaged"));
    fs::remove_file(blob).unwrap();
    sandbox
        .sh("banger-image verify app:1")
        .exits(1)
        .says(&format!("blob {digest} is missing"));
    sandbox.sh("banger-image verify no-such").exits(3);
}
