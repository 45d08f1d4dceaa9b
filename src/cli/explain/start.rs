//! What `tollgate explain` says of a start route: who pays, what is asked of
//! the ledger, and what a refusal looks like.

use serde::Serialize;

use super::hold::HoldExplanation;
use super::who::{WhoPays, ranges, sender};
use crate::app::build::payers;
use crate::billing::trigger;
use crate::config::pattern::StartPattern;
use crate::config::{
    self, Config, RefuseWith, Route, TriggerFrom, Webhook, WebhookKind, WorkspaceToken,
};

/// A start route.
#[derive(Serialize)]
pub struct StartExplanation {
    route: String,
    trigger: &'static str,
    /// Who is believed when they say another trigger.
    #[serde(skip_serializing_if = "Option::is_none")]
    trigger_from: Option<String>,
    #[serde(flatten)]
    who: WhoPays,
    /// Deliveries: what starts nothing, and passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_start: Option<&'static str>,
    /// Where its balance is.
    balance: String,
    /// When it is refused.
    refused: String,
    /// For how long Redis is not asked again.
    #[serde(skip_serializing_if = "Option::is_none")]
    remembered: Option<String>,
    /// Deliveries: what a refused one is answered with.
    #[serde(skip_serializing_if = "Option::is_none")]
    refuse_with: Option<String>,
    /// A team without a balance.
    missing: &'static str,
    /// When the balance cannot be found out.
    on_outage: &'static str,
    enforced: bool,
    /// Hold mode: what it sets aside.
    #[serde(flatten)]
    hold: Option<HoldExplanation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_body_bytes: Option<u64>,
    /// What is done with the body before it is decided.
    body: &'static str,
}

impl StartExplanation {
    /// What there is to say of this route.
    pub fn of(config: &Config, pattern: &StartPattern, route: &Route) -> Self {
        let balances = &config.balances;
        let key = balances.key.as_str();
        let balance = match (&balances.redis, &balances.field) {
            (None, _) => "balances.memory, in this process".to_owned(),
            (Some(_), Some(field)) => {
                format!("field `{}` of the Redis hash `{key}`", field.as_str())
            }
            (Some(_), None) => format!("the Redis string `{key}`"),
        };
        let trigger: trigger::Trigger = route.trigger().into();
        let line = balances.refuse_at_or_below.credits().to_string();
        let hold = HoldExplanation::of(config, route);
        let trigger_from = route.trigger_from.as_ref();
        let trigger_from = trigger_from.or(config.admission.trigger_from.as_ref());
        let webhook = route.webhook.as_ref();
        StartExplanation {
            route: pattern.to_string(),
            trigger: trigger.name(),
            trigger_from: trigger_from.map(said_by),
            who: WhoPays::of(config, route),
            no_start: webhook.map(|webhook| no_start(webhook.kind)),
            balance,
            refused: match &hold {
                Some(hold) => hold.refused(&line),
                None => format!("403 insufficient_credits at or below {line} credits"),
            },
            remembered: remembered(config),
            refuse_with: webhook.map(|webhook| answer(webhook, route.refuse_with)),
            missing: match balances.missing {
                config::Missing::Refuse => "403 insufficient_credits, reason no_balance",
                config::Missing::Admit => "forwarded",
                config::Missing::Unknown => "as in an outage",
            },
            on_outage: match route.on_outage.unwrap_or(config.admission.on_outage) {
                config::OnOutage::Refuse if webhook.is_some() => {
                    "503 resource_unavailable, so that it is delivered again"
                }
                config::OnOutage::Refuse => "503 resource_unavailable, can be tried again",
                config::OnOutage::Admit => "forwarded",
            },
            enforced: route.enforce.unwrap_or(config.admission.enforce),
            max_body_bytes: payers::max_body(route),
            body: match webhook {
                Some(_) => {
                    "held until it is decided: the signature is over all of it; then forwarded as it came"
                }
                None => "forwarded as it comes, and not looked into",
            },
            hold,
        }
    }

