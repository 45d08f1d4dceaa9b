//! The ledger as commands use it: connected once, with a person's patience.
//!
//! Commands go to Redis themselves, past any gateway. A ledger that lives in a
//! gateway's process cannot be reached so; whoever tries is told where it can.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::{Failure, Style, complain, counted, read, ready};
use crate::app::admin::figure::{self, NotFigure};
use crate::app::build::{admin_address, redis_settings};
use crate::billing::credits::Credits;
use crate::billing::hold::RunId;
use crate::billing::team::TeamId;
use crate::config::{Config, Mode, Writer};
use crate::events::holds::{HoldEvent, STREAM};
use crate::events::{Dropped, Feed, StreamSettings};
use crate::ledger::LedgerError;
use crate::ledger::holds::Which;
use crate::ledger::redis::RedisLedger;

/// How long Redis may take for a person who is waiting.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long telling of it may take after it is done.
const EVENTS_MAX: Duration = Duration::from_secs(2);

/// What every command on the ledger is given.
#[derive(Args)]
pub struct Common {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Tell programs.
    #[arg(long)]
    json: bool,
}

impl Common {
    /// Who reads the output.
    pub fn style(&self) -> Style {
        Style::of(self.json)
    }

    /// Reads the configuration.
    ///
    /// # Errors
    /// [`Failure::Usage`] with every mistake in it.
    pub fn settings(&self) -> Result<Settings, Failure> {
        Ok(Settings {
            file: self.config.clone(),
            config: read(&self.config)?,
        })
    }
}

/// A configuration that was read.
pub struct Settings {
    file: PathBuf,
    config: Config,
}

impl Settings {
    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether the gateways set credits aside.
    pub fn holds(&self) -> bool {
        self.config.admission.mode == Mode::Hold
    }

    /// Goes on in hold mode only.
    ///
    /// # Errors
    /// [`Failure::Usage`] in lookup mode.
    pub fn must_hold(&self, what: &str) -> Result<(), Failure> {
        if self.holds() {
            return Ok(());
        }
        Err(Failure::Usage(format!(
            "{}: {what} needs admission.mode: hold; in lookup mode nothing is set aside",
            self.file.display()
        )))
    }

    /// Whether tollgate writes balances itself.
    pub fn writes(&self) -> bool {
        self.config.balances.writer == Writer::Tollgate
    }

    /// Goes on only where tollgate writes balances.
    ///
    /// # Errors
    /// [`Failure::Usage`] where billing does.
    pub fn must_write(&self, what: &str) -> Result<(), Failure> {
        if self.writes() {
            return Ok(());
        }
        Err(Failure::Usage(format!(
            "{}: {what} needs balances.writer: tollgate; where billing writes balances there are no lines",
            self.file.display()
        )))
    }

