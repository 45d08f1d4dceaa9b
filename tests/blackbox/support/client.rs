//! A client that sends exactly the bytes it is given and reads an HTTP/1.1
//! answer without tidying it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::request::Req;
use super::wait::SOON;

trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// One connection.
pub struct Client {
    wire: Box<dyn Wire>,
    tcp: TcpStream,
    /// What was read and not yet taken as part of an answer.
    pending: Vec<u8>,
}

/// Names as sent and values, in order.
pub type Fields = Vec<(String, String)>;

/// One answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The whole head as it came, the empty line included.
    pub head: String,
    /// Its headers.
    pub headers: Fields,
    /// The body, out of its chunks.
    pub body: Vec<u8>,
    /// What followed the last chunk.
    pub trailers: Fields,
    /// The heads of the 1xx answers before it.
    pub interim: Vec<String>,
}

impl Client {
    /// Connects in the clear.
    pub fn connect(address: SocketAddr) -> Self {
        Client::from_tcp(
            TcpStream::connect_timeout(&address, SOON).expect("it accepts connections"),
        )
    }

    /// Connects to what may not be there, and asks it once.
    pub fn try_ask(address: SocketAddr, request: &Req) -> io::Result<Response> {
        let mut client = Client::from_tcp(TcpStream::connect_timeout(&address, SOON)?);
        client.try_send(request.bytes())?;
        client.try_response()
    }

