//! Names by which ssh(1) asks for VMs.

/// The suffix of names of VMs.
const SUFFIX: &str = ".vm";

/// What the store is asked for: `dev` for `dev`, `dev.vm` and `DEV.VM.`; ids as they are.
pub fn selector(host: &str) -> String {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    match host.strip_suffix(SUFFIX) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => host,
    }
}

/// A line of known hosts for a host as ssh(1) names it; `None` when it could be a pattern or two.
pub fn known_hosts_line(host: &str, public: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let ok = !host.is_empty() && host.bytes().all(plain);
    ok.then(|| format!("{host} {public}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_with_or_without_its_suffix() {
        for (host, expected) in [
            ("dev", "dev"),
            ("dev.vm", "dev"),
            ("Dev.VM.", "dev"),
            ("a1b2c3", "a1b2c3"),
            (".vm", ".vm"),
            ("vm", "vm"),
            ("dev.example", "dev.example"),
        ] {
            assert_eq!(selector(host), expected, "{host}");
        }
    }

    #[test]
    fn nothing_but_one_host_gets_a_line() {
        assert_eq!(
            known_hosts_line("dev.vm", "ssh-ed25519 AAAA").unwrap(),
            "dev.vm ssh-ed25519 AAAA"
        );
        for host in ["*.vm", "a,b", "!x", "a b", "a\nb", "", "[dev.vm]:22"] {
            assert_eq!(known_hosts_line(host, "k"), None, "{host}");
        }
    }
}
