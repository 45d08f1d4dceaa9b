//! The real program, started with a configuration of the test's own.

use std::net::SocketAddr;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;

use super::client::{Client, Response};
use super::config::Config;
use super::metrics::Metrics;
use super::process::{Folder, Lines, Supervised};
use super::redis::Redis;
use super::request::Req;
use super::upstream::Upstream;
use super::wait::{SOON, eventually};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tollgate");

/// A configuration and, later, the program that runs with it.
pub struct Builder {
    config: Config,
    folder: Folder,
    environment: Vec<(String, String)>,
}

impl Builder {
    /// Sets a key: `set("admission.on_outage", "admit")`.
    pub fn set(mut self, path: &str, value: impl Into<Value>) -> Self {
        self.config.set(path, value.into());
        self
    }

    /// Uses this Redis instead of the shared one.
    pub fn redis(self, redis: &Redis) -> Self {
        self.set("balances.redis.url", redis.url())
    }

    /// Adds an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The folder the configuration is written to, for files it names.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Starts the program and waits until it is ready.
    #[track_caller]
    pub fn start(self) -> Gateway {
        let gateway = self.start_unready();
        eventually(SOON, "the gateway becomes ready", || {
            (gateway.admin("/readyz").status == 200).then_some(())
        });
        gateway
    }

    /// Starts the program and waits until it listens.
    #[track_caller]
    pub fn start_unready(self) -> Gateway {
        let mut gateway = self.launch();
        let wanted = gateway.listeners_wanted();
        eventually(SOON, "the gateway listens", || {
            if let Some(status) = gateway.process.lock().unwrap().ended() {
                panic!(
                    "the gateway ended with {status}:\n{}",
                    gateway.stderr.text()
                );
            }
            (gateway.addresses().len() >= wanted).then_some(())
        });
        for (listener, address) in gateway.addresses() {
            match listener.as_str() {
                "http" => gateway.http = address,
                "https" => gateway.https = address,
                "admin" => gateway.admin = address,
                other => panic!("a listener called {other}"),
            }
        }
        gateway
    }

    /// Starts the program and waits for nothing.
    pub fn launch(self) -> Gateway {
        let file = self.folder.write("tollgate.yaml", self.config.text());
        let mut command = Command::new(PROGRAM);
        command
            .arg("run")
            .arg("--config")
            .arg(&file)
            .envs(self.environment.clone());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = Supervised::spawn(&mut command, &self.folder);
        let (stdout, stderr) = process.outputs();
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        Gateway {
            http: nowhere,
            https: nowhere,
            admin: nowhere,
            stdout,
            stderr,
            process: Mutex::new(process),
            setup: Mutex::new(self),
        }
    }
}

/// The running program.
pub struct Gateway {
    /// The first address for HTTP in the clear.
    pub http: SocketAddr,
    /// The first address for HTTPS.
    pub https: SocketAddr,
    /// The admin listener.
    pub admin: SocketAddr,
    /// The access log.
    pub stdout: Lines,
    /// Everything else it says.
    pub stderr: Lines,
    process: Mutex<Supervised>,
    setup: Mutex<Builder>,
}

impl Gateway {
    /// In front of this upstream, otherwise as [`Config::new`] has it.
    pub fn before(upstream: &Upstream) -> Builder {
        Gateway::before_address(upstream.address)
    }

    /// In front of this address.
    pub fn before_address(upstream: SocketAddr) -> Builder {
        Builder {
            config: Config::new(upstream),
            folder: Folder::new("gateway"),
            environment: Vec::new(),
        }
    }

    fn listeners_wanted(&self) -> usize {
        let text = self.setup.lock().unwrap().config.text();
        let config: Value = serde_json::from_str(&text).unwrap();
        let count = |value: &Value| value.as_array().map_or(0, Vec::len);
        let server = &config["server"];
        count(&server["listen"])
            + count(&server["tls"]["listen"])
            + usize::from(server["admin"].is_object())
    }

    /// The listeners it has announced.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        let announced = |line: &Value| {
            let listener = line["listener"].as_str()?.to_owned();
            let address = line["address"].as_str()?.parse().ok()?;
            (line["message"] == "listening").then_some((listener, address))
        };
        self.stderr.json().iter().filter_map(announced).collect()
    }

    /// Connects to it.
    pub fn connect(&self) -> Client {
        Client::connect(self.http)
    }

    /// Asks on a connection of its own.
    #[track_caller]
    pub fn ask(&self, request: &Req) -> Response {
        self.connect().ask(request)
    }

    /// Asks the admin listener.
    #[track_caller]
    pub fn admin(&self, path: &str) -> Response {
        Client::connect(self.admin).ask(&Req::get(path).header("Connection", "close"))
    }

    /// What `/metrics` says now.
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&self.admin("/metrics").text())
    }

    /// Access log lines, as JSON.
    pub fn access_log(&self) -> Vec<Value> {
        self.stdout.json()
    }

    /// The first access log line that fits, when it is there.
    #[track_caller]
    pub fn access_line(&self, claim: &str, fits: impl Fn(&Value) -> bool) -> Value {
        eventually(SOON, claim, || {
            self.access_log().into_iter().find(|line| fits(line))
        })
    }

    /// Waits until standard error has a line with this in it.
    #[track_caller]
    pub fn says(&self, text: &str) -> String {
        let claim = format!("the gateway says `{text}`");
        eventually(SOON, &claim, || {
            self.stderr
                .all()
                .into_iter()
                .find(|line| line.contains(text))
        })
    }

    /// Changes a key of the file and sends SIGHUP.
    pub fn reload_with(&self, path: &str, value: impl Into<Value>) {
        let mut setup = self.setup.lock().unwrap();
        setup.config.set(path, value.into());
        let text = setup.config.text();
        setup.folder.write("tollgate.yaml", text);
        drop(setup);
        self.signal("HUP");
    }

    /// Puts this text into the file and sends SIGHUP.
    pub fn reload_with_text(&self, text: &str) {
        self.setup
            .lock()
            .unwrap()
            .folder
            .write("tollgate.yaml", text);
        self.signal("HUP");
    }

    /// Writes a file into the configuration's folder.
    pub fn write(&self, name: &str, content: &str) {
        self.setup.lock().unwrap().folder.write(name, content);
    }

    /// Reloads that ended this way (`ok`, `rejected`), as the metrics count them.
    pub fn reloads(&self, result: &str) -> f64 {
        self.metrics()
            .sum("tollgate_config_reloads_total", &[("result", result)])
    }

    /// Its configuration file, for commands.
    pub fn config_file(&self) -> String {
        let setup = self.setup.lock().unwrap();
        let file = setup.folder.path().join("tollgate.yaml");
        file.to_str().expect("a path in UTF-8").to_owned()
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        self.process.lock().unwrap().signal(name);
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&self, deadline: Duration) -> ExitStatus {
        self.process.lock().unwrap().wait(deadline)
    }

    /// Its memory that is resident now, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.process.lock().unwrap().resident_bytes()
    }

    /// Whether it still runs.
    pub fn runs(&self) -> bool {
        self.process.lock().unwrap().ended().is_none()
    }
}

/// Runs a command of the program to its end.
pub fn tollgate(arguments: &[&str]) -> Output {
    Command::new(PROGRAM)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the program was built")
}
