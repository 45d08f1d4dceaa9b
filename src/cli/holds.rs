//! `tollgate holds list|release|settle|charge`: credits set aside, by hand.
//!
//! A change can be repeated: it is made once. What cannot be changed, and a
//! hold that is not there, end with 1 and a sentence that says what to do.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::ledger::{Common, Instead, Settings, change_id, credits, team, team_path, which};
use super::table::{Side, table};
use super::{Failure, Outcome, Style, say};
use crate::app::admin::facts::{self, Act, When};
use crate::app::admin::figure;
use crate::billing::credits::Credits;
use crate::billing::hold::End;
use crate::billing::team::TeamId;
use crate::events::holds::HoldEvent;
use crate::ledger::holds::{Change, Entry, Holds as _, LiveHold, release_all};
use crate::ledger::redis::RedisLedger;

/// The most holds that are listed if nothing is said.
const LIMIT: &str = "1000";

#[derive(Args)]
pub struct HoldsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List a team's live holds, the next to expire first.
    List {
        /// The team.
        team: String,
        /// The most holds to list.
        #[arg(long, value_name = "N", default_value = LIMIT)]
        limit: std::num::NonZeroUsize,
        #[command(flatten)]
        common: Common,
    },
    /// End a hold without a cost; by its run, all live holds of that run.
    ///
    /// For a run that did not begin, or is over and cost nothing more. If it
    /// did cost something after all, it can still be settled.
    Release {
        #[command(flatten)]
        hold: HoldArg,
        #[command(flatten)]
        common: Common,
    },
    /// End a hold with the last part of what its run cost.
    ///
    /// With balances.writer: tollgate the balance is debited in the same step,
    /// below zero if need be; what was charged before is not subtracted. Run it
    /// again with the same figure and nothing changes.
    Settle {
        #[command(flatten)]
        hold: HoldArg,
        /// What it cost, as a decimal; 0 is a figure.
        #[arg(allow_hyphen_values = true)]
        credits: String,
        #[command(flatten)]
        common: Common,
    },
    /// Charge a part of what a run costs while it goes on.
    ///
    /// The hold shrinks by it and stays live; with balances.writer: tollgate
    /// the balance is debited in the same step. Run it again with the same id
    /// and figure and nothing changes.
    Charge {
        #[command(flatten)]
        hold: HoldArg,
        /// The part, as a decimal.
        #[arg(allow_hyphen_values = true)]
        credits: String,
        /// The charge's own id within the team: it is made once under it.
        #[arg(long)]
        id: String,
        #[command(flatten)]
        common: Common,
    },
}

/// Which hold.
#[derive(Args)]
struct HoldArg {
    /// The team.
    team: String,
    /// The hold's id, or that of its run: of several, the newest live one.
    #[arg(value_name = "HOLD|RUN")]
    hold: String,
}

/// What is to be done to a hold.
#[derive(Clone, Copy)]
enum Order<'a> {
    Release,
    Settle(Credits),
    Charge(Credits, &'a str),
}

impl Order<'_> {
    fn act(self) -> Act {
        match self {
            Order::Release => Act::Release,
            Order::Settle(_) => Act::Settle,
            Order::Charge(..) => Act::Charge,
        }
    }
}

pub fn run(arguments: HoldsArgs) -> Outcome {
    match arguments.action {
        Action::List {
            team,
            limit,
            common,
        } => list(&team, limit.get(), &common),
        Action::Release { hold, common } => change(&hold, Order::Release, &common),
        Action::Settle {
            hold,
            credits: figure,
            common,
        } => {
            let credits = credits(&figure, figure::cost)?;
            change(&hold, Order::Settle(credits), &common)
        }
        Action::Charge {
            hold,
            credits: figure,
            id,
            common,
        } => {
            let credits = credits(&figure, figure::amount)?;
            change(&hold, Order::Charge(credits, change_id(&id)?), &common)
        }
    }
}

fn list(name: &str, limit: usize, common: &Common) -> Outcome {
    let team = team(name)?;
    let settings = common.settings()?;
    settings.must_hold("listing holds")?;
    let instead = Instead::request("GET", team_path(&team, "/holds"));
    let holds = settings.with_ledger(&instead, |ledger: RedisLedger| {
        let team = team.clone();
        async move { ledger.list(&team, limit).await }
    })?;
    say(&match common.style() {
        Style::Json => facts::holds(&team, &holds).to_string(),
        Style::Text if holds.is_empty() => format!("{team}: no live holds"),
        Style::Text => list_text(&holds, limit),
    });
    Ok(())
}

fn list_text(holds: &[LiveHold], limit: usize) -> String {
    let rows: Vec<[String; 4]> = holds
        .iter()
        .map(|hold| {
            // To the second: nobody reads the rest.
            let left = std::time::Duration::from_secs(hold.ends_in.as_secs());
            [
                hold.hold.to_string(),
                hold.run
                    .as_ref()
                    .map_or("-".to_owned(), ToString::to_string),
                hold.credits.to_string(),
                humantime::format_duration(left).to_string(),
            ]
        })
        .collect();
    let columns = [
        ("HOLD", Side::Left),
        ("RUN", Side::Left),
        ("CREDITS", Side::Right),
        ("ENDS IN", Side::Right),
    ];
    let shown = table(columns, &rows);
    if holds.len() < limit {
        return shown;
    }
    format!("{shown}\nthere may be more: these are the first {limit}, see --limit")
}

