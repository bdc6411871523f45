//! What the store's database knows of a path, as `nix-store --dump-db` prints it.

use lib_model::Digest;

use crate::{Error, StorePath};

/// A valid path of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathInfo {
    /// Which.
    pub path: StorePath,
    /// SHA-256 of its NAR.
    pub hash: Digest,
    /// Bytes of its NAR.
    pub size: u64,
    /// What it refers to, itself perhaps too; sorted.
    pub references: Vec<StorePath>,
}

/// For each path seven lines or more: itself, hash, size, deriver, the number of references, and those. Who derived
/// it is left out: the derivation is not in the closure.
pub(crate) fn parse(text: &str) -> Result<Vec<PathInfo>, Error> {
    let wrong = |reason: String| Error::Answer {
        command: "nix-store --dump-db",
        reason,
    };
    let mut lines = text.lines();
    let mut paths = Vec::new();
    while let Some(path) = lines.next() {
        let path = StorePath::try_from(path)?;
        let mut line = |what| {
            lines
                .next()
                .ok_or_else(|| wrong(format!("it ends before {what} of {path}")))
        };
        let number = |text: &str, what| {
            text.parse::<u64>()
                .map_err(|_| wrong(format!("{what} of {path} is `{text}`")))
        };
        let hash = line("the hash")?;
        let hex = hash.strip_prefix("sha256:").unwrap_or(hash);
        let hash = Digest::try_from(format!("sha256:{hex}"))
            .map_err(|_| wrong(format!("the hash of {path} is `{hash}`")))?;
        let size = number(line("the size")?, "the size")?;
        line("the deriver")?;
        let count = number(
            line("the number of references")?,
            "the number of references",
        )?;
        let mut references = Vec::new();
        for _ in 0..count {
            references.push(StorePath::try_from(line("a reference")?)?);
        }
        references.sort();
        paths.push(PathInfo {
            path,
            hash,
            size,
            references,
        });
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "/nix/store/nhsxmhkvwmncasv5wl2d304b3rd0inf5-hello-1.0";
    const B: &str = "/nix/store/wkb38adhw4i46sxpcl84c1g6wxsylyag-dep";

    #[test]
    fn a_registration_is_read_whole_or_not_at_all() {
        let hash = "0".repeat(64);
        let text = format!(
            "{A}\n{hash}\n728\n/nix/store/x.drv\n2\n{B}\n{A}\n{B}\nsha256:{hash}\n120\n\n0\n"
        );
        let paths = parse(&text).unwrap();
        assert_eq!(paths.len(), 2);
        assert_eq!((paths[0].size, paths[1].size), (728, 120));
        let names: Vec<&str> = paths[0].references.iter().map(StorePath::as_str).collect();
        assert_eq!(names, [A, B]);
        for bad in [
            format!("{A}\n"),
            format!("{A}\nxyz\n1\n\n0\n"),
            format!("{A}\n{hash}\n-1\n\n0\n"),
            format!("{A}\n{hash}\n1\n\n2\n{B}\n"),
            format!("{A}\n{hash}\n1\n\n1\n/etc\n"),
            "/etc\n".to_owned(),
        ] {
            assert!(parse(&bad).is_err(), "{bad}");
        }
    }
}
