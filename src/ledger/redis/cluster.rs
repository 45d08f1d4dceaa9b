//! [`Cluster`]: a ledger that is spread over the masters of a Redis Cluster.
//!
//! Each master has a link and a breaker of its own ([`super::supervisor`]), so
//! one that is dead costs its own teams their deadline, then nothing, and
//! everybody else never anything. What holds them together is the map of which
//! master serves which slot. It is learnt aside and replaced whole; no request
//! waits for that. A node that names another one (`MOVED`, `ASK`) is followed
//! at once: it has not carried out the command, so sending it again does it
//! once.
//!
//! redis-rs has a client for clusters. While it learns the map anew it answers
//! nobody, and that lasts as long as its slowest node: with one master frozen,
//! a single slot that moved between the two healthy ones made every request of
//! every team time out until the failover.

mod courier;
mod learn;
mod schema;
mod watched;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use redis::{Cmd, Value};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout_at};

pub(super) use self::courier::Courier;
use super::fault::{Fault, Lasting, Redirect};
use super::link::{Form, Link};
use super::place::Place;
use super::prepare::Preparation;
use super::question::Question;
use super::slots::{MASTERS_MAX, SLOTS};
use super::supervisor::{Core, State, from_now};
use super::transport::{Manner, Target, Tls, address_text};
use super::{RedisSettings, SettingsError};
use crate::ledger::Health;
use crate::ledger::refused::Refused;

/// When a command was sent.
pub(super) type Sent = std::time::Instant;

/// How often one command is sent on before the nodes are taken to disagree.
const REDIRECTS_MAX: usize = 4;

/// The pause before a command about a slot on the move is tried again.
const SLOT_PAUSE: Duration = Duration::from_millis(5);

/// How long a node that no map mentions is kept for those that are sent there.
const LINGER: Duration = Duration::from_secs(30);

/// The masters of a cluster, and who serves what.
pub(super) struct Cluster {
    /// Where to begin: the configured nodes.
    seeds: Vec<Target>,
    /// How every node is spoken to.
    manner: Manner,
    pub(super) deadline: Duration,
    pub(super) connect_timeout: Duration,
    faults_max: u32,
    probe_interval: Duration,
    sample: Cmd,
    /// What hold mode needs of every node.
    holds: Option<Arc<Preparation>>,
    map: ArcSwap<Map>,
    /// Somebody noticed that the map is out of date.
    stale: Notify,
    /// A node came into the map or left it.
    arrivals: Notify,
    /// Told of every change of the map, and of every node's state.
    pub(super) changes: watch::Sender<()>,
    /// The memory of teams that were refused, if there is one.
    memory: OnceLock<Arc<Refused>>,
    /// Whether somebody keeps the nodes connected.
    kept: watch::Sender<Keeping>,
}

/// Who connects the nodes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeping {
    /// Whoever needs one.
    Nobody,
    /// A task of its own.
    Task,
}

/// Which node serves which slot. Never changed, only replaced.
#[derive(Clone, Default)]
struct Map {
    nodes: BTreeMap<Arc<str>, Arc<Node>>,
    /// By slot. Empty until the map was learnt.
    owners: Vec<Option<Arc<Node>>>,
    /// Why there is none.
    why: Option<String>,
}

/// One master.
pub(super) struct Node {
    name: Arc<str>,
    host: String,
    core: Arc<Core>,
    /// When it was last mentioned, by a map or another node.
    mentioned: Mutex<Instant>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nodes: Vec<_> = self.map.load().nodes.keys().cloned().collect();
        f.debug_struct("Cluster")
            .field("nodes", &nodes)
            .finish_non_exhaustive()
    }
}

impl Node {
    fn mention(&self) {
        let mut mentioned = self
            .mentioned
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *mentioned = Instant::now();
    }

    fn is_forgotten(&self) -> bool {
        let mentioned = self
            .mentioned
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        mentioned.elapsed() > LINGER
    }
}

