//! [`Watcher`]: vouches for the memory of refusals ([`Refused`]).
//!
//! Beside the connection that requests share there is one more to each server
//! that holds balances, over which the server tells of every change of what was
//! read over it (`CLIENT TRACKING`). A team that the ledger refused is read
//! again over that connection, off the request path; only what that read says
//! is remembered, and only if no change was told since it was sent.
//!
//! It is not enough that the connection seems to be there. A server answers in
//! order: whoever has the reply to a question has been told of every change
//! before it. So a question goes out every [`guard::BEAT`] while anything is
//! remembered, and what is remembered counts for [`guard::VOUCHED`] from when
//! the last one that was answered was *sent*. A network that swallows what the
//! server tells, a server that is frozen, and a gateway that cannot keep up all
//! end in not remembering, and within that time.
//!
//! Nothing is remembered of a server that requests are not sent to at the
//! moment: with the link that requests share goes what was heard beside it.

mod guard;
mod line;
mod metered;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::Cmd;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

use self::guard::Guard;
use super::keys::{Keys, Template};
use super::reach::Reach;
use super::read_command;
use super::supervisor::Core;
use super::values::{parse_balance, text};
use crate::billing::admission::{Balance, Refusal, Rule, Verdict, decide};
use crate::billing::team::TeamId;
use crate::ledger::refused::Refused;

/// How often room is given back that nothing is remembered in any more.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The most teams that wait for one server.
const WAITING_MAX: usize = 1024;

/// What all guards share.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) refused: Arc<Refused>,
    balance: Template,
    field: Option<Template>,
    rule: Rule,
    /// Whether a team without a balance is remembered. In a cluster it is not:
    /// a slot that moves takes its keys with it, and each of them is told of;
    /// of a key that is not there nothing could be told.
    missing: Missing,
}

/// What is done about a team without a balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    /// It is remembered.
    Remembered,
    /// It is asked for each time.
    Asked,
}

impl Desk {
    pub(super) fn new(refused: Arc<Refused>, keys: &Keys, rule: Rule, reach: &Reach) -> Self {
        Desk {
            refused,
            balance: Template::for_team(&keys.balance),
            field: keys.field.as_deref().map(Template::for_team),
            rule,
            missing: match reach {
                Reach::One(_) => Missing::Remembered,
                Reach::Many(_) => Missing::Asked,
            },
        }
    }

    /// The command that reads the team's balance.
    fn read(&self, team: &TeamId) -> Cmd {
        read_command(&self.balance, self.field.as_ref(), team.as_str())
    }

    /// Why a team with this balance is refused, if it is, and if that can be
    /// remembered.
    fn refusal(&self, balance: redis::Value) -> Option<Refusal> {
        let balance = match text(balance).ok()? {
            Some(text) => Balance::Known(parse_balance(&text).ok()?),
            None => Balance::Missing,
        };
        if balance == Balance::Missing && self.missing == Missing::Asked {
            return None;
        }
        match decide(balance, &self.rule) {
            Verdict::Refuse(refusal) => Some(refusal),
            Verdict::Admit | Verdict::AdmitUnknown | Verdict::RefuseUnknown => None,
        }
    }

    /// What a server tells: this key was changed.
    fn changed(&self, key: &[u8]) {
        match self.balance.holes(key) {
            Some("") => self.refused.forget_all(),
            Some(team) => match TeamId::parse(team.as_bytes()) {
                Ok(team) => self.refused.forget(&team),
                Err(_) => self.refused.forget_all(),
            },
            // None of those that are remembered by.
            None => {}
        }
    }
}

/// Vouches for what is remembered, as long as it runs.
pub(super) struct Watcher {
    reach: Reach,
    desk: Arc<Desk>,
    offers: mpsc::Receiver<TeamId>,
    guards: Vec<Kept>,
    tasks: JoinSet<()>,
}

/// A guard at work.
struct Kept {
    core: Arc<Core>,
    offers: mpsc::Sender<TeamId>,
    task: AbortHandle,
}

impl Watcher {
    pub(super) fn new(reach: Reach, desk: Arc<Desk>, offers: mpsc::Receiver<TeamId>) -> Self {
        Watcher {
            reach,
            desk,
            offers,
            guards: Vec::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Watches until `alive` closes.
    pub(super) async fn run(mut self, mut alive: watch::Receiver<()>) {
        let mut changes = self.reach.changes();
        let mut sweeps = interval(SWEEP_EVERY);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.post();
        loop {
            tokio::select! {
                // Nothing is ever sent: this is the ledger being dropped.
                _ = alive.changed() => return,
                _ = changes.changed() => self.post(),
                _ = sweeps.tick() => self.desk.refused.sweep(),
                offer = self.offers.recv() => match offer {
                    Some(team) => self.hand_on(team),
                    None => return,
                },
            }
        }
    }

    /// Posts a guard at every server that holds balances, and at no other.
    fn post(&mut self) {
        let cores = self.reach.cores();
        self.guards.retain(|kept| {
            let stays = cores.iter().any(|core| Arc::ptr_eq(core, &kept.core));
            if !stays {
                kept.task.abort();
            }
            stays
        });
        for core in cores {
            if self
                .guards
                .iter()
                .any(|kept| Arc::ptr_eq(&kept.core, &core))
            {
                continue;
            }
            let (offers, offered) = mpsc::channel(WAITING_MAX);
            let guard = Guard::new(Arc::clone(&core), Arc::clone(&self.desk), offered);
            let task = self.tasks.spawn(guard.keep());
            self.guards.push(Kept { core, offers, task });
        }
        while self.tasks.try_join_next().is_some() {}
        let servers = &self.desk.refused.condition().servers;
        servers.store(self.guards.len(), Ordering::Relaxed);
    }

    /// Hands a team to the guard of the server that holds its balance.
    fn hand_on(&self, team: TeamId) {
        let key = self.desk.balance.fill(team.as_str()).to_string();
        let Some(core) = self.reach.core_of(key.as_bytes()) else {
            return;
        };
        let kept = self
            .guards
            .iter()
            .find(|kept| Arc::ptr_eq(&kept.core, &core));
        if let Some(kept) = kept {
            // One too many is not remembered this time.
            drop(kept.offers.try_send(team));
        }
    }
}
