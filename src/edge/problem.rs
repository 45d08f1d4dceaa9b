//! The one place where a verdict or a fault becomes HTTP.
//!
//! A [`Problem`] is one of a closed set of named constructors, each of which
//! fixes status, code, retryability and gRPC status together, so that no
//! answer can contradict itself. How it looks on the wire, and what the
//! operator may choose about that, is in [`style`], and to the people behind an
//! integration in [`message`]; what a fault means in
//! [`fault`]. Writing an answer to a client that may still be sending is in
//! [`super::answer`].

pub mod fault;
pub mod message;
mod prepared;
pub mod style;

use std::borrow::Cow;
use std::time::Duration;

use super::identify::NoPayer;
use super::webhooks::signature::SignatureFault;
use crate::billing::admission::Refusal;
use crate::billing::credits::Credits;
use crate::billing::hold::Held;

/// What API clients call the kinds of problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The team has run out of credits.
    InsufficientCredits,
    /// No or unknown credentials.
    AuthenticationRequired,
    /// Credentials that do not cover this team.
    NotAuthorized,
    /// Nobody said which team pays for this workspace.
    IntegrationNotConfigured,
    /// The request cannot be understood safely.
    InvalidRequest,
    /// The request is at odds with an earlier one.
    Conflict,
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
            Code::IntegrationNotConfigured => "integration_not_configured",
            Code::InvalidRequest => "invalid_request",
            Code::Conflict => "conflict",
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
            Code::IntegrationNotConfigured => "integration-not-configured",
            Code::InvalidRequest => "invalid-request",
            Code::Conflict => "conflict",
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
            Code::IntegrationNotConfigured => "This workspace is not connected to a team.",
            Code::InvalidRequest => "The request contains invalid or missing parameters.",
            Code::Conflict => "The request conflicts with an earlier one.",
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
            // Not ABORTED (10), which callers take for "send it again".
            Code::Conflict => "6",
            Code::InsufficientCredits | Code::NotAuthorized => "7",
            // FAILED_PRECONDITION: not before somebody connects it.
            Code::IntegrationNotConfigured => "9",
            Code::InternalError => "13",
            Code::ResourceUnavailable => "14",
            Code::AuthenticationRequired => "16",
        }
    }

    /// Whether people are told to contact support, who will want the trace.
    pub(super) const fn asks_for_support(self) -> bool {
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
    /// Nothing happened, and it goes no better before this many seconds.
    NotBefore(u64),
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
    title: &'static str,
    detail: Option<Cow<'static, str>>,
    retry: Retry,
    /// The error type of RFC 9209.
    proxy_error: &'static str,
    /// What a 401 asks for (RFC 9110, section 11.6.1).
    challenge: &'static str,
}

/// The sentence for a team whose credits are all set aside.
const CREDITS_HELD: &str = "Your team's remaining add-on credits are set aside for runs in progress. Wait for them to finish, or purchase more credits in your team's billing settings.";

/// The sentence for a team that has fewer credits than a run sets aside.
const BELOW_HOLD: &str = "Your team does not have enough add-on credits left for this run. Purchase more credits in your team's billing settings to continue.";

/// The sentence for a delivery that is not known to be genuine.
const UNSIGNED: &str = "The signature of this delivery cannot be accepted.";