impl Cluster {
    /// A cluster that is not connected. Opens no socket.
    pub(super) fn new(
        settings: &RedisSettings,
        urls: &[String],
        sample: Cmd,
        holds: Option<Arc<Preparation>>,
    ) -> Result<Self, SettingsError> {
        let tls = Tls::new(settings.tls.as_ref());
        let seeds: Vec<_> = urls
            .iter()
            .map(|url| Target::new(url, &tls))
            .collect::<Result<_, _>>()?;
        tls.is_used_if_given()?;
        let Some(first) = seeds.first() else {
            return Err(SettingsError::Servers("no node is named".to_owned()));
        };
        if settings.keys.canary.is_some() {
            return Err(SettingsError::Servers(
                "a canary key is in one slot and says nothing of the others: leave `canary` out"
                    .to_owned(),
            ));
        }
        Ok(Cluster {
            manner: first.manner.clone(),
            seeds,
            deadline: settings.deadline,
            connect_timeout: settings.connect_timeout,
            faults_max: settings.breaker_failures.max(1),
            // A timer of zero length would panic.
            probe_interval: settings.probe_interval.max(Duration::from_millis(1)),
            sample,
            holds,
            map: ArcSwap::from_pointee(Map::default()),
            stale: Notify::new(),
            arrivals: Notify::new(),
            changes: watch::Sender::new(()),
            memory: OnceLock::new(),
            kept: watch::Sender::new(Keeping::Nobody),
        })
    }

    /// When a call that begins now has to be over.
    pub(super) fn until(&self) -> Instant {
        from_now(self.deadline)
    }

    /// Sends a command to the master that serves this slot, and draws the
    /// conclusions for that master's breaker. `make` makes it for the link that
    /// it goes over; `shape` takes the moment when it was sent and a reply that
    /// the command can have, and nothing else.
    pub(super) async fn ask<T>(
        &self,
        slot: u16,
        until: Instant,
        make: impl Fn(&Link, Form) -> Question,
        shape: impl FnOnce(&Link, Sent, Value) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.has_known_schema()?;
        let mut node = self.owner(slot)?;
        let mut lasting = Lasting::FromNowOn;
        let mut redirects: usize = 0;
        loop {
            let link = self.link(&node, until).await?;
            link.mark_used();
            let fault = match link.exchange(&make, lasting, until).await {
                Ok((sent, value)) => {
                    let outcome = shape(&link, sent, value);
                    return node.core.conclude(&link, outcome);
                }
                Err(fault) => fault,
            };
            match node.core.conclude::<T>(&link, Err(fault)) {
                Err(Fault::Elsewhere(redirect)) if redirects < REDIRECTS_MAX => {
                    redirects = redirects.saturating_add(1);
                    lasting = redirect.lasting;
                    node = self.follow(&node, &redirect)?;
                }
                Err(Fault::Elsewhere(redirect)) => {
                    return Err(Fault::Down(format!(
                        "the cluster's nodes disagree about a slot: {}",
                        redirect.text
                    )));
                }
                Err(Fault::Slot(text)) => {
                    self.stale.notify_one();
                    wait_for_slot(until, &text).await?;
                    lasting = Lasting::FromNowOn;
                    node = self.owner(slot)?;
                }
                outcome => return outcome,
            }
        }
    }

    /// The master that serves a slot, as far as is known.
    fn owner(&self, slot: u16) -> Result<Arc<Node>, Fault> {
        let map = self.map.load();
        match map.owners.get(usize::from(slot)) {
            Some(Some(node)) => Ok(Arc::clone(node)),
            _ => {
                self.stale.notify_one();
                Err(Fault::Down(map.why_not_served()))
            }
        }
    }

    /// The node's link. One that was just heard of is waited for: it opens as
    /// fast as it can, and only its own teams wait.
    async fn link(&self, node: &Arc<Node>, until: Instant) -> Result<Arc<Link>, Fault> {
        if node.core.is_opening() {
            let mut changes = self.changes.subscribe();
            let opening = async {
                if *self.kept.borrow() == Keeping::Nobody {
                    node.core.open_once().await;
                }
                while node.core.is_opening() && changes.changed().await.is_ok() {}
            };
            // That it took too long shows in the link.
            let _ = timeout_at(until, opening).await;
        }
        let link = node.core.link();
        if link.is_err() {
            self.stale.notify_one();
        }
        link
    }

