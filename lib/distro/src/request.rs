//! What a root file system shall have. All of it ends up in arguments of mmdebstrap, so all of it
//! is checked first.

use crate::DistroError;

/// What to make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RootTarRequest {
    /// Code name of the release; the host's own otherwise.
    pub suite: Option<String>,
    /// Address of a mirror; the host's own sources otherwise.
    pub mirror: Option<String>,
    /// Packages beyond the minimal ones.
    pub include: Vec<String>,
    /// Files to add at the end.
    pub files: Vec<RootFile>,
}

/// A file in the root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootFile {
    /// Absolute; its directory exists in a minimal system.
    pub path: String,
    /// All of it.
    pub content: Vec<u8>,
}

impl RootTarRequest {
    pub(crate) fn check(&self) -> Result<(), DistroError> {
        if let Some(suite) = &self.suite {
            check("code name of a release", suite, |s| word(s, "-./"))?;
        }
        if let Some(mirror) = &self.mirror {
            check("address of a mirror", mirror, |s| {
                s.contains("://")
                    && s.bytes()
                        .all(|b| b.is_ascii_graphic() && !b"[]\"".contains(&b))
            })?;
        }
        for package in &self.include {
            // deb-control(5), Package.
            check("name of a package", package, |s| word(s, "+-."))?;
        }
        for file in &self.files {
            check("absolute path of a file", &file.path, |s| {
                s.strip_prefix('/').is_some_and(|rest| {
                    rest.split('/').all(|part| !matches!(part, "" | "." | ".."))
                        && rest
                            .bytes()
                            .all(|b| b.is_ascii_alphanumeric() || b"/._+-".contains(&b))
                })
            })?;
        }
        Ok(())
    }
}

fn check(what: &'static str, value: &str, valid: impl Fn(&str) -> bool) -> Result<(), DistroError> {
    if valid(value) {
        Ok(())
    } else {
        Err(DistroError::BadRequest {
            what,
            value: value.to_owned(),
        })
    }
}

/// Lower-case letters, digits and `others`, beginning with a letter or digit.
pub(crate) fn word(text: &str, others: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(plain) && text.chars().all(|c| plain(c) || others.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_passes_that_means_something_to_a_shell_or_an_option_parser() {
        let file = |path: &str| RootTarRequest {
            files: vec![RootFile {
                path: path.into(),
                content: Vec::new(),
            }],
            ..RootTarRequest::default()
        };
        let include = |package: &str| RootTarRequest {
            include: vec![package.into()],
            ..RootTarRequest::default()
        };
        let mirror = |text: &str| RootTarRequest {
            mirror: Some(text.into()),
            ..RootTarRequest::default()
        };
        let suite = |text: &str| RootTarRequest {
            suite: Some(text.into()),
            ..RootTarRequest::default()
        };
        for good in [
            file("/etc/banger-nonce"),
            include("libstdc++6"),
            mirror("http://archive.example/debian"),
            suite("bookworm"),
        ] {
            good.check().unwrap();
        }
        for bad in [
            file("etc/x"),
            file("/etc/../x"),
            file("/etc/$(x)"),
            file("/a b"),
            file("/"),
            include("-x"),
            include("a,b"),
            include("/tmp/x.deb"),
            include("?essential"),
            mirror("deb [trusted=yes] http://x y main"),
            mirror("/etc/passwd"),
            suite("--mode=root"),
            suite(""),
        ] {
            assert!(
                matches!(bad.check(), Err(DistroError::BadRequest { .. })),
                "{bad:?}"
            );
        }
    }
}
