//! The only place where the parts are wired together.
//!
//! [`App::prepare`] builds every part from a configuration and binds every
//! socket, so that what can go wrong at start goes wrong before anything is
//! served, and so that the addresses really bound are known; [`App::run`]
//! serves until it is told to stop. How the parts of a configuration are built
//! and rebuilt is in [`build`], signals and the end in [`life`], the admin
//! listener in [`admin`].

pub mod admin;
pub mod build;
pub mod life;
mod listening;
pub mod rehearsal;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora_core::apps::{HttpServerApp, HttpServerOptions};
use pingora_core::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{ListenFds, RunArgs, Server, ShutdownWatch};
use pingora_core::services::Service;
use pingora_proxy::HttpProxy;
use tokio::runtime::Handle;

use crate::config::{self, Config};
use crate::edge::Gateway;
use crate::edge::listener::{Count, Listener, Speaks};
use crate::edge::logged::Logged;
use crate::ledger::redis::RedisLedger;
use crate::telemetry::Metrics;
use crate::telemetry::access::AccessLog;
use crate::telemetry::logging;
use admin::AdminApp;
use build::{BuildError, Fresh};
use life::{Life, Stop};
use listening::{Listening, bind, shared};

/// Connections to the upstream that are kept per thread.
const UPSTREAM_POOL: usize = 1024;

/// Connections at once to a listener beside the gateway.
const CONNECTIONS_BESIDE: usize = 64;

/// How long the last lines of the access log may take, and how often it is
/// looked whether they are written.
const LOG_END_MAX: Duration = Duration::from_millis(500);
const LOG_END_LOOK: Duration = Duration::from_millis(2);

/// How long the runtimes may take to end after the last request.
const RUNTIMES_END_SECONDS: u64 = 1;

/// Why the gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A part cannot be built from its configuration.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// The address as configured.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// What the ledger holds is not of this version.
    #[error("balances.redis: {0}")]
    Ledger(String),
    /// The system refuses something else.
    #[error("cannot start: {0}")]
    System(String),
}

/// The addresses really bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// HTTP in the clear.
    pub http: Vec<SocketAddr>,
    /// HTTPS.
    pub https: Vec<SocketAddr>,
    /// The admin listener.
    pub admin: Option<SocketAddr>,
}

impl Bound {
    /// Tells the operator.
    pub(crate) fn announce(&self) {
        let admin: Vec<SocketAddr> = self.admin.into_iter().collect();
        for (listener, addresses) in [
            ("http", &self.http),
            ("https", &self.https),
            ("admin", &admin),
        ] {
            for address in addresses {
                tracing::info!(listener, %address, "listening");
            }
        }
    }
}

/// A gateway, built and bound, not yet serving.
pub struct App {
    config: Config,
    live: LiveSwap,
    fresh: Fresh,
    metrics: Arc<Metrics>,
    logged: Logged,
    log_writer: Option<JoinHandle<()>>,
    listeners: Vec<Listener>,
    admin: Option<Listener>,
    bound: Bound,
    life: Life,
    extra: Vec<Box<dyn Service>>,
}

impl App {
    /// Builds every part and binds every socket. `file` is where the
    /// configuration came from and is read again on SIGHUP.
    ///
    /// # Errors
    /// What cannot be built or bound.
    pub fn prepare(config: Config, file: Option<PathBuf>) -> Result<Self, StartError> {
        let metrics = Metrics::new().map_err(|error| StartError::System(error.to_string()))?;
        let metrics = Arc::new(metrics);
        let (shared, fresh) = build::build(&config, &metrics)?;
        look_ahead(&config)?;
        let live = Arc::new(ArcSwap::from_pointee(build::live(
            &config, &metrics, &shared,
        )));
        let (logged, log_writer) = logged(&config, &metrics).map_err(|error| {
            StartError::System(format!("no thread for the access log: {error}"))
        })?;
        let mut bound = Bound::default();
        let mut listeners = Vec::new();
        for address in &config.server.listen {
            let speaks = if config.server.h2c {
                Speaks::Http1OrH2c
            } else {
                Speaks::Http1
            };
            let listener = bind(address.addr(), speaks, &mut bound.http)?;
            listeners.push(listener);
        }
        if let (Some(tls), Some(acceptor)) = (&config.server.tls, &shared.acceptor) {
            for address in &tls.listen {
                let speaks = Speaks::Tls(Arc::clone(acceptor));
                listeners.push(bind(address.addr(), speaks, &mut bound.https)?);
            }
        }
        let mut admin_bound = Vec::new();
        let admin = match &config.server.admin {
            None => None,
            Some(admin) => Some(bind(admin.listen.addr(), Speaks::Http1, &mut admin_bound)?),
        };
        bound.admin = admin_bound.first().copied();
        let life = Life::new(
            file,
            config.clone(),
            shared,
            Arc::clone(&live),
            Arc::clone(&metrics),
            bound.clone(),
        );
        Ok(App {
            config,
            live,
            fresh,
            metrics,
            logged,
            log_writer,
            listeners,
            admin,
            bound,
            life,
            extra: Vec::new(),
        })
    }

    /// The addresses really bound.
    #[must_use]
    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    /// A way to stop the gateway from inside the process.
    #[must_use]
    pub fn stopper(&self) -> Stop {
        self.life.stopper()
    }

