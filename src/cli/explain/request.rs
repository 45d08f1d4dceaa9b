//! `tollgate explain --request FILE`: what becomes of one very request. Opens
//! no socket, unless `--ask` lets it read the ledger and an issuer's keys.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use clap::Args;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject as _};
use serde::Serialize;
use tokio::runtime::Handle;

use super::super::ledger::{Again, Common, Instead, Settings};
use super::super::{Failure, Outcome, Style, say};
use super::hold::RunExplanation;
use crate::app::build::{outside, tokens};
use crate::app::rehearsal::wire::Wire;
use crate::app::rehearsal::{Applies, Becomes, Conclusion, Scene, conclude};
use crate::edge::identify::certificate::Certificate;
use crate::ledger::redis::RedisLedger;
use crate::telemetry::Metrics;

/// How long an issuer may take to send its keys.
const ISSUER_MAX: Duration = Duration::from_secs(5);

/// What else can be explained. Each argument names them: clap does not insist
/// on `--request` where something is there that excludes it.
const OTHERS: [&str; 3] = ["method", "path", "worst_case"];

#[derive(Args)]
pub struct RequestArgs {
    /// A file with a request as it goes over the wire: request line, headers,
    /// an empty line, body; `-` for standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = OTHERS)]
    request: Option<PathBuf>,
    /// With --request: the TCP peer that it comes from.
    #[arg(long, value_name = "IP", requires = "request", conflicts_with_all = OTHERS, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    peer: IpAddr,
    /// With --request: when it comes, as 2026-11-22T18:50:04Z or in seconds
    /// since 1970. Left out: now.
    #[arg(long, value_name = "TIME", requires = "request", conflicts_with_all = OTHERS, value_parser = time)]
    at: Option<SystemTime>,
    /// With --request: the client certificate of its connection (PEM).
    #[arg(long, value_name = "FILE", requires = "request", conflicts_with_all = OTHERS)]
    certificate: Option<PathBuf>,
    /// With --request: read the ledger and an issuer's keys, too. Nothing is
    /// written, and no hold is made.
    #[arg(long, requires = "request", conflicts_with_all = OTHERS)]
    ask: bool,
}

impl RequestArgs {
    /// Whether a request is to be explained.
    pub fn is_given(&self) -> bool {
        self.request.is_some()
    }
}

/// What is said of a request.
#[derive(Serialize)]
struct Explained {
    peer: IpAddr,
    at: String,
    /// Whether the ledger was asked.
    asked: bool,
    body_bytes: usize,
    #[serde(flatten)]
    conclusion: Conclusion,
    /// In hold mode, a request about a run that began earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<RunExplanation>,
}

pub fn run(arguments: &RequestArgs, common: &Common) -> Outcome {
    let settings = common.settings()?;
    let wire = wire(arguments.request.as_deref().unwrap_or(Path::new("-")))?;
    let certificate = arguments.certificate.as_deref().map(certificate);
    let certificate = certificate.transpose()?;
    let at = arguments.at.unwrap_or_else(SystemTime::now);
    let scene = || Scene {
        wire: &wire,
        peer: arguments.peer,
        at,
        certificate: certificate.as_ref(),
        route_at: String::new(),
    };
    let conclusion = if arguments.ask {
        let instead = Instead {
            request: None,
            otherwise: "leave --ask out, and ask its admin listener for the balance",
            again: Again::Safe,
        };
        let ask = |ledger| {
            let (settings, scene) = (&settings, scene());
            async move { Ok(concluded(settings, scene, Some(&ledger)).await) }
        };
        settings.with_ledger(&instead, ask)??
    } else {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.context("there is no runtime to be had")?;
        runtime.block_on(concluded(&settings, scene(), None))?
    };
    let target = String::from_utf8_lossy(wire.head.raw_path());
    let passes = conclusion.conclusion == "passes";
    let run = || RunExplanation::of(settings.config(), wire.head.method.as_str(), &target);
    let explained = Explained {
        peer: arguments.peer,
        at: humantime::format_rfc3339_seconds(at).to_string(),
        asked: arguments.ask,
        body_bytes: wire.body.len(),
        run: passes.then(run).flatten(),
        conclusion,
    };
    say(&match common.style() {
        Style::Json => serde_json::to_string_pretty(&explained).unwrap_or_default(),
        Style::Text => explained.text(),
    });
    Ok(())
}

