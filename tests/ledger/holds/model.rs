//! A model of a ledger: naive on purpose.
//!
//! It keeps one thing, the list of everything that ever happened to a team,
//! and works every answer out of it from the beginning. There is no total, no
//! index and no state that could be wrong; it shares no code with any ledger.
//! Amounts are micro-credits, times are milliseconds, ids are numbers.

use tollgate::billing::admission::Refusal;
use tollgate::billing::hold::End;
use tollgate::ledger::holds::{LineKind, Terms, WhenFull, Writer};

pub type Hold = u32;
pub type Run = u8;

/// The most starts of one hold that are told apart.
const USES_MAX: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub key: u8,
    pub route: u8,
    pub body: Option<u8>,
}

#[derive(Clone, Copy, Debug)]
pub struct Start {
    pub id: Hold,
    pub micro: i64,
    pub hold_for: u64,
    pub line: i64,
    pub key: Option<Key>,
}

#[derive(Clone, Copy, Debug)]
pub enum Which {
    Hold(Hold),
    Run(Run),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    pub kind: LineKind,
    pub added: i64,
    pub balance: i64,
    pub reference: Option<u8>,
    pub hold: Option<Hold>,
    pub run: Option<Run>,
}

#[derive(Clone, Copy, Debug)]
enum Happening {
    Made(Start),
    /// A start came to share a hold; until when that is known.
    Shared(Hold, Hold, u64),
    /// A start of a hold did not begin a run.
    NotStarted(Hold, Hold),
    /// A hold was given up before it was made.
    GivenUp(Hold),
    Extended(Hold),
    Bound(Hold, Run),
    Ended(Hold, End),
    Settled(Hold, i64),
    Charged(Hold, u8, i64),
    Granted(u8, i64),
    Balance(Line),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Held,
    Replayed(Hold, Option<End>),
    Refused(Refusal, i64, Option<u64>),
    NoBalance,
    Conflict,
    /// It was given up before it was made.
    TooLate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub hold: Hold,
    pub run: Option<Run>,
    pub micro: i64,
    pub end: Option<End>,
    pub ended_now: bool,
    /// Only where it is told: of settlements and charges.
    pub figure: Option<i64>,
    /// Only where the ledger debits.
    pub balance: Option<i64>,
    /// Other holds of the run that it was found by are live.
    pub has_others: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Done(Entry),
    Again(Entry),
    Conflict(Entry),
    Unknown,
    /// The statement is full.
    NoRoom,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    Done(i64),
    Again(i64),
    Conflict(i64),
    NoRoom,
}

#[derive(Clone, Debug)]
pub struct Model {
    terms: Terms,
    log: Vec<(u64, Happening)>,
    pub now: u64,
}

impl Model {
    pub fn new(terms: Terms, now: u64) -> Self {
        Model {
            terms,
            log: Vec::new(),
            now,
        }
    }

    fn note(&mut self, happening: Happening) {
        self.log.push((self.now, happening));
    }

    fn happenings(&self) -> impl DoubleEndedIterator<Item = Happening> {
        self.log.iter().map(|(_, happening)| *happening)
    }

    // What there is.

    fn holds(&self) -> Vec<Hold> {
        self.happenings()
            .filter_map(|happening| match happening {
                Happening::Made(start) => Some(start.id),
                _ => None,
            })
            .collect()
    }

    fn start(&self, hold: Hold) -> Option<Start> {
        self.happenings().find_map(|happening| match happening {
            Happening::Made(start) if start.id == hold => Some(start),
            _ => None,
        })
    }

    /// From when on it no longer counts.
    pub fn end_of_time(&self, hold: Hold) -> u64 {
        let hold_for = self.start(hold).expect("made").hold_for;
        let begun = self
            .log
            .iter()
            .rev()
            .find(|(_, happening)| match happening {
                Happening::Made(start) => start.id == hold,
                Happening::Extended(extended) => *extended == hold,
                _ => false,
            });
        begun.expect("made").0 + hold_for
    }

    fn end(&self, hold: Hold) -> Option<End> {
        self.happenings().find_map(|happening| match happening {
            Happening::Ended(ended, end) if ended == hold => Some(end),
            _ => None,
        })
    }

