//! `tollgate demo`: the gateway in front of a stand-in task API, on embedded
//! balances; shows an admitted and a refused start as they go over the wire.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use http::{Response, StatusCode};
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::http::ServerSession;

use super::{Failure, Outcome, say};
use crate::app::App;
use crate::app::life::Stop;
use crate::config::{AccessLog, Config, LogLevel, load};
use crate::edge::connection;
use crate::telemetry::logging;

/// The configuration that the demo runs on.
const CONFIG: &str = include_str!("../../config/demo.yaml");

/// How long one request of the demo may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What happens after showing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It keeps serving.
    Serve,
    /// It exits.
    Exit,
}

pub fn run(then: Then) -> Outcome {
    let mut config = load::load_str("config/demo.yaml", CONFIG, &|_| None).map_err(|mistakes| {
        let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        Failure::Fault(lines.join("\n"))
    })?;
    config.log.access = AccessLog::Off;
    config.log.level = LogLevel::Warn;
    logging::init(&config.log);
    let seen = Seen::default();
    let stand_in = StandIn::bind(&mut config, seen.clone())?;
    free_ports(&mut config);
    let mut app = App::prepare(config, None).map_err(|error| Failure::Fault(error.to_string()))?;
    let Some(gateway) = app.bound().http.first().copied() else {
        return Err(Failure::Fault("the demo has no address".to_owned()));
    };
    let (admin, stop, upstream) = (app.bound().admin, app.stopper(), stand_in.address);
    app.serve_also("stand-in", stand_in.socket, Arc::new(stand_in.api));
    let shown = std::thread::Builder::new()
        .name("demo".to_owned())
        .spawn(move || {
            let shown = show(gateway, &seen);
            finish(shown.is_ok(), then, gateway, admin, upstream, &stop);
            shown
        });
    let shown = shown.map_err(|error| Failure::Fault(error.to_string()))?;
    app.run();
    match shown.join() {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failure::Fault(format!("the demo did not work: {error}"))),
        Err(_) => Err(Failure::Fault("the demo did not work".to_owned())),
    }
}

/// Takes free ports where the configured ones are taken.
fn free_ports(config: &mut Config) {
    let is_taken = |address: SocketAddr| TcpListener::bind(address).is_err();
    let any = |address: SocketAddr| SocketAddr::new(address.ip(), 0).into();
    for listen in &mut config.server.listen {
        if is_taken(listen.addr()) {
            *listen = any(listen.addr());
        }
    }
    if let Some(admin) = &mut config.server.admin
        && is_taken(admin.listen.addr())
    {
        admin.listen = any(admin.listen.addr());
    }
}

fn show(gateway: SocketAddr, seen: &Seen) -> std::io::Result<()> {
    say(
        "tollgate demo: teams `acme` with 100 credits and `broke` with 0, in front of a stand-in task API\n",
    );
    for (number, team, what) in [
        (1, "acme", "starts a run: it has credits"),
        (2, "broke", "starts a run: it has none"),
    ] {
        seen.take();
        let body = r#"{"prompt":"fix the flaky test"}"#;
        let request = format!(
            "POST /api/v1/agent/runs HTTP/1.1\r\nhost: {gateway}\r\nx-team-id: {team}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let answer = exchange(gateway, &request)?;
        say(&format!("{number}. {team} {what}\n"));
        say(&quoted("request", &request));
        say(&quoted("answer", &answer));
        match seen.take() {
            Some(request) => say(&quoted("the upstream saw", &request)),
            None => say("   the upstream saw\n     | nothing\n"),
        }
    }
    Ok(())
}

fn finish(
    shown: bool,
    then: Then,
    gateway: SocketAddr,
    admin: Option<SocketAddr>,
    upstream: SocketAddr,
    stop: &Stop,
) {
    if !shown || then == Then::Exit {
        stop.stop();
        return;
    }
    say(&format!(
        "Try it (the stand-in API is at {upstream}):\n\n\
         \x20 curl -i http://{gateway}/api/v1/agent/runs -H 'x-team-id: acme' -d '{{}}'\n\
         \x20 curl -i http://{gateway}/api/v1/agent/runs -H 'x-team-id: broke' -d '{{}}'\n\
         \x20 curl -i http://{gateway}/api/v1/agent/runs/run-1 -H 'x-team-id: broke'    # reads always pass"
    ));
    if let Some(admin) = admin {
        say(&format!(
            "  curl -s http://{admin}/metrics | grep ^tollgate_requests"
        ));
    }
    say("\nServing until Ctrl-C.");
}

/// Sends a request and reads the whole answer.
fn exchange(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A message, indented and marked.
fn quoted(title: &str, message: &str) -> String {
    let lines: Vec<String> = message
        .trim_end()
        .lines()
        .map(|line| format!("     | {line}"))
        .collect();
    format!("   {title}\n{}\n", lines.join("\n"))
}

/// The last request that the stand-in API saw.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Option<String>>>);

impl Seen {
    fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, request: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(request);
    }
}

/// A task API that starts nothing.
struct StandIn {
    address: SocketAddr,
    socket: TcpListener,
    api: Api,
}

impl StandIn {
    /// Binds it at the configured upstream address, or at a free port.
    fn bind(config: &mut Config, seen: Seen) -> Result<Self, Failure> {
        let wanted = config
            .upstream
            .addresses
            .first()
            .and_then(|address| address.socket_addr());
        let bound = wanted.and_then(|wanted| TcpListener::bind(wanted).ok());
        let socket = bound.map_or_else(|| TcpListener::bind(("127.0.0.1", 0)), Ok);
        let socket = socket.and_then(|socket| Ok((socket.local_addr()?, socket)));
        let (address, socket) = socket.map_err(|error| Failure::Fault(error.to_string()))?;
        config.upstream.addresses = vec![address.into()];
        Ok(StandIn {
            address,
            socket,
            api: Api { seen },
        })
    }
}

/// The stand-in's answers.
struct Api {
    seen: Seen,
}

#[async_trait]
impl ServeHttp for Api {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        connection::begin_request(session);
        let mut body = Vec::new();
        while let Ok(Some(bytes)) = session.read_request_body().await {
            body.extend_from_slice(&bytes);
        }
        let head = session.req_header();
        let target = String::from_utf8_lossy(head.raw_path()).into_owned();
        let mut seen = format!("{} {target} HTTP/1.1\n", head.method);
        for (name, value) in &head.headers {
            seen.push_str(&format!(
                "{name}: {}\n",
                String::from_utf8_lossy(value.as_bytes())
            ));
        }
        seen.push_str(&format!("\n{}", String::from_utf8_lossy(&body)));
        self.seen.put(seen);
        let answer = serde_json::json!({"run_id": "run-1", "state": "QUEUED"}).to_string();
        let mut response = Response::new(answer.clone().into_bytes());
        *response.status_mut() = StatusCode::OK;
        let headers = response.headers_mut();
        headers.insert(
            "content-type",
            http::HeaderValue::from_static("application/json"),
        );
        headers.insert("content-length", http::HeaderValue::from(answer.len()));
        response
    }
}
