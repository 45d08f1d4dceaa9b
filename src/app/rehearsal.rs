//! What the gateway would conclude of one request, without serving it.
//!
//! The same rules decide as when it serves: routes, framing, signatures,
//! identities, the verdict. Only their order is written here once more, and
//! each step says why. Without a ledger no socket is opened; with one it is
//! read and never written. Nothing secret of the request is in what is told.

mod delivery;
mod payer;
mod questions;
mod verdict;
pub mod wire;

use std::net::IpAddr;
use std::time::SystemTime;

use serde::Serialize;

use self::delivery::{Led, Told};
pub use self::payer::{Applies, Considered};
use self::questions::Questions;
use self::wire::Wire;
use super::build::{payers, start_route};
use crate::billing::credits::Credits;
use crate::config::pattern::StartPattern;
use crate::config::{Config, Otherwise, Route};
use crate::edge::admit::{find_route, hold};
use crate::edge::identify::certificate::Certificate;
use crate::edge::identify::keyring::Keyring;
use crate::edge::identify::{Identities, NoPayer, Payer, path};
use crate::edge::live::{PaidBy, PathPayer, StartRoute};
use crate::edge::problem::Problem;
use crate::edge::route::{Found as Matched, Table};
use crate::edge::secret::SecretPaths;
use crate::edge::{framing, trigger};
use crate::ledger::Ledger as _;
use crate::ledger::redis::RedisLedger;
use crate::telemetry::Metrics;

/// A request, and who sends it when.
pub struct Scene<'a> {
    /// The request.
    pub wire: &'a Wire,
    /// The TCP peer.
    pub peer: IpAddr,
    /// When it comes.
    pub at: SystemTime,
    /// The client certificate.
    pub certificate: Option<&'a Certificate>,
    /// The path of its route in the configuration; filled in on the way.
    pub route_at: String,
}

/// What the gateway concludes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Conclusion {
    /// The request, without what is secret in its path.
    pub request: String,
    /// `turned_away`, `ambiguous`, `passes`, `start`, or `no_start`: a delivery
    /// that passes.
    pub conclusion: &'static str,
    /// The start route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// What set the run off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<&'static str>,
    /// The delivery, on a route with a webhook.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Told>,
    /// Each way to find out who pays, in order.
    pub considered: Vec<Considered>,
    /// The keys that the ledger was asked for, or would be.
    pub asks: Vec<String>,
    /// The team that pays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// Who asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// What the team has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<String>,
    /// What becomes of it.
    pub answer: Answer,
    /// What is odd.
    pub notes: Vec<String>,
}

/// What becomes of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Whether it is answered, forwarded, or nobody here can say.
    pub outcome: Becomes,
    /// The status of an answer made at the edge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The code of the problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// In words.
    pub says: String,
}

/// Whether a request is answered at the edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Becomes {
    /// It is.
    Answered,
    /// It goes to the upstream.
    Forwarded,
    /// The ledger or an issuer would have to be asked.
    #[default]
    Open,
}

impl Answer {
    fn new(status: u16, code: &'static str, why: &str) -> Self {
        Answer {
            outcome: Becomes::Answered,
            status: Some(status),
            code: Some(code),
            says: why.to_owned(),
        }
    }

    fn invalid(detail: &str) -> Self {
        Answer::new(400, "invalid_request", detail)
    }

    fn of(problem: &Problem, why: &str) -> Self {
        Answer::new(problem.status(), problem.code().name(), why)
    }

    fn forwarded(why: &str) -> Self {
        Answer {
            outcome: Becomes::Forwarded,
            says: why.to_owned(),
            ..Answer::default()
        }
    }

    fn open(says: String) -> Self {
        Answer {
            says,
            ..Answer::default()
        }
    }
}

/// Who pays.
pub enum Found {
    /// Somebody.
    Payer(Payer),
    /// Nobody, and why.
    Nobody(NoPayer),
    /// Somebody who is not asked would have to say.
    Open,
}

/// A start route, and all that is known of it.
struct Start<'a> {
    config: &'a Config,
    route: &'a Route,
    pattern: &'a StartPattern,
    ready: StartRoute,
}

