//! HTTP: the phases of a request, each a few lines that call down.
//!
//! What a request meets, in order: [`framing`] refuses heads that cannot be
//! understood safely, [`route`] finds out whether it starts a run, [`identify`]
//! who pays; the ledger says what the team has and
//! [`crate::billing::admission`] decides; [`problem`] and [`answer`] refuse,
//! [`forward`] and [`upstreams`] pass on, and [`watch`] looks at what comes
//! back. Admission happens in `request_filter`, once: the phases that Pingora
//! repeats on an upstream retry never touch money.

pub mod admit;
pub mod answer;
pub mod body;
pub mod connection;
pub mod context;
pub mod forward;
pub mod framing;
pub mod identify;
pub mod listener;
pub mod live;
pub mod logged;
pub mod peek;
mod phases;
pub mod problem;
pub mod replay;
pub mod route;
pub mod secret;
pub mod seen;
pub mod trace;
pub mod trigger;
pub mod upstreams;
pub mod watch;
pub mod webhooks;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::header::EXPECT;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use crate::telemetry::Metrics;
use body::Room;
use connection::Phase;
use context::{AboutRun, Attempt, Context, InFlight};
use forward::Scheme;
use identify::certificate::Certificate;
use live::Live;
use logged::Logged;
use problem::{Problem, fault};
use route::Found;
use seen::Seen;
use trace::Ids;
use watch::End;

/// The gateway.
pub struct Gateway {
    live: Arc<ArcSwap<Live>>,
    metrics: Arc<Metrics>,
    logged: Logged,
    in_flight: Arc<AtomicUsize>,
    room: Room,
    replay_room: Room,
}

impl Gateway {
    /// A gateway on a configuration that can be replaced under it.
    #[must_use]
    pub fn new(
        live: Arc<ArcSwap<Live>>,
        metrics: Arc<Metrics>,
        logged: Logged,
        in_flight: Arc<AtomicUsize>,
    ) -> Self {
        Gateway {
            live,
            metrics,
            logged,
            in_flight,
            room: Room::default(),
            replay_room: Room::default(),
        }
    }
}

