//! What a delivery of an integration is, and whose.

use std::time::SystemTime;

use serde::Serialize;

use super::payer::because;
use super::questions::Questions;
use super::wire::without_line_end;
use super::{Answer, Found, Scene};
use crate::app::build::payers;
use crate::billing::team::Principal;
use crate::config::{RefuseWith, Route, Webhook, WebhookKind};
use crate::edge::framing;
use crate::edge::identify::{NoPayer, Payer};
use crate::edge::problem::Problem;
use crate::edge::webhooks::signature::SignatureFault;
use crate::edge::webhooks::{self, Delivery, Meaning, Nobody, Surface, Unread};
use crate::ledger::Ledger as _;
use crate::notices::Recipient;

/// A delivery, as it was read.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Told {
    /// Whether its signature holds, and if not, why.
    pub signature: String,
    /// What kind of delivery it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub surface: Option<&'static str>,
    /// Whether it starts a run, and if not, why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starts: Option<String>,
    /// The workspace that pays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// Where its team is found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team_by: Option<String>,
    /// Whether somebody can be told of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_be_told: Option<&'static str>,
}

/// What a delivery leads to.
pub enum Led {
    /// Whoever pays, or not.
    To(Found),
    /// It passes, and nobody pays.
    Passes,
    /// This answer.
    Answered(Answer),
}

/// Reads a delivery, and finds out whose it is.
pub async fn read(
    route: &Route,
    configured: &Webhook,
    scene: &Scene<'_>,
    questions: &Questions<'_>,
) -> (Told, Led) {
    let refuse_with = route.refuse_with.unwrap_or(RefuseWith::Problem);
    let webhook = payers::webhook(configured, refuse_with);
    let headers = &scene.wire.head.headers;
    if let Err(detail) = framing::check_names(headers, webhooks::guarded(configured.kind)) {
        let told = Told {
            signature: "not looked at".to_owned(),
            ..Told::default()
        };
        return (told, Led::Answered(Answer::invalid(detail)));
    }
    let delivery = match webhook.read(headers, &scene.wire.body, scene.at) {
        Ok(delivery) => delivery,
        Err(Unread::Signature(fault)) => {
            let told = Told {
                signature: why_not(&webhook, scene, fault),
                ..Told::default()
            };
            let answer = Answer::of(&Problem::unsigned(fault), fault.name());
            return (told, Led::Answered(answer));
        }
        Err(Unread::Invalid(detail)) => {
            let told = Told {
                signature: "holds".to_owned(),
                ..Told::default()
            };
            return (told, Led::Answered(Answer::invalid(detail)));
        }
    };
    let mut told = told(&webhook, &delivery);
    if let Meaning::NoStart(_) = delivery.meaning {
        return (told, Led::Passes);
    }
    let found = team(configured, delivery, scene, questions, &mut told).await;
    (told, found)
}

fn told(webhook: &webhooks::Webhook, delivery: &Delivery) -> Told {
    let surface = match delivery.surface {
        Surface::SlackEvent => "an event of Slack",
        Surface::SlackCommand => "a slash command",
        Surface::SlackInteraction => "an action or shortcut of Slack",
        Surface::SlackSubmission => "a form of Slack that was sent",
        Surface::Linear => "an event of Linear",
    };
    let is_start = delivery.meaning == Meaning::Start;
    Told {
        signature: "holds".to_owned(),
        surface: Some(surface),
        starts: Some(match delivery.meaning {
            Meaning::Start => "yes".to_owned(),
            Meaning::NoStart(why) => format!("no: {why}"),
        }),
        workspace: delivery.workspace.clone(),
        team_by: None,
        can_be_told: is_start.then(|| how_told(webhook, delivery)),
    }
}

