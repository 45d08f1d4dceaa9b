//! The access log: one line per request, written off the request path.
//!
//! A line is put together by the request, added to those that wait, which are
//! bounded, and written to standard output by one thread, many lines at a time. When
//! the output cannot keep up, lines are dropped and counted; requests never
//! wait. Never in a line: keys, tokens, bodies, query strings, header values
//! other than the request's own ids.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use prometheus::IntCounter;
use serde::Serialize;

use super::logging::Form;
use super::stamp::Stamp;

/// Lines that may wait to be written.
const QUEUE_LINES: usize = 16_384;

/// How long a first line waits for others: waking the thread and writing cost
/// more than all else about a line.
const GATHER: Duration = Duration::from_millis(5);

/// More room than this is not kept for the next lines.
const KEPT_BYTES: usize = 1024 * 1024;

/// One line. Field order is the order in the JSON.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Line<'a> {
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
    /// Whether it was refused from memory, without asking the ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remembered: Option<bool>,
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
    way: Arc<Way>,
    dropped: IntCounter,
}

/// Lines between those who write them and the thread that writes them out.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    /// Told of the first line, and of the end.
    wake: Condvar,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    lines: usize,
    /// Lines that are being written out.
    leaving: usize,
    is_closed: bool,
}

/// Closes the queue when the last one who could add a line is gone.
struct Way(Arc<Queue>);

impl Drop for Way {
    fn drop(&mut self) {
        self.0.waiting().is_closed = true;
        self.0.wake.notify_one();
    }
}

thread_local! {
    /// What a thread puts its lines together with.
    static DESK: RefCell<(Stamp, Vec<u8>)> = RefCell::default();
}

impl AccessLog {
    /// Starts the writing thread. The second value ends with it: once the last
    /// clone of the log is gone and every line is written.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(form: Form, dropped: IntCounter) -> std::io::Result<(Self, JoinHandle<()>)> {
        let queue = Arc::new(Queue::default());
        let way = Arc::new(Way(Arc::clone(&queue)));
        let writer = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || queue.write_lines())?;
        let log = AccessLog { form, way, dropped };
        Ok((log, writer))
    }

    /// Hands over the line of a request that was read then, or drops and counts
    /// it.
    pub fn write(&self, at: SystemTime, line: &Line<'_>) {
        DESK.with_borrow_mut(|(stamp, bytes)| {
            bytes.clear();
            match self.form {
                Form::Json => json(stamp.rfc3339(at), line, bytes),
                Form::Text => bytes.extend(text(stamp.rfc3339(at), line).into_bytes()),
            }
            bytes.push(b'\n');
            if !self.way.0.add(bytes) {
                self.dropped.inc();
            }
        });
    }
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line. Returns whether there was room for it.
    fn add(&self, line: &[u8]) -> bool {
        let mut waiting = self.waiting();
        if waiting.lines.saturating_add(waiting.leaving) >= QUEUE_LINES {
            return false;
        }
        waiting.bytes.extend_from_slice(line);
        waiting.lines = waiting.lines.saturating_add(1);
        let is_first = waiting.lines == 1;
        drop(waiting);
        if is_first {
            self.wake.notify_one();
        }
        true
    }

    /// Writes lines out until nobody is left to add any.
    fn write_lines(&self) {
        let mut buffer = Vec::new();
        while self.take(&mut buffer) {
            // Nobody is left to tell when standard output is gone.
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(&buffer).and_then(|()| out.flush());
            drop(out);
            buffer.clear();
            buffer.shrink_to(KEPT_BYTES);
            self.waiting().leaving = 0;
        }
    }

    /// Waits for lines and takes them; false if none will come any more.
    fn take(&self, buffer: &mut Vec<u8>) -> bool {
        let nothing = |waiting: &mut Waiting| waiting.lines == 0 && !waiting.is_closed;
        let waiting = self.wake.wait_while(self.waiting(), nothing);
        let waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        let open = |waiting: &mut Waiting| !waiting.is_closed;
        let gathered = self.wake.wait_timeout_while(waiting, GATHER, open);
        let (mut waiting, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut waiting.bytes, buffer);
        waiting.leaving = std::mem::take(&mut waiting.lines);
        waiting.leaving > 0
    }
}

/// A line for programs.
fn json(at: &str, line: &Line<'_>, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(b"{\"at\":\"");
    bytes.extend_from_slice(at.as_bytes());
    bytes.push(b'"');
    let join = bytes.len();
    // Writing to a Vec cannot fail.
    let _ = serde_json::to_writer(&mut *bytes, line);
    // The object of the fields goes on where that of the time stands.
    if let Some(brace) = bytes.get_mut(join) {
        *brace = b',';
    }
}

/// A line for people.
fn text(at: &str, line: &Line<'_>) -> String {
    let mut text = format!(
        "{at} {} {} {} {:.1}ms",
        line.status, line.method, line.path, line.duration_ms
    );
    for (name, value) in [
        ("route", line.route),
        ("trigger", line.trigger),
        ("team", line.team),
        ("principal", line.principal),
        ("redelivery", line.redelivery.map(|_| "true")),
        ("verdict", line.verdict),
        ("reason", line.reason),
        ("remembered", line.remembered.map(|_| "true")),
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
        assert!(text("now", &line).ends_with("request_id=r1"));
    }

    #[test]
    fn a_line_is_one_object_that_begins_with_its_time() {
        let line = Line {
            request_id: "r\"1\\",
            path: "/ä\u{1}",
            status: 403,
            ..Line::default()
        };
        let mut bytes = Vec::new();
        json("now", &line, &mut bytes);
        assert!(bytes.starts_with(b"{\"at\":\"now\",\"request_id\":"));
        let read: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(read["at"], "now");
        assert_eq!(read["request_id"], "r\"1\\");
        assert_eq!(read["path"], "/ä\u{1}");
        assert_eq!(read["status"], 403);
    }

    #[test]
    fn lines_that_nobody_takes_are_bounded() {
        let queue = Queue::default();
        for _ in 0..QUEUE_LINES {
            assert!(queue.add(b"x\n"));
        }
        assert!(!queue.add(b"x\n"));
        let mut buffer = Vec::new();
        assert!(queue.take(&mut buffer));
        assert_eq!(buffer.len(), 2 * QUEUE_LINES);
        assert!(!queue.add(b"x\n"), "they are not out yet");
    }

    #[test]
    fn milliseconds_keep_microseconds() {
        let duration = Duration::from_nanos(1_234_567);
        assert!((milliseconds(duration) - 1.235).abs() < 1e-9);
    }
}
