//! `tollgate explain METHOD PATH`: which route a request is, what it would
//! need, and why. Opens no socket.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{Failure, Outcome, read, say};
use crate::config::{self, Config};
use crate::edge::route::{Found, Table};

#[derive(Args)]
pub struct ExplainArgs {
    /// The method, such as POST.
    method: String,
    /// The request target as a client would send it.
    path: String,
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Tell programs.
    #[arg(long)]
    json: bool,
}

/// What the gateway concludes.
#[derive(Serialize)]
struct Explanation {
    method: String,
    path: String,
    /// `passes`, `start` or `ambiguous`.
    conclusion: &'static str,
    why: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<StartExplanation>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    max_body_bytes: Option<u64>,
}

pub fn run(arguments: ExplainArgs) -> Outcome {
    let is_target = arguments.path.starts_with('/') || arguments.path.contains("://");
    if !is_target {
        let path = &arguments.path;
        return Err(Failure::Usage(format!(
            "`{path}` is no path, and is answered 400: write it with a leading slash, such as /{path}"
        )));
    }
    let config = read(&arguments.config)?;
    let table = Table::new(config.routes.iter().map(|route| &route.start));
    let target = arguments.path.as_bytes();
    let found = table.find(&arguments.method, std::iter::empty(), target);
    let route = match found {
        Found::Start(index) => config.routes.get(index),
        Found::Passes | Found::Ambiguous => None,
    };
    let explanation = Explanation {
        why: why(&arguments, found, route),
        conclusion: match found {
            Found::Passes => "passes",
            Found::Start(_) => "start",
            Found::Ambiguous => "ambiguous",
        },
        start: route.map(|route| start(&config, route)),
        method: arguments.method,
        path: arguments.path,
    };
    if arguments.json {
        say(&serde_json::to_string_pretty(&explanation).unwrap_or_default());
    } else {
        say(&text(&explanation));
    }
    Ok(())
}

fn why(arguments: &ExplainArgs, found: Found, route: Option<&config::Route>) -> String {
    let write = !matches!(
        arguments.method.to_ascii_uppercase().as_str(),
        "GET" | "HEAD" | "OPTIONS" | "TRACE"
    );
    match (found, route) {
        (Found::Ambiguous, _) => {
            "some readings of the path are one start route and some another: it is answered 400".to_owned()
        }
        (Found::Start(_), Some(route)) => {
            let written = route.start.to_string();
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

fn start(config: &Config, route: &config::Route) -> StartExplanation {
    let balances = &config.balances;
    let key = balances.key.as_str();
    let balance = match (&balances.redis, &balances.field) {
        (None, _) => "balances.memory, in this process".to_owned(),
        (Some(_), Some(field)) => format!("field `{}` of the Redis hash `{key}`", field.as_str()),
        (Some(_), None) => format!("the Redis string `{key}`"),
    };
    let trigger: crate::billing::trigger::Trigger = route.trigger.into();
    StartExplanation {
        route: route.start.to_string(),
        trigger: trigger.name(),
        who_pays: config.identity.iter().map(who).collect(),
        balance,
        refused: format!(
            "403 insufficient_credits at or below {} credits",
            balances.refuse_at_or_below.credits()
        ),
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
        if let Some(max_body) = start.max_body_bytes {
            lines.push(format!("  body        at most {max_body} bytes"));
        }
        if !start.enforced {
            lines.push("  shadow      decided and counted, forwarded all the same".to_owned());
        }
    }
    lines.join("\n")
}
