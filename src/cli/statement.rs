//! `tollgate statement`: what was added to and taken from a team's balance,
//! where tollgate writes balances.

use clap::Args;

use super::ledger::{Common, Instead, team, team_path};
use super::table::{Side, table};
use super::{Failure, Outcome, Style, say};
use crate::app::admin::{facts, figure};
use crate::ledger::holds::{Holds as _, Line};
use crate::ledger::redis::RedisLedger;

/// The most lines that are shown if nothing is said.
const LIMIT: &str = "1000";

#[derive(Args)]
pub struct StatementArgs {
    /// The team.
    team: String,
    /// Begin after this line; left out: with the first that is kept.
    #[arg(
        long,
        value_name = "LINE",
        default_value = "",
        hide_default_value = true
    )]
    after: String,
    /// The most lines to show.
    #[arg(long, value_name = "N", default_value = LIMIT)]
    limit: std::num::NonZeroUsize,
    #[command(flatten)]
    common: Common,
}

pub fn run(arguments: StatementArgs) -> Outcome {
    let StatementArgs {
        team: name,
        after,
        limit,
        common,
    } = arguments;
    let team = team(&name)?;
    if !figure::is_place(&after) {
        return Err(Failure::Usage(format!(
            "`{after}` is not the id of a line: take one from the last column of the statement"
        )));
    }
    let settings = common.settings()?;
    settings.must_hold("a statement")?;
    settings.must_write("a statement")?;
    let instead = Instead::request("GET", team_path(&team, "/statement"));
    let lines = settings.with_ledger(&instead, |ledger: RedisLedger| {
        let (team, after) = (&team, &after);
        async move { ledger.statement(team, after, limit.get()).await }
    })?;
    say(&match common.style() {
        Style::Json => facts::statement(&team, &lines).to_string(),
        Style::Text if lines.is_empty() && after.is_empty() => {
            format!("{team}: no lines yet; they are written for grants and debits")
        }
        Style::Text if lines.is_empty() => format!("{team}: no lines after {after}"),
        Style::Text => text(&lines, limit.get()),
    });
    Ok(())
}

fn text(lines: &[Line], limit: usize) -> String {
    let or_dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
    let rows: Vec<[String; 7]> = lines
        .iter()
        .map(|line| {
            let run = line.run.as_ref().map(|run| run.as_str());
            let hold = line.hold.as_ref().map(|hold| hold.as_str());
            [
                facts::time(line.at).unwrap_or("-".to_owned()),
                line.kind.name().to_owned(),
                line.credits.to_string(),
                line.balance.to_string(),
                or_dash(line.reference.as_deref()),
                or_dash(run.or(hold)),
                line.id.clone(),
            ]
        })
        .collect();
    let columns = [
        ("TIME", Side::Left),
        ("KIND", Side::Left),
        ("CREDITS", Side::Right),
        ("BALANCE", Side::Right),
        ("REFERENCE", Side::Left),
        ("RUN OR HOLD", Side::Left),
        ("LINE", Side::Left),
    ];
    let shown = table(columns, &rows);
    match lines.last() {
        Some(last) if lines.len() >= limit => {
            format!("{shown}\nthere may be more: go on with --after {}", last.id)
        }
        _ => shown,
    }
}
