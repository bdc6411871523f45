//! What a failed request means, and whether trying again could help.

use std::error::Error as StdError;
use std::io;
use std::time::{Duration, SystemTime};

use oci_client::errors::{OciEnvelope, OciErrorCode};
use reqwest::Response;
use reqwest::header::RETRY_AFTER;

use super::body;
use crate::{Error, TlsFault};

/// No refusal is read further, in bytes.
const LONGEST_REFUSAL: u64 = 64 << 10;

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) error: Box<Error>,
    pub(super) transient: bool,
    /// The server asked for this pause before another attempt.
    pub(super) after: Option<Duration>,
}

impl Fault {
    pub(super) fn lasting(error: Error) -> Self {
        Fault {
            error: Box::new(error),
            transient: false,
            after: None,
        }
    }

    pub(super) fn transient(error: Error) -> Self {
        Fault {
            error: Box::new(error),
            transient: true,
            after: None,
        }
    }
}

/// Whom an error is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) registry: &'a str,
    pub(super) repository: &'a str,
}

/// What an answer means that is no success.
pub(super) async fn refusal(response: Response, names: Names<'_>, what: &str) -> Fault {
    let status = response.status().as_u16();
    let after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| retry_after(value.to_str().ok()?, SystemTime::now()));
    // What was said until the connection broke is all there is.
    let body = body::start(response, LONGEST_REFUSAL).await;
    let (body, _) = body.unwrap_or_default();
    Fault {
        error: Box::new(explain(status, &body, names, what)),
        transient: matches!(status, 408 | 429 | 500..),
        after,
    }
}

/// RFC 9110 §10.2.3: seconds, or a date.
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value.trim()).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// A refusal in the form of distribution-spec's error codes, or by its status alone.
fn explain(status: u16, body: &[u8], names: Names<'_>, what: &str) -> Error {
    let registry = names.registry.to_owned();
    let what = what.to_owned();
    let envelope = match status {
        400..500 => serde_json::from_slice::<OciEnvelope>(body).ok(),
        _ => None,
    };
    let said = envelope
        .as_ref()
        .and_then(|envelope| envelope.errors.first());
    match (status, said.map(|said| &said.code)) {
        (401, _) | (_, Some(OciErrorCode::Unauthorized)) => Error::Unauthorized { registry, what },
        (403, None) | (_, Some(OciErrorCode::Denied)) => Error::Denied { registry, what },
        (_, Some(OciErrorCode::NameUnknown)) => Error::UnknownRepository {
            registry,
            repository: names.repository.to_owned(),
        },
        (404, None)
        | (
            _,
            Some(
                OciErrorCode::ManifestUnknown
                | OciErrorCode::NotFound
                | OciErrorCode::BlobUnknown
                | OciErrorCode::ManifestBlobUnknown,
            ),
        ) => Error::UnknownTag { registry, what },
        _ => Error::Status {
            registry,
            status: status.to_string(),
            what,
            message: match said {
                Some(said) => shorten(&said.message),
                None => shorten(&String::from_utf8_lossy(body)),
            },
        },
    }
}

/// A connection that failed or broke: nobody listens, TLS, a reset, a timeout.
pub(super) fn connection(source: reqwest::Error, registry: &str, what: &str) -> Fault {
    let (registry, what) = (registry.to_owned(), what.to_owned());
    let redirected = source.is_redirect();
    let source: Box<dyn StdError + Send + Sync> = Box::new(source.without_url());
    let mut kind = None;
    let mut tls = None;
    let mut resolved = true;
    walk(source.as_ref(), &mut |error| {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.kind() != io::ErrorKind::Other
        {
            kind = Some(error.kind());
        }
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            tls = Some(tls_fault(error));
        }
        resolved &= !error.to_string().contains("dns error");
    });
    if redirected {
        return Fault::lasting(Error::Protocol {
            registry,
            what,
            source,
        });
    }
    if let Some(fault) = tls {
        return Fault::lasting(Error::Tls {
            registry,
            fault,
            source,
        });
    }
    let refused = kind == Some(io::ErrorKind::ConnectionRefused);
    Fault {
        transient: !refused && resolved,
        error: Box::new(Error::Connection {
            registry,
            what,
            refused,
            source,
        }),
        after: None,
    }
}

fn tls_fault(error: &rustls::Error) -> TlsFault {
    match error {
        rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer) => {
            TlsFault::UnknownCa
        }
        rustls::Error::InvalidCertificate(_) => TlsFault::Certificate,
        _ => TlsFault::Protocol,
    }
}

/// Visits an error and all below it. `io::Error::source` leaves out the error that it wraps.
fn walk(error: &(dyn StdError + 'static), visit: &mut dyn FnMut(&(dyn StdError + 'static))) {
    visit(error);
    if let Some(inner) = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        walk(inner, visit);
    } else if let Some(source) = error.source() {
        walk(source, visit);
    }
}

/// The first line, without control characters, for a terminal.
fn shorten(message: &str) -> String {
    let line = message.trim().lines().next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (value, seconds) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sunday, 06-Nov-94 08:49:38 GMT", Some(1)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(retry_after(value, now), expected, "{value}");
        }
    }

    #[test]
    fn codes_count_more_than_statuses() {
        let names = Names {
            registry: "r",
            repository: "a",
        };
        let said = |status, body: &str| explain(status, body.as_bytes(), names, "m").to_string();
        let code =
            |code: &str| format!(r#"{{"errors":[{{"code":"{code}","message":"m\u001b[2J"}}]}}"#);
        assert_eq!(said(404, &code("NAME_UNKNOWN")), "r has no repository `a`");
        assert_eq!(said(404, &code("MANIFEST_UNKNOWN")), "r has no m");
        assert_eq!(said(404, "<html>"), "r has no m");
        assert_eq!(said(400, &code("DENIED")), "r denies access to m");
        assert_eq!(
            said(429, &code("TOOMANYREQUESTS")),
            "r answered 429 to the request for m: m[2J"
        );
        assert_eq!(
            said(500, &code("DENIED")).split(": ").next().unwrap(),
            "r answered 500 to the request for m"
        );
    }
}
