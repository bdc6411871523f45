//! One repository in a registry, over HTTP (distribution-spec). The only async code, and the only
//! user of oci-client.

mod credentials;
mod fault;
mod retry;

use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt;
use lib_model::{Digest, Reference, Step};
use oci_client::client::{BlobResponse, Client, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference as Target, RegistryOperation};

pub use credentials::credential_files;
pub use retry::Retry;

use crate::blobs::{BlobWriter, check_digest};
use crate::manifest::{ACCEPTED, Descriptor};
use crate::{Error, Limits};
use fault::Fault;

/// How registries are reached.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// Registries (`host:port`) that speak plain HTTP, beside those on loopback.
    pub plain_http: Vec<String>,
    /// Registries on loopback speak TLS too.
    pub tls_on_loopback: bool,
    /// Files with credentials in docker's form, the first that has the registry counts; see
    /// [`credential_files`].
    pub credential_files: Vec<PathBuf>,
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
            credential_files: Vec::new(),
            retry: Retry::default(),
            connect_timeout: Duration::from_secs(15),
            read_timeout: Duration::from_secs(60),
        }
    }
}

/// A client for the repository of one reference.
pub(crate) struct Registry {
    client: Client,
    reference: Reference,
    auth: RegistryAuth,
    retry: Retry,
}

impl Registry {
    /// Makes the client; nothing is sent yet. Costs 10 ms and more (the CA store).
    ///
    /// # Errors
    /// [`Error::Client`] without a usable CA store; credential files that do not parse.
    pub(crate) fn new(reference: &Reference, options: &RegistryOptions) -> Result<Self, Error> {
        // An error only says that a provider is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let registry = reference.registry();
        let plain = (reference.is_loopback() && !options.tls_on_loopback)
            || options.plain_http.iter().any(|host| host == registry);
        let config = ClientConfig {
            protocol: if plain {
                ClientProtocol::Http
            } else {
                ClientProtocol::Https
            },
            // Platforms are chosen by `Index::choose`.
            platform_resolver: None,
            connect_timeout: Some(options.connect_timeout),
            read_timeout: Some(options.read_timeout),
            user_agent: concat!("banger/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|error| Error::Client(error.into()))?;
        let auth = match credentials::find(&options.credential_files, reference)? {
            Some((user, password)) => RegistryAuth::Basic(user, password),
            None => RegistryAuth::Anonymous,
        };
        Ok(Registry {
            client,
            reference: reference.clone(),
            auth,
            retry: options.retry.clone(),
        })
    }

    /// Logs in where the registry wants that. Before everything else.
    ///
    /// # Errors
    /// [`Error::Unauthorized`], [`Error::Connection`], [`Error::Tls`].
    pub(crate) async fn login(&self) -> Result<(), Error> {
        let target = self.target(self.reference.digest());
        let what = self.reference.familiar();
        let mut backoff = self.retry.start();
        loop {
            let answer = self
                .client
                .auth(&target, &self.auth, RegistryOperation::Pull)
                .await;
            match answer {
                Ok(_) => return Ok(()),
                Err(error) => backoff.wait(self.fault(error, &what)).await?,
            }
        }
    }

    /// The manifest or index of the reference, or the one with `digest`, checked.
    ///
    /// # Errors
    /// What the registry says, [`Error::DigestMismatch`], [`Error::Limit`].
    pub(crate) async fn document(
        &self,
        digest: Option<&Digest>,
        limits: &Limits,
    ) -> Result<Vec<u8>, Error> {
        let pinned = digest.or(self.reference.digest());
        let target = self.target(pinned);
        let what = match digest {
            Some(digest) => format!(
                "manifest {}/{}@{digest}",
                self.reference.registry(),
                self.reference.repository()
            ),
            None => format!("manifest {}", self.reference),
        };
        let mut backoff = self.retry.start();
        let bytes = loop {
            match self
                .client
                .pull_manifest_raw(&target, &self.auth, ACCEPTED)
                .await
            {
                Ok((bytes, _)) => break bytes,
                Err(error) => backoff.wait(self.fault(error, &what)).await?,
            }
        };
        limits.document(&what, bytes.len() as u64)?;
        if let Some(digest) = pinned {
            check_digest(&bytes, digest, &what)?;
        }
        Ok(bytes.to_vec())
    }

    /// Downloads a blob into `writer`; what an attempt got is kept for the next one.
    ///
    /// # Errors
    /// What the registry says, [`Error::Truncated`], [`Error::TooLong`]; the digest is checked by
    /// [`BlobWriter::commit_as`].
    pub(crate) async fn blob(
        &self,
        blob: &Descriptor,
        writer: &mut BlobWriter,
        step: &dyn Step,
    ) -> Result<(), Error> {
        let mut backoff = self.retry.start();
        // Of an empty blob there is no range to ask for, and nothing to download.
        while writer.written() < blob.size {
            if let Err(fault) = self.blob_from_here(blob, writer, step).await {
                backoff.wait(fault).await?;
            }
        }
        Ok(())
    }

    async fn blob_from_here(
        &self,
        blob: &Descriptor,
        writer: &mut BlobWriter,
        step: &dyn Step,
    ) -> Result<(), Fault> {
        let what = format!("blob {}", blob.digest);
        let target = self.target(None);
        let offset = writer.written();
        // A partial request even for the whole: oci-client hashes what is not partial, and we do.
        let answer = self
            .client
            .pull_blob_stream_partial(&target, blob.digest.as_str(), offset, None)
            .await
            .map_err(|error| self.fault(error, &what))?;
        let mut stream = match answer {
            BlobResponse::Partial(stream) => stream,
            BlobResponse::Full(stream) => {
                if offset > 0 {
                    writer.restart().map_err(Fault::lasting)?;
                }
                stream
            }
        };
        while let Some(chunk) = stream.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                // Said after the last byte; our own check says it better.
                Err(error) if fault::is_digest_error(&error) => break,
                Err(error) => {
                    return Err(self.fault(OciDistributionError::IoError(error), &what));
                }
            };
            if writer.written() + chunk.len() as u64 > blob.size {
                return Err(Fault::lasting(Error::TooLong {
                    what,
                    expected: blob.size,
                }));
            }
            writer.write(&chunk).map_err(Fault::lasting)?;
            step.advance(chunk.len() as u64);
        }
        if writer.written() < blob.size {
            let received = writer.written();
            return Err(Fault::transient(Error::Truncated {
                what,
                expected: blob.size,
                received,
            }));
        }
        Ok(())
    }

    /// Never through oci-client's parser: its regular expression takes 33 ms and more to compile.
    fn target(&self, digest: Option<&Digest>) -> Target {
        let registry = self.reference.registry().to_owned();
        let repository = self.reference.repository().to_owned();
        match (digest, self.reference.tag()) {
            (Some(digest), _) => Target::with_digest(registry, repository, digest.to_string()),
            (None, tag) => {
                Target::with_tag(registry, repository, tag.unwrap_or("latest").to_owned())
            }
        }
    }

    fn fault(&self, error: OciDistributionError, what: &str) -> Fault {
        fault::explain(error, &self.reference, what)
    }
}