/// Concludes what would become of a request. `keyrings` are the keys of token
/// issuers, in the order of the configuration.
///
/// # Errors
/// Metrics that cannot be made.
pub async fn conclude(
    config: &Config,
    keyrings: &[Keyring],
    scene: Scene<'_>,
    ledger: Option<&RedisLedger>,
) -> Result<Conclusion, prometheus::Error> {
    let head = &scene.wire.head;
    let shown = SecretPaths::new(&config.routes);
    let mut told = Conclusion {
        request: format!("{} {}", head.method, shown.shown(head.raw_path())),
        notes: scene.wire.notes.clone(),
        ..Conclusion::default()
    };
    if let Err(detail) = framing::check(head, Some(&scene.wire.raw_head)) {
        told.conclusion = "turned_away";
        told.answer = Answer::invalid(detail);
        return Ok(told);
    }
    let table = Table::new(config.starts().map(|(pattern, _)| pattern));
    let index = match find_route(&table, head) {
        Matched::Start(index) => index,
        Matched::Ambiguous => {
            told.conclusion = "ambiguous";
            told.answer =
                Answer::invalid("some readings of the path are one start route and some another");
            return Ok(told);
        }
        Matched::Passes => {
            told.conclusion = "passes";
            told.answer = Answer::forwarded("forwarded untouched, it is no start");
            return Ok(told);
        }
    };
    let Some((pattern, route)) = config.starts().nth(index) else {
        return Ok(told);
    };
    let place = config
        .routes
        .iter()
        .position(|other| std::ptr::eq(other, route));
    let scene = Scene {
        route_at: format!("routes[{}]", place.unwrap_or_default()),
        ..scene
    };
    let start = Start {
        config,
        route,
        pattern,
        ready: start_route(config, pattern, route, &Metrics::new()?),
    };
    let questions = Questions::new(config, ledger);
    start
        .conclude(keyrings, &scene, &questions, &mut told)
        .await;
    Ok(told)
}

