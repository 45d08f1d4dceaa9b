//! `tollgate explain METHOD PATH`: which route a request is, what it would
//! need, and why. Opens no socket, unless `--worst-case` is asked of a team.
//!
//! What hold mode adds is in [`hold`].

mod hold;

use clap::Args;
use serde::Serialize;

use self::hold::{HoldExplanation, RunExplanation};
use super::ledger::Common;
use super::{Failure, Outcome, Style, say, worst_case};
use crate::config::pattern::StartPattern;
use crate::config::{self, Config};
use crate::edge::route::{Found, Table};

#[derive(Args)]
pub struct ExplainArgs {
    /// The method, such as POST.
    #[arg(required_unless_present = "worst_case")]
    method: Option<String>,
    /// The request target as a client would send it.
    #[arg(required_unless_present = "worst_case")]
    path: Option<String>,
    /// How many credits could be spent twice because a failover of Redis lost
    /// holds.
    #[arg(long, conflicts_with_all = ["method", "path"])]
    worst_case: bool,
    /// With --worst-case: of this team, as it stands in Redis.
    #[arg(long, requires = "worst_case")]
    team: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// A request to be explained.
struct Asked {
    method: String,
    path: String,
}

/// What the gateway concludes.
#[derive(Serialize)]
struct Explanation {
    method: String,
    path: String,
    /// `passes`, `start`, `ends`, `watch` or `ambiguous`.
    conclusion: &'static str,
    why: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<StartExplanation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<RunExplanation>,
}

#[derive(Serialize)]
struct StartExplanation {
    route: String,
    trigger: &'static str,
    /// Where the team is looked for, in order.
    who_pays: Vec<String>,
    /// Where its balance is.
    balance: String,
    /// When it is refused.
    refused: String,
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
}

pub fn run(arguments: ExplainArgs) -> Outcome {
    let common = &arguments.common;
    match (arguments.method, arguments.path) {
        (Some(method), Some(path)) => request(Asked { method, path }, common),
        _ => worst_case::run(arguments.team.as_deref(), common),
    }
}

fn request(arguments: Asked, common: &Common) -> Outcome {
    let is_target = arguments.path.starts_with('/') || arguments.path.contains("://");
    if !is_target {
        let path = &arguments.path;
        return Err(Failure::Usage(format!(
            "`{path}` is no path, and is answered 400: write it with a leading slash, such as /{path}"
        )));
    }
    let settings = common.settings()?;
    let config = settings.config();
    let table = Table::new(config.starts().map(|(pattern, _)| pattern));
    let target = arguments.path.as_bytes();
    let found = table.find(&arguments.method, std::iter::empty(), target);
    let route = match found {
        Found::Start(index) => config.starts().nth(index),
        Found::Passes | Found::Ambiguous => None,
    };
    let run = (found == Found::Passes)
        .then(|| RunExplanation::of(config, &arguments.method, &arguments.path))
        .flatten();
    let explanation = Explanation {
        why: match &run {
            Some(run) => run.why(),
            None => why(&arguments, found, route.map(|(pattern, _)| pattern)),
        },
        conclusion: match (found, &run) {
            (Found::Passes, Some(run)) => run.conclusion(),
            (Found::Passes, None) => "passes",
            (Found::Start(_), _) => "start",
            (Found::Ambiguous, _) => "ambiguous",
        },
        start: route.map(|(pattern, route)| start(config, pattern, route)),
        run,
        method: arguments.method,
        path: arguments.path,
    };
    say(&match common.style() {
        Style::Json => serde_json::to_string_pretty(&explanation).unwrap_or_default(),
        Style::Text => text(&explanation),
    });
    Ok(())
}

fn why(arguments: &Asked, found: Found, route: Option<&StartPattern>) -> String {
    let write = !matches!(
        arguments.method.to_ascii_uppercase().as_str(),
        "GET" | "HEAD" | "OPTIONS" | "TRACE"
    );
    match (found, route) {
        (Found::Ambiguous, _) => {
            "some readings of the path are one start route and some another: it is answered 400".to_owned()
        }
        (Found::Start(_), Some(pattern)) => {
            let written = pattern.to_string();
            let received = format!("{} {}", arguments.method, arguments.path);
            if received.eq_ignore_ascii_case(&written) {
                format!("it is the start route {written}")
            } else {
                format!("one way to read it is the start route {written}")
            }
        }
        _ if write => {
            "no reading of it is a start route: it goes to the upstream untouched, and is counted as a write that no route lists"
                .to_owned()
        }
        _ => "no reading of it is a start route: it goes to the upstream untouched".to_owned(),
    }
}

fn start(config: &Config, pattern: &StartPattern, route: &config::Route) -> StartExplanation {
    let balances = &config.balances;
    let key = balances.key.as_str();
    let balance = match (&balances.redis, &balances.field) {
        (None, _) => "balances.memory, in this process".to_owned(),
        (Some(_), Some(field)) => format!("field `{}` of the Redis hash `{key}`", field.as_str()),
        (Some(_), None) => format!("the Redis string `{key}`"),
    };
    let trigger: crate::billing::trigger::Trigger = route.trigger().into();
    let line = balances.refuse_at_or_below.credits().to_string();
    let hold = HoldExplanation::of(config, route);
    StartExplanation {
        route: pattern.to_string(),
        trigger: trigger.name(),
        who_pays: config.identity.iter().map(who).collect(),
        balance,
        refused: match &hold {
            Some(hold) => hold.refused(&line),
            None => format!("403 insufficient_credits at or below {line} credits"),
        },
        missing: match balances.missing {
            config::Missing::Refuse => "403 insufficient_credits, reason no_balance",
            config::Missing::Admit => "forwarded",
            config::Missing::Unknown => "as in an outage",
        },
        on_outage: match route.on_outage.unwrap_or(config.admission.on_outage) {
            config::OnOutage::Refuse => "503 resource_unavailable, can be tried again",
            config::OnOutage::Admit => "forwarded",
        },
        enforced: route.enforce.unwrap_or(config.admission.enforce),
        max_body_bytes: route.max_body.map(|size| size.bytes()),
        hold,
    }
}

fn who(identity: &config::Identity) -> String {
    match identity {
        config::Identity::ApiKey(key) => {
            let pick = key.team_header.as_ref().map_or(String::new(), |header| {
                format!(
                    ", where a personal key picks its team with `{}`",
                    header.name()
                )
            });
            format!(
                "the bearer token, looked up as the Redis hash `{}`{pick}",
                key.key.as_str()
            )
        }
        config::Identity::Header(header) => {
            let from: Vec<String> = header.from.iter().map(ToString::to_string).collect();
            format!(
                "the header `{}`, from {} only",
                header.name.name(),
                from.join(", ")
            )
        }
    }
}

fn text(explanation: &Explanation) -> String {
    let mut lines = vec![
        format!("{} {}", explanation.method, explanation.path),
        format!("  {}: {}", explanation.conclusion, explanation.why),
    ];
    if let Some(start) = &explanation.start {
        lines.push(format!("  route       {}", start.route));
        lines.push(format!("  trigger     {}", start.trigger));
        for (index, who) in start.who_pays.iter().enumerate() {
            let label = if index == 0 { "who pays" } else { "  or else" };
            lines.push(format!("  {label:<11} {who}"));
        }
        lines.push(format!("  balance     {}", start.balance));
        lines.push(format!("  refused     {}", start.refused));
        lines.push(format!("  no balance  {}", start.missing));
        lines.push(format!("  outage      {}", start.on_outage));
        let hold = start.hold.iter().flat_map(HoldExplanation::lines);
        lines.extend(hold.map(|(label, said)| format!("  {label:<11} {said}")));
        if let Some(max_body) = start.max_body_bytes {
            lines.push(format!("  body        at most {max_body} bytes"));
        }
        if !start.enforced {
            lines.push("  shadow      decided and counted, forwarded all the same".to_owned());
        }
    }
    let run = explanation.run.iter().flat_map(RunExplanation::lines);
    lines.extend(run.map(|(label, said)| format!("  {label:<11} {said}")));
    lines.join("\n")
}
