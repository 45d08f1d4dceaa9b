//! The services that accept connections, on sockets that are bound already.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::apps::HttpServerApp;
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::Service;
use pingora_runtime::current_handle;
use socket2::SockRef;
use tokio::sync::watch;

use super::StartError;
use super::life::Started;
use crate::config::Config;
use crate::edge::connection::{Bounds, RefusedHeads};
use crate::edge::listener::{Count, Listener, Shared, Speaks, accept};
use crate::telemetry::Metrics;

/// Connections that may wait to be accepted.
const LISTEN_BACKLOG: i32 = 4096;

/// Binds a socket and notes its address.
pub(super) fn bind(
    address: SocketAddr,
    speaks: Speaks,
    bound: &mut Vec<SocketAddr>,
) -> Result<Listener, StartError> {
    let bind = || {
        let socket = TcpListener::bind(address)?;
        // The standard library asks for 128, and a burst of clients more would
        // wait for a second each. The system cuts this to its own bound.
        SockRef::from(&socket).listen(LISTEN_BACKLOG)?;
        bound.push(socket.local_addr()?);
        Ok(Listener { socket, speaks })
    };
    bind().map_err(|error| StartError::Bind { address, error })
}

/// What all connections of a service share.
pub(super) fn shared(
    config: &Config,
    connections_max: usize,
    metrics: &Metrics,
    count: Count,
) -> Shared {
    let limits = &config.server.limits;
    let bounds = Bounds {
        idle_timeout: limits.idle_timeout.duration(),
        header_timeout: limits.header_timeout.duration(),
        header_size: limits.header_size.bytes().try_into().unwrap_or(usize::MAX),
        write_timeout: limits.write_timeout.duration(),
        type_base: config.problem.type_base.as_str().to_owned(),
        refused_heads: RefusedHeads {
            malformed: metrics.turned_away("malformed_head"),
            too_large: metrics.turned_away("head_too_large"),
        },
    };
    Shared::new(
        bounds,
        limits.handshake_timeout.duration(),
        connections_max,
        count,
    )
}

/// A service that accepts connections on sockets that are bound already.
pub(super) struct Listening<A> {
    pub(super) name: &'static str,
    pub(super) threads: Option<usize>,
    pub(super) app: Arc<A>,
    pub(super) shared: Arc<Shared>,
    pub(super) listeners: Vec<Arc<Listener>>,
    pub(super) closing: watch::Receiver<bool>,
    /// Run on the service's runtime before the first connection is accepted.
    pub(super) started: Option<Started>,
}

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> Service for Listening<A> {
    async fn start_service(&mut self, _: Option<ListenFds>, _: ShutdownWatch, _: usize) {
        if let Some(started) = self.started.take() {
            started.run(&current_handle()).await;
        }
        let mut accepting = tokio::task::JoinSet::new();
        for listener in self.listeners.drain(..) {
            let (app, shared) = (Arc::clone(&self.app), Arc::clone(&self.shared));
            let closing = self.closing.clone();
            accepting.spawn_on(
                async move {
                    if let Err(error) = accept(&listener, &app, &shared, closing).await {
                        tracing::error!(%error, "a listener ended");
                    }
                },
                &current_handle(),
            );
        }
        while accepting.join_next().await.is_some() {}
        // Ends connections that wait for a next request.
        self.app.http_cleanup().await;
    }

    fn name(&self) -> &str {
        self.name
    }

    fn threads(&self) -> Option<usize> {
        self.threads
    }
}
