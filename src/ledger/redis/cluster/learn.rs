//! Learning which master serves which slot, from whichever node answers first.
//!
//! No request waits for this, and no node is waited for longer than one
//! attempt. An answer that is old heals by itself: the node that it names sends
//! the next request on.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{Cluster, Map, Node, no_owners};
use crate::ledger::redis::link::Link;
use crate::ledger::redis::slots::{MASTERS_MAX, Range, read_slots};
use crate::ledger::redis::transport::{Target, address_text};

/// How often the map is learnt when nobody complains of it.
const REFRESH_EVERY: Duration = Duration::from_secs(10);

/// The pause after learning, however many complain meanwhile.
const REFRESH_PAUSE: Duration = Duration::from_millis(20);

/// How many connected nodes are asked for the map at a time.
const ASKED_AT_ONCE: usize = 3;

impl Cluster {
    /// Learns the map again and again.
    pub(super) async fn keep_learning(&self) {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let learnt = match self.learn().await {
                Ok(ranges) => self.install(&ranges),
                Err(why) => Err(why),
            };
            let is_fine = learnt.is_ok();
            if let Err(why) = learnt {
                self.note_unknown(why);
            }
            sleep(REFRESH_PAUSE).await;
            // A master that is away may be replaced at any moment, and nobody
            // says so.
            let pause = match is_fine && self.is_whole() {
                true => REFRESH_EVERY,
                false => self.probe_interval,
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.stale.notified() => {}
                // A node went or came.
                _ = changes.changed() => {}
            }
        }
    }

    /// Asks connected masters, or else the configured nodes.
    pub(super) async fn learn(&self) -> Result<Vec<Range>, String> {
        let mut asking = JoinSet::new();
        let patience = self.connect_timeout;
        let mut connected = self.masters();
        connected.retain(|node| node.core.link().is_ok());
        let start = rand::random_range(0..connected.len().max(1));
        connected.rotate_left(start);
        for node in connected.into_iter().take(ASKED_AT_ONCE) {
            asking.spawn(async move { ask_node(&node, patience).await });
        }
        let found = first_of(&mut asking).await;
        if found.is_ok() {
            return found;
        }
        for seed in &self.seeds {
            let seed = seed.clone();
            asking.spawn(async move { ask_seed(&seed, patience).await });
        }
        first_of(&mut asking).await
    }

    /// Puts a map in the place of the one before. A node that somebody was sent
    /// to in the meantime stays in it.
    pub(super) fn install(&self, ranges: &[Range]) -> Result<(), String> {
        let mut before = self.map.load_full();
        loop {
            let map = Arc::new(self.merge(ranges, &before)?);
            let masters = map.masters().len();
            let has_changed = !is_same(&map, &before);
            let found = self.map.compare_and_swap(&before, map);
            if !Arc::ptr_eq(&found, &before) {
                before = Arc::clone(&found);
                continue;
            }
            self.arrivals.notify_one();
            if has_changed {
                self.forget_refusals();
                self.changes.send_replace(());
                tracing::info!(masters, "the cluster's slots are known");
            }
            return Ok(());
        }
    }

    /// The map that these ranges make, with the nodes there are.
    fn merge(&self, ranges: &[Range], before: &Map) -> Result<Map, String> {
        let mut map = Map {
            owners: no_owners(),
            ..Map::default()
        };
        for range in ranges {
            let name = address_text(&range.host, range.port);
            let known = map
                .nodes
                .get(name.as_str())
                .or_else(|| before.nodes.get(name.as_str()));
            let node = match known {
                Some(node) => Arc::clone(node),
                None if map.nodes.len() < MASTERS_MAX => self.node(&range.host, range.port)?,
                None => return Err("the cluster names too many masters".to_owned()),
            };
            let slots = usize::from(range.first)..=usize::from(range.last);
            for owner in map.owners.get_mut(slots).into_iter().flatten() {
                *owner = Some(Arc::clone(&node));
            }
            node.mention();
            map.nodes.insert(Arc::clone(&node.name), node);
        }
        for (name, node) in &before.nodes {
            if !node.is_forgotten() {
                map.nodes
                    .entry(Arc::clone(name))
                    .or_insert_with(|| Arc::clone(node));
            }
        }
        Ok(map)
    }

    /// Keeps the map there is, and the reason if there is none.
    fn note_unknown(&self, why: String) {
        let before = self.map.load();
        if before.why.as_ref() == Some(&why) {
            return;
        }
        tracing::warn!(reason = why, "the cluster's slots cannot be learnt");
        self.map.rcu(|map| Map {
            why: Some(why.clone()),
            ..Map::clone(map)
        });
        self.changes.send_replace(());
    }
}

/// Whether both send every slot to the same node.
fn is_same(one: &Map, other: &Map) -> bool {
    one.owners.len() == other.owners.len()
        && one.owners.iter().zip(&other.owners).all(|pair| match pair {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        })
}

/// The first map that comes, or a reason why none did.
async fn first_of(asking: &mut JoinSet<Result<Vec<Range>, String>>) -> Result<Vec<Range>, String> {
    let mut why = "no node of the cluster is connected".to_owned();
    while let Some(answer) = asking.join_next().await {
        match answer {
            Ok(Ok(ranges)) => {
                // The others are not needed, nor their connections.
                asking.abort_all();
                return Ok(ranges);
            }
            Ok(Err(reason)) => why = reason,
            Err(panic) => why = panic.to_string(),
        }
    }
    Err(why)
}

