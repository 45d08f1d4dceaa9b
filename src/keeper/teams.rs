//! [`Teams`]: the teams that were seen to have live holds, as last seen.
//!
//! Bounded: those not seen for longest are forgotten first. What is forgotten
//! is only not swept by this gateway; its holds expire all the same.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::billing::credits::Credits;
use crate::billing::hold::Held;
use crate::billing::team::TeamId;
use crate::telemetry::holds::HoldMetrics;

/// The most teams that are remembered.
pub(super) const TEAMS_MAX: usize = 10_000;

/// How many are forgotten at once when there are too many: looking for the
/// oldest means looking at all.
const FORGOTTEN_AT_ONCE: usize = 1000;

/// The most live holds of a team that is audited without being asked: adding a
/// thousand up takes Redis about five milliseconds, in which everybody else
/// waits. Larger teams are for an operator to audit, when little is going on.
const AUDITED_HOLDS_MAX: u64 = 1000;

/// Micro-credits in a credit.
const MICRO: f64 = 1e6;

/// Teams with live holds.
#[derive(Debug)]
pub(super) struct Teams {
    seen: Mutex<Table>,
    metrics: HoldMetrics,
    /// How often somebody took over sweeping them: the last one does it.
    sweepers: AtomicU64,
    /// Whether the ledger was asked once which teams there are.
    is_seeded: AtomicBool,
}

/// Who sweeps the teams, until somebody takes over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sweeper(u64);

#[derive(Debug, Default)]
struct Table {
    teams: HashMap<TeamId, Seen>,
    live: u64,
    /// In micro-credits: a sum over teams is wider than what one can have.
    micro: i128,
    drift_micro: i128,
    /// Others show what there is now.
    is_retired: bool,
}

#[derive(Debug)]
struct Seen {
    held: Held,
    at: Instant,
    audited: Option<Instant>,
    drift: Credits,
    is_touched: bool,
}

impl Teams {
    pub(super) fn new(metrics: HoldMetrics) -> Self {
        Teams {
            seen: Mutex::default(),
            metrics,
            sweepers: AtomicU64::new(0),
            is_seeded: AtomicBool::new(false),
        }
    }

    /// Takes over sweeping them.
    pub(super) fn take_over(&self) -> Sweeper {
        let before = self.sweepers.fetch_add(1, Ordering::Relaxed);
        Sweeper(before.wrapping_add(1))
    }

    /// Whether nobody took over since.
    pub(super) fn are_swept_by(&self, sweeper: Sweeper) -> bool {
        self.sweepers.load(Ordering::Relaxed) == sweeper.0
    }

    /// Whether the ledger is still to be asked which teams there are.
    pub(super) fn wants_seed(&self) -> bool {
        !self.is_seeded.load(Ordering::Relaxed)
    }

    /// It was asked.
    pub(super) fn seeded(&self) {
        self.is_seeded.store(true, Ordering::Relaxed);
    }

    /// Nobody asks for them any more: what the gauges showed of them goes, and
    /// nobody sweeps them.
    pub(super) fn retire(&self) {
        let mut table = self.table();
        *table = Table {
            is_retired: true,
            ..Table::default()
        };
        self.take_over();
        self.show(&table);
    }

    /// The ledger said this of the team.
    pub(super) fn note(&self, team: &TeamId, held: Held) {
        let mut table = self.table();
        if table.is_retired {
            return;
        }
        table.note(team, held, Instant::now());
        self.show(&table);
    }

    /// Something changed, and nobody said what the team's holds amount to now.
    pub(super) fn touch(&self, team: &TeamId) {
        if let Some(seen) = self.table().teams.get_mut(team) {
            seen.is_touched = true;
        }
    }

    /// Those that were not seen for so long, or changed.
    pub(super) fn due(&self, not_seen_for: Duration) -> Vec<TeamId> {
        let table = self.table();
        let is_due = |seen: &Seen| seen.is_touched || seen.at.elapsed() >= not_seen_for;
        let due = table.teams.iter().filter(|(_, seen)| is_due(seen));
        due.map(|(team, _)| team.clone()).collect()
    }

    /// The team whose holds were not added up for longest.
    pub(super) fn next_audit(&self) -> Option<TeamId> {
        let table = self.table();
        let small = |(_, seen): &(&TeamId, &Seen)| seen.held.live <= AUDITED_HOLDS_MAX;
        let teams = table.teams.iter().filter(small);
        let (team, _) = teams.min_by_key(|(_, seen)| seen.audited)?;
        Some(team.clone())
    }

    /// It was its turn. Where its holds could be added up, what is counted is
    /// off by this much.
    pub(super) fn audited(&self, team: &TeamId, drift: Option<Credits>) {
        let mut table = self.table();
        if table.is_retired {
            return;
        }
        table.audited(team, drift);
        self.show(&table);
    }

    // A poisoned lock is taken all the same: it is about gauges.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, table: &Table) {
        let live = i64::try_from(table.live).unwrap_or(i64::MAX);
        self.metrics.live.set(live);
        self.metrics.credits.set(in_credits(table.micro));
        self.metrics.drift.set(in_credits(table.drift_micro));
    }
}

