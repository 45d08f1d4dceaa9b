//! Where requests go: the upstream's addresses, which of them are healthy, and
//! how a connection to one is made.
//!
//! Addresses are balanced round robin. One that failed a request's connection
//! attempt is not tried again for that request; one that fails its health
//! checks is passed over by all, unless no healthy one is left, because an
//! address that might answer is better than a certain fault.
//! How names become addresses is in `upstreams/names.rs`.

mod names;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::ALPN;
use pingora_core::protocols::l4::socket::SocketAddr as L4Address;
use pingora_core::upstreams::peer::{HttpPeer, Peer as _, PeerOptions, Scheme};
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};
use pingora_load_balancing::health_check::TcpHealthCheck;
use pingora_load_balancing::selection::RoundRobin;
use pingora_load_balancing::{Backends, LoadBalancer};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;

use crate::config;
use names::{Names, ServerName};

/// Addresses looked at for one request before giving up.
const SELECT_MAX: usize = 256;

/// Concurrent HTTP/2 streams per upstream connection.
const H2_STREAMS_MAX: usize = 100;

/// The upstream's addresses and how to connect to them.
pub struct Upstreams {
    balancer: Arc<LoadBalancer<RoundRobin>>,
    options: PeerOptions,
    tls: Option<Tls>,
    /// Dropped with this, which ends the background work.
    stop: watch::Sender<bool>,
}

struct Tls {
    sni: Option<String>,
    client: Option<Arc<CertKey>>,
}

/// Why the upstream's TLS files cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {why}")]
pub struct TlsFileError {
    file: String,
    why: String,
}

impl Upstreams {
    /// Takes the upstream as configured. No address is known yet: see
    /// [`Upstreams::run`].
    ///
    /// # Errors
    /// If a TLS file cannot be used.
    pub fn new(configured: &config::Upstream) -> Result<Self, TlsFileError> {
        let mut backends = Backends::new(Box::new(Names::new(configured)));
        let health = &configured.health;
        let interval = health.interval.duration();
        if !interval.is_zero() {
            backends.set_health_check(health_check(health));
        }
        let mut balancer = LoadBalancer::from_backends(backends);
        balancer.update_frequency = Some(configured.dns.min_ttl.duration());
        balancer.health_check_frequency = Some(if interval.is_zero() { NEVER } else { interval });
        balancer.parallel_health_check = true;
        let mut options = peer_options(configured);
        let tls = match &configured.tls {
            None => None,
            Some(tls) => {
                if let Some(ca) = &tls.ca {
                    let wrap = |der: CertificateDer<'_>| WrappedX509::new(der.to_vec(), parse_x509);
                    options.ca = Some(certificates(ca)?.into_iter().map(wrap).collect());
                }
                let client = match (&tls.cert, &tls.key) {
                    (Some(cert), Some(key)) => Some(Arc::new(cert_key(cert, key)?)),
                    _ => None,
                };
                let sni = tls.sni.as_ref().map(|sni| sni.as_str().to_owned());
                Some(Tls { sni, client })
            }
        };
        let (stop, _) = watch::channel(false);
        Ok(Upstreams {
            balancer: Arc::new(balancer),
            options,
            tls,
            stop,
        })
    }

    /// Finds the addresses for the first time, so that the first request does
    /// not have to wait for it. Names that do not resolve are tried again by
    /// [`Upstreams::run`].
    pub async fn find_addresses(&self) {
        if let Err(error) = self.balancer.update().await {
            tracing::warn!(%error, "the upstream's name does not resolve yet");
        }
    }

    /// The background work: names are resolved again, addresses are checked.
    /// Ends when these upstreams are dropped.
    pub fn run(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let balancer = Arc::clone(&self.balancer);
        let stop = self.stop.subscribe();
        async move {
            let mut gone = stop.clone();
            tokio::select! {
                () = balancer.run(stop, None) => {}
                // An error says that the sender was dropped.
                _ = gone.wait_for(|stop| *stop) => {}
            }
        }
    }

