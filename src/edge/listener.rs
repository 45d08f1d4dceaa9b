//! Accepting client connections, within bounds.
//!
//! The sockets are bound before anything starts and their addresses are known
//! then, so a port that is taken is an error at start and port 0 works. Each
//! accepted connection takes a permit before its TLS handshake; without one it
//! is answered 503 and closed. A connection's socket is registered with the
//! thread that serves it, not with the one that accepted it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, ServerApp};
use pingora_core::listeners::tls::Acceptor;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::{
    ALPN, GetSocketDigest as _, IO, Shutdown, SocketDigest, Ssl as _, Stream,
};
use pingora_core::server::ShutdownWatch;
use pingora_runtime::current_handle;
use std::os::fd::AsRawFd as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::connection::{Bounds, Connection, Phase};
use super::problem::Problem;
use super::problem::style::bare_http1;
use crate::telemetry::Metrics;

/// The preface with which an HTTP/2 client begins (RFC 9113, section 3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Connections over the bound that are being told so at once; more are closed
/// without a word.
const REFUSED_AT_ONCE: usize = 256;

/// How long telling them may take.
const REFUSE_MAX: Duration = Duration::from_secs(1);

/// Wait after the system gave no more sockets.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);

/// What is spoken on a listener.
pub enum Speaks {
    /// HTTP/1.1 in the clear.
    Http1,
    /// HTTP/1.1 or, with prior knowledge, HTTP/2 in the clear.
    Http1OrH2c,
    /// HTTPS. The acceptor is replaced when certificates are reloaded.
    Tls(Arc<ArcSwap<Acceptor>>),
}

/// A bound socket and what is spoken there.
pub struct Listener {
    /// The socket.
    pub socket: TcpListener,
    /// What is spoken there.
    pub speaks: Speaks,
}

/// Whether connections count as clients'.
#[derive(Clone)]
pub enum Count {
    /// They do, in these metrics.
    In(Arc<Metrics>),
    /// They do not: an operator's, or the demo's.
    Uncounted,
}

/// What all connections share.
pub struct Shared {
    /// Bounds on each connection.
    pub bounds: Arc<Bounds>,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// A permit per connection.
    pub permits: Arc<Semaphore>,
    /// Where connections are counted.
    pub count: Count,
    /// A permit per connection over the bound that is told so.
    refusals: Arc<Semaphore>,
}

impl Shared {
    /// What all connections share, with a bound on their number.
    #[must_use]
    pub fn new(
        bounds: Bounds,
        handshake_timeout: Duration,
        connections_max: usize,
        count: Count,
    ) -> Self {
        Shared {
            bounds: Arc::new(bounds),
            handshake_timeout,
            permits: Arc::new(Semaphore::new(connections_max)),
            count,
            refusals: Arc::new(Semaphore::new(REFUSED_AT_ONCE)),
        }
    }
}

/// Accepts connections until the gateway closes, each in a task of its own.
///
/// # Errors
/// If the socket cannot be used at all.
pub async fn accept<A>(
    listener: &Listener,
    app: &Arc<A>,
    shared: &Arc<Shared>,
    mut shutdown: ShutdownWatch,
) -> io::Result<()>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let socket = listener.socket.try_clone()?;
    socket.set_nonblocking(true)?;
    let socket = tokio::net::TcpListener::from_std(socket)?;
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            // An error says that the server is gone.
            _ = shutdown.wait_for(|closing| *closing) => return Ok(()),
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Of one connection that was gone already, or of a system that
                // has no more sockets to give; the latter must not spin.
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(EXHAUSTED_WAIT).await;
                continue;
            }
        };
        let Ok(stream) = stream.into_std() else {
            continue;
        };
        let Ok(permit) = Arc::clone(&shared.permits).try_acquire_owned() else {
            if let Count::In(metrics) = &shared.count {
                metrics.connections_refused.inc();
            }
            refuse(stream, &listener.speaks, shared);
            continue;
        };
        let speaks = match &listener.speaks {
            Speaks::Http1 => Hello::Http1,
            Speaks::Http1OrH2c => Hello::Sniff,
            Speaks::Tls(acceptor) => Hello::Tls(acceptor.load_full()),
        };
        let (app, shared, shutdown) = (Arc::clone(app), Arc::clone(shared), shutdown.clone());
        current_handle().spawn(async move {
            let open = Open::new(permit, &shared.count);
            if let Err(error) = serve(stream, peer, speaks, &app, &shared, &shutdown).await {
                tracing::debug!(%peer, %error, "a connection ended early");
            }
            drop(open);
        });
    }
}

/// A connection's permit and its place in the gauge.
struct Open<'a> {
    count: &'a Count,
    _permit: OwnedSemaphorePermit,
}

impl<'a> Open<'a> {
    fn new(permit: OwnedSemaphorePermit, count: &'a Count) -> Self {
        if let Count::In(metrics) = count {
            metrics.connections.inc();
        }
        Open {
            count,
            _permit: permit,
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Count::In(metrics) = self.count {
            metrics.connections.dec();
        }
    }
}

/// How one connection begins.
enum Hello {
    Http1,
    Sniff,
    Tls(Arc<Acceptor>),
}

async fn serve<A>(
    stream: std::net::TcpStream,
    peer: SocketAddr,
    hello: Hello,
    app: &Arc<A>,
    shared: &Arc<Shared>,
    shutdown: &ShutdownWatch,
) -> io::Result<()>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    stream.set_nodelay(true)?;
    let mut stream = l4(TcpStream::from_std(stream)?, peer);
    match hello {
        Hello::Http1 => requests(stream, None, app, shared, shutdown).await,
        Hello::Sniff => {
            let sniffed = timeout(shared.bounds.idle_timeout, sniff_h2(&mut stream)).await;
            let protocol = sniffed.map_err(|_| io::ErrorKind::TimedOut)??;
            requests(stream, protocol, app, shared, shutdown).await;
        }
        // On the heap: a handshake and what comes of it are large, and every
        // connection in the clear would keep room for them.
        Hello::Tls(acceptor) => {
            Box::pin(serve_tls(stream, &acceptor, app, shared, shutdown)).await?;
        }
    }
    Ok(())
}

