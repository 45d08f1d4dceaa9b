//! Real redis-servers: one shared by all tests, private ones to be broken.
//!
//! Tests never flush the shared one. Each takes teams and keys that nobody
//! else has: [`Redis::team`], [`fresh`].

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use sha2::{Digest, Sha256};

use super::ports;
use super::process::{Folder, Supervised};
use super::wait::{SOON, eventually};

/// A running redis-server.
pub struct Redis {
    process: Mutex<Supervised>,
    folder: Folder,
    /// What it was started with beyond what all are.
    arguments: Vec<String>,
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// As which user the tests talk to it, if not as the default one.
    password: Option<String>,
}

/// A name that no other test uses.
pub fn fresh(stem: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    format!("{stem}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Redis {
    /// The one that all tests share.
    pub fn shared() -> &'static Redis {
        static SHARED: OnceLock<Redis> = OnceLock::new();
        SHARED.get_or_init(|| Redis::private(&[]))
    }

    /// One for this test alone, with more arguments.
    pub fn private(arguments: &[&str]) -> Redis {
        for _ in 0..10 {
            if let Some(redis) = Redis::start_on(ports::recently_free(), arguments, None) {
                return redis;
            }
        }
        panic!("redis-server did not start on any of ten ports")
    }

    /// One that wants this password.
    pub fn with_password(password: &str, arguments: &[&str]) -> Redis {
        let arguments = [&["--requirepass", password], arguments].concat();
        for _ in 0..10 {
            let port = ports::recently_free();
            if let Some(redis) = Redis::start_on(port, &arguments, Some(password.to_owned())) {
                return redis;
            }
        }
        panic!("redis-server did not start on any of ten ports")
    }

    /// One on this very port, as after a restart; empty.
    pub fn on_port(port: u16) -> Redis {
        eventually(SOON, "redis-server starts on its old port", || {
            Redis::start_on(port, &[], None)
        })
    }

    /// `None`: it ended at once, because somebody else took the port.
    fn start_on(port: u16, arguments: &[&str], password: Option<String>) -> Option<Redis> {
        let folder = Folder::new("redis");
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let redis = Redis {
            process: Mutex::new(spawn(port, &folder, &arguments)),
            folder,
            arguments,
            port,
            password,
        };
        redis.is_up().then_some(redis)
    }

    /// Starts it again after [`Redis::kill`], with what it had on disk.
    pub fn revive(&self) {
        eventually(SOON, "redis-server starts on its old port", || {
            *self.process.lock().unwrap() = spawn(self.port, &self.folder, &self.arguments);
            self.is_up().then_some(())
        });
        eventually(SOON, "redis-server has read what it had on disk", || {
            let mut connection = self.try_connection().ok()?;
            let answer: ::redis::RedisResult<String> = ::redis::cmd("PING").query(&mut connection);
            answer.ok()
        });
    }

    /// Waits until it answers; `false`: it has ended instead.
    fn is_up(&self) -> bool {
        eventually(SOON, "redis-server answers or ends", || {
            if self.process.lock().unwrap().ended().is_some() {
                return Some(false);
            }
            // Whoever answers must be ours, not somebody else on that port.
            let answer: Result<Vec<String>, _> = self
                .try_connection()
                .and_then(|mut c| ::redis::cmd("CONFIG").arg("GET").arg("dir").query(&mut c));
            let ours = self.folder.path().canonicalize().ok()?;
            answer
                .ok()
                .map(|pair| pair.get(1).map(PathBuf::from) == Some(ours))
        })
    }

    fn try_connection(&self) -> ::redis::RedisResult<::redis::Connection> {
        let url = match &self.password {
            Some(password) => format!("redis://:{password}@127.0.0.1:{}", self.port),
            None => self.url(),
        };
        ::redis::Client::open(url)?.get_connection_with_timeout(std::time::Duration::from_secs(2))
    }

    /// Its URL, without credentials.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// Runs a command: `redis.run(&["SET", "k", "v"])`.
    pub fn run<T: ::redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = ::redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        let mut connection = self
            .try_connection()
            .expect("redis-server takes connections");
        command
            .query(&mut connection)
            .unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// A new team with this balance, as billing would publish it.
    pub fn team(&self, balance: &str) -> String {
        let team = fresh("team");
        self.set_balance(&team, balance);
        team
    }

    /// Sets a team's balance.
    pub fn set_balance(&self, team: &str, balance: &str) {
        self.run::<()>(&["SET", &format!("credits:{{{team}}}"), balance]);
    }

    /// A new API key with these facts (field, value, …).
    pub fn api_key(&self, facts: &[&str]) -> String {
        let key = fresh("wk-secret");
        let hash = api_key_hash(&key);
        self.run::<()>(&[&["HSET", &format!("apikey:{hash}")], facts].concat());
        key
    }

    /// Freezes it: connections stay, nothing answers.
    pub fn freeze(&self) {
        self.process.lock().unwrap().signal("STOP");
    }

    /// Thaws it.
    pub fn thaw(&self) {
        self.process.lock().unwrap().signal("CONT");
    }

    /// Kills it; the port refuses connections from now on.
    pub fn kill(&self) {
        let mut process = self.process.lock().unwrap();
        process.signal("KILL");
        process.wait(SOON);
    }

    /// A team's balance, as it stands in its key.
    pub fn balance(&self, team: &str) -> String {
        self.run(&["GET", &format!("credits:{{{team}}}")])
    }

    /// The events of this team on the refusals stream, oldest first.
    pub fn refusals(&self, team: &str) -> Vec<std::collections::HashMap<String, String>> {
        type Entry = (String, std::collections::HashMap<String, String>);
        let entries: Vec<Entry> = self.run(&["XRANGE", "tollgate:refusals", "-", "+"]);
        let of_team = |event: &std::collections::HashMap<String, String>| {
            event.get("team").is_some_and(|t| t == team)
        };
        entries
            .into_iter()
            .map(|(_, event)| event)
            .filter(of_team)
            .collect()
    }
}

/// The program itself.
fn spawn(port: u16, folder: &Folder, arguments: &[String]) -> Supervised {
    let port = port.to_string();
    let mut command = Command::new("redis-server");
    command
        .args(["--port", &port, "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no"])
        .args(["--dir".as_ref(), folder.path().as_os_str()])
        .args([
            "--unixsocket".as_ref(),
            folder.path().join("redis.sock").as_os_str(),
        ])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Supervised::spawn(&mut command, folder)
}

/// The lower-case hex SHA-256 of an API key.
pub fn api_key_hash(key: &str) -> String {
    Sha256::digest(key.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
