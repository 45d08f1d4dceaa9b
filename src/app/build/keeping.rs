//! From a configuration to what works beside the requests: the writer of
//! event streams, and the keeper of holds.

use std::sync::Arc;
use std::time::Duration;

use super::{BuildError, Shared, redis_settings, terms};
use crate::config::{self, Config};
use crate::edge::live::Holding;
use crate::events::holds::HoldEvent;
use crate::events::{Dropped, Feed, Sink, StreamSettings, Writer};
use crate::keeper::{Keeper, Settings, Worker};
use crate::refusals::RefusalEvent;
use crate::telemetry::Metrics;

/// How many tasks about holds may wait, and as many again that are money.
const KEEPER_QUEUE: usize = 10_000;

/// How often teams that have live holds are swept.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// The event streams.
#[derive(Clone)]
pub struct Streams {
    /// Where refusal events go.
    pub refusals: Sink<RefusalEvent>,
    /// Where events about holds go.
    pub holds: Sink<HoldEvent>,
}

/// How many events were dropped, through all reloads.
#[derive(Clone, Default)]
pub struct Lost {
    /// Refusal events.
    pub refusals: Dropped,
    /// Events about holds.
    pub holds: Dropped,
}

/// Builds the ways to the event streams, and what writes them.
///
/// # Errors
/// [`BuildError::Ledger`].
pub fn streams(config: &Config, lost: &Lost) -> Result<(Streams, Option<Writer>), BuildError> {
    let Some(settings) = redis_settings(config) else {
        let streams = Streams {
            refusals: Sink::off(),
            holds: Sink::off(),
        };
        return Ok((streams, None));
    };
    let settings_of = |stream: &config::EventStream| StreamSettings {
        queue: stream.queue.get(),
        stream_length: stream.stream_length.get(),
    };
    let (refusals, events) = (config.refusals.queue.get(), config.events.queue.get());
    let (feed, writer) = Feed::new(&settings, refusals.saturating_add(events))?;
    let streams = Streams {
        refusals: feed.sink(settings_of(&config.refusals), lost.refusals.clone()),
        holds: feed.sink(settings_of(&config.events), lost.holds.clone()),
    };
    Ok((streams, Some(writer)))
}

/// Builds what looks after holds, in place of another one on the same ledger
/// if there is one; nothing in lookup mode.
pub fn keeper(
    config: &Config,
    shared: &Shared,
    metrics: &Metrics,
    before: &Keeper,
) -> Option<(Holding, Worker)> {
    let writer = terms(config)?.writer;
    let ledger = shared.ledger.holds();
    let (keeper, worker) = before.succeeded(
        Arc::clone(&ledger),
        settings(config),
        metrics.holds.clone(),
        shared.streams.holds.clone(),
    );
    let holding = Holding {
        ledger,
        keeper,
        writer,
    };
    Some((holding, worker))
}

/// How holds are looked after under this configuration.
pub fn settings(config: &Config) -> Settings {
    let of = |route: &config::Route| route.hold_for.or(config.admission.hold_for);
    let spans = || {
        let spans = config.starts().filter_map(|(_, route)| of(route));
        spans.map(|span| span.duration())
    };
    let otherwise = Settings::default();
    Settings {
        queue: KEEPER_QUEUE,
        sweep_every: SWEEP_EVERY,
        hold_for_min: spans().min().unwrap_or(otherwise.hold_for_min),
        hold_for_max: spans().max().unwrap_or(otherwise.hold_for_max),
    }
}
