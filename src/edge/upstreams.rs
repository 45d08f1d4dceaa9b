//! Where requests go: the upstream's addresses, which of them are healthy, and
//! how a connection to one is made.
//!
//! Addresses are balanced round robin. One that failed a request's connection
//! attempt is not tried again for that request; one that fails its health
//! checks is passed over by all, unless no healthy one is left, because an
//! address that might answer is better than a certain fault.
//!
//! In `upstreams/`: how names become addresses (`names.rs`), and whose turn it
//! is (`known.rs`). Connections in the clear that speak HTTP/1.1 are made, kept
//! and written to in our own way (`passage.rs`, `idle.rs`, `socket.rs`, `clock.rs`), all
//! others in Pingora's.

mod clock;
mod idle;
mod known;
mod names;
mod passage;
mod socket;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::ALPN;
use pingora_core::upstreams::peer::{HttpPeer, Peer as _, PeerOptions, Scheme};
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};
use pingora_load_balancing::Backend;
use pingora_load_balancing::health_check::TcpHealthCheck;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;

use crate::config;
use idle::Room;
use known::Known;
use names::{Names, ServerName};
pub use passage::Passage;
use passage::Timeouts;

/// Concurrent HTTP/2 streams per upstream connection.
const H2_STREAMS_MAX: usize = 100;

/// The upstream's addresses and how to connect to them.
pub struct Upstreams {
    known: Arc<Known>,
    timeouts: Timeouts,
    /// Dropped with this, which ends the background work.
    stop: watch::Sender<bool>,
}

/// Where an attempt goes.
pub struct Picked {
    /// The address.
    pub address: SocketAddr,
    /// How to connect to it.
    pub peer: Box<HttpPeer>,
    /// The way there, where it is ours.
    pub passage: Option<Arc<Passage>>,
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
        let check_every = configured.health.interval.duration();
        let check = health_check(&configured.health);
        let check = (!check_every.is_zero()).then_some((check, check_every));
        let update_every = configured.dns.min_ttl.duration();
        let is_ours = tls.is_none() && options.alpn == ALPN::H1;
        let room = is_ours.then(|| Room::new(configured.idle_timeout.duration()));
        // Connections that Pingora keeps are none of ours: before a reload, the
        // same address may have been spoken to in another way.
        let group_key = u64::from(is_ours);
        let make = Box::new(move |backend: &Backend| {
            let peer = peer(backend, tls.as_ref(), &options);
            peer.map(|peer| HttpPeer { group_key, ..peer })
        });
        let (stop, _) = watch::channel(false);
        Ok(Upstreams {
            known: Known::new(Names::new(configured), update_every, check, make, room),
            timeouts: Timeouts {
                connect: configured.connect_timeout.duration(),
                read: configured.read_timeout.duration(),
            },
            stop,
        })
    }

    /// Finds the addresses for the first time, so that the first request does
    /// not have to wait for it. Names that do not resolve are tried again by
    /// [`Upstreams::run`].
    pub async fn find_addresses(&self) {
        if let Err(error) = self.known.balancer().update().await {
            tracing::warn!(%error, "the upstream's name does not resolve yet");
        }
    }

    /// The background work: names are resolved again, addresses are checked.
    /// Ends when these upstreams are dropped.
    pub fn run(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let known = Arc::clone(&self.known);
        let stop = self.stop.subscribe();
        async move {
            let mut gone = stop.clone();
            tokio::select! {
                () = known.balancer().run(stop, None) => {}
                () = known.sweep() => {}
                // An error says that the sender was dropped.
                _ = gone.wait_for(|stop| *stop) => {}
            }
        }
    }

    /// An address to try that is not among those that failed, and how to
    /// connect to it; `None` if none is left. It may say nothing for
    /// `read_timeout`, if that is not the upstream's own.
    #[must_use]
    pub fn pick(&self, failed: &[SocketAddr], read_timeout: Option<Duration>) -> Option<Picked> {
        let target = self.known.next(failed)?;
        let mut peer = Box::new(target.peer.clone());
        let read = read_timeout.unwrap_or(self.timeouts.read);
        let timeouts = Timeouts {
            read,
            ..self.timeouts
        };
        let idle = target.idle.as_ref();
        let passage = idle.map(|idle| Passage::new(idle, timeouts));
        // Our connections have a clock of their own.
        peer.options.read_timeout = passage.is_none().then_some(read);
        if let Some(passage) = &passage {
            // They dial within bounds of their own, and Pingora's would copy all
            // of its way to a connection once more.
            peer.options.connection_timeout = None;
            peer.options.total_connection_timeout = None;
            peer.options.custom_l4 = Some(Arc::<Passage>::clone(passage));
        }
        Some(Picked {
            address: target.address,
            peer,
            passage,
        })
    }

    /// Whether an address is left that is not among those that failed.
    #[must_use]
    pub fn is_any_left(&self, failed: &[SocketAddr]) -> bool {
        self.known.is_any_left(failed)
    }

    /// How many addresses are known, and how many of them are in use.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        self.known.count()
    }
}

/// How to connect to a backend.
fn peer(backend: &Backend, tls: Option<&Tls>, options: &PeerOptions) -> Option<HttpPeer> {
    let address = backend.addr.as_inet()?;
    let sni = match tls {
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
    Some(HttpPeer {
        _address: backend.addr.clone(),
        scheme: Scheme::from_tls_bool(tls.is_some()),
        sni,
        proxy: None,
        client_cert_key: tls.and_then(|tls| tls.client.clone()),
        group_key: 0,
        options: options.clone(),
    })
}

/// Makes a connection speak HTTP/1.1: only there can it be upgraded.
pub fn set_http1(peer: &mut HttpPeer) {
    if let Some(options) = peer.get_mut_peer_options() {
        options.alpn = ALPN::H1;
    }
}

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
