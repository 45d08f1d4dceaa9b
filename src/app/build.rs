//! From a configuration to the parts that serve by it.
//!
//! A reload keeps a part whose block did not change: a ledger keeps its
//! connection, an upstream its pool and health. Everything else is cheap and
//! made anew.

mod acceptor;
mod holds;
mod keeping;
mod ledger;
pub mod outside;
pub mod payers;
pub mod tokens;
mod watching;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora_core::listeners::tls::Acceptor;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::billing::admission::Rule;
use crate::billing::trigger::Trigger;
use crate::config::pattern::StartPattern;
use crate::config::values::HeaderText;
use crate::config::{self, Config};
use crate::edge::forward;
use crate::edge::identify::Identities;
use crate::edge::live::{Enforcement, Holding, Limits, Live, StartRoute, TriggerFrom};
use crate::edge::problem::style::Style;
use crate::edge::route::Table;
use crate::edge::secret::SecretPaths;
use crate::edge::upstreams::Upstreams;
use crate::events::Writer;
use crate::keeper::{Keeper, Worker};
use crate::ledger::Ledger;
use crate::ledger::holds::Holds;
use crate::ledger::memory::MemoryLedger;
use crate::ledger::redis::{RedisLedger, SettingsError};
use crate::notices;
use crate::telemetry::Metrics;

pub use acceptor::acceptor;
pub use holds::{conflict, terms};
pub use keeping::{Lost, Streams};
pub use ledger::{ledger, redis_settings};
pub use outside::{FLUSH_MAX as NOTICES_FLUSH_MAX, Outside};
pub use tokens::{Issuers, Refreshers};

