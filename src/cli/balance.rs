//! `tollgate balance get|set|grant`: one team's balance, by hand.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::{Failure, Outcome, Style, read, say};
use crate::app::build::redis_settings;
use crate::billing::credits::Credits;
use crate::billing::team::TeamId;
use crate::ledger::redis::RedisLedger;
use crate::ledger::{Ledger, LedgerError};

/// How long Redis may take for a person who is waiting.
const DEADLINE: Duration = Duration::from_secs(5);

#[derive(Args)]
pub struct BalanceArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Print a team's balance.
    Get(TeamArgs),
    /// Set a team's balance, whatever it was.
    Set(ChangeArgs),
    /// Add to a team's balance; concurrent grants all count.
    Grant(ChangeArgs),
}

#[derive(Args)]
struct TeamArgs {
    /// The team.
    team: String,
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Tell programs.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ChangeArgs {
    /// The team.
    team: String,
    /// Credits, as a decimal.
    #[arg(allow_hyphen_values = true)]
    credits: String,
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Tell programs.
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: BalanceArgs) -> Outcome {
    match arguments.action {
        Action::Get(args) => {
            let team = team(&args.team)?;
            let ledger =
                |ledger: RedisLedger, team: TeamId| async move { ledger.balance(&team).await };
            let balance = with_ledger(&args.config, team.clone(), ledger)?;
            show(&team, balance, Style::of(args.json));
        }
        Action::Set(args) => {
            let (team, credits) = (team(&args.team)?, credits(&args.credits)?);
            let set = |ledger: RedisLedger, team: TeamId| async move {
                ledger.set_balance(&team, credits).await
            };
            with_ledger(&args.config, team.clone(), set)?;
            show(&team, Some(credits), Style::of(args.json));
        }
        Action::Grant(args) => {
            let (team, credits) = (team(&args.team)?, credits(&args.credits)?);
            let grant = |ledger: RedisLedger, team: TeamId| async move {
                ledger.grant(&team, credits).await
            };
            let balance = with_ledger(&args.config, team.clone(), grant)?;
            show(&team, Some(balance), Style::of(args.json));
        }
    }
    Ok(())
}

fn team(text: &str) -> Result<TeamId, Failure> {
    TeamId::parse(text.as_bytes()).map_err(|error| Failure::Usage(format!("`{text}` is {error}")))
}

fn credits(text: &str) -> Result<Credits, Failure> {
    text.parse()
        .map_err(|error| Failure::Usage(format!("`{text}` is {error}")))
}

fn show(team: &TeamId, balance: Option<Credits>, style: Style) {
    let shown = balance.map(|credits| credits.to_string());
    match style {
        Style::Json => {
            say(&serde_json::json!({"team": team.as_str(), "balance": shown}).to_string())
        }
        Style::Text => say(&match shown {
            Some(credits) => format!("{team}: {credits} credits"),
            None => format!("{team}: no balance"),
        }),
    }
}

/// Does something with the configured ledger, in a runtime of its own.
fn with_ledger<T, F>(
    file: &std::path::Path,
    team: TeamId,
    action: impl FnOnce(RedisLedger, TeamId) -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, LedgerError>>,
{
    let config = read(file)?;
    let Some(mut settings) = redis_settings(&config) else {
        return Err(Failure::Usage(
            "balances.memory lives inside the gateway's own process: change it in the file and reload".to_owned(),
        ));
    };
    settings.deadline = DEADLINE;
    settings.connect_timeout = DEADLINE;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.context("there is no runtime to be had")?;
    let done = runtime.block_on(async {
        let ledger = RedisLedger::connect_once(&settings).await?;
        action(ledger, team).await
    });
    done.map_err(|error| Failure::Fault(error.to_string()))
}
