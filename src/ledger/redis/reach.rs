//! [`Reach`]: how a ledger reaches its balances, on one server at a time or
//! spread over a cluster. Whoever asks need not know which.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use redis::{Cmd, Value};
use tokio::sync::watch;
use tokio::time::Instant;

use super::cluster::{Cluster, Sent};
use super::fault::{Fault, Lasting};
use super::keys::Filled;
use super::link::{Form, Link};
use super::place::Place;
use super::prepare::Preparation;
use super::question::Question;
use super::slots::slot_of;
use super::supervisor::{Core, State};
use super::{RedisSettings, Servers, SettingsError};
use crate::ledger::Health;
use crate::ledger::refused::Refused;

/// How a ledger reaches its balances.
#[derive(Clone, Debug)]
pub(super) enum Reach {
    /// One server at a time.
    One(Arc<Core>),
    /// The masters of a cluster.
    Many(Arc<Cluster>),
}

/// Whether a command only reads. With a canary, what reads is answered only
/// while the canary is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It changes nothing.
    Read,
    /// It may change something.
    Write,
}

/// One server, and the connection to it that requests use.
#[derive(Debug)]
pub(super) struct Master {
    core: Arc<Core>,
    link: Arc<Link>,
}

impl Master {
    /// Sends this server a command that no request sends, wherever the
    /// command's key may be. How it fares says nothing about requests: a user
    /// that may not do this may well do what they need.
    pub(super) async fn ask<T>(
        &self,
        command: &Cmd,
        until: Instant,
        shape: impl FnOnce(Value) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let outcome = self.core.within(until, self.link.ask(command)).await;
        outcome.and_then(shape)
    }
}

impl Reach {
    /// Reads the certificate files, opens no socket. `sample` is a read like
    /// those that requests make.
    pub(super) fn new(
        settings: &RedisSettings,
        sample: Cmd,
        holds: Option<Arc<Preparation>>,
    ) -> Result<Self, SettingsError> {
        if let Servers::Cluster(nodes) = &settings.servers {
            let cluster = Cluster::new(settings, nodes, sample, holds)?;
            return Ok(Reach::Many(Arc::new(cluster)));
        }
        let Some(place) = Place::new(settings)? else {
            return Err(SettingsError::Servers("no server is named".to_owned()));
        };
        let canary = settings.keys.canary.as_ref().map(|key| {
            let mut exists = redis::cmd("EXISTS");
            exists.arg(key);
            exists
        });
        Ok(Reach::One(Arc::new(Core {
            place,
            deadline: settings.deadline,
            connect_timeout: settings.connect_timeout,
            faults_max: settings.breaker_failures.max(1),
            // A timer of zero length would panic.
            probe_interval: settings.probe_interval.max(Duration::from_millis(1)),
            sample,
            canary,
            holds,
            state: ArcSwap::from_pointee(State::Opening),
            changes: watch::Sender::new(()),
        })))
    }

    /// Connects in the current runtime, once. The error is a sentence for
    /// people.
    pub(super) async fn connect_once(&self) -> Result<(), String> {
        match self {
            Reach::One(core) => {
                let link = core.place.open(0, core.connect_timeout).await?;
                core.ping(&link, core.until())
                    .await
                    .map_err(|fault| core.explain(&fault))?;
                core.prepare(&link).await?;
                core.publish(&Arc::new(link));
                Ok(())
            }
            Reach::Many(cluster) => cluster.connect_once().await,
        }
    }

    /// Connects, and keeps connected for ever.
    pub(super) async fn keep_up(self) {
        match self {
            Reach::One(core) => core.keep_up().await,
            Reach::Many(cluster) => cluster.keep_up().await,
        }
    }

    /// Asks for something where its key is, and draws the conclusions for the
    /// breaker. `shape` takes a reply that the command can have, and nothing
    /// else.
    pub(super) async fn ask<T>(
        &self,
        kind: Kind,
        question: Question,
        until: Instant,
        shape: impl FnOnce(Value) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let core = match self {
            Reach::One(core) => core,
            Reach::Many(cluster) => {
                let slot = slot_of(question.key());
                let make = |_: &Link, _| question.clone();
                let shape = |_: &Link, _, reply| shape(reply);
                return cluster.ask(slot, until, make, shape).await;
            }
        };
        let link = core.link()?;
        link.mark_used();
        let outcome = match kind {
            Kind::Read => core.read(&link, &question, until).await,
            Kind::Write => link.pose(&question, Lasting::FromNowOn, until).await,
        };
        core.conclude(&link, outcome.map_err(Fault::of_one_server).and_then(shape))
    }

