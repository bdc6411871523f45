//! Challenges and tokens (distribution-spec leaves them to docker's token authentication; RFC 6750,
//! RFC 7617).

use base64::Engine as _;
use http_auth::parse_challenges;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Client, Url};
use serde::Deserialize;

use super::body;
use super::credentials::Credentials;
use super::fault::{self, Fault, Names};
use crate::Error;

/// No token is longer, in bytes of its document.
const LONGEST_TOKEN: u64 = 1 << 20;

/// What a server wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password with every request.
    Basic,
    /// A token of this service.
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

/// The first challenge that can be answered; tokens before passwords.
pub(super) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut basic = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(parsed) = parse_challenges(value.to_str().unwrap_or_default()) else {
            continue;
        };
        for challenge in parsed {
            let parameter = |name: &str| {
                let found = challenge
                    .params
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                if let Some(realm) = parameter("realm") {
                    let service = parameter("service");
                    return Some(Challenge::Bearer { realm, service });
                }
            } else if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// One answer to a challenge.
pub(super) struct Login<'a> {
    pub(super) client: &'a Client,
    pub(super) registry: &'a str,
    pub(super) what: &'a str,
    /// Ours, whatever the challenge says: a token is for this repository, for reading.
    pub(super) scope: &'a str,
    /// The registry speaks plain HTTP.
    pub(super) plain: bool,
}

impl Login<'_> {
    /// The `Authorization` header.
    ///
    /// # Errors
    /// [`Error::Unauthorized`] without credentials, or with refused ones.
    pub(super) async fn answer(
        &self,
        challenge: &Challenge,
        credentials: Option<&Credentials>,
    ) -> Result<HeaderValue, Fault> {
        let text = match (challenge, credentials) {
            (_, Some(Credentials::RegistryToken(token))) => format!("Bearer {token}"),
            (Challenge::Basic, Some(Credentials::Password(user, password))) => {
                basic(user, password)
            }
            (Challenge::Basic, _) => return Err(Fault::lasting(self.unauthorized())),
            (Challenge::Bearer { realm, service }, credentials) => {
                let token = self.token(realm, service.as_deref(), credentials).await?;
                format!("Bearer {token}")
            }
        };
        self.header(&text)
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        credentials: Option<&Credentials>,
    ) -> Result<String, Fault> {
        let mut url = Url::parse(realm).map_err(|error| self.unusable(error))?;
        if url.scheme() != "https" && !self.plain && credentials.is_some() {
            return Err(self.unusable("its token service speaks no TLS; credentials stay here"));
        }
        let mut fields = vec![("scope", self.scope)];
        fields.extend(service.map(|service| ("service", service)));
        let request = if let Some(Credentials::IdentityToken(token)) = credentials {
            fields.extend([
                ("grant_type", "refresh_token"),
                ("client_id", "banger"),
                ("refresh_token", token),
            ]);
            let mut form = Url::parse("http://form/").map_err(|error| self.unusable(error))?;
            form.query_pairs_mut().extend_pairs(fields);
            self.client
                .post(url)
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.query().unwrap_or_default().to_owned())
        } else {
            url.query_pairs_mut().extend_pairs(fields);
            let request = self.client.get(url);
            match credentials {
                Some(Credentials::Password(user, password)) => {
                    let header = self.header(&basic(user, password))?;
                    request.header(reqwest::header::AUTHORIZATION, header)
                }
                _ => request,
            }
        };
        let what = format!("a token for {}", self.what);
        let failed = |error| fault::connection(error, self.registry, &what);
        let response = request.send().await.map_err(failed)?;
        if !response.status().is_success() {
            let names = Names {
                registry: self.registry,
                repository: "",
            };
            let refused = fault::refusal(response, names, &what).await;
            // Token services say 400, 401 or 403 to wrong passwords.
            let wrong = match &*refused.error {
                Error::Status { status, .. } => status == "400",
                Error::Unauthorized { .. } | Error::Denied { .. } => true,
                _ => false,
            };
            return Err(match wrong {
                true => Fault::lasting(self.unauthorized()),
                false => refused,
            });
        }
        let (bytes, whole) = body::start(response, LONGEST_TOKEN).await.map_err(failed)?;
        if !whole {
            return Err(self.unusable("its token is endless"));
        }
        let token: Token = serde_json::from_slice(&bytes).map_err(|error| self.unusable(error))?;
        token
            .token
            .or(token.access_token)
            .ok_or_else(|| self.unusable("its token service sent no token"))
    }

    fn header(&self, text: &str) -> Result<HeaderValue, Fault> {
        let mut header = HeaderValue::from_str(text).map_err(|error| self.unusable(error))?;
        header.set_sensitive(true);
        Ok(header)
    }

    fn unauthorized(&self) -> Error {
        Error::Unauthorized {
            registry: self.registry.to_owned(),
            what: self.what.to_owned(),
        }
    }

    fn unusable(&self, reason: impl Into<crate::Source>) -> Fault {
        Fault::lasting(Error::Protocol {
            registry: self.registry.to_owned(),
            what: self.what.to_owned(),
            source: reason.into(),
        })
    }
}

fn basic(user: &str, password: &str) -> String {
    let pair = format!("{user}:{password}");
    let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
    format!("Basic {encoded}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(lines: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(line).unwrap());
        }
        challenge(&headers)
    }

    #[test]
    fn tokens_come_before_passwords_and_nonsense_is_passed_over() {
        let bearer = Some(Challenge::Bearer {
            realm: "https://a.example/token".into(),
            service: Some("s\"x".into()),
        });
        let line = r#"Bearer realm="https://a.example/token",service="s\"x""#;
        assert_eq!(parsed(&[line]), bearer);
        assert_eq!(parsed(&["Basic realm=\"r\"", line]), bearer);
        assert_eq!(parsed(&[&format!("basic realm=\"r\", {line}")]), bearer);
        assert_eq!(parsed(&["Basic realm=\"r\""]), Some(Challenge::Basic));
        assert_eq!(parsed(&["Bearer service=\"s\""]), None);
        assert_eq!(parsed(&["Negotiate", ",,,=\"", ""]), None);
        assert_eq!(parsed(&[]), None);
    }

    #[test]
    fn credentials_do_not_go_to_a_token_service_without_tls() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::new();
        let login = Login {
            client: &client,
            registry: "r.example",
            what: "x",
            scope: "s",
            plain: false,
        };
        // Nobody listens there: whatever is sent fails in another way.
        let challenge = Challenge::Bearer {
            realm: "http://127.0.0.1:1/token".into(),
            service: None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let password = Credentials::Password("u".into(), "p".into());
        let answer = |credentials| runtime.block_on(login.answer(&challenge, credentials));
        let error = *answer(Some(&password)).unwrap_err().error;
        assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
        let error = *answer(None).unwrap_err().error;
        assert!(
            matches!(error, Error::Connection { refused: true, .. }),
            "{error:?}"
        );
    }
}
