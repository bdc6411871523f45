//! How registries are reached.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use lib_config::Mirror;

use super::{Retry, credential_files};

/// How registries are reached.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// Registries (`host:port`) that speak plain HTTP, beside those on loopback.
    pub plain_http: Vec<String>,
    /// Registries on loopback speak TLS too.
    pub tls_on_loopback: bool,
    /// For a registry, what is asked before it.
    pub mirrors: BTreeMap<String, Vec<Mirror>>,
    /// Certificates (PEM) of authorities to trust beside the system's.
    pub ca_files: Vec<PathBuf>,
    /// Directories with such certificates for one registry each: `<directory>/<host:port>/*.crt`;
    /// and, in the same place, `NAME.cert` with `NAME.key`: who we are (containers-certs.d(5)).
    pub certificate_directories: Vec<PathBuf>,
    /// Files with credentials in docker's form, the first that has the registry counts; see
    /// [`credential_files`].
    pub credential_files: Vec<PathBuf>,
    /// Where credential helpers are looked for, in the form of `PATH`; none runs none.
    pub helper_path: Option<OsString>,
    /// Time for a credential helper to answer; it may be asking a person.
    pub helper_timeout: Duration,
    /// What happens after transient failures.
    pub retry: Retry,
    /// Time for a connection to be made.
    pub connect_timeout: Duration,
    /// Time without a byte after which a transfer has failed.
    pub read_timeout: Duration,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        RegistryOptions {
            plain_http: Vec::new(),
            tls_on_loopback: false,
            mirrors: BTreeMap::new(),
            ca_files: Vec::new(),
            certificate_directories: Vec::new(),
            credential_files: Vec::new(),
            helper_path: None,
            helper_timeout: Duration::from_secs(60),
            retry: Retry::default(),
            connect_timeout: Duration::from_secs(15),
            read_timeout: Duration::from_secs(60),
        }
    }
}

impl RegistryOptions {
    /// As configured: the settings, the files of podman and docker, helpers on `PATH`.
    pub fn configured(
        settings: &lib_config::Registry,
        variable: impl Fn(&'static str) -> Option<OsString>,
    ) -> Self {
        let mut files = settings.credential_files.clone();
        files.extend(credential_files(&variable));
        RegistryOptions {
            plain_http: settings.plain_http.clone(),
            mirrors: settings.mirrors.clone(),
            ca_files: settings.ca_files.clone(),
            certificate_directories: ["/etc/containers/certs.d", "/etc/docker/certs.d"]
                .map(PathBuf::from)
                .into(),
            credential_files: files,
            helper_path: variable("PATH"),
            ..RegistryOptions::default()
        }
    }
}
