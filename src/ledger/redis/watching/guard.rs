//! [`Guard`]: keeps a [`Line`] to one server, reads over it the teams that were
//! refused, and says until when its word is good.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use redis::{Cmd, Pipeline, Value};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, sleep_until, timeout};

use super::Desk;
use super::line::{Line, Unheard};
use crate::billing::team::TeamId;
use crate::ledger::redis::fault::Fault;
use crate::ledger::redis::link::Link;
use crate::ledger::redis::supervisor::Core;
use crate::ledger::refused::{Before, Refused};

/// How often the server is asked whether all was told, while anything is
/// remembered.
pub(super) const BEAT: Duration = Duration::from_millis(25);

/// How long what is remembered counts from when a question was sent that was
/// answered: two beats and a reply may be late. A purchase takes effect within
/// 100 ms, and this is what may pass before one is noticed that nobody told of.
pub(super) const VOUCHED: Duration = Duration::from_millis(75);

/// How often the server is asked while nothing is remembered.
const IDLE_BEAT: Duration = Duration::from_secs(1);

/// How long a reply may take before the line is given up. What is remembered
/// has stopped counting long before.
const PATIENCE: Duration = Duration::from_secs(1);

/// The most teams that are read at once.
const BATCH_MAX: usize = 256;

/// The pause before a line that was lost is opened again.
const PAUSE: Duration = Duration::from_millis(100);

/// The pause before a server that cannot tell of changes is asked again.
const UNABLE_PAUSE: Duration = Duration::from_secs(30);

/// Keeps a line to one server.
pub(super) struct Guard {
    core: Arc<Core>,
    desk: Arc<Desk>,
    offers: mpsc::Receiver<TeamId>,
    changes: watch::Receiver<()>,
    attempts: usize,
    /// What was last said of the line in the log.
    said: Option<String>,
}

/// A line that is up counts as heard.
struct Heard<'a>(&'a Refused);

impl<'a> Heard<'a> {
    fn new(refused: &'a Refused) -> Self {
        refused.condition().heard.fetch_add(1, Ordering::Relaxed);
        Heard(refused)
    }
}

