//! [`Courier`]: takes batches of commands to the masters of a cluster, over
//! connections of its own that last as long as they are good.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Pipeline, Value};
use tokio::time::{Instant, timeout_at};

use super::{Cluster, Node};
use crate::ledger::LedgerError;
use crate::ledger::redis::fault::Fault;
use crate::ledger::redis::link::Link;
use crate::ledger::redis::question::Question;
use crate::ledger::redis::slots::{key_of, slot_of};
use crate::ledger::redis::supervisor::from_now;
use crate::ledger::redis::{RedisSettings, SettingsError};

/// Takes batches of commands to a cluster.
#[derive(Debug)]
pub(in crate::ledger::redis) struct Courier {
    cluster: Cluster,
    map: MapState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MapState {
    Good,
    ToBeLearnt,
}

/// Whether anything of a batch may have been carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nothing was sent, or it was only sent on.
    Nothing,
    /// Something was.
    Something,
}

/// The commands for one master, by their places in the batch.
struct Load<'a> {
    node: Arc<Node>,
    commands: Vec<(usize, &'a Cmd)>,
}

impl Courier {
    pub(in crate::ledger::redis) fn new(
        settings: &RedisSettings,
        nodes: &[String],
    ) -> Result<Self, SettingsError> {
        // Only nodes that are kept connected are probed with it in earnest.
        let cluster = Cluster::new(settings, nodes, redis::cmd("PING"), None)?;
        Ok(Courier {
            cluster,
            map: MapState::ToBeLearnt,
        })
    }

    /// Sends a batch. Errors of single commands stand in their places.
    pub(in crate::ledger::redis) async fn send(
        &mut self,
        batch: &Pipeline,
        patience: Duration,
    ) -> Result<Vec<Value>, LedgerError> {
        let until = from_now(patience);
        if self.map == MapState::ToBeLearnt {
            // Whatever was wrong before: begin again.
            self.cluster.forget();
            let learnt = timeout_at(until, self.cluster.learn()).await;
            learnt
                .unwrap_or_else(|_| Err(format!("no node answers within {patience:?}")))
                .and_then(|ranges| self.cluster.install(&ranges))
                .map_err(LedgerError::Outage)?;
        }
        // Good again only if all of it works.
        self.map = MapState::ToBeLearnt;
        let loads = self.loads(batch)?;
        let mut replies = BTreeMap::new();
        let mut is_good = MapState::Good;
        let mut progress = Progress::Nothing;
        for load in loads {
            let outcome = self
                .deliver(&load, until, &mut replies, &mut progress)
                .await;
            is_good = match outcome {
                Ok(MapState::Good) => is_good,
                Ok(MapState::ToBeLearnt) => MapState::ToBeLearnt,
                Err(Fault::Down(why)) if progress == Progress::Nothing => {
                    return Err(LedgerError::Outage(why));
                }
                Err(fault) => return Err(LedgerError::OutcomeUnknown(fault.to_string())),
            };
        }
        self.map = is_good;
        Ok(replies.into_values().collect())
    }

    /// Sorts a batch by the masters that it goes to.
    fn loads<'a>(&self, batch: &'a Pipeline) -> Result<Vec<Load<'a>>, LedgerError> {
        let mut loads: Vec<Load> = Vec::new();
        for (place, command) in batch.cmd_iter().enumerate() {
            let slot = slot_of(key_of(command).unwrap_or_default());
            let node = self.cluster.owner(slot);
            let node = node.map_err(|fault| LedgerError::Outage(fault.to_string()))?;
            match loads.iter_mut().find(|load| Arc::ptr_eq(&load.node, &node)) {
                Some(load) => load.commands.push((place, command)),
                None => loads.push(Load {
                    node,
                    commands: vec![(place, command)],
                }),
            }
        }
        Ok(loads)
    }

    /// Takes one load to its master. What the master sends on is sent on.
    async fn deliver(
        &self,
        load: &Load<'_>,
        until: Instant,
        replies: &mut BTreeMap<usize, Value>,
        progress: &mut Progress,
    ) -> Result<MapState, Fault> {
        let link = self.cluster.link(&load.node, until).await?;
        let mut commands = Pipeline::with_capacity(load.commands.len());
        for (_, command) in &load.commands {
            commands.add_command(Cmd::clone(command));
        }
        let answers = timeout_at(until, link.ask_all(&commands)).await;
        let answers = answers.unwrap_or(Err(Fault::Silent))?;
        let is_sent_on = |answer: &Value| match answer {
            Value::ServerError(error) => matches!(
                Fault::from_server(error),
                Fault::Elsewhere(_) | Fault::Slot(_)
            ),
            _ => false,
        };
        if !answers.iter().all(is_sent_on) {
            *progress = Progress::Something;
        }
        let mut map = MapState::Good;
        for ((place, command), answer) in load.commands.iter().zip(answers) {
            let fault = match &answer {
                Value::ServerError(error) => Some(Fault::from_server(error)),
                _ => None,
            };
            let answer = match fault {
                Some(Fault::Elsewhere(_) | Fault::Slot(_)) => {
                    map = MapState::ToBeLearnt;
                    // It was not carried out, so this is still the first time.
                    let slot = slot_of(key_of(command).unwrap_or_default());
                    let again = |_: &Link, _| Question::One(Cmd::clone(command));
                    let whole = |_: &Link, _, answer| Ok(answer);
                    let answer = self.cluster.ask(slot, until, again, whole).await?;
                    *progress = Progress::Something;
                    answer
                }
                // A server that says such a thing may be one that was demoted,
                // or wants a new introduction.
                Some(_) => {
                    map = MapState::ToBeLearnt;
                    answer
                }
                None => answer,
            };
            replies.insert(*place, answer);
        }
        Ok(map)
    }
}
