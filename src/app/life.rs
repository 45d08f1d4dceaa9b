//! From the first request to the last: start, reload, end.
//!
//! SIGHUP reads the configuration again; SIGTERM ends in order: not ready,
//! still accepting for `lame_duck`, then no more connections, then up to
//! `drain` for the requests in flight, then a moment for what is left to be done
//! about holds, events and notices; SIGINT, or a second SIGTERM, ends at
//! once. SIGQUIT is refused with a warning: Pingora's servers hand their sockets
//! to a new process on it, and that will have its place here.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::build::{self, FLUSH_MAX, Fresh, NOTICES_FLUSH_MAX, Shared};
use super::{Bound, LiveSwap, ServingRuntime};
use crate::config::load;
use crate::config::{Config, reload};
use crate::ledger::Health;
use crate::telemetry::{Metrics, Reload};

/// How often the end looks whether the last request is over.
const DRAIN_LOOK: Duration = Duration::from_millis(10);

/// How long connections get to send the last bytes of their last answer.
const LAST_BYTES: Duration = Duration::from_millis(50);

/// The life of a gateway.
pub struct Life {
    file: Option<PathBuf>,
    live: LiveSwap,
    metrics: Arc<Metrics>,
    bound: Bound,
    runtime: ServingRuntime,
    in_flight: Arc<AtomicUsize>,
    started_with: Config,
    /// The configuration in force and its parts, for the next reload.
    current: Mutex<(Config, Shared)>,
    readiness: Readiness,
    closing: watch::Sender<bool>,
    ended: watch::Sender<bool>,
    stop: watch::Sender<bool>,
}

/// Stops a gateway from inside the process, as SIGTERM does without a lame duck.
#[derive(Clone)]
pub struct Stop(watch::Sender<bool>);

impl Stop {
    /// Stops it.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Life {
    /// The life of a gateway that serves by `config`, read from `file`.
    #[must_use]
    pub fn new(
        file: Option<PathBuf>,
        config: Config,
        shared: Shared,
        live: LiveSwap,
        metrics: Arc<Metrics>,
        bound: Bound,
    ) -> Self {
        let in_flight = Arc::default();
        let readiness = Readiness::new(shared.clone(), Arc::clone(&in_flight));
        Life {
            file,
            live,
            metrics,
            bound,
            runtime: Arc::default(),
            in_flight,
            started_with: config.clone(),
            current: Mutex::new((config, shared)),
            readiness,
            closing: watch::Sender::new(false),
            ended: watch::Sender::new(false),
            stop: watch::Sender::new(false),
        }
    }

