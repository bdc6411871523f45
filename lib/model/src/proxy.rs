//! The URL of a proxy, as programs read it from `http_proxy` and the like (curl(1), "ENVIRONMENT").

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

const SCHEMES: [&str; 5] = ["http", "https", "socks4", "socks5", "socks5h"];

/// `http://[user:password@]host[:port]`, without control characters and blanks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProxyUrl(String);

/// Not the URL of a proxy.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no proxy: {1}")]
pub struct ProxyUrlError(String, &'static str);

impl TryFrom<&str> for ProxyUrl {
    type Error = ProxyUrlError;

    fn try_from(text: &str) -> Result<Self, ProxyUrlError> {
        let refused = |why| Err(ProxyUrlError(text.to_owned(), why));
        let Some((scheme, rest)) = text.split_once("://") else {
            return refused("it has no scheme, as in http://proxy:3128");
        };
        if !SCHEMES.contains(&scheme) {
            return refused("its scheme is none of http, https, socks4, socks5, socks5h");
        }
        if !text.chars().all(|c| c.is_ascii_graphic()) || text.contains(['"', '\'', '\\', '`']) {
            return refused("it has characters that no URL has");
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return refused("it has a path");
        }
        let (host, port) = split(authority);
        if host.is_empty() {
            return refused("it names no host");
        }
        match port {
            Some(port) if !port.parse::<u16>().is_ok_and(|port| port > 0) => {
                refused("its port is no number from 1 to 65535")
            }
            _ => Ok(ProxyUrl(text.to_owned())),
        }
    }
}

/// Host and port of `[user@]host[:port]`.
fn split(authority: &str) -> (&str, Option<&str>) {
    let place = authority
        .rsplit_once('@')
        .map_or(authority, |(_, place)| place);
    match place
        .strip_prefix('[')
        .and_then(|place| place.split_once(']'))
    {
        Some((host, after)) => (host, after.strip_prefix(':')),
        None => place
            .split_once(':')
            .map_or((place, None), |(host, port)| (host, Some(port))),
    }
}

impl ProxyUrl {
    fn host(&self) -> &str {
        let rest = self.0.split_once("://").map_or("", |(_, rest)| rest);
        split(rest.strip_suffix('/').unwrap_or(rest)).0
    }

    /// It is on the loopback of the machine that reads this, which in a guest is another.
    pub fn is_local(&self) -> bool {
        let host = self.host();
        host.eq_ignore_ascii_case("localhost")
            || host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }

    /// The same at another host.
    #[must_use]
    pub fn at(&self, host: &str) -> ProxyUrl {
        let old = self.host();
        let end = self.0.rfind(old).map_or(self.0.len(), |at| at + old.len());
        let (before, after) = self.0.split_at(end);
        let before = &before[..end - old.len()];
        // What was in brackets is an address of the sixth version, and its place is not.
        let before = before.strip_suffix('[').unwrap_or(before);
        let after = after.strip_prefix(']').unwrap_or(after);
        ProxyUrl(format!("{before}{host}{after}"))
    }
}

impl std::fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ProxyUrl {
    type Error = ProxyUrlError;

    fn try_from(text: String) -> Result<Self, ProxyUrlError> {
        ProxyUrl::try_from(text.as_str())
    }
}

impl From<ProxyUrl> for String {
    fn from(url: ProxyUrl) -> String {
        url.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_understand_is_taken() {
        for (text, local) in [
            ("http://proxy", false),
            ("http://user:pass@proxy.example:3128/", false),
            ("socks5h://127.0.0.9:1080", true),
            ("http://[::1]:3128", true),
            ("https://LOCALHOST:1", true),
        ] {
            let url = ProxyUrl::try_from(text).unwrap();
            assert_eq!((url.to_string().as_str(), url.is_local()), (text, local));
        }
        for wrong in [
            "",
            "proxy:3128",
            "ftp://proxy",
            "http://",
            "http://a b",
            "http://a\n",
            "http://a:0",
            "http://a:x",
            "http://a/path",
            "http://$(x)'",
        ] {
            assert!(ProxyUrl::try_from(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_host_is_replaced_and_nothing_else() {
        for (text, expected) in [
            ("http://localhost:3128", "http://10.0.2.2:3128"),
            (
                "http://localhost:localhost@localhost/",
                "http://localhost:localhost@10.0.2.2/",
            ),
            ("http://[::1]:3128", "http://10.0.2.2:3128"),
        ] {
            assert_eq!(
                ProxyUrl::try_from(text).unwrap().at("10.0.2.2").to_string(),
                expected
            );
        }
    }
}