async fn concluded(
    settings: &Settings,
    scene: Scene<'_>,
    ledger: Option<&RedisLedger>,
) -> Result<Conclusion, Failure> {
    let config = settings.config();
    let metrics = Metrics::new().context("there are no metrics to be had")?;
    let egress = outside::client(config).context("requests of our own")?;
    let issuers = tokens::issuers(config, &egress, &metrics, None);
    let (issuers, refreshers) = issuers.context("the keys of token issuers")?;
    if ledger.is_some() {
        refreshers.begin(&Handle::current(), ISSUER_MAX).await;
    }
    let conclusion = conclude(config, &issuers.keyrings(), scene, ledger).await;
    Ok(conclusion.context("there are no metrics to be had")?)
}

fn wire(file: &Path) -> Result<Wire, Failure> {
    let usage = |why: &dyn std::fmt::Display| Failure::Usage(format!("{}: {why}", file.display()));
    if file == Path::new("-") {
        return Wire::read(io::stdin().lock()).map_err(|error| usage(&error));
    }
    let open = File::open(file).map_err(|error| usage(&error))?;
    Wire::read(open).map_err(|error| usage(&error))
}

fn certificate(file: &Path) -> Result<Certificate, Failure> {
    let usage = |why: &dyn std::fmt::Display| Failure::Usage(format!("{}: {why}", file.display()));
    let pem = CertificateDer::from_pem_file(file).map_err(|error| match error {
        pem::Error::NoItemsFound => usage(&"has no certificate in PEM"),
        error => usage(&error),
    })?;
    Certificate::read(&pem)
        .ok_or_else(|| usage(&"is a certificate that is malformed or says too much"))
}

/// A time as people write it.
fn time(text: &str) -> Result<SystemTime, String> {
    let advice = "write it as 2026-11-22T18:50:04Z, or in seconds since 1970";
    if let Ok(seconds) = text.parse::<u64>() {
        let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        // What RFC 3339 cannot write cannot be shown, either.
        let last = 253_402_300_799;
        return at
            .filter(|_| seconds <= last)
            .ok_or_else(|| advice.to_owned());
    }
    humantime::parse_rfc3339(text).map_err(|_| advice.to_owned())
}

impl Explained {
    fn text(&self) -> String {
        let said = &self.conclusion;
        let mut lines = vec![
            said.request.clone(),
            format!(
                "  {}, from {} at {}, with a body of {} bytes",
                said.conclusion.replace('_', " "),
                self.peer,
                self.at,
                self.body_bytes
            ),
        ];
        let mut line = |label: &str, text: &str| lines.push(format!("  {label:<11} {text}"));
        let run = self.run.iter().flat_map(RunExplanation::lines);
        run.for_each(|(label, text)| line(label, &text));
        said.route.iter().for_each(|route| line("route", route));
        said.trigger
            .iter()
            .for_each(|trigger| line("trigger", trigger));
        if let Some(told) = &said.delivery {
            line("signature", &told.signature);
            let facts = [
                ("delivery", told.surface),
                ("starts", told.starts.as_deref()),
                ("workspace", told.workspace.as_deref()),
                ("team by", told.team_by.as_deref()),
                ("can be told", told.can_be_told),
            ];
            let known = facts
                .iter()
                .filter_map(|(label, fact)| Some((*label, (*fact)?)));
            known.for_each(|(label, fact)| line(label, fact));
        }
        for one in &said.considered {
            let applies = match one.applies {
                Applies::Yes => "applies",
                Applies::No => "does not apply",
                Applies::NotAsked => "is not asked",
            };
            line(
                "who pays",
                &format!("{} {applies}: {}", one.by, one.because),
            );
        }
        if !said.asks.is_empty() {
            let label = if self.asked { "asked" } else { "would ask" };
            line(label, &said.asks.join(", "));
        }
        if let Some(team) = &said.team {
            let principal = said
                .principal
                .as_ref()
                .map(|name| format!(", asked by {name}"));
            line("team", &format!("{team}{}", principal.unwrap_or_default()));
        }
        said.balance
            .iter()
            .for_each(|balance| line("balance", balance));
        line("answer", &answer(said));
        said.notes.iter().for_each(|note| line("note", note));
        lines.join("\n")
    }
}

fn answer(said: &Conclusion) -> String {
    let answer = &said.answer;
    match (answer.outcome, answer.status, answer.code) {
        (Becomes::Answered, Some(status), Some(code)) => {
            format!("{status} {code}: {}", answer.says)
        }
        (Becomes::Open, ..) => format!("open: {}", answer.says),
        _ => answer.says.clone(),
    }
}
