//! A bare Pingora server: what `make bench` compares tollgate with.
//!
//! It forwards every request to one upstream and decides nothing, or it gives
//! every request the same refusal from a prepared header and asks nobody. The
//! difference to tollgate is the price of the gateway. Allocator, runtime,
//! keep-alive pool, the bounds on the peer and the way in which a refused
//! connection is kept are tollgate's; it is built with tollgate's release
//! profile. Not a product: no log, no metrics, no limits.
//!
//! ```text
//! bare_proxy LISTEN UPSTREAM|refuse [THREADS] [h2c | CERT KEY]
//! bare_proxy 127.0.0.1:8080 127.0.0.1:9000 1
//! bare_proxy 127.0.0.1:8080 refuse 1
//! bare_proxy 127.0.0.1:8443 127.0.0.1:9000 1 server.pem server.key
//! ```

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::Result;
use pingora_core::apps::HttpServerOptions;
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::server::configuration::{Opt, ServerConf};
use pingora_core::server::{RunArgs, Server};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::ResponseHeader;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Idle upstream connections kept; above the 512 clients of the load test, so
/// that nobody measures connection set-up.
const KEEPALIVE_POOL: usize = 1024;
/// The defaults of tollgate's `upstream` section: a timer per read and per
/// connect is part of what both pay.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the unread body of a refused request may take to arrive.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// The refusal of the start that the load test sends, byte for byte tollgate's.
const REFUSAL: &str = concat!(
    r#"{"type":"/reference/api-and-sdk/troubleshooting/errors/insufficient-credits/","#,
    r#""title":"Your team has run out of add-on credits. Purchase more credits in your team's billing settings to continue.","#,
    r#""status":403,"instance":"/api/v1/agent/tasks","#,
    r#""error":"Your team has run out of add-on credits. Purchase more credits in your team's billing settings to continue.","#,
    r#""retryable":false}"#,
);

/// What becomes of every request.
enum Bare {
    /// It goes to this address.
    Forward(SocketAddr),
    /// It is answered with this header and [`REFUSAL`].
    Refuse(Box<ResponseHeader>),
}

impl Bare {
    fn refusing() -> Result<Self> {
        let mut header = ResponseHeader::build(403, Some(8))?;
        header.insert_header("content-type", "application/problem+json")?;
        header.insert_header("content-length", REFUSAL.len().to_string())?;
        header.insert_header("cache-control", "no-store")?;
        header.insert_header("x-should-retry", "false")?;
        header.insert_header(
            "proxy-status",
            r#"tollgate; error=http_request_denied; details="insufficient_credits""#,
        )?;
        Ok(Bare::Refuse(Box::new(header)))
    }
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn request_filter(&self, session: &mut Session, _: &mut Self::CTX) -> Result<bool> {
        let Bare::Refuse(header) = self else {
            return Ok(false);
        };
        // As tollgate keeps a connection whose short body was not read, and as
        // it writes: to the connection, so that header and body leave in one.
        let downstream = session.as_downstream_mut();
        downstream.set_close_on_response_before_downstream_finish(false);
        downstream.set_total_drain_timeout(Some(DRAIN_MAX));
        downstream.write_response_header(header.clone()).await?;
        let body = Bytes::from_static(REFUSAL.as_bytes());
        downstream.write_response_body(body, true).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        let Bare::Forward(upstream) = self else {
            return Err(pingora_error::Error::new_str("refused before"));
        };
        let mut peer = HttpPeer::new(*upstream, false, String::new());
        peer.options.connection_timeout = Some(CONNECT_TIMEOUT);
        peer.options.read_timeout = Some(READ_TIMEOUT);
        Ok(Box::new(peer))
    }
}

/// What is spoken on the listener.
enum Speaks {
    Http1,
    H2c,
    Tls { cert: String, key: String },
}

/// What the arguments say: where to listen, what to do, threads, what to speak.
fn understood(arguments: &[String]) -> Option<(String, Bare, usize, Speaks)> {
    let (listen, rest) = arguments.split_first()?;
    let (target, rest) = rest.split_first()?;
    let bare = if target == "refuse" {
        Bare::refusing().ok()?
    } else {
        Bare::Forward(target.parse().ok()?)
    };
    let (threads, rest) = match rest.split_first() {
        Some((threads, rest)) => (threads.parse().ok()?, rest),
        None => (1, rest),
    };
    let speaks = match rest {
        [] => Speaks::Http1,
        [word] if word == "h2c" => Speaks::H2c,
        [cert, key] => Speaks::Tls {
            cert: cert.clone(),
            key: key.clone(),
        },
        _ => return None,
    };
    Some((listen.clone(), bare, threads, speaks))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((listen, bare, threads, speaks)) = understood(&arguments) else {
        eprintln!(
            "usage: bare_proxy LISTEN UPSTREAM|refuse [THREADS] [h2c | CERT KEY]   (addresses as IP:PORT)"
        );
        return ExitCode::from(64);
    };
    match serve(&listen, bare, threads, &speaks) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bare_proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(listen: &str, bare: Bare, threads: usize, speaks: &Speaks) -> Result<()> {
    let conf = ServerConf {
        threads,
        work_stealing: false,
        upstream_keepalive_pool_size: KEEPALIVE_POOL,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None::<Opt>, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, bare);
    match speaks {
        Speaks::Http1 => service.add_tcp(listen),
        Speaks::H2c => {
            if let Some(proxy) = service.app_logic_mut() {
                let mut options = HttpServerOptions::default();
                options.h2c = true;
                proxy.server_options = Some(options);
            }
            service.add_tcp(listen);
        }
        Speaks::Tls { cert, key } => {
            // rustls wants to be told which of its providers to use.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let mut settings = TlsSettings::intermediate(cert, key)?;
            settings.enable_h2();
            service.add_tls_with_settings(listen, None, settings);
        }
    }
    server.add_service(service);
    server.run(RunArgs::default());
    Ok(())
}
