//! `tollgate explain --worst-case`: how many credits could be spent twice
//! because a Redis that takes over had not heard of the last holds.
//!
//! Redis answers before its replicas have heard. So a replica that takes over
//! may know none of a team's live holds, and admit starts for the same credits
//! again: once more for what the team could hold, which is never more than its
//! balance. That is the figure; `tests/ledger/failover.rs` brings it about and
//! measures that it is not exceeded.

use serde::Serialize;

use super::ledger::{Common, Instead, team, team_path};
use super::{Outcome, Style, say};
use crate::billing::credits::Credits;
use crate::config::{Config, Writer};
use crate::ledger::holds::{Holds as _, Standing};
use crate::ledger::redis::RedisLedger;

/// What could be lost.
#[derive(Serialize)]
struct WorstCase {
    /// What makes holds disappear.
    event: &'static str,
    /// The credits that could be spent twice each time, of all teams or of the
    /// one asked for. `None`: it depends on the team.
    #[serde(skip_serializing_if = "Option::is_none")]
    credits: Option<String>,
    /// What the figure is made of.
    bound: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    team: Option<Team>,
    /// What else to know.
    notes: Vec<&'static str>,
}

/// A team as it stands.
#[derive(Serialize)]
struct Team {
    team: String,
    balance: String,
    /// What would be lost if it happened at this moment.
    held_now: String,
}

/// In lookup mode.
const NOTHING: &str = "nothing: in lookup mode tollgate writes nothing that could be lost";

/// In hold mode.
const ONCE_MORE: &str = "each team's balance, once more: a replica that takes over may know none of the team's live holds, which are never more than its balance";

/// With balances in the process.
const RESTART: &str = "all balances, once more: a process that ends forgets its holds";

/// What narrows the time in which the figure applies, but not the figure.
const REPLICAS: &str = "`min-replicas-to-write 1` and `min-replicas-max-lag 1` in Redis let it take holds only while a replica was heard of in the last second or two";

/// What is counted.
const AS_HELD: &str =
    "counted as holds set it aside: a run that costs more than its hold costs more here too";

/// What the ledger writes itself is lost with the holds.
const DEBITS: &str = "debits and grants that the replica had not heard of are undone as well: settle, charge and grant again with the same ids, which does each once";

/// Prints it.
pub fn run(name: Option<&str>, common: &Common) -> Outcome {
    let settings = common.settings()?;
    let config = settings.config();
    let mut worst = for_all(config, settings.holds());
    if let Some(name) = name {
        let team = team(name)?;
        settings.must_hold("the worst case of one team")?;
        let instead = Instead::request("GET", team_path(&team, ""));
        let standing = settings.with_ledger(&instead, |ledger: RedisLedger| {
            let team = team.clone();
            async move { ledger.standing(&team).await }
        })?;
        worst.credits = Some(at_worst(&standing).to_string());
        worst.team = Some(Team {
            team: team.to_string(),
            balance: standing.balance.unwrap_or(Credits::ZERO).to_string(),
            held_now: standing.held.credits.to_string(),
        });
    }
    say(&match common.style() {
        Style::Json => serde_json::to_string_pretty(&worst).unwrap_or_default(),
        Style::Text => text(&worst),
    });
    Ok(())
}

/// What a team could spend twice. Holds are within the balance when they are
/// made; billing may have lowered it since.
fn at_worst(standing: &Standing) -> Credits {
    let balance = standing.balance.unwrap_or(Credits::ZERO);
    balance.max(standing.held.credits).max(Credits::ZERO)
}

fn for_all(config: &Config, holds: bool) -> WorstCase {
    let event = match config.balances.memory {
        Some(_) => "the gateway restarts",
        None => "a replica of Redis takes over, or Redis comes back with older data",
    };
    if !holds {
        return WorstCase {
            event,
            credits: Some(Credits::ZERO.to_string()),
            bound: NOTHING,
            team: None,
            notes: Vec::new(),
        };
    }
    if let Some(balances) = &config.balances.memory {
        let sum = balances
            .values()
            .map(|amount| amount.credits().max(Credits::ZERO))
            .fold(Credits::ZERO, Credits::saturating_add);
        return WorstCase {
            event,
            credits: Some(sum.to_string()),
            bound: RESTART,
            team: None,
            notes: vec![AS_HELD],
        };
    }
    let mut notes = vec![AS_HELD, REPLICAS];
    if config.balances.writer == Writer::Tollgate {
        notes.push(DEBITS);
    }
    WorstCase {
        event,
        credits: None,
        bound: ONCE_MORE,
        team: None,
        notes,
    }
}

fn text(worst: &WorstCase) -> String {
    let mut lines = vec![format!("each time that {}:", worst.event)];
    let is_for = match &worst.team {
        Some(team) => format!(" of {}", team.team),
        None => String::new(),
    };
    match &worst.credits {
        Some(credits) => lines.push(format!(
            "  at most {credits} credits{is_for} are spent twice"
        )),
        None => lines.push(
            "  how many credits are spent twice depends on the team: name one with --team"
                .to_owned(),
        ),
    }
    lines.push(format!("  bound: {}", worst.bound));
    if let Some(team) = &worst.team {
        lines.push(format!(
            "  now: a balance of {}, of which {} are held and would be lost",
            team.balance, team.held_now
        ));
    }
    lines.extend(worst.notes.iter().map(|note| format!("  note: {note}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::billing::hold::Held;

    #[test]
    fn a_team_loses_its_balance_or_what_it_held_when_that_was_higher() {
        let credits = |text: &str| text.parse::<Credits>().expect("credits");
        for (balance, held, worst) in [
            (Some("100"), "40", "100"),
            (Some("10"), "40", "40"),
            (Some("-5"), "0", "0"),
            (None, "0", "0"),
        ] {
            let standing = Standing {
                balance: balance.map(credits),
                held: Held {
                    credits: credits(held),
                    live: 1,
                },
            };
            assert_eq!(at_worst(&standing), credits(worst), "{standing:?}");
        }
    }
}