impl Drop for Heard<'_> {
    fn drop(&mut self) {
        self.0.condition().heard.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a line has been used for.
struct Use {
    /// When it was last used.
    sent: Instant,
    /// Until when something may be remembered by it.
    until: Instant,
    /// Reads a team that is remembered, or was.
    read: Option<Cmd>,
}

impl Guard {
    pub(super) fn new(core: Arc<Core>, desk: Arc<Desk>, offers: mpsc::Receiver<TeamId>) -> Self {
        Guard {
            changes: core.changes.subscribe(),
            core,
            desk,
            offers,
            attempts: 0,
            said: None,
        }
    }

    /// Keeps a line up beside the link that requests share, for ever.
    pub(super) async fn keep(mut self) {
        loop {
            self.changes.mark_unchanged();
            let Ok(link) = self.core.link() else {
                if self.changes.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let pause = match self.open(&link).await {
                Ok(line) => {
                    let why = self.listen(&line, &link).await;
                    drop(line);
                    self.say(&Unheard::Unreached(why));
                    PAUSE
                }
                Err(unheard) => {
                    self.say(&unheard);
                    match unheard {
                        Unheard::Unable(_) => UNABLE_PAUSE,
                        Unheard::Unreached(_) => PAUSE.max(self.core.probe_interval),
                    }
                }
            };
            self.rest(pause, &link).await;
        }
    }

    async fn open(&mut self, link: &Arc<Link>) -> Result<Line, Unheard> {
        let Some(target) = self.core.place.target_of(link) else {
            let why = "the master's address cannot be read".to_owned();
            return Err(Unheard::Unreached(why));
        };
        self.attempts = self.attempts.wrapping_add(1);
        let patience = self.core.connect_timeout;
        Line::open(&target, link, self.attempts, patience, &self.desk).await
    }

    /// Waits a while, or until requests are sent elsewhere.
    async fn rest(&mut self, pause: Duration, link: &Arc<Link>) {
        let moved = async {
            while self.core.is_current(link) && self.changes.changed().await.is_ok() {}
            // Not faster than this, however often it moves.
            sleep(PAUSE).await;
        };
        // Whichever comes first.
        let _ = timeout(pause, moved).await;
    }

    /// Says what is wrong, once.
    fn say(&mut self, unheard: &Unheard) {
        let faults = &self.desk.refused.condition().faults;
        faults.fetch_add(1, Ordering::Relaxed);
        let (Unheard::Unable(why) | Unheard::Unreached(why)) = unheard;
        if self.said.as_ref() == Some(why) {
            return;
        }
        let redis = &self.core.place;
        match unheard {
            Unheard::Unable(_) => tracing::warn!(
                %redis,
                reason = why,
                "refusals are not remembered: redis cannot tell of changed balances; it takes version 6 or later and a user that may run CLIENT TRACKING and INFO (ACL: +client|tracking +info)"
            ),
            Unheard::Unreached(_) => tracing::warn!(
                %redis,
                reason = why,
                "refusals are not remembered until redis tells of changed balances again"
            ),
        }
        self.said = Some(why.clone());
    }

    /// Reads and vouches over a line, until it is over, and returns why.
    async fn listen(&mut self, line: &Line, link: &Arc<Link>) -> String {
        let (desk, core) = (Arc::clone(&self.desk), Arc::clone(&self.core));
        let now = Instant::now();
        let mut used = Use {
            sent: now,
            until: now,
            read: None,
        };
        let mut heard = None;
        // The first question goes out at once.
        let mut next = now;
        let mut teams = Vec::new();
        loop {
            let over = over(&core, line, link, &mut self.changes);
            tokio::select! {
                biased;
                why = over => return why,
                offered = self.offers.recv_many(&mut teams, BATCH_MAX) => if offered == 0 {
                    return "the server left the cluster".to_owned();
                },
                () = sleep_until(next.into()) => {}
            }
            let now = Instant::now();
            teams.sort_unstable();
            teams.dedup();
            teams.retain(|team| desk.refused.recall(team, now).is_none());
            if !teams.is_empty() || now >= next {
                let round = round(&core, &desk, line, mem::take(&mut teams), &mut used);
                let over = self::over(&core, line, link, &mut self.changes);
                tokio::select! {
                    biased;
                    why = over => return why,
                    outcome = timeout(PATIENCE, round) => match outcome {
                        Ok(Ok(())) => {}
                        Ok(Err(fault)) => return fault.to_string(),
                        Err(_) => return format!("no reply within {PATIENCE:?}"),
                    },
                }
                if heard.is_none() {
                    heard = Some(Heard::new(&desk.refused));
                    self.said = None;
                    tracing::info!(redis = %core.place, "refusals are remembered: redis tells of changed balances");
                }
            }
            let pause = match Instant::now() < used.until {
                true => BEAT,
                false => IDLE_BEAT,
            };
            next = used.sent.checked_add(pause).unwrap_or(now);
        }
    }
}

/// Waits until nothing more can be heard over a line of what requests are told,
/// and says why.
async fn over(
    core: &Core,
    line: &Line,
    link: &Arc<Link>,
    changes: &mut watch::Receiver<()>,
) -> String {
    loop {
        if !core.is_current(link) {
            return "requests are not sent there any more".to_owned();
        }
        tokio::select! {
            () = line.is_over() => return "redis closed the connection".to_owned(),
            changed = changes.changed() => if changed.is_err() {
                return "the ledger is gone".to_owned();
            },
        }
    }
}

/// Reads these teams, and asks what shows that all was told.
async fn round(
    core: &Core,
    desk: &Desk,
    line: &Line,
    teams: Vec<TeamId>,
    used: &mut Use,
) -> Result<(), Fault> {
    // Before they are read: what is told from here on counts.
    let teams: Vec<(TeamId, Before)> = teams
        .into_iter()
        .map(|team| {
            let before = desk.refused.before(&team);
            (team, before)
        })
        .collect();
    let mut commands = Pipeline::with_capacity(teams.len().saturating_add(2));
    for (team, _) in &teams {
        commands.add_command(desk.read(team));
    }
    let proofs = proofs(core, used);
    for (command, _) in &proofs {
        commands.add_command(command.clone());
    }
    used.sent = Instant::now();
    let (sent, mut replies) = line.ask_all(&commands).await?;
    if replies.len() != teams.len().saturating_add(proofs.len()) {
        return Err(Fault::nonsense());
    }
    let shown = replies.split_off(teams.len());
    for ((_, proof), reply) in proofs.iter().zip(shown) {
        proof.check(reply)?;
    }
    if let Some(until) = sent.checked_add(VOUCHED) {
        line.voucher.extend(until);
    }
    for ((team, before), reply) in teams.into_iter().zip(replies) {
        let Some(refusal) = desk.refusal(reply) else {
            continue;
        };
        let read = desk.read(&team);
        let until = desk.refused.remember(team, refusal, before, &line.voucher);
        if let Some(until) = until {
            used.until = used.until.max(until);
            used.read = Some(read);
        }
    }
    Ok(())
}

/// What has to come back for a server to be what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    /// Anything: it answers.
    Answer,
    /// A balance, or none: it is still the one that holds it.
    Held,
    /// That it is a master.
    Master,
    /// That the canary is there.
    Canary,
}

/// The questions by which a server shows that it is what it was.
fn proofs(core: &Core, used: &Use) -> Vec<(Cmd, Proof)> {
    let mut proofs = Vec::with_capacity(2);
    if let Some(canary) = &core.canary {
        proofs.push((canary.clone(), Proof::Canary));
    }
    if core.place.is_elected() {
        proofs.push((redis::cmd("ROLE"), Proof::Master));
    }
    if proofs.is_empty() {
        proofs.push(match &used.read {
            // A master of a cluster that lost its slots says so.
            Some(read) => (read.clone(), Proof::Held),
            None => (core.sample.clone(), Proof::Answer),
        });
    }
    proofs
}

impl Proof {
    fn check(self, reply: Value) -> Result<(), Fault> {
        match (self, reply) {
            (Proof::Held | Proof::Master | Proof::Canary, Value::ServerError(error)) => {
                match Fault::from_server(&error) {
                    // It holds something else there now, but it does hold it.
                    Fault::Entry(_) if self == Proof::Held => Ok(()),
                    fault => Err(fault),
                }
            }
            (Proof::Canary, Value::Int(0)) => Err(Fault::CanaryMissing),
            (Proof::Master, Value::Array(role)) => match role.first() {
                Some(Value::BulkString(name)) if name == b"master" => Ok(()),
                _ => Err(Fault::Demoted("redis is a replica".to_owned())),
            },
            (Proof::Master, _) => Err(Fault::nonsense()),
            (Proof::Answer | Proof::Held | Proof::Canary, _) => Ok(()),
        }
    }
}
