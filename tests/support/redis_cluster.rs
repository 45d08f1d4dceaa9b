//! A real Redis Cluster for tests: three masters with a replica each, on free
//! ports, whose slots can be moved and whose nodes can be made to fail.
//!
//! The nodes end with the value, as `redis_server` says.

#![allow(dead_code)] // Each test binary uses a part.

use std::time::{Duration, Instant};

use crate::redis_server::{FREE_PORT, RedisServer, Turn};

/// How many masters there are; the replica of master `n` is node `n + MASTERS`
/// until somebody changes that.
pub const MASTERS: usize = 3;

/// After how long a node counts as gone. Shorter, and a busy machine would lose
/// masters that are well.
pub const NODE_TIMEOUT: Duration = Duration::from_millis(2000);

/// How long the cluster may take to agree on something.
pub const AGREED_WITHIN: Duration = Duration::from_secs(30);

/// How many keys are moved at a time.
const KEYS_AT_ONCE: usize = 100;

/// A cluster that ends with this value.
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
    /// Given up after the nodes have ended.
    _turn: Turn,
}

impl RedisCluster {
    /// A cluster that goes on with what is left when a shard is gone.
    pub fn start() -> Self {
        Self::start_with(&["--cluster-require-full-coverage", "no"])
    }

    /// A cluster whose nodes get further arguments.
    pub fn start_with(arguments: &[&str]) -> Self {
        let turn = Turn::wait();
        let nodes = (0..2 * MASTERS).map(|_| node(arguments)).collect();
        let cluster = RedisCluster { nodes, _turn: turn };
        let share = 16_384 / MASTERS;
        for master in 0..MASTERS {
            let last = if master + 1 == MASTERS {
                16_383
            } else {
                (master + 1) * share - 1
            };
            let (first, last) = ((master * share).to_string(), last.to_string());
            cluster.run(master, &["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
        }
        for node in 0..cluster.nodes.len() {
            // Fresh nodes would have to find out whose word counts.
            cluster.run(
                node,
                &["CLUSTER", "SET-CONFIG-EPOCH", &(node + 1).to_string()],
            );
        }
        let bus = bus_port(&cluster.nodes[0]);
        let port = cluster.nodes[0].port.to_string();
        for node in 1..cluster.nodes.len() {
            cluster.run(node, &["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
        }
        cluster.wait_for("every node knows the others", |cluster| {
            (0..cluster.nodes.len()).all(|node| {
                let known = cluster.text(node, &["CLUSTER", "NODES"]);
                known.lines().count() == cluster.nodes.len() && !known.contains("handshake")
            })
        });
        for master in 0..MASTERS {
            let id = cluster.id(master);
            cluster.run(master + MASTERS, &["CLUSTER", "REPLICATE", &id]);
        }
        cluster.is_well_again();
        cluster
    }

    /// Waits until every slot is served and every replica follows.
    pub fn is_well_again(&self) {
        self.wait_for("the cluster is well", |cluster| {
            (0..cluster.nodes.len()).all(|node| {
                let info = cluster.text(node, &["CLUSTER", "INFO"]);
                let replication = cluster.text(node, &["INFO", "replication"]);
                let follows = replication.contains("role:master")
                    || replication.contains("master_link_status:up");
                let slots = cluster.text(node, &["CLUSTER", "NODES"]);
                info.contains("cluster_state:ok")
                    && info.contains("cluster_slots_ok:16384")
                    && !slots.contains("fail")
                    && slots.matches("master").count() == MASTERS
                    && follows
            })
        });
    }

    /// `redis://127.0.0.1:PORT` of the first so many nodes.
    pub fn urls(&self, count: usize) -> Vec<String> {
        self.nodes
            .iter()
            .take(count)
            .map(RedisServer::url)
            .collect()
    }

    pub fn node(&self, node: usize) -> &RedisServer {
        &self.nodes[node]
    }

    /// Ends a node at once.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].stop();
    }

    /// Starts a node again after [`RedisCluster::kill`]. It knows who it was.
    pub fn restart(&mut self, node: usize) {
        self.nodes[node].restart();
    }

    /// Runs a command on one node.
    pub fn run(&self, node: usize, arguments: &[&str]) -> redis::Value {
        self.nodes[node].command(arguments)
    }

    /// Runs a command on one node that answers with text.
    pub fn text(&self, node: usize, arguments: &[&str]) -> String {
        redis::from_redis_value(self.run(node, arguments)).expect("a text")
    }

    fn id(&self, node: usize) -> String {
        self.text(node, &["CLUSTER", "MYID"])
    }

    /// The slot of a key.
    pub fn slot_of(&self, key: &str) -> u16 {
        let live = self.nodes.iter().find(|node| node.admin().is_some());
        let slot = live.expect("a node").command(&["CLUSTER", "KEYSLOT", key]);
        redis::from_redis_value(slot).expect("a slot")
    }

    /// Which node serves a slot, as the nodes that are there see it.
    pub fn owner(&self, slot: u16) -> usize {
        for (at, node) in self.nodes.iter().enumerate() {
            let Some(mut connection) = node.admin() else {
                continue;
            };
            let myself: String = redis::cmd("CLUSTER")
                .arg("NODES")
                .query(&mut connection)
                .expect("a text");
            let line = myself
                .lines()
                .find(|line| line.contains("myself"))
                .expect("itself");
            if line.contains("master") && serves(line, slot) {
                return at;
            }
        }
        panic!("nobody serves slot {slot}");
    }

    /// Runs a command where its key is.
    pub fn at_owner(&self, key: &str, arguments: &[&str]) -> redis::Value {
        self.run(self.owner(self.slot_of(key)), arguments)
    }

    /// Writes a balance where it belongs.
    pub fn set_balance(&self, team: &str, credits: &str) {
        let key = format!("credits:{{{team}}}");
        self.at_owner(&key, &["SET", &key, credits]);
    }

    /// Begins to move a slot: keys may be in either place from now on.
    pub fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let (slot, from_id, to_id) = (slot.to_string(), self.id(from), self.id(to));
        self.run(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
        self.run(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
    }

    /// Moves every key of a slot.
    pub fn move_keys(&self, slot: u16, from: usize, to: usize) {
        let (slot, port) = (slot.to_string(), self.nodes[to].port.to_string());
        let count = KEYS_AT_ONCE.to_string();
        loop {
            let keys = self.run(from, &["CLUSTER", "GETKEYSINSLOT", &slot, &count]);
            let keys: Vec<String> = redis::from_redis_value(keys).expect("keys");
            if keys.is_empty() {
                return;
            }
            for key in keys {
                self.run(from, &["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"]);
            }
        }
    }

    /// Tells the masters that a slot has moved.
    pub fn finish_move(&self, slot: u16, from: usize, to: usize) {
        let (slot, id) = (slot.to_string(), self.id(to));
        // The new owner first: the old one would send everybody there.
        for node in [to, from] {
            self.run(node, &["CLUSTER", "SETSLOT", &slot, "NODE", &id]);
        }
    }

    /// Moves a slot with its keys.
    pub fn move_slot(&self, slot: u16, to: usize) {
        let from = self.owner(slot);
        if from != to {
            self.begin_move(slot, from, to);
            self.move_keys(slot, from, to);
            self.finish_move(slot, from, to);
        }
    }

    /// Lets a replica take its master's place, in agreement with it.
    pub fn fail_over_to(&self, replica: usize) {
        self.run(replica, &["CLUSTER", "FAILOVER"]);
        self.wait_for("the replica is a master", |cluster| {
            cluster.is_master(replica)
        });
    }

    /// Waits until a replica has taken its dead master's place.
    pub fn is_replaced_by(&self, replica: usize) {
        self.wait_for("the replica is a master", |cluster| {
            cluster.is_master(replica)
        });
    }

    pub fn is_master(&self, node: usize) -> bool {
        self.text(node, &["INFO", "replication"])
            .contains("role:master")
    }

    fn wait_for(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < AGREED_WITHIN, "not in time: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn node(arguments: &[&str]) -> RedisServer {
    let timeout = NODE_TIMEOUT.as_millis().to_string();
    let mut all = vec![
        "--cluster-enabled",
        "yes",
        "--cluster-node-timeout",
        &timeout,
        "--cluster-replica-validity-factor",
        "0",
        "--repl-diskless-sync-delay",
        "0",
        "--repl-ping-replica-period",
        "1",
    ];
    all.extend(arguments);
    all.extend(["--cluster-port", FREE_PORT]);
    RedisServer::start_with(&all)
}

fn bus_port(node: &RedisServer) -> String {
    let port: Vec<String> =
        redis::from_redis_value(node.command(&["CONFIG", "GET", "cluster-port"])).expect("a list");
    port[1].clone()
}

/// Whether a line of `CLUSTER NODES` names this slot among those served.
fn serves(line: &str, slot: u16) -> bool {
    line.split(' ').skip(8).any(|range| {
        // `[93-<-…]` is one on the move.
        if range.starts_with('[') {
            return false;
        }
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let bounds = (first.parse::<u16>(), last.parse::<u16>());
        matches!(bounds, (Ok(first), Ok(last)) if (first..=last).contains(&slot))
    })
}
