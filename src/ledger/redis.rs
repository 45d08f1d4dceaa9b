//! Balances in Redis.
//!
//! A balance is decimal text, either the value of a key or a field of a hash
//! (`keys`). It is read afresh for every request, over one connection that
//! all requests share (`link`), within a deadline; while Redis is away they
//! are told at once (`supervisor`). What stands in Redis and is no balance is
//! an error, never zero.
//!
//! Nothing here retries a read, and nothing caches one.

mod events;
mod fault;
mod keys;
mod link;
mod settings;
mod supervisor;
mod transport;
mod values;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use redis::{Cmd, Value};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

pub use self::events::EventLink;
use self::fault::Fault;
pub use self::keys::Keys;
use self::keys::Template;
use self::link::Link;
pub use self::settings::{RedisSettings, SettingsError, TlsFiles};
use self::supervisor::{Core, State};
use self::transport::Target;
use self::values::{parse_balance, parse_exact_balance, parse_key_fact, text, texts};
use super::{Health, KeyFact, Ledger, LedgerError, add_exactly};
use crate::billing::credits::Credits;
use crate::billing::team::TeamId;

/// Room for a command with a team's key, so that it is allocated once.
const COMMAND_BYTES: usize = 96;

/// The script that writes a balance only if it is still what was read.
const REPLACE_BALANCE: &str = include_str!("redis/replace_balance.lua");

/// The team whose balance is read to see whether balances can be read.
const SAMPLE_TEAM: &str = "tollgate-probe";

/// Balances in Redis.
///
/// Dropping the ledger ends its connection and whatever [`RedisLedger::run`]
/// returned.
pub struct RedisLedger {
    core: Arc<Core>,
    balance: Template,
    field: Option<Template>,
    api_key: Template,
    /// Closes when the ledger is dropped.
    alive: watch::Sender<()>,
}

impl fmt::Debug for RedisLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLedger")
            .field("target", &self.core.target)
            .finish_non_exhaustive()
    }
}

impl RedisLedger {
    /// A ledger that is not connected. Reads the certificate files, opens no
    /// socket: that is done by [`RedisLedger::run`].
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn new(settings: &RedisSettings) -> Result<Self, SettingsError> {
        let canary = settings.keys.canary.as_ref().map(|key| {
            let mut exists = redis::cmd("EXISTS");
            exists.arg(key);
            exists
        });
        let balance = Template::for_team(&settings.keys.balance);
        let field = settings.keys.field.as_deref().map(Template::for_team);
        let core = Core {
            target: Target::new(&settings.url, settings.tls.as_ref())?,
            deadline: settings.deadline,
            connect_timeout: settings.connect_timeout,
            faults_max: settings.breaker_failures.max(1),
            // A timer of zero length would panic.
            probe_interval: settings.probe_interval.max(Duration::from_millis(1)),
            sample: read_command(&balance, field.as_ref(), SAMPLE_TEAM),
            canary,
            state: ArcSwap::from_pointee(State::Down("redis is not connected yet".to_owned())),
            changes: watch::Sender::new(()),
        };
        Ok(RedisLedger {
            core: Arc::new(core),
            balance,
            field,
            api_key: Template::for_api_key(&settings.keys.api_key),
            alive: watch::Sender::new(()),
        })
    }

    /// Connects in the current runtime, once: for commands that end soon. If
    /// the connection breaks it stays broken.
    ///
    /// A missing canary does not keep it from connecting, so that balances can
    /// be restored with it; it makes reads fail.
    ///
    /// # Errors
    /// [`LedgerError::Unsupported`] for settings that cannot be used,
    /// [`LedgerError::Outage`] if Redis does not answer.
    pub async fn connect_once(settings: &RedisSettings) -> Result<Self, LedgerError> {
        let ledger =
            Self::new(settings).map_err(|error| LedgerError::Unsupported(error.to_string()))?;
        let core = &ledger.core;
        let link = Link::open(&core.target, 0, core.connect_timeout)
            .await
            .map_err(LedgerError::Outage)?;
        core.ping(&link, core.until())
            .await
            .map_err(|fault| LedgerError::Outage(core.explain(&fault)))?;
        core.publish(&Arc::new(link));
        Ok(ledger)
    }

