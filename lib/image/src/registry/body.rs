//! Reading what a registry sends, never more than is wanted.

use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};

use super::fault::{self, Fault};
use crate::{Error, Limits};

/// A whole document. One that announces too much is not read at all; one that sends too much is
/// dropped with its connection at the chunk that passes the limit.
pub(super) async fn document(
    response: Response,
    registry: &str,
    what: &str,
    limits: &Limits,
) -> Result<Vec<u8>, Fault> {
    if let Some(announced) = response.content_length() {
        limits.document(what, announced).map_err(Fault::lasting)?;
    }
    let (bytes, whole) = start(response, limits.document_bytes)
        .await
        .map_err(|error| fault::connection(error, registry, what))?;
    if whole {
        return Ok(bytes);
    }
    let more = limits.document_bytes.saturating_add(1);
    Err(Fault::lasting(Error::Limit {
        what: what.to_owned(),
        unit: "bytes or more",
        found: more,
        limit: limits.document_bytes,
    }))
}

/// At most `limit` bytes, and whether that was all.
pub(super) async fn start(
    mut response: Response,
    limit: u64,
) -> Result<(Vec<u8>, bool), reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = usize::try_from(limit).unwrap_or(usize::MAX) - bytes.len();
        if chunk.len() > room {
            bytes.extend_from_slice(&chunk[..room]);
            return Ok((bytes, false));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok((bytes, true))
}

/// The answer begins with byte `from` (RFC 9110 §14.4).
pub(super) fn continues_at(response: &Response, from: u64) -> bool {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return false;
    }
    let Some(range) = response.headers().get(CONTENT_RANGE) else {
        // Required, but forgotten by some; the digest decides in the end.
        return true;
    };
    range.to_str().ok().and_then(|range| {
        range
            .strip_prefix("bytes ")?
            .split('-')
            .next()?
            .parse()
            .ok()
    }) == Some(from)
}
