//! Balances and holds in Redis.
//!
//! A balance is decimal text, either the value of a key or a field of a hash
//! (`keys`). It is read afresh for every request, over one connection that
//! all requests share (`link`), with a command of its own: those of one moment
//! leave in one write (`wire`), and all have their own deadlines; while Redis is away they
//! are told at once (`supervisor`). What stands in Redis and is no balance is
//! an error, never zero.
//!
//! Holds are kept beside it (`holds`), and changed by scripts alone.
//!
//! Nothing here retries a read, and nothing caches a balance. That a team was
//! refused may be remembered, while changes are heard of (`watching`).

mod clock;
mod cluster;
mod events;
mod fault;
mod hello;
mod holds;
mod keys;
mod link;
mod place;
mod prepare;
mod question;
mod reach;
mod resp;
mod sentinel;
mod settings;
mod slots;
mod supervisor;
mod together;
mod transport;
mod values;
mod watching;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::{Cmd, Value};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

pub use self::events::{EventLink, Replies};
use self::fault::Fault;
use self::holds::Untold;
pub use self::keys::Keys;
use self::keys::{Layout, MARK, Template};
use self::prepare::{Preparation, Reader};
use self::question::{BalanceRead, Question};
use self::reach::{Kind, Reach};
pub use self::settings::{
    RedisSettings, SentinelSettings, Servers, SettingsError, TlsFiles, Transport,
};
use self::values::{entry, mark, parse_balance, parse_key_fact, parse_team_fact, text, texts};
use self::watching::{Desk, Watcher};
use super::holds::{Terms, Writer};
use super::refused::Refused;
use super::{Health, KeyFact, Ledger, LedgerError, Mark, TeamFact};
use crate::billing::admission::Rule;
use crate::billing::credits::Credits;
use crate::billing::team::{TEAM_ID_MAX_BYTES, TeamId};

/// Room for a command with a team's key, so that it is allocated once.
const COMMAND_BYTES: usize = 96;

/// The longest that a mark lasts: ten years.
const MARK_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The team whose balance is read to see whether balances can be read.
const SAMPLE_TEAM: &str = "tollgate-probe";

/// Balances in Redis.
///
/// Dropping the ledger ends its connection and whatever [`RedisLedger::run`]
/// returned.
pub struct RedisLedger {
    reach: Reach,
    balance: Template,
    field: Option<Template>,
    api_key: Template,
    canary: Option<String>,
    keys: Layout,
    /// Holds that expired and of which nobody was told yet.
    untold: Untold,
    /// How holds are kept, in hold mode.
    holds: Option<Terms>,
    /// The memory of refusals, if there is one, and what vouches for it.
    memory: Option<Arc<Desk>>,
    /// Closes when the ledger is dropped.
    alive: watch::Sender<()>,
}

