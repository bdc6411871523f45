//! A registry that holds copies of another one's images.

use lib_model::Reference;
use serde::{Deserialize, Serialize};

/// Where copies are: `[http://|https://]host[:port][/path]`. What is `team/app` in the registry is
/// `path/team/app` here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mirror {
    plain_http: Option<bool>,
    host: String,
    path: String,
}

/// Not a mirror.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is not a mirror such as mirror.example:5000, http://10.0.0.1:5000 or mirror.example/path"
)]
pub struct MirrorError(String);

impl Mirror {
    /// Host and optional port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Path before each repository; may be empty.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether it was written with `http://` or `https://`; none without either.
    pub fn plain_http(&self) -> Option<bool> {
        self.plain_http
    }
}

impl TryFrom<&str> for Mirror {
    type Error = MirrorError;

    fn try_from(text: &str) -> Result<Self, MirrorError> {
        let error = || MirrorError(text.to_owned());
        let (plain_http, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Some(true), rest),
            Some(("https", rest)) => (Some(false), rest),
            Some(_) => return Err(error()),
            None => (None, text),
        };
        let rest = rest.trim_end_matches('/');
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        // The grammar of references is that of mirrors, but for the tag.
        let whole = if path.is_empty() {
            format!("{host}/x")
        } else {
            format!("{host}/{path}/x")
        };
        match Reference::try_from(whole.as_str()) {
            Ok(reference) if reference.registry() == host => Ok(Mirror {
                plain_http,
                host: host.to_owned(),
                path: path.to_owned(),
            }),
            _ => Err(error()),
        }
    }
}

impl TryFrom<String> for Mirror {
    type Error = MirrorError;

    fn try_from(text: String) -> Result<Self, MirrorError> {
        Mirror::try_from(text.as_str())
    }
}

impl From<Mirror> for String {
    fn from(mirror: Mirror) -> String {
        mirror.to_string()
    }
}

impl std::fmt::Display for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.plain_http {
            Some(true) => "http://",
            Some(false) => "https://",
            None => "",
        })?;
        f.write_str(&self.host)?;
        if !self.path.is_empty() {
            write!(f, "/{}", self.path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_parse_and_print() {
        for (text, host, path, plain) in [
            ("mirror.example:5000", "mirror.example:5000", "", None),
            ("http://10.0.0.1:5000", "10.0.0.1:5000", "", Some(true)),
            ("https://m.example/hub/x", "m.example", "hub/x", Some(false)),
            ("localhost", "localhost", "", None),
        ] {
            let mirror = Mirror::try_from(text).unwrap();
            assert_eq!(
                (mirror.host(), mirror.path(), mirror.plain_http()),
                (host, path, plain)
            );
            assert_eq!(mirror.to_string(), text);
        }
        for bad in [
            "",
            "ftp://x.example",
            "x.example/..",
            "x.example/a b",
            "word",
            "http://",
        ] {
            assert!(Mirror::try_from(bad).is_err(), "{bad}");
        }
    }
}
