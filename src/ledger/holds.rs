//! Holds: what a store of balances promises in hold mode.
//!
//! Every change is one step: all of it happens or none, and no other change
//! comes between. Every change has an id that its caller chose, so that a
//! command that is sent again, by a retry or by a client library, changes
//! once. The ledger's own clock decides when a hold's time is up.
//!
//! What is remembered of a hold that ended, and of the ids of charges and
//! settlements, is remembered for [`Terms::remember`]; the ids of grants for
//! [`GRANTS_REMEMBERED`].

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;

use super::{Ledger, LedgerError};
use crate::billing::admission::{Refusal, Rule};
use crate::billing::credits::Credits;
use crate::billing::hold::{End, Held, HoldId, RunId};
use crate::billing::team::TeamId;

/// How long the id of a grant is remembered: longer than an invoice is open.
pub const GRANTS_REMEMBERED: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// The most holds that are found by one run.
pub const RUN_HOLDS_MAX: usize = 32;

/// Who debits the balance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writer {
    /// The billing system: settling and charging only change holds.
    #[default]
    Billing,
    /// The ledger: settling and charging debit the balance in the same step.
    Tollgate,
}

/// What happens to a statement that has grown to its length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest lines go.
    #[default]
    Trim,
    /// Nothing more is debited or granted until somebody has trimmed it.
    Refuse,
}

/// How a ledger keeps holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Who debits the balance.
    pub writer: Writer,
    /// How long the end of a hold, and the ids of charges, are remembered.
    pub remember: Duration,
    /// The most lines of a team's statement.
    pub statement_length: usize,
    /// What happens then.
    pub when_full: WhenFull,
}

impl Default for Terms {
    fn default() -> Self {
        Terms {
            writer: Writer::Billing,
            remember: Duration::from_secs(24 * 60 * 60),
            statement_length: 100_000,
            when_full: WhenFull::Trim,
        }
    }
}

/// A request for a hold.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Who pays.
    pub team: TeamId,
    /// The hold's id, fresh for each start. Asking again with it holds once.
    pub id: HoldId,
    /// The credits to set aside; more than zero.
    pub credits: Credits,
    /// After how long it stops counting if nothing is heard of the run.
    pub hold_for: Duration,
    /// The rule that decides; of it, the ledger looks at the line alone.
    pub rule: Rule,
    /// The start's idempotency key, if the upstream deduplicates by it.
    pub replay: Option<Replay>,
}

/// What makes two starts the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The SHA-256 of the idempotency key.
    pub key: [u8; 32],
    /// The SHA-256 of the route's name and the path.
    pub route: [u8; 32],
    /// The SHA-256 of the body, if it is small enough to be looked at.
    pub body: Option<[u8; 32]>,
}

/// What a ledger answers to an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What became of it.
    pub outcome: Outcome,
    /// What the team's holds amount to afterwards.
    pub held: Held,
    /// Holds whose time was up and which were dropped on the way. Each is told
    /// once, to whoever made the ledger notice.
    pub expired: Vec<Expired>,
}

/// What became of an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The credits are set aside.
    Held,
    /// The start repeats one that this hold was made for: nothing more is set
    /// aside. `Some` end: the run is settled already.
    Replayed {
        /// The hold of the first start.
        hold: HoldId,
        /// How it ended, if it did.
        end: Option<End>,
    },
    /// There is a balance, and not enough of it.
    Refused {
        /// Why.
        refusal: Refusal,
        /// The balance.
        balance: Credits,
        /// Until the earliest live hold's time is up, if there is one.
        next_end: Option<Duration>,
    },
    /// The team has no balance: what that means is for the rule to say.
    NoBalance,
    /// The idempotency key belongs to another request.
    Conflict,
}

/// A hold whose time was up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// The hold.
    pub hold: HoldId,
    /// What it set aside at the end.
    pub credits: Credits,
    /// Its run, if one is bound.
    pub run: Option<RunId>,
}

/// Which hold: by its own id, or by that of its run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The hold itself.
    Hold(HoldId),
    /// Of the holds of this run, the newest that is live; if none is, the
    /// newest that is known. The newest is the one that was bound last.
    Run(RunId),
    /// Whichever of the two it is: a hold of this id, or else a run's. Where
    /// a run has the id of another hold, the hold is meant.
    Either(Arc<str>),
}

/// Why a hold is released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Release {
    /// This start did not begin a run. If other starts share the hold, it
    /// stays until they all say so. The id is the one in that start's
    /// [`Ask`]: the hold's own, or that of the [`Ask`] that was answered
    /// [`Outcome::Replayed`]. A hold that is not there (yet) cannot be made
    /// afterwards.
    NotStarted(HoldId),
    /// The run is over, or an operator says so.
    Over,
}

/// What became of a release, a settlement or a charge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was done now.
    Done(Entry),
    /// It had been done before: the same id and the same figure.
    Again(Entry),
    /// Another figure was given for the same id before, or the hold ended in a
    /// way that leaves nothing to change.
    Conflict(Entry),
    /// There is no such hold, or it ended longer ago than is remembered.
    Unknown,
}

