//! One server that has the repository: its address, its trust, its authorisation.

use std::sync::{Mutex, OnceLock, PoisonError};

use lib_config::Mirror;
use lib_model::Reference;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, RANGE};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};

use super::auth::{self, Challenge};
use super::credentials::{self, Credentials};
use super::fault::{self, Fault};
use super::{RegistryOptions, trust};
use crate::Error;

const REDIRECTS: usize = 8;

/// Mirror or registry.
pub(super) struct Endpoint {
    host: String,
    repository: String,
    base: Url,
    client: Client,
    credentials: OnceLock<Option<Credentials>>,
    /// Sent with every request once the server asked for it.
    authorization: Mutex<Option<HeaderValue>>,
    options: RegistryOptions,
}

/// What to get.
pub(super) struct Request<'a> {
    /// Below `/v2/<repository>/`.
    pub(super) path: &'a str,
    pub(super) accept: &'a str,
    /// First byte; all when 0.
    pub(super) from: u64,
    /// For errors.
    pub(super) what: &'a str,
}

impl Endpoint {
    pub(super) fn mirror(
        mirror: &Mirror,
        reference: &Reference,
        options: &RegistryOptions,
    ) -> Result<Self, Error> {
        let repository = match mirror.path() {
            "" => reference.repository().to_owned(),
            path => format!("{path}/{}", reference.repository()),
        };
        Endpoint::new(mirror.host(), repository, mirror.plain_http(), options)
    }

    pub(super) fn origin(reference: &Reference, options: &RegistryOptions) -> Result<Self, Error> {
        let repository = reference.repository().to_owned();
        Endpoint::new(reference.registry(), repository, None, options)
    }

    fn new(
        host: &str,
        repository: String,
        plain_http: Option<bool>,
        options: &RegistryOptions,
    ) -> Result<Self, Error> {
        let plain = plain_http.unwrap_or_else(|| {
            (is_loopback(host) && !options.tls_on_loopback)
                || options.plain_http.iter().any(|there| there == host)
        });
        let server = match host {
            // The name in references is not the name of the server.
            "docker.io" => format!("registry-1.{host}"),
            host => host.to_owned(),
        };
        let scheme = if plain { "http" } else { "https" };
        let base = format!("{scheme}://{server}/v2/{repository}/");
        let base = Url::parse(&base).map_err(|error| Error::Client(error.into()))?;
        let mut client = Client::builder()
            .user_agent(concat!("banger/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.connect_timeout)
            .read_timeout(options.read_timeout)
            .redirect(redirects(plain));
        if !plain {
            client = client.tls_certs_merge(trust::certificates(host, options)?);
            if let Some(identity) = trust::identity(host, options)? {
                client = client.identity(identity);
            }
        }
        let client = client
            .build()
            .map_err(|error| Error::Client(error.into()))?;
        Ok(Endpoint {
            host: host.to_owned(),
            repository,
            base,
            client,
            credentials: OnceLock::new(),
            authorization: Mutex::new(None),
            options: options.clone(),
        })
    }

    /// As named: host and optional port.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Sends a request; authorises it when the server wants that. Only success comes back.
    pub(super) async fn get(&self, request: &Request<'_>) -> Result<Response, Fault> {
        let known = self.known();
        let response = self.send(request, known.as_ref()).await?;
        let response = if response.status() == StatusCode::UNAUTHORIZED {
            let Some(challenge) = auth::challenge(response.headers()) else {
                return Err(fault::refusal(response, self.names(), request.what).await);
            };
            let header = self.authorize(&challenge, request.what).await?;
            let stale = known.as_ref() == Some(&header);
            *self.lock() = Some(header.clone());
            if stale {
                response
            } else {
                self.send(request, Some(&header)).await?
            }
        } else {
            response
        };
        if response.status().is_success() {
            return Ok(response);
        }
        Err(fault::refusal(response, self.names(), request.what).await)
    }

    async fn send(
        &self,
        request: &Request<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, Fault> {
        let url = self.base.join(request.path).map_err(|error| {
            Fault::lasting(Error::Protocol {
                registry: self.host.clone(),
                what: request.what.to_owned(),
                source: error.into(),
            })
        })?;
        let mut builder = self.client.get(url).header(ACCEPT, request.accept);
        if request.from > 0 {
            builder = builder.header(RANGE, format!("bytes={}-", request.from));
        }
        if let Some(header) = authorization {
            builder = builder.header(AUTHORIZATION, header);
        }
        builder
            .send()
            .await
            .map_err(|error| fault::connection(error, &self.host, request.what))
    }

    /// The header that answers a challenge.
    async fn authorize(&self, challenge: &Challenge, what: &str) -> Result<HeaderValue, Fault> {
        let credentials = self.credentials().map_err(Fault::lasting)?;
        let scope = format!("repository:{}:pull", self.repository);
        let request = auth::Login {
            client: &self.client,
            registry: &self.host,
            what,
            scope: &scope,
            plain: self.base.scheme() == "http",
        };
        request.answer(challenge, credentials).await
    }

    /// Looked up at the first challenge: a helper may take its time, or ask somebody.
    fn credentials(&self) -> Result<Option<&Credentials>, Error> {
        if let Some(known) = self.credentials.get() {
            return Ok(known.as_ref());
        }
        let found = credentials::find(&self.host, &self.repository, &self.options)?;
        Ok(self.credentials.get_or_init(|| found).as_ref())
    }

    fn names(&self) -> fault::Names<'_> {
        fault::Names {
            registry: &self.host,
            repository: &self.repository,
        }
    }

    fn known(&self) -> Option<HeaderValue> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<HeaderValue>> {
        self.authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Registries send blobs from elsewhere. Authorisation does not follow to another host (reqwest
/// drops it).
fn redirects(plain: bool) -> Policy {
    Policy::custom(move |attempt| {
        match refused(plain, attempt.previous().len(), attempt.url().scheme()) {
            Some(reason) => attempt.error(reason),
            None => attempt.follow(),
        }
    })
}

/// Why a redirect is not followed.
fn refused(plain: bool, before: usize, scheme: &str) -> Option<&'static str> {
    if before > REDIRECTS {
        Some("too many redirects")
    } else if !plain && scheme != "https" {
        Some("a redirect from TLS to plain HTTP")
    } else {
        None
    }
}

fn is_loopback(host: &str) -> bool {
    Reference::try_from(format!("{host}/x").as_str()).is_ok_and(|reference| reference.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_never_lead_from_tls_to_plain_http() {
        for (plain, before, scheme, refusal) in [
            (false, 1, "https", None),
            (false, 1, "http", Some("a redirect from TLS to plain HTTP")),
            (true, 1, "http", None),
            (true, 1, "https", None),
            (true, REDIRECTS + 1, "https", Some("too many redirects")),
        ] {
            assert_eq!(refused(plain, before, scheme), refusal, "{plain} {scheme}");
        }
    }
}
