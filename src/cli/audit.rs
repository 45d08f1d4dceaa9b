//! `tollgate audit`: adds holds up again and reports what does not fit.
//!
//! Ends with 1 when something does not fit and was not put right, so that a
//! nightly job can raise an alarm.

use clap::Args;

use super::ledger::{Again, Common, Instead, team};
use super::{Failure, Outcome, Style, complain, counted, say};
use crate::app::admin::facts;
use crate::billing::team::TeamId;
use crate::events::holds::HoldEvent;
use crate::ledger::holds::{Audit, Holds as _, Repair};
use crate::ledger::redis::RedisLedger;
use crate::ledger::{Ledger as _, LedgerError};

#[derive(Args)]
pub struct AuditArgs {
    /// The team; left out: every team that has holds. Redis does nothing else
    /// while it adds a team up, about five milliseconds for each thousand
    /// holds: audit large teams when little is going on.
    team: Option<String>,
    /// Put right what does not fit; the holds themselves are what counts.
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    common: Common,
}

/// What adding up one team's holds showed.
type Finding = (TeamId, Result<Audit, Unaudited>);

/// Why a team was not audited.
#[derive(Debug, thiserror::Error)]
enum Unaudited {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("it has neither holds nor a balance: is the name right?")]
    Nobody,
}

pub fn run(arguments: AuditArgs) -> Outcome {
    let AuditArgs {
        team: name,
        repair,
        common,
    } = arguments;
    let repair = if repair {
        Repair::Repair
    } else {
        Repair::Report
    };
    let named = name.as_deref().map(team).transpose()?;
    let settings = common.settings()?;
    settings.must_hold("an audit")?;
    let instead = Instead {
        request: None,
        otherwise: "its holds end with it, and its metrics on the admin listener show what is held",
        again: Again::Safe,
    };
    let findings = settings.with_ledger(&instead, |ledger: RedisLedger| async move {
        if let Some(team) = named {
            let audit = one(&ledger, &team, repair).await;
            return Ok(vec![(team, audit)]);
        }
        let teams = ledger.teams().await?;
        let mut findings: Vec<Finding> = Vec::with_capacity(teams.len());
        for team in teams {
            let audit = ledger.audit(&team, repair).await;
            findings.push((team, audit.map_err(Unaudited::from)));
        }
        Ok(findings)
    })?;
    match common.style() {
        Style::Json => say_json(&findings),
        Style::Text => say_text(&findings),
    }
    settings.tell(findings.iter().flat_map(|(team, finding)| {
        let expired = finding.as_ref().map_or(&[][..], |audit| &audit.expired);
        let events = expired.iter();
        events.map(|expired| HoldEvent::expired(team, expired))
    }));
    conclude(&findings)
}

/// Audits a team that somebody named, and may have misspelled.
async fn one(ledger: &RedisLedger, team: &TeamId, repair: Repair) -> Result<Audit, Unaudited> {
    let audit = ledger.audit(team, repair).await?;
    let is_bare = audit.is_sound() && audit.summed.live == 0 && audit.expired.is_empty();
    if is_bare && ledger.balance(team).await?.is_none() {
        return Err(Unaudited::Nobody);
    }
    Ok(audit)
}

fn say_json(findings: &[Finding]) {
    let shown = findings.iter().map(|(team, finding)| match finding {
        Ok(audit) => facts::audit(team, audit),
        Err(error) => serde_json::json!({"team": team.as_str(), "error": error.to_string()}),
    });
    say(&serde_json::Value::Array(shown.collect()).to_string());
}

fn say_text(findings: &[Finding]) {
    for (team, finding) in findings {
        match finding {
            Ok(audit) => say(&text(team, audit)),
            Err(error) => complain(&format!("{team}: {error}")),
        }
    }
    if findings.is_empty() {
        say("no team has holds");
    }
}

fn text(team: &TeamId, audit: &Audit) -> String {
    let (kept, summed) = (audit.counted, audit.summed);
    if audit.is_sound() {
        return format!(
            "{team}: sound, {} credits held by {}",
            summed.credits,
            counted(summed.live, "live hold")
        );
    }
    let end = if audit.repaired {
        "put right"
    } else {
        "not put right"
    };
    format!(
        "{team}: drift of {} credits: {} counted in {}, but {} add up to {}; {}; {end}",
        audit.drift(),
        kept.credits,
        counted(kept.live, "hold"),
        counted(summed.live, "live hold"),
        summed.credits,
        counted(audit.strays, "stray"),
    )
}

fn conclude(findings: &[Finding]) -> Outcome {
    let count = |wrong: fn(&Result<Audit, Unaudited>) -> bool| {
        findings
            .iter()
            .filter(|(_, finding)| wrong(finding))
            .count()
    };
    let drifting = count(|finding| {
        finding
            .as_ref()
            .is_ok_and(|audit| !audit.is_sound() && !audit.repaired)
    });
    let unread = count(Result::is_err);
    let teams = counted(findings.len().try_into().unwrap_or(u64::MAX), "team");
    let mut why = Vec::new();
    if drifting > 0 {
        why.push(format!(
            "drift in {drifting} of {teams}: run `tollgate audit --repair` to put it right"
        ));
    }
    if unread > 0 {
        why.push(format!("{unread} of {teams} could not be audited"));
    }
    if why.is_empty() {
        return Ok(());
    }
    Err(Failure::Fault(why.join("; ")))
}
