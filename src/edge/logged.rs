//! What the access log tells of a request.
//!
//! How a line is written, and what never stands in one, is in
//! [`crate::telemetry::access`].

use std::net::{IpAddr, SocketAddr};

use http::Version;
use pingora_error::Error;
use pingora_proxy::Session;

use super::context::{Context, Start};
use crate::billing::hold::RunId;
use crate::billing::team::{Principal, TeamId};
use crate::telemetry::Outcome;
use crate::telemetry::access::{self, AccessLog, Line};
use crate::telemetry::json::put_number;

/// The most bytes of a text that a client chose, or that an error holds.
const TEXT_MAX_BYTES: usize = 2048;

/// Which requests get a line in the access log.
#[derive(Clone)]
pub enum Logged {
    /// All of them.
    All(AccessLog),
    /// Starts.
    Starts(AccessLog),
    /// None.
    Off,
}

impl Logged {
    /// Writes the line of a request that is over.
    pub fn write(&self, session: &Session, error: Option<&Error>, context: &Context) {
        let log = match self {
            Logged::All(log) => log,
            Logged::Starts(log) if context.start.is_some() => log,
            Logged::Starts(_) | Logged::Off => return,
        };
        let head = session.req_header();
        let start = context.start.as_ref();
        let route = context.route();
        let hold = start.and_then(|start| start.hold.as_ref());
        let upstream = context.attempt.address.map(host_and_port);
        let client = context.peer;
        let client = client.map(|peer| host(context.live.forward.client(head, peer)));
        let fault = context.fault.as_deref();
        let fault = fault.or_else(|| error.map(|error| error.etype().as_str()));
        let path = context.live.secrets.shown(head.raw_path());
        let line = Line {
            request_id: &context.ids.request_id(),
            trace_id: &context.ids.trace_id(),
            method: head.method.as_str(),
            path: shortened(&path),
            protocol: protocol(head.version),
            status: session
                .response_written()
                .map_or(0, |answer| answer.status.as_u16()),
            client: client.as_deref().unwrap_or_default(),
            route: route.map(|route| &*route.name),
            trigger: start.map(|start| start.trigger.name()),
            team: start.and_then(Start::team).map(TeamId::as_str),
            principal: start
                .and_then(|start| start.payer.as_ref()?.principal.as_ref())
                .map(Principal::as_str),
            redelivery: start.filter(|start| start.is_redelivery()).map(|_| true),
            verdict: start.and_then(|start| start.outcome).map(Outcome::name),
            reason: context.reason,
            remembered: start.filter(|start| start.remembered).map(|_| true),
            hold: hold.map(|held| held.hold.as_str()),
            hold_state: hold.map(|held| held.state.name()),
            run_route: context.run.route,
            run: context.run.run.as_ref().map(RunId::as_str),
            run_state: context.run.state.as_deref().map(shortened),
            upstream: upstream.as_deref(),
            duration_ms: access::milliseconds(context.began.elapsed()),
            ledger_ms: start
                .and_then(|start| start.ledger)
                .map(access::milliseconds),
            upstream_ms: context.attempt.answered.map(access::milliseconds),
            bytes_sent: session.body_bytes_sent(),
            fault: fault.map(shortened),
        };
        log.write(context.began_at, &line);
    }
}

/// An address as text. What is most frequent does without the formatter, which
/// takes longer than many a field.
fn host(ip: IpAddr) -> String {
    let IpAddr::V4(ip) = ip else {
        return ip.to_string();
    };
    let mut text = Vec::with_capacity("255.255.255.255:65535".len());
    for octet in ip.octets() {
        if !text.is_empty() {
            text.push(b'.');
        }
        put_number(&mut text, octet.into());
    }
    String::from_utf8(text).unwrap_or_default()
}

fn host_and_port(address: SocketAddr) -> String {
    if address.is_ipv6() {
        return address.to_string();
    }
    let mut text = host(address.ip()).into_bytes();
    text.push(b':');
    put_number(&mut text, address.port().into());
    String::from_utf8(text).unwrap_or_default()
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// A text of a length that the log's queue can hold many of.
fn shortened(text: &str) -> &str {
    let end = text.floor_char_boundary(TEXT_MAX_BYTES);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_usual() {
        for text in ["127.0.0.1:80", "255.10.9.0:65535", "[::1]:8080"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(host_and_port(address), text);
            assert_eq!(host(address.ip()), address.ip().to_string());
        }
    }
}
