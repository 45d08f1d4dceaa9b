//! `tollgate explain METHOD PATH`: which route a request is, what it would
//! need, and why. Opens no socket, unless `--worst-case` is asked of a team.
//!
//! What becomes of one very request, read from a file, is in [`mod@request`].
//! What is said of a start route is in [`start`], of who pays in [`who`], and
//! what hold mode adds in [`hold`].

mod hold;
mod request;
mod start;
mod who;

use clap::Args;
use serde::Serialize;

use self::hold::RunExplanation;
use self::request::RequestArgs;
use self::start::StartExplanation;
use super::ledger::Common;
use super::{Failure, Outcome, Style, say, worst_case};
use crate::config::Config;
use crate::config::pattern::StartPattern;
use crate::edge::route::{Found, Table, received_path};
use crate::edge::secret::SecretPaths;

#[derive(Args)]
pub struct ExplainArgs {
    /// The method, such as POST.
    #[arg(required_unless_present_any = ["worst_case", "request"])]
    method: Option<String>,
    /// The request target as a client would send it.
    #[arg(required_unless_present_any = ["worst_case", "request"])]
    path: Option<String>,
    /// How many credits could be spent twice because a failover of Redis lost
    /// holds.
    #[arg(long, conflicts_with_all = ["method", "path"])]
    worst_case: bool,
    /// With --worst-case: of this team, as it stands in Redis.
    #[arg(long, requires = "worst_case")]
    team: Option<String>,
    #[command(flatten)]
    request: RequestArgs,
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

pub fn run(arguments: ExplainArgs) -> Outcome {
    let common = &arguments.common;
    match (arguments.method, arguments.path) {
        (Some(method), Some(path)) => request(Asked { method, path }, common),
        _ if arguments.request.is_given() => request::run(&arguments.request, common),
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
        start: route.map(|(pattern, route)| StartExplanation::of(config, pattern, route)),
        run,
        path: shown(config, &arguments.path),
        method: arguments.method,
    };
    say(&match common.style() {
        Style::Json => serde_json::to_string_pretty(&explanation).unwrap_or_default(),
        Style::Text => text(&explanation),
    });
    Ok(())
}

/// A target as it was written, unless a secret stands in its path.
fn shown(config: &Config, target: &str) -> String {
    let secrets = SecretPaths::new(&config.routes);
    let path = secrets.shown(target.as_bytes());
    if path == received_path(target.as_bytes()) {
        target.to_owned()
    } else {
        path.into_owned()
    }
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

fn text(explanation: &Explanation) -> String {
    let mut lines = vec![
        format!("{} {}", explanation.method, explanation.path),
        format!("  {}: {}", explanation.conclusion, explanation.why),
    ];
    let start = explanation.start.iter().flat_map(StartExplanation::lines);
    lines.extend(start.map(|(label, said)| format!("  {label:<11} {said}")));
    let run = explanation.run.iter().flat_map(RunExplanation::lines);
    lines.extend(run.map(|(label, said)| format!("  {label:<11} {said}")));
    lines.join("\n")
}
