//! From a configuration to the parts that serve by it.
//!
//! A reload keeps a part whose block did not change: a ledger keeps its
//! connection, an upstream its pool and health. Everything else is cheap and
//! made anew.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora_core::listeners::tls::Acceptor;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::billing::admission::Rule;
use crate::config::{self, Config};
use crate::edge::forward;
use crate::edge::identify::Identities;
use crate::edge::live::{Enforcement, Limits, Live, StartRoute};
use crate::edge::problem::style::Style;
use crate::edge::route::Table;
use crate::edge::secret::SecretPaths;
use crate::edge::upstreams::Upstreams;
use crate::ledger::Ledger;
use crate::ledger::memory::MemoryLedger;
use crate::ledger::redis::{Keys, RedisLedger, RedisSettings, SettingsError, TlsFiles};
use crate::refusals::{Dropped, Sink, StreamSettings, Writer};
use crate::telemetry::Metrics;

/// Protocols offered by ALPN, the better first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// How long a ledger or a name server may take to be reached before serving
/// begins without it.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// Why a part cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The ledger's settings.
    #[error("balances.redis: {0}")]
    Ledger(#[from] SettingsError),
    /// The upstream's TLS files.
    #[error("upstream.tls: {0}")]
    Upstream(#[from] crate::edge::upstreams::TlsFileError),
    /// The public side's TLS files.
    #[error("server.tls: {0}")]
    Tls(String),
}

/// The parts of a configuration that have work in the background.
#[derive(Clone)]
pub struct Shared {
    /// The ledger.
    pub ledger: LedgerPart,
    /// Where refusal events go.
    pub refusals: Sink,
    /// The upstream's addresses.
    pub upstreams: Arc<Upstreams>,
    /// Whether an outage of the ledger leaves the gateway ready.
    pub ready_in_outage: bool,
    /// Events dropped, through all reloads.
    pub dropped: Dropped,
    /// The acceptor of the HTTPS listeners.
    pub acceptor: Option<Arc<ArcSwap<Acceptor>>>,
}

/// The ledger, by what it is made of.
#[derive(Clone)]
pub enum LedgerPart {
    /// In this process.
    Memory(Arc<MemoryLedger>),
    /// In Redis.
    Redis(Arc<RedisLedger>),
}

impl LedgerPart {
    /// The ledger as requests see it.
    #[must_use]
    pub fn ledger(&self) -> Arc<dyn Ledger> {
        match self {
            LedgerPart::Memory(ledger) => Arc::<MemoryLedger>::clone(ledger),
            LedgerPart::Redis(ledger) => Arc::<RedisLedger>::clone(ledger),
        }
    }
}

/// Newly built parts whose work in the background has not begun.
#[derive(Default)]
pub struct Fresh {
    ledger: Option<LedgerPart>,
    upstreams: Option<Arc<Upstreams>>,
    writer: Option<Writer>,
    /// How long to wait for the ledger.
    settle: Duration,
}

impl Fresh {
    /// Begins it on the runtime that serves, and gives it a moment to get
    /// somewhere, so that the first request finds a ledger and an upstream.
    pub async fn begin(self, runtime: &Handle, mut ended: watch::Receiver<bool>) {
        if let Some(LedgerPart::Redis(ledger)) = &self.ledger {
            runtime.spawn(ledger.run());
        }
        if let Some(upstreams) = self.upstreams {
            let work = upstreams.run();
            let found = runtime.spawn(async move { upstreams.find_addresses().await });
            // Whether they were found in time or not, the work goes on.
            drop(timeout(SETTLE_MAX, found).await);
            runtime.spawn(work);
        }
        if let Some(LedgerPart::Redis(ledger)) = &self.ledger {
            ledger.settled(self.settle).await;
        }
        if let Some(writer) = self.writer {
            let ended = async move {
                // An error says that the gateway is gone, which is the end too.
                let _ = ended.wait_for(|ended| *ended).await;
            };
            runtime.spawn(writer.run(ended, FLUSH_MAX));
        }
    }
}

/// Builds everything.
///
/// # Errors
/// What cannot be built.
pub fn build(config: &Config) -> Result<(Shared, Fresh), BuildError> {
    let dropped = Dropped::default();
    let ledger = ledger(config)?;
    let (refusals, writer) = refusals(config, dropped.clone())?;
    let upstreams = Arc::new(Upstreams::new(&config.upstream)?);
    let acceptor = match &config.server.tls {
        None => None,
        Some(tls) => Some(Arc::new(ArcSwap::from_pointee(acceptor(tls)?))),
    };
    let shared = Shared {
        ledger,
        refusals,
        upstreams,
        ready_in_outage: ready_in_outage(config),
        dropped,
        acceptor,
    };
    let fresh = Fresh {
        ledger: Some(shared.ledger.clone()),
        upstreams: Some(Arc::clone(&shared.upstreams)),
        writer,
        // Requests wait meanwhile, so no longer than they would for a reply.
        settle: config
            .balances
            .redis
            .as_ref()
            .map_or(Duration::ZERO, |redis| redis.deadline.duration()),
    };
    Ok((shared, fresh))
}

/// Builds what changed and keeps the rest.
///
/// # Errors
/// What cannot be built; nothing was changed then.
pub fn rebuild(old: &Config, new: &Config, shared: &Shared) -> Result<(Shared, Fresh), BuildError> {
    let mut next = shared.clone();
    next.ready_in_outage = ready_in_outage(new);
    let mut fresh = Fresh {
        // The old parts serve meanwhile.
        settle: SETTLE_MAX,
        ..Fresh::default()
    };
    // Certificate files may have changed under names that did not.
    let redis_files = new
        .balances
        .redis
        .as_ref()
        .is_some_and(|redis| redis.ca.is_some() || redis.cert.is_some());
    let moved = old.balances != new.balances || old.identity != new.identity || redis_files;
    if moved {
        next.ledger = ledger(new)?;
        fresh.ledger = Some(next.ledger.clone());
    }
    if moved || old.refusals != new.refusals {
        let (sink, writer) = refusals(new, shared.dropped.clone())?;
        next.refusals = sink;
        fresh.writer = writer;
    }
    if old.upstream != new.upstream || new.upstream.tls.is_some() {
        next.upstreams = Arc::new(Upstreams::new(&new.upstream)?);
        fresh.upstreams = Some(Arc::clone(&next.upstreams));
    }
    if let (Some(tls), Some(swap)) = (&new.server.tls, &next.acceptor) {
        swap.store(Arc::new(acceptor(tls)?));
    }
    Ok((next, fresh))
}

/// Builds the ledger.
///
/// # Errors
/// [`BuildError::Ledger`].
pub fn ledger(config: &Config) -> Result<LedgerPart, BuildError> {
    if let Some(settings) = redis_settings(config) {
        return Ok(LedgerPart::Redis(Arc::new(RedisLedger::new(&settings)?)));
    }
    let balances = config.balances.memory.iter().flatten();
    let balances = balances.map(|(team, credits)| (team.team().clone(), credits.credits()));
    Ok(LedgerPart::Memory(Arc::new(MemoryLedger::new(
        balances.collect(),
    ))))
}

/// The settings of the Redis ledger, if that is what is configured.
#[must_use]
pub fn redis_settings(config: &Config) -> Option<RedisSettings> {
    let redis = config.balances.redis.as_ref()?;
    let balances = &config.balances;
    let api_key = config.identity.iter().find_map(|identity| match identity {
        config::Identity::ApiKey(key) => Some(key.key.as_str().to_owned()),
        config::Identity::Header(_) => None,
    });
    let tls = TlsFiles {
        ca: redis.ca.clone(),
        cert: redis.cert.clone(),
        key: redis.key.clone(),
    };
    Some(RedisSettings {
        url: redis.url.expose().to_owned(),
        deadline: redis.deadline.duration(),
        connect_timeout: redis.connect_timeout.duration(),
        breaker_failures: redis.breaker_failures.get(),
        probe_interval: redis.probe_interval.duration(),
        tls: (tls != TlsFiles::default()).then_some(tls),
        keys: Keys {
            balance: balances.key.as_str().to_owned(),
            field: balances
                .field
                .as_ref()
                .map(|field| field.as_str().to_owned()),
            api_key: api_key.unwrap_or_else(|| {
                config::values::ApiKeyTemplate::default()
                    .as_str()
                    .to_owned()
            }),
            canary: balances.canary.clone(),
        },
    })
}

/// Builds the way of refusal events.
///
/// # Errors
/// [`BuildError::Ledger`].
pub fn refusals(config: &Config, dropped: Dropped) -> Result<(Sink, Option<Writer>), BuildError> {
    let Some(settings) = redis_settings(config) else {
        return Ok((Sink::off(), None));
    };
    let stream = StreamSettings {
        queue: config.refusals.queue.get(),
        stream_length: config.refusals.stream_length.get(),
    };
    let (sink, writer) = Sink::new(&settings, stream, dropped)?;
    Ok((sink, Some(writer)))
}

/// Puts together what a request needs of the configuration.
#[must_use]
pub fn live(config: &Config, metrics: &Metrics, shared: &Shared) -> Live {
    let limits = &config.server.limits;
    Live {
        table: Table::new(config.routes.iter().map(|route| &route.start)),
        starts: config
            .routes
            .iter()
            .map(|route| start_route(config, route, metrics))
            .collect(),
        secrets: SecretPaths::new(&config.routes),
        identities: Identities::new(&config.identity),
        ledger: shared.ledger.ledger(),
        refusals: shared.refusals.clone(),
        style: Style::new(&config.problem),
        upstreams: Arc::clone(&shared.upstreams),
        forward: forward::Settings {
            trusted_proxies: config.server.trusted_proxies.clone(),
            host: config
                .upstream
                .host
                .as_ref()
                .map(|host| host.as_str().to_owned()),
        },
        limits: Limits {
            requests: limits.requests.get(),
            header_size: limits.header_size.bytes().try_into().unwrap_or(usize::MAX),
            body_timeout: limits.body_timeout.duration(),
            write_timeout: limits.write_timeout.duration(),
        },
    }
}

fn start_route(config: &Config, route: &config::Route, metrics: &Metrics) -> StartRoute {
    let name = route.start.to_string();
    let enforced = route.enforce.unwrap_or(config.admission.enforce);
    StartRoute {
        metrics: metrics.route(&name, route.trigger.into()),
        name: name.into(),
        trigger: route.trigger.into(),
        rule: Rule {
            refuse_at_or_below: config.balances.refuse_at_or_below.credits(),
            missing: config.balances.missing.into(),
            on_outage: route.on_outage.unwrap_or(config.admission.on_outage).into(),
        },
        enforcement: if enforced {
            Enforcement::Enforced
        } else {
            Enforcement::Shadow
        },
        max_body: route.max_body.map(|size| size.bytes()),
        read_timeout: route.read_timeout.map(|span| span.duration()),
    }
}

/// Builds the acceptor of the HTTPS listeners from its files.
///
/// # Errors
/// [`BuildError::Tls`].
pub fn acceptor(tls: &config::ServerTls) -> Result<Acceptor, BuildError> {
    let mistake = |file: &std::path::Path, why: &dyn std::fmt::Display| {
        BuildError::Tls(format!("{}: {why}", file.display()))
    };
    let certificates =
        |file: &std::path::Path| -> Result<Vec<CertificateDer<'static>>, BuildError> {
            let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
            read.map_err(|error| mistake(file, &error))
        };
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| mistake(&tls.key, &error))?;
    let builder = ServerConfig::builder();
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let mut roots = rustls::RootCertStore::empty();
            for ca in certificates(file)? {
                roots.add(ca).map_err(|error| mistake(file, &error))?;
            }
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| mistake(file, &error))?)
        }
    };
    let server = builder.with_single_cert(certificates(&tls.cert)?, key);
    let mut server = server.map_err(|error| mistake(&tls.cert, &error))?;
    server.alpn_protocols = ALPN.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Acceptor::from_server_config(Arc::new(server)))
}

fn ready_in_outage(config: &Config) -> bool {
    let admin = config.server.admin.as_ref();
    admin.is_some_and(|admin| admin.ready_in_outage)
}

/// Where an operator's `tollgate ready` finds the admin listener.
#[must_use]
pub fn admin_address(config: &Config) -> Option<SocketAddr> {
    config
        .server
        .admin
        .as_ref()
        .map(|admin| admin.listen.addr())
}

/// How long refusal events may take to be written at the end.
pub const FLUSH_MAX: Duration = Duration::from_millis(500);