/// What an answer tells of credits that are set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// What the team's live holds amount to.
    pub held: Held,
    /// The balance.
    pub balance: Credits,
    /// What the start would set aside.
    pub hold: Credits,
    /// Until the earliest of them ends, if nothing is heard of its run.
    pub next_end: Option<Duration>,
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
        let problem = Problem::for_good(403, Code::InsufficientCredits);
        match refusal {
            Refusal::InsufficientCredits | Refusal::NoBalance => problem,
            Refusal::CreditsHeld => Problem {
                title: CREDITS_HELD,
                ..problem
            },
            Refusal::BelowHold => Problem {
                title: BELOW_HOLD,
                ..problem
            },
        }
    }

    /// The team has credits, and runs in progress hold them.
    #[must_use]
    pub fn credits_held(aside: SetAside) -> Self {
        let SetAside {
            held,
            balance,
            hold,
            next_end,
        } = aside;
        // Billing may have debited what is still held: no more than there is.
        let credits = held.credits.min(balance);
        let runs = if held.live == 1 { "run" } else { "runs" };
        let detail = format!(
            "{credits} of {balance} credits are set aside for {} {runs}, and this run sets {hold} aside",
            held.live
        );
        let retry = match next_end {
            None => Retry::Never,
            Some(end) => Retry::NotBefore(whole_seconds(end)),
        };
        Problem {
            detail: Some(Cow::Owned(detail)),
            retry,
            ..Problem::refused(Refusal::CreditsHeld)
        }
    }

    /// The team has credits, and fewer than the start sets aside: waiting does
    /// not help.
    #[must_use]
    pub fn below_hold(balance: Credits, hold: Credits) -> Self {
        let detail = format!("{balance} credits are left, and this run sets {hold} aside");
        Problem {
            detail: Some(Cow::Owned(detail)),
            ..Problem::refused(Refusal::BelowHold)
        }
    }

    /// The idempotency key was used for another request.
    ///
    /// As it was, it conflicts again: body and header say so alike. The SDKs
    /// would send a 409 again, up to twice, without the header.
    #[must_use]
    pub fn conflict() -> Self {
        let detail = "the Idempotency-Key was used for another request: use a new key for a new request, and repeat one with the same path, query and body";
        Problem {
            detail: Some(Cow::Borrowed(detail)),
            ..Problem::for_good(409, Code::Conflict)
        }
    }

    /// Nobody was found to pay. `None` where that is an outage, not an answer.
    #[must_use]
    pub fn no_payer(why: &NoPayer) -> Option<Self> {
        match why {
            NoPayer::Unauthenticated => Some(Problem::for_good(401, Code::AuthenticationRequired)),
            NoPayer::NotTheirs(_) => Some(Problem::for_good(403, Code::NotAuthorized)),
            NoPayer::Invalid(detail) => Some(Problem::invalid(*detail)),
            NoPayer::Unvouched(_) => Some(Problem::unavailable()),
            NoPayer::Unknown(_) => None,
        }
    }

    /// The signature of a delivery does not hold. Whoever sent it learns
    /// nothing of teams or credits.
    #[must_use]
    pub fn unsigned(fault: SignatureFault) -> Self {
        let detail = match fault {
            SignatureFault::Missing => "it has none, or no time",
            SignatureFault::Malformed => "it is malformed",
            SignatureFault::Mismatch => "it was not made with the secret for this body and time",
            SignatureFault::Stale => "it was made too long ago",
            SignatureFault::Early => "it was made in the future",
        };
        Problem {
            title: UNSIGNED,
            detail: Some(Cow::Borrowed(detail)),
            challenge: "Signature",
            ..Problem::for_good(401, Code::AuthenticationRequired)
        }
    }

    /// A genuine delivery of a workspace that nobody pays for.
    #[must_use]
    pub fn not_connected() -> Self {
        let detail = "connect it in your team's integration settings, then try again";
        Problem {
            detail: Some(Cow::Borrowed(detail)),
            ..Problem::for_good(400, Code::IntegrationNotConfigured)
        }
    }

    /// The balance cannot be found out, or there is too much to do.
    #[must_use]
    pub fn unavailable() -> Self {
        Problem {
            retry: Retry::Soon,
            proxy_error: "proxy_internal_response",
            ..Problem::for_good(503, Code::ResourceUnavailable)
        }
    }

    /// The request cannot be understood safely.
    #[must_use]
    pub fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Problem {
            detail: Some(detail.into()),
            proxy_error: "http_request_error",
            ..Problem::for_good(400, Code::InvalidRequest)
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
            retry: Retry::Soon,
            proxy_error: "proxy_internal_error",
            ..Problem::for_good(500, Code::InternalError)
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
            retry,
            proxy_error,
            ..Problem::for_good(status, Code::InternalError)
        }
    }

    fn for_good(status: u16, code: Code) -> Self {
        Problem {
            status,
            code,
            title: code.title(),
            detail: None,
            retry: Retry::Never,
            proxy_error: "http_request_denied",
            challenge: "Bearer",
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
    #[must_use]
    pub fn sentence(&self) -> Cow<'static, str> {
        match &self.detail {
            None => Cow::Borrowed(self.title),
            Some(detail) => Cow::Owned(format!("{} ({detail})", self.title)),
        }
    }

    /// What intermediaries are told (RFC 9209).
    fn proxy_status(&self) -> String {
        let (error, details) = (self.proxy_error, self.code.name());
        format!("tollgate; error={error}; details=\"{details}\"")
    }

    fn should_retry(&self) -> Option<&'static str> {
        match self.retry {
            Retry::Never | Retry::NotBefore(_) | Retry::OutcomeUnknown => Some("false"),
            Retry::Soon => Some("true"),
            Retry::ClientsChoice => None,
        }
    }

    fn retryable(&self) -> bool {
        matches!(self.retry, Retry::Soon | Retry::ClientsChoice)
    }
}

/// A span in whole seconds, rounded up, one at the least: `retry-after: 0`
/// would ask for a loop.
fn whole_seconds(span: Duration) -> u64 {
    let rest = u64::from(span.subsec_nanos() > 0);
    span.as_secs().saturating_add(rest).max(1)
}