    fn is_live(&self, hold: Hold) -> bool {
        self.start(hold).is_some() && self.end(hold).is_none() && self.now < self.end_of_time(hold)
    }

    /// Its time is up, and nobody was told.
    fn is_up(&self, hold: Hold) -> bool {
        self.start(hold).is_some() && self.end(hold).is_none() && self.now >= self.end_of_time(hold)
    }

    pub fn live(&self) -> Vec<Hold> {
        self.holds()
            .into_iter()
            .filter(|hold| self.is_live(*hold))
            .collect()
    }

    pub fn up(&self) -> Vec<Hold> {
        self.holds()
            .into_iter()
            .filter(|hold| self.is_up(*hold))
            .collect()
    }

    /// What it sets aside, or did at its end.
    pub fn set_aside(&self, hold: Hold) -> i64 {
        let mut left = 0;
        for happening in self.happenings() {
            match happening {
                Happening::Made(start) if start.id == hold => left = start.micro,
                Happening::Charged(charged, _, micro) if charged == hold => {
                    left = (left - micro).max(0);
                }
                Happening::Ended(ended, _) if ended == hold => break,
                _ => {}
            }
        }
        left
    }

    pub fn held(&self) -> i64 {
        self.live()
            .into_iter()
            .map(|hold| self.set_aside(hold))
            .sum()
    }

    pub fn balance(&self) -> Option<i64> {
        self.lines_ever().last().map(|line| line.balance)
    }

    fn lines_ever(&self) -> Vec<Line> {
        self.happenings()
            .filter_map(|happening| match happening {
                Happening::Balance(line) => Some(line),
                _ => None,
            })
            .collect()
    }

    /// The statement, with the lines that were dropped for length.
    pub fn statement(&self) -> Vec<Line> {
        match self.terms.writer {
            Writer::Tollgate => self.lines_ever(),
            Writer::Billing => Vec::new(),
        }
    }

    pub fn run(&self, hold: Hold) -> Option<Run> {
        self.happenings().find_map(|happening| match happening {
            Happening::Bound(bound, run) if bound == hold => Some(run),
            _ => None,
        })
    }

    fn figure(&self, hold: Hold) -> Option<i64> {
        self.happenings().find_map(|happening| match happening {
            Happening::Settled(settled, micro) if settled == hold => Some(micro),
            _ => None,
        })
    }

    fn remember(&self) -> u64 {
        u64::try_from(self.terms.remember.as_millis()).expect("a time")
    }

    /// It is over, and nothing was done with it for too long.
    pub fn is_forgotten(&self, hold: Hold) -> bool {
        if self.end(hold).is_none() {
            return false;
        }
        let touched = self
            .log
            .iter()
            .filter_map(|(at, happening)| match happening {
                Happening::Ended(id, End::Expired) if *id == hold => Some(self.end_of_time(hold)),
                Happening::Ended(id, _)
                | Happening::Settled(id, _)
                | Happening::Charged(id, _, _) => (*id == hold).then_some(*at),
                _ => None,
            });
        self.now >= touched.max().expect("ended") + self.remember()
    }

    fn is_known(&self, hold: Hold) -> bool {
        self.start(hold).is_some() && !self.is_forgotten(hold)
    }

    /// Given up before it was made, and not long ago.
    fn is_given_up(&self, hold: Hold) -> bool {
        self.log.iter().any(|(at, happening)| {
            matches!(happening, Happening::GivenUp(id) if *id == hold)
                && self.now < at + self.remember()
        })
    }

    /// Whether an id was used and nothing is known of it any longer. Nobody
    /// uses an id again: what would happen then is not claimed.
    pub fn is_used_up(&self, hold: Hold) -> bool {
        let given_up = self
            .happenings()
            .any(|happening| matches!(happening, Happening::GivenUp(id) if id == hold));
        self.is_forgotten(hold) || given_up && !self.is_given_up(hold)
    }

