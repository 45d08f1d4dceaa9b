//! The one place where a verdict or a fault becomes HTTP.
//!
//! A [`Problem`] is one of a closed set of named constructors, each of which
//! fixes status, code, retryability and gRPC status together, so that no
//! answer can contradict itself. How it looks on the wire, and what the
//! operator may choose about that, is in [`style`]; what a fault means in
//! [`fault`]. Writing an answer to a client that may still be sending is in
//! [`super::answer`].

pub mod fault;
pub mod style;

use std::borrow::Cow;

use super::identify::NoPayer;
use crate::billing::admission::Refusal;

/// What API clients call the kinds of problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The team has run out of credits.
    InsufficientCredits,
    /// No or unknown credentials.
    AuthenticationRequired,
    /// Credentials that do not cover this team.
    NotAuthorized,
    /// The request cannot be understood safely.
    InvalidRequest,
    /// Something that should be there is not, for now.
    ResourceUnavailable,
    /// Something broke.
    InternalError,
}

impl Code {
    /// The code in metrics, logs and headers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Code::InsufficientCredits => "insufficient_credits",
            Code::AuthenticationRequired => "authentication_required",
            Code::NotAuthorized => "not_authorized",
            Code::InvalidRequest => "invalid_request",
            Code::ResourceUnavailable => "resource_unavailable",
            Code::InternalError => "internal_error",
        }
    }

    /// The code as the last segment of `type`.
    const fn slug(self) -> &'static str {
        match self {
            Code::InsufficientCredits => "insufficient-credits",
            Code::AuthenticationRequired => "authentication-required",
            Code::NotAuthorized => "not-authorized",
            Code::InvalidRequest => "invalid-request",
            Code::ResourceUnavailable => "resource-unavailable",
            Code::InternalError => "internal-error",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Code::InsufficientCredits => {
                "Your team has run out of add-on credits. Purchase more credits in your team's billing settings to continue."
            }
            Code::AuthenticationRequired => {
                "Your API key is invalid or has expired. Please generate a new key and try again."
            }
            Code::NotAuthorized => "Your API key does not give access to this team.",
            Code::InvalidRequest => "The request contains invalid or missing parameters.",
            Code::ResourceUnavailable => {
                "The service is temporarily unavailable. Please try again in a moment."
            }
            Code::InternalError => {
                "An unexpected error occurred. Please try again later. If the issue persists, contact support."
            }
        }
    }

    /// The gRPC status for it.
    const fn grpc_status(self) -> &'static str {
        match self {
            Code::InvalidRequest => "3",
            Code::InsufficientCredits | Code::NotAuthorized => "7",
            Code::InternalError => "13",
            Code::ResourceUnavailable => "14",
            Code::AuthenticationRequired => "16",
        }
    }

    /// Whether people are told to contact support, who will want the trace.
    const fn asks_for_support(self) -> bool {
        matches!(self, Code::InternalError)
    }
}

/// What the client may do about it. The header `x-should-retry` decides for
/// the SDKs before anything else does; where the gateway has nothing to say
/// about a retry, it is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retry {
    /// Nothing happened, and it will not go better the next time.
    Never,
    /// Nothing happened, and it may go better in a second.
    Soon,
    /// It may have happened: trying again may pay twice.
    OutcomeUnknown,
    /// Trying again does no harm; the client's own rule decides.
    ClientsChoice,
}

/// An answer that the gateway makes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    status: u16,
    code: Code,
    detail: Option<Cow<'static, str>>,
    retry: Retry,
    /// The error type of RFC 9209.
    proxy_error: &'static str,
}

/// Whether the request that failed could have started a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A start.
    Start,
    /// No start, and sending it again does what sending it once does.
    Safe,
    /// No start, and sending it again may do it again.
    Other,
}

/// How far a request to the upstream got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamFault {
    /// Nothing was sent.
    Unreached(&'static str),
    /// It was sent, and the connection broke or talked nonsense.
    Broke,
    /// It was sent, and no answer came in time.
    TimedOut,
}

