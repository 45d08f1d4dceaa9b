//! HTTPS requests that the gateway makes itself, each bounded in time and size.
//!
//! What it promises: a request goes to the host that its URL names and to no
//! other (no redirect is followed), through the proxy that is configured and
//! through none that the environment names; it is over within
//! [`TOTAL_MAX`]; of an answer no more is held than was asked for; an error
//! never repeats a URL, which may be a secret. Who may be asked, and what the
//! answer means, is the caller's business.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// How long a connection may take to be made.
pub const CONNECT_MAX: Duration = Duration::from_secs(2);

/// How long a request may take, from its beginning to the answer's last byte.
pub const TOTAL_MAX: Duration = Duration::from_secs(5);

/// How long a connection is kept for another request: shorter than servers
/// keep one, since a request on a connection that the server is closing is
/// lost.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// How many connections to a host are kept for other requests.
const IDLE_PER_HOST: usize = 2;

/// The longest explanation that an error gives, in bytes.
const WHY_MAX: usize = 256;

/// Slack warns where the character set is left out.
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// How requests leave.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The HTTP proxy that they go through, perhaps with a password.
    pub proxy: Option<String>,
    /// Certificate authorities (PEM) believed beside the system's.
    pub ca: Option<PathBuf>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proxy = self.proxy.as_ref().map(|_| "…");
        f.debug_struct("Settings")
            .field("proxy", &proxy)
            .field("ca", &self.ca)
            .finish()
    }
}

/// The client cannot be made. The text says what of the settings is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(pub String);

/// Why there is no answer. None of the texts repeats the URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// Nothing was sent, and nothing will be until the settings change.
    #[error("it cannot be asked: {0}")]
    Unusable(String),
    /// Nobody was reached: nothing was sent.
    #[error("it is not reached: {0}")]
    Unreachable(String),
    /// It was too late, and may have been sent.
    #[error("it did not answer in time")]
    Late,
    /// It may have been sent, and the answer is not whole.
    #[error("it did not answer properly: {0}")]
    Cut(String),
    /// It was sent, and the answer is larger than is read.
    #[error("its answer is larger than {0} bytes")]
    TooLarge(usize),
}

/// An answer, whatever its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its status. A redirect is an answer like any other.
    pub status: StatusCode,
    /// For how long it asks not to be asked again, where it says that in
    /// seconds (RFC 9110, section 10.2.3).
    pub retry_after: Option<Duration>,
    /// Its body.
    pub body: Bytes,
}

/// Makes the requests. Clones share connections.
#[derive(Clone, Debug)]
pub struct Egress {
    client: reqwest::Client,
    /// Whether any certificate authority is known.
    authorities: Authorities,
}

/// Whether there is anybody whose word on a server counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Authorities {
    Some,
    None,
}

impl Egress {
    /// A client that follows no redirect and takes no proxy from the
    /// environment. A machine without certificate authorities of its own is no
    /// mistake: requests say so if there are any.
    ///
    /// Reads files: not for the request path.
    ///
    /// # Errors
    /// What of the settings cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let (tls, authorities) = tls(settings.ca.as_deref())?;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .no_proxy()
            .connect_timeout(CONNECT_MAX)
            .timeout(TOTAL_MAX)
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")));
        if let Some(proxy) = &settings.proxy {
            // reqwest's own text would repeat the URL and its password.
            let proxy = reqwest::Proxy::all(proxy).map_err(|_| {
                SettingsError("proxy: write a URL such as http://proxy.internal:3128".to_owned())
            })?;
            builder = builder.proxy(proxy);
        }
        let client = builder
            .build()
            .map_err(|error| SettingsError(chain(&error.without_url())))?;
        Ok(Egress {
            client,
            authorities,
        })
    }

    /// Asks for what is at an https URL. At most `body_max` bytes of it are
    /// read.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn get(&self, url: &str, body_max: usize) -> Result<Reply, EgressError> {
        let request = self.client.get(url);
        self.ask(request.header(ACCEPT, "application/json"), body_max)
            .await
    }

    /// Posts JSON to an https URL. At most `body_max` bytes of the answer are
    /// read. `authorization` is the whole value of that header.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn post_json(
        &self,
        url: &str,
        authorization: Option<HeaderValue>,
        body: String,
        body_max: usize,
    ) -> Result<Reply, EgressError> {
        let mut request = self.client.post(url).header(CONTENT_TYPE, JSON).body(body);
        if let Some(mut value) = authorization {
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        self.ask(request, body_max).await
    }

    async fn ask(
        &self,
        request: reqwest::RequestBuilder,
        body_max: usize,
    ) -> Result<Reply, EgressError> {
        if self.authorities == Authorities::None {
            return Err(EgressError::Unusable(
                "no certificate authority is known: install the system's, or name a file in `egress.ca`"
                    .to_owned(),
            ));
        }
        let mut response = request.send().await.map_err(told)?;
        let stated = response.content_length().unwrap_or(0);
        if usize::try_from(stated).is_ok_and(|stated| stated > body_max) {
            return Err(EgressError::TooLarge(body_max));
        }
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(told)? {
            // Looked at before it is kept: a length need not be stated.
            if part.len() > body_max.saturating_sub(body.len()) {
                return Err(EgressError::TooLarge(body_max));
            }
            body.extend_from_slice(&part);
        }
        Ok(Reply {
            status: response.status(),
            retry_after: retry_after(response.headers()),
            body: body.into(),
        })
    }
}

/// The `retry-after` of an answer, if it is a number of seconds.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// What an error means for whoever asked.
fn told(error: reqwest::Error) -> EgressError {
    let error = error.without_url();
    if error.is_builder() {
        return EgressError::Unusable("its address is not an https URL".to_owned());
    }
    if error.is_timeout() && !error.is_connect() {
        return EgressError::Late;
    }
    let why = chain(&error);
    if error.is_connect() {
        return EgressError::Unreachable(why);
    }
    EgressError::Cut(why)
}

/// An error and what caused it, on one line of bounded length.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text.retain(|letter| !letter.is_control());
    let end = text.floor_char_boundary(WHY_MAX);
    text.truncate(end);
    text
}

/// Who is believed.
fn tls(ca: Option<&Path>) -> Result<(ClientConfig, Authorities), SettingsError> {
    let mut roots = RootCertStore::empty();
    // Some system stores hold certificates that rustls does not read; the
    // others count.
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if let Some(path) = ca {
        for certificate in certificates(path)? {
            roots
                .add(certificate)
                .map_err(|error| SettingsError(format!("ca: {}: {error}", path.display())))?;
        }
    }
    let authorities = match roots.is_empty() {
        true => Authorities::None,
        false => Authorities::Some,
    };
    // Named, so that it works in a process that has installed none.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| SettingsError(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok((config, authorities))
}

/// The certificates in a PEM file.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    let trouble =
        |what: &dyn fmt::Display| SettingsError(format!("ca: {}: {what}", path.display()));
    let read = CertificateDer::pem_file_iter(path).map_err(|error| trouble(&error))?;
    let read: Result<Vec<_>, _> = read.collect();
    let read = read.map_err(|error| trouble(&error))?;
    if read.is_empty() {
        return Err(trouble(&"there is no certificate in it"));
    }
    Ok(read)
}