    /// What one node holds says of all which version wrote them. While that is
    /// not known, none is asked.
    fn has_known_schema(&self) -> Result<(), Fault> {
        self.holds
            .as_ref()
            .map_or(Ok(()), |holds| holds.has_known_schema())
    }

    /// Why the cluster cannot be used for holds, as last found.
    pub(super) fn schema_conflict(&self) -> Option<String> {
        self.holds.as_ref()?.conflict()
    }

    /// The node that another one names.
    fn follow(&self, from: &Node, redirect: &Redirect) -> Result<Arc<Node>, Fault> {
        let host = match redirect.host.as_str() {
            "" => from.host.as_str(),
            host => host,
        };
        let node = self.node_at(host, redirect.port)?;
        let slot = usize::from(redirect.slot);
        // Of many that are sent on at once, one changes the map: that means
        // copying all of it.
        if redirect.lasting == Lasting::FromNowOn && !self.map.load().is_owner(slot, &node) {
            self.map.rcu(|map| {
                let mut map = Map::clone(map);
                if let Some(owner) = map.owners.get_mut(slot) {
                    *owner = Some(Arc::clone(&node));
                }
                map
            });
            self.forget_refusals();
            self.stale.notify_one();
        }
        Ok(node)
    }

    /// The node at this address, known or new.
    fn node_at(&self, host: &str, port: u16) -> Result<Arc<Node>, Fault> {
        let name = address_text(host, port);
        if let Some(node) = self.map.load().nodes.get(name.as_str()) {
            node.mention();
            return Ok(Arc::clone(node));
        }
        let fresh = self.node(host, port).map_err(Fault::Down)?;
        let mut node = Arc::clone(&fresh);
        self.map.rcu(|map| {
            let mut map = Map::clone(map);
            // Of several that hear of it at once, one makes it.
            node = Arc::clone(&fresh);
            if let Some(known) = map.nodes.get(name.as_str()) {
                node = Arc::clone(known);
            } else if map.nodes.len() < MASTERS_MAX {
                map.nodes
                    .insert(Arc::clone(&fresh.name), Arc::clone(&fresh));
            }
            map
        });
        self.arrivals.notify_one();
        Ok(node)
    }

    /// A node that is not connected.
    fn node(&self, host: &str, port: u16) -> Result<Arc<Node>, String> {
        let target = self
            .manner
            .at(host, port)
            .map_err(|error| error.to_string())?;
        let core = Core {
            place: Place::Fixed(target),
            deadline: self.deadline,
            connect_timeout: self.connect_timeout,
            faults_max: self.faults_max,
            probe_interval: self.probe_interval,
            sample: self.sample.clone(),
            canary: None,
            holds: self.holds.clone(),
            state: ArcSwap::from_pointee(State::Opening),
            changes: self.changes.clone(),
        };
        Ok(Arc::new(Node {
            name: address_text(host, port).into(),
            host: host.to_owned(),
            core: Arc::new(core),
            mentioned: Mutex::new(Instant::now()),
        }))
    }

    /// The masters that serve slots.
    fn masters(&self) -> Vec<Arc<Node>> {
        self.map.load().masters()
    }

    /// A link to every master, for what has to be asked of all.
    pub(super) async fn links(&self, until: Instant) -> Result<Vec<(Arc<Core>, Arc<Link>)>, Fault> {
        self.has_known_schema()?;
        let masters = self.masters();
        if masters.is_empty() {
            return Err(Fault::Down(self.map.load().why_not_served()));
        }
        let mut links = Vec::with_capacity(masters.len());
        for node in masters {
            let link = self.link(&node, until).await?;
            links.push((Arc::clone(&node.core), link));
        }
        Ok(links)
    }

