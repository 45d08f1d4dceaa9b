//! [`Refused`]: a short memory of teams that were found to have no credits, so
//! that a storm of their starts costs the ledger nothing.
//!
//! What is remembered is a refusal and nothing else: never a balance, and never
//! that a team has credits. It is remembered for a short time, and only while
//! somebody vouches for it (`Voucher`): that a change of the team's balance
//! would have been heard of. Who vouches, and reads the balance that an entry
//! is made from, is the ledger's business ([`super::redis`]); requests look,
//! and say whom the ledger has refused. Without a voucher nothing is found
//! here, and whoever asks goes to the ledger as ever.
//!
//! Looking never waits: a part that is being written to counts as empty.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard};
use std::time::{Duration, Instant};

use ahash::RandomState;
use tokio::sync::mpsc;

use crate::billing::admission::Refusal;
use crate::billing::team::TeamId;

/// The most teams that are remembered. A hundred bytes each; further ones ask
/// the ledger.
pub const TEAMS_MAX: usize = 100_000;

/// Parts with a lock each, so that one that is written to hides few teams.
const PARTS: u32 = 64;

/// The most teams that wait to be read. Further ones are not remembered this
/// time.
const OFFERS_MAX: usize = 4096;

/// A short memory of refusals.
#[derive(Debug)]
pub struct Refused {
    /// For how long a refusal is remembered.
    lasting: Duration,
    /// What times are counted from.
    began: Instant,
    hasher: RandomState,
    parts: Box<[RwLock<Part>]>,
    offers: mpsc::Sender<TeamId>,
    /// The other end, until somebody begins to take offers.
    taken: Mutex<Option<mpsc::Receiver<TeamId>>>,
    condition: Condition,
}

/// How those fare that vouch.
#[derive(Debug, Default)]
pub(super) struct Condition {
    /// Servers whose changes have to be heard of.
    pub(super) servers: AtomicUsize,
    /// Those of them whose changes are.
    pub(super) heard: AtomicUsize,
    /// How often one could not be heard, or not any longer.
    pub(super) faults: AtomicU64,
}

/// What an operator is told of the memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Teams that would be refused from memory now.
    pub teams: usize,
    /// Whether the changes of every server are heard of.
    pub is_up: bool,
    /// How often those of one could not be, or not any longer, since this was
    /// last asked.
    pub faults: u64,
}

/// Part of the teams.
#[derive(Debug, Default)]
struct Part {
    entries: HashMap<TeamId, Entry, RandomState>,
    /// How many changes were heard of. What was read before one of them may be
    /// out of date.
    changes: u64,
    /// While it is full: when the first of its entries is up.
    full_until: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    refusal: Refusal,
    until: Instant,
    voucher: Arc<Voucher>,
}

/// Says until when changes are certain to have been heard of. One belongs to
/// one connection and ends with it.
#[derive(Debug)]
pub(super) struct Voucher {
    began: Instant,
    /// Nanoseconds since then.
    until: AtomicU64,
}

/// What was known of changes before a balance was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before(u64);

impl Voucher {
    /// From now on changes are heard of, until then.
    pub(super) fn extend(&self, until: Instant) {
        let span = until.saturating_duration_since(self.began).as_nanos();
        let span = u64::try_from(span).unwrap_or_default();
        self.until.store(span, Ordering::Release);
    }

    /// Nothing is certain any more.
    pub(super) fn end(&self) {
        self.until.store(0, Ordering::Release);
    }

    fn holds(&self, now: Instant) -> bool {
        let now = now.saturating_duration_since(self.began).as_nanos();
        now < u128::from(self.until.load(Ordering::Acquire))
    }
}

impl Entry {
    fn holds(&self, now: Instant) -> bool {
        now < self.until && self.voucher.holds(now)
    }
}

impl Refused {
    /// A memory that keeps a refusal for so long.
    #[must_use]
    pub fn new(lasting: Duration) -> Self {
        let (offers, taken) = mpsc::channel(OFFERS_MAX);
        let hasher = RandomState::new();
        let part = |_| {
            RwLock::new(Part {
                entries: HashMap::with_hasher(hasher.clone()),
                ..Part::default()
            })
        };
        Refused {
            lasting,
            began: Instant::now(),
            parts: (0..PARTS).map(part).collect(),
            hasher,
            offers,
            taken: Mutex::new(Some(taken)),
            condition: Condition::default(),
        }
    }

    /// Why the team would be refused now, if that is remembered. Never waits.
    #[must_use]
    pub fn recall(&self, team: &TeamId, now: Instant) -> Option<Refusal> {
        let part = self.part(team)?.try_read().ok()?;
        let entry = part.entries.get(team)?;
        entry.holds(now).then_some(entry.refusal)
    }

