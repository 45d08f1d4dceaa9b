//! A real service behind sentinels for tests: one master, two replicas and
//! three sentinels, on free ports.
//!
//! All of them end with the value.

#![allow(dead_code)] // Each test binary uses a part.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::redis_server::{RedisServer, Turn, free_port, fresh_directory};

/// What the sentinels call the master.
pub const SERVICE: &str = "balances";

/// After how long without an answer a server counts as gone.
const DOWN_AFTER: Duration = Duration::from_millis(500);

/// How long sentinels and servers may take to agree on something.
pub const AGREED_WITHIN: Duration = Duration::from_secs(40);

/// A service that ends with this value.
pub struct Service {
    pub servers: Vec<RedisServer>,
    pub sentinels: Vec<Sentinel>,
    /// Given up after all of them have ended.
    _turn: Turn,
}

/// One sentinel.
pub struct Sentinel {
    child: Option<Child>,
    directory: PathBuf,
    pub port: u16,
}

impl Service {
    /// Server 0 is the master.
    pub fn start() -> Self {
        let turn = Turn::wait();
        let servers: Vec<RedisServer> = (0..3)
            .map(|_| {
                RedisServer::start_with(&[
                    "--repl-diskless-sync-delay",
                    "0",
                    "--repl-ping-replica-period",
                    "1",
                    // A master that comes back empty, and is put in its place again
                    // by sentinels that a busy machine made nervous, has lost what
                    // it held: that is not what these tests are about.
                    "--appendonly",
                    "yes",
                    "--appendfsync",
                    "always",
                ])
            })
            .collect();
        let port = servers[0].port.to_string();
        for replica in &servers[1..] {
            replica.command(&["REPLICAOF", "127.0.0.1", &port]);
        }
        let sentinels = (0..3).map(|_| Sentinel::start(&port)).collect();
        let service = Service {
            servers,
            sentinels,
            _turn: turn,
        };
        service.wait_for("the sentinels know everybody", |service| {
            service.sentinels.iter().all(|sentinel| {
                let master = sentinel.master();
                let find = |name: &str| {
                    let at = master.iter().position(|field| field == name);
                    at.and_then(|at| master.get(at + 1))
                        .cloned()
                        .unwrap_or_default()
                };
                find("num-slaves") == "2"
                    && find("num-other-sentinels") == "2"
                    && find("flags") == "master"
            })
        });
        service.follow(0);
        service
    }

    /// `redis://127.0.0.1:PORT` of every sentinel.
    pub fn urls(&self) -> Vec<String> {
        self.sentinels.iter().map(Sentinel::url).collect()
    }

    /// Which server is the master, if the sentinels agree on it and it does.
    pub fn agreed_master(&self) -> Option<usize> {
        let named: Vec<u16> = self.sentinels.iter().filter_map(Sentinel::named).collect();
        let first = *named.first()?;
        let at = self
            .servers
            .iter()
            .position(|server| server.port == first)?;
        let agree = named.iter().all(|port| *port == first);
        (agree && is_master(&self.servers[at])).then_some(at)
    }

    /// Waits until a server other than this one is the master and the others
    /// that are there follow it, and returns it. Sentinels that vote for each
    /// other may put several in its place, one after the other.
    pub fn replaced(&self, old: usize) -> usize {
        let is_settled = |service: &Self| {
            let master = service.agreed_master().filter(|master| *master != old)?;
            service.all_follow(master).then_some(master)
        };
        self.wait_for("another server is the master", |service| {
            is_settled(service).is_some()
        });
        self.agreed_master().expect("a master")
    }

    /// Waits until every server has come to rest behind one, and returns it.
    pub fn settled(&self) -> usize {
        self.replaced(usize::MAX)
    }

    /// Waits until every other server that is there follows this one.
    pub fn follow(&self, master: usize) {
        self.wait_for("the replicas follow", |service| service.all_follow(master));
    }

    fn all_follow(&self, master: usize) -> bool {
        let port = self.servers[master].port;
        self.servers.iter().enumerate().all(|(at, server)| {
            at == master
                || server.admin().is_none_or(|mut connection| {
                    let info: String = redis::cmd("INFO")
                        .arg("replication")
                        .query(&mut connection)
                        .unwrap_or_default();
                    info.contains(&format!("master_port:{port}\r"))
                        && info.contains("master_link_status:up")
                })
        })
    }

    /// Asks a sentinel to put a replica in the master's place.
    pub fn fail_over(&self) {
        let start = Instant::now();
        while self.sentinels[0]
            .ask(&["SENTINEL", "FAILOVER", SERVICE])
            .is_err()
        {
            assert!(start.elapsed() < AGREED_WITHIN, "no failover");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn wait_for(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < AGREED_WITHIN, "not in time: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Whether a server says that it is a master.
pub fn is_master(server: &RedisServer) -> bool {
    server.admin().is_some_and(|mut connection| {
        let info: Result<String, _> = redis::cmd("INFO").arg("replication").query(&mut connection);
        info.is_ok_and(|info| info.contains("role:master"))
    })
}

impl Sentinel {
    /// Starts a sentinel that watches the master at this port.
    pub fn start(master: &str) -> Self {
        let directory = fresh_directory("sentinel");
        for _ in 0..5 {
            let port = free_port();
            let file = directory.join("sentinel.conf");
            let down_after = DOWN_AFTER.as_millis();
            let text = format!(
                "port {port}\nbind 127.0.0.1\ndir {}\n\
                 sentinel monitor {SERVICE} 127.0.0.1 {master} 2\n\
                 sentinel down-after-milliseconds {SERVICE} {down_after}\n\
                 sentinel failover-timeout {SERVICE} 3000\n",
                directory.display()
            );
            fs::write(&file, text).expect("a file");
            let log = fs::File::create(directory.join("log")).expect("a log file");
            let child = Command::new("redis-server")
                .arg(&file)
                .arg("--sentinel")
                .stdin(Stdio::null())
                .stdout(log)
                .stderr(Stdio::null())
                .spawn()
                .expect("redis-server is not installed, and these tests need it");
            let mut sentinel = Sentinel {
                child: Some(child),
                directory: directory.clone(),
                port,
            };
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(10) {
                if sentinel.ask(&["PING"]).is_ok() {
                    return sentinel;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            sentinel.directory = PathBuf::new();
        }
        panic!("a sentinel did not start: see {}", directory.display());
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Asks it something, over a connection of its own.
    pub fn ask(&self, arguments: &[&str]) -> redis::RedisResult<redis::Value> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(2))?;
        connection.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut command = redis::Cmd::new();
        for argument in arguments {
            command.arg(argument);
        }
        command.query(&mut connection)
    }

    /// The port of the master that it names.
    pub fn named(&self) -> Option<u16> {
        let reply = self
            .ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE])
            .ok()?;
        let address: Vec<String> = redis::from_redis_value(reply).ok()?;
        address.get(1)?.parse().ok()
    }

    fn master(&self) -> Vec<String> {
        let reply = self.ask(&["SENTINEL", "MASTER", SERVICE]);
        reply
            .ok()
            .and_then(|reply| redis::from_redis_value(reply).ok())
            .unwrap_or_default()
    }

    /// Stops the process without ending it.
    pub fn freeze(&self) {
        let id = self.child.as_ref().expect("a sentinel").id().to_string();
        let status = Command::new("kill").args(["-STOP", &id]).status();
        assert!(status.expect("kill is installed").success());
    }

    /// Ends it at once.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.stop();
        if !self.directory.as_os_str().is_empty() && !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}
