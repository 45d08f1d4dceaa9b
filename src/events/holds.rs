//! The events of holds, told on the Redis stream `tollgate:events`.
//!
//! Fields: `at`, `event`, `team`, `hold`, `run` (empty if none is known),
//! `credits` (what was set aside), and where there is something to say
//! `figure` (what was charged or settled), `balance` (after a debit) and
//! `reason` (why it was released).

use std::time::SystemTime;

use super::{Event, Fields};
use crate::billing::credits::Credits;
use crate::billing::hold::{End, HoldId, RunId};
use crate::billing::team::TeamId;
use crate::ledger::holds::{Change, Entry, Expired};

/// The stream.
pub const STREAM: &str = "tollgate:events";

/// What happened to a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It was made.
    Held,
    /// It ended without a cost.
    Released,
    /// A part of its run's cost was told.
    Charged,
    /// The last part of its run's cost was told.
    Settled,
    /// Its time was up.
    Expired,
}

impl What {
    /// The value of the field `event`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            What::Held => "held",
            What::Released => "released",
            What::Charged => "charged",
            What::Settled => "settled",
            What::Expired => "expired",
        }
    }
}

/// What was asked for when a hold changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It was bound to its run, or extended.
    Keep,
    /// It was to end, because its start did not begin a run.
    NotStarted,
    /// It was to end, because its run is over.
    Over,
    /// It was to end, because an operator says so.
    ByHand,
    /// The last part of its run's cost was told.
    Settle,
    /// A part of its run's cost was told.
    Charge,
}

impl Act {
    /// The field `reason` of a release.
    const fn reason(self) -> Option<&'static str> {
        match self {
            Act::NotStarted => Some("not_started"),
            Act::Over => Some("run_over"),
            Act::ByHand => Some("by_hand"),
            Act::Keep | Act::Settle | Act::Charge => None,
        }
    }
}

/// Something that happened to a hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldEvent {
    /// When.
    pub at: SystemTime,
    /// What.
    pub what: What,
    /// Who pays.
    pub team: TeamId,
    /// The hold.
    pub hold: HoldId,
    /// Its run, if known.
    pub run: Option<RunId>,
    /// What it set aside.
    pub credits: Credits,
    /// What was charged or settled.
    pub figure: Option<Credits>,
    /// The balance after a debit.
    pub balance: Option<Credits>,
    /// Why it was released.
    pub reason: Option<&'static str>,
}

impl HoldEvent {
    /// A hold was made.
    #[must_use]
    pub fn held(team: &TeamId, hold: &HoldId, credits: Credits) -> Self {
        Self::new(What::Held, team, hold, credits)
    }

    /// A hold's time was up.
    #[must_use]
    pub fn expired(team: &TeamId, expired: &Expired) -> Self {
        HoldEvent {
            run: expired.run.clone(),
            ..Self::new(What::Expired, team, &expired.hold, expired.credits)
        }
    }

    /// What a change amounts to, in the order in which it happened: none for
    /// one that had been made before.
    #[must_use]
    pub fn of_change(team: &TeamId, change: &Change, act: Act) -> Vec<Self> {
        let Some(entry) = entry_of(change) else {
            return Vec::new();
        };
        let event = |what| HoldEvent {
            run: entry.run.clone(),
            ..Self::new(what, team, &entry.hold, entry.credits)
        };
        let mut events = Vec::new();
        match entry.end.filter(|_| entry.ended_now) {
            Some(End::Expired) => events.push(event(What::Expired)),
            Some(End::Released) => events.push(HoldEvent {
                reason: act.reason(),
                ..event(What::Released)
            }),
            // Told below, with its figure.
            Some(End::Settled) | None => {}
        }
        let told = match act {
            Act::Settle => Some(What::Settled),
            Act::Charge => Some(What::Charged),
            Act::Keep | Act::NotStarted | Act::Over | Act::ByHand => None,
        };
        if let (Some(what), Change::Done(_)) = (told, change) {
            events.push(HoldEvent {
                figure: Some(entry.figure),
                balance: entry.balance,
                ..event(what)
            });
        }
        events
    }

    fn new(what: What, team: &TeamId, hold: &HoldId, credits: Credits) -> Self {
        HoldEvent {
            at: SystemTime::now(),
            what,
            team: team.clone(),
            hold: hold.clone(),
            run: None,
            credits,
            figure: None,
            balance: None,
            reason: None,
        }
    }
}

/// What the ledger knows of the hold that a change was about.
#[must_use]
pub fn entry_of(change: &Change) -> Option<&Entry> {
    match change {
        Change::Done(entry) | Change::Again(entry) | Change::Conflict(entry) => Some(entry),
        Change::Unknown => None,
    }
}

impl Event for HoldEvent {
    const STREAM: &'static str = STREAM;

    fn tell(&self, fields: &mut Fields<'_>) {
        fields.add_time("at", self.at);
        fields.add("event", self.what.name());
        fields.add("team", self.team.as_str());
        fields.add("hold", self.hold.as_str());
        fields.add("run", self.run.as_ref().map_or("", RunId::as_str));
        fields.add("credits", &self.credits.to_string());
        if let Some(figure) = self.figure {
            fields.add("figure", &figure.to_string());
        }
        if let Some(balance) = self.balance {
            fields.add("balance", &balance.to_string());
        }
        if let Some(reason) = self.reason {
            fields.add("reason", reason);
        }
    }
}
