//! An HTTP/1.1 upstream that keeps what reached it, byte for byte.
//!
//! It knows just enough HTTP to find the end of a request, and tidies nothing:
//! a head is recorded as it came. What it answers is a closure over an
//! [`Exchange`], so that a test can misbehave in its own words.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::client::{fields, find};
use super::wait::{SOON, eventually};

/// The answer to a start.
pub const QUEUED: &str = r#"{"run_id":"run-1","state":"QUEUED"}"#;

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// From the request line to the empty line.
    pub head: String,
    /// The body, out of its chunks.
    pub body: Vec<u8>,
    /// The trailers' lines.
    pub trailers: String,
    /// Whether the whole body came.
    pub complete: bool,
}

impl Recorded {
    /// The request line.
    pub fn line(&self) -> &str {
        self.head.split("\r\n").next().unwrap_or_default()
    }

    /// The target.
    pub fn target(&self) -> &str {
        self.line().split(' ').nth(1).unwrap_or_default()
    }

    /// Names as received and values, in order.
    pub fn headers(&self) -> Vec<(String, String)> {
        fields(self.head.split_once("\r\n").map_or("", |(_, rest)| rest))
    }

    /// All values of a header.
    pub fn all(&self, name: &str) -> Vec<String> {
        let named = |(n, value): (String, String)| n.eq_ignore_ascii_case(name).then_some(value);
        self.headers().into_iter().filter_map(named).collect()
    }

    fn has(&self, name: &str, value: &str) -> bool {
        self.all(name).iter().any(|v| v.eq_ignore_ascii_case(value))
    }

    /// The only value of a header.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<String> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} came more than once: {all:?}");
        all.into_iter().next()
    }
}

type Handler = dyn Fn(&mut Exchange) -> io::Result<After> + Send + Sync;

/// What becomes of the connection after an answer.
#[derive(PartialEq)]
pub enum After {
    /// It may carry another request.
    Keep,
    /// It is closed.
    Close,
}

#[derive(Default)]
struct State {
    requests: Mutex<Vec<Recorded>>,
    connections: AtomicUsize,
    bytes: AtomicUsize,
    closing: AtomicBool,
    /// By the number of the connection; one that has ended is not kept open here.
    open: Mutex<HashMap<usize, TcpStream>>,
}

/// The upstream.
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
}

impl Upstream {
    /// One that answers every request as a task API would.
    pub fn ok() -> Self {
        Upstream::answering(|exchange| exchange.json(200, QUEUED))
    }

    /// One that always answers with these bytes.
    pub fn saying(answer: &'static [u8]) -> Self {
        Upstream::answering(move |exchange| exchange.say(answer))
    }

    /// One with answers of the test's own.
    pub fn answering(
        handler: impl Fn(&mut Exchange) -> io::Result<After> + Send + Sync + 'static,
    ) -> Self {
        Upstream::start("127.0.0.1:0", None, Arc::new(handler))
    }

    /// The task API on this very address.
    pub fn ok_on(address: SocketAddr) -> Self {
        Upstream::start(
            &address.to_string(),
            None,
            Arc::new(|exchange| exchange.json(200, QUEUED)),
        )
    }

    /// The task API over TLS.
    pub fn tls(config: Arc<ServerConfig>) -> Self {
        Upstream::start(
            "127.0.0.1:0",
            Some(config),
            Arc::new(|exchange| exchange.json(200, QUEUED)),
        )
    }

    fn start(address: &str, tls: Option<Arc<ServerConfig>>, handler: Arc<Handler>) -> Self {
        let listener = eventually(SOON, "the upstream's address is free", || {
            TcpListener::bind(address).ok()
        });
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if shared.closing.load(Ordering::SeqCst) {
                    return;
                }
                let (state, tls, handler) =
                    (Arc::clone(&shared), tls.clone(), Arc::clone(&handler));
                std::thread::spawn(move || {
                    let number = state.connections.fetch_add(1, Ordering::SeqCst);
                    if let Ok(kept) = stream.try_clone() {
                        state.open.lock().unwrap().insert(number, kept);
                    }
                    let _ = serve(stream, &state, tls, handler);
                    state.open.lock().unwrap().remove(&number);
                });
            }
        });
        Upstream { address, state }
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Recorded> {
        self.state.requests.lock().unwrap().clone()
    }

    /// The one request that came.
    #[track_caller]
    pub fn only_request(&self) -> Recorded {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "requests at the upstream: {requests:#?}");
        requests.remove(0)
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// How many of them are open.
    pub fn open_connections(&self) -> usize {
        self.state.open.lock().unwrap().len()
    }

    /// How many bytes came on them.
    pub fn bytes(&self) -> usize {
        self.state.bytes.load(Ordering::SeqCst)
    }

    /// Nothing came: no request, not a byte.
    #[track_caller]
    pub fn assert_untouched(&self) {
        let requests = self.requests();
        assert!(requests.is_empty(), "reached the upstream: {requests:#?}");
        assert_eq!(
            self.state.bytes.load(Ordering::SeqCst),
            0,
            "bytes reached the upstream"
        );
    }

    /// Forgets what came.
    pub fn forget(&self) {
        self.state.requests.lock().unwrap().clear();
        self.state.bytes.store(0, Ordering::SeqCst);
    }

    /// Stops listening and cuts every connection.
    pub fn stop(&self) {
        self.state.closing.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect_timeout(&self.address, SOON);
        for (_, stream) in self.state.open.lock().unwrap().drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop();
    }
}

trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// One request and the chance to answer it.
pub struct Exchange {
    wire: Box<dyn Wire>,
    pending: Vec<u8>,
    state: Arc<State>,
    index: usize,
    body_read: bool,
    /// The request so far; the body only after [`Exchange::read_body`].
    pub request: Recorded,
}

fn serve(
    tcp: TcpStream,
    state: &Arc<State>,
    tls: Option<Arc<ServerConfig>>,
    handler: Arc<Handler>,
) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(Duration::from_secs(60)))?;
    let wire: Box<dyn Wire> = match tls {
        Some(config) => Box::new(StreamOwned::new(
            ServerConnection::new(config).map_err(io::Error::other)?,
            tcp,
        )),
        None => Box::new(tcp),
    };
    let request = Recorded::default();
    let mut exchange = Exchange {
        wire,
        pending: Vec::new(),
        state: Arc::clone(state),
        index: 0,
        body_read: false,
        request,
    };
    loop {
        exchange.next_request()?;
        let after = handler(&mut exchange)?;
        if after == After::Close {
            return Ok(());
        }
        exchange.read_body()?;
    }
}

impl Exchange {
    fn next_request(&mut self) -> io::Result<()> {
        let head = self.take_until(b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&head).into_owned();
        self.request = Recorded {
            head,
            ..Recorded::default()
        };
        self.body_read = false;
        let mut requests = self.state.requests.lock().unwrap();
        self.index = requests.len();
        requests.push(self.request.clone());
        Ok(())
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut chunk = [0; 64 * 1024];
        let length = self.wire.read(&mut chunk)?;
        self.state.bytes.fetch_add(length, Ordering::SeqCst);
        self.pending.extend_from_slice(&chunk[..length]);
        if length == 0 {
            Err(io::ErrorKind::UnexpectedEof.into())
        } else {
            Ok(())
        }
    }

    /// What came already and was not taken.
    pub fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// Takes this many bytes of what comes, past any HTTP.
    pub fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.pending.len() < length {
            self.read_more()?;
        }
        Ok(self.pending.drain(..length).collect())
    }

    fn take_until(&mut self, mark: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = find(&self.pending, mark) {
                return self.take(at + mark.len());
            }
            self.read_more()?;
        }
    }

    /// Reads the request's body and records it.
    pub fn read_body(&mut self) -> io::Result<()> {
        if self.body_read {
            return Ok(());
        }
        self.body_read = true;
        if self.request.has("expect", "100-continue") {
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if self.request.has("transfer-encoding", "chunked") {
            self.read_chunks()?;
        } else if let Some(length) = self.request.all("content-length").first() {
            self.request.body = self.take(length.parse().map_err(io::Error::other)?)?;
        }
        self.request.complete = true;
        if let Some(record) = self.state.requests.lock().unwrap().get_mut(self.index) {
            *record = self.request.clone();
        }
        Ok(())
    }

    fn read_chunks(&mut self) -> io::Result<()> {
        loop {
            let line = String::from_utf8_lossy(&self.take_until(b"\r\n")?).into_owned();
            let size = usize::from_str_radix(line.trim().split(';').next().unwrap_or_default(), 16);
            let size = size.map_err(io::Error::other)?;
            if size > 0 {
                let chunk = self.take(size)?;
                self.request.body.extend_from_slice(&chunk);
                self.take(2)?;
                continue;
            }
            loop {
                let line = self.take_until(b"\r\n")?;
                if line == b"\r\n" {
                    return Ok(());
                }
                self.request
                    .trailers
                    .push_str(&String::from_utf8_lossy(&line));
            }
        }
    }

    /// Sends these bytes, whether or not the body was read.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.write_all(bytes)?;
        self.wire.flush()
    }

    /// Sends these bytes after the body was read, and keeps the connection.
    pub fn say(&mut self, bytes: &[u8]) -> io::Result<After> {
        self.read_body()?;
        self.send(bytes)?;
        Ok(After::Keep)
    }

    /// A JSON answer.
    pub fn json(&mut self, status: u16, body: &str) -> io::Result<After> {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status} Whatever\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        self.read_body()?;
        if self.request.line().starts_with("HEAD ") {
            return self.say(head.as_bytes());
        }
        self.say(format!("{head}{body}").as_bytes())
    }
}