    /// Labels and what belongs to them.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            ("route", self.route.clone()),
            ("trigger", self.trigger.to_owned()),
        ];
        lines.extend(
            self.trigger_from
                .iter()
                .map(|said| ("  unless", said.clone())),
        );
        lines.extend(self.who.lines());
        lines.extend(self.no_start.map(|said| ("no start", said.to_owned())));
        lines.push(("balance", self.balance.clone()));
        lines.push(("refused", self.refused.clone()));
        let remembered = self.remembered.iter();
        lines.extend(remembered.map(|said| ("again", said.clone())));
        lines.extend(
            self.refuse_with
                .iter()
                .map(|said| ("answered", said.clone())),
        );
        lines.push(("no balance", self.missing.to_owned()));
        lines.push(("outage", self.on_outage.to_owned()));
        lines.extend(self.hold.iter().flat_map(HoldExplanation::lines));
        let bound = self
            .max_body_bytes
            .map(|bytes| format!("at most {bytes} bytes; "));
        lines.push((
            "body",
            format!("{}{}", bound.unwrap_or_default(), self.body),
        ));
        if !self.enforced {
            let shadow = "decided and counted, forwarded all the same";
            lines.push(("shadow", shadow.to_owned()));
        }
        lines
    }
}

/// For how long a refused team is refused again without asking Redis.
fn remembered(config: &Config) -> Option<String> {
    let lasting = config.admission.remember_refusals?;
    config.balances.redis.as_ref()?;
    let replays = match config.admission.mode {
        config::Mode::Lookup => "",
        config::Mode::Hold => "; what may be a replay always asks",
    };
    Some(format!(
        "refused without asking Redis for {lasting}, or until the balance changes{replays}"
    ))
}

/// Who says what set a run off, and in which words.
fn said_by(from: &TriggerFrom) -> String {
    let words = from.map.iter().map(|(word, trigger)| {
        let trigger: trigger::Trigger = (*trigger).into();
        format!("{word} is {}", trigger.name())
    });
    let words: Vec<String> = words.collect();
    format!(
        "the header `{}`, from {} only, says another: {}",
        from.header.name(),
        ranges(&from.from),
        words.join(", ")
    )
}

/// What is verified and passes, whoever would pay.
const fn no_start(kind: WebhookKind) -> &'static str {
    match kind {
        WebhookKind::Slack => {
            "url_verification, ssl_check, the app's own events, bots' messages, closed forms, suggestions and stop actions pass without a balance"
        }
        WebhookKind::Linear => {
            "what is no event of an agent session, and the signal stop, pass without a balance"
        }
    }
}

/// What a refused delivery is answered with.
fn answer(webhook: &Webhook, refuse_with: Option<RefuseWith>) -> String {
    let every = webhook.notice_every;
    match (refuse_with, webhook.kind) {
        (Some(RefuseWith::Message), WebhookKind::Slack) => {
            let events = match &webhook.bot_token {
                None => "nobody is told of a refused event, there is no bot_token".to_owned(),
                Some(WorkspaceToken::One(_)) => format!("events get one notice per thread in {every}"),
                Some(WorkspaceToken::Each(tokens)) => format!(
                    "events of the {} workspaces with a bot_token get one notice per thread in {every}",
                    tokens.0.len()
                ),
            };
            format!(
                "200 in place of the 403, and nothing is delivered again (refuse_with: message): commands and forms show why, actions and shortcuts by response_url, {events}"
            )
        }
        (Some(RefuseWith::Message), WebhookKind::Linear) => {
            let told = match &webhook.api_token {
                None => "nobody is told, there is no api_token".to_owned(),
                Some(WorkspaceToken::One(_)) => {
                    "an error on the agent session says why, after each prompt".to_owned()
                }
                Some(WorkspaceToken::Each(tokens)) => format!(
                    "an error on the agent sessions of the {} organisations with an api_token says why, after each prompt",
                    tokens.0.len()
                ),
            };
            format!(
                "200 in place of the 403, and nothing is delivered again (refuse_with: message): {told}"
            )
        }
        (Some(RefuseWith::Problem) | None, WebhookKind::Slack) => {
            "the 403 with x-slack-no-retry: 1 (refuse_with: problem): a failed delivery; over 95 % of those in an hour switch the app's events off".to_owned()
        }
        (Some(RefuseWith::Problem) | None, WebhookKind::Linear) => format!(
            "the 403 (refuse_with: problem): {} tries again after 1 minute, 1 hour and 6 hours, and may start a run then",
            sender(webhook.kind)
        ),
    }
}
