//! Gateways in this process, between a client and an upstream that allocate
//! nothing while they work.
//!
//! A gateway serves until the process ends: Pingora takes the threads of a
//! second server for those of one that has ended.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tollgate::app::App;
use tollgate::config::load;

use crate::support::redis::Redis;
use crate::support::wait::eventually;

/// How long anything may take, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Larger than any message here.
const MESSAGE_BYTES: usize = 4096;

/// A mode of admission, and the gateway that works in it.
pub struct Mode {
    admission: &'static str,
    gateway: OnceLock<SocketAddr>,
}

pub static LOOKUP: Mode = Mode::new("{mode: lookup}");
pub static HOLD: Mode = Mode::new("{mode: hold, hold: 1, hold_for: 10m}");

/// What a client sends, and how the answer to it begins.
pub struct Request {
    bytes: &'static [u8],
    answer: &'static [u8],
}

/// The last bytes of a request's body, by which the upstream knows its end.
const BODY_END: &[u8] = b"please\"}";
const HEAD_END: &[u8] = b"\r\n\r\n";

macro_rules! start_of {
    ($team:literal) => {
        concat!(
            "POST /api/v1/agent/tasks HTTP/1.1\r\nhost: tollgate.example\r\nx-team-id: ",
            $team,
            "\r\ncontent-type: application/json\r\ncontent-length: 66\r\n\r\n",
            r#"{"prompt":"Summarise the failing tests and propose a fix, please"}"#
        )
    };
}

pub const ADMITTED: Request = Request {
    bytes: start_of!("acme").as_bytes(),
    answer: b"HTTP/1.1 200",
};
pub const REFUSED: Request = Request {
    bytes: start_of!("broke").as_bytes(),
    answer: b"HTTP/1.1 403",
};
pub const PASSED: Request = Request {
    bytes: b"GET /api/v1/agent/runs/0123456789012345678901 HTTP/1.1\r\nhost: tollgate.example\r\nx-team-id: broke\r\n\r\n",
    answer: b"HTTP/1.1 200",
};

const UPSTREAM_ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n{\"run_id\":\"r1\"}";

/// The right to ask a gateway. The allocator is counted as a whole, so there is
/// only one.
pub struct Turn {
    gateway: SocketAddr,
    _only: MutexGuard<'static, ()>,
}

impl Mode {
    const fn new(admission: &'static str) -> Self {
        Mode {
            admission,
            gateway: OnceLock::new(),
        }
    }

    /// Waits until nobody else asks a gateway.
    pub fn take(&self) -> Turn {
        static ONLY: Mutex<()> = Mutex::new(());
        let only = ONLY.lock().unwrap_or_else(PoisonError::into_inner);
        Turn {
            gateway: *self.gateway.get_or_init(|| start(self.admission)),
            _only: only,
        }
    }
}

fn start(admission: &str) -> SocketAddr {
    let redis = Redis::shared();
    redis.set_balance("acme", "1000000");
    redis.set_balance("broke", "0");
    let config = format!(
        r#"
server: {{listen: ["127.0.0.1:0"], threads: 1}}
upstream: {{addresses: ["{}"], read_timeout: 2s}}
balances:
  redis: {{url: "{}", deadline: 5s}}
admission: {admission}
log: {{access: off}}
identity:
  - header: {{name: x-team-id, from: ["127.0.0.0/8"]}}
routes:
  - start: POST /api/v1/agent/tasks
"#,
        upstream(),
        redis.url()
    );
    let config = load::load_str("allocations.yaml", &config, &|_| None).unwrap();
    let app = App::prepare(config, None).unwrap();
    let address = app.bound().http[0];
    std::thread::spawn(move || app.run());
    eventually(PATIENCE, "the gateway admits", || {
        Client::new(address).try_ask(&ADMITTED).then_some(())
    });
    address
}

impl Turn {
    /// A connection to the gateway.
    pub fn client(&self) -> Client {
        Client::new(self.gateway)
    }
}

/// One connection, one request at a time.
pub struct Client {
    stream: TcpStream,
    buffer: Box<[u8; MESSAGE_BYTES]>,
}

impl Client {
    fn new(gateway: SocketAddr) -> Self {
        let stream = TcpStream::connect(gateway).expect("the gateway accepts");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client {
            stream,
            buffer: Box::new([0; MESSAGE_BYTES]),
        }
    }

    /// Sends a request and reads its answer, which has to be the expected one.
    pub fn ask(&mut self, request: &Request) {
        assert!(self.try_ask(request), "the answer is another one");
    }

    fn try_ask(&mut self, request: &Request) -> bool {
        self.stream.write_all(request.bytes).unwrap();
        let mut read = 0;
        while !is_whole_answer(&self.buffer[..read]) {
            let more = self.stream.read(&mut self.buffer[read..]).unwrap();
            assert!(more > 0, "the gateway closed the connection");
            read += more;
        }
        self.buffer.starts_with(request.answer)
    }
}

/// Whether head and body of an answer are there.
fn is_whole_answer(bytes: &[u8]) -> bool {
    let Some(head) = bytes.windows(4).position(|four| four == HEAD_END) else {
        return false;
    };
    let name = b"content-length: ";
    let at = bytes[..head]
        .windows(name.len())
        .position(|window| window.eq_ignore_ascii_case(name));
    let at = at.expect("an answer says its length") + name.len();
    let digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit());
    let length = digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
    bytes.len() >= head + HEAD_END.len() + length
}

/// An upstream that answers every request alike, a thread per connection. It
/// ends with the test process.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || serve(stream.unwrap()));
        }
    });
    address
}

fn serve(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = [0; MESSAGE_BYTES];
    let mut read = 0;
    loop {
        match stream.read(&mut buffer[read..]) {
            Ok(more) if more > 0 => read += more,
            // The gateway lets go of it.
            _ => return,
        }
        let request = &buffer[..read];
        if request.ends_with(BODY_END)
            || request.starts_with(b"GET ") && request.ends_with(HEAD_END)
        {
            read = 0;
            if stream.write_all(UPSTREAM_ANSWER).is_err() {
                return;
            }
        }
    }
}
