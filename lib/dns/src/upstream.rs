//! Whom the host asks: the servers of resolv.conf(5), or those that were named.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// MAXNS of resolv.conf(5).
const MOST: usize = 3;

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 64 << 10;

const PORT: u16 = 53;

/// Where questions of guests go.
#[derive(Debug)]
pub enum Upstream {
    /// To these servers.
    Fixed(Vec<SocketAddr>),
    /// To those of the file, as it is then: networks come and go.
    File(ResolvConf),
}

/// A file in the format of resolv.conf(5).
#[derive(Debug)]
pub struct ResolvConf {
    path: PathBuf,
    read: RefCell<(Option<Stamp>, Vec<SocketAddr>)>,
}

/// Tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp(u64, u64, i64, i64, u64);

impl ResolvConf {
    /// Reads nothing yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        ResolvConf {
            path: path.into(),
            read: RefCell::default(),
        }
    }
}

impl Upstream {
    /// The servers now, but for those in `own`: they would ask themselves.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn servers(&self, own: &[SocketAddr]) -> io::Result<Vec<SocketAddr>> {
        let all = match self {
            Upstream::Fixed(servers) => servers.clone(),
            Upstream::File(file) => file.servers()?,
        };
        Ok(all
            .into_iter()
            .filter(|server| !own.contains(server))
            .collect())
    }
}

impl ResolvConf {
    /// Looks at the file whenever it is asked, as libc does, and reads it when it is another one.
    fn servers(&self) -> io::Result<Vec<SocketAddr>> {
        let stamp = Stamp::of(&self.path)?;
        let mut read = self.read.borrow_mut();
        if read.0 != Some(stamp) {
            let mut text = String::new();
            fs::File::open(&self.path)?
                .take(MAX_FILE)
                .read_to_string(&mut text)?;
            *read = (Some(stamp), parse(&text));
        }
        Ok(read.1.clone())
    }
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Stamp> {
        let is = fs::metadata(path)?;
        Ok(Stamp(
            is.dev(),
            is.ino(),
            is.mtime(),
            is.mtime_nsec(),
            is.len(),
        ))
    }
}

/// The servers that resolv.conf(5) names, at most three; what is not understood is left out, as libc does.
fn parse(text: &str) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some("nameserver")
            && let Some(server) = words.next().and_then(address)
        {
            servers.push(server);
        }
    }
    servers.truncate(MOST);
    servers
}

/// An address; of a link-local one with its interface (RFC 4007, section 11).
fn address(word: &str) -> Option<SocketAddr> {
    let Some((address, zone)) = word.split_once('%') else {
        return Some(SocketAddr::new(word.parse::<IpAddr>().ok()?, PORT));
    };
    let address: Ipv6Addr = address.parse().ok()?;
    let number = zone.parse().ok();
    let scope = number.or_else(|| nix::net::if_::if_nametoindex(zone).ok())?;
    Some(SocketAddrV6::new(address, PORT, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_as_libc_reads_it() {
        let text = "# comment\nsearch example.org\nnameserver 192.0.2.1\n  nameserver\t2001:db8::1 # x\n\
                    nameserver nonsense\nnameserver fe80::1%lo\nnameserver 192.0.2.9\noptions rotate\n";
        let shown: Vec<_> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%1]:53"]
        );
        assert!(parse("").is_empty());
    }

    #[test]
    fn a_file_that_changed_is_read_again_and_we_do_not_ask_ourselves() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let upstream = Upstream::File(ResolvConf::new(&path));
        assert!(upstream.servers(&[]).is_err());
        fs::write(&path, "nameserver 192.0.2.1\nnameserver 127.83.0.53\n").unwrap();
        let own = ["127.83.0.53:53".parse().unwrap()];
        assert_eq!(
            upstream.servers(&own).unwrap(),
            ["192.0.2.1:53".parse().unwrap()]
        );
        let new = directory.path().join("new");
        fs::write(&new, "nameserver 192.0.2.2\n").unwrap();
        fs::rename(new, &path).unwrap();
        assert_eq!(
            upstream.servers(&own).unwrap(),
            ["192.0.2.2:53".parse().unwrap()]
        );
    }
}