    /// Connects from this local address.
    pub fn connect_from(source: &str, address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let stream = runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket
                .bind(format!("{source}:0").parse().unwrap())
                .expect("every 127.x address is ours");
            socket
                .connect(address)
                .await
                .expect("it accepts connections")
                .into_std()
                .unwrap()
        });
        stream.set_nonblocking(false).unwrap();
        Client::from_tcp(stream)
    }

    fn from_tcp(tcp: TcpStream) -> Self {
        tcp.set_nodelay(true).unwrap();
        tcp.set_read_timeout(Some(SOON)).unwrap();
        tcp.set_write_timeout(Some(SOON)).unwrap();
        Client {
            wire: Box::new(tcp.try_clone().unwrap()),
            tcp,
            pending: Vec::new(),
        }
    }

    /// Connects with TLS and finishes the handshake.
    pub fn try_tls(address: SocketAddr, name: &str, config: Arc<ClientConfig>) -> io::Result<Self> {
        let mut client = Client::connect(address);
        let session = ClientConnection::new(config, name.to_owned().try_into().unwrap()).unwrap();
        let mut tls = StreamOwned::new(session, client.tcp.try_clone()?);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        client.wire = Box::new(tls);
        Ok(client)
    }

    /// As [`Client::try_tls`], when it should work.
    pub fn tls(address: SocketAddr, name: &str, config: Arc<ClientConfig>) -> Self {
        Client::try_tls(address, name, config).expect("the handshake succeeds")
    }

    /// How long one read may take from now on.
    pub fn patience(&self, patience: Duration) {
        self.tcp.set_read_timeout(Some(patience)).unwrap();
    }

    /// Sends bytes.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the peer takes what is sent");
    }

    /// Sends bytes to a peer that may have closed.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.write_all(bytes.as_ref())?;
        self.wire.flush()
    }

    /// Sends a request and reads its answer.
    #[track_caller]
    pub fn ask(&mut self, request: &Req) -> Response {
        self.send(request.bytes());
        if request.is_head() {
            self.response_without_body()
        } else {
            self.response()
        }
    }

    /// Writes these bytes from another thread while reading the answer. What
    /// the peer does not take any more is no mistake.
    #[track_caller]
    pub fn ask_while_writing(&mut self, bytes: Vec<u8>) -> Response {
        let mut writer = self.tcp.try_clone().unwrap();
        let writing = std::thread::spawn(move || drop(writer.write_all(&bytes)));
        let response = self.response();
        let _ = self.tcp.shutdown(Shutdown::Both);
        writing.join().unwrap();
        response
    }

    /// One read; what came is pending. 0: the peer closed.
    pub fn read_once(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 64 * 1024];
        let length = self.wire.read(&mut chunk)?;
        self.pending.extend_from_slice(&chunk[..length]);
        Ok(length)
    }

    /// What was read and is not part of an answer yet.
    pub fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// Reads until this many bytes are there and takes them.
    #[track_caller]
    pub fn take(&mut self, length: usize) -> Vec<u8> {
        self.try_take(length)
            .unwrap_or_else(|error| self.give_up(&error))
    }

    fn try_take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.pending.len() < length {
            self.read_more()?;
        }
        Ok(self.pending.drain(..length).collect())
    }

    /// Reads up to and including this mark and takes it all.
    #[track_caller]
    pub fn take_until(&mut self, mark: &[u8]) -> Vec<u8> {
        self.try_take_until(mark)
            .unwrap_or_else(|error| self.give_up(&error))
    }

    fn try_take_until(&mut self, mark: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = find(&self.pending, mark) {
                return self.try_take(at + mark.len());
            }
            self.read_more()?;
        }
    }

    fn read_more(&mut self) -> io::Result<()> {
        match self.read_once()? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    #[track_caller]
    fn give_up(&self, error: &io::Error) -> ! {
        panic!(
            "no whole answer ({error}); pending: {:?}",
            String::from_utf8_lossy(&self.pending)
        )
    }

    /// Reads the next answer.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.try_response()
            .unwrap_or_else(|error| self.give_up(&error))
    }

    /// Reads the next answer, if one comes.
    pub fn try_response(&mut self) -> io::Result<Response> {
        let mut response = self.read_head()?;
        let chunked = response
            .all("transfer-encoding")
            .iter()
            .any(|v| v.eq_ignore_ascii_case("chunked"));
        if matches!(response.status, 101 | 204 | 304) {
            return Ok(response);
        }
        if chunked {
            (response.body, response.trailers) = self.read_chunks()?;
        } else if let Some(length) = response.header("content-length") {
            let length = length.parse().map_err(io::Error::other)?;
            response.body = self.try_take(length)?;
        } else {
            response.body = self.try_rest()?;
        }
        Ok(response)
    }

    /// Reads the next answer to a HEAD.
    #[track_caller]
    pub fn response_without_body(&mut self) -> Response {
        self.read_head()
            .unwrap_or_else(|error| self.give_up(&error))
    }

    /// Reads the next head (after any 1xx) and leaves the body unread.
    pub fn read_head(&mut self) -> io::Result<Response> {
        let mut interim = Vec::new();
        loop {
            let head = self.try_take_until(b"\r\n\r\n")?;
            let mut response = Response::from_head(String::from_utf8_lossy(&head).into_owned());
            if !(100..200).contains(&response.status) || response.status == 101 {
                response.interim = interim;
                return Ok(response);
            }
            interim.push(response.head);
        }
    }

    fn read_chunks(&mut self) -> io::Result<(Vec<u8>, Fields)> {
        let mut body = Vec::new();
        loop {
            let line = self.try_take_until(b"\r\n")?;
            let line = String::from_utf8_lossy(&line);
            let size = line.trim().split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
            if size == 0 {
                let mut trailers = String::new();
                loop {
                    let line = String::from_utf8_lossy(&self.try_take_until(b"\r\n")?).into_owned();
                    if line == "\r\n" {
                        return Ok((body, fields(&trailers)));
                    }
                    trailers.push_str(&line);
                }
            }
            body.extend(self.try_take(size)?);
            self.try_take(2)?;
        }
    }

    /// Reads to the end of the connection.
    pub fn try_rest(&mut self) -> io::Result<Vec<u8>> {
        while self.read_once()? > 0 {}
        Ok(std::mem::take(&mut self.pending))
    }

    /// Whether the peer closes the connection within this time without
    /// sending anything more.
    pub fn is_closed_within(&mut self, patience: Duration) -> bool {
        let start = Instant::now();
        while start.elapsed() < patience {
            self.patience(Duration::from_millis(20));
            match self.read_once() {
                Ok(0) => return true,
                Ok(_) => return false,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return true,
            }
        }
        self.patience(SOON);
        false
    }
}

impl Response {
    fn from_head(head: String) -> Self {
        let status = head
            .get(9..12)
            .and_then(|digits| digits.parse().ok())
            .unwrap_or(0);
        let after_line = head.split_once("\r\n").map_or("", |(_, rest)| rest);
        let headers = fields(after_line);
        Response {
            status,
            headers,
            head,
            body: Vec::new(),
            trailers: Vec::new(),
            interim: Vec::new(),
        }
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// All values of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
            .collect()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }
}

/// Header lines as names and values.
pub fn fields(lines: &str) -> Fields {
    let split = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.trim().to_owned()))
    };
    lines.split("\r\n").filter_map(split).collect()
}

/// Where `mark` first stands in `bytes`.
pub fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|window| window == mark)
}