    /// Serves something else beside the gateway, on a socket of its own.
    pub fn serve_also<A>(&mut self, name: &'static str, socket: TcpListener, app: Arc<A>)
    where
        A: HttpServerApp + Send + Sync + 'static,
    {
        let listener = Listener {
            socket,
            speaks: Speaks::Http1,
        };
        self.extra.push(Box::new(self.beside(name, listener, app)));
    }

    /// A service that ends after the gateway, on one thread.
    fn beside<A>(&self, name: &'static str, listener: Listener, app: Arc<A>) -> Listening<A> {
        Listening {
            name,
            threads: Some(1),
            app,
            shared: Arc::new(shared(
                &self.config,
                CONNECTIONS_BESIDE,
                &self.metrics,
                Count::Uncounted,
            )),
            listeners: vec![Arc::new(listener)],
            closing: self.life.ended(),
            started: None,
        }
    }

    /// Serves until told to stop, then returns.
    pub fn run(mut self) {
        if let Some(admin) = self.admin.take() {
            // It answers until the end, so that the end can be watched.
            let app = AdminApp::new(
                &self.config,
                Arc::clone(&self.live),
                Arc::clone(&self.metrics),
                self.life.readiness(),
            );
            self.extra
                .push(Box::new(self.beside("admin", admin, Arc::new(app))));
        }
        let App {
            config,
            live,
            fresh,
            metrics,
            logged,
            log_writer,
            listeners,
            life,
            extra,
            ..
        } = self;
        let conf = Arc::new(server_conf(&config));
        let mut server = Server::new_with_opt_and_conf(None, server_conf(&config));
        let gateway = Gateway::new(live, Arc::clone(&metrics), logged, life.in_flight());
        let mut proxy = HttpProxy::new(gateway, Arc::clone(&conf));
        proxy.handle_init_modules();
        proxy.server_options = Some(server_options(&config.server.limits));
        proxy.h2_options = Some(h2_options(&config.server.limits));
        server.add_service(Listening {
            name: "gateway",
            threads: None,
            app: Arc::new(proxy),
            shared: Arc::new(shared(
                &config,
                config.server.limits.connections.get(),
                &metrics,
                Count::In(Arc::clone(&metrics)),
            )),
            listeners: listeners.into_iter().map(Arc::new).collect(),
            closing: life.closing(),
            started: Some(life.started(fresh)),
        });
        for service in extra {
            server.add_service(Extra(service));
        }
        server.run(RunArgs {
            shutdown_signal: Box::new(life),
        });
        finish_log(log_writer);
        tracing::info!("stopped");
    }
}

/// Looks whether the ledger can be written to: a gateway that cannot read what
/// another version wrote must not serve.
fn look_ahead(config: &Config) -> Result<(), StartError> {
    let settings = build::redis_settings(config).filter(|settings| settings.holds.is_some());
    let Some(settings) = settings else {
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| StartError::System(error.to_string()))?;
    match runtime.block_on(RedisLedger::look_ahead(&settings)) {
        None => Ok(()),
        Some(conflict) => Err(StartError::Ledger(conflict)),
    }
}

/// Starts the access log; the second value ends once every line is written.
fn logged(config: &Config, metrics: &Metrics) -> io::Result<(Logged, Option<JoinHandle<()>>)> {
    let log: fn(AccessLog) -> Logged = match config.log.access {
        config::AccessLog::All => Logged::All,
        config::AccessLog::Starts => Logged::Starts,
        config::AccessLog::Off => return Ok((Logged::Off, None)),
    };
    let form = logging::form(config.log.format, &std::io::stdout());
    let (started, writer) = AccessLog::start(form, metrics.log_lines_dropped.clone())?;
    Ok((log(started), Some(writer)))
}

/// Waits for the last lines of the access log, for a bounded time.
fn finish_log(writer: Option<JoinHandle<()>>) {
    let Some(writer) = writer else { return };
    let deadline = Instant::now().checked_add(LOG_END_MAX);
    while !writer.is_finished() && deadline.is_some_and(|deadline| Instant::now() < deadline) {
        std::thread::sleep(LOG_END_LOOK);
    }
}

fn server_conf(config: &Config) -> ServerConf {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    ServerConf {
        threads: config
            .server
            .threads
            .map_or_else(cores, std::num::NonZeroUsize::get),
        work_stealing: false,
        upstream_keepalive_pool_size: UPSTREAM_POOL,
        // Draining is done before Pingora hears of the end.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(RUNTIMES_END_SECONDS),
        ..ServerConf::default()
    }
}

fn server_options(limits: &config::Limits) -> HttpServerOptions {
    let mut options = HttpServerOptions::default();
    options.h2_idle_timeout = Some(limits.idle_timeout.duration());
    options
}

fn h2_options(limits: &config::Limits) -> H2Options {
    // From the bounded defaults: a plain builder has none.
    let mut options = default_h2_options();
    options.max_header_list_size(limits.header_size.bytes().try_into().unwrap_or(u32::MAX));
    options
}

/// A service added from outside.
struct Extra(Box<dyn Service>);

#[async_trait]
impl Service for Extra {
    async fn start_service(
        &mut self,
        fds: Option<ListenFds>,
        shutdown: ShutdownWatch,
        per_fd: usize,
    ) {
        self.0.start_service(fds, shutdown, per_fd).await;
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}

/// The runtime that requests are served on, once it is there. What a reload
/// builds has to run there too.
pub type ServingRuntime = Arc<OnceLock<Handle>>;

/// The configuration in force.
pub type LiveSwap = Arc<ArcSwap<crate::edge::live::Live>>;
