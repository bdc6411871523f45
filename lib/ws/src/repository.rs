//! The user's repository, and what it ignores.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::{Result, WsError};
use crate::git::Git;

/// A repository with a working tree.
#[derive(Debug, Clone)]
pub(crate) struct Repository {
    /// The top of the working tree.
    pub(crate) top: PathBuf,
    /// Its objects.
    pub(crate) objects: PathBuf,
    /// `sha1` or `sha256`.
    pub(crate) format: String,
    /// The commit that is checked out; none before the first.
    pub(crate) head: Option<String>,
    /// The branch that is checked out.
    pub(crate) branch: Option<String>,
}

impl Repository {
    /// The repository that a directory is in.
    ///
    /// # Errors
    /// [`WsError::NoRepository`] when it is in none, or in one without a working tree.
    pub(crate) fn find(git: &Git, directory: &Path) -> Result<Repository> {
        let refused = |reason: String| WsError::NoRepository {
            path: directory.to_owned(),
            reason,
        };
        let absolute = directory
            .canonicalize()
            .map_err(|error| refused(error.to_string()))?;
        let ask = |arguments: &[&str]| {
            let call = git.of_user(&absolute, "rev-parse");
            call.args(["--path-format=absolute"])
                .args(arguments)
                .output()
        };
        let path = |bytes: Vec<u8>| {
            let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
            PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()))
        };
        let top = ask(&["--show-toplevel"])
            .map(path)
            .map_err(|error| match error {
                WsError::Git { words, .. } if words.contains("work tree") => {
                    refused("it has no working tree".into())
                }
                // The second is what it said until 2.36.
                WsError::Git { words, .. }
                    if words.contains("dubious ownership")
                        || words.contains("unsafe repository") =>
                {
                    // Its top, which it names.
                    let top = words.split('\'').nth(1).map(PathBuf::from);
                    let path = top.unwrap_or_else(|| absolute.clone());
                    WsError::NotYours { path }
                }
                WsError::Git { words, .. } => {
                    refused(words.trim_start_matches("fatal: ").to_owned())
                }
                error => error,
            })?;
        let objects = path(ask(&["--git-path", "objects"])?);
        let format = git
            .of_user(&top, "rev-parse")
            .arg("--show-object-format")
            .line()?;
        let head = git
            .of_user(&top, "rev-parse")
            .args(["-q", "--verify", "HEAD^{commit}"])
            .line_if_any()?;
        let branch = git
            .of_user(&top, "symbolic-ref")
            .args(["-q", "--short", "HEAD"])
            .line_if_any()?;
        Ok(Repository {
            top,
            objects,
            format,
            head,
            branch,
        })
    }

    /// Git's excludes of the user and of this repository, the weaker first (gitignore(5)).
    pub(crate) fn excludes(&self, git: &Git) -> Result<Vec<u8>> {
        let configured = git
            .of_user(&self.top, "config")
            .args(["--type=path", "core.excludesFile"])
            .line_if_any()?;
        let of_user = configured.map(PathBuf::from).or_else(|| {
            let config = std::env::var_os("XDG_CONFIG_HOME")
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
                .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")))?;
            Some(config.join("git/ignore"))
        });
        let of_repository = git
            .of_user(&self.top, "rev-parse")
            .args(["--path-format=absolute", "--git-path", "info/exclude"])
            .line()?;
        let mut lines = Vec::new();
        for file in of_user.into_iter().chain([PathBuf::from(of_repository)]) {
            // Mostly missing.
            if let Ok(bytes) = fs::read(file) {
                lines.extend(bytes);
                lines.push(b'\n');
            }
        }
        Ok(lines)
    }
}
