//! What a fresh connection goes through in hold mode before it carries
//! requests: the version of what Redis holds, the scripts, and the clock.
//!
//! A Redis that was written by a version that is not known is never asked for
//! a hold: what it says would be misread, and what is written, misplaced.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use redis::{Cmd, Pipeline, Value};
use tokio::time::timeout;

use super::fault::{Fault, clean};
use super::holds::script::{SWEEP, Script};
use super::keys::{Layout, SCHEMA, SCHEMA_VERSION};
use super::link::Link;
use super::supervisor::Core;

/// What hold mode needs of a connection.
#[derive(Debug)]
pub(super) struct Preparation {
    /// The keys of the holds of a team that is none.
    sample: [String; 3],
    reader: Reader,
    schema: ArcSwap<Schema>,
}

/// Who reads the version of what Redis holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// Each connection, when it is made and as long as it lasts.
    Connection,
    /// Whoever knows which node of the cluster has it.
    Cluster,
}

/// What is known of the version of what Redis holds.
#[derive(Debug, PartialEq, Eq)]
enum Schema {
    /// It was never read, and why.
    Unread(String),
    /// It is this version's.
    Known,
    /// It is another one, in words.
    Conflict(String),
}

/// Whether what is known has become something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It has.
    Changed,
    /// It is what it was.
    Same,
}

impl Preparation {
    pub(super) fn new(keys: &Layout, sample_team: &str, reader: Reader) -> Self {
        let why = "the version of what redis holds was not read yet".to_owned();
        Preparation {
            sample: [&keys.holds, &keys.due, &keys.done]
                .map(|key| key.fill(sample_team).to_string()),
            reader,
            schema: ArcSwap::from_pointee(Schema::Unread(why)),
        }
    }

    /// What is wrong with the version that was found, if anything is.
    pub(super) fn conflict(&self) -> Option<String> {
        match &**self.schema.load() {
            Schema::Conflict(why) => Some(why.clone()),
            Schema::Unread(_) | Schema::Known => None,
        }
    }

    /// That the version was read, and is this one's.
    pub(super) fn has_known_schema(&self) -> Result<(), Fault> {
        match &**self.schema.load() {
            Schema::Known => Ok(()),
            Schema::Unread(why) | Schema::Conflict(why) => Err(Fault::Down(why.clone())),
        }
    }

    /// Whether the version was never read.
    pub(super) fn is_unread(&self) -> bool {
        matches!(&**self.schema.load(), Schema::Unread(_))
    }

    /// Draws the conclusions from an attempt to read the version. What was
    /// read once is believed until something else is read.
    pub(super) fn learn(&self, found: &Result<Vec<u8>, Fault>) -> News {
        let now = match found {
            Ok(found) => match conflict_with(found) {
                None => Schema::Known,
                Some(why) => Schema::Conflict(why),
            },
            Err(fault) if self.is_unread() => Schema::Unread(format!(
                "the version of what redis holds cannot be read: {fault}"
            )),
            Err(_) => return News::Same,
        };
        if **self.schema.load() == now {
            return News::Same;
        }
        self.schema.store(Arc::new(now));
        News::Changed
    }

    /// Asks for what requests will need: that the scripts may be run, and may
    /// use these keys.
    fn sweep(&self, mut command: Cmd) -> Cmd {
        command.arg(self.sample.len());
        for key in &self.sample {
            command.arg(key);
        }
        command.arg(1).arg(1);
        command
    }
}

impl Core {
    /// Prepares a fresh connection. Without hold mode there is nothing to do.
    /// The error is a sentence for people.
    pub(super) async fn prepare(&self, link: &Link) -> Result<(), String> {
        if self.holds.is_none() {
            return Ok(());
        }
        let explained = |fault| self.explain(&fault);
        self.check_schema(link).await.map_err(explained)?;
        // The scripts are larger than whatever a request sends, and nobody
        // waits for them.
        match timeout(self.connect_timeout, introduce(link)).await {
            Ok(introduced) => introduced.map_err(explained)?,
            Err(_) => {
                return Err(format!(
                    "redis did not take the scripts within {:?}",
                    self.connect_timeout
                ));
            }
        }
        self.probe_holds(link).await.map_err(explained)
    }

    /// Reads the version again, of a link that is up. Retires it if it is
    /// another one: that may be seen here first, while requests go on.
    pub(super) async fn confirm_schema(&self, link: &Arc<Link>) {
        let outcome = self.check_schema(link).await;
        // That it can be read says nothing of what requests need.
        if outcome.is_err() {
            self.note(link, &outcome);
        }
    }