impl Problem {
    /// The team has no credits.
    #[must_use]
    pub fn refused(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::InsufficientCredits | Refusal::NoBalance => Code::InsufficientCredits,
        };
        Problem::for_good(403, code)
    }

    /// Nobody was found to pay. `None` where that is an outage, not an answer.
    #[must_use]
    pub fn no_payer(why: &NoPayer) -> Option<Self> {
        match why {
            NoPayer::Unauthenticated => Some(Problem::for_good(401, Code::AuthenticationRequired)),
            NoPayer::NotTheirs(_) => Some(Problem::for_good(403, Code::NotAuthorized)),
            NoPayer::Invalid(detail) => Some(Problem::invalid(detail)),
            NoPayer::Unknown(_) => None,
        }
    }

    /// The balance cannot be found out, or there is too much to do.
    #[must_use]
    pub fn unavailable() -> Self {
        Problem {
            status: 503,
            code: Code::ResourceUnavailable,
            detail: None,
            retry: Retry::Soon,
            proxy_error: "proxy_internal_response",
        }
    }

    /// The request cannot be understood safely.
    #[must_use]
    pub fn invalid(detail: &'static str) -> Self {
        Problem {
            status: 400,
            code: Code::InvalidRequest,
            detail: Some(Cow::Borrowed(detail)),
            retry: Retry::Never,
            proxy_error: "http_request_error",
        }
    }

    /// The body is larger than the route allows.
    #[must_use]
    pub fn body_too_large(max_bytes: u64) -> Self {
        let detail = format!("the body is larger than {max_bytes} bytes");
        Problem {
            status: 413,
            detail: Some(Cow::Owned(detail)),
            ..Problem::invalid("")
        }
    }

    /// The head is larger than allowed.
    #[must_use]
    pub fn head_too_large() -> Self {
        Problem {
            status: 431,
            ..Problem::invalid("the request head is too large")
        }
    }

    /// The client took too long to send the request.
    #[must_use]
    pub fn too_slow() -> Self {
        Problem {
            status: 408,
            ..Problem::invalid("the request did not arrive in time")
        }
    }

    /// The gateway itself broke, before anything was sent.
    #[must_use]
    pub fn internal() -> Self {
        Problem {
            status: 500,
            code: Code::InternalError,
            detail: None,
            retry: Retry::Soon,
            proxy_error: "proxy_internal_error",
        }
    }

    /// The upstream did not answer.
    #[must_use]
    pub fn upstream(fault: UpstreamFault, kind: Kind) -> Self {
        let (status, proxy_error) = match fault {
            UpstreamFault::Unreached(why) => {
                return Problem {
                    proxy_error: why,
                    ..Problem::unavailable()
                };
            }
            UpstreamFault::Broke => (502, "connection_terminated"),
            UpstreamFault::TimedOut => (504, "connection_read_timeout"),
        };
        let retry = match kind {
            Kind::Start => Retry::OutcomeUnknown,
            Kind::Safe | Kind::Other => Retry::ClientsChoice,
        };
        Problem {
            status,
            code: Code::InternalError,
            detail: None,
            retry,
            proxy_error,
        }
    }

    fn for_good(status: u16, code: Code) -> Self {
        Problem {
            status,
            code,
            detail: None,
            retry: Retry::Never,
            proxy_error: "http_request_denied",
        }
    }

    /// The code, which is also the reason where there is no finer one.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The sentence for people: the title, and the detail if there is one.
    fn sentence(&self) -> Cow<'static, str> {
        match &self.detail {
            None => Cow::Borrowed(self.code.title()),
            Some(detail) => Cow::Owned(format!("{} ({detail})", self.code.title())),
        }
    }

    fn should_retry(&self) -> Option<&'static str> {
        match self.retry {
            Retry::Never | Retry::OutcomeUnknown => Some("false"),
            Retry::Soon => Some("true"),
            Retry::ClientsChoice => None,
        }
    }

    fn retryable(&self) -> bool {
        matches!(self.retry, Retry::Soon | Retry::ClientsChoice)
    }
}