    /// The starts of a hold that may have begun its run, or `None` if there
    /// were more than are told apart. The place of its own start stays taken.
    fn uses(&self, hold: Hold) -> Option<Vec<Hold>> {
        let (mut own, mut replays) = (vec![hold], Vec::new());
        for happening in self.happenings() {
            match happening {
                Happening::Shared(id, ask, _) if id == hold => {
                    if replays.len() + 1 == USES_MAX {
                        return None;
                    }
                    replays.push(ask);
                }
                Happening::NotStarted(id, ask) if id == hold => {
                    own.retain(|one| *one != ask);
                    replays.retain(|one| *one != ask);
                }
                _ => {}
            }
        }
        own.extend(replays);
        Some(own)
    }

    /// The hold that a start came to share.
    fn shared_by(&self, ask: Hold) -> Option<Hold> {
        self.happenings()
            .rev()
            .find_map(|happening| match happening {
                Happening::Shared(hold, by, until) if by == ask && self.now < until => Some(hold),
                _ => None,
            })
    }

    fn find(&self, which: Which) -> Option<Hold> {
        let hold = match which {
            Which::Hold(hold) => hold,
            Which::Run(run) => {
                let known = self.bound_to(run);
                let live = known.iter().find(|hold| self.is_live(**hold));
                *live.or(known.first())?
            }
        };
        self.is_known(hold).then_some(hold)
    }

    /// The holds of a run that are known, the newest first.
    fn bound_to(&self, run: Run) -> Vec<Hold> {
        self.happenings()
            .rev()
            .filter_map(|happening| match happening {
                Happening::Bound(hold, bound) if bound == run => Some(hold),
                _ => None,
            })
            .filter(|hold| self.is_known(*hold))
            .collect()
    }

    /// The live ones.
    pub fn of_run(&self, run: Run) -> Vec<Hold> {
        let mut holds = self.bound_to(run);
        holds.retain(|hold| self.is_live(*hold));
        holds
    }

    /// What is done to the hold that is meant, and whether its run has others.
    fn found(&mut self, which: Which, change: impl FnOnce(&mut Self, Hold) -> Change) -> Change {
        let Some(hold) = self.find(which) else {
            return Change::Unknown;
        };
        let has_others = match which {
            Which::Hold(_) => false,
            Which::Run(run) => self.of_run(run).len() > 1,
        };
        let tell = |entry| Entry {
            has_others,
            ..entry
        };
        match change(self, hold) {
            Change::Done(entry) => Change::Done(tell(entry)),
            Change::Again(entry) => Change::Again(tell(entry)),
            Change::Conflict(entry) => Change::Conflict(tell(entry)),
            other @ (Change::Unknown | Change::NoRoom) => other,
        }
    }

    // What is done.

    pub fn hold(&mut self, start: Start) -> Outcome {
        if self.is_given_up(start.id) || self.is_known(start.id) && !self.is_live(start.id) {
            return Outcome::TooLate;
        }
        if self.is_live(start.id) {
            return Outcome::Held;
        }
        if let Some(outcome) = start.key.and_then(|key| self.repeated(start.id, key)) {
            return outcome;
        }
        let Some(balance) = self.balance() else {
            return Outcome::NoBalance;
        };
        let admits = |left: i64| left > start.line && left >= start.micro;
        if admits(balance - self.held()) {
            self.note(Happening::Made(start));
            return Outcome::Held;
        }
        let refusal = if admits(balance) {
            Refusal::CreditsHeld
        } else if balance > start.line {
            Refusal::BelowHold
        } else {
            Refusal::InsufficientCredits
        };
        let next = self
            .live()
            .into_iter()
            .map(|hold| self.end_of_time(hold) - self.now)
            .min();
        Outcome::Refused(refusal, balance, next)
    }

    fn repeated(&mut self, ask: Hold, key: Key) -> Option<Outcome> {
        let (hold, first) = self
            .happenings()
            .rev()
            .find_map(|happening| match happening {
                Happening::Made(Start {
                    id,
                    key: Some(first),
                    ..
                }) if first.key == key.key => Some((id, first)),
                _ => None,
            })?;
        let is_shared =
            self.is_live(hold) || self.end(hold) == Some(End::Settled) && !self.is_forgotten(hold);
        if !is_shared {
            return None;
        }
        let other_body = matches!((first.body, key.body), (Some(a), Some(b)) if a != b);
        if first.route != key.route || other_body {
            return Some(Outcome::Conflict);
        }
        let is_new = self.uses(hold).is_some_and(|uses| !uses.contains(&ask));
        if self.is_live(hold) && is_new {
            let until = self.end_of_time(hold) + self.remember();
            self.note(Happening::Shared(hold, ask, until));
        }
        Some(Outcome::Replayed(hold, self.end(hold)))
    }

