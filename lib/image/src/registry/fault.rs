//! What an error of oci-client means, and whether trying again could help.

use std::error::Error as StdError;
use std::io;

use lib_model::{Digest, Reference};
use oci_client::errors::{DigestError, OciDistributionError as Oci, OciEnvelope, OciErrorCode};

use crate::{Error, TlsFault};

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) error: Error,
    pub(super) transient: bool,
}

impl Fault {
    pub(super) fn lasting(error: Error) -> Self {
        Fault {
            error,
            transient: false,
        }
    }

    pub(super) fn transient(error: Error) -> Self {
        Fault {
            error,
            transient: true,
        }
    }
}

/// Translates an error of the request for `what`.
pub(super) fn explain(error: Oci, reference: &Reference, what: &str) -> Fault {
    let registry = reference.registry().to_owned();
    let what = what.to_owned();
    match error {
        Oci::UnauthorizedError { .. } | Oci::AuthenticationFailure(_) => {
            Fault::lasting(Error::Unauthorized { registry, what })
        }
        Oci::RegistryError { envelope, .. } => refusal(&envelope, reference, what),
        Oci::ServerError { code, message, .. } => {
            let status = code.to_string();
            match code {
                403 => Fault::lasting(Error::Denied { registry, what }),
                404 => Fault::lasting(Error::UnknownTag { registry, what }),
                _ => Fault {
                    error: Error::Status {
                        registry,
                        status,
                        what,
                        message: shorten(&message),
                    },
                    transient: matches!(code, 408 | 429 | 500..),
                },
            }
        }
        Oci::DigestError(error) => Fault::lasting(match digests(&error) {
            Some((expected, actual)) => Error::DigestMismatch {
                what,
                expected,
                actual,
            },
            None => Error::Protocol {
                registry,
                what,
                source: error.into(),
            },
        }),
        Oci::RequestError(error) => connection(Box::new(error), registry, what),
        Oci::IoError(error) => connection(Box::new(error), registry, what),
        error => Fault::lasting(Error::Protocol {
            registry,
            what,
            source: error.into(),
        }),
    }
}

/// The registry said no, in the form of distribution-spec's error codes.
fn refusal(envelope: &OciEnvelope, reference: &Reference, what: String) -> Fault {
    let registry = reference.registry().to_owned();
    let Some(first) = envelope.errors.first() else {
        let (status, message) = ("an error without a code".to_owned(), String::new());
        return Fault::lasting(Error::Status {
            registry,
            status,
            what,
            message,
        });
    };
    match &first.code {
        OciErrorCode::Unauthorized => Fault::lasting(Error::Unauthorized { registry, what }),
        OciErrorCode::Denied => Fault::lasting(Error::Denied { registry, what }),
        OciErrorCode::NameUnknown => Fault::lasting(Error::UnknownRepository {
            registry,
            repository: reference.repository().to_owned(),
        }),
        OciErrorCode::ManifestUnknown
        | OciErrorCode::NotFound
        | OciErrorCode::BlobUnknown
        | OciErrorCode::ManifestBlobUnknown => Fault::lasting(Error::UnknownTag { registry, what }),
        code => Fault {
            transient: *code == OciErrorCode::Toomanyrequests,
            error: Error::Status {
                registry,
                status: match code {
                    OciErrorCode::Other(text) => shorten(text),
                    known => format!("{known:?}"),
                },
                what,
                message: shorten(&first.message),
            },
        },
    }
}

/// A connection that failed or broke: nobody listens, TLS, a reset, a timeout.
fn connection(source: Box<dyn StdError + Send + Sync>, registry: String, what: String) -> Fault {
    let mut kind = None;
    let mut tls = None;
    let mut resolved = true;
    walk(source.as_ref(), &mut |error| {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.kind() != io::ErrorKind::Other
        {
            kind = Some(error.kind());
        }
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            tls = Some(tls_fault(error));
        }
        resolved &= !error.to_string().contains("dns error");
    });
    if let Some(fault) = tls {
        return Fault::lasting(Error::Tls {
            registry,
            fault,
            source,
        });
    }
    let refused = kind == Some(io::ErrorKind::ConnectionRefused);
    Fault {
        transient: !refused && resolved,
        error: Error::Connection {
            registry,
            what,
            refused,
            source,
        },
    }
}

fn tls_fault(error: &rustls::Error) -> TlsFault {
    match error {
        rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer) => {
            TlsFault::UnknownCa
        }
        rustls::Error::InvalidCertificate(_) => TlsFault::Certificate,
        _ => TlsFault::Protocol,
    }
}

/// Visits an error and all below it. `io::Error::source` leaves out the error that it wraps.
fn walk(error: &(dyn StdError + 'static), visit: &mut dyn FnMut(&(dyn StdError + 'static))) {
    visit(error);
    if let Some(inner) = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        walk(inner, visit);
    } else if let Some(source) = error.source() {
        walk(source, visit);
    }
}

/// The error is oci-client's word on a blob's digest.
pub(super) fn is_digest_error(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|inner| inner.is::<DigestError>())
}

fn digests(error: &DigestError) -> Option<(Digest, Digest)> {
    let DigestError::VerificationError { expected, actual } = error else {
        return None;
    };
    let digest = |text: &str| {
        Digest::try_from(text)
            .or_else(|_| Digest::try_from(format!("sha256:{text}")))
            .ok()
    };
    Some((digest(expected)?, digest(actual)?))
}

/// The first line, without control characters, for a terminal.
fn shorten(message: &str) -> String {
    let line = message.trim().lines().next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(200).collect()
}
