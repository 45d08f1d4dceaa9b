//! The admin listener: `/healthz`, `/readyz`, `/metrics`, and `/v1/teams`.
//!
//! `/healthz` says that the process lives. `/readyz` says whether it should
//! be sent requests: not while the ledger does not answer (unless the operator
//! chose otherwise: what is not metered still passes then), not before the
//! upstream has an address, and not once the end has begun. What concerns
//! credits needs a bearer token and is in `admin/teams.rs`; the three others show no
//! team and need none.

pub mod facts;
pub mod figure;
mod request;
mod teams;
mod trouble;

use std::sync::Arc;

use async_trait::async_trait;
use http::{Method, Response, StatusCode};
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::http::ServerSession;
use serde::Serialize;

use self::teams::Teams;
use super::LiveSwap;
use super::life::Readiness;
use crate::config::Config;
use crate::edge::connection;
use crate::telemetry::Metrics;

/// The admin listener's answers.
pub struct AdminApp {
    metrics: Arc<Metrics>,
    readiness: Readiness,
    teams: Teams,
}

/// What `/readyz` says.
#[derive(Serialize)]
struct Ready {
    ready: bool,
    /// Why it is not ready.
    reasons: Vec<String>,
    /// The ledger's outage, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    outage: Option<String>,
}

impl AdminApp {
    /// The admin listener of a gateway.
    #[must_use]
    pub fn new(
        config: &Config,
        live: LiveSwap,
        metrics: Arc<Metrics>,
        readiness: Readiness,
    ) -> Self {
        let admin = config.server.admin.as_ref();
        let token = admin.and_then(|admin| admin.token.clone());
        AdminApp {
            metrics,
            readiness,
            teams: Teams::new(live, token),
        }
    }

    fn ready(&self) -> Response<Vec<u8>> {
        let report = self.readiness.report();
        let status = if report.reasons.is_empty() {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        let body = Ready {
            ready: report.reasons.is_empty(),
            reasons: report.reasons,
            outage: report.outage,
        };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        answer(status, "application/json", body)
    }

    fn metrics(&self) -> Response<Vec<u8>> {
        self.readiness.update(&self.metrics);
        answer(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            self.metrics.render(),
        )
    }
}

#[async_trait]
impl ServeHttp for AdminApp {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        connection::begin_request(session);
        if let Err(trouble) = request::framing(session) {
            // Nobody knows where the next request begins.
            session.set_keepalive(None);
            return self.teams.refuse(trouble, session);
        }
        let head = session.req_header();
        let path = head.uri.path();
        if path.starts_with("/v1/") {
            return self.teams.respond(session).await;
        }
        match (&head.method, path) {
            (&Method::GET | &Method::HEAD, "/healthz") => {
                answer(StatusCode::OK, "text/plain", b"ok\n".to_vec())
            }
            (&Method::GET | &Method::HEAD, "/readyz") => self.ready(),
            (&Method::GET | &Method::HEAD, "/metrics") => self.metrics(),
            (_, "/healthz" | "/readyz" | "/metrics") => {
                let mut refused = answer(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "text/plain",
                    b"use GET\n".to_vec(),
                );
                refused
                    .headers_mut()
                    .insert("allow", http::HeaderValue::from_static("GET, HEAD"));
                refused
            }
            _ => answer(
                StatusCode::NOT_FOUND,
                "text/plain",
                b"there is /healthz, /readyz, /metrics and /v1/teams\n".to_vec(),
            ),
        }
    }
}

fn answer(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Vec<u8>> {
    let length = body.len();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert("content-type", http::HeaderValue::from_static(kind));
    headers.insert("content-length", http::HeaderValue::from(length));
    headers.insert("cache-control", http::HeaderValue::from_static("no-store"));
    answer
}