impl Table {
    fn note(&mut self, team: &TeamId, held: Held, now: Instant) {
        let known = self.teams.get_mut(team).map(|seen| {
            let before = std::mem::replace(&mut seen.held, held);
            seen.at = now;
            seen.is_touched = false;
            before
        });
        if let Some(before) = known {
            self.take(before);
        } else if held.live == 0 {
            return;
        } else {
            self.make_room();
            let seen = Seen {
                held,
                at: now,
                audited: None,
                drift: Credits::ZERO,
                is_touched: false,
            };
            self.teams.insert(team.clone(), seen);
        }
        self.live = self.live.saturating_add(held.live);
        self.micro = self.micro.saturating_add(held.credits.micro().into());
        if held.live == 0 {
            self.forget(team);
        }
    }

    fn audited(&mut self, team: &TeamId, drift: Option<Credits>) {
        if let Some(seen) = self.teams.get_mut(team) {
            seen.audited = Some(Instant::now());
            let Some(drift) = drift else { return };
            let before = std::mem::replace(&mut seen.drift, drift);
            self.drift_micro = self
                .drift_micro
                .saturating_sub(magnitude(before))
                .saturating_add(magnitude(drift));
        }
    }

    fn forget(&mut self, team: &TeamId) {
        if let Some(seen) = self.teams.remove(team) {
            self.take(seen.held);
            self.drift_micro = self.drift_micro.saturating_sub(magnitude(seen.drift));
        }
    }

    fn take(&mut self, held: Held) {
        self.live = self.live.saturating_sub(held.live);
        self.micro = self.micro.saturating_sub(held.credits.micro().into());
    }

    fn make_room(&mut self) {
        if self.teams.len() < TEAMS_MAX {
            return;
        }
        let mut times: Vec<Instant> = self.teams.values().map(|seen| seen.at).collect();
        let (_, last, _) = times.select_nth_unstable(FORGOTTEN_AT_ONCE.min(TEAMS_MAX / 2));
        let last = *last;
        let old = self.teams.iter().filter(|(_, seen)| seen.at <= last);
        let old: Vec<TeamId> = old.map(|(team, _)| team.clone()).collect();
        for team in old {
            self.forget(&team);
        }
    }
}

fn magnitude(credits: Credits) -> i128 {
    i128::from(credits.micro()).saturating_abs()
}

/// For a gauge: rounding is no harm there.
#[allow(clippy::as_conversions, reason = "no lossless conversion exists")]
fn in_credits(micro: i128) -> f64 {
    micro as f64 / MICRO
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    fn team(id: usize) -> TeamId {
        TeamId::parse(format!("team-{id}").as_bytes()).unwrap()
    }

    fn held(live: u64, credits: &str) -> Held {
        Held {
            credits: credits.parse().unwrap(),
            live,
        }
    }

    fn teams() -> Teams {
        Teams::new(Metrics::new().unwrap().holds)
    }

    #[test]
    fn gauges_are_the_sums_of_what_was_last_seen() {
        let teams = teams();
        teams.note(&team(1), held(2, "40"));
        teams.note(&team(2), held(1, "0.5"));
        teams.note(&team(1), held(1, "20"));
        assert_eq!(teams.metrics.live.get(), 2);
        assert!((teams.metrics.credits.get() - 20.5).abs() < 1e-9);
        teams.audited(&team(1), Some("-3".parse().unwrap()));
        assert!((teams.metrics.drift.get() - 3.0).abs() < 1e-9);
        teams.note(&team(1), held(0, "0"));
        assert_eq!(teams.metrics.live.get(), 1);
        assert!(teams.metrics.drift.get().abs() < 1e-9);
    }

    #[test]
    fn a_team_that_changed_is_looked_at_next_time() {
        let teams = teams();
        teams.note(&team(1), held(1, "20"));
        let hour = Duration::from_secs(3600);
        assert_eq!(teams.due(hour), []);
        teams.touch(&team(1));
        assert_eq!(teams.due(hour), [team(1)]);
        teams.note(&team(1), held(1, "20"));
        assert_eq!(teams.due(hour), []);
        assert_eq!(teams.due(Duration::ZERO), [team(1)]);
    }

    #[test]
    fn audits_take_turns_and_leave_out_the_largest() {
        let teams = teams();
        teams.note(&team(1), held(1, "20"));
        teams.note(&team(2), held(1, "20"));
        teams.note(&team(3), held(AUDITED_HOLDS_MAX + 1, "20"));
        let first = teams.next_audit().unwrap();
        teams.audited(&first, None);
        let second = teams.next_audit().unwrap();
        teams.audited(&second, Some(Credits::ZERO));
        assert_ne!(first, second);
        assert!(![&first, &second].contains(&&team(3)));
        assert_eq!(teams.next_audit(), Some(first));
    }

    #[test]
    fn only_so_many_are_remembered() {
        let teams = teams();
        for id in 0..TEAMS_MAX * 2 {
            teams.note(&team(id), held(1, "1"));
        }
        let table = teams.table();
        assert!((1..=TEAMS_MAX).contains(&table.teams.len()));
        assert_eq!(table.live, u64::try_from(table.teams.len()).unwrap());
        assert!(table.teams.contains_key(&team(TEAMS_MAX * 2 - 1)));
    }
}
