//! Deliveries of an integration: admitted like every start, once it is known
//! that they are genuine, that they start something, and for whom.
//!
//! In order: the body is read whole ([`receive`]); its signature is verified
//! and the delivery read ([`super::super::webhooks`]); what starts nothing
//! passes, and neither ledger nor team is asked for it; the workspace says
//! which team pays; then the ledger decides as for any start. A delivery that
//! comes again with the same verdict is told from the first one ([`mark`]),
//! and whoever is behind a refused one is told of it ([`tell`]).

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::HeaderMap;
use pingora_error::{Error, ErrorType};
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use sha2::{Digest as _, Sha256};

use super::super::body::{self, Bounds, Missing};
use super::super::context::Context;
use super::super::framing;
use super::super::identify::Payer;
use super::super::live::{Enforcement, Live, PaidBy, StartRoute};
use super::super::problem::Problem;
use super::super::problem::message::Form;
use super::super::trace::hex;
use super::super::webhooks::signature::SignatureFault;
use super::super::webhooks::{Delivery, Meaning, Nobody, Surface, Unread, Webhook, guarded};
use super::{Common, Decided, ask, understand, unknown};
use crate::billing::team::{Principal, TeamId};
use crate::config::{RefuseWith, WebhookKind};
use crate::ledger::Mark;
use crate::ledger::holds::Replay;
use crate::notices::{Notice, Recipient};
use crate::telemetry::Outcome;
use crate::telemetry::notices::Kind;

/// How long the body of a delivery may take in all. Slack gives up after 3 s
/// and Linear after 5 s; what comes later is answered to nobody, and takes room
/// from those that come in time.
const BODY_MAX: Duration = Duration::from_secs(10);

/// What is remembered of a genuine delivery until its request is over.
#[derive(Debug)]
pub struct Delivered {
    /// What kind of delivery it is.
    pub surface: Surface,
    /// Whether it is the first of its id with this verdict.
    pub mark: Mark,
    recipient: Result<Recipient, Nobody>,
    id: Option<String>,
    /// When the ledger has to have answered.
    until: Instant,
}

/// The integration that delivers to a route, if one does.
#[must_use]
pub fn of(start: &StartRoute) -> Option<&Webhook> {
    match &start.paid_by {
        PaidBy::Webhook(webhook) => Some(webhook),
        PaidBy::Identity | PaidBy::Path(_) => None,
    }
}

/// Reads the body of a delivery, and keeps it for the decision and for the
/// upstream; or says what to answer with. That holds in shadow mode too: what
/// was read and is not kept cannot be forwarded any more.
///
/// # Errors
/// If the client is gone or too slow.
pub async fn receive(
    live: &Live,
    start: &StartRoute,
    webhook: &Webhook,
    session: &mut Session,
    context: &mut Context,
    common: Common<'_>,
) -> Result<Option<Decided>, Box<Error>> {
    if session.is_upgrade_req() {
        let problem = Problem::invalid("a delivery does not change the protocol");
        return Ok(Some((Outcome::Invalid, Some(problem))));
    }
    if start.enforcement == Enforcement::Enforced {
        // Nothing that the body says could help, so none of it is held.
        let headers = &session.req_header().headers;
        if let Err(problem) = check_head(webhook, headers, context) {
            return Ok(Some((Outcome::Invalid, Some(problem))));
        }
    }
    let bounds = Bounds {
        max_bytes: start.max_body.unwrap_or(body::ROOM_BYTES.into()),
        patience: live.limits.body_timeout,
        total: BODY_MAX,
    };
    match body::read(session, bounds, common.room).await {
        Ok(held) => {
            context.body = Some(Box::new(held));
            Ok(None)
        }
        Err(Missing::TooLarge) => {
            let problem = Problem::body_too_large(bounds.max_bytes);
            Ok(Some((Outcome::Invalid, Some(problem))))
        }
        Err(Missing::NoRoom) => {
            context.fault = Some("too many bodies are held already".to_owned());
            Ok(Some((
                Outcome::UnknownRefused,
                Some(Problem::unavailable()),
            )))
        }
        Err(Missing::Slow) => {
            let what = "the body of a delivery did not come in time";
            Err(Error::explain(ErrorType::ReadTimedout, what).into_down())
        }
        Err(Missing::Gone(error)) => Err(error),
    }
}

