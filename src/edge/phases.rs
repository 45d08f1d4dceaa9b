//! What becomes of a request whose head is read: turned away, passed on, or
//! decided as a start.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::Method;
use pingora_error::Result;
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use super::admit::{Common, Decided, webhook};
use super::context::{Context, Start};
use super::live::{Live, StartRoute};
use super::problem::Problem;
use super::problem::style::{self, About};
use super::route::{self, Found};
use super::{Gateway, admit, answer, framing, trigger, watch};
use crate::telemetry::Outcome;

impl Gateway {
    /// Answers a request with a problem, in the form its protocol has.
    ///
    /// On the heap: the future is large, and would be copied about as a part of
    /// those of requests that are not answered here.
    pub(super) fn answer<'a>(
        &'a self,
        session: &'a mut Session,
        context: &'a mut Context,
        problem: &'a Problem,
    ) -> Pin<Box<dyn Future<Output = Result<bool>> + Send + 'a>> {
        Box::pin(self.write_answer(session, context, problem))
    }

    async fn write_answer(
        &self,
        session: &mut Session,
        context: &mut Context,
        problem: &Problem,
    ) -> Result<bool> {
        context.reason.get_or_insert(problem.code().name());
        let head = session.req_header();
        let instance = context.live.secrets.shown(head.raw_path());
        let trace_id = if problem.code().asks_for_support() {
            context.ids.trace_id()
        } else {
            String::new()
        };
        let about = About {
            instance: &instance,
            headers: &head.headers,
            trace_id: &trace_id,
        };
        let looks = &context.live.style;
        let rendered = match webhook::form(context) {
            Some(form) => looks.delivery(problem, about, form),
            None if style::is_grpc(head) => looks.grpc(problem, about, head.version),
            None => looks.http(problem, about),
        };
        let rendered = rendered?;
        answer::write(session, rendered).await?;
        Ok(true)
    }

    /// Why a request is answered before anybody asks what it is, if it is.
    pub(super) fn turn_away(
        &self,
        session: &mut Session,
        context: &Context,
    ) -> Option<(&'static str, Problem)> {
        let limits = context.live.limits;
        let http1 = session.as_downstream().as_http1();
        let raw_head = http1.map(|http1| http1.get_headers_raw_bytes());
        let framing = framing::check_seen(session.req_header(), context.seen, raw_head.as_deref());
        let is_large = |head: &Bytes| head.len() > limits.header_size;
        let away = if let Err(detail) = framing {
            ("framing", Problem::invalid(detail))
        } else if raw_head.as_ref().is_some_and(is_large) {
            ("head_too_large", Problem::head_too_large())
        } else if self.in_flight.load(Ordering::Relaxed) > limits.requests {
            return Some(("too_many_requests", Problem::unavailable()));
        } else {
            return None;
        };
        // Nobody knows where the next request would begin.
        session.set_keepalive(None);
        Some(away)
    }

    pub(super) async fn away(
        &self,
        session: &mut Session,
        context: &mut Context,
        reason: &'static str,
        problem: &Problem,
    ) -> Result<bool> {
        context.reason = Some(reason);
        self.metrics.turned_away(reason).inc();
        self.answer(session, context, problem).await
    }

    /// A request that is no start: it passes, untouched.
    pub(super) async fn pass(&self, session: &mut Session, context: &Context) -> Result<bool> {
        let head = session.req_header();
        match head.method {
            Method::OPTIONS => {
                let Some(wanted) = head.headers.get("access-control-request-method") else {
                    return Ok(false);
                };
                let wanted = String::from_utf8_lossy(wanted.as_bytes());
                let found = context
                    .live
                    .table
                    .find(&wanted, std::iter::empty(), head.raw_path());
                if found == Found::Passes {
                    return Ok(false);
                }
                let Some(preflight) = context.live.style.preflight(&head.headers) else {
                    return Ok(false);
                };
                Box::pin(answer::write(session, preflight?)).await?;
                Ok(true)
            }
            Method::GET | Method::HEAD | Method::TRACE => Ok(false),
            _ if watch::is_about_run(&context.live, head) => Ok(false),
            _ => {
                self.metrics.unlisted_writes.inc();
                Ok(false)
            }
        }
    }

    /// A start: admitted, or answered.
    pub(super) async fn start(
        &self,
        session: &mut Session,
        context: &mut Context,
        route: route::RouteIndex,
    ) -> Result<bool> {
        let live = Arc::clone(&context.live);
        let Some(start) = live.starts.get(route) else {
            return self.answer(session, context, &Problem::internal()).await;
        };
        let trigger = trigger::of(start, &session.req_header().headers, context.peer);
        context.start = Some(Start::new(route, trigger));
        let (outcome, problem) = match self.admit(&live, start, session, context).await {
            Ok(decided) => decided,
            Err(error) => {
                // The client did not send what has to be read first.
                note(start, context, Outcome::Invalid);
                return Err(error);
            }
        };
        note(start, context, outcome);
        self.count(start, context, (outcome, problem.as_ref()));
        let Some(problem) = problem else {
            return Ok(false);
        };
        if outcome == Outcome::Refused {
            self.tell(&live, start, session.req_header(), context, &problem);
        }
        self.answer(session, context, &problem).await
    }

    /// Decides a start, once its body is known to be one that may be sent on.
    async fn admit(
        &self,
        live: &Live,
        start: &StartRoute,
        session: &mut Session,
        context: &mut Context,
    ) -> Result<Decided> {
        if let Some(problem) = admit::body_bound(start, session.req_header()) {
            return Ok((Outcome::Invalid, Some(problem)));
        }
        let common = Common {
            metrics: &self.metrics,
            room: &self.room,
            replay_room: &self.replay_room,
        };
        if let Some(webhook) = webhook::of(start) {
            let receiving = webhook::receive(live, start, webhook, session, context, common);
            if let Some(decided) = Box::pin(receiving).await? {
                return Ok(decided);
            }
        }
        admit::decide(live, start, session, context, common).await
    }

    /// Counts why a start is answered, or in shadow mode would be.
    fn count(&self, start: &StartRoute, context: &Context, decided: (Outcome, Option<&Problem>)) {
        let Some(known) = &context.start else { return };
        if known.is_redelivery() {
            return;
        }
        match decided {
            (_, Some(problem)) => {
                let reason = context.reason.unwrap_or(problem.code().name());
                self.metrics
                    .count_refusal(&start.metrics, reason, known.trigger);
            }
            (Outcome::WouldRefuse, None) => {
                let reason = context.reason.unwrap_or_default();
                self.metrics.count_would_refuse(reason, known.trigger);
            }
            (_, None) => {}
        }
    }

    /// Tells of a refusal: the run that did not begin, and the person behind
    /// it.
    fn tell(
        &self,
        live: &Live,
        start: &StartRoute,
        head: &RequestHeader,
        context: &mut Context,
        problem: &Problem,
    ) {
        if context.start.as_ref().is_none_or(Start::is_redelivery) {
            return;
        }
        admit::offer_event(live, start, head, context);
        if let Some(webhook) = webhook::of(start) {
            webhook::tell(live, webhook, context, problem);
        }
    }
}

/// Counts what became of a start, and remembers it. A delivery that comes again
/// with the same verdict was counted when it came first.
fn note(start: &StartRoute, context: &mut Context, outcome: Outcome) {
    let Some(known) = context.start.as_mut() else {
        return;
    };
    known.outcome = Some(outcome);
    if known.is_redelivery() {
        start.metrics.count_redelivery();
    } else {
        start.metrics.count(outcome);
    }
}