    /// Up while a master answers: the teams of the others are told of their
    /// outage one by one, and taking this gateway out of service would help
    /// nobody.
    pub(super) fn health(&self) -> Health {
        if let Err(fault) = self.has_known_schema() {
            return Health::Down(fault.to_string());
        }
        let map = self.map.load();
        let mut why = None;
        for node in map.masters() {
            match node.core.link() {
                Ok(_) => return Health::Up,
                Err(fault) => why = Some(fault.to_string()),
            }
        }
        Health::Down(why.unwrap_or_else(|| map.why_not_served()))
    }

    /// Whether every master answers.
    pub(super) fn is_whole(&self) -> bool {
        let masters = self.masters();
        self.has_known_schema().is_ok()
            && !masters.is_empty()
            && masters.iter().all(|node| node.core.link().is_ok())
    }

    /// Forgets the map and every connection.
    fn forget(&self) {
        self.map.store(Arc::new(Map::default()));
    }

    /// Learns the map and connects every master, once.
    pub(super) async fn connect_once(&self) -> Result<(), String> {
        let ranges = self.learn().await?;
        self.install(&ranges)?;
        let mut opening = JoinSet::new();
        for node in self.masters() {
            opening.spawn(async move { node.core.open_once().await });
        }
        while opening.join_next().await.is_some() {}
        self.learn_schema().await;
        match self.health() {
            Health::Up => Ok(()),
            Health::Down(why) => Err(why),
        }
    }

    /// Keeps the map right and its nodes connected, for ever.
    pub(super) async fn keep_up(self: Arc<Self>) {
        self.kept.send_replace(Keeping::Task);
        tokio::join!(
            self.keep_learning(),
            self.keep_learning_schema(),
            self.tend()
        );
    }

    /// Keeps every node of the map connected, and no other.
    async fn tend(&self) {
        let mut tasks = JoinSet::new();
        let mut tended: Vec<(Arc<Node>, AbortHandle)> = Vec::new();
        loop {
            let map = self.map.load_full();
            // Not by name: a node may have gone and come again.
            let is_there = |node: &Arc<Node>| {
                let named = map.nodes.get(&node.name);
                named.is_some_and(|named| Arc::ptr_eq(named, node))
            };
            tended.retain(|(node, task)| {
                if !is_there(node) {
                    task.abort();
                }
                is_there(node)
            });
            for node in map.nodes.values() {
                if !tended.iter().any(|(known, _)| Arc::ptr_eq(known, node)) {
                    let task = tasks.spawn(Arc::clone(&node.core).keep_up());
                    tended.push((Arc::clone(node), task));
                }
            }
            drop(map);
            while tasks.try_join_next().is_some() {}
            self.arrivals.notified().await;
        }
    }
}

impl Map {
    fn is_owner(&self, slot: usize, node: &Arc<Node>) -> bool {
        let owner = self.owners.get(slot);
        matches!(owner, Some(Some(owner)) if Arc::ptr_eq(owner, node))
    }

    fn masters(&self) -> Vec<Arc<Node>> {
        let mut masters: BTreeMap<&str, &Arc<Node>> = BTreeMap::new();
        let mut last: Option<&Arc<Node>> = None;
        for owner in self.owners.iter().flatten() {
            // Neighbouring slots mostly have the same owner.
            if !last.is_some_and(|last| Arc::ptr_eq(last, owner)) {
                masters.insert(&owner.name, owner);
                last = Some(owner);
            }
        }
        masters.into_values().map(Arc::clone).collect()
    }

    fn why_not_served(&self) -> String {
        match &self.why {
            Some(why) => why.clone(),
            None if self.owners.is_empty() => "the cluster is not connected yet".to_owned(),
            None => "no master of the cluster serves this slot".to_owned(),
        }
    }
}

/// An empty table of owners.
fn no_owners() -> Vec<Option<Arc<Node>>> {
    vec![None; usize::from(SLOTS)]
}

/// Waits a moment for a slot on the move, if there is one left.
async fn wait_for_slot(until: Instant, text: &str) -> Result<(), Fault> {
    let now = Instant::now();
    match now.checked_add(SLOT_PAUSE) {
        Some(next) if next < until => {
            sleep_until(next).await;
            Ok(())
        }
        _ => Err(Fault::Down(format!(
            "the team's slot is being moved: {text}"
        ))),
    }
}