    /// Does something with the ledger, in a runtime of its own. `instead` is
    /// what to ask of the admin listener where the ledger is in its process.
    ///
    /// # Errors
    /// [`Failure::Usage`] if the ledger cannot be reached from here,
    /// [`Failure::Fault`] for what the ledger says.
    pub fn with_ledger<T, F>(
        &self,
        instead: &Instead<'_>,
        action: impl FnOnce(RedisLedger) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, LedgerError>>,
    {
        let Some(mut settings) = redis_settings(&self.config) else {
            return Err(Failure::Usage(self.embedded(instead)));
        };
        settings.deadline = DEADLINE;
        settings.connect_timeout = DEADLINE;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.context("there is no runtime to be had")?;
        let done = runtime.block_on(async {
            let ledger = RedisLedger::connect_once(&settings).await?;
            action(ledger).await
        });
        done.map_err(|error| Failure::Fault(explain(&error, instead.again)))
    }

    /// Tells of what became of holds on the stream of events, if that goes at
    /// once: what was done is done all the same.
    pub fn tell(&self, events: impl IntoIterator<Item = HoldEvent>) {
        let events: Vec<HoldEvent> = events.into_iter().collect();
        if events.is_empty() {
            return;
        }
        if let Err(error) = self.write_events(events) {
            complain(&format!(
                "warning: it is done, but not all of it is told on the stream {STREAM}: {error}"
            ));
        }
    }

    fn write_events(&self, events: Vec<HoldEvent>) -> anyhow::Result<()> {
        let Some(mut settings) = redis_settings(&self.config) else {
            return Ok(());
        };
        settings.connect_timeout = EVENTS_MAX;
        let (feed, writer) = Feed::new(&settings, events.len())?;
        let dropped = Dropped::default();
        let stream = StreamSettings {
            queue: events.len(),
            stream_length: self.config.events.stream_length.get(),
        };
        let sink = feed.sink(stream, dropped.clone());
        for event in events {
            sink.offer(event);
        }
        // The writer ends once everybody who could offer more is gone.
        drop((sink, feed));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let stop = async { tokio::time::sleep(EVENTS_MAX).await };
        runtime.block_on(writer.run(stop, Duration::ZERO));
        match dropped.count() {
            0 => Ok(()),
            left => Err(anyhow::anyhow!(
                "{} may not have been written",
                counted(left, "event")
            )),
        }
    }

    fn embedded(&self, instead: &Instead<'_>) -> String {
        let lives = "balances.memory lives inside the gateway's own process";
        let Some(request) = &instead.request else {
            return format!("{lives}: {}", instead.otherwise);
        };
        let (method, path) = request;
        match admin_address(&self.config) {
            Some(address) => format!(
                "{lives}: use its admin listener, {method} http://{}{path}, with server.admin.token as bearer token",
                ready::reachable(address)
            ),
            None => format!(
                "{lives}: set server.admin.listen and server.admin.token, and use {method} {path} there"
            ),
        }
    }
}

/// What to say where a command does not go through.
pub struct Instead<'a> {
    /// Method and path of the admin listener that do the same.
    pub request: Option<(&'static str, String)>,
    /// What to do where there is no such path.
    pub otherwise: &'a str,
    /// What a repetition does after a lost reply.
    pub again: Again,
}

/// What a repetition does after a lost reply.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Nothing more.
    Safe,
    /// The same once more.
    Unsafe,
}

impl Instead<'_> {
    /// The admin listener, for something that repeating does no harm to.
    pub fn request(method: &'static str, path: String) -> Self {
        Instead {
            request: Some((method, path)),
            otherwise: "",
            again: Again::Safe,
        }
    }
}

fn explain(error: &LedgerError, again: Again) -> String {
    match (error, again) {
        (LedgerError::OutcomeUnknown(_), Again::Safe) => {
            format!("{error}; it may have been done: run the same command again, it is done once")
        }
        (LedgerError::OutcomeUnknown(_), Again::Unsafe) => format!(
            "{error}; it may have been done: look with `tollgate balance get` before running it again"
        ),
        _ => error.to_string(),
    }
}

/// The path of a team on the admin listener.
pub fn team_path(team: &TeamId, rest: &str) -> String {
    format!("/v1/teams/{team}{rest}")
}

/// Reads a team's id.
///
/// # Errors
/// [`Failure::Usage`].
pub fn team(text: &str) -> Result<TeamId, Failure> {
    TeamId::parse(text.as_bytes()).map_err(|error| Failure::Usage(format!("`{text}` is {error}")))
}

/// Reads which hold is meant.
///
/// # Errors
/// [`Failure::Usage`].
pub fn which(text: &str) -> Result<Which, Failure> {
    // Every id of a hold is one that a run could have too.
    RunId::parse(text.as_bytes())
        .map_err(|error| Failure::Usage(format!("`{text}` is neither a hold's id nor {error}")))?;
    Ok(Which::Either(text.into()))
}

/// Reads credits, by one of the rules of [`figure`].
///
/// # Errors
/// [`Failure::Usage`].
pub fn credits(
    text: &str,
    rule: fn(&str) -> Result<Credits, NotFigure>,
) -> Result<Credits, Failure> {
    rule(text).map_err(|error| Failure::Usage(format!("`{text}` is {error}")))
}

/// Reads the id of a grant or a charge.
///
/// # Errors
/// [`Failure::Usage`].
pub fn change_id(text: &str) -> Result<&str, Failure> {
    figure::change_id(text).map_err(|error| Failure::Usage(format!("`{text}` is {error}")))
}
