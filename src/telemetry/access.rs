//! The access log: one line per request, written off the request path.
//!
//! A line is put together by the request, handed over through a bounded queue
//! and written to standard output by one thread, many lines at a time. When
//! the output cannot keep up, lines are dropped and counted; requests never
//! wait. Never in a line: keys, tokens, bodies, query strings, header values
//! other than the request's own ids.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use prometheus::IntCounter;
use serde::Serialize;

use super::logging::Form;

/// Lines that may wait to be written.
const QUEUE_LINES: usize = 16_384;

/// Bytes gathered into one write.
const WRITE_BYTES: usize = 64 * 1024;

/// One line. Field order is the order in the JSON.
#[derive(Debug, Default, Serialize)]
pub struct Line<'a> {
    /// When the request was read, RFC 3339, UTC.
    pub at: String,
    /// The id that the upstream got as `x-request-id`.
    pub request_id: &'a str,
    /// The trace id of `traceparent`.
    pub trace_id: &'a str,
    /// The method.
    pub method: &'a str,
    /// The path as received, without query.
    pub path: &'a str,
    /// The protocol, as `HTTP/1.1`.
    pub protocol: &'a str,
    /// The status that the client got; 0 if it got none.
    pub status: u16,
    /// The client's address.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub client: &'a str,
    /// The start route, as configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<&'a str>,
    /// What set the run off, of a start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<&'a str>,
    /// Who pays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team: Option<&'a str>,
    /// Who asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<&'a str>,
    /// Whether it is a delivery that came before, with the same verdict.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redelivery: Option<bool>,
    /// What became of a start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<&'a str>,
    /// Why it was answered at the edge, or in shadow mode would have been.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// The hold that a start goes by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<&'a str>,
    /// How it came by the hold, and what became of it since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_state: Option<&'a str>,
    /// How a request that is no start is about a run: `ends` or `watch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_route: Option<&'a str>,
    /// The run that it is about, or that a start began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<&'a str>,
    /// The run's state in the answer, where that was short enough to be looked
    /// into on the spot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_state: Option<&'a str>,
    /// The upstream address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<&'a str>,
    /// Milliseconds from the head to the end of the answer.
    pub duration_ms: f64,
    /// Milliseconds that the ledger took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger_ms: Option<f64>,
    /// Milliseconds from forwarding to the upstream's answer head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_ms: Option<f64>,
    /// Body bytes sent to the client.
    pub bytes_sent: usize,
    /// What went wrong, for the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<&'a str>,
}

/// A duration as a log line tells it: milliseconds, to the microsecond.
#[must_use]
pub fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1_000.0
}

/// The way into the log. Clones share the queue.
#[derive(Clone)]
pub struct AccessLog {
    form: Form,
    queue: SyncSender<String>,
    dropped: IntCounter,
}

impl AccessLog {
    /// Starts the writing thread. The second value ends with it: once the last
    /// clone of the log is gone and every line is written.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(form: Form, dropped: IntCounter) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (queue, lines) = sync_channel(QUEUE_LINES);
        let writer = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_lines(&lines))?;
        let log = AccessLog {
            form,
            queue,
            dropped,
        };
        Ok((log, writer))
    }

    /// Hands a line over, or drops and counts it.
    pub fn write(&self, line: &Line<'_>) {
        let text = match self.form {
            Form::Json => serde_json::to_string(line).unwrap_or_default(),
            Form::Text => text(line),
        };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(text)
        {
            self.dropped.inc();
        }
    }
}

/// A line for people.
fn text(line: &Line<'_>) -> String {
    let mut text = format!(
        "{} {} {} {} {:.1}ms",
        line.at, line.status, line.method, line.path, line.duration_ms
    );
    for (name, value) in [
        ("route", line.route),
        ("trigger", line.trigger),
        ("team", line.team),
        ("principal", line.principal),
        ("redelivery", line.redelivery.map(|_| "true")),
        ("verdict", line.verdict),
        ("reason", line.reason),
        ("hold", line.hold),
        ("hold_state", line.hold_state),
        ("run_route", line.run_route),
        ("run", line.run),
        ("run_state", line.run_state),
        ("upstream", line.upstream),
        ("fault", line.fault),
        ("request_id", Some(line.request_id)),
    ] {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            let _ = write!(text, " {name}={value}");
        }
    }
    text
}

fn write_lines(lines: &Receiver<String>) {
    let mut buffer = Vec::with_capacity(WRITE_BYTES);
    while let Ok(line) = lines.recv() {
        let mut next = Some(line);
        while let Some(line) = next {
            buffer.extend_from_slice(line.as_bytes());
            buffer.push(b'\n');
            next = if buffer.len() < WRITE_BYTES {
                lines.try_recv().ok()
            } else {
                None
            };
        }
        // Nobody is left to tell when standard output is gone.
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(&buffer).and_then(|()| out.flush());
        buffer.clear();
    }
}

/// A time as RFC 3339 in UTC, to the millisecond.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_no_fields_that_do_not_apply() {
        let line = Line {
            request_id: "r1",
            method: "GET",
            path: "/x",
            status: 200,
            ..Line::default()
        };
        let json = serde_json::to_string(&line).unwrap();
        assert!(!json.contains("team") && !json.contains("null"), "{json}");
        assert!(text(&line).ends_with("request_id=r1"));
    }

    #[test]
    fn milliseconds_keep_microseconds() {
        let duration = Duration::from_nanos(1_234_567);
        assert!((milliseconds(duration) - 1.235).abs() < 1e-9);
    }
}
