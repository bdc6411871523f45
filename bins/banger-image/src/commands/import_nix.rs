//! `banger-image import --nix`: from an installable to an image, whatever Nix makes of it.

use std::path::Path;

use lib_cli::{Failure, Session};
use lib_image::{ImportRequest, Input, NixImage, import_nix, import_program};
use lib_kernel::ImportKernel;
use lib_model::{ImageRecord, KernelId, OciConfig};
use lib_nix::{Content, Disk, Installable, Nix, Output, StorePath, System, classify, main_program};
use lib_store::{Locks, Staged, Store};

use crate::cli::ImportArgs;

/// Where a running NixOS system has its programs; its wrappers first, as on its own PATH.
const SYSTEM_PATH: &str = "PATH=/run/wrappers/bin:/run/current-system/sw/bin";

/// Builds, tells what came out, and imports that.
pub(crate) fn run(
    session: &Session,
    args: &ImportArgs,
    installable: &str,
    request: &ImportRequest,
) -> Result<ImageRecord, Failure> {
    let installable = Installable::try_from(installable)?;
    let nix = Nix::find()?;
    let _tidy = session.tidy()?;
    let mut import = Import {
        store: session.store()?,
        locks: session.locks(),
        session,
        nix,
        request,
        installable,
    };
    // Nothing that was built can be collected as long as this is there.
    let work = Staged::new(&session.context)?;
    let link = work.path().join("result");
    let output = import
        .nix
        .build(&import.installable, &link, &*session.bars)?;
    session.detail(&format!("{} is {output}", import.installable.as_str()));
    match classify(&output)? {
        Output::System(system) => import.system(&system),
        Output::Closure => import.closure(output),
        Output::Layers(layers) => {
            let image = NixImage {
                content: layers.content(&import.nix)?,
                root: output,
                run: layers.run.clone(),
                kernel: None,
                architecture: Some(layers.architecture.clone()).filter(|name| !name.is_empty()),
                source: import.installable.as_str().to_owned(),
            };
            import.image(&image)
        }
        Output::Archive(path) => import.input(Input::Path(path)),
        Output::Disk(path, Disk::Ext4) => import.input(Input::Path(path)),
        Output::Disk(path, format) => Err(disk(&path.display().to_string(), format)),
        Output::Program if args.allow_exec => import.program(&output),
        Output::Program => Err(lib_nix::Error::Program(output).into()),
    }
}

/// What every kind of import needs.
struct Import<'a> {
    session: &'a Session,
    store: Store,
    locks: Locks,
    nix: Nix,
    request: &'a ImportRequest,
    installable: Installable,
}

impl Import<'_> {
    /// With its kernel, which is imported first, and its own init as the command.
    fn system(&mut self, system: &System) -> Result<ImageRecord, Failure> {
        let paths = self.nix.closure(std::slice::from_ref(&system.toplevel))?;
        let kernel = match (&system.kernel, system.architecture()) {
            (Some(kernel), Some("amd64")) => Some(self.kernel(system, kernel)?),
            // For containers; or for another machine, and then the image is refused.
            _ => None,
        };
        let image = NixImage {
            content: Content::closure(system.toplevel.clone(), paths, true),
            root: system.toplevel.clone(),
            run: OciConfig {
                env: vec![SYSTEM_PATH.to_owned()],
                entrypoint: vec![system.init.clone()],
                kernel_parameters: system.kernel_parameters.clone(),
                ..OciConfig::default()
            },
            kernel,
            architecture: Some(system.architecture().unwrap_or(&system.system).to_owned()),
            source: self.installable.as_str().to_owned(),
        };
        self.image(&image)
    }

    fn kernel(&mut self, system: &System, source: &Path) -> Result<KernelId, Failure> {
        let request = ImportKernel {
            source: source.to_owned(),
            modules: system.modules.clone(),
            name: None,
            origin: Some(format!("{} ({})", source.display(), system.label)),
        };
        let bars = &*self.session.bars;
        let kernel = lib_kernel::import(&mut self.store, &mut self.locks, &request, bars)?;
        self.session
            .note(&format!("{} boots kernel {}", system.label, kernel.name));
        Ok(kernel.id)
    }

    fn closure(&mut self, top: StorePath) -> Result<ImageRecord, Failure> {
        let paths = self.nix.closure(std::slice::from_ref(&top))?;
        let stated = self.nix.main_program(&self.installable);
        let program = main_program(&top, stated.as_deref());
        let content = Content::closure(top.clone(), paths, false);
        let image = NixImage {
            architecture: content.architecture().map(str::to_owned),
            content,
            root: top,
            run: OciConfig {
                env: vec![format!("PATH={}", program.search_path)],
                entrypoint: program.command,
                ..OciConfig::default()
            },
            kernel: None,
            source: self.installable.as_str().to_owned(),
        };
        self.image(&image)
    }

    fn image(&mut self, image: &NixImage) -> Result<ImageRecord, Failure> {
        Ok(import_nix(
            &mut self.store,
            &mut self.locks,
            &self.nix,
            image,
            self.request,
            &*self.session.bars,
        )?)
    }

    fn program(&mut self, path: &StorePath) -> Result<ImageRecord, Failure> {
        Ok(import_program(
            &mut self.store,
            &mut self.locks,
            path,
            self.request,
            &*self.session.bars,
        )?)
    }

    fn input(&mut self, input: Input<'_>) -> Result<ImageRecord, Failure> {
        Ok(lib_image::import(
            &mut self.store,
            &mut self.locks,
            input,
            self.request,
            &*self.session.bars,
        )?)
    }
}

fn disk(path: &str, format: Disk) -> Failure {
    let (what, hint) = match format {
        Disk::Qcow2 => (
            "a qcow2 disk, which is not imported",
            "import the system that the disk was made of (config.system.build.toplevel), or its ext4 file \
             system alone",
        ),
        Disk::Partitioned | Disk::Ext4 => (
            "a disk with partitions, which is not imported",
            "import the system that the disk was made of (config.system.build.toplevel), or one partition, \
             copied out with dd",
        ),
    };
    Failure::usage(format!("{path} is {what}")).hint(hint)
}
