//! `tollgate balance get|set|grant`: one team's balance, by hand.

use clap::{Args, Subcommand};

use super::ledger::{Again, Common, Instead, change_id, credits, team, team_path};
use super::{Failure, Outcome, Style, counted, say};
use crate::app::admin::facts::{self, When};
use crate::app::admin::figure;
use crate::billing::credits::Credits;
use crate::billing::team::TeamId;
use crate::ledger::Ledger as _;
use crate::ledger::holds::{Granted, Holds as _, Standing};
use crate::ledger::redis::RedisLedger;

#[derive(Args)]
pub struct BalanceArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Print a team's balance; in hold mode also what is held and spendable.
    Get {
        /// The team.
        team: String,
        #[command(flatten)]
        common: Common,
    },
    /// Set a team's balance, whatever it was.
    Set {
        /// The team.
        team: String,
        /// Credits, as a decimal.
        #[arg(allow_hyphen_values = true)]
        credits: String,
        #[command(flatten)]
        common: Common,
    },
    /// Add to a team's balance; concurrent grants all count.
    Grant {
        /// The team.
        team: String,
        /// Credits, as a decimal.
        #[arg(allow_hyphen_values = true)]
        credits: String,
        /// Grant once under this id, such as an invoice's number, however
        /// often the command is run (hold mode).
        #[arg(long)]
        id: Option<String>,
        #[command(flatten)]
        common: Common,
    },
}

/// What is left where a balance is in the gateway's process.
const IN_THE_FILE: &str = "change it in the file and reload";

pub fn run(arguments: BalanceArgs) -> Outcome {
    match arguments.action {
        Action::Get { team, common } => get(&team, &common),
        Action::Set {
            team,
            credits,
            common,
        } => set(&team, &credits, &common),
        Action::Grant {
            team,
            credits,
            id: None,
            common,
        } => grant(&team, &credits, &common),
        Action::Grant {
            team,
            credits,
            id: Some(id),
            common,
        } => grant_once(&team, &credits, &id, &common),
    }
}

fn get(name: &str, common: &Common) -> Outcome {
    let team = team(name)?;
    let settings = common.settings()?;
    let instead = Instead::request("GET", team_path(&team, ""));
    if !settings.holds() {
        let read =
            |ledger: RedisLedger| async move { ledger.balance(&team).await.map(|b| (team, b)) };
        let (team, balance) = settings.with_ledger(&instead, read)?;
        show(&team, balance, common.style());
        return Ok(());
    }
    let read = |ledger: RedisLedger| async move { ledger.standing(&team).await.map(|s| (team, s)) };
    let (team, standing) = settings.with_ledger(&instead, read)?;
    say(&match common.style() {
        Style::Json => facts::standing(&team, &standing).to_string(),
        Style::Text => standing_text(&team, &standing),
    });
    Ok(())
}

fn set(name: &str, figure: &str, common: &Common) -> Outcome {
    let (team, credits) = (team(name)?, credits(figure, figure::exact)?);
    let instead = Instead {
        request: None,
        otherwise: IN_THE_FILE,
        again: Again::Safe,
    };
    let set = |ledger: RedisLedger| async move {
        ledger.set_balance(&team, credits).await.map(|()| team)
    };
    let team = common.settings()?.with_ledger(&instead, set)?;
    show(&team, Some(credits), common.style());
    Ok(())
}

fn grant(name: &str, figure: &str, common: &Common) -> Outcome {
    let (team, credits) = (team(name)?, credits(figure, figure::exact)?);
    let instead = Instead {
        again: Again::Unsafe,
        ..Instead::request("POST", team_path(&team, "/grants"))
    };
    let grant =
        |ledger: RedisLedger| async move { ledger.grant(&team, credits).await.map(|b| (team, b)) };
    let (team, balance) = common.settings()?.with_ledger(&instead, grant)?;
    show(&team, Some(balance), common.style());
    Ok(())
}

fn grant_once(name: &str, figure: &str, id: &str, common: &Common) -> Outcome {
    let (team, credits) = (team(name)?, credits(figure, figure::correction)?);
    let id = change_id(id)?;
    let settings = common.settings()?;
    settings.must_hold("granting once per id")?;
    let instead = Instead::request("POST", team_path(&team, "/grants"));
    let granted = settings.with_ledger(&instead, |ledger: RedisLedger| {
        let team = team.clone();
        async move { ledger.grant_once(&team, credits, id).await }
    })?;
    let (balance, when) = outcome(&team, id, granted, common.style())?;
    say(&match (common.style(), when) {
        (Style::Json, _) => facts::granted(&team, credits, balance, when).to_string(),
        (Style::Text, When::Now) => format!("{team}: granted {credits} credits, now {balance}"),
        (Style::Text, When::Before) => {
            format!("{team}: already granted under `{id}`, nothing changed: {balance} credits")
        }
    });
    Ok(())
}

fn outcome(
    team: &TeamId,
    id: &str,
    granted: Granted,
    style: Style,
) -> Result<(Credits, When), Failure> {
    facts::grant_outcome(granted).map_err(|earlier| {
        if style == Style::Json {
            let facts = serde_json::json!({
                "team": team.as_str(), "error": "conflict", "earlier": earlier.to_string(),
            });
            say(&facts.to_string());
        }
        Failure::Fault(format!(
            "{earlier} credits were granted to {team} under `{id}` before, and nothing was granted now: give each grant an id of its own"
        ))
    })
}

fn show(team: &TeamId, balance: Option<Credits>, style: Style) {
    say(&match style {
        Style::Json => facts::balance(team, balance).to_string(),
        Style::Text => match balance {
            Some(credits) => format!("{team}: {credits} credits"),
            None => format!("{team}: no balance"),
        },
    });
}

fn standing_text(team: &TeamId, standing: &Standing) -> String {
    let held = standing.held;
    let holds = counted(held.live, "live hold");
    let held = format!("{} credits held by {holds}", held.credits);
    match (standing.balance, standing.spendable()) {
        (Some(balance), Some(spendable)) => {
            format!("{team}: {balance} credits, {held}, {spendable} spendable")
        }
        _ => format!("{team}: no balance, {held}"),
    }
}