    /// Reads the version, where it is for the connection to do.
    async fn check_schema(&self, link: &Link) -> Result<(), Fault> {
        let holds = match &self.holds {
            Some(holds) if holds.reader == Reader::Connection => holds,
            _ => return Ok(()),
        };
        let found = self.within(self.until(), read_schema(link)).await;
        holds.learn(&found);
        found?;
        match holds.conflict() {
            Some(why) => Err(Fault::Incompatible(why)),
            None => Ok(()),
        }
    }

    /// Asks whether holds can be kept. Without hold mode there is nothing to
    /// ask.
    pub(super) async fn probe_holds(&self, link: &Link) -> Result<(), Fault> {
        let Some(holds) = &self.holds else {
            return Ok(());
        };
        let until = self.until();
        let asking = async {
            match link.ask(&holds.sweep(SWEEP.by_name())).await {
                Err(fault) if fault.is_unknown_script() => {
                    link.ask(&holds.sweep(SWEEP.by_text())).await
                }
                outcome => outcome,
            }
        };
        match self.within(until, asking).await {
            Ok(_) => Ok(()),
            // Nothing that stands there can be wrong for every other team; not
            // to be allowed there is.
            Err(Fault::Entry(text)) if text.contains("NOPERM") => Err(Fault::Forbidden(text)),
            Err(fault) if fault.is_answer() => Ok(()),
            Err(fault) => Err(fault),
        }
    }
}

/// What is wrong with a version that was found, if anything is.
fn conflict_with(found: &[u8]) -> Option<String> {
    (found != SCHEMA_VERSION.as_bytes()).then(|| {
        clean(&format!(
            "`{SCHEMA}` in redis is {}, and this tollgate knows {SCHEMA_VERSION}: run the version that wrote it",
            String::from_utf8_lossy(found)
        ))
    })
}

/// Where the version is read.
pub(super) trait Whereabouts: Sync {
    /// Sends a command to where the version is kept.
    fn ask(&self, command: &Cmd) -> impl Future<Output = Result<Value, Fault>> + Send;
}

impl Whereabouts for Link {
    fn ask(&self, command: &Cmd) -> impl Future<Output = Result<Value, Fault>> + Send {
        Link::ask(self, command)
    }
}

/// Reads the version of what Redis holds, and writes it where there is none.
pub(super) async fn read_schema(at: &impl Whereabouts) -> Result<Vec<u8>, Fault> {
    let mut get = redis::cmd("GET");
    get.arg(SCHEMA);
    match at.ask(&get).await? {
        Value::BulkString(found) => return Ok(found),
        Value::Nil => {}
        _ => return Err(Fault::nonsense()),
    }
    // Of several that find none, one writes it, and all read it again. It is
    // not written unasked: a server that is out of memory can still release.
    let mut set = redis::cmd("SET");
    set.arg(SCHEMA).arg(SCHEMA_VERSION).arg("NX");
    at.ask(&set).await?;
    match at.ask(&get).await? {
        Value::BulkString(found) => Ok(found),
        _ => Err(Fault::nonsense()),
    }
}

/// Learns what time it is there, and sends the scripts that are not known.
async fn introduce(link: &Link) -> Result<(), Fault> {
    let mut commands = Pipeline::new();
    commands.add_command(redis::cmd("TIME"));
    commands.add_command(Script::are_known());
    let sent = Instant::now();
    let replies = link.ask_all(&commands).await?;
    if let Some(redis_us) = replies.first().and_then(time) {
        link.clock.learn(sent, Instant::now(), redis_us);
    }
    let known = match replies.get(1) {
        Some(Value::Array(known)) => known.as_slice(),
        _ => &[],
    };
    let mut commands = Pipeline::new();
    for (place, script) in Script::all().into_iter().enumerate() {
        if known.get(place) != Some(&Value::Int(1)) {
            commands.add_command(script.load());
        }
    }
    if !commands.is_empty() {
        // A user that may not load scripts sends them in full.
        link.ask_all(&commands).await?;
    }
    Ok(())
}

/// A reply to `TIME`, in microseconds.
fn time(reply: &Value) -> Option<i64> {
    let Value::Array(parts) = reply else {
        return None;
    };
    let number = |part: &Value| match part {
        Value::BulkString(text) => std::str::from_utf8(text).ok()?.parse::<i64>().ok(),
        _ => None,
    };
    let (seconds, micros) = (number(parts.first()?)?, number(parts.get(1)?)?);
    seconds.checked_mul(1_000_000)?.checked_add(micros)
}
