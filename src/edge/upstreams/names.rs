//! How upstream names become addresses, again and again.
//!
//! A name stands for all the addresses it resolves to. It is resolved again
//! when what was found expires, no sooner than `dns.min_ttl` and no later than
//! `dns.max_ttl`. While it does not resolve, what was found last stays in use:
//! a name server's outage is not the upstream's.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use pingora_core::protocols::l4::socket::SocketAddr as L4Address;
use pingora_error::Result;
use pingora_load_balancing::discovery::ServiceDiscovery;
use pingora_load_balancing::{Backend, Extensions};
use tokio::sync::Mutex;

use crate::config;
use crate::config::values::UpstreamAddress;

/// The longest one resolution may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The host of a configured address, for TLS.
#[derive(Clone)]
pub struct ServerName(pub String);

/// The configured addresses, resolved.
pub struct Names {
    fixed: BTreeSet<Backend>,
    named: Vec<UpstreamAddress>,
    servers: Vec<SocketAddr>,
    min_ttl: Duration,
    max_ttl: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    resolver: Option<Arc<TokioResolver>>,
    found: HashMap<String, Found>,
    /// Why a name did not resolve when it was last tried.
    complaints: HashMap<String, String>,
}

impl State {
    /// Says why a name does not resolve, unless that was the last that was said.
    fn complain(&mut self, host: &str, why: String) {
        if self.complaints.get(host) != Some(&why) {
            tracing::warn!(host, reason = why, "the upstream's name does not resolve");
            self.complaints.insert(host.to_owned(), why);
        }
    }
}

struct Found {
    addresses: Vec<IpAddr>,
    until: Instant,
}

impl Names {
    pub fn new(configured: &config::Upstream) -> Self {
        let fixed = configured.addresses.iter().filter_map(|address| {
            address
                .socket_addr()
                .map(|socket| backend(socket, address.host()))
        });
        let named = configured
            .addresses
            .iter()
            .filter(|a| a.socket_addr().is_none());
        Names {
            fixed: fixed.collect(),
            named: named.cloned().collect(),
            servers: configured
                .dns
                .servers
                .iter()
                .map(|server| server.addr())
                .collect(),
            min_ttl: configured.dns.min_ttl.duration(),
            max_ttl: configured.dns.max_ttl.duration(),
            state: Mutex::default(),
        }
    }

    /// The resolver, made on first use, inside the runtime that uses it.
    fn resolver(&self, state: &mut State) -> Option<Arc<TokioResolver>> {
        if state.resolver.is_none() {
            let builder = if self.servers.is_empty() {
                TokioResolver::builder_tokio()
            } else {
                let servers = self
                    .servers
                    .iter()
                    .map(|server| name_server(*server))
                    .collect();
                let config = ResolverConfig::from_name_servers(servers);
                Ok(TokioResolver::builder_with_config(
                    config,
                    TokioRuntimeProvider::default(),
                ))
            };
            let built = builder.and_then(|mut builder| {
                // What was found is kept here, with bounds of our own.
                builder.options_mut().cache_size = 0;
                builder.build()
            });
            match built {
                Ok(resolver) => state.resolver = Some(Arc::new(resolver)),
                Err(error) => tracing::warn!(%error, "the system's name servers cannot be read"),
            }
        }
        state.resolver.clone()
    }

    async fn resolve(&self, state: &mut State, host: &str) {
        if state
            .found
            .get(host)
            .is_some_and(|found| found.until > Instant::now())
        {
            return;
        }
        let Some(resolver) = self.resolver(state) else {
            return;
        };
        match tokio::time::timeout(RESOLVE_TIMEOUT, resolver.lookup_ip(host)).await {
            Ok(Ok(lookup)) => {
                let now = Instant::now();
                let ttl = lookup.valid_until().saturating_duration_since(now);
                let ttl = ttl.clamp(self.min_ttl, self.max_ttl.max(self.min_ttl));
                let found = Found {
                    addresses: lookup.iter().collect(),
                    until: now.checked_add(ttl).unwrap_or(now),
                };
                state.complaints.remove(host);
                state.found.insert(host.to_owned(), found);
            }
            Ok(Err(error)) => state.complain(host, error.to_string()),
            Err(_) => state.complain(host, "the name servers do not answer".to_owned()),
        }
    }
}

#[async_trait]
impl ServiceDiscovery for Names {
    async fn discover(&self) -> Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        let mut backends = self.fixed.clone();
        if !self.named.is_empty() {
            let mut state = self.state.lock().await;
            for address in &self.named {
                self.resolve(&mut state, address.host()).await;
                let addresses = state
                    .found
                    .get(address.host())
                    .map(|found| &found.addresses);
                backends.extend(
                    addresses
                        .into_iter()
                        .flatten()
                        .map(|ip| backend(SocketAddr::new(*ip, address.port()), address.host())),
                );
            }
        }
        Ok((backends, HashMap::new()))
    }
}

fn backend(address: SocketAddr, host: &str) -> Backend {
    let mut ext = Extensions::new();
    // Copied with every pick, so only where it says more than the address.
    if host.parse::<IpAddr>().is_err() {
        ext.insert(ServerName(host.to_owned()));
    }
    Backend {
        addr: L4Address::Inet(address),
        weight: 1,
        ext,
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let at_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![
        at_port(ConnectionConfig::udp()),
        at_port(ConnectionConfig::tcp()),
    ];
    NameServerConfig::new(address.ip(), true, connections)
}