    /// Connects, and keeps connected until the ledger is dropped.
    ///
    /// Spawn it once, on the runtime that serves the requests: the connection
    /// lives where this future runs.
    pub fn run(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let core = Arc::clone(&self.core);
        let mut alive = self.alive.subscribe();
        async move {
            tokio::select! {
                () = core.keep_up() => {}
                // Nothing is ever sent: this is the ledger being dropped.
                _ = alive.changed() => {}
            }
        }
    }

    /// Waits until Redis answers, at most this long, and returns how it is.
    ///
    /// For the moment before a new ledger takes over from an old one.
    pub async fn settled(&self, within: Duration) -> Health {
        let mut changes = self.core.changes.subscribe();
        let up = async {
            while self.is_breaker_open() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        // Whether it came up or the time ran out shows in the health.
        let _ = timeout(within, up).await;
        self.health()
    }

    /// Whether requests are told of an outage without asking Redis.
    #[must_use]
    pub fn is_breaker_open(&self) -> bool {
        matches!(&**self.core.state.load(), State::Down(_))
    }

    /// The link, or why there is none.
    fn link(&self) -> Result<Arc<Link>, LedgerError> {
        match &**self.core.state.load() {
            State::Up(link) => Ok(Arc::clone(link)),
            State::Down(why) => Err(LedgerError::Outage(why.clone())),
        }
    }

    /// Reads something, and draws the conclusions for the breaker. `shape`
    /// takes a reply that the command can have, and nothing else.
    async fn read<T>(
        &self,
        command: Cmd,
        until: Instant,
        shape: impl FnOnce(Value) -> Result<T, Fault>,
    ) -> Result<T, LedgerError> {
        let link = self.link()?;
        link.mark_used();
        let reply = self.core.read(&link, command);
        let outcome = self.core.within(until, reply).await.and_then(shape);
        self.conclude(&link, outcome).map_err(|fault| match fault {
            Fault::Entry(text) => LedgerError::Corrupt(text),
            fault => LedgerError::Outage(self.core.explain(&fault)),
        })
    }

    /// Changes something, and draws the conclusions for the breaker.
    async fn write<T>(
        &self,
        command: Cmd,
        until: Instant,
        shape: impl FnOnce(Value) -> Result<T, Fault>,
    ) -> Result<T, LedgerError> {
        let link = self.link()?;
        link.mark_used();
        let reply = link.ask(&command);
        let outcome = self.core.within(until, reply).await.and_then(shape);
        self.conclude(&link, outcome).map_err(|fault| match fault {
            Fault::Entry(text) => LedgerError::Corrupt(text),
            // It may have been carried out, and the reply lost.
            Fault::Silent | Fault::Lost(_) => {
                LedgerError::OutcomeUnknown(self.core.explain(&fault))
            }
            fault => LedgerError::Outage(self.core.explain(&fault)),
        })
    }

    fn conclude<T>(&self, link: &Arc<Link>, outcome: Result<T, Fault>) -> Result<T, Fault> {
        self.core.note(link, &outcome);
        if matches!(outcome, Ok(_) | Err(Fault::Entry(_))) {
            link.mark_served();
        }
        outcome
    }

    /// The text of the team's balance.
    async fn balance_text(
        &self,
        team: &TeamId,
        until: Instant,
    ) -> Result<Option<Vec<u8>>, LedgerError> {
        let command = read_command(&self.balance, self.field.as_ref(), team.as_str());
        self.read(command, until, text).await
    }
}

/// The command that reads a team's balance.
fn read_command(balance: &Template, field: Option<&Template>, team: &str) -> Cmd {
    let key = balance.fill(team);
    match field {
        None => {
            let mut get = Cmd::with_capacity(2, COMMAND_BYTES);
            get.arg("GET").arg(key);
            get
        }
        Some(field) => {
            let mut get = Cmd::with_capacity(3, COMMAND_BYTES);
            get.arg("HGET").arg(key).arg(field.fill(team));
            get
        }
    }
}

#[async_trait]
impl Ledger for RedisLedger {
    fn until(&self) -> std::time::Instant {
        self.core.until().into_std()
    }