    /// The ledger has just refused this team for its balance. Never waits.
    pub fn offer(&self, team: &TeamId) {
        // Of a storm, most need not be remembered one by one.
        drop(self.offers.try_send(team.clone()));
    }

    /// What an operator is told.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let now = Instant::now();
        let alive = |part: &RwLock<Part>| {
            let part = part.read().unwrap_or_else(PoisonError::into_inner);
            part.entries
                .values()
                .filter(|entry| entry.holds(now))
                .count()
        };
        let servers = self.condition.servers.load(Ordering::Relaxed);
        let heard = self.condition.heard.load(Ordering::Relaxed);
        Tally {
            teams: self.parts.iter().map(alive).sum(),
            is_up: servers > 0 && heard == servers,
            faults: self.condition.faults.swap(0, Ordering::Relaxed),
        }
    }

    /// The teams that were offered, for the first that asks.
    pub(super) fn take_offers(&self) -> Option<mpsc::Receiver<TeamId>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.take()
    }

    /// How those fare that vouch.
    pub(super) fn condition(&self) -> &Condition {
        &self.condition
    }

    /// A voucher that vouches for nothing yet.
    pub(super) fn voucher(&self) -> Arc<Voucher> {
        Arc::new(Voucher {
            began: self.began,
            until: AtomicU64::new(0),
        })
    }

    /// To be called before a balance is read that the team may be remembered
    /// by.
    pub(super) fn before(&self, team: &TeamId) -> Before {
        Before(self.write(team).map_or(0, |part| part.changes))
    }

    /// Remembers a refusal, unless a change of the team was heard of since its
    /// balance was read. Returns until when, if it does.
    pub(super) fn remember(
        &self,
        team: TeamId,
        refusal: Refusal,
        before: Before,
        voucher: &Arc<Voucher>,
    ) -> Option<Instant> {
        let now = Instant::now();
        let until = now.checked_add(self.lasting)?;
        let mut part = self.write(&team)?;
        if part.changes != before.0 {
            return None;
        }
        if !part.entries.contains_key(&team) && !part.has_room(now) {
            return None;
        }
        let voucher = Arc::clone(voucher);
        let entry = Entry {
            refusal,
            until,
            voucher,
        };
        part.entries.insert(team, entry);
        Some(until)
    }

    /// The team's balance was changed, or may have been.
    pub(super) fn forget(&self, team: &TeamId) {
        if let Some(mut part) = self.write(team) {
            part.changes = part.changes.wrapping_add(1);
            part.entries.remove(team);
        }
    }

    /// All balances were changed, or may have been.
    pub(super) fn forget_all(&self) {
        for part in &self.parts {
            let mut part = part.write().unwrap_or_else(PoisonError::into_inner);
            part.changes = part.changes.wrapping_add(1);
            part.entries.clear();
        }
    }

    /// Gives back the room of what is not remembered any more.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        for part in &self.parts {
            let mut part = part.write().unwrap_or_else(PoisonError::into_inner);
            part.entries.retain(|_, entry| entry.holds(now));
            // A storm's room is not kept for ever.
            let few = part.entries.len().saturating_mul(4);
            if part.entries.capacity() > few {
                part.entries.shrink_to(few);
            }
        }
    }

    fn part(&self, team: &TeamId) -> Option<&RwLock<Part>> {
        let hash = self.hasher.hash_one(team.as_str());
        // Other bits than those that a table goes by.
        let index = (hash >> 32).checked_rem(PARTS.into())?;
        self.parts.get(usize::try_from(index).ok()?)
    }

    fn write(&self, team: &TeamId) -> Option<RwLockWriteGuard<'_, Part>> {
        let part = self.part(team)?;
        Some(part.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Part {
    /// Whether another team can be remembered. While all that it holds is good,
    /// nothing of it is looked through again.
    fn has_room(&mut self, now: Instant) -> bool {
        let most = TEAMS_MAX.div_ceil(usize::try_from(PARTS).unwrap_or(1));
        if self.entries.len() < most {
            return true;
        }
        if self.full_until.is_some_and(|until| now < until) {
            return false;
        }
        self.entries.retain(|_, entry| entry.holds(now));
        let first = self.entries.values().map(|entry| entry.until).min();
        self.full_until = first.filter(|_| self.entries.len() >= most);
        self.full_until.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTING: Duration = Duration::from_secs(3600);

    fn team(name: &str) -> TeamId {
        TeamId::parse(name.as_bytes()).unwrap()
    }

    fn later(span: Duration) -> Instant {
        Instant::now().checked_add(span).unwrap()
    }

    /// A memory, and a voucher that holds for an hour.
    fn vouched() -> (Refused, Arc<Voucher>) {
        let refused = Refused::new(LASTING);
        let voucher = refused.voucher();
        voucher.extend(later(LASTING));
        (refused, voucher)
    }

    fn learn(refused: &Refused, name: &str, voucher: &Arc<Voucher>) -> Option<Instant> {
        let team = team(name);
        let before = refused.before(&team);
        refused.remember(team, Refusal::InsufficientCredits, before, voucher)
    }

    fn recall(refused: &Refused, name: &str) -> Option<Refusal> {
        refused.recall(&team(name), Instant::now())
    }

    #[test]
    fn a_refusal_is_remembered_for_its_own_team_alone() {
        let (refused, voucher) = vouched();
        assert!(learn(&refused, "broke", &voucher).is_some());
        let found = recall(&refused, "broke");
        assert_eq!(found, Some(Refusal::InsufficientCredits));
        assert_eq!(recall(&refused, "acme"), None);
        assert_eq!(refused.tally().teams, 1);
    }

    #[test]
    fn a_refusal_is_remembered_for_its_time_and_no_longer() {
        let (refused, voucher) = vouched();
        let until = learn(&refused, "broke", &voucher).unwrap();
        voucher.extend(until.checked_add(LASTING).unwrap());
        let just_before = until.checked_sub(Duration::from_nanos(1)).unwrap();
        assert!(refused.recall(&team("broke"), just_before).is_some());
        assert!(refused.recall(&team("broke"), until).is_none());
    }

    #[test]
    fn without_a_voucher_nothing_is_found() {
        let refused = Refused::new(LASTING);
        let voucher = refused.voucher();
        learn(&refused, "broke", &voucher);
        assert_eq!(
            recall(&refused, "broke"),
            None,
            "it vouched for nothing yet"
        );
        let until = later(LASTING);
        voucher.extend(until);
        assert!(recall(&refused, "broke").is_some());
        assert_eq!(refused.recall(&team("broke"), until), None, "it is past");
        voucher.end();
        assert_eq!(recall(&refused, "broke"), None, "it has ended");
        assert_eq!(refused.tally().teams, 0);
    }

    #[test]
    fn a_change_that_comes_while_the_balance_is_read_counts() {
        let (refused, voucher) = vouched();
        let changes: [fn(&Refused, &TeamId); 2] = [Refused::forget, |refused, _| {
            refused.forget_all();
        }];
        for forget in changes {
            let broke = team("broke");
            let before = refused.before(&broke);
            forget(&refused, &broke);
            let refusal = Refusal::InsufficientCredits;
            let remembered = refused.remember(broke, refusal, before, &voucher);
            assert_eq!(remembered, None);
            assert_eq!(recall(&refused, "broke"), None);
            assert!(learn(&refused, "broke", &voucher).is_some());
        }
    }

    #[test]
    fn a_change_is_heard_of_by_its_own_team_or_by_all() {
        let (refused, voucher) = vouched();
        learn(&refused, "broke", &voucher);
        learn(&refused, "poor", &voucher);
        refused.forget(&team("broke"));
        assert_eq!(recall(&refused, "broke"), None);
        assert!(recall(&refused, "poor").is_some());
        refused.forget_all();
        assert_eq!(recall(&refused, "poor"), None);
    }

    #[test]
    fn the_number_of_teams_is_bounded_and_room_comes_back() {
        let (refused, voucher) = vouched();
        for index in 0..TEAMS_MAX * 2 {
            learn(&refused, &format!("team-{index}"), &voucher);
        }
        let full = refused.tally().teams;
        assert!(full <= TEAMS_MAX + 64, "{full}");
        assert!(full > TEAMS_MAX / 2, "{full}");
        assert_eq!(learn(&refused, "team-last", &voucher), None);
        // A team that is there already needs no room.
        let there = (0..TEAMS_MAX).map(|index| format!("team-{index}"));
        let mut there = there.filter(|name| recall(&refused, name).is_some());
        assert!(learn(&refused, &there.next().unwrap(), &voucher).is_some());
        voucher.end();
        refused.sweep();
        let fresh = refused.voucher();
        fresh.extend(later(LASTING));
        assert!(learn(&refused, "team-last", &fresh).is_some());
        assert_eq!(refused.tally().teams, 1);
    }

    #[test]
    fn what_nobody_takes_is_offered_without_waiting() {
        let refused = Refused::new(LASTING);
        for _ in 0..OFFERS_MAX * 2 {
            refused.offer(&team("broke"));
        }
        let mut offers = refused.take_offers().unwrap();
        assert!(refused.take_offers().is_none());
        let mut count = 0;
        while offers.try_recv().is_ok() {
            count += 1;
        }
        assert_eq!(count, OFFERS_MAX);
    }

    #[test]
    fn a_part_that_is_written_to_hides_its_teams_and_nobody_waits() {
        let (refused, voucher) = vouched();
        learn(&refused, "broke", &voucher);
        let writing = refused.write(&team("broke"));
        assert_eq!(recall(&refused, "broke"), None);
        drop(writing);
        assert!(recall(&refused, "broke").is_some());
    }
}