/// Asks a node over the connection that its requests use.
async fn ask_node(node: &Node, patience: Duration) -> Result<Vec<Range>, String> {
    let link = node.core.link().map_err(|fault| fault.to_string())?;
    ask_link(&link, &node.host, patience).await
}

/// Asks a configured node over a connection of its own.
async fn ask_seed(seed: &Target, patience: Duration) -> Result<Vec<Range>, String> {
    let Some(host) = seed.host() else {
        return Err("a node of a cluster has a network address".to_owned());
    };
    let link = Link::open(seed, 0, patience).await?;
    ask_link(&link, host, patience).await
}

async fn ask_link(link: &Link, host: &str, patience: Duration) -> Result<Vec<Range>, String> {
    let mut command = redis::cmd("CLUSTER");
    command.arg("SLOTS");
    let reply: Value = match timeout(patience, link.ask(&command)).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(fault)) => return Err(format!("{}: {fault}", link.at())),
        Err(_) => return Err(format!("{} does not say who serves what", link.at())),
    };
    match read_slots(reply, host) {
        Some(ranges) if ranges.is_empty() => Err(format!(
            "{} knows no master that serves anything",
            link.at()
        )),
        Some(ranges) => Ok(ranges),
        None => Err(format!(
            "{} does not talk like a node of a cluster",
            link.at()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::billing::admission::Refusal;
    use crate::billing::team::TeamId;
    use crate::ledger::redis::fault::{Lasting, Redirect};
    use crate::ledger::redis::slots::SLOTS;
    use crate::ledger::redis::{Keys, RedisSettings, Servers};
    use crate::ledger::refused::Refused;

    fn cluster() -> Cluster {
        let nodes = vec!["redis://10.0.0.1:1".to_owned()];
        let settings = RedisSettings {
            servers: Servers::Cluster(nodes.clone()),
            deadline: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            breaker_failures: 3,
            probe_interval: Duration::from_secs(1),
            tls: None,
            holds: None,
            keys: Keys {
                balance: "credits:{<team>}".to_owned(),
                field: None,
                api_key: "apikey:<sha256>".to_owned(),
                canary: None,
            },
        };
        Cluster::new(&settings, &nodes, redis::cmd("PING"), None).expect("settings")
    }

    fn all_at(port: u16) -> Range {
        Range {
            first: 0,
            last: SLOTS - 1,
            host: "10.0.0.1".to_owned(),
            port,
        }
    }

    #[test]
    fn a_node_that_is_heard_of_while_the_map_is_learnt_stays_in_it() {
        let cluster = cluster();
        std::thread::scope(|scope| {
            let learning = scope.spawn(|| {
                for _ in 0..300 {
                    cluster.install(&[all_at(1)]).expect("a map");
                }
            });
            let mut port = 1;
            while !learning.is_finished() && port < 900 {
                port += 1;
                let node = cluster.node_at("10.0.0.1", port).expect("a node");
                let again = cluster.node_at("10.0.0.1", port).expect("a node");
                assert!(Arc::ptr_eq(&node, &again), "node {port} was lost");
            }
        });
    }

    #[test]
    fn whenever_a_slot_has_another_owner_all_that_is_remembered_is_forgotten() {
        let cluster = cluster();
        let refused = Arc::new(Refused::new(Duration::from_secs(600)));
        cluster.forget_in(&refused);
        cluster.install(&[all_at(1)]).expect("a map");
        let team = TeamId::parse(b"broke").expect("a team");
        let voucher = refused.voucher();
        let now = std::time::Instant::now();
        voucher.extend(now + Duration::from_secs(600));
        let remember = || {
            let before = refused.before(&team);
            let refusal = Refusal::InsufficientCredits;
            let until = refused.remember(team.clone(), refusal, before, &voucher);
            assert!(until.is_some());
        };
        let is_remembered = || refused.recall(&team, now).is_some();
        remember();
        cluster.install(&[all_at(1)]).expect("a map");
        assert!(is_remembered(), "nothing has changed");
        let from = cluster.node_at("10.0.0.1", 1).expect("a node");
        let mut redirect = Redirect {
            lasting: Lasting::ThisOnce,
            slot: 7,
            host: "10.0.0.1".to_owned(),
            port: 2,
            text: String::new(),
        };
        cluster.follow(&from, &redirect).expect("a node");
        assert!(is_remembered(), "for once");
        redirect.lasting = Lasting::FromNowOn;
        cluster.follow(&from, &redirect).expect("a node");
        assert!(!is_remembered());
        remember();
        cluster.follow(&from, &redirect).expect("a node");
        assert!(is_remembered(), "it is known");
        cluster.install(&[all_at(3)]).expect("a map");
        assert!(!is_remembered());
    }

    #[test]
    fn a_redirect_to_the_owner_leaves_the_map_as_it_is() {
        let cluster = cluster();
        cluster.install(&[all_at(1)]).expect("a map");
        let from = cluster.node_at("10.0.0.1", 1).expect("a node");
        let redirect = Redirect {
            lasting: Lasting::FromNowOn,
            slot: 7,
            host: "10.0.0.1".to_owned(),
            port: 2,
            text: String::new(),
        };
        cluster.follow(&from, &redirect).expect("a node");
        let map = cluster.map.load_full();
        let node = cluster.follow(&from, &redirect).expect("a node");
        assert!(map.is_owner(7, &node));
        assert!(Arc::ptr_eq(&map, &cluster.map.load_full()));
    }
}
