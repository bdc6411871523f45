//! The images: a development system in layers that change and delete things, and one with many
//! entries. Made once, and kept as the data of a registry under the target directory.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use banger_tests::{Compression, Entry, Fixtures, Registry};

use super::peers::Peers;
use crate::bench::remove;
use crate::fixtures::{sources, suite};
use crate::step::{Result, output};

/// Tags of the development image.
pub(super) const VARIANTS: [&str; 2] = ["gzip", "zstd"];
/// The image with as many entries as the budget of memory speaks of.
pub(super) const MANY: &str = "many:gzip";
pub(super) const ENTRIES: usize = 500_000;
/// The image with more than that, which gets 128 bytes for each of them.
pub(super) const MORE: &str = "more:gzip";
pub(super) const MORE_ENTRIES: usize = 1_000_000;

/// Changes when the recipe does: an image of another recipe is made again.
const RECIPE: &str = "2";

/// Packages of the layers above a minimal system, lowest first; each comes with all it depends
/// on, as an upgrade does. Names that every release has.
const LAYERS: &[(&str, &str)] = &[
    ("tools", "build-essential,git,gdb,cmake,python3"),
    ("compilers", "clang,llvm"),
    ("libraries", "golang-src"),
    (
        "docs",
        "linux-headers-amd64,manpages-dev,perl-doc,python3-doc",
    ),
];

/// The images and where they are kept.
pub(super) struct Large {
    directory: PathBuf,
    registry: PathBuf,
}

/// A layer as the manifest has it.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub(super) size: u64,
    /// The file in the registry's data.
    pub(super) file: PathBuf,
    /// Path of the request for it.
    pub(super) path: String,
}

impl Large {
    /// Makes the images when they are not there.
    ///
    /// # Errors
    /// When a tool fails.
    pub(super) fn prepare(cache: &Path, fixtures: &Fixtures, peers: &Peers) -> Result<Large> {
        let large = Large {
            directory: cache.join("images"),
            registry: fixtures.registry_program(),
        };
        let stamp = large.directory.join("recipe");
        let recipe = format!("{RECIPE} {}\n", suite()?);
        if fs::read_to_string(&stamp).is_ok_and(|made| made == recipe) {
            println!("   the images are there");
        } else {
            remove(&large.directory)?;
            fs::create_dir_all(large.data())?;
            large.make(peers)?;
            fs::write(stamp, &recipe)?;
        }
        // Came later than the others, so it has a stamp of its own.
        let stamp = large.directory.join("recipe-more");
        if !fs::read_to_string(&stamp).is_ok_and(|made| made == recipe) {
            large.make_many("more", MORE, MORE_ENTRIES, peers)?;
            fs::write(stamp, recipe)?;
        }
        Ok(large)
    }

    /// A registry that has them.
    pub(super) fn serve(&self) -> Result<Registry> {
        Ok(Registry::serving(&self.registry, &self.data())?)
    }

    /// Layers of a variant, lowest first.
    pub(super) fn layers(&self, variant: &str) -> Result<Vec<Blob>> {
        let manifest = fs::read_to_string(self.manifest(&format!("large:{variant}")))?;
        let manifest: serde_json::Value = serde_json::from_str(&manifest)?;
        let layers = manifest["layers"]
            .as_array()
            .ok_or("a manifest has layers")?;
        let blobs = layers.iter().map(|layer| {
            let digest = layer["digest"].as_str()?;
            let hex = digest.strip_prefix("sha256:")?;
            let place = format!(
                "docker/registry/v2/blobs/sha256/{}/{hex}/data",
                hex.get(..2)?
            );
            Some(Blob {
                size: layer["size"].as_u64()?,
                file: self.data().join(place),
                path: format!("/v2/large/blobs/{digest}"),
            })
        });
        let blobs: Option<Vec<Blob>> = blobs.collect();
        Ok(blobs.ok_or("a layer has digest and size")?)
    }

    fn data(&self) -> PathBuf {
        self.directory.join("registry")
    }

    fn manifest(&self, image: &str) -> PathBuf {
        self.directory.join(image.replace(':', "-") + ".json")
    }

    fn make(&self, peers: &Peers) -> Result<()> {
        let registry = self.serve()?;
        let work = self.directory.join("work");
        let builder = Builder::new(&work, peers)?;
        builder.create("large")?;
        builder.system("base", &["--variant=minbase"])?;
        builder.add("large")?;
        for (name, packages) in LAYERS {
            let include = format!("--include={packages}");
            // Without the links that a merged /usr has, packages would replace them by directories.
            let hooks = "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr";
            builder.system(name, &["--variant=extract", hooks, &include])?;
            builder.add("large")?;
        }
        fs::write(&builder.layer, changes()?)?;
        builder.add("large")?;
        let gzip = [];
        let zstd = [
            "--dest-compress-format=zstd",
            "--dest-force-compress-format",
        ];
        for (variant, options) in [("gzip", &gzip[..]), ("zstd", &zstd[..])] {
            let image = format!("large:{variant}");
            builder.push("large", &registry, &image, options, &self.manifest(&image))?;
        }
        drop(registry);
        remove(&work)?;
        self.make_many("many", MANY, ENTRIES, peers)
    }