/// What a ledger knows of one hold after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The hold.
    pub hold: HoldId,
    /// Its run, if one is bound.
    pub run: Option<RunId>,
    /// What is still set aside; for one that ended, what was at its end.
    pub credits: Credits,
    /// What was settled or charged under this id. Zero if nothing was.
    pub figure: Credits,
    /// How it ended, if it did.
    pub end: Option<End>,
    /// Whether it ended by this very change. A hold whose time is up is found
    /// to have expired by whatever touches it first.
    pub ended_now: bool,
    /// The balance after a debit, where the ledger is the writer.
    pub balance: Option<Credits>,
    /// Whether the hold was found by its run, and other holds of that run are
    /// live.
    pub has_others: bool,
}

/// A live hold, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveHold {
    /// Its id.
    pub hold: HoldId,
    /// Its run, if one is bound.
    pub run: Option<RunId>,
    /// What it sets aside.
    pub credits: Credits,
    /// Until its time is up.
    pub ends_in: Duration,
}

/// A team's credits, as operators see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The balance, if there is one.
    pub balance: Option<Credits>,
    /// What is set aside.
    pub held: Held,
}

impl Standing {
    /// What can be spent: the balance less what is set aside.
    #[must_use]
    pub fn spendable(&self) -> Option<Credits> {
        let balance = self.balance?;
        Some(balance.saturating_sub(self.held.credits))
    }
}

/// What adding a team's holds up again shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// What the ledger goes by.
    pub counted: Held,
    /// What the live holds add up to.
    pub summed: Held,
    /// Entries of the index that belong to nothing, and holds that are not in
    /// it and would never expire.
    pub strays: u64,
    /// Whether it was put right.
    pub repaired: bool,
    /// Holds whose time was up and which were dropped first.
    pub expired: Vec<Expired>,
}

impl Audit {
    /// Whether what the ledger goes by is what there is.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.counted == self.summed && self.strays == 0
    }

    /// How far the counted credits are from the sum.
    #[must_use]
    pub fn drift(&self) -> Credits {
        self.counted.credits.saturating_sub(self.summed.credits)
    }
}

/// What to do about what an [`Audit`] finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Report it.
    Report,
    /// Put it right.
    Repair,
}

/// A grant that is made once per id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// It was added now; this is the balance.
    Done(Credits),
    /// It had been added before; this is the balance.
    Again(Credits),
    /// Another figure was granted under the same id: that one.
    Conflict(Credits),
}

/// A note whose run it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// It was made, or lasts longer.
    Done,
    /// The run is noted as another team's, and stays that.
    Taken,
}

/// A line of a team's statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its place: lines are read on from it.
    pub id: String,
    /// When it was written.
    pub at: SystemTime,
    /// What kind of change it was.
    pub kind: LineKind,
    /// What was added to the balance: a debit is below zero.
    pub credits: Credits,
    /// The balance afterwards.
    pub balance: Credits,
    /// The id of the grant or charge, where it has one.
    pub reference: Option<String>,
    /// The hold, if it belongs to one.
    pub hold: Option<HoldId>,
    /// The run, if it belongs to one.
    pub run: Option<RunId>,
}

/// The kinds of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// Credits were added.
    Grant,
    /// The balance was set.
    Set,
    /// A part of a run was debited.
    Charge,
    /// A run was debited.
    Settle,
}

impl LineKind {
    /// Every kind.
    pub const ALL: [LineKind; 4] = [
        LineKind::Grant,
        LineKind::Set,
        LineKind::Charge,
        LineKind::Settle,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            LineKind::Grant => "grant",
            LineKind::Set => "set",
            LineKind::Charge => "charge",
            LineKind::Settle => "settle",
        }
    }
}

/// A run that a start began.
#[derive(Clone, Copy, Debug)]
pub struct Begun<'a> {
    /// Who pays.
    pub team: &'a TeamId,
    /// The hold.
    pub hold: &'a HoldId,
    /// The run.
    pub run: &'a RunId,
    /// How long it is noted whose run it is.
    pub note_for: Duration,
}

/// A ledger that can set credits aside.
///
/// Every call returns within the configured deadline plus a few milliseconds,
/// unless the thread that serves the connection to Redis is kept from running;
/// except those that read a whole team ([`Holds::list`], [`Holds::audit`],
/// [`Holds::teams`]), which are for operators and take as long as they take.
///
/// Errors are those of [`LedgerError`]; [`LedgerError::OutcomeUnknown`] says
/// that the change was sent and may have been made: making it again with the
/// same id is always right.
#[async_trait]
pub trait Holds: Ledger {
    /// Sets credits aside, if the rule admits it. A hold that the ledger comes
    /// to only after `until` is not made.
    async fn hold_by(&self, ask: &Ask, until: Instant) -> Result<Answer, LedgerError>;

    /// Binds a hold to the run that its start began. Binding again to the same
    /// run changes nothing; to another run is a conflict.
    ///
    /// A run may have several holds: a follow-up is a start that goes on with a
    /// run. Of more than [`RUN_HOLDS_MAX`], the oldest that has ended is no
    /// longer found by the run, or else the oldest.
    async fn bind(&self, team: &TeamId, hold: &HoldId, run: &RunId) -> Result<Change, LedgerError>;