impl Start<'_> {
    async fn conclude(
        &self,
        keyrings: &[Keyring],
        scene: &Scene<'_>,
        questions: &Questions<'_>,
        told: &mut Conclusion,
    ) {
        told.conclusion = "start";
        told.route = Some(self.pattern.to_string());
        let headers = &scene.wire.head.headers;
        told.trigger = Some(trigger::of(&self.ready, headers, Some(scene.peer)).name());
        // Holds in shadow mode, too.
        if let Some(answer) = self.too_large(scene) {
            told.answer = answer;
            return;
        }
        told.answer = match self.wanted(scene, told) {
            Err(answer) => self.enforced(answer),
            Ok(wanted) => {
                let found = self.payer(keyrings, scene, questions, told).await;
                told.asks.extend(questions.taken());
                let answer = match found {
                    Ok(found) => self.decided(found, wanted, questions, told).await,
                    Err(answer) => answer,
                };
                told.asks.extend(questions.taken());
                self.enforced(answer)
            }
        };
        self.hide(scene, told);
    }

    /// The answer to a body that is larger than its route allows.
    fn too_large(&self, scene: &Scene<'_>) -> Option<Answer> {
        let max_body = payers::max_body(self.route)?;
        let fits = u64::try_from(scene.wire.body.len()).is_ok_and(|length| length <= max_body);
        (!fits).then(|| {
            let problem = Problem::body_too_large(max_body);
            Answer::of(
                &problem,
                &format!("the body is larger than {max_body} bytes"),
            )
        })
    }

    /// What of the head decides besides who pays: in hold mode the credits that
    /// are set aside.
    fn wanted(&self, scene: &Scene<'_>, told: &mut Conclusion) -> Result<Option<Credits>, Answer> {
        let headers = &scene.wire.head.headers;
        let identities = Identities::new(&self.config.identity, &[]);
        identities.unbelieved(Some(scene.peer), |name| {
            if headers.contains_key(name) {
                told.notes.push(format!(
                    "the header `{name}` of this peer is not believed, and not forwarded"
                ));
            }
        });
        framing::check_names(headers, identities.guarded()).map_err(Answer::invalid)?;
        let Some(rule) = &self.ready.hold else {
            return Ok(None);
        };
        let amount = hold::amount(&rule.amount, headers, Some(scene.peer));
        let amount = amount.map_err(|problem| {
            Answer::of(
                &problem,
                "the header with the credits to set aside does not say how many",
            )
        })?;
        Ok(Some(amount))
    }

    async fn payer(
        &self,
        keyrings: &[Keyring],
        scene: &Scene<'_>,
        questions: &Questions<'_>,
        told: &mut Conclusion,
    ) -> Result<Found, Answer> {
        if let Some(webhook) = &self.route.webhook {
            let (delivery, led) = delivery::read(self.route, webhook, scene, questions).await;
            told.delivery = Some(delivery);
            return match led {
                Led::To(found) => Ok(found),
                Led::Answered(answer) => Err(answer),
                Led::Passes => {
                    told.conclusion = "no_start";
                    Err(Answer::forwarded("forwarded as it came, it starts nothing"))
                }
            };
        }
        if let PaidBy::Path(rule) = payers::paid_by(self.pattern, self.route) {
            let (found, because) = by_path(&rule, scene, questions).await;
            let by = format!("{}.team_from", scene.route_at);
            let applies = if found.is_some() {
                Applies::Yes
            } else {
                Applies::No
            };
            told.considered.push(Considered {
                by,
                applies,
                because,
            });
            match found {
                // Who else would pay is worth knowing while that is open.
                Some(Found::Open) if rule.otherwise.is_some() => {
                    let mut others = Vec::new();
                    payer::by_identities(self.config, keyrings, scene, questions, &mut others)
                        .await;
                    told.considered
                        .extend(others.into_iter().map(|one| Considered {
                            because: format!("if Redis does not know the path: {}", one.because),
                            ..one
                        }));
                    return Ok(Found::Open);
                }
                Some(found) => return Ok(found),
                None => {}
            }
        }
        let considered = &mut told.considered;
        Ok(payer::by_identities(self.config, keyrings, scene, questions, considered).await)
    }

    async fn decided(
        &self,
        found: Found,
        wanted: Option<Credits>,
        questions: &Questions<'_>,
        told: &mut Conclusion,
    ) -> Answer {
        match found {
            Found::Open => verdict::open(&self.ready),
            Found::Nobody(why) => match Problem::no_payer(&why) {
                Some(problem) => {
                    Answer::of(&problem, &format!("nobody pays, {}", payer::because(&why)))
                }
                None => verdict::unknown(&self.ready, &payer::because(&why)),
            },
            Found::Payer(payer) => {
                told.team = Some(payer.team.to_string());
                told.principal = payer
                    .principal
                    .as_ref()
                    .map(|name| name.as_str().to_owned());
                let terms = (wanted, self.route.refuse_with);
                let (answer, balance) =
                    verdict::of(&self.ready, &payer.team, terms, questions).await;
                told.balance = balance;
                answer
            }
        }
    }

    /// The answer in shadow mode is none.
    fn enforced(&self, answer: Answer) -> Answer {
        let is_shadow = !self.route.enforce.unwrap_or(self.config.admission.enforce);
        if !is_shadow || answer.status.is_none() {
            return answer;
        }
        let status = answer.status.unwrap_or_default();
        Answer::forwarded(&format!(
            "forwarded all the same, in shadow mode; enforced it would be {status} {}: {}",
            answer.code.unwrap_or_default(),
            answer.says
        ))
    }

    /// A parameter that is secret is not shown as a part of a key, either.
    fn hide(&self, scene: &Scene<'_>, told: &mut Conclusion) {
        let Some(from) = &self.route.team_from else {
            return;
        };
        if self.route.secrets().contains(&from.path.as_str()) && !told.asks.is_empty() {
            let by = format!("{}.team_from", scene.route_at);
            if told.considered.iter().any(|one| one.by == by)
                && let Some(first) = told.asks.first_mut()
            {
                *first = from.team_key.to_string();
            }
        }
    }
}

/// What a path says of who pays, and why; nothing where the ledger does not
/// know and the identities are to say.
async fn by_path(
    rule: &PathPayer,
    scene: &Scene<'_>,
    questions: &Questions<'_>,
) -> (Option<Found>, String) {
    let target = scene.wire.head.raw_path();
    let said = path::payer(rule, target, questions, questions.until()).await;
    match (said, rule.otherwise) {
        (Ok(Some(payer)), _) => (
            Some(Found::Payer(payer)),
            "Redis knows what the path names".to_owned(),
        ),
        (Ok(None), Some(Otherwise::Identity)) => {
            (None, "Redis does not know what the path names".to_owned())
        }
        (Ok(None), None) => (
            Some(Found::Nobody(NoPayer::Unauthenticated)),
            "Redis does not know what the path names".to_owned(),
        ),
        (Err(NoPayer::Unknown(_)), _) if !questions.is_asked() => (
            Some(Found::Open),
            "the path names something; whose it is, the ledger says".to_owned(),
        ),
        (Err(NoPayer::Unauthenticated), _) => (
            Some(Found::Nobody(NoPayer::Unauthenticated)),
            "the token in the path does not match, or there is none".to_owned(),
        ),
        (Err(why), _) => (Some(Found::Nobody(why.clone())), payer::because(&why)),
    }
}
