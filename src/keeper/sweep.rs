//! Looks after teams that have live holds: drops what is due, and adds up what
//! is left.
//!
//! A team with traffic is swept by its own starts; this is for the others, so
//! that their holds are seen to expire, and told.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};

use super::teams::TEAMS_MAX;
use super::work::Hands;
use crate::billing::team::TeamId;
use crate::ledger::LedgerError;
use crate::ledger::holds::Repair;

/// How often one team is swept in a row while there is more to drop.
const ROUNDS_MAX: usize = 1000;

/// How many teams in a row cannot be swept before the others wait for the next
/// time: then the ledger is away for all of them. In a cluster it may be away
/// for the teams of one shard, and those are scattered among the others.
const FAILURES_MAX: u32 = 64;

/// How long the ledger may take to say which teams there are.
const SEED_MAX: Duration = Duration::from_secs(60);

/// Sweeps and audits, until another one takes over.
pub(super) async fn run(hands: Hands) {
    let every = hands.common.settings.sweep_every;
    // An interval of no length would panic.
    let mut ticks = interval(every.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let teams = &hands.common.teams;
    let sweeper = teams.take_over();
    loop {
        ticks.tick().await;
        if !teams.are_swept_by(sweeper) {
            // Tasks may still come, from requests that began before.
            std::future::pending::<()>().await;
        }
        if teams.wants_seed() {
            seed(&hands).await;
        }
        sweep_all(&hands, hands.common.teams.due(every)).await;
        if let Some(team) = hands.common.teams.next_audit() {
            audit(&hands, &team).await;
        }
    }
}

async fn sweep_all(hands: &Hands, teams: Vec<TeamId>) {
    let mut failures: u32 = 0;
    for team in teams {
        match sweep(hands, &team).await {
            Ok(()) => failures = 0,
            Err(
                error @ (LedgerError::Corrupt(_)
                | LedgerError::Unsupported(_)
                | LedgerError::Full(_)),
            ) => {
                tracing::warn!(team = team.as_str(), %error, "a team cannot be swept");
            }
            Err(LedgerError::Outage(_) | LedgerError::OutcomeUnknown(_)) => {
                failures = failures.saturating_add(1);
                if failures >= FAILURES_MAX {
                    break;
                }
            }
        }
    }
}

/// Looks once which teams have holds: those made before this process began
/// count in its gauges, and teams without traffic are swept.
async fn seed(hands: &Hands) {
    let Ok(teams) = timeout(SEED_MAX, hands.ledger.teams()).await else {
        tracing::warn!("the ledger has too many keys to find all teams that have holds");
        hands.common.teams.seeded();
        return;
    };
    let teams = match teams {
        Ok(teams) => teams,
        // Away, it is asked again.
        Err(LedgerError::Outage(_) | LedgerError::OutcomeUnknown(_)) => return,
        Err(error) => {
            tracing::warn!(%error, "teams are swept from their first start here on");
            hands.common.teams.seeded();
            return;
        }
    };
    for team in teams.iter().take(TEAMS_MAX) {
        if let Err(error @ (LedgerError::Outage(_) | LedgerError::OutcomeUnknown(_))) =
            sweep(hands, team).await
        {
            tracing::debug!(%error, "teams that have holds are looked for again");
            return;
        }
    }
    hands.common.teams.seeded();
}

async fn sweep(hands: &Hands, team: &TeamId) -> Result<(), LedgerError> {
    for _ in 0..ROUNDS_MAX {
        let (held, expired) = hands.ledger.sweep(team).await?;
        hands.common.noticed(team, held, &expired);
        if expired.is_empty() {
            break;
        }
    }
    Ok(())
}

async fn audit(hands: &Hands, team: &TeamId) {
    let audit = match hands.ledger.audit(team, Repair::Report).await {
        Ok(audit) => audit,
        Err(error) => {
            tracing::debug!(team = team.as_str(), %error, "a team could not be audited");
            hands.common.teams.audited(team, None);
            return;
        }
    };
    hands.common.teams.audited(team, Some(audit.drift()));
    hands.common.noticed(team, audit.counted, &audit.expired);
    if !audit.is_sound() {
        tracing::warn!(
            team = team.as_str(),
            counted = %audit.counted.credits,
            counted_holds = audit.counted.live,
            summed = %audit.summed.credits,
            summed_holds = audit.summed.live,
            strays = audit.strays,
            "what is counted as held is not the sum of the holds: run tollgate audit --repair"
        );
    }
}
