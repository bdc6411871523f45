//! The command line. Everything on it comes from the administrator: a unit file or the root caller.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use banger_proto::InterfaceName;

use crate::accounts;
use crate::pool::Pool;

/// Names that are on the command line of the caller's own choice would be a way in: there are none.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) serve: Serve,
    /// Journal, names and lock.
    pub(crate) state: PathBuf,
    pub(crate) bridge: InterfaceName,
    pub(crate) pool: Pool,
    /// Absolute; where it is looked for otherwise is fixed.
    pub(crate) nft: Option<PathBuf>,
    /// As above.
    pub(crate) resolvectl: Option<PathBuf>,
    /// As above.
    pub(crate) busctl: Option<PathBuf>,
    /// Besides root.
    pub(crate) uids: Vec<u32>,
    pub(crate) gids: Vec<u32>,
    /// Besides the network.
    pub(crate) features: Vec<Feature>,
    pub(crate) qemu: PathBuf,
    pub(crate) first_uid: u32,
    pub(crate) limits: Limits,
}

/// What needs more rights than the network does, so that the administrator says whether it is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feature {
    /// Loop devices and snapshots.
    Disks,
    /// Machine monitors in jails.
    Jails,
}

impl Feature {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Feature::Disks => "disks",
            Feature::Jails => "jails",
        }
    }
}