fn change(hold: &HoldArg, order: Order<'_>, common: &Common) -> Outcome {
    let (team, either) = (team(&hold.team)?, which(&hold.hold)?);
    let settings = common.settings()?;
    let act = order.act();
    settings.must_hold(&format!("`holds {}`", act.name()))?;
    let path = format!("/holds/{}/{}", path_segment(&hold.hold), act.name());
    let instead = Instead::request("POST", team_path(&team, &path));
    let changes = settings.with_ledger(&instead, |ledger: RedisLedger| {
        let (team, either) = (&team, &either);
        async move {
            let mut changes = Vec::new();
            match order {
                Order::Release => {
                    let note = |change: &Change| changes.push(change.clone());
                    release_all(&ledger, team, either, note).await?;
                }
                Order::Settle(credits) => {
                    changes.push(ledger.settle(team, either, credits).await?);
                }
                Order::Charge(credits, id) => {
                    changes.push(ledger.charge(team, either, credits, id).await?);
                }
            }
            Ok(changes)
        }
    })?;
    let mut events = Vec::new();
    let mut outcome = Ok(());
    // Of a run that has several holds, each is released.
    for change in changes {
        events.extend(HoldEvent::of_change(&team, &change, act.told()));
        let concluded = conclude(&settings, &team, hold, act, change, common.style());
        outcome = outcome.and(concluded);
    }
    settings.tell(events);
    outcome
}

fn conclude(
    settings: &Settings,
    team: &TeamId,
    asked: &HoldArg,
    act: Act,
    change: Change,
    style: Style,
) -> Outcome {
    match change {
        Change::Done(entry) => {
            show(team, act, &entry, When::Now, style);
            if style == Style::Text && act != Act::Release && !settings.writes() {
                say(
                    "nothing was debited: with balances.writer: billing, billing takes it off the balance",
                );
            }
            Ok(())
        }
        Change::Again(entry) => {
            show(team, act, &entry, When::Before, style);
            Ok(())
        }
        Change::Conflict(entry) => {
            if style == Style::Json {
                let mut facts = facts::conflicting(team, &entry);
                facts.insert("error".to_owned(), "conflict".into());
                say(&Value::Object(facts).to_string());
            }
            Err(Failure::Fault(facts::why_not(act, &entry)))
        }
        Change::Unknown => {
            if style == Style::Json {
                let facts = serde_json::json!({
                    "team": team.as_str(), "error": "resource_not_found",
                });
                say(&facts.to_string());
            }
            Err(Failure::Fault(format!(
                "{team} has no hold `{0}`, and none for a run `{0}`, or it ended longer ago than admission.remember: see `tollgate holds list {team}` for those that are live",
                asked.hold
            )))
        }
    }
}

fn show(team: &TeamId, act: Act, entry: &Entry, when: When, style: Style) {
    say(&match style {
        Style::Json => Value::Object(facts::changed(team, act, entry, when)).to_string(),
        Style::Text => change_text(act, entry, when),
    });
}

fn change_text(act: Act, entry: &Entry, when: When) -> String {
    let (hold, figure) = (&entry.hold, entry.figure);
    let run = entry.run.as_ref();
    let run = run.map_or(String::new(), |run| format!(" (run {run})"));
    let mut text = match (act, when) {
        (Act::Release, When::Before) => {
            format!("hold {hold}{run}: already released, nothing changed")
        }
        (Act::Release, When::Now) => {
            format!(
                "hold {hold}{run}: released, {} credits are free again",
                entry.credits
            )
        }
        (Act::Settle | Act::Charge, When::Before) => format!(
            "hold {hold}{run}: already {} with {figure} credits, nothing changed",
            act.done()
        ),
        (Act::Settle | Act::Charge, When::Now) => {
            format!("hold {hold}{run}: {} with {figure} credits", act.done())
        }
    };
    match (entry.end, when) {
        (None, _) => text.push_str(&format!(", {} credits still held", entry.credits)),
        (Some(end @ (End::Released | End::Expired)), When::Now) if act != Act::Release => {
            text.push_str(&format!(", though it had {} before", ended(end)));
        }
        _ => {}
    }
    if let Some(balance) = entry.balance {
        text.push_str(&format!(", balance {balance} credits"));
    }
    text
}

fn ended(end: End) -> &'static str {
    match end {
        End::Released => "been released",
        End::Settled => "been settled",
        End::Expired => "expired",
    }
}

/// An id as a segment of a path: what is not plain is percent-encoded.
fn path_segment(id: &str) -> String {
    let mut segment = String::with_capacity(id.len());
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            segment.push(char::from(byte));
        } else {
            segment.push_str(&format!("%{byte:02X}"));
        }
    }
    segment
}
