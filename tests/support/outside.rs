//! The world outside, played on one port: an HTTP proxy that ends the TLS of
//! every host it is asked for, keeps what was said to which, and answers as a
//! test wants. So the real client makes real connections to `slack.com`,
//! `api.linear.app` or an issuer, and none leaves the machine.
//!
//! ```yaml
//! egress: {proxy: <Outside::proxy>, ca: <Outside::ca>}
//! ```

#![allow(dead_code)] // Each test binary uses a part.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    missing_docs,
    reason = "a panic is how a claim fails"
)]

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// How long a test waits for what should come.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a connection that nobody ends stays open.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// What a request to a host outside was.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The host that the tunnel was asked for, without its port.
    pub host: String,
    /// The port that the tunnel was asked for.
    pub port: u16,
    pub method: String,
    /// Path and query.
    pub path: String,
    /// By name in lower case; a repeated one is joined with `, `.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// When its last byte was there.
    pub at: Instant,
}

impl Seen {
    /// The URL that was asked for.
    pub fn url(&self) -> String {
        format!("https://{}{}", self.host, self.path)
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("a body of text")
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a body of JSON")
    }
}

/// What a host outside does with a request.
#[derive(Clone, Debug)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    how: How,
}

#[derive(Clone, Debug)]
enum How {
    Whole,
    /// After a while.
    After(Duration),
    /// Never; the connection stays open until the other side ends it.
    Hang,
    /// The head and so many bytes of the body; then the connection breaks.
    CutAfter(usize),
    /// The head and a body without a stated length that does not end.
    Endless,
    /// These bytes, whatever they are.
    Raw(Vec<u8>),
}

impl Answer {
    /// A status without a body.
    pub fn status(status: u16) -> Self {
        Answer {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            how: How::Whole,
        }
    }

    /// 200 and this JSON.
    pub fn json(body: &str) -> Self {
        Self::status(200)
            .header("content-type", "application/json")
            .body(body)
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The same after a while.
    pub fn after(mut self, delay: Duration) -> Self {
        self.how = How::After(delay);
        self
    }

    /// The same, broken off after so many bytes of the body.
    pub fn cut_after(mut self, bytes: usize) -> Self {
        self.how = How::CutAfter(bytes);
        self
    }

    /// The same head with a body that does not end.
    pub fn endless(mut self) -> Self {
        self.how = How::Endless;
        self
    }

    /// None, on a connection that stays open.
    pub fn hang() -> Self {
        Answer {
            how: How::Hang,
            ..Self::status(200)
        }
    }

    /// These bytes, and then the end of the connection.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Answer {
            how: How::Raw(bytes.into()),
            ..Self::status(200)
        }
    }
}

type Handler = Arc<dyn Fn(&Seen) -> Answer + Send + Sync>;

struct State {
    handler: Mutex<Handler>,
    seen: Mutex<Vec<Seen>>,
    tunnels: Mutex<Vec<String>>,
    /// Told of every change of `seen` and `tunnels`.
    changed: Condvar,
    over: AtomicBool,
    authority: CertifiedIssuer<'static, KeyPair>,
}

