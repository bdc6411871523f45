//! The image and kernel that are used when nobody named any: those of the host's own
//! distribution, made once from its signed package archive. No lock is held meanwhile.

use lib_distro::{DistroError, RootTarRequest};
use lib_image::{ImportRequest, Input};
use lib_kernel::{ImportKernel, KernelError};
use lib_model::{
    Diagnose, Exit, Filesystem, ImageRecord, KernelRecord, OciConfig, Progress, Reference,
    ReferenceError,
};
use lib_store::{Locks, Staged, Store, StoreError};

/// Name of the host's image, as `banger-image pull host` knows it.
pub const HOST: &str = "host";

/// Why there is no default.
#[derive(Debug, thiserror::Error)]
pub enum DefaultsError {
    /// The host's own package tools.
    #[error(transparent)]
    Distro(#[from] DistroError),
    /// The import of the root file system.
    #[error(transparent)]
    Image(#[from] lib_image::Error),
    /// The import of the kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The distribution calls itself something that no image can be called.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
}

impl DefaultsError {
    fn inner(&self) -> &dyn Diagnose {
        match self {
            DefaultsError::Distro(error) => error,
            DefaultsError::Image(error) => error,
            DefaultsError::Kernel(error) => error,
            DefaultsError::Store(error) => error,
            DefaultsError::Reference(error) => error,
        }
    }
}

impl Diagnose for DefaultsError {
    fn exit(&self) -> Exit {
        self.inner().exit()
    }

    fn hint(&self) -> Option<String> {
        self.inner().hint()
    }
}

/// The image that was made here before, or a new one.
///
/// # Errors
/// See [`DefaultsError`].
pub fn image(
    store: &mut Store,
    locks: &mut Locks,
    progress: &dyn Progress,
) -> Result<ImageRecord, DefaultsError> {
    match store.image(HOST) {
        Err(StoreError::NotFound { .. }) => {
            make_image(store, locks, Filesystem::default(), progress)
        }
        other => Ok(other?),
    }
}

/// A new image of the host's distribution; the name moves to it.
///
/// # Errors
/// See [`DefaultsError`].
pub fn make_image(
    store: &mut Store,
    locks: &mut Locks,
    filesystem: Filesystem,
    progress: &dyn Progress,
) -> Result<ImageRecord, DefaultsError> {
    let root = lib_distro::root_tar(&RootTarRequest::default(), progress)?;
    let request = ImportRequest {
        name: Some(Reference::try_from(HOST)?),
        run: OciConfig {
            cmd: vec!["/bin/bash".into()],
            ..OciConfig::default()
        },
        filesystem,
        ..ImportRequest::default()
    };
    let name = root.source().to_owned();
    let input = Input::Stream {
        name,
        reader: Box::new(root),
    };
    Ok(lib_image::import(store, locks, input, &request, progress)?)
}

/// The newest kernel here, or the one of the host's distribution.
///
/// # Errors
/// See [`DefaultsError`].
pub fn kernel(
    store: &mut Store,
    locks: &mut Locks,
    progress: &dyn Progress,
) -> Result<KernelRecord, DefaultsError> {
    match store.kernels()?.into_iter().next() {
        Some(newest) => Ok(newest),
        None => make_kernel(store, locks, progress),
    }
}

/// The newest kernel of the host's distribution; nothing is made when it is here.
///
/// # Errors
/// See [`DefaultsError`].
pub fn make_kernel(
    store: &mut Store,
    locks: &mut Locks,
    progress: &dyn Progress,
) -> Result<KernelRecord, DefaultsError> {
    let directory = Staged::new(store.context())?;
    let package = lib_distro::kernel_package(directory.path(), progress)?;
    let request = ImportKernel {
        source: package.image,
        modules: package.modules,
        ..ImportKernel::default()
    };
    Ok(lib_kernel::import(store, locks, &request, progress)?)
}