    /// An address to try that is not among those that failed, and how to
    /// connect to it; `None` if none is left.
    #[must_use]
    pub fn pick(&self, failed: &[SocketAddr]) -> Option<(SocketAddr, Box<HttpPeer>)> {
        let untried = |address: &L4Address| {
            address
                .as_inet()
                .is_some_and(|address| !failed.contains(address))
        };
        let healthy = self
            .balancer
            .select_with(b"", SELECT_MAX, |b, ready| ready && untried(&b.addr));
        let backend = healthy.or_else(|| {
            self.balancer
                .select_with(b"", SELECT_MAX, |b, _| untried(&b.addr))
        })?;
        let address = *backend.addr.as_inet()?;
        let sni = match &self.tls {
            None => String::new(),
            Some(tls) => match (&tls.sni, backend.ext.get::<ServerName>()) {
                (Some(sni), _) => sni.clone(),
                (None, Some(name)) => name.0.clone(),
                // An empty name would switch verification off.
                (None, None) => address.ip().to_string(),
            },
        };
        // Put together by hand: the constructor resolves names and makes options
        // that would be replaced.
        let peer = HttpPeer {
            _address: backend.addr,
            scheme: Scheme::from_tls_bool(self.tls.is_some()),
            sni,
            proxy: None,
            client_cert_key: self.tls.as_ref().and_then(|tls| tls.client.clone()),
            group_key: 0,
            options: self.options.clone(),
        };
        Some((address, Box::new(peer)))
    }

    /// How many addresses are known, and how many of them are in use.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        let backends = self.balancer.backends();
        let all = backends.get_backend();
        (
            all.len(),
            all.iter().filter(|backend| backends.ready(backend)).count(),
        )
    }
}

/// Sets the read timeout of a route that has its own.
pub fn set_read_timeout(peer: &mut HttpPeer, timeout: Duration) {
    if let Some(options) = peer.get_mut_peer_options() {
        options.read_timeout = Some(timeout);
    }
}

/// Makes a connection speak HTTP/1.1: only there can it be upgraded.
pub fn set_http1(peer: &mut HttpPeer) {
    if let Some(options) = peer.get_mut_peer_options() {
        options.alpn = ALPN::H1;
    }
}

/// Longer than any process lives: 100 years.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

fn health_check(health: &config::HealthCheck) -> Box<TcpHealthCheck> {
    let mut check = TcpHealthCheck::new();
    check.consecutive_failure = health.unhealthy_after.get();
    check.consecutive_success = health.healthy_after.get();
    check.peer_template.options.connection_timeout = Some(health.timeout.duration());
    check.peer_template.options.total_connection_timeout = Some(health.timeout.duration());
    check
}

fn peer_options(configured: &config::Upstream) -> PeerOptions {
    let mut options = PeerOptions::new();
    let connect_timeout = configured.connect_timeout.duration();
    options.connection_timeout = Some(connect_timeout);
    options.total_connection_timeout = Some(connect_timeout);
    options.read_timeout = Some(configured.read_timeout.duration());
    options.write_timeout = Some(configured.write_timeout.duration());
    options.idle_timeout = Some(configured.idle_timeout.duration());
    options.max_h2_streams = H2_STREAMS_MAX;
    options.alpn = match (configured.http2, configured.tls.is_some()) {
        (false, _) => ALPN::H1,
        (true, true) => ALPN::H2H1,
        // In the clear there is nothing to negotiate.
        (true, false) => ALPN::H2,
    };
    options
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let mistake = |why: String| TlsFileError {
        file: file.display().to_string(),
        why,
    };
    let read = CertificateDer::pem_file_iter(file).map_err(|error| mistake(error.to_string()))?;
    let read: Result<Vec<_>, _> = read.collect();
    let found = read.map_err(|error| mistake(error.to_string()))?;
    if found.is_empty() {
        return Err(mistake("it holds no certificate".to_owned()));
    }
    Ok(found)
}

fn cert_key(cert: &Path, key: &Path) -> Result<CertKey, TlsFileError> {
    let chain = certificates(cert)?.iter().map(|der| der.to_vec()).collect();
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| TlsFileError {
        file: key.display().to_string(),
        why: error.to_string(),
    })?;
    Ok(CertKey::new(chain, key.secret_der().to_vec()))
}