    /// Where requests in flight are counted.
    #[must_use]
    pub fn in_flight(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.in_flight)
    }

    /// Turns true when no more connections are accepted.
    #[must_use]
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Turns true when everything is over.
    #[must_use]
    pub fn ended(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }

    /// A way to stop the gateway from inside the process.
    #[must_use]
    pub fn stopper(&self) -> Stop {
        Stop(self.stop.clone())
    }

    /// What `/readyz` asks.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// What has to be done on the serving runtime before it serves.
    #[must_use]
    pub fn started(&self, fresh: Fresh) -> Started {
        Started {
            runtime: Arc::clone(&self.runtime),
            fresh,
            ended: self.ended.subscribe(),
            readiness: self.readiness.clone(),
        }
    }

    /// Reads the configuration again and takes it over, if it has no mistakes.
    async fn reload(&self) {
        let Some(file) = &self.file else {
            tracing::warn!("there is no configuration file to read again");
            return;
        };
        let result = match load::load(file) {
            Err(mistakes) => {
                for mistake in &mistakes {
                    tracing::error!(%mistake, "the configuration has a mistake");
                }
                tracing::error!(mistakes = mistakes.len(), "nothing was changed");
                Reload::Rejected
            }
            Ok(config) => self.take_over(config).await,
        };
        self.metrics.count_reload(result);
    }

    async fn take_over(&self, config: Config) -> Reload {
        let mut current = self.current.lock().await;
        let (old, shared) = &*current;
        if let Some(conflict) = build::conflict(old, &config).await {
            tracing::error!(error = conflict, "nothing was changed");
            return Reload::Rejected;
        }
        // Against what was bound at the start, not what was last read.
        let restart = reload::needs_restart(&self.started_with, &config);
        let (next, fresh) = match build::rebuild(old, &config, shared, &self.metrics) {
            Ok(rebuilt) => rebuilt,
            Err(error) => {
                tracing::error!(%error, "nothing was changed");
                return Reload::Rejected;
            }
        };
        if let Some(runtime) = self.runtime.get() {
            fresh.begin(runtime, self.ended.subscribe()).await;
        }
        let live = build::live(&config, &self.metrics, &next);
        self.live.store(Arc::new(live));
        self.readiness.parts.store(Arc::new(next.clone()));
        if let Health::Down(why) = next.ledger.ledger().health() {
            tracing::warn!(
                reason = why,
                "the ledger does not answer under the new configuration"
            );
        }
        *current = (config, next);
        if restart.is_empty() {
            tracing::info!("the configuration was taken over");
            return Reload::Ok;
        }
        tracing::warn!(
            keys = restart.join(", "),
            "the configuration was taken over, but these keys need a restart"
        );
        Reload::NeedsRestart
    }

    /// Ends in order.
    async fn wind_down(
        &self,
        lame_duck: Duration,
        terminate: &mut Signal,
        interrupt: &mut Signal,
    ) -> ShutdownSignal {
        self.readiness.ending.store(true, Ordering::Relaxed);
        tracing::info!(
            lame_duck_seconds = lame_duck.as_secs_f64(),
            "ending: not ready, still accepting"
        );
        let drain = { self.current.lock().await.0.server.shutdown.drain.duration() };
        let in_order = async {
            tokio::time::sleep(lame_duck).await;
            self.closing.send_replace(true);
            let deadline = Instant::now()
                .checked_add(drain)
                .unwrap_or_else(Instant::now);
            while self.in_flight.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
                tokio::time::sleep(DRAIN_LOOK).await;
            }
            tokio::time::sleep(LAST_BYTES).await;
            let left = self.in_flight.load(Ordering::Relaxed);
            if left > 0 {
                tracing::warn!(
                    requests = left,
                    "requests were cut off at the end of the drain"
                );
            }
            self.ended.send_replace(true);
            self.flushed().await;
        };
        tokio::select! {
            () = in_order => ShutdownSignal::GracefulTerminate,
            _ = terminate.recv() => ShutdownSignal::FastShutdown,
            _ = interrupt.recv() => ShutdownSignal::FastShutdown,
        }
    }

    /// Waits until what was to be done about holds is done, the last events
    /// are written and the last notices sent, each for a bounded time.
    async fn flushed(&self) {
        // What is done about holds comes before the last events.
        let longest = FLUSH_MAX.saturating_mul(2).max(NOTICES_FLUSH_MAX);
        // So that those who end in the last moment are waited for.
        let longest = longest.saturating_add(DRAIN_LOOK.saturating_mul(5));
        let deadline = Instant::now()
            .checked_add(longest)
            .unwrap_or_else(Instant::now);
        // Whoever is not done holds a receiver.
        while self.ended.receiver_count() > 0 && Instant::now() < deadline {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    }
}

#[async_trait]
impl ShutdownSignalWatch for Life {
    async fn recv(&self) -> ShutdownSignal {
        let signals = || {
            let hang_up = signal(SignalKind::hangup())?;
            let terminate = signal(SignalKind::terminate())?;
            let interrupt = signal(SignalKind::interrupt())?;
            let quit = signal(SignalKind::quit())?;
            Ok::<_, std::io::Error>((hang_up, terminate, interrupt, quit))
        };
        let (mut hang_up, mut terminate, mut interrupt, mut quit) = match signals() {
            Ok(signals) => signals,
            Err(error) => {
                tracing::error!(%error, "signals cannot be received");
                return ShutdownSignal::FastShutdown;
            }
        };
        // Not before signals are received: whoever reads this may send one.
        self.bound.announce();
        let mut stop = self.stop.subscribe();
        loop {
            tokio::select! {
                _ = hang_up.recv() => {
                    // Not to be waited for by somebody who wants out at once.
                    tokio::select! {
                        () = self.reload() => {}
                        _ = interrupt.recv() => return ShutdownSignal::FastShutdown,
                    }
                }
                _ = interrupt.recv() => return ShutdownSignal::FastShutdown,
                _ = quit.recv() => {
                    tracing::warn!("SIGQUIT does nothing here: use SIGTERM to end, SIGHUP to reload");
                }
                _ = terminate.recv() => {
                    let lame_duck = { self.current.lock().await.0.server.shutdown.lame_duck.duration() };
                    return self.wind_down(lame_duck, &mut terminate, &mut interrupt).await;
                }
                () = told(&mut stop) => {
                    return self.wind_down(Duration::ZERO, &mut terminate, &mut interrupt).await;
                }
            }
        }
    }
}