async fn serve_tls<A>(
    stream: L4Stream,
    acceptor: &Acceptor,
    app: &Arc<A>,
    shared: &Shared,
    shutdown: &ShutdownWatch,
) -> io::Result<()>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let stream = handshake(stream, acceptor, shared).await.inspect_err(|_| {
        if let Count::In(metrics) = &shared.count {
            metrics.handshakes_failed.inc();
        }
    })?;
    let protocol = stream.selected_alpn_proto();
    requests(stream, protocol, app, shared, shutdown).await;
    Ok(())
}

async fn handshake(
    stream: L4Stream,
    acceptor: &Acceptor,
    shared: &Shared,
) -> io::Result<impl IO + 'static> {
    let handshake = timeout(shared.handshake_timeout, acceptor.tls_handshake(stream)).await;
    let handshake = handshake.map_err(|_| io::ErrorKind::TimedOut)?;
    handshake.map_err(|error| io::Error::other(error.to_string()))
}

fn l4(stream: TcpStream, peer: SocketAddr) -> L4Stream {
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    // It is new, so nothing is set yet.
    let _ = digest.peer_addr.set(Some(peer.into()));
    let mut stream = L4Stream::from(stream);
    stream.set_socket_digest(digest);
    stream
}

/// Serves the requests of a connection until it ends.
async fn requests<A, S>(
    stream: S,
    protocol: Option<ALPN>,
    app: &Arc<A>,
    shared: &Shared,
    shutdown: &ShutdownWatch,
) where
    A: HttpServerApp + Send + Sync + 'static,
    S: IO + 'static,
{
    let h2 = matches!(protocol, Some(ALPN::H2));
    let phase = Arc::new(Phase::default());
    let connection = Connection::new(
        stream,
        protocol,
        Arc::clone(&phase),
        Arc::clone(&shared.bounds),
    );
    let mut connection = Box::new(connection);
    if h2 {
        app.process_new(connection, shutdown).await;
        return;
    }
    let mut settings = None::<HttpPersistentSettings>;
    let closing = closed(shutdown.clone());
    tokio::pin!(closing);
    loop {
        tokio::select! {
            biased; // What was sent before the end is served.
            begun = connection.begin() => match begun {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::debug!(%error, "a connection ended without a request");
                    Shutdown::shutdown(&mut *connection).await;
                    return;
                }
            },
            () = &mut closing => return,
        }
        // Made where it is handed over: a session is large, and each move of
        // it a copy.
        let served = {
            let stream: Stream = connection;
            let mut session = ServerSession::new_http1(stream);
            match settings.take() {
                // Kept as long as the client likes: the connection has a clock
                // of its own.
                None => session.set_keepalive(if *shutdown.borrow() { None } else { Some(0) }),
                Some(settings) => settings.apply_to_session(&mut session),
            }
            session.set_connection_user_context(Some(Box::new(Arc::clone(&phase))));
            app.process_new_http(session, shutdown)
        };
        let Some(reused) = served.await else { return };
        phase.set_idle();
        let (stream, kept) = reused.consume();
        settings = kept;
        // It is the one that was handed over.
        let Ok(same) = stream.into_any().downcast() else {
            return;
        };
        connection = same;
    }
}

/// Ends when connections that wait for a request have to go.
async fn closed(mut shutdown: ShutdownWatch) {
    // An error says that the server is gone.
    let _ = shutdown.wait_for(|closing| *closing).await;
}

/// Reads just enough to tell an HTTP/2 client with prior knowledge from an
/// HTTP/1.1 one, and puts it back.
async fn sniff_h2(stream: &mut L4Stream) -> io::Result<Option<ALPN>> {
    let mut read = Vec::with_capacity(H2_PREFACE.len());
    let protocol = loop {
        if read.len() == H2_PREFACE.len() {
            break Some(ALPN::H2);
        }
        let left = H2_PREFACE.len().saturating_sub(read.len());
        let mut buffer = [0_u8; H2_PREFACE.len()];
        let room = buffer.get_mut(..left).unwrap_or_default();
        let count = stream.read(room).await?;
        read.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if count == 0 || !H2_PREFACE.starts_with(&read) {
            break None;
        }
    };
    stream.rewind(&read);
    Ok(protocol)
}

/// Tells a connection over the bound to try again, off the accepting task.
fn refuse(stream: std::net::TcpStream, speaks: &Speaks, shared: &Shared) {
    // A TLS client could not read it without a handshake, which is what there
    // is no room for.
    if matches!(speaks, Speaks::Tls(_)) {
        return;
    }
    let Ok(permit) = Arc::clone(&shared.refusals).try_acquire_owned() else {
        return;
    };
    let answer = bare_http1(&Problem::unavailable(), &shared.bounds.type_base);
    current_handle().spawn(async move {
        let told = async {
            let mut stream = TcpStream::from_std(stream)?;
            // The request is read first: closing on unread bytes would reset
            // the connection under the answer.
            let mut scratch = [0_u8; 4096];
            let _ = stream.read(&mut scratch).await?;
            stream.write_all(&answer).await?;
            stream.shutdown().await?;
            while stream.read(&mut scratch).await? > 0 {}
            Ok::<_, io::Error>(())
        };
        // It may be gone already, and nothing is lost then.
        let _ = timeout(REFUSE_MAX, told).await;
        drop(permit);
    });
}
