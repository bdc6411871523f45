//! Authorities to trust beside the system's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use reqwest::Certificate;

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
        files.extend(own(&directory.join(host))?);
    }
    let mut certificates = Vec::new();
    for file in files {
        certificates.extend(read(&file)?);
    }
    Ok(certificates)
}

/// `*.crt` in a directory, in the order of their names (containers-certs.d(5)).
fn own(directory: &Path) -> Result<Vec<PathBuf>, Error> {
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
        if path.extension().is_some_and(|extension| extension == "crt") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<Vec<Certificate>, Error> {
    let what = file.to_string_lossy();
    let length = fs::metadata(file).map_err(Error::io("open", file))?.len();
    if length > LONGEST {
        return Err(Error::malformed(&what, "it is too long for certificates"));
    }
    let bytes = fs::read(file).map_err(Error::io("read", file))?;
    let certificates =
        Certificate::from_pem_bundle(&bytes).map_err(|error| Error::malformed(&what, error))?;
    if certificates.is_empty() {
        return Err(Error::malformed(&what, "it holds no PEM certificate"));
    }
    Ok(certificates)
}
