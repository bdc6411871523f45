//! Ports of a guest that the host has.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A TCP port of the host that leads to one of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Publish {
    /// Address of the host.
    pub address: IpAddr,
    /// Port of the host; 0 is any that is free, and never recorded.
    pub host_port: u16,
    /// Port of the guest.
    pub guest_port: u16,
}

impl Publish {
    /// The only protocol there is.
    pub const PROTOCOL: &'static str = "tcp";

    /// Address and port of the host.
    pub fn host(self) -> std::net::SocketAddr {
        (self.address, self.host_port).into()
    }
}

impl std::fmt::Display for Publish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}:{}/{}",
            self.host(),
            self.guest_port,
            Publish::PROTOCOL
        )
    }
}

impl FromStr for Publish {
    type Err = String;

    /// `[ADDRESS:]HOSTPORT:GUESTPORT[/tcp]`, or one port for both; IPv6 addresses in brackets.
    fn from_str(text: &str) -> Result<Publish, String> {
        let wrong = || {
            format!(
                "`{text}` is not [ADDRESS:]HOSTPORT:GUESTPORT[/tcp], such as 8080:80 or [::1]:8080:80"
            )
        };
        let ports = match text.rsplit_once('/') {
            None => text,
            Some((ports, "tcp")) => ports,
            Some((_, "udp")) => {
                return Err(format!("`{text}`: UDP ports cannot be published, only TCP"));
            }
            Some((_, protocol)) => {
                return Err(format!("`{text}`: `{protocol}` is no protocol (tcp)"));
            }
        };
        let (rest, guest) = ports.rsplit_once(':').unwrap_or((ports, ports));
        let (address, host) = match rest.rsplit_once(':') {
            Some((address, host)) => (Some(address), host),
            None => (None, rest),
        };
        let address = match address {
            None => Ipv4Addr::LOCALHOST.into(),
            Some(text) => match text
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
            {
                Some(inner) => inner
                    .parse::<std::net::Ipv6Addr>()
                    .map_err(|_| wrong())?
                    .into(),
                None => text.parse::<Ipv4Addr>().map_err(|_| wrong())?.into(),
            },
        };
        let port = |digits: &str| match digits.bytes().all(|byte| byte.is_ascii_digit()) {
            true => digits.parse::<u16>().map_err(|_| wrong()),
            false => Err(wrong()),
        };
        let publish = Publish {
            address,
            host_port: port(host)?,
            guest_port: port(guest)?,
        };
        match publish.guest_port {
            0 => Err(format!("`{text}`: a guest has no port 0")),
            _ => Ok(publish),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_understood() {
        for (text, shown) in [
            ("8080:80", "127.0.0.1:8080:80/tcp"),
            ("80", "127.0.0.1:80:80/tcp"),
            ("0:80/tcp", "127.0.0.1:0:80/tcp"),
            ("0.0.0.0:1:2", "0.0.0.0:1:2/tcp"),
            ("[::1]:65535:2", "[::1]:65535:2/tcp"),
        ] {
            let publish: Publish = text.parse().unwrap();
            assert_eq!(publish.to_string(), shown);
            assert_eq!(publish.to_string().parse(), Ok(publish));
        }
        for text in [
            "",
            ":",
            "a:b",
            "1:0",
            "65536:1",
            "1:65536",
            "+1:2",
            "::1:1:2",
            "[::1:1:2",
            "localhost:1:2",
            "1:2/udp",
            "1:2/sctp",
            "1:2:3",
            "1.2.3:1:2",
        ] {
            assert!(text.parse::<Publish>().is_err(), "{text}");
        }
    }
}
