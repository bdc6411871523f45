//! Authorities to trust beside the system's, and who we are for a registry that asks.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use reqwest::{Certificate, Identity};

use super::RegistryOptions;
use crate::Error;

/// No bundle of certificates is longer, in bytes.
const LONGEST: u64 = 8 << 20;

/// Certificates for a registry: those of all, then those of its own directories.
///
/// # Errors
/// [`Error::Io`], [`Error::Malformed`] for a file without certificates.
pub(super) fn certificates(
    host: &str,
    options: &RegistryOptions,
) -> Result<Vec<Certificate>, Error> {
    let mut files = options.ca_files.clone();
    for directory in &options.certificate_directories {
        files.extend(own(&directory.join(host), "crt")?);
    }
    let mut certificates = Vec::new();
    for file in files {
        certificates.extend(read(&file)?);
    }
    Ok(certificates)
}

/// The client certificate for a registry: the first `NAME.cert` of its own directories, with the
/// key in `NAME.key` (containers-certs.d(5)).
///
/// # Errors
/// [`Error::Io`], also when there is no key; [`Error::Malformed`] for files that hold neither.
pub(super) fn identity(host: &str, options: &RegistryOptions) -> Result<Option<Identity>, Error> {
    for directory in &options.certificate_directories {
        if let Some(certificate) = own(&directory.join(host), "cert")?.first() {
            let mut both = bounded(certificate)?;
            both.push(b'\n');
            both.extend(bounded(&certificate.with_extension("key"))?);
            let malformed = |error| Error::malformed(&certificate.to_string_lossy(), error);
            return Identity::from_pem(&both).map(Some).map_err(malformed);
        }
    }
    Ok(None)
}

/// Files of a directory with this extension, in the order of their names.
fn own(directory: &Path, wanted: &str) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(Error::io("read the certificates in", directory)(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry
            .map_err(Error::io("read the certificates in", directory))?
            .path();
        if path
            .extension()
            .is_some_and(|extension| extension == wanted)
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn bounded(file: &Path) -> Result<Vec<u8>, Error> {
    let length = fs::metadata(file).map_err(Error::io("open", file))?.len();
    if length > LONGEST {
        let what = file.to_string_lossy();
        return Err(Error::malformed(&what, "it is too long for certificates"));
    }
    fs::read(file).map_err(Error::io("read", file))
}

fn read(file: &Path) -> Result<Vec<Certificate>, Error> {
    let what = file.to_string_lossy();
    let bytes = bounded(file)?;
    let certificates =
        Certificate::from_pem_bundle(&bytes).map_err(|error| Error::malformed(&what, error))?;
    if certificates.is_empty() {
        return Err(Error::malformed(&what, "it holds no PEM certificate"));
    }
    Ok(certificates)
}