/// How the person behind a delivery would be told of a refusal.
fn how_told(webhook: &webhooks::Webhook, delivery: &Delivery) -> &'static str {
    if webhook.refuse_with == RefuseWith::Problem {
        return "nobody: refuse_with: problem tells the sender alone";
    }
    let shown = [Surface::SlackCommand, Surface::SlackSubmission];
    if shown.contains(&delivery.surface) {
        return "in the answer itself";
    }
    let via = &webhook.via;
    match &delivery.recipient {
        Err(Nobody::ToTell) => "nobody has to be: a bot sent it",
        Err(Nobody::Named) => "nobody: the delivery does not say whom",
        Ok(Recipient::SlackReply(_)) => "by its response_url",
        Ok(Recipient::SlackThread { workspace, .. } | Recipient::SlackUser { workspace, .. }) => {
            match via.bot_token.of(workspace) {
                Some(_) => "by a message of the bot",
                None => "nobody: there is no bot_token for the workspace",
            }
        }
        Ok(Recipient::LinearSession { workspace, .. }) => match via.api_token.of(workspace) {
            Some(_) => "on the agent session",
            None => "nobody: there is no api_token for the organisation",
        },
    }
}

/// The team of the workspace, as it is configured or as the ledger has it.
async fn team(
    configured: &Webhook,
    delivery: Delivery,
    scene: &Scene<'_>,
    questions: &Questions<'_>,
    told: &mut Told,
) -> Led {
    let nobody = || {
        let why = "nobody pays for this workspace";
        Led::Answered(Answer::of(&Problem::not_connected(), why))
    };
    let principal = delivery.principal.as_deref().map(Principal::new);
    let Some(workspace) = delivery.workspace else {
        told.team_by = Some("the delivery names no workspace".to_owned());
        return nobody();
    };
    if let Some(team) = configured.teams.get(workspace.as_str()) {
        told.team_by = Some(format!("{}.webhook.teams", scene.route_at));
        let team = team.team().clone();
        return Led::To(Found::Payer(Payer { team, principal }));
    }
    let Some(key) = &configured.team_key else {
        told.team_by =
            Some("`teams` does not know the workspace, and there is no `team_key`".to_owned());
        return nobody();
    };
    let key = key.render(&workspace);
    told.team_by = Some(format!("the Redis key `{key}`"));
    match questions.team_fact_by(&key, questions.until()).await {
        Ok(Some(fact)) => Led::To(Found::Payer(Payer {
            team: fact.team,
            principal,
        })),
        Ok(None) => nobody(),
        Err(_) if !questions.is_asked() => Led::To(Found::Open),
        Err(error) => {
            let why = NoPayer::Unknown(error);
            told.team_by = Some(format!("the Redis key `{key}`: {}", because(&why)));
            Led::To(Found::Nobody(why))
        }
    }
}

/// Why a signature does not hold, and what may have happened to the file.
fn why_not(webhook: &webhooks::Webhook, scene: &Scene<'_>, fault: SignatureFault) -> String {
    let what = match fault {
        SignatureFault::Missing => "is missing, or not all that belongs to it is there",
        SignatureFault::Malformed => "is malformed",
        SignatureFault::Mismatch => "does not fit this body, time and secret",
        SignatureFault::Stale => "is too old",
        SignatureFault::Early => "is from the future",
    };
    let hint = match fault {
        SignatureFault::Stale | SignatureFault::Early => made_at(webhook.kind, scene).map_or_else(
            || "; --at says when it came".to_owned(),
            |at| format!("; with --at {at} it is as when it was made"),
        ),
        SignatureFault::Mismatch => {
            let shorter = without_line_end(&scene.wire.body);
            let read = shorter.map(|body| webhook.read(&scene.wire.head.headers, body, scene.at));
            let holds = matches!(read, Some(Ok(_) | Err(Unread::Invalid(_))));
            let hint = "; it holds without the line break at the end of the file, which an editor may have added";
            if holds {
                hint.to_owned()
            } else {
                String::new()
            }
        }
        SignatureFault::Missing | SignatureFault::Malformed => String::new(),
    };
    format!("{what} ({}){hint}", fault.name())
}

/// When Slack says that a delivery was made: no secret, and in a header.
fn made_at(kind: WebhookKind, scene: &Scene<'_>) -> Option<String> {
    if kind != WebhookKind::Slack {
        return None;
    }
    let said = scene.wire.head.headers.get("x-slack-request-timestamp")?;
    let seconds: u64 = said.to_str().ok()?.parse().ok()?;
    let at = SystemTime::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds))?;
    // The last second that RFC 3339 can write.
    (seconds < 253_402_300_800).then(|| humantime::format_rfc3339_seconds(at).to_string())
}
