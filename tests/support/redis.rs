//! A real redis-server for tests: on a free port and a Unix socket, optionally
//! with TLS, that can be frozen, stopped and started again.
//!
//! A machine without redis-server fails the tests that need it: a test that
//! cannot run must not look like one that passed.

#![allow(dead_code)] // Each test binary uses a part.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the server may take to answer after its start.
const START_WITHIN: Duration = Duration::from_secs(20);

/// As an argument: a port that nobody listens on.
pub const FREE_PORT: &str = "a free port";

/// How many groups of servers may run at a time. More, and on a small machine
/// they would take each other for dead.
const GROUPS_MAX: usize = 2;

static GROUPS: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// The right of a group of servers to run, until it is dropped.
pub struct Turn(());

impl Turn {
    /// Waits until it is this group's turn.
    pub fn wait() -> Self {
        let (running, ended) = &GROUPS;
        let running = running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running = ended
            .wait_while(running, |running| *running >= GROUPS_MAX)
            .unwrap_or_else(PoisonError::into_inner);
        *running += 1;
        Turn(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (running, ended) = &GROUPS;
        *running.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ended.notify_one();
    }
}

/// A redis-server that ends with this value.
pub struct RedisServer {
    child: Option<Child>,
    directory: PathBuf,
    /// Where the server listens for TCP, or for TLS if it has certificates.
    pub port: u16,
    arguments: Vec<String>,
    is_tls: bool,
}

impl RedisServer {
    /// Starts a server that keeps nothing on disk.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with further arguments, such as `--requirepass`, `…`.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::launch(arguments, None)
    }

    /// Starts a server that wants TLS and a client certificate on TCP.
    pub fn start_with_tls(certificates: &Certificates) -> Self {
        Self::launch(&[], Some(certificates))
    }

    fn launch(arguments: &[&str], tls: Option<&Certificates>) -> Self {
        let directory = fresh_directory("redis-server");
        // The port is free now and somebody else's a moment later, rarely.
        for _ in 0..5 {
            let port = free_port();
            let mut all: Vec<String> = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]
                .map(String::from)
                .to_vec();
            all.push("--dir".to_owned());
            all.push(directory.display().to_string());
            all.push("--unixsocket".to_owned());
            all.push(directory.join("redis.sock").display().to_string());
            match tls {
                None => all.extend(["--port".to_owned(), port.to_string()]),
                Some(files) => {
                    all.extend(["--port", "0", "--tls-port"].map(String::from));
                    all.push(port.to_string());
                    for (option, path) in [
                        ("--tls-ca-cert-file", &files.ca),
                        ("--tls-cert-file", &files.server_cert),
                        ("--tls-key-file", &files.server_key),
                    ] {
                        all.push(option.to_owned());
                        all.push(path.display().to_string());
                    }
                    all.extend(["--tls-auth-clients", "yes"].map(String::from));
                }
            }
            all.extend(arguments.iter().map(|argument| match *argument {
                FREE_PORT => free_port().to_string(),
                argument => argument.to_owned(),
            }));
            let mut server = RedisServer {
                child: None,
                directory: directory.clone(),
                port,
                arguments: all,
                is_tls: tls.is_some(),
            };
            if server.try_start() {
                return server;
            }
            // Do not let its end remove the directory of the next attempt.
            server.directory = PathBuf::new();
        }
        panic!("redis-server did not start: see {}", directory.display());
    }

    /// Starts the server again after [`RedisServer::stop`], at the same address.
    pub fn restart(&mut self) {
        // A passing connection may have taken the port, rarely.
        let until = Instant::now() + START_WITHIN;
        while !self.try_start() {
            assert!(Instant::now() < until, "redis-server did not start again");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn try_start(&mut self) -> bool {
        let log = fs::File::create(self.directory.join("log")).expect("a log file");
        let child = Command::new("redis-server")
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is not installed, and these tests need it");
        let mut child = self.child.insert(child);
        let until = Instant::now() + START_WITHIN;
        while Instant::now() < until {
            if child.try_wait().expect("a child").is_some() {
                self.child = None;
                return false;
            }
            if self.admin().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
            child = self.child.as_mut().expect("just started");
        }
        panic!(
            "redis-server does not answer: see {}",
            self.directory.display()
        );
    }

    /// Ends the server at once, as a crash would.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops the process without ending it: it accepts and answers nothing.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let child = self.child.as_ref().expect("a running server");
        let status = Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status()
            .expect("kill is not installed, and these tests need it");
        assert!(status.success(), "kill {signal} failed");
    }

    /// `redis://127.0.0.1:PORT`, or `rediss://localhost:PORT`.
    pub fn url(&self) -> String {
        if self.is_tls {
            format!("rediss://localhost:{}", self.port)
        } else {
            format!("redis://127.0.0.1:{}", self.port)
        }
    }

    /// `redis+unix://…`.
    pub fn unix_url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("redis.sock")
    }

    /// Runs a command over a connection of its own.
    pub fn command(&self, arguments: &[&str]) -> redis::Value {
        let mut connection = self.admin().expect("redis answers");
        let mut command = redis::Cmd::new();
        for argument in arguments {
            command.arg(argument);
        }
        command
            .query(&mut connection)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    /// A connection for the test itself, past TLS and proxies.
    pub fn admin(&self) -> Option<redis::Connection> {
        let client = redis::Client::open(self.unix_url()).expect("a url");
        let mut connection = client
            .get_connection_with_timeout(Duration::from_secs(5))
            .ok()?;
        redis::cmd("PING")
            .query::<String>(&mut connection)
            .is_ok()
            .then_some(connection)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
        if !self.directory.as_os_str().is_empty() && !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// A certificate authority with a server and a client certificate, as files.
pub struct Certificates {
    directory: PathBuf,
    pub ca: PathBuf,
    pub server_cert: PathBuf,
    pub server_key: PathBuf,
    pub client_cert: PathBuf,
    pub client_key: PathBuf,
}

impl Certificates {
    /// Issues a server certificate for this name alone.
    pub fn for_name(name: &str) -> Self {
        use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
        let directory = fresh_directory("certificates");
        let write = |file: &str, text: String| {
            let path = directory.join(file);
            fs::write(&path, text).expect("a file");
            path
        };
        let ca_key = KeyPair::generate().expect("a key");
        let mut ca_params = CertificateParams::new(vec![]).expect("parameters");
        // OpenSSL takes equal names of subject and issuer for self-signed.
        ca_params.distinguished_name.push(DnType::CommonName, "ca");
        ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_cert = ca_params.self_signed(&ca_key).expect("a certificate");
        let issuer = Issuer::new(ca_params, ca_key);
        let issue = |name: &str| {
            let key = KeyPair::generate().expect("a key");
            let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
            params.distinguished_name.push(DnType::CommonName, name);
            let cert = params.signed_by(&key, &issuer).expect("a certificate");
            (cert.pem(), key.serialize_pem())
        };
        let (server_cert, server_key) = issue(name);
        let (client_cert, client_key) = issue("tollgate");
        Certificates {
            ca: write("ca.pem", ca_cert.pem()),
            server_cert: write("server.pem", server_cert),
            server_key: write("server.key", server_key),
            client_cert: write("client.pem", client_cert),
            client_key: write("client.key", client_key),
            directory,
        }
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A port that nobody listens on just now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// A directory of its own, with a path short enough for a Unix socket.
pub fn fresh_directory(kind: &str) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("tollgate-{kind}-{}-{count}", std::process::id());
    let path: PathBuf = Path::new(&std::env::temp_dir()).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("a directory");
    path
}
