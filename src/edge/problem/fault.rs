//! What a fault of the upstream, the client or the gateway means for the one
//! who waits for an answer.

use http::Method;
use pingora_error::{Error, ErrorSource, ErrorType};

use super::{Kind, Problem, UpstreamFault};

/// What has to be known about a request to explain its fault.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Whether it could have started a run.
    pub start: Option<StartBounds>,
    /// Its method.
    pub method: &'a Method,
    /// Whether any of it was sent to the upstream.
    pub progress: Progress,
}

/// What a start's route allows.
#[derive(Clone, Copy, Debug)]
pub struct StartBounds {
    /// The largest body, in bytes.
    pub max_body: Option<u64>,
}

/// How far a request got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing of it was sent.
    NotSent,
    /// Something of it was sent, or may have been.
    Sent,
}

/// The answer to a fault; `None` if nobody is left to answer.
#[must_use]
pub fn problem(error: &Error, request: Request<'_>) -> Option<Problem> {
    let kind = match (request.start, request.method) {
        (Some(_), _) => Kind::Start,
        (None, method) if method.is_idempotent() => Kind::Safe,
        (None, _) => Kind::Other,
    };
    let etype = error.etype();
    match (error.esource(), etype, request.progress) {
        (_, ErrorType::HTTPStatus(413), _) => {
            let max_body = request.start.and_then(|start| start.max_body);
            Some(Problem::body_too_large(max_body.unwrap_or_default()))
        }
        (_, ErrorType::HTTPStatus(503), Progress::NotSent) => Some(Problem::unavailable()),
        (ErrorSource::Upstream, _, Progress::NotSent) => {
            let fault = UpstreamFault::Unreached(unreached(etype));
            Some(Problem::upstream(fault, kind))
        }
        (ErrorSource::Upstream, ErrorType::ReadTimedout | ErrorType::WriteTimedout, _) => {
            Some(Problem::upstream(UpstreamFault::TimedOut, kind))
        }
        (ErrorSource::Upstream, _, _) => Some(Problem::upstream(UpstreamFault::Broke, kind)),
        (ErrorSource::Downstream, ErrorType::ReadTimedout, _) => Some(Problem::too_slow()),
        (
            ErrorSource::Downstream,
            ErrorType::ReadError
            | ErrorType::WriteError
            | ErrorType::WriteTimedout
            | ErrorType::ConnectionClosed,
            _,
        ) => None,
        (ErrorSource::Downstream, ErrorType::InvalidHTTPHeader, _) => {
            Some(Problem::invalid("a header is malformed"))
        }
        (ErrorSource::Downstream, _, _) => Some(Problem::invalid("the body is malformed")),
        (ErrorSource::Internal | ErrorSource::Unset, _, Progress::Sent) => {
            Some(Problem::upstream(UpstreamFault::Broke, kind))
        }
        (ErrorSource::Internal | ErrorSource::Unset, _, Progress::NotSent) => {
            Some(Problem::internal())
        }
    }
}

/// The error type of RFC 9209 for a connection that was not made.
fn unreached(etype: &ErrorType) -> &'static str {
    match etype {
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => "connection_timeout",
        ErrorType::ConnectRefused => "connection_refused",
        ErrorType::TLSHandshakeFailure | ErrorType::TLSWantX509Lookup => "tls_protocol_error",
        ErrorType::InvalidCert => "tls_certificate_error",
        _ => "destination_unavailable",
    }
}
