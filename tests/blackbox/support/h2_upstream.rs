//! An HTTP/2 upstream, in the clear or over TLS, that keeps what reached it
//! and answers with trailers.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct H2Recorded {
    /// The head; the URI has scheme and authority.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

/// The upstream. Answers 200 with the request's body and `grpc-status: 0` as
/// a trailer.
pub struct H2Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<H2Recorded>>>,
    _runtime: Runtime,
}

impl H2Upstream {
    /// In the clear (prior knowledge).
    pub fn clear() -> Self {
        H2Upstream::start(None)
    }

    /// Over TLS; ALPN must choose `h2`.
    pub fn tls(config: Arc<ServerConfig>) -> Self {
        H2Upstream::start(Some(config))
    }

    fn start(tls: Option<Arc<ServerConfig>>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a free port");
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&requests);
        runtime.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(connection(tcp, tls.clone(), Arc::clone(&record)));
            }
        });
        H2Upstream {
            address,
            requests,
            _runtime: runtime,
        }
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<H2Recorded> {
        self.requests.lock().unwrap().clone()
    }

    /// The one request that came.
    #[track_caller]
    pub fn only_request(&self) -> H2Recorded {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:#?}");
        requests.remove(0)
    }
}

async fn connection(
    tcp: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    record: Arc<Mutex<Vec<H2Recorded>>>,
) {
    let Some(config) = tls else {
        return serve(tcp, record).await;
    };
    if let Ok(tls) = tokio_rustls::TlsAcceptor::from(config).accept(tcp).await {
        serve(tls, record).await;
    }
}

async fn serve(io: impl AsyncRead + AsyncWrite + Unpin, record: Arc<Mutex<Vec<H2Recorded>>>) {
    let Ok(mut connection) = h2::server::handshake(io).await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let record = Arc::clone(&record);
        tokio::spawn(async move { drop(echo(request, respond, record).await) });
    }
}

async fn echo(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    record: Arc<Mutex<Vec<H2Recorded>>>,
) -> Result<(), h2::Error> {
    let (head, mut stream) = request.into_parts();
    let mut body = Vec::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk?;
        stream.flow_control().release_capacity(chunk.len())?;
        body.extend_from_slice(&chunk);
    }
    stream.trailers().await?;
    let path = head
        .uri
        .path_and_query()
        .map(ToString::to_string)
        .unwrap_or_default();
    let method = head.method.to_string();
    record.lock().unwrap().push(H2Recorded {
        method,
        path,
        headers: head.headers,
        body: body.clone(),
    });
    let answer = Response::builder()
        .status(200)
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let mut send = respond.send_response(answer, false)?;
    send.send_data(Bytes::from(body), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.insert("x-checksum", "abc".parse().unwrap());
    send.send_trailers(trailers)
}
