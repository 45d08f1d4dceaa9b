//! A bare Pingora proxy: what `make bench` compares tollgate with.
//!
//! It forwards every request to one upstream and decides nothing, so the
//! difference between the two is the price of the gateway. Allocator, runtime,
//! keep-alive pool and the bounds on the peer are tollgate's; it is built with
//! tollgate's release profile. Not a product: no log, no metrics, no limits.
//!
//! ```text
//! bare_proxy LISTEN UPSTREAM [THREADS]
//! bare_proxy 127.0.0.1:8080 127.0.0.1:9000 1
//! ```

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::Result;
use pingora_core::server::configuration::{Opt, ServerConf};
use pingora_core::server::{RunArgs, Server};
use pingora_core::upstreams::peer::HttpPeer;
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

/// Forwards everything to one address.
struct Bare {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        let mut peer = HttpPeer::new(self.upstream, false, String::new());
        peer.options.connection_timeout = Some(CONNECT_TIMEOUT);
        peer.options.read_timeout = Some(READ_TIMEOUT);
        Ok(Box::new(peer))
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next();
    let upstream = arguments.next().and_then(|text| text.parse().ok());
    let threads = arguments
        .next()
        .map_or(Some(1), |text| text.parse::<usize>().ok());
    let (Some(listen), Some(upstream), Some(threads)) = (listen, upstream, threads) else {
        eprintln!("usage: bare_proxy LISTEN UPSTREAM [THREADS]   (addresses as IP:PORT)");
        return ExitCode::from(64);
    };

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
    let mut service = http_proxy_service(&server.configuration, Bare { upstream });
    service.add_tcp(&listen);
    server.add_service(service);
    server.run(RunArgs::default());
    ExitCode::SUCCESS
}