    fn make_many(&self, name: &str, image: &str, entries: usize, peers: &Peers) -> Result<()> {
        println!("   {entries} entries");
        let registry = self.serve()?;
        let work = self.directory.join("work");
        let builder = Builder::new(&work, peers)?;
        builder.create(name)?;
        many(&builder.layer, entries)?;
        builder.add(name)?;
        builder.push(name, &registry, image, &[], &self.manifest(image))?;
        drop(registry);
        remove(&work)
    }
}

/// An OCI layout that grows by layers.
struct Builder<'a> {
    layout: PathBuf,
    /// The next layer.
    layer: PathBuf,
    peers: &'a Peers,
}

impl<'a> Builder<'a> {
    fn new(work: &Path, peers: &'a Peers) -> Result<Self> {
        remove(work)?;
        fs::create_dir(work)?;
        Ok(Builder {
            layout: work.join("layout"),
            layer: work.join("layer.tar"),
            peers,
        })
    }

    fn create(&self, name: &str) -> Result<()> {
        if !self.layout.exists() {
            output(
                self.tool("umoci")
                    .args(["init", "--layout"])
                    .arg(&self.layout),
            )?;
        }
        output(
            self.tool("umoci")
                .args(["new", "--image", &self.image(name)]),
        )?;
        Ok(())
    }

    /// Makes a layer of the distribution's packages.
    fn system(&self, name: &str, options: &[&str]) -> Result<()> {
        println!("   layer: {name}");
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap.args(["--quiet", "--format=tar"]).args(options);
        mmdebstrap.arg(suite()?).arg(&self.layer).args(sources());
        output(&mut mmdebstrap)?;
        Ok(())
    }

    fn add(&self, name: &str) -> Result<()> {
        output(
            self.tool("umoci")
                .args(["raw", "add-layer", "--image", &self.image(name)])
                .arg(&self.layer),
        )?;
        fs::remove_file(&self.layer)?;
        Ok(())
    }

    fn push(
        &self,
        name: &str,
        registry: &Registry,
        image: &str,
        options: &[&str],
        manifest: &Path,
    ) -> Result<()> {
        let target = format!("docker://{}/{image}", registry.address());
        output(
            self.tool("skopeo")
                .args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"])
                .args(options)
                .args([&format!("oci:{}", self.image(name)), &target]),
        )?;
        let inspect = ["inspect", "--raw", "--tls-verify=false", &target];
        fs::write(manifest, output(self.tool("skopeo").args(inspect))?)?;
        Ok(())
    }

    fn image(&self, name: &str) -> String {
        format!("{}:{name}", self.layout.display())
    }

    /// The peers' release, else the host's.
    fn tool(&self, name: &str) -> Command {
        let own = self.peers.bin().join(name);
        if own.exists() {
            Command::new(own)
        } else {
            Command::new(name)
        }
    }
}

/// The topmost layer: deletions of files and of whole directories, replaced and new files.
fn changes() -> Result<Vec<u8>> {
    let file = |path: &str, content: Vec<u8>| Entry::File(path.into(), 0o644, content);
    // Layers name the directories above what they change; some tools cannot do without.
    let directories = [
        "etc",
        "srv",
        "usr",
        "usr/bin",
        "usr/local",
        "usr/local/bin",
        "usr/share",
        "usr/share/doc",
        "var",
        "var/cache",
        "var/cache/apt",
    ];
    let directory = |path: &&str| Entry::Directory(format!("{path}/"), 0o755);
    let mut entries: Vec<Entry> = directories.iter().map(directory).collect();
    entries.extend([
        file("usr/share/.wh.locale", Vec::new()),
        file("var/cache/apt/.wh..wh..opq", Vec::new()),
        file("etc/hostname", b"development\n".to_vec()),
        file("etc/motd", b"A development system.\n".to_vec()),
        file("usr/bin/gdb", noise(8 << 20)),
        Entry::Directory("srv/project/".into(), 0o2775),
        file("srv/project/data", noise(16 << 20)),
        Entry::Hardlink("srv/project/again".into(), "srv/project/data".into()),
        Entry::Symlink("usr/local/bin/debugger".into(), "../../bin/gdb".into()),
    ]);
    for package in ["binutils", "cmake-data", "gdb", "git", "libc6", "perl"] {
        entries.push(file(&format!("usr/share/doc/.wh.{package}"), Vec::new()));
    }
    Ok(banger_tests::Layer::new(&entries, Compression::None)?.blob)
}

/// The same bytes every time, which no compression makes shorter (xorshift64).
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(bytes / 8).flatten().collect()
}

/// Writes a tar of directories with a thousand small files each.
fn many(path: &Path, entries: usize) -> io::Result<()> {
    let mut tar = tar::Builder::new(BufWriter::new(File::create(path)?));
    for number in 0..entries {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_700_000_000);
        let directory = format!("srv/packages/collection-{:03}", number / 1000);
        if number % 1000 == 0 {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            header.set_size(0);
            tar.append_data(&mut header, directory + "/", io::empty())?;
            continue;
        }
        let content = format!("file number {number}\n");
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        let name = format!("{directory}/a-module-with-a-name-{number:06}.py");
        tar.append_data(&mut header, name, content.as_bytes())?;
    }
    tar.into_inner()?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_the_same_and_does_not_repeat() {
        let bytes = noise(4096);
        assert_eq!(bytes, noise(4096));
        let words: std::collections::BTreeSet<&[u8]> = bytes.chunks(8).collect();
        assert_eq!(words.len(), 512);
    }
}