    /// Runs a script where this key is, which is one of its keys: all of them
    /// are in one slot. `make` makes the command for the link that it goes over; `shape` takes the
    /// moment when it was sent and a reply that the script can have.
    pub(super) async fn call<T>(
        &self,
        key: Filled<'_>,
        until: Instant,
        make: impl Fn(&Link, Form) -> Cmd,
        shape: impl FnOnce(&Link, Sent, Value) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let make = |link: &Link, form| Question::One(make(link, form));
        let core = match self {
            Reach::One(core) => core,
            Reach::Many(cluster) => {
                let slot = slot_of(key.to_string().as_bytes());
                return cluster.ask(slot, until, make, shape).await;
            }
        };
        let link = core.link()?;
        link.mark_used();
        let outcome = link.exchange(&make, Lasting::FromNowOn, until).await;
        let outcome = outcome.map_err(Fault::of_one_server);
        let outcome = outcome.and_then(|(sent, reply)| shape(&link, sent, reply));
        core.conclude(&link, outcome)
    }

    /// Every server that holds a part of the balances, if all of them can be
    /// asked.
    pub(super) async fn masters(&self, until: Instant) -> Result<Vec<Master>, Fault> {
        let links = match self {
            Reach::One(core) => vec![(Arc::clone(core), core.link()?)],
            Reach::Many(cluster) => cluster.links(until).await?,
        };
        let master = |(core, link)| Master { core, link };
        Ok(links.into_iter().map(master).collect())
    }

    /// Every server that holds a part of the balances.
    pub(super) fn cores(&self) -> Vec<Arc<Core>> {
        match self {
            Reach::One(core) => vec![Arc::clone(core)],
            Reach::Many(cluster) => cluster.cores(),
        }
    }

    /// The server that holds this key, as far as is known.
    pub(super) fn core_of(&self, key: &[u8]) -> Option<Arc<Core>> {
        match self {
            Reach::One(core) => Some(Arc::clone(core)),
            Reach::Many(cluster) => cluster.core_of(key),
        }
    }

    /// Forgets all that is remembered of teams whenever other servers hold their
    /// balances. Of one server, whoever listens to it knows.
    pub(super) fn forget_in(&self, memory: &Arc<Refused>) {
        match self {
            Reach::One(_) => {}
            Reach::Many(cluster) => cluster.forget_in(memory),
        }
    }

    /// A fault in words.
    pub(super) fn explain(&self, fault: &Fault) -> String {
        match (self, fault) {
            (Reach::One(core), fault) => core.explain(fault),
            (Reach::Many(cluster), Fault::Silent) => {
                format!("redis did not reply within {:?}", cluster.deadline)
            }
            (Reach::Many(_), fault) => fault.to_string(),
        }
    }

    /// Why holds cannot be kept here, as last found.
    pub(super) fn schema_conflict(&self) -> Option<String> {
        match self {
            Reach::One(core) => core.holds.as_ref()?.conflict(),
            Reach::Many(cluster) => cluster.schema_conflict(),
        }
    }

    /// The longest that one attempt to connect takes.
    pub(super) fn connect_timeout(&self) -> Duration {
        match self {
            Reach::One(core) => core.connect_timeout,
            Reach::Many(cluster) => cluster.connect_timeout,
        }
    }

    /// When a call that begins now has to be over.
    pub(super) fn until(&self) -> Instant {
        match self {
            Reach::One(core) => core.until(),
            Reach::Many(cluster) => cluster.until(),
        }
    }

    /// Told when the health may have changed.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        match self {
            Reach::One(core) => core.changes.subscribe(),
            Reach::Many(cluster) => cluster.changes.subscribe(),
        }
    }

    /// Whether balances can be asked for.
    pub(super) fn health(&self) -> Health {
        match self {
            Reach::One(core) => match core.link() {
                Ok(_) => Health::Up,
                Err(fault) => Health::Down(fault.to_string()),
            },
            Reach::Many(cluster) => cluster.health(),
        }
    }

    /// Whether every balance can be asked for.
    pub(super) fn is_whole(&self) -> bool {
        match self {
            Reach::One(_) => self.health() == Health::Up,
            Reach::Many(cluster) => cluster.is_whole(),
        }
    }
}