/// Decides a delivery whose body is there.
pub async fn decide(
    live: &Live,
    start: &StartRoute,
    webhook: &Webhook,
    head: &RequestHeader,
    context: &mut Context,
    common: Common<'_>,
) -> Decided {
    let invalid = |problem| (Outcome::Invalid, Some(problem));
    let mut wanted = match understand(live, start, head, context) {
        Ok(wanted) => wanted,
        Err(problem) => return invalid(problem),
    };
    let delivery = match read(webhook, &head.headers, context) {
        Ok(delivery) => delivery,
        Err(problem) => return invalid(problem),
    };
    // The time that the body took is not the ledger's.
    let until = live.ledger.until();
    let Delivery {
        meaning,
        workspace,
        principal,
        id,
        surface,
        recipient,
    } = delivery;
    if let Some(wanted) = &mut wanted {
        wanted.replay = id.as_deref().map(|id| replay(start, webhook.kind, id));
    }
    if let Some(known) = context.start.as_mut() {
        known.delivery = Some(Box::new(Delivered {
            surface,
            mark: Mark::First,
            recipient,
            id,
            until,
        }));
    }
    if let Meaning::NoStart(why) = meaning {
        context.reason = Some(why);
        return (Outcome::Passed, None);
    }
    let team = workspace_team(live, start, webhook, workspace.as_deref(), until, context);
    let team = match team.await {
        Ok(team) => team,
        Err(decided) => {
            if decided.0 == Outcome::UnknownAdmitted {
                common.metrics.identity_unknown_admitted.inc();
            }
            return decided;
        }
    };
    let payer = Payer {
        team,
        principal: principal.as_deref().map(Principal::new),
    };
    ask(live, start, payer, wanted, until, context, common.metrics).await
}

/// Turns away what cannot be genuine, whatever its body is.
fn check_head(
    webhook: &Webhook,
    headers: &HeaderMap,
    context: &mut Context,
) -> Result<(), Problem> {
    framing::check_names(headers, guarded(webhook.kind)).map_err(Problem::invalid)?;
    let checked = webhook.check_head(headers, SystemTime::now());
    checked.map_err(|fault| unsigned(fault, context))
}

fn unsigned(fault: SignatureFault, context: &mut Context) -> Problem {
    context.reason = Some(fault.name());
    Problem::unsigned(fault)
}

/// Reads a delivery: first its signature, then what it says.
fn read(
    webhook: &Webhook,
    headers: &HeaderMap,
    context: &mut Context,
) -> Result<Delivery, Problem> {
    framing::check_names(headers, guarded(webhook.kind)).map_err(Problem::invalid)?;
    let body = context.body.as_ref().map_or(&[][..], |held| held.bytes());
    match webhook.read(headers, body, SystemTime::now()) {
        Ok(delivery) => Ok(delivery),
        Err(Unread::Signature(fault)) => Err(unsigned(fault, context)),
        Err(Unread::Invalid(detail)) => Err(Problem::invalid(detail)),
    }
}

/// The team that pays for a workspace, or what becomes of a start for which
/// nobody does.
async fn workspace_team(
    live: &Live,
    start: &StartRoute,
    webhook: &Webhook,
    workspace: Option<&str>,
    until: Instant,
    context: &mut Context,
) -> Result<TeamId, Decided> {
    let nobody = |context: &mut Context, fault| {
        context.fault = Some(fault);
        (Outcome::Invalid, Some(Problem::not_connected()))
    };
    let Some(workspace) = workspace else {
        return Err(nobody(
            context,
            "the delivery names no workspace".to_owned(),
        ));
    };
    if let Some(team) = webhook.teams.get(workspace) {
        return Ok(team.clone());
    }
    let unknown_to_teams = format!("the workspace {workspace} has no team in `webhook.teams`");
    let Some(key) = &webhook.team_key else {
        return Err(nobody(context, unknown_to_teams));
    };
    let key = key.render(workspace);
    let asked = Instant::now();
    let fact = live.ledger.team_fact_by(&key, until).await;
    if let Some(known) = context.start.as_mut() {
        known.ledger = Some(asked.elapsed());
    }
    match fact {
        Ok(Some(fact)) => Ok(fact.team),
        Ok(None) => Err(nobody(
            context,
            format!("{unknown_to_teams} or under {key}"),
        )),
        Err(error) => Err(unknown(start, context, &error)),
    }
}