/// The world outside, until it is dropped.
pub struct Outside {
    state: Arc<State>,
    port: u16,
    directory: PathBuf,
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outside(port {})", self.port)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outside {
    /// One where every host answers every request with 200 and `{"ok":true}`.
    pub fn start() -> Self {
        Self::answering(|_| Answer::json(r#"{"ok":true}"#))
    }

    /// One that answers so. The function may wait: each connection has a
    /// thread of its own.
    pub fn answering(handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tollgate-outside-{}-{count}", std::process::id());
        let directory = std::env::temp_dir().join(&name);
        fs::create_dir_all(&directory).expect("a directory");

        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(params, key).expect("an authority");
        fs::write(directory.join("ca.pem"), authority.pem()).expect("a file");

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State {
            handler: Mutex::new(Arc::new(handler)),
            seen: Mutex::default(),
            tunnels: Mutex::default(),
            changed: Condvar::new(),
            over: AtomicBool::new(false),
            authority,
        });
        let serving = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if serving.over.load(Ordering::Relaxed) {
                    return;
                }
                let state = Arc::clone(&serving);
                thread::spawn(move || state.serve(stream));
            }
        });
        Outside {
            state,
            port,
            directory,
        }
    }

    /// What to write into `egress.proxy`.
    pub fn proxy(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What to write into `egress.ca`: the file with the authority that all
    /// hosts have their certificates of.
    pub fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// Answers so from now on.
    pub fn answer_with(&self, handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static) {
        *locked(&self.state.handler) = Arc::new(handler);
    }

    /// What was asked so far, in order.
    pub fn seen(&self) -> Vec<Seen> {
        locked(&self.state.seen).clone()
    }

    /// The hosts, with their ports, that tunnels were asked for, in order;
    /// also those on which nothing was ever said.
    pub fn tunnels(&self) -> Vec<String> {
        locked(&self.state.tunnels).clone()
    }

    /// Waits until there have been so many requests, and returns them all.
    ///
    /// # Panics
    /// If they do not come.
    pub fn wait_for(&self, count: usize) -> Vec<Seen> {
        let seen = locked(&self.state.seen);
        let (seen, _) = self
            .state
            .changed
            .wait_timeout_while(seen, PATIENCE, |seen| seen.len() < count)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(
            seen.len() >= count,
            "waited for {count} requests, there were {}: {:?}",
            seen.len(),
            seen.iter().map(Seen::url).collect::<Vec<_>>()
        );
        seen.clone()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl State {
    /// Serves a connection until either side has enough. Trouble with it is
    /// what some tests are about, and ends it.
    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        stream.set_read_timeout(Some(IDLE_MAX)).ok()?;
        stream.set_write_timeout(Some(IDLE_MAX)).ok()?;
        let head = read_head(&mut stream)?;
        let mut words = head.lines().next()?.split(' ');
        let (method, authority) = (words.next()?, words.next()?.to_owned());
        if method != "CONNECT" {
            let refusal = "HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n";
            return stream.write_all(refusal.as_bytes()).ok();
        }
        locked(&self.tunnels).push(authority.clone());
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
        let (host, port) = authority.rsplit_once(':')?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let port = port.parse().ok()?;
        let connection = ServerConnection::new(self.certified(&host)).ok()?;
        let mut stream = StreamOwned::new(connection, stream);
        while !self.over.load(Ordering::Relaxed) {
            let seen = read_request(&mut stream, &host, port)?;
            locked(&self.seen).push(seen.clone());
            self.changed.notify_all();
            let handler = Arc::clone(&locked(&self.handler));
            write_answer(&mut stream, handler(&seen))?;
        }
        Some(())
    }

    /// TLS as this host.
    fn certified(&self, host: &str) -> Arc<ServerConfig> {
        let params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
        let key = KeyPair::generate().expect("a key");
        let certificate = params
            .signed_by(&key, &self.authority)
            .expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .expect("a certificate with its key");
        Arc::new(config)
    }
}

/// Reads up to the empty line, byte by byte, so that nothing after it is taken.
fn read_head(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => return None,
        }
    }
    String::from_utf8(head).ok()
}

fn read_request(stream: &mut impl Read, host: &str, port: u16) -> Option<Seen> {
    let head = read_head(stream)?;
    let mut lines = head.lines();
    let mut words = lines.next()?.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        headers
            .entry(name.to_ascii_lowercase())
            .and_modify(|before| {
                before.push_str(", ");
                before.push_str(value);
            })
            .or_insert_with(|| value.to_owned());
    }
    let length = headers
        .get("content-length")
        .map_or(Some(0), |length| length.parse().ok())?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Seen {
        host: host.to_owned(),
        port,
        method,
        path,
        headers,
        body,
        at: Instant::now(),
    })
}

/// `None` if the connection is over with it.
fn write_answer(stream: &mut (impl Read + Write), answer: Answer) -> Option<()> {
    let mut head = format!("HTTP/1.1 {} Answer\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let stated = format!("{head}content-length: {}\r\n\r\n", answer.body.len());
    match answer.how {
        How::Whole | How::After(_) => {
            if let How::After(delay) = answer.how {
                thread::sleep(delay);
            }
            let whole = [stated.as_bytes(), &answer.body].concat();
            stream.write_all(&whole).ok()?;
            stream.flush().ok()
        }
        How::Hang => {
            // Until the other side ends it, or the time that is set.
            let mut rest = [0; 64];
            while stream.read(&mut rest).is_ok_and(|read| read > 0) {}
            None
        }
        How::CutAfter(bytes) => {
            let part = &answer.body[..bytes];
            stream.write_all(&[stated.as_bytes(), part].concat()).ok()?;
            stream.flush().ok()?;
            None
        }
        How::Endless => {
            let head = format!("{head}transfer-encoding: chunked\r\n\r\n");
            stream.write_all(head.as_bytes()).ok()?;
            let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
            while stream.write_all(chunk.as_bytes()).is_ok() {}
            None
        }
        How::Raw(bytes) => {
            stream.write_all(&bytes).ok()?;
            stream.flush().ok()?;
            None
        }
    }
}

/// Whether a text, such as a log, tells nothing of these.
pub fn assert_hidden(text: &str, secrets: &[&str]) {
    for secret in secrets {
        assert!(!text.contains(secret), "{secret:?} is told: {text}");
    }
}

/// The settings as a block of the configuration (YAML, in one line).
pub fn block(outside: &Outside) -> String {
    let ca: &Path = &outside.ca();
    format!(
        "egress: {{proxy: \"{}\", ca: \"{}\"}}\n",
        outside.proxy(),
        ca.display()
    )
}