    /// Somebody was told that this one expired.
    pub fn expire(&mut self, hold: Hold) {
        self.note(Happening::Ended(hold, End::Expired));
    }

    /// Whoever touches a hold whose time is up is told.
    fn touch(&mut self, hold: Hold) -> Entry {
        let ended_now = self.is_up(hold);
        if ended_now {
            self.expire(hold);
        }
        Entry {
            ended_now,
            ..self.entry(hold)
        }
    }

    fn entry(&self, hold: Hold) -> Entry {
        Entry {
            hold,
            run: self.run(hold),
            micro: self.set_aside(hold),
            end: self.end(hold),
            ended_now: false,
            figure: None,
            balance: None,
            has_others: false,
        }
    }

    pub fn bind(&mut self, hold: Hold, run: Run) -> Change {
        if !self.is_known(hold) {
            return Change::Unknown;
        }
        let entry = self.touch(hold);
        match self.run(hold) {
            Some(bound) if bound == run => Change::Again(entry),
            Some(_) => Change::Conflict(entry),
            None => {
                self.note(Happening::Bound(hold, run));
                Change::Done(Entry {
                    run: Some(run),
                    ..entry
                })
            }
        }
    }

    pub fn extend(&mut self, which: Which) -> Change {
        self.found(which, |model, hold| model.extend_one(hold))
    }

    fn extend_one(&mut self, hold: Hold) -> Change {
        let entry = self.touch(hold);
        if entry.end.is_some() {
            return Change::Conflict(entry);
        }
        self.note(Happening::Extended(hold));
        Change::Done(entry)
    }

    pub fn release_over(&mut self, which: Which) -> Change {
        self.found(which, |model, hold| model.release_over_one(hold))
    }

    fn release_over_one(&mut self, hold: Hold) -> Change {
        let entry = self.touch(hold);
        match entry.end {
            Some(End::Released) => Change::Again(entry),
            Some(_) => Change::Conflict(entry),
            None => self.released(hold),
        }
    }

    pub fn not_started(&mut self, hold: Hold, ask: Hold) -> Change {
        let known = |hold: &Hold| self.is_known(*hold);
        let found = Some(hold)
            .filter(known)
            .or_else(|| self.shared_by(ask).filter(known));
        let is_fresh = !self.is_known(ask) && !self.is_given_up(ask);
        if is_fresh {
            self.note(Happening::GivenUp(ask));
        }
        let Some(found) = found else {
            if !self.is_known(hold) && !self.is_given_up(hold) {
                self.note(Happening::GivenUp(hold));
            }
            return Change::Unknown;
        };
        let hold = found;
        let entry = self.touch(hold);
        match entry.end {
            Some(End::Released) => return Change::Again(entry),
            Some(_) => return Change::Conflict(entry),
            None => {}
        }
        let Some(before) = self.uses(hold) else {
            return Change::Done(entry);
        };
        if !before.contains(&ask) {
            return if is_fresh {
                Change::Done(entry)
            } else {
                Change::Again(entry)
            };
        }
        self.note(Happening::NotStarted(hold, ask));
        if self.uses(hold).is_some_and(|uses| uses.is_empty()) {
            return self.released(hold);
        }
        Change::Done(entry)
    }

    fn released(&mut self, hold: Hold) -> Change {
        self.note(Happening::Ended(hold, End::Released));
        Change::Done(Entry {
            ended_now: true,
            ..self.entry(hold)
        })
    }

    pub fn settle(&mut self, which: Which, micro: i64) -> Change {
        self.found(which, |model, hold| model.settle_one(hold, micro))
    }