    /// How many runs are best bound at once, with [`Holds::bind_all`]: 1 where
    /// that costs no less than binding one after the other.
    fn bound_at_once(&self) -> usize {
        1
    }

    /// [`Holds::bind`] for each: what becomes of one says nothing of another.
    async fn bind_all(&self, begun: &[Begun<'_>]) -> Vec<Result<Change, LedgerError>> {
        let mut changes = Vec::with_capacity(begun.len());
        for one in begun {
            changes.push(self.bind(one.team, one.hold, one.run).await);
        }
        changes
    }

    /// The live holds of a run, the newest first.
    async fn of_run(&self, team: &TeamId, run: &RunId) -> Result<Vec<HoldId>, LedgerError>;

    /// Lets a live hold begin its time anew.
    async fn extend(&self, team: &TeamId, which: &Which) -> Result<Change, LedgerError>;

    /// Ends a hold without a cost.
    async fn release(
        &self,
        team: &TeamId,
        which: &Which,
        why: &Release,
    ) -> Result<Change, LedgerError>;

    /// Ends a hold with the last part of what its run cost: all of it, if
    /// nothing was charged before. Zero is a figure. A hold that was released
    /// or expired is still debited, once, where the ledger is the writer: its
    /// end stays what it was.
    ///
    /// A run that has follow-ups has a hold for each, and each is settled: who
    /// knows which of them a cost belongs to names the hold (the upstream got
    /// its id as `x-tollgate-hold`). By the run alone it is the newest live
    /// one. The same goes for [`Holds::charge`].
    async fn settle(
        &self,
        team: &TeamId,
        which: &Which,
        credits: Credits,
    ) -> Result<Change, LedgerError>;

    /// Charges a part of what a run costs, under an id of its own (1 to 64
    /// bytes): the hold shrinks by it, to nothing at the least. As with
    /// [`Holds::settle`], a hold that was released or expired is still
    /// debited; one that was settled is a conflict.
    async fn charge(
        &self,
        team: &TeamId,
        which: &Which,
        credits: Credits,
        id: &str,
    ) -> Result<Change, LedgerError>;

    /// Adds to the balance, once per id.
    async fn grant_once(
        &self,
        team: &TeamId,
        credits: Credits,
        id: &str,
    ) -> Result<Granted, LedgerError>;

    /// The balance and what is set aside. What is due does not count and is
    /// not dropped: that is told by whoever drops it. While so much is due, or
    /// changes, that it cannot be looked at within the deadline, some of it
    /// still counts.
    async fn standing(&self, team: &TeamId) -> Result<Standing, LedgerError>;

    /// The live holds, the next to expire first, at most so many.
    async fn list(&self, team: &TeamId, limit: usize) -> Result<Vec<LiveHold>, LedgerError>;

    /// Drops what is due, up to a few hundred holds a call, and forgets what
    /// need not be remembered any longer.
    async fn sweep(&self, team: &TeamId) -> Result<(Held, Vec<Expired>), LedgerError>;

    /// Adds a team's holds up again.
    async fn audit(&self, team: &TeamId, repair: Repair) -> Result<Audit, LedgerError>;

    /// Every team that has holds.
    async fn teams(&self) -> Result<Vec<TeamId>, LedgerError>;

    /// Lines of the team's statement after a place (empty: from the first),
    /// at most so many.
    async fn statement(
        &self,
        team: &TeamId,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Line>, LedgerError>;

    /// Notes whose run it is, for as long as its hold may live. A hint: what
    /// it says is checked against the team's own holds. Noting it again makes
    /// it last from now; what is noted for another team stays as it is.
    async fn note_run(
        &self,
        run: &RunId,
        team: &TeamId,
        for_: Duration,
    ) -> Result<Noted, LedgerError>;

    /// [`Holds::note_run`] for each: what becomes of one says nothing of
    /// another.
    async fn note_all(&self, begun: &[Begun<'_>]) -> Vec<Result<Noted, LedgerError>> {
        let mut noted = Vec::with_capacity(begun.len());
        for one in begun {
            noted.push(self.note_run(one.run, one.team, one.note_for).await);
        }
        noted
    }

    /// Whose run it is, if that was noted.
    async fn team_of(&self, run: &RunId) -> Result<Option<TeamId>, LedgerError>;
}

/// Releases a hold; found by its run, all live holds of that run. Each change
/// is told as it is made, and the last returned.
///
/// # Errors
/// Those of [`Holds::release`]. What was released before stays so.
pub async fn release_all(
    ledger: &dyn Holds,
    team: &TeamId,
    which: &Which,
    mut told: impl FnMut(&Change) + Send,
) -> Result<Change, LedgerError> {
    let mut rounds: usize = 0;
    loop {
        let change = ledger.release(team, which, &Release::Over).await?;
        told(&change);
        rounds = rounds.saturating_add(1);
        match &change {
            // Others may be bound meanwhile: not for ever.
            Change::Done(entry) if entry.has_others && rounds < RUN_HOLDS_MAX => {}
            _ => return Ok(change),
        }
    }
}
