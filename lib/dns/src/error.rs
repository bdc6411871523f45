//! What can go wrong with names.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use lib_model::{Diagnose, Exit};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The file of names cannot be read.
    #[error("cannot read {}", path.display())]
    ReadNames {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file of names is not taken.
    #[error("{} is not understood: {why}", path.display())]
    RefusedNames {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A socket cannot be made.
    #[error("cannot listen at {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// What systemd passed cannot be used.
    #[error("the passed sockets cannot be used: {0}")]
    Passed(String),
    /// There is no socket.
    #[error("no socket was passed, and none was named")]
    NoSocket,
    /// Serving ended.
    #[error("cannot {what}")]
    Serve {
        /// What failed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A name that cannot be one.
    #[error("{name} is no name: {why}")]
    Name {
        /// As it was written.
        name: String,
        /// Why.
        why: String,
    },
    /// A type that is not known.
    #[error("{0} is no type of record")]
    Type(String),
    /// A server did not answer.
    #[error("{server} does not answer")]
    Ask {
        /// Who was asked.
        server: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl DnsError {
    pub(crate) fn refused(path: &Path, why: impl Into<String>) -> Self {
        DnsError::RefusedNames {
            path: path.to_owned(),
            why: why.into(),
        }
    }
}

impl Diagnose for DnsError {
    fn exit(&self) -> Exit {
        match self {
            DnsError::NoSocket | DnsError::Name { .. } | DnsError::Type(_) => Exit::Usage,
            DnsError::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                Exit::Busy
            }
            _ => Exit::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            DnsError::ReadNames { .. } => {
                Some("banger-net up   (banger-netd writes it; --names says where it is)".into())
            }
            DnsError::RefusedNames { .. } => {
                Some("sudo systemctl restart banger-netd   (it writes the file anew)".into())
            }
            DnsError::Listen { address, source } => Some(match source.kind() {
                io::ErrorKind::AddrInUse => format!("ss --listening --numeric --processes 'sport = :{}'", address.port()),
                io::ErrorKind::PermissionDenied => {
                    "sudo systemctl start banger-dns.socket   (or a port above 1023: --listen 127.0.0.1:5353)".into()
                }
                _ => "ip address   (the address must be this host's)".into(),
            }),
            DnsError::NoSocket => Some(
                "sudo systemctl start banger-dns.socket   (or banger-net dns serve --listen 127.0.0.1:5353)".into(),
            ),
            DnsError::Passed(_) => Some("systemctl cat banger-dns.socket".into()),
            DnsError::Ask { .. } => Some(
                "sudo systemctl start banger-dns.socket   (or banger-net dns query --server ADDRESS:PORT)".into(),
            ),
            DnsError::Serve { .. } | DnsError::Name { .. } | DnsError::Type(_) => None,
        }
    }
}