    fn settle_one(&mut self, hold: Hold, micro: i64) -> Change {
        if let Some(figure) = self.figure(hold) {
            let entry = Entry {
                figure: Some(figure),
                ..self.touch(hold)
            };
            return if figure == micro {
                Change::Again(entry)
            } else {
                Change::Conflict(entry)
            };
        }
        if self.is_tollgate() && !self.has_room() {
            return Change::NoRoom;
        }
        let mut entry = self.touch(hold);
        if entry.end.is_none() {
            self.note(Happening::Ended(hold, End::Settled));
            entry = Entry {
                ended_now: true,
                ..self.entry(hold)
            };
        }
        self.note(Happening::Settled(hold, micro));
        let balance = self.debit(LineKind::Settle, micro, hold, None);
        Change::Done(Entry {
            figure: Some(micro),
            balance,
            ..entry
        })
    }

    pub fn charge(&mut self, which: Which, micro: i64, id: u8) -> Change {
        self.found(which, |model, hold| model.charge_one(hold, micro, id))
    }

    fn charge_one(&mut self, hold: Hold, micro: i64, id: u8) -> Change {
        let earlier = self
            .log
            .iter()
            .rev()
            .find_map(|(at, happening)| match happening {
                Happening::Charged(of, charge, figure) if *charge == id => {
                    Some((*at, *of, *figure))
                }
                _ => None,
            });
        if let Some((at, of, figure)) = earlier
            && (self.now < at + self.remember() || self.is_known(of))
        {
            let entry = Entry {
                figure: Some(figure),
                ..self.touch(hold)
            };
            let is_same = of == hold && figure == micro;
            return if is_same {
                Change::Again(entry)
            } else {
                Change::Conflict(entry)
            };
        }
        if self.end(hold) == Some(End::Settled) {
            return Change::Conflict(self.entry(hold));
        }
        if self.is_tollgate() && !self.has_room() {
            return Change::NoRoom;
        }
        let entry = self.touch(hold);
        self.note(Happening::Charged(hold, id, micro));
        let balance = self.debit(LineKind::Charge, micro, hold, Some(id));
        Change::Done(Entry {
            micro: self.set_aside(hold),
            figure: Some(micro),
            balance,
            ..entry
        })
    }

    fn is_tollgate(&self) -> bool {
        self.terms.writer == Writer::Tollgate
    }

    /// Whether a line may be written, where lines are.
    fn has_room(&self) -> bool {
        !self.is_tollgate()
            || self.terms.when_full == WhenFull::Trim
            || self.lines_ever().len() < self.terms.statement_length
    }

    fn debit(&mut self, kind: LineKind, micro: i64, hold: Hold, id: Option<u8>) -> Option<i64> {
        if !self.is_tollgate() {
            return None;
        }
        let balance = self.balance().unwrap_or(0) - micro;
        let run = self.run(hold);
        self.note(Happening::Balance(Line {
            kind,
            added: -micro,
            balance,
            reference: id,
            hold: Some(hold),
            run,
        }));
        Some(balance)
    }

    fn change_balance(&mut self, kind: LineKind, balance: i64, reference: Option<u8>) {
        let added = balance - self.balance().unwrap_or(0);
        let line = Line {
            kind,
            added,
            balance,
            reference,
            hold: None,
            run: None,
        };
        self.note(Happening::Balance(line));
    }

    /// The balance, or `None` if the statement is full.
    pub fn grant(&mut self, micro: i64) -> Option<i64> {
        self.has_room().then(|| {
            let balance = self.balance().unwrap_or(0) + micro;
            self.change_balance(LineKind::Grant, balance, None);
            balance
        })
    }

    /// Whether there was room for it.
    pub fn set_balance(&mut self, micro: i64) -> bool {
        let has_room = self.has_room();
        if has_room {
            self.change_balance(LineKind::Set, micro, None);
        }
        has_room
    }

    pub fn grant_once(&mut self, micro: i64, id: u8) -> Granted {
        let earlier = self.happenings().find_map(|happening| match happening {
            Happening::Granted(granted, figure) if granted == id => Some(figure),
            _ => None,
        });
        match earlier {
            Some(figure) if figure == micro => Granted::Again(self.balance().unwrap_or(0)),
            Some(figure) => Granted::Conflict(figure),
            None if !self.has_room() => Granted::NoRoom,
            None => {
                self.note(Happening::Granted(id, micro));
                let balance = self.balance().unwrap_or(0) + micro;
                self.change_balance(LineKind::Grant, balance, Some(id));
                Granted::Done(balance)
            }
        }
    }
}