/// What a delivery that comes again shares the first one's hold by, whatever
/// the upstream makes of an `Idempotency-Key`: the sender says that it is the
/// same.
fn replay(start: &StartRoute, kind: WebhookKind, id: &str) -> Replay {
    Replay {
        // With the route: what is delivered to two of them is for two apps.
        key: digest(&[name(kind), &start.name, id]),
        route: Sha256::digest(start.name.as_bytes()).into(),
        body: None,
    }
}

/// Leaves a mark for a delivery and its verdict, so that the same again is
/// told from the first. Where nobody can say, it is the first: better counted
/// twice than not at all.
pub async fn mark(
    live: &Live,
    start: &StartRoute,
    webhook: &Webhook,
    context: &mut Context,
    outcome: Outcome,
) {
    let known = context.start.as_mut();
    let Some(delivery) = known.and_then(|known| known.delivery.as_mut()) else {
        return;
    };
    // What starts nothing asks nothing of the ledger, not even this.
    let Some(id) = delivery.id.as_ref().filter(|_| outcome != Outcome::Passed) else {
        return;
    };
    let digest = digest(&[name(webhook.kind), &start.name, id, outcome.name()]);
    let mark = format!("delivery:{}", hex(&digest));
    let marked = live.ledger.mark_by(&mark, live.remember, delivery.until);
    delivery.mark = marked.await.unwrap_or(Mark::First);
}

/// Has the person behind a refused delivery told of it, where the answer does
/// not reach them.
pub fn tell(live: &Live, webhook: &Webhook, context: &Context, problem: &Problem) {
    let Some(known) = &context.start else {
        return;
    };
    let (Some(delivery), Some(payer)) = (&known.delivery, &known.payer) else {
        return;
    };
    if webhook.refuse_with != RefuseWith::Message || delivery.mark == Mark::Again {
        return;
    }
    let recipient = match &delivery.recipient {
        Ok(recipient) => recipient.clone(),
        // Nobody waits, so nobody goes without: that is nothing to count.
        Err(Nobody::ToTell) => return,
        Err(Nobody::Named) => {
            let kind = match webhook.kind {
                WebhookKind::Slack => Kind::Slack,
                WebhookKind::Linear => Kind::Linear,
            };
            let (team, request_id) = (&payer.team, &context.ids.request_id());
            let why = "the delivery does not say whom or where";
            live.notices.untold(kind, team, request_id, why);
            return;
        }
    };
    live.notices.offer(Notice {
        team: payer.team.clone(),
        recipient,
        sentence: problem.sentence().into_owned(),
        billing_url: live.style.billing_url().map(Arc::clone),
        via: Arc::clone(&webhook.via),
        since: context.began,
        request_id: context.ids.request_id().into_owned(),
    });
}

/// The form that an answer to this request has for who sent it, where that is
/// an integration.
#[must_use]
pub fn form(context: &Context) -> Option<Form> {
    let webhook = of(context.route()?)?;
    let known = context.start.as_ref()?;
    let refused = known.outcome == Some(Outcome::Refused);
    let told = refused && webhook.refuse_with == RefuseWith::Message;
    let delivery = known.delivery.as_ref().filter(|_| told);
    Some(Form {
        sender: webhook.kind,
        message: delivery.map(|delivery| delivery.surface),
    })
}

const fn name(kind: WebhookKind) -> &'static str {
    match kind {
        WebhookKind::Slack => "slack",
        WebhookKind::Linear => "linear",
    }
}

/// One digest of several texts, none of which holds a NUL.
fn digest(parts: &[&str]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            digest.update([0]);
        }
        digest.update(part);
    }
    digest.finalize().into()
}