/// Whether the client has the head of its answer, or speaks another protocol by
/// now.
fn is_answered(session: &Session) -> bool {
    session
        .response_written()
        .is_some_and(|answer| !answer.status.is_informational() || answer.status == 101)
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Box<Context>;

    fn new_ctx(&self) -> Self::CTX {
        let in_flight = InFlight::enter(&self.in_flight);
        // On the heap: Pingora moves it about with the future of a request, which
        // is large enough.
        Box::new(Context {
            live: self.live.load_full(),
            began: Instant::now(),
            began_at: SystemTime::now(),
            peer: None,
            certificate: None,
            ids: Ids::default(),
            seen: Seen::default(),
            start: None,
            hold_until: None,
            attempt: Attempt::default(),
            looking: None,
            cost: None,
            run: AboutRun::default(),
            reason: None,
            fault: None,
            body_bytes: 0,
            body: None,
            in_flight,
        })
    }

    fn init_downstream_modules(&self, _: &mut pingora_core::modules::http::HttpModules) {
        // None: the default compresses, and what passes is not touched.
    }

    fn on_connection_reuse(
        &self,
        _: &mut Session,
        _: &mut Self::CTX,
        phase: Box<dyn std::any::Any + Send + Sync>,
    ) {
        if let Ok(phase) = phase.downcast::<Arc<Phase>>() {
            phase.set_busy();
        }
    }

    async fn early_request_filter(
        &self,
        session: &mut Session,
        context: &mut Self::CTX,
    ) -> Result<()> {
        let limits = context.live.limits;
        session.set_read_timeout(Some(limits.body_timeout));
        if session.is_http2() {
            // A stream that opens no window does not show at the socket, where
            // the connection has a clock of its own.
            session.set_write_timeout(Some(limits.write_timeout));
        }
        let peer = session.client_addr().and_then(|address| address.as_inet());
        context.peer = peer.map(|address| address.ip().to_canonical());
        if context.live.identities.ask_certificates() {
            context.certificate = session.digest().and_then(Certificate::of);
        }
        let headers = &session.req_header().headers;
        context.seen = Seen::of(headers);
        context.ids = match context.seen.ids {
            true => Ids::of(headers),
            false => Ids::made(),
        };
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Self::CTX) -> Result<bool> {
        if let Some((reason, problem)) = self.turn_away(session, context) {
            return self.away(session, context, reason, &problem).await;
        }
        match admit::find_seen(&context.live.table, session.req_header(), context.seen) {
            Found::Passes => {
                watch::request(context, session.req_header());
                self.pass(session, context).await
            }
            Found::Start(route) => self.start(session, context, route).await,
            Found::Ambiguous => {
                let problem = Problem::invalid("the path can be read in several ways");
                self.away(session, context, "ambiguous_path", &problem)
                    .await
            }
        }
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        is_last: bool,
        context: &mut Self::CTX,
    ) -> Result<()> {
        if admit::hold::is_past(context) && !is_answered(session) {
            let error = Error::explain(
                ErrorType::ReadTimedout,
                "the body took longer than credits are set aside for it",
            );
            return Err(error.into_down());
        }
        if let Some(held) = &context.body {
            // It was measured when it was read.
            held.put_back(body);
        } else if let Some(max_body) = context.route().and_then(|route| route.max_body) {
            let more = body.as_ref().map_or(0, Bytes::len);
            context.body_bytes = context
                .body_bytes
                .saturating_add(more.try_into().unwrap_or(u64::MAX));
            if context.body_bytes > max_body {
                return Error::e_explain(ErrorType::HTTPStatus(413), "the body is too large");
            }
        }
        // Pingora puts it into the queue for the upstream next, unless it is
        // nothing at all.
        if (is_last || body.as_ref().is_some_and(|part| !part.is_empty()))
            && let Some(passage) = &context.attempt.passage
        {
            passage.announce_part();
        }
        Ok(())
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        context: &mut Self::CTX,
    ) -> Result<Box<HttpPeer>> {
        let live = &context.live;
        let read_timeout = context.route().and_then(|route| route.read_timeout);
        let picked = live.upstreams.pick(&context.attempt.failed, read_timeout);
        let Some(picked) = picked else {
            let error = Error::explain(
                ErrorType::ConnectNoRoute,
                "no upstream address is left to try",
            );
            return Err(error.into_up());
        };
        let mut peer = picked.peer;
        if session.is_upgrade_req() {
            upstreams::set_http1(&mut peer);
        }
        context.attempt.address = Some(picked.address);
        context.attempt.passage = picked.passage;
        Ok(peer)
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        context: &mut Self::CTX,
        mut error: Box<Error>,
    ) -> Box<Error> {
        // Nothing was sent, so another address may be tried, whatever the method.
        context.attempt.failed.extend(context.attempt.address);
        let upstreams = &context.live.upstreams;
        error.set_retry(upstreams.is_any_left(&context.attempt.failed));
        error
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        context: &mut Self::CTX,
        reused: bool,
    ) -> Box<Error> {
        let mut error = error.more_context(format!("Peer: {peer}"));
        // A start is sent once, whatever its method: it was admitted once.
        let is_repeatable = context.start.is_none()
            && session.req_header().method.is_idempotent()
            && !session.as_ref().retry_buffer_truncated();
        let passage = context.attempt.passage.as_ref();
        if passage.is_some_and(|passage| passage.is_late()) {
            error.etype = ErrorType::ReadTimedout;
        }
        if is_repeatable {
            // Pingora takes every connection of ours for a new one.
            let reused = reused || passage.is_some_and(|passage| passage.is_reused());
            error.retry.decide_reuse(reused);
        } else {
            error.set_retry(false);
        }
        error
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        context: &mut Self::CTX,
    ) -> Result<()> {
        if admit::hold::is_past(context) {
            let error = Error::explain(
                ErrorType::ConnectTimedout,
                "reaching the upstream took longer than credits are set aside for it",
            );
            return Err(error.into_up());
        }
        let tls = session
            .digest()
            .is_some_and(|digest| digest.ssl_digest.is_some());
        let scheme = if tls { Scheme::Https } else { Scheme::Http };
        context.live.forward.apply(request, context, scheme)?;
        if context.body.is_some() {
            // The body is here: the client was told to go on, if it waited.
            request.remove_header(&EXPECT);
        }
        // The connection is there and the head goes out next: from here on
        // nobody can say that nothing was sent.
        context.attempt.sent = Some(Instant::now());
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Self::CTX,
    ) -> Result<()> {
        if !response.status.is_informational() {
            context.attempt.answered = context.attempt.sent.map(|sent| sent.elapsed());
            context.attempt.status = Some(response.status.as_u16());
            // It was sent, and no other attempt follows.
            context.body = None;
        }
        watch::answer(context, &session.req_header().method, response);
        Ok(())
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        context: &mut Self::CTX,
    ) -> Result<Option<Duration>> {
        if context.looking.is_some() {
            let end = if end_of_stream { End::Last } else { End::More };
            watch::body(context, body.as_ref(), end);
        }
        Ok(None)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        context: &mut Self::CTX,
    ) -> FailToProxy {
        let answered = is_answered(session);
        let request = fault::Request {
            start: context.route().map(|route| fault::StartBounds {
                max_body: route.max_body,
            }),
            method: &session.req_header().method,
            progress: match context.attempt.sent {
                None => fault::Progress::NotSent,
                Some(_) => fault::Progress::Sent,
            },
        };
        let problem = fault::problem(error, request);
        context.fault = Some(error.etype().as_str().to_owned());
        if *error.esource() == ErrorSource::Upstream {
            self.metrics.upstream_faults.inc();
        }
        let Some(problem) = problem.filter(|_| !answered) else {
            return FailToProxy {
                error_code: 0,
                can_reuse_downstream: false,
            };
        };
        session.set_keepalive(None);
        // Whatever was decided before, this is what it is answered for.
        context.reason = Some(problem.code().name());
        let error_code = problem.status();
        if let Err(gone) = self.answer(session, context, &problem).await {
            tracing::debug!(error = %gone, "the client is gone");
        }
        FailToProxy {
            error_code,
            can_reuse_downstream: false,
        }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, context: &mut Self::CTX) {
        admit::hold::conclude(context);
        watch::over(context);
        self.logged.write(session, error, context);
    }

    fn suppress_error_log(&self, _: &Session, _: &Self::CTX, _: &Error) -> bool {
        // The access log tells it, with what an operator needs.
        true
    }
}