/// Waits until a watch turns true, or will never.
async fn told(watch: &mut watch::Receiver<bool>) {
    // An error says that the other side is gone, which is the same.
    drop(watch.wait_for(|told| *told).await);
}

/// What has to be done on the serving runtime before it serves.
pub struct Started {
    runtime: ServingRuntime,
    fresh: Fresh,
    ended: watch::Receiver<bool>,
    readiness: Readiness,
}

impl Started {
    /// Does it.
    pub async fn run(self, runtime: &Handle) {
        // A service starts once, so this is the first to be set.
        let _ = self.runtime.set(runtime.clone());
        self.fresh.begin(runtime, self.ended).await;
        // Looked at once, so that what was seen up at the start counts as seen.
        drop(self.readiness.report());
    }
}

/// What `/readyz` and `/metrics` ask of the parts in force.
#[derive(Clone)]
pub struct Readiness {
    parts: Arc<ArcSwap<Shared>>,
    in_flight: Arc<AtomicUsize>,
    ledger_seen: Arc<AtomicBool>,
    ending: Arc<AtomicBool>,
}

/// Whether the gateway should be sent requests.
pub struct Report {
    /// Why not; empty if it should.
    pub reasons: Vec<String>,
    /// The ledger's outage, if there is one.
    pub outage: Option<String>,
}

impl Readiness {
    fn new(shared: Shared, in_flight: Arc<AtomicUsize>) -> Self {
        Readiness {
            parts: Arc::new(ArcSwap::from_pointee(shared)),
            in_flight,
            ledger_seen: Arc::default(),
            ending: Arc::default(),
        }
    }

    /// Whether the gateway should be sent requests.
    #[must_use]
    pub fn report(&self) -> Report {
        let parts = self.parts.load();
        let outage = match parts.ledger.ledger().health() {
            Health::Up => {
                self.ledger_seen.store(true, Ordering::Relaxed);
                None
            }
            Health::Down(why) => Some(why),
        };
        let mut reasons = Vec::new();
        if self.ending.load(Ordering::Relaxed) {
            reasons.push("shutting down".to_owned());
        }
        let was_seen = self.ledger_seen.load(Ordering::Relaxed);
        if let Some(why) = &outage
            && !(was_seen && parts.ready_in_outage)
        {
            reasons.push(format!("the ledger does not answer: {why}"));
        }
        if parts.upstreams.count().0 == 0 {
            reasons.push("the upstream has no address: its name does not resolve".to_owned());
        }
        Report { reasons, outage }
    }

    /// Brings metrics that are read, not counted, up to date.
    pub fn update(&self, metrics: &Metrics) {
        let parts = self.parts.load();
        let up = parts.ledger.ledger().health() == Health::Up;
        metrics.ledger_up.set(up.into());
        metrics.memory.tell(parts.ledger.remembered());
        metrics.tokens.set_ages(parts.issuers.ages());
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        metrics
            .in_flight
            .set(in_flight.try_into().unwrap_or(i64::MAX));
        let (known, healthy) = parts.upstreams.count();
        metrics
            .upstream_addresses
            .set(known.try_into().unwrap_or(i64::MAX));
        metrics
            .upstream_addresses_healthy
            .set(healthy.try_into().unwrap_or(i64::MAX));
        for (dropped, counter) in [
            (&parts.lost.refusals, &metrics.events_dropped),
            (&parts.lost.holds, &metrics.holds.events_dropped),
        ] {
            counter.inc_by(dropped.count().saturating_sub(counter.get()));
        }
    }
}