impl Options {
    /// A caller that is root and has us as its child could do all of it itself.
    pub(crate) fn offered(&self) -> Vec<Feature> {
        match self.serve {
            Serve::Connection(_) => vec![Feature::Disks, Feature::Jails],
            _ => self.features.clone(),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Serve {
    /// What systemd passes (sd_listen_fds(3)).
    Activated,
    /// A socket of our own.
    Listen { path: PathBuf, gid: Option<u32> },
    /// One connection, which the parent passes by number.
    Connection(i32),
}

/// Of what a caller may have; root has no cap on reservations and connections.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Of one uid.
    pub(crate) reservations: usize,
    /// Of one uid.
    pub(crate) connections: usize,
    /// Between the first and the last byte of a frame.
    pub(crate) frame: Duration,
    /// Between two requests.
    pub(crate) idle: Duration,
}

/// Nobody else's (systemd's UIDS-GIDS: above what containers get), and a pool of 8 bits fits above it.
const FIRST_UID: u32 = 0x7000_0000;

pub(crate) const USAGE: &str = "\
usage: banger-netd [--listen PATH [--socket-group GROUP] | --serve-fd NUMBER] [OPTION …]

Without either it serves the socket that systemd passes.

  --state DIR             journal and names [/var/lib/banger/netd]
  --bridge NAME           the bridge [banger0]
  --pool ADDRESS/PREFIX   addresses of VMs; the first one is the host's [10.83.0.0/16]
  --allow-group GROUP     whose members may ask, besides root; may be repeated
  --allow-uid NUMBER      who may ask, besides root; may be repeated
  --nft PATH              the program nft [/usr/sbin/nft and other fixed places]
  --resolvectl PATH       the program resolvectl [/usr/bin/resolvectl and other fixed places]
  --busctl PATH           the program busctl [/usr/bin/busctl and other fixed places]
  --offer WHAT            disks or jails, besides the network; may be repeated
  --qemu PATH             what runs in jails [/usr/bin/qemu-system-x86_64]
  --first-uid NUMBER      of jails: as many uids and gids from there as the pool has addresses [1879048192]
  --max-reservations N    of one user [256]
  --max-connections N     of one user [128]
  --frame-timeout MS      for the rest of a request that has begun [5000]
  --idle-timeout MS       between two requests [60000]
  --version               says which it is";

/// Reads the arguments behind the program's name.
///
/// # Errors
/// What is wrong, for people.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Options, String> {
    let mut options = Options {
        serve: Serve::Activated,
        state: PathBuf::from("/var/lib/banger/netd"),
        bridge: InterfaceName::try_from("banger0").map_err(|error| error.to_string())?,
        pool: Pool::new(Ipv4Addr::new(10, 83, 0, 0), 16)?,
        nft: None,
        resolvectl: None,
        busctl: None,
        uids: Vec::new(),
        gids: Vec::new(),
        features: Vec::new(),
        qemu: PathBuf::from("/usr/bin/qemu-system-x86_64"),
        first_uid: FIRST_UID,
        limits: Limits {
            reservations: 256,
            connections: 128,
            frame: Duration::from_secs(5),
            idle: Duration::from_secs(60),
        },
    };
    let mut socket_group = None;
    let mut arguments = arguments.into_iter();
    while let Some(flag) = arguments.next() {
        let flag = text(&flag)?;
        let value = arguments
            .next()
            .ok_or_else(|| format!("{flag} needs a value, or is not known"))?;
        let value = text(&value)?;
        match flag {
            "--listen" => {
                options.serve = Serve::Listen {
                    path: absolute(flag, value)?,
                    gid: None,
                }
            }
            "--serve-fd" => options.serve = Serve::Connection(number(flag, value)?),
            "--socket-group" => socket_group = Some(accounts::group(value)?),
            "--state" => options.state = absolute(flag, value)?,
            "--bridge" => {
                options.bridge = value
                    .parse()
                    .map_err(|error| format!("{flag} {value}: {error}"))?;
            }
            "--pool" => options.pool = value.parse()?,
            "--nft" => options.nft = Some(absolute(flag, value)?),
            "--resolvectl" => options.resolvectl = Some(absolute(flag, value)?),
            "--busctl" => options.busctl = Some(absolute(flag, value)?),
            "--offer" => options.features.push(match value {
                "disks" => Feature::Disks,
                "jails" => Feature::Jails,
                _ => return Err(format!("{flag} {value}: neither disks nor jails")),
            }),
            "--qemu" => options.qemu = absolute(flag, value)?,
            "--first-uid" => {
                options.first_uid = number(flag, value)?;
                if !(100_000..=0x7f00_0000).contains(&options.first_uid) {
                    return Err(format!("{flag} {value}: not between 100000 and 2130706432"));
                }
            }
            "--allow-group" => options.gids.push(accounts::group(value)?),
            "--allow-uid" => options.uids.push(number(flag, value)?),
            "--max-reservations" => options.limits.reservations = number(flag, value)?,
            "--max-connections" => options.limits.connections = number(flag, value)?,
            "--frame-timeout" => {
                options.limits.frame = Duration::from_millis(number(flag, value)?);
            }
            "--idle-timeout" => options.limits.idle = Duration::from_millis(number(flag, value)?),
            _ => return Err(format!("{flag} is not known")),
        }
    }
    match (&mut options.serve, socket_group) {
        (_, None) => {}
        (Serve::Listen { gid, .. }, group) => *gid = group,
        (_, Some(_)) => return Err("--socket-group goes with --listen".to_owned()),
    }
    Ok(options)
}

fn text(word: &OsString) -> Result<&str, String> {
    word.to_str()
        .ok_or_else(|| format!("{} is not UTF-8", word.display()))
}

fn number<T: std::str::FromStr>(flag: &str, value: &str) -> Result<T, String> {
    value
        .parse()
        .map_err(|_| format!("{flag} {value}: not a number that fits"))
}

fn absolute(flag: &str, value: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(value);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(format!("{flag} {value}: not an absolute path"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_line_is_read_strictly() {
        let options =
            parsed("--listen /run/x --pool 10.9.0.0/24 --allow-uid 7 --bridge b0").unwrap();
        let path = PathBuf::from("/run/x");
        assert_eq!(options.serve, Serve::Listen { path, gid: None });
        assert_eq!(options.uids, [7]);
        assert_eq!(parsed("").unwrap().serve, Serve::Activated);
        assert_eq!(parsed("--serve-fd 0").unwrap().serve, Serve::Connection(0));
        for bad in [
            "--listen x",
            "--listen",
            "--serve-fd x",
            "--pool 10.0.0.0/31",
            "--pool 10.0.0.1/24",
            "--bridge a/b",
            "--bridge a234567890123456",
            "--allow-group no-such-group-here",
            "--socket-group root",
            "--colour red",
            "--offer everything",
            "--qemu qemu",
            "--busctl busctl",
            "--first-uid 0",
            "--first-uid 4294967295",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