impl fmt::Debug for RedisLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLedger")
            .field("reach", &self.reach)
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
        let balance = Template::for_team(&settings.keys.balance);
        let field = settings.keys.field.as_deref().map(Template::for_team);
        let keys = Layout::new();
        let sample = read_command(&balance, field.as_ref(), SAMPLE_TEAM);
        let reader = match settings.servers {
            Servers::Cluster(_) => Reader::Cluster,
            Servers::One(_) | Servers::Sentinel(_) => Reader::Connection,
        };
        let holds = settings
            .holds
            .map(|_| Arc::new(Preparation::new(&keys, SAMPLE_TEAM, reader)));
        Ok(RedisLedger {
            reach: Reach::new(settings, sample, holds)?,
            balance,
            field,
            api_key: Template::for_api_key(&settings.keys.api_key),
            canary: settings.keys.canary.clone(),
            keys,
            untold: Untold::default(),
            holds: settings.holds,
            memory: None,
            alive: watch::Sender::new(()),
        })
    }

    /// The same, with a memory of the teams that it refuses by this rule.
    #[must_use]
    pub fn remembering(mut self, keys: &Keys, rule: Rule, lasting: Duration) -> Self {
        let refused = Arc::new(Refused::new(lasting));
        self.reach.forget_in(&refused);
        self.memory = Some(Arc::new(Desk::new(refused, keys, rule, &self.reach)));
        self
    }

    /// The memory of refusals, if there is one.
    #[must_use]
    pub fn refused(&self) -> Option<&Arc<Refused>> {
        self.memory.as_ref().map(|desk| &desk.refused)
    }

    /// Vouches for the memory of refusals until the ledger is dropped; `None`
    /// if there is none, or somebody does.
    ///
    /// Run it beside [`RedisLedger::run`], on a runtime that is never busy: what
    /// it hears late counts as not heard.
    pub fn watch(&self) -> Option<impl Future<Output = ()> + Send + 'static + use<>> {
        let desk = self.memory.as_ref()?;
        let offers = desk.refused.take_offers()?;
        let watcher = Watcher::new(self.reach.clone(), Arc::clone(desk), offers);
        Some(watcher.run(self.alive.subscribe()))
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
        let connected = ledger.reach.connect_once().await;
        connected.map_err(LedgerError::Outage)?;
        Ok(ledger)
    }

    /// Looks, before anything is served, whether what Redis holds can be
    /// worked with, and says why not. A Redis that does not answer is no
    /// reason: that may pass.
    pub async fn look_ahead(settings: &RedisSettings) -> Option<String> {
        let ledger = Self::new(settings).ok()?;
        // An outage shows in the ledger that serves.
        let _ = ledger.reach.connect_once().await;
        ledger.schema_conflict()
    }

    /// Connects, and keeps connected until the ledger is dropped.
    ///
    /// Spawn it once, on the runtime that serves the requests: the connection
    /// lives where this future runs.
    pub fn run(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let reach = self.reach.clone();
        let mut alive = self.alive.subscribe();
        async move {
            tokio::select! {
                () = reach.keep_up() => {}
                // Nothing is ever sent: this is the ledger being dropped.
                _ = alive.changed() => {}
            }
        }
    }

    /// Waits until all of Redis answers, at most this long, and returns how it
    /// is.
    ///
    /// For the moment before a new ledger takes over from an old one.
    pub async fn settled(&self, within: Duration) -> Health {
        let mut changes = self.reach.changes();
        let up = async {
            while !self.reach.is_whole() {
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
        self.reach.health() != Health::Up
    }

    /// Why Redis cannot be used for holds, if it was last found to be written
    /// by a version that is not known. It does not pass by itself.
    #[must_use]
    pub fn schema_conflict(&self) -> Option<String> {
        self.reach.schema_conflict()
    }

    /// Reads something, and draws the conclusions for the breaker. `shape`
    /// takes a reply that the command can have, and nothing else.
    async fn read<T>(
        &self,
        question: impl Into<Question>,
        until: Instant,
        shape: impl FnOnce(Value) -> Result<T, Fault>,
    ) -> Result<T, LedgerError> {
        let asking = self.reach.ask(Kind::Read, question.into(), until, shape);
        let outcome = asking.await;
        outcome.map_err(|fault| self.not_read(fault))
    }

    /// What a fault says about something that was only read.
    fn not_read(&self, fault: Fault) -> LedgerError {
        match fault {
            Fault::Entry(_) | Fault::Elsewhere(_) => LedgerError::Corrupt(fault.to_string()),
            fault => LedgerError::Outage(self.reach.explain(&fault)),
        }
    }

    /// Changes something, and draws the conclusions for the breaker.
    async fn write<T>(
        &self,
        question: impl Into<Question>,
        until: Instant,
        shape: impl FnOnce(Value) -> Result<T, Fault>,
    ) -> Result<T, LedgerError> {
        let asking = self.reach.ask(Kind::Write, question.into(), until, shape);
        let outcome = asking.await;
        outcome.map_err(|fault| self.not_written(fault))
    }

    /// What a fault says about a change.
    fn not_written(&self, fault: Fault) -> LedgerError {
        match fault {
            Fault::Entry(_) | Fault::Elsewhere(_) => LedgerError::Corrupt(fault.to_string()),
            // It may have been carried out, and the reply lost.
            Fault::Silent | Fault::Lost(_) => {
                LedgerError::OutcomeUnknown(self.reach.explain(&fault))
            }
            fault => LedgerError::Outage(self.reach.explain(&fault)),
        }
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
        self.reach.until().into_std()
    }

    async fn balance_by(
        &self,
        team: &TeamId,
        until: std::time::Instant,
    ) -> Result<Option<Credits>, LedgerError> {
        let text = match &self.reach {
            Reach::One(core) => {
                let read = BalanceRead {
                    key: self.balance.fill(team.as_str()),
                    field: self.field.as_ref().map(|field| field.fill(team.as_str())),
                };
                let text = core.look_up(&read, until.into()).await;
                text.map_err(|fault| self.not_read(fault))?
            }
            // What a cluster needs more room for would be carried along by all.
            Reach::Many(_) => Box::pin(self.balance_text(team, until.into())).await?,
        };
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

    async fn team_fact_by(
        &self,
        key: &str,
        until: std::time::Instant,
    ) -> Result<Option<TeamFact>, LedgerError> {
        // Whoever sends a request names the key: something huge may stand there
        // that is no team, and reading all of it would hold up everybody.
        let mut get = Cmd::with_capacity(4, COMMAND_BYTES);
        get.arg("GETRANGE").arg(key).arg(0).arg(TEAM_ID_MAX_BYTES);
        let mut hmget = Cmd::with_capacity(4, COMMAND_BYTES);
        hmget.arg("HMGET").arg(key).arg("team").arg("token_sha256");
        // One round trip, though only one of them is for what is there.
        let question = Question::Both([get, hmget]);
        parse_team_fact(self.read(question, until.into(), entry).await?)
    }

    async fn mark_by(
        &self,
        name: &str,
        lasting: Duration,
        until: std::time::Instant,
    ) -> Result<Mark, LedgerError> {
        // Redis wants a time above zero, and one that it can add to its own.
        let lasting = lasting.clamp(Duration::from_millis(1), MARK_MAX);
        let mut set = Cmd::with_capacity(6, COMMAND_BYTES.saturating_mul(2));
        set.arg("SET").arg(format!("{MARK}{name}")).arg(1);
        set.arg("NX")
            .arg("PX")
            .arg(u64::try_from(lasting.as_millis()).unwrap_or(u64::MAX));
        self.write(Question::Aside(set), until.into(), mark).await
    }

    async fn set_balance(&self, team: &TeamId, credits: Credits) -> Result<(), LedgerError> {
        if self
            .holds
            .is_some_and(|terms| terms.writer == Writer::Tollgate)
        {
            return self.enter("set", team, credits).await.map(|_| ());
        }
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
        self.write(command, self.reach.until(), done).await
    }

    async fn grant(&self, team: &TeamId, credits: Credits) -> Result<Credits, LedgerError> {
        self.enter("grant", team, credits).await
    }

    fn health(&self) -> Health {
        self.reach.health()
    }
}