    async fn balance_by(
        &self,
        team: &TeamId,
        until: std::time::Instant,
    ) -> Result<Option<Credits>, LedgerError> {
        let text = self.balance_text(team, until.into()).await?;
        text.map(|text| parse_balance(&text)).transpose()
    }

    async fn key_fact_by(
        &self,
        sha256: &str,
        until: std::time::Instant,
    ) -> Result<Option<KeyFact>, LedgerError> {
        let mut command = Cmd::with_capacity(5, COMMAND_BYTES.saturating_mul(2));
        command
            .arg("HMGET")
            .arg(self.api_key.fill(sha256))
            .arg("team")
            .arg("teams")
            .arg("principal");
        let [team, teams, principal] = self.read(command, until.into(), texts).await?;
        parse_key_fact(team, teams, principal)
    }

    async fn set_balance(&self, team: &TeamId, credits: Credits) -> Result<(), LedgerError> {
        let key = self.balance.fill(team.as_str());
        let mut command = Cmd::new();
        match &self.field {
            // It replaces whatever stands there: this is also how an operator
            // repairs a balance that is none.
            None => {
                command.arg("SET").arg(key).arg(credits.to_string());
                command.arg("KEEPTTL");
            }
            Some(field) => {
                command.arg("HSET").arg(key).arg(field.fill(team.as_str()));
                command.arg(credits.to_string());
            }
        }
        let done = |_| Ok(());
        self.write(command, self.core.until(), done).await
    }

    async fn grant(&self, team: &TeamId, credits: Credits) -> Result<Credits, LedgerError> {
        let until = self.core.until();
        // Each time that it has to begin again, somebody else's change went
        // through; the deadline bounds it.
        while Instant::now() < until {
            let found = self.balance_text(team, until).await?;
            let before = match &found {
                None => Credits::ZERO,
                Some(text) => parse_exact_balance(text)?,
            };
            let after = add_exactly(before, credits)?;
            if self.replace(team, found.as_deref(), after, until).await? {
                return Ok(after);
            }
        }
        Err(LedgerError::Outage(
            "the balance kept changing, and nothing was added: try again".to_owned(),
        ))
    }

    fn health(&self) -> Health {
        match &**self.core.state.load() {
            State::Up(_) => Health::Up,
            State::Down(why) => Health::Down(why.clone()),
        }
    }
}

impl RedisLedger {
    /// Writes a balance if it is still what was found. False: it is not, and
    /// nothing was written.
    async fn replace(
        &self,
        team: &TeamId,
        found: Option<&[u8]>,
        after: Credits,
        until: Instant,
    ) -> Result<bool, LedgerError> {
        let mut command = redis::cmd("EVAL");
        command
            .arg(REPLACE_BALANCE)
            .arg(1)
            .arg(self.balance.fill(team.as_str()));
        match &self.field {
            None => command.arg("key").arg(""),
            Some(field) => command.arg("field").arg(field.fill(team.as_str())),
        };
        match found {
            None => command.arg("absent").arg(""),
            Some(text) => command.arg("present").arg(text),
        };
        command.arg(after.to_string());
        let shape = |reply| match reply {
            Value::Int(replaced) => Ok(replaced == 1),
            _ => Err(Fault::nonsense()),
        };
        self.write(command, until, shape).await
    }
}
