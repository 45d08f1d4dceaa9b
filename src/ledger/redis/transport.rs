//! How a server is reached: over TCP, TLS or a Unix socket, and as which user.
//! What is said over it is the business of [`super::hello`] and [`super::wire`].

use std::cell::OnceCell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redis::io::tcp::socket2::{SockRef, TcpKeepalive};
use redis::{ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio_rustls::TlsConnector;

use super::{SettingsError, TlsFiles};

/// How long a connection is idle before the kernel asks whether the peer lives.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);

/// The pause between the kernel's questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// How long sent bytes may stay unacknowledged before the kernel gives up.
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a server is and how to introduce oneself there.
#[derive(Clone, Debug)]
pub(super) struct Target {
    address: Address,
    pub(super) manner: Manner,
}

/// How a server is spoken to, wherever it is.
#[derive(Clone)]
pub(super) struct Manner {
    /// User, password and database number.
    pub(super) hello: RedisConnectionInfo,
    tls: Option<TlsConnector>,
}

#[derive(Clone)]
enum Address {
    Tcp(String, u16),
    Tls(String, u16, ServerName<'static>, TlsConnector),
    Unix(PathBuf),
}

impl std::fmt::Debug for Manner {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manner")
            .field("is_tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(host, port) | Address::Tls(host, port, ..) => {
                f.write_str(&address_text(host, *port))
            }
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Host and port as one text: also the name of a cluster's node.
pub(super) fn address_text(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

impl std::fmt::Display for Target {
    /// The address alone, for messages.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.address.fmt(f)
    }
}

impl Manner {
    /// A manner with this introduction.
    pub(super) fn new(hello: RedisConnectionInfo, tls: Option<&Arc<ClientConfig>>) -> Self {
        let tls = tls.map(|config| TlsConnector::from(Arc::clone(config)));
        Manner { hello, tls }
    }

    /// The server at this place.
    pub(super) fn at(&self, host: &str, port: u16) -> Result<Target, SettingsError> {
        let address = match &self.tls {
            None => Address::Tcp(host.to_owned(), port),
            Some(connector) => {
                let name = ServerName::try_from(host.to_owned())
                    .map_err(|error| SettingsError::Url(error.to_string()))?;
                Address::Tls(host.to_owned(), port, name, connector.clone())
            }
        };
        Ok(Target {
            address,
            manner: self.clone(),
        })
    }
}

impl Target {
    /// Reads a URL. The TLS client is made at most once, by whoever needs it
    /// first. Opens no socket.
    pub(super) fn new(url: &str, tls: &Tls) -> Result<Self, SettingsError> {
        let info = url
            .into_connection_info()
            .map_err(|error| SettingsError::Url(error.to_string()))?;
        let hello = info.redis_settings().clone();
        match info.addr() {
            ConnectionAddr::Tcp(host, port) => Manner::new(hello, None).at(host, *port),
            ConnectionAddr::TcpTls { insecure: true, .. } => Err(SettingsError::Url(
                "#insecure is not supported: name the certificate authority in `ca` instead"
                    .to_owned(),
            )),
            ConnectionAddr::TcpTls { host, port, .. } => {
                Manner::new(hello, Some(tls.client()?)).at(host, *port)
            }
            ConnectionAddr::Unix(path) => Ok(Target {
                address: Address::Unix(path.clone()),
                manner: Manner::new(hello, None),
            }),
            _ => Err(SettingsError::Url(
                "write redis://, rediss:// or redis+unix://".to_owned(),
            )),
        }
    }

    /// The host, if it is reached over the network.
    pub(super) fn host(&self) -> Option<&str> {
        match &self.address {
            Address::Tcp(host, _) | Address::Tls(host, ..) => Some(host),
            Address::Unix(_) => None,
        }
    }

    /// Opens a connection. `attempt` counts up, so that each attempt begins
    /// with another of a name's addresses and one that is dead cannot hide the
    /// others.
    pub(super) async fn dial(&self, attempt: usize) -> io::Result<Box<dyn Stream>> {
        Ok(match &self.address {
            Address::Tcp(host, port) => Box::new(dial_tcp(host, *port, attempt).await?),
            Address::Tls(host, port, name, connector) => {
                let stream = dial_tcp(host, *port, attempt).await?;
                Box::new(connector.connect(name.clone(), stream).await?)
            }
            Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }
}

async fn dial_tcp(host: &str, port: u16, attempt: usize) -> io::Result<TcpStream> {
    let mut addresses: Vec<_> = lookup_host((host, port)).await?.collect();
    let start = attempt.checked_rem(addresses.len()).unwrap_or_default();
    addresses.rotate_left(start);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                let socket = SockRef::from(&stream);
                socket.set_tcp_nodelay(true)?;
                socket.set_tcp_keepalive(
                    &TcpKeepalive::new()
                        .with_time(KEEPALIVE_IDLE)
                        .with_interval(KEEPALIVE_INTERVAL),
                )?;
                #[cfg(target_os = "linux")]
                socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The TLS client, made when first needed.
pub(super) struct Tls<'a> {
    files: Option<&'a TlsFiles>,
    client: OnceCell<Arc<ClientConfig>>,
}

impl<'a> Tls<'a> {
    pub(super) fn new(files: Option<&'a TlsFiles>) -> Self {
        Tls {
            files,
            client: OnceCell::new(),
        }
    }

    pub(super) fn client(&self) -> Result<&Arc<ClientConfig>, SettingsError> {
        match self.client.get() {
            Some(client) => Ok(client),
            None => {
                let client = tls_config(self.files)?;
                Ok(self.client.get_or_init(|| client))
            }
        }
    }

    /// Certificate files that nobody uses would make the operator believe in
    /// TLS that is not there.
    pub(super) fn is_used_if_given(&self) -> Result<(), SettingsError> {
        if self.files.is_some() && self.client.get().is_none() {
            return Err(SettingsError::Url(
                "certificate files are given, but only rediss:// uses them".to_owned(),
            ));
        }
        Ok(())
    }
}

/// The TLS client: certificates and names are always verified.
fn tls_config(files: Option<&TlsFiles>) -> Result<Arc<ClientConfig>, SettingsError> {
    let mut roots = RootCertStore::empty();
    match files.and_then(|files| files.ca.as_deref()) {
        Some(path) => {
            for certificate in read_certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|error| tls_error(path, error))?;
            }
        }
        None => {
            // Some system stores hold certificates that rustls does not read;
            // the others count.
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
    }
    if roots.is_empty() {
        return Err(SettingsError::Tls(
            "no certificate authority to trust: name one in `ca`".to_owned(),
        ));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| SettingsError::Tls(error.to_string()))?
        .with_root_certificates(roots);
    let identity = files.map(|files| (files.cert.as_deref(), files.key.as_deref()));
    let config = match identity {
        Some((Some(cert), Some(key))) => {
            let chain = read_certificates(cert)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| tls_error(key, error))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| tls_error(cert, error))?
        }
        None | Some((None, None)) => builder.with_no_client_auth(),
        Some(_) => {
            return Err(SettingsError::Tls(
                "`cert` and `key` belong together: give both or none".to_owned(),
            ));
        }
    };
    Ok(Arc::new(config))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    let pem = fs::read(path).map_err(|error| tls_error(path, error))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| tls_error(path, error))?;
    if certificates.is_empty() {
        return Err(tls_error(path, "it holds no certificate in PEM form"));
    }
    Ok(certificates)
}

fn tls_error(path: &Path, error: impl std::fmt::Display) -> SettingsError {
    SettingsError::Tls(format!("{}: {error}", path.display()))
}

/// A byte stream in both directions.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}
