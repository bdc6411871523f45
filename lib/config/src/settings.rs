//! What can be set. This is the form of every configuration file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use lib_model::{ByteSize, KernelName, ProxyUrl, Reference};
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::Mirror;

/// All settings; what nobody set is none or empty, and then the commands' own defaults count.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Settings {
    /// What is used when nothing is named.
    pub default: Defaults,
    /// New VMs.
    pub vm: Vm,
    /// How registries are reached.
    pub registry: Registry,
    /// What an image may ask of this machine.
    pub limits: Limits,
}

/// What is used when nothing is named.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Defaults {
    /// The image: a reference, or `host` for the host's own distribution.
    #[serde(deserialize_with = "image")]
    pub image: Option<String>,
    /// The kernel, by name.
    pub kernel: Option<KernelName>,
}

/// Properties of new VMs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Vm {
    /// Number of virtual processors, at least 1.
    #[serde(deserialize_with = "positive")]
    pub cpus: Option<u32>,
    /// Memory.
    #[serde(deserialize_with = "size")]
    pub memory: Option<ByteSize>,
    /// Largest size of the VM's own disk.
    #[serde(deserialize_with = "size")]
    pub disk: Option<ByteSize>,
    /// Network.
    pub network: Option<Network>,
    /// Acceleration.
    pub accel: Option<Acceleration>,
    /// Public keys that may log in by SSH beside the store's own: keys as they are, or paths of files of
    /// keys. Running VMs take them at their next start.
    #[serde(deserialize_with = "keys")]
    pub authorized_keys: Vec<String>,
    /// Files and directories of the home that VMs get at their start: `~/path`, or `~/path:` and a path in
    /// the guest.
    #[serde(deserialize_with = "file_sync")]
    pub file_sync: Vec<String>,
    /// Directories of this machine below which guests may be shown some; empty: wherever they are the user's.
    #[serde(deserialize_with = "paths")]
    pub mount_roots: Vec<PathBuf>,
    /// Proxy for what runs in guests.
    pub proxy: Option<ProxyUrl>,
}

/// Networks of VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// NAT inside the VMM, without privileges.
    User,
    /// An address of its own on the host's bridge.
    Bridge,
    /// None.
    None,
}

impl Network {
    /// As written in files and on command lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Network::User => "user",
            Network::Bridge => "bridge",
            Network::None => "none",
        }
    }
}

/// What VMs run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Acceleration {
    /// KVM where the processor really has it.
    Auto,
    /// KVM or an error.
    Kvm,
    /// Emulation.
    Tcg,
}

impl Acceleration {
    /// As written in files and on command lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Acceleration::Auto => "auto",
            Acceleration::Kvm => "kvm",
            Acceleration::Tcg => "tcg",
        }
    }
}

/// How registries are reached.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Registry {
    /// For a registry (`host[:port]`), what is asked before it, in order.
    #[serde(deserialize_with = "mirrors")]
    pub mirrors: BTreeMap<String, Vec<Mirror>>,
    /// Registries that speak plain HTTP, beside those on loopback.
    #[serde(deserialize_with = "registries")]
    pub plain_http: Vec<String>,
    /// Certificates (PEM) of authorities to trust beside the system's.
    #[serde(deserialize_with = "paths")]
    pub ca_files: Vec<PathBuf>,
    /// Files with credentials in docker's form, before podman's and docker's own.
    #[serde(deserialize_with = "paths")]
    pub credential_files: Vec<PathBuf>,
}

/// What an image may ask of this machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Limits {
    /// Compressed bytes of all layers together.
    #[serde(deserialize_with = "size")]
    pub download: Option<ByteSize>,
    /// Unpacked bytes of all layers together.
    #[serde(deserialize_with = "size")]
    pub unpacked: Option<ByteSize>,
    /// Files, directories and links of all layers together.
    pub entries: Option<u64>,
    /// Unpacked bytes for each compressed one, in one layer.
    #[serde(deserialize_with = "positive")]
    pub ratio: Option<u32>,
}

/// `512M` or a number of bytes.
fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ByteSize>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "expected a size such as \"512M\" or a number of bytes"
    )]
    enum Form {
        Text(String),
        Number(u64),
    }
    match Form::deserialize(deserializer)? {
        Form::Number(bytes) => Ok(Some(ByteSize(bytes))),
        Form::Text(text) => text.parse().map(Some).map_err(de::Error::custom),
    }
}

fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    match u32::deserialize(deserializer)? {
        0 => Err(de::Error::custom("0 is too small, the least is 1")),
        number => Ok(Some(number)),
    }
}

fn image<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match Reference::try_from(text.as_str()) {
        Ok(_) => Ok(Some(text)),
        Err(error) => Err(de::Error::custom(error)),
    }
}

/// Paths are absolute: a file has no directory that it could be relative to for everybody.
fn paths<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    let paths = Vec::<PathBuf>::deserialize(deserializer)?;
    match paths.iter().find(|path| !path.is_absolute()) {
        Some(path) => Err(de::Error::custom(format!(
            "`{}` is no absolute path",
            path.display()
        ))),
        None => Ok(paths),
    }
}

/// Keys are looked at where they are used; here only what is neither a key nor a path is refused.
fn keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let keys = Vec::<String>::deserialize(deserializer)?;
    let fits = |key: &&String| key.starts_with(['/', '~']) || key.contains(' ');
    match keys.iter().find(|key| !fits(key)) {
        Some(key) => Err(de::Error::custom(format!(
            "`{key}` is neither a public key (`ssh-ed25519 AAAA…`) nor an absolute path"
        ))),
        None => Ok(keys),
    }
}

/// As far as the words go; whether the files may go is looked at where they are read.
fn file_sync<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let entries = Vec::<String>::deserialize(deserializer)?;
    let path = |path: &str| path.starts_with("~/") || path.starts_with('/');
    let fits = |entry: &&String| entry.split(':').count() < 3 && entry.split(':').all(path);
    match entries.iter().find(|entry| !fits(entry)) {
        Some(entry) => Err(de::Error::custom(format!(
            "`{entry}` is neither `~/file` nor `~/file:/path/in/the/guest`"
        ))),
        None => Ok(entries),
    }
}

fn registries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let hosts = Vec::<String>::deserialize(deserializer)?;
    for host in &hosts {
        registry(host).map_err(de::Error::custom)?;
    }
    Ok(hosts)
}

fn mirrors<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Vec<Mirror>>, D::Error> {
    let mirrors = BTreeMap::<String, Vec<Mirror>>::deserialize(deserializer)?;
    for host in mirrors.keys() {
        registry(host).map_err(de::Error::custom)?;
    }
    Ok(mirrors)
}

/// Checks that a reference can name this registry.
pub(crate) fn registry(host: &str) -> Result<(), String> {
    match Reference::try_from(format!("{host}/x").as_str()) {
        Ok(reference) if reference.registry() == host => Ok(()),
        _ => Err(format!(
            "`{host}` is not a registry such as registry.example:5000"
        )),
    }
}
