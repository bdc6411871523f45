//! NixOS systems: where `boot.json` says that kernel and init are (RFC 125), or, in a system for containers and in
//! those of before 23.05, where they have always been.
//!
//! Five fields are read. The crate bootspec reads all, at the price of two errors of its own and a dependency for
//! what these lines do.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{Error, StorePath, program};

const FILE: &str = "boot.json";
/// More than any has.
const LARGEST: u64 = 4 << 20;

/// A NixOS system that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// The system itself.
    pub toplevel: StorePath,
    /// As Nix calls it: `x86_64-linux`.
    pub system: String,
    /// The kernel's image; a system for containers has none.
    pub kernel: Option<PathBuf>,
    /// The directory of one release's modules, where the system has modules.
    pub modules: Option<PathBuf>,
    /// What stage 1 would execute.
    pub init: String,
    /// What the kernel is told, without what is the boot's own matter here.
    pub kernel_parameters: Vec<String>,
    /// For people.
    pub label: String,
}

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "org.nixos.bootspec.v1")]
    v1: V1,
}

#[derive(Deserialize)]
struct V1 {
    system: String,
    init: String,
    kernel: PathBuf,
    #[serde(default, rename = "kernelParams")]
    kernel_parameters: Vec<String>,
    label: String,
}

/// Where the root, the console and process 1 are is not the system's to say.
const OURS: [&str; 8] = [
    "console",
    "init",
    "initrd",
    "rdinit",
    "resume",
    "root",
    "rootflags",
    "rootfstype",
];
/// Bytes of all together: a half of what a kernel reads (x86's COMMAND_LINE_SIZE is 2048), as ours come after them.
const LONGEST: usize = 1024;

impl System {
    /// OCI architecture of the machine that it is for; none for what is not Linux.
    pub fn architecture(&self) -> Option<&str> {
        program::of_system(&self.system)
    }

    /// The system that this output is; none when it is none.
    ///
    /// # Errors
    /// [`Error::Bootspec`]; [`Error::NotInStore`] for parts that the closure cannot have.
    pub(crate) fn read(output: &StorePath) -> Result<Option<System>, Error> {
        let file = output.path().join(FILE);
        let length = match fs::metadata(&file) {
            Ok(metadata) => metadata.len(),
            Err(_) => return System::without_document(output),
        };
        let malformed = |reason: String| Error::Bootspec {
            path: file.clone(),
            reason,
        };
        if length > LARGEST {
            return Err(malformed(format!("it has {length} bytes")));
        }
        let bytes = fs::read(&file).map_err(Error::io("read", &file))?;
        let v1 = parse(&bytes).map_err(malformed)?;
        StorePath::containing(Path::new(&v1.init))?;
        StorePath::containing(&v1.kernel)?;
        Ok(Some(System {
            toplevel: output.clone(),
            system: v1.system,
            kernel: Some(v1.kernel),
            modules: modules(output)?,
            init: v1.init,
            kernel_parameters: kernel_parameters(v1.kernel_parameters).map_err(malformed)?,
            label: v1.label,
        }))
    }
}

impl System {
    fn without_document(output: &StorePath) -> Result<Option<System>, Error> {
        let at = |name: &str| output.path().join(name);
        let text = |name: &str| fs::read_to_string(at(name)).map(|text| text.trim().to_owned());
        let (Ok(version), Ok(system), true) =
            (text("nixos-version"), text("system"), at("init").is_file())
        else {
            return Ok(None);
        };
        let kernel = at("kernel").canonicalize().ok();
        kernel.as_deref().map(StorePath::containing).transpose()?;
        Ok(Some(System {
            toplevel: output.clone(),
            system,
            modules: kernel.as_ref().map_or(Ok(None), |_| modules(output))?,
            kernel,
            init: format!("{output}/init"),
            kernel_parameters: Vec::new(),
            label: format!("NixOS {version}"),
        }))
    }
}

fn parse(bytes: &[u8]) -> Result<V1, String> {
    let document: Document = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    Ok(document.v1)
}

/// Those that a VM's kernel is told. They become a part of an argument of the VMM, in which braces have a meaning.
fn kernel_parameters(mut parameters: Vec<String>) -> Result<Vec<String>, String> {
    let plain = |c: char| (c == ' ' || c.is_ascii_graphic()) && c != '{' && c != '}';
    if let Some(odd) = parameters.iter().find(|text| !text.chars().all(plain)) {
        return Err(format!(
            "the kernel parameter {odd:?} has more than printable characters, or braces"
        ));
    }
    parameters.retain(|text| {
        let name = text.split_once('=').map_or(&**text, |(name, _)| name);
        !OURS.contains(&name)
    });
    let length: usize = parameters.iter().map(|text| text.len() + 1).sum();
    if length > LONGEST {
        return Err(format!(
            "the kernel parameters have {length} bytes, and {LONGEST} is the most"
        ));
    }
    Ok(parameters)
}

/// `kernel-modules/lib/modules/<release>` of a system.
fn modules(output: &StorePath) -> Result<Option<PathBuf>, Error> {
    let directory = output.path().join("kernel-modules/lib/modules");
    let Ok(entries) = fs::read_dir(&directory) else {
        return Ok(None);
    };
    let mut releases = Vec::new();
    for entry in entries {
        releases.push(entry.map_err(Error::io("read", &directory))?.path());
    }
    match &releases[..] {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        several => Err(Error::Bootspec {
            path: directory,
            reason: format!("it has the modules of {} kernels", several.len()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_among_others() {
        let text = br#"{"org.nixos.bootspec.v1":{"system":"x86_64-linux","init":"/nix/store/a/init",
            "kernel":"/nix/store/k/bzImage","kernelParams":["quiet"],"label":"NixOS 24.11","toplevel":"/t"},
            "org.nixos.specialisation.v1":{}}"#;
        let v1 = parse(text).unwrap();
        assert_eq!(
            (&*v1.init, &*v1.system),
            ("/nix/store/a/init", "x86_64-linux")
        );
        assert_eq!(v1.kernel_parameters, ["quiet"]);
        for bad in [&b"{}"[..], b"", br#"{"v1":{"kernel":"x"}}"#] {
            assert!(parse(bad).is_err());
        }
    }

    #[test]
    fn a_kernel_is_told_what_the_system_says_and_not_where_its_root_is() {
        let given = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let parameters = given(&[
            "console=tty0",
            "loglevel=4",
            "root=fstab",
            "init=/nix/store/a/init",
            "dyndbg=\"file x.c +p\"",
            "nohibernate",
        ]);
        assert_eq!(
            kernel_parameters(parameters).unwrap(),
            ["loglevel=4", "dyndbg=\"file x.c +p\"", "nohibernate"]
        );
        for bad in ["a\nb", "caf\u{e9}", "{agent}", &"x".repeat(LONGEST)] {
            assert!(kernel_parameters(given(&[bad])).is_err(), "{bad:?}");
        }
    }
}
