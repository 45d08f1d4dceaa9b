//! Problems of the admin listener: RFC 9457 bodies of the form that the edge's
//! have, with sentences for operators and billing engineers.
//!
//! What clients of the API are answered is in [`crate::edge::problem`].

use http::{HeaderValue, Response, StatusCode};
use serde_json::{Map, Value};

use super::answer;
use crate::ledger::LedgerError;

const RETRY_AFTER: &str = "retry-after";

/// What to say of sending something again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// It would go the same way.
    Useless,
    /// Nothing was changed, or sending it again changes it once.
    Safe,
    /// It may have been done, and would be done a second time.
    Unsafe,
}

/// A request that is not answered with what it asked for.
#[derive(Debug)]
pub(super) struct Trouble {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: String,
    again: Again,
    header: Option<(&'static str, &'static str)>,
    facts: Map<String, Value>,
}

impl Trouble {
    fn new(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Trouble {
            status,
            code,
            title,
            detail: detail.into(),
            again: Again::Useless,
            header: None,
            facts: Map::new(),
        }
    }

    /// No token is configured, so nobody may.
    pub(super) fn closed() -> Self {
        Trouble::new(
            StatusCode::FORBIDDEN,
            "not_authorized",
            "Nobody may see or change credits here.",
            "set server.admin.token in the configuration and restart the gateway",
        )
    }

    /// The token is absent or another.
    pub(super) fn unauthenticated() -> Self {
        Trouble {
            header: Some(("www-authenticate", "Bearer")),
            ..Trouble::new(
                StatusCode::UNAUTHORIZED,
                "authentication_required",
                "The bearer token is missing or wrong.",
                "send authorization: Bearer and the value of server.admin.token",
            )
        }
    }

    /// Nothing is at this path.
    pub(super) fn no_such_path() -> Self {
        Trouble::missing(
            "There is nothing at this path.",
            "under /v1/teams/{team} there are GET itself, GET holds, GET statement, POST grants and POST holds/{hold or run}/settle, charge and release",
        )
    }

    /// The hold is not known.
    pub(super) fn unknown_hold(which: &str) -> Self {
        Trouble::missing(
            "This team has no such hold.",
            format!(
                "no hold of the team has the id `{which}` or belongs to a run with it, or it ended longer ago than admission.remember"
            ),
        )
    }

    fn missing(title: &'static str, detail: impl Into<String>) -> Self {
        Trouble::new(StatusCode::NOT_FOUND, "resource_not_found", title, detail)
    }

    /// Another method is needed.
    pub(super) fn method(allowed: &'static str) -> Self {
        Trouble {
            header: Some(("allow", allowed)),
            ..Trouble::invalid(format!("this path takes {allowed}"))
                .status(StatusCode::METHOD_NOT_ALLOWED)
        }
    }

    /// The request does not say what it should.
    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Trouble::new(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            "The request cannot be understood.",
            detail,
        )
    }

    /// As it is, with another status.
    pub(super) fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// It cannot be done as things are; `facts` say how they are.
    pub(super) fn conflict(
        title: &'static str,
        detail: impl Into<String>,
        facts: Map<String, Value>,
    ) -> Self {
        Trouble {
            facts,
            ..Trouble::new(StatusCode::CONFLICT, "conflict", title, detail)
        }
    }

    /// Nobody writes lines for the team.
    pub(super) fn needs_writer() -> Self {
        Trouble::conflict(
            "There are no statements where billing writes balances.",
            "this needs balances.writer: tollgate",
            Map::new(),
        )
    }

    /// The gateway does not set credits aside.
    pub(super) fn needs_hold_mode() -> Self {
        Trouble::conflict(
            "There are no holds in lookup mode.",
            "this needs admission.mode: hold",
            Map::new(),
        )
    }

    /// The ledger did not do it. `again` is what repeating means once it was
    /// sent and not answered.
    pub(super) fn ledger(error: &LedgerError, again: Again) -> Self {
        match error {
            LedgerError::Outage(why) => {
                Trouble::unavailable("The ledger does not answer.", why, Again::Safe)
            }
            LedgerError::OutcomeUnknown(why) => {
                let advice = match again {
                    Again::Safe => {
                        "it may have been done; sending the same request again is safe and does it once"
                    }
                    _ => {
                        "it may have been done: look at the balance before you send it again, or give an id so that repeating is safe"
                    }
                };
                let detail = format!("{advice}; {why}");
                Trouble::unavailable("The ledger was told and did not reply.", detail, again)
            }
            LedgerError::Corrupt(why) => Trouble::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal_error",
                "The ledger has no usable entry for this team.",
                why,
            ),
            // Never a conflict: who settles takes that for settled.
            LedgerError::Full(advice) => Trouble::unavailable(
                "The team's statement is full, and nothing was changed.",
                advice,
                Again::Safe,
            ),
            LedgerError::Unsupported(why) => Trouble::conflict(
                "The ledger cannot do that, and nothing was changed.",
                why,
                Map::new(),
            ),
        }
    }

    /// It does not go now.
    pub(super) fn unavailable(
        title: &'static str,
        detail: impl Into<String>,
        again: Again,
    ) -> Self {
        Trouble {
            again,
            header: Some((RETRY_AFTER, "1")),
            ..Trouble::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "resource_unavailable",
                title,
                detail,
            )
        }
    }

    /// The answer to a request for this path.
    pub(super) fn response(self, type_base: &str, instance: &str) -> Response<Vec<u8>> {
        let slug = self.code.replace('_', "-");
        let error = format!("{} ({})", self.title, self.detail);
        let mut body = Map::new();
        let mut put = |name: &str, value: Value| drop(body.insert(name.to_owned(), value));
        put("type", format!("{type_base}{slug}/").into());
        put("title", self.title.into());
        put("status", self.status.as_u16().into());
        put("detail", self.detail.into());
        put("instance", instance.into());
        put("error", error.into());
        put("retryable", (self.again == Again::Safe).into());
        // What is said of the hold never replaces what every problem has.
        for (name, value) in self.facts {
            body.entry(name).or_insert(value);
        }
        let body = Value::Object(body).to_string().into_bytes();
        let mut answer = answer(self.status, "application/problem+json", body);
        let headers = answer.headers_mut();
        let should_retry = if self.again == Again::Safe {
            "true"
        } else {
            "false"
        };
        headers.insert("x-should-retry", HeaderValue::from_static(should_retry));
        if let Some((name, value)) = self.header {
            let withheld = name == RETRY_AFTER && self.again != Again::Safe;
            if !withheld {
                headers.insert(name, HeaderValue::from_static(value));
            }
        }
        answer
    }
}