/// How long a ledger or a name server may take to be reached before serving
/// begins without it.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// Why a part cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The ledger's settings.
    #[error("balances.redis: {0}")]
    Ledger(#[from] SettingsError),
    /// The upstream's TLS files.
    #[error("upstream.tls: {0}")]
    Upstream(#[from] crate::edge::upstreams::TlsFileError),
    /// The public side's TLS files.
    #[error("server.tls: {0}")]
    Tls(String),
    /// The keys of a token issuer.
    #[error("{0}")]
    Keys(String),
    /// How requests of our own leave.
    #[error("egress: {0}")]
    Egress(#[from] crate::egress::SettingsError),
}

/// The parts of a configuration that have work in the background.
#[derive(Clone)]
pub struct Shared {
    /// The ledger.
    pub ledger: LedgerPart,
    /// Where events go.
    pub streams: Streams,
    /// What speaks with the world outside.
    pub outside: Outside,
    /// Hold mode: the same ledger, and what looks after its holds.
    pub holding: Option<Holding>,
    /// The upstream's addresses.
    pub upstreams: Arc<Upstreams>,
    /// The keys of token issuers.
    pub issuers: Issuers,
    /// Whether an outage of the ledger leaves the gateway ready.
    pub ready_in_outage: bool,
    /// Events dropped, through all reloads.
    pub lost: Lost,
    /// The acceptor of the HTTPS listeners.
    pub acceptor: Option<Arc<ArcSwap<Acceptor>>>,
}

impl Shared {
    /// Puts what looks after holds in place; the worker is to be run.
    fn keep(&mut self, config: &Config, metrics: &Metrics, before: &Keeper) -> Option<Worker> {
        let (holding, worker) = keeping::keeper(config, self, metrics, before).unzip();
        self.holding = holding;
        worker
    }
}

/// The ledger, by what it is made of.
#[derive(Clone)]
pub enum LedgerPart {
    /// In this process.
    Memory(Arc<MemoryLedger>),
    /// In Redis.
    Redis(Arc<RedisLedger>),
}

impl LedgerPart {
    /// The ledger as requests see it.
    #[must_use]
    pub fn ledger(&self) -> Arc<dyn Ledger> {
        match self {
            LedgerPart::Memory(ledger) => Arc::<MemoryLedger>::clone(ledger),
            LedgerPart::Redis(ledger) => Arc::<RedisLedger>::clone(ledger),
        }
    }

    /// The ledger where it sets credits aside.
    #[must_use]
    pub fn holds(&self) -> Arc<dyn Holds> {
        match self {
            LedgerPart::Memory(ledger) => Arc::<MemoryLedger>::clone(ledger),
            LedgerPart::Redis(ledger) => Arc::<RedisLedger>::clone(ledger),
        }
    }
}

/// Newly built parts whose work in the background has not begun.
#[derive(Default)]
pub struct Fresh {
    ledger: Option<LedgerPart>,
    upstreams: Option<Arc<Upstreams>>,
    refreshers: Refreshers,
    writer: Option<Writer>,
    worker: Option<Worker>,
    notices: Option<notices::Worker>,
    /// What looked after the holds of a ledger that is left.
    retired: Keeper,
    /// How long to wait for the ledger.
    settle: Duration,
}

impl Fresh {
    /// Begins it on the runtime that serves, and gives it a moment to get
    /// somewhere, so that the first request finds a ledger and an upstream.
    pub async fn begin(self, runtime: &Handle, ended: watch::Receiver<bool>) {
        if let Some(LedgerPart::Redis(ledger)) = &self.ledger {
            runtime.spawn(ledger.run());
            watching::begin(ledger);
        }
        if let Some(upstreams) = self.upstreams {
            let work = upstreams.run();
            let found = runtime.spawn(async move { upstreams.find_addresses().await });
            // Whether they were found in time or not, the work goes on.
            drop(timeout(SETTLE_MAX, found).await);
            runtime.spawn(work);
        }
        self.refreshers.begin(runtime, SETTLE_MAX).await;
        if let Some(LedgerPart::Redis(ledger)) = &self.ledger {
            ledger.settled(self.settle).await;
        }
        self.retired.retire();
        if let Some(notices) = self.notices {
            let sent = notices.run(over(ended.clone()), NOTICES_FLUSH_MAX);
            runtime.spawn(awaited(&ended, sent));
        }
        let worker = self.worker.map(|worker| {
            let done = worker.run(over(ended.clone()), FLUSH_MAX);
            runtime.spawn(awaited(&ended, done))
        });
        if let Some(writer) = self.writer {
            // The worker tells events up to its end.
            let told = over(ended.clone());
            let told = async move {
                told.await;
                if let Some(worker) = worker {
                    // An error says that it panicked, which is an end too.
                    let _ = worker.await;
                }
            };
            runtime.spawn(awaited(&ended, writer.run(told, FLUSH_MAX)));
        }
    }
}

/// Work that the end of the gateway waits for, for a bounded time: it waits
/// for whoever holds one of these.
fn awaited<W: Future>(ended: &watch::Receiver<bool>, work: W) -> impl Future<Output = ()> + use<W> {
    let held = ended.clone();
    async move {
        work.await;
        drop(held);
    }
}

/// Waits for the end of the gateway.
async fn over(mut ended: watch::Receiver<bool>) {
    // An error says that the gateway is gone, which is the end too.
    let _ = ended.wait_for(|ended| *ended).await;
}

/// Builds everything.
///
/// # Errors
/// What cannot be built.
pub fn build(config: &Config, metrics: &Metrics) -> Result<(Shared, Fresh), BuildError> {
    let lost = Lost::default();
    let ledger = ledger(config)?;
    let (streams, writer) = keeping::streams(config, &lost)?;
    let (outside, notices) = outside::outside(config, &ledger, metrics)?;
    let upstreams = Arc::new(Upstreams::new(&config.upstream)?);
    let acceptor = match &config.server.tls {
        None => None,
        Some(tls) => Some(Arc::new(ArcSwap::from_pointee(acceptor(tls)?))),
    };
    let (issuers, refreshers) = tokens::issuers(config, &outside.egress, metrics, None)?;
    let mut shared = Shared {
        ledger,
        streams,
        outside,
        holding: None,
        upstreams,
        issuers,
        ready_in_outage: ready_in_outage(config),
        lost,
        acceptor,
    };
    let worker = shared.keep(config, metrics, &Keeper::default());
    let fresh = Fresh {
        ledger: Some(shared.ledger.clone()),
        upstreams: Some(Arc::clone(&shared.upstreams)),
        refreshers,
        writer,
        worker,
        notices: Some(notices),
        retired: Keeper::default(),
        // Requests wait meanwhile, so no longer than they would for a reply.
        settle: config
            .balances
            .redis
            .as_ref()
            .map_or(Duration::ZERO, |redis| redis.deadline.duration()),
    };
    Ok((shared, fresh))
}

/// Builds what changed and keeps the rest.
///
/// # Errors
/// What cannot be built; nothing was changed then.
pub fn rebuild(
    old: &Config,
    new: &Config,
    shared: &Shared,
    metrics: &Metrics,
) -> Result<(Shared, Fresh), BuildError> {
    let mut next = shared.clone();
    next.ready_in_outage = ready_in_outage(new);
    let mut fresh = Fresh {
        // The old parts serve meanwhile.
        settle: SETTLE_MAX,
        ..Fresh::default()
    };
    // Redis holds what API keys stand for, and certificate files may have
    // changed under names that did not.
    let redis_moved = new.balances.redis.as_ref().is_some_and(|redis| {
        old.identity != new.identity || redis.ca.is_some() || redis.cert.is_some()
    });
    let moved = old.balances != new.balances
        || terms(old) != terms(new)
        || old.admission.remember_refusals != new.admission.remember_refusals
        || redis_moved;
    if moved {
        next.ledger = ledger(new)?;
        fresh.ledger = Some(next.ledger.clone());
    }
    next.outside.egress = outside::egress(old, new, &shared.outside.egress)?;
    let streams_changed = moved || old.refusals != new.refusals || old.events != new.events;
    if streams_changed {
        let (streams, writer) = keeping::streams(new, &shared.lost)?;
        next.streams = streams;
        fresh.writer = writer;
    }
    if streams_changed || keeping::settings(old) != keeping::settings(new) {
        let before = shared.holding.as_ref().map(|holding| &holding.keeper);
        let before = before.cloned().unwrap_or_default();
        // The same credits, perhaps on a connection of its own.
        let same_holds = old.balances == new.balances && terms(old) == terms(new);
        if same_holds {
            fresh.worker = next.keep(new, metrics, &before);
        } else {
            fresh.worker = next.keep(new, metrics, &Keeper::default());
            fresh.retired = before;
        }
    }
    if old.upstream != new.upstream || new.upstream.tls.is_some() {
        next.upstreams = Arc::new(Upstreams::new(&new.upstream)?);
        fresh.upstreams = Some(Arc::clone(&next.upstreams));
    }
    let (egress, before) = (&next.outside.egress, Some((old, shared)));
    (next.issuers, fresh.refreshers) = tokens::issuers(new, egress, metrics, before)?;
    if let (Some(tls), Some(swap)) = (&new.server.tls, &next.acceptor) {
        swap.store(Arc::new(acceptor(tls)?));
    }
    // Nothing fails from here on.
    outside::take_over(&next);
    Ok((next, fresh))
}

/// Puts together what a request needs of the configuration.
#[must_use]
pub fn live(config: &Config, metrics: &Metrics, shared: &Shared) -> Live {
    let limits = &config.server.limits;
    Live {
        table: Table::new(config.starts().map(|(pattern, _)| pattern)),
        starts: config
            .starts()
            .map(|(pattern, route)| start_route(config, pattern, route, metrics))
            .collect(),
        runs: holds::runs(config),
        holding: shared.holding.clone(),
        secrets: SecretPaths::new(&config.routes),
        identities: Identities::new(&config.identity, &shared.issuers.keyrings()),
        ledger: shared.ledger.ledger(),
        refused: shared.ledger.refused(),
        refusals: shared.streams.refusals.clone(),
        notices: shared.outside.notices.clone(),
        remember: config.admission.remember.duration(),
        style: Style::new(&config.problem),
        upstreams: Arc::clone(&shared.upstreams),
        forward: forward::Settings {
            trusted_proxies: config.server.trusted_proxies.clone(),
            host: config
                .upstream
                .host
                .as_ref()
                .map(|host| host.as_str().to_owned()),
        },
        limits: Limits {
            requests: limits.requests.get(),
            header_size: limits.header_size.bytes().try_into().unwrap_or(usize::MAX),
            body_timeout: limits.body_timeout.duration(),
            write_timeout: limits.write_timeout.duration(),
        },
    }
}

/// A start route, ready for use.
#[must_use]
pub fn start_route(
    config: &Config,
    pattern: &StartPattern,
    route: &config::Route,
    metrics: &Metrics,
) -> StartRoute {
    let name = pattern.to_string();
    let enforced = route.enforce.unwrap_or(config.admission.enforce);
    let trigger_from = trigger_from(config, route);
    let said = trigger_from.iter().flat_map(TriggerFrom::triggers);
    let mut triggers: Vec<Trigger> = said.chain([route.trigger().into()]).collect();
    triggers.sort_unstable_by_key(|trigger| trigger.name());
    triggers.dedup();
    StartRoute {
        metrics: metrics.route(&name, &triggers),
        name: name.into(),
        trigger: route.trigger().into(),
        rule: Rule {
            refuse_at_or_below: config.balances.refuse_at_or_below.credits(),
            missing: config.balances.missing.into(),
            on_outage: route.on_outage.unwrap_or(config.admission.on_outage).into(),
        },
        enforcement: if enforced {
            Enforcement::Enforced
        } else {
            Enforcement::Shadow
        },
        hold: holds::rule(config, route),
        paid_by: payers::paid_by(pattern, route),
        trigger_from,
        max_body: payers::max_body(route),
        read_timeout: route.read_timeout.map(|span| span.duration()),
    }
}

/// Who is believed when they say what set a run off: the route's own, else
/// everybody's.
fn trigger_from(config: &Config, route: &config::Route) -> Option<TriggerFrom> {
    let general = config.admission.trigger_from.as_ref();
    let configured = route.trigger_from.as_ref().or(general)?;
    let meaning = |(value, trigger): (&HeaderText, &config::Trigger)| {
        (value.as_str().to_owned(), (*trigger).into())
    };
    Some(TriggerFrom {
        name: configured.header.name().clone(),
        from: configured.from.clone(),
        map: configured.map.iter().map(meaning).collect(),
    })
}

fn ready_in_outage(config: &Config) -> bool {
    let admin = config.server.admin.as_ref();
    admin.is_some_and(|admin| admin.ready_in_outage)
}

/// Where an operator's `tollgate ready` finds the admin listener.
#[must_use]
pub fn admin_address(config: &Config) -> Option<SocketAddr> {
    config
        .server
        .admin
        .as_ref()
        .map(|admin| admin.listen.addr())
}

/// How long what the keeper has to do, and then what the streams are to be
/// told, may take at the end.
pub const FLUSH_MAX: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::load_str;

    const DEMO: &str = include_str!("../../config/demo.yaml");

    fn config(admission: &str) -> Config {
        let text = format!("{DEMO}admission: {{{admission}}}\n");
        load_str("demo.yaml", &text, &|_| None).unwrap()
    }

    /// Whether a reload from one to the other makes a new ledger.
    fn makes_a_ledger(old: &Config, new: &Config) -> bool {
        let (shared, _) = build(old, &Metrics::new().unwrap()).unwrap();
        let (next, fresh) = rebuild(old, new, &shared, &Metrics::new().unwrap()).unwrap();
        let kept = Arc::ptr_eq(&shared.ledger.ledger(), &next.ledger.ledger());
        assert_eq!(fresh.ledger.is_none(), kept);
        !kept
    }

    #[test]
    fn a_reload_makes_a_ledger_where_its_terms_change_and_only_there() {
        let lookup = config("mode: lookup, remember: 24h");
        let hold = config("mode: hold, hold: 20, hold_for: 30m");
        let longer = config("mode: hold, hold: 20, hold_for: 30m, remember: 48h");
        let dearer = config("mode: hold, hold: 50, hold_for: 1h");
        assert!(makes_a_ledger(&lookup, &hold));
        assert!(makes_a_ledger(&hold, &lookup));
        assert!(makes_a_ledger(&hold, &longer));
        assert!(!makes_a_ledger(&hold, &dearer));
        assert!(!makes_a_ledger(&hold, &hold));
        let mut other_proxy = hold.clone();
        other_proxy.identity.pop();
        assert!(!makes_a_ledger(&hold, &other_proxy));
        assert!(!makes_a_ledger(
            &lookup,
            &config("mode: lookup, remember: 48h")
        ));
    }
}
