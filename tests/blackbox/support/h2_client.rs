//! An HTTP/2 client: one connection, requests one after another or at once.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request, StatusCode};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::wait::SOON;

/// One HTTP/2 connection.
pub struct H2Client {
    runtime: Runtime,
    sender: SendRequest<Bytes>,
    scheme: &'static str,
}

/// One answer.
#[derive(Debug)]
pub struct H2Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
    /// The trailers; empty when there were none.
    pub trailers: HeaderMap,
}

/// What is sent: method, path, headers, body in pieces, trailers.
#[derive(Clone, Default)]
pub struct H2Req {
    /// The method.
    pub method: &'static str,
    /// The path.
    pub path: String,
    /// The headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body's pieces; none: the header frame ends the stream.
    pub body: Vec<Vec<u8>>,
    /// The trailers.
    pub trailers: Vec<(&'static str, &'static str)>,
    /// Whether the stream is left open after all that.
    pub unfinished: bool,
}

impl H2Req {
    /// A request without a body.
    pub fn new(method: &'static str, path: &str) -> Self {
        H2Req {
            method,
            path: path.to_owned(),
            ..H2Req::default()
        }
    }

    /// A start that this team pays for.
    pub fn start(team: &str) -> Self {
        H2Req::new("POST", super::request::TASKS)
            .header("content-type", "application/json")
            .header("x-team-id", team)
            .body(super::request::PROMPT)
    }

    /// Adds a header.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// Adds a piece of the body.
    pub fn body(mut self, piece: impl AsRef<[u8]>) -> Self {
        self.body.push(piece.as_ref().to_vec());
        self
    }

    /// Leaves the stream open, as if more of the body were to come.
    pub fn unfinished(mut self) -> Self {
        self.unfinished = true;
        self
    }
}

impl H2Client {
    /// Connects in the clear, with prior knowledge.
    pub fn connect(address: SocketAddr) -> Self {
        H2Client::start("http", async move {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            Ok(tcp)
        })
    }

    /// Connects with TLS; ALPN must choose `h2`.
    pub fn tls(address: SocketAddr, name: &str, config: Arc<ClientConfig>) -> Self {
        let name = name.to_owned().try_into().unwrap();
        H2Client::start("https", async move {
            let tcp = TcpStream::connect(address).await?;
            let tls = tokio_rustls::TlsConnector::from(config)
                .connect(name, tcp)
                .await?;
            assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "ALPN");
            Ok(tls)
        })
    }

    fn start<S>(scheme: &'static str, connecting: impl Future<Output = std::io::Result<S>>) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let sender = runtime.block_on(async {
            let io = timeout(SOON, connecting)
                .await
                .expect("in time")
                .expect("it accepts connections");
            let mut builder = h2::client::Builder::new();
            builder
                .initial_window_size(1 << 20)
                .initial_connection_window_size(1 << 24);
            let (sender, connection) = builder.handshake(io).await.expect("an HTTP/2 handshake");
            tokio::spawn(connection);
            sender
        });
        H2Client {
            runtime,
            sender,
            scheme,
        }
    }

    /// Asks and reads the whole answer.
    #[track_caller]
    pub fn ask(&self, request: &H2Req) -> H2Response {
        self.try_ask(request)
            .unwrap_or_else(|error| panic!("{} {}: {error}", request.method, request.path))
    }

    /// Asks; the stream may be reset.
    pub fn try_ask(&self, request: &H2Req) -> Result<H2Response, h2::Error> {
        self.runtime.block_on(async {
            let work = exchange(self.sender.clone(), self.scheme, request);
            timeout(SOON, work).await.expect("an answer in time")
        })
    }

    /// Asks, and never gives back a byte of the window once the head is there:
    /// the answer stalls when the window is full. Returns how it ended.
    #[track_caller]
    pub fn ask_and_stall(&self, request: &H2Req) -> Result<(), h2::Error> {
        self.runtime.block_on(async {
            let work = async {
                let mut sender = self.sender.clone().ready().await?;
                let head = Request::builder()
                    .method(request.method)
                    .uri(format!("{}://api.test{}", self.scheme, request.path));
                let head = head.body(()).expect("a sound request");
                let (response, _) = sender.send_request(head, true)?;
                let mut stream = response.await?.into_body();
                while let Some(chunk) = stream.data().await {
                    drop(chunk?);
                }
                Ok(())
            };
            timeout(SOON, work).await.expect("the stream ends")
        })
    }

    /// Asks all of it at once on the one connection.
    pub fn ask_all(&self, requests: &[H2Req]) -> Vec<H2Response> {
        self.runtime.block_on(async {
            let mut tasks = Vec::new();
            for request in requests {
                let (sender, scheme, request) = (self.sender.clone(), self.scheme, request.clone());
                tasks.push(tokio::spawn(async move {
                    exchange(sender, scheme, &request).await
                }));
            }
            let mut answers = Vec::new();
            for task in tasks {
                answers.push(
                    timeout(SOON, task)
                        .await
                        .expect("in time")
                        .unwrap()
                        .expect("an answer"),
                );
            }
            answers
        })
    }
}

async fn exchange(
    sender: SendRequest<Bytes>,
    scheme: &str,
    request: &H2Req,
) -> Result<H2Response, h2::Error> {
    let mut sender = sender.ready().await?;
    let mut head = Request::builder()
        .method(request.method)
        .uri(format!("{scheme}://api.test{}", request.path));
    for (name, value) in &request.headers {
        head = head.header(*name, value);
    }
    let ends = request.body.is_empty() && request.trailers.is_empty();
    let (response, mut stream) =
        sender.send_request(head.body(()).expect("a sound request"), ends)?;
    let reading = read(response);
    if ends {
        return reading.await;
    }
    let request = request.clone();
    let writing = async move {
        let pieces = request.body.len();
        for (at, piece) in request.body.into_iter().enumerate() {
            let last = at + 1 == pieces && request.trailers.is_empty() && !request.unfinished;
            if send_all(&mut stream, Bytes::from(piece), last)
                .await
                .is_err()
            {
                // The peer wants no more of it; what it answered counts.
                return;
            }
        }
        if !request.trailers.is_empty() {
            let mut trailers = HeaderMap::new();
            for (name, value) in &request.trailers {
                trailers.insert(*name, value.parse().unwrap());
            }
            let _ = stream.send_trailers(trailers);
        }
    };
    let (response, ()) = tokio::join!(reading, writing);
    response
}

async fn send_all(
    stream: &mut h2::SendStream<Bytes>,
    mut piece: Bytes,
    last: bool,
) -> Result<(), h2::Error> {
    if piece.is_empty() {
        return stream.send_data(piece, last);
    }
    while !piece.is_empty() {
        stream.reserve_capacity(piece.len());
        let capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let capacity = capacity.ok_or(h2::Reason::STREAM_CLOSED)??.min(piece.len());
        let now = piece.split_to(capacity);
        let ends = last && piece.is_empty();
        stream.send_data(now, ends)?;
    }
    Ok(())
}

async fn read(response: ResponseFuture) -> Result<H2Response, h2::Error> {
    let (head, mut stream) = response.await?.into_parts();
    let mut body = Vec::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk?;
        stream.flow_control().release_capacity(chunk.len())?;
        body.extend_from_slice(&chunk);
    }
    let trailers = stream.trailers().await?.unwrap_or_default();
    Ok(H2Response {
        status: head.status,
        headers: head.headers,
        body,
        trailers,
    })
}
