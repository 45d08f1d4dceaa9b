//! [`Line`]: the connection over which a server tells of changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, Pipeline, ProtocolVersion, PushInfo, PushKind, RedisError, Value,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Desk;
use super::metered::{Meter, Metered};
use crate::ledger::redis::fault::{Fault, clean};
use crate::ledger::redis::link::Link;
use crate::ledger::redis::transport::Target;
use crate::ledger::refused::Voucher;

/// What of `INFO` tells one process of Redis from all others.
const RUN_ID: &str = "run_id:";

/// Why changes are not heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unheard {
    /// The server cannot tell of them, or may not tell this user.
    Unable(String),
    /// The server was not reached, or another one was. It may pass.
    Unreached(String),
}

/// A connection over which a server tells of changes of what was read over it.
pub(super) struct Line {
    connection: MultiplexedConnection,
    driver: JoinHandle<()>,
    meter: Arc<Meter>,
    ending: Arc<Notify>,
    /// Vouches for what is remembered by this line.
    pub(super) voucher: Arc<Voucher>,
}

/// Ends the voucher with the connection, however that goes.
struct Ending(Arc<Voucher>, Arc<Notify>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
        self.1.notify_one();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.voucher.end();
        self.driver.abort();
    }
}

impl Line {
    /// Opens a connection to where this link leads, in the current runtime.
    pub(super) async fn open(
        target: &Target,
        link: &Link,
        attempt: usize,
        patience: Duration,
        desk: &Arc<Desk>,
    ) -> Result<Self, Unheard> {
        let opening = async {
            let line = Line::connect(target, attempt, desk).await?;
            line.ask(redis::cmd("CLIENT").arg("TRACKING").arg("ON"))
                .await?;
            // Behind one address there may be several servers. What one of
            // them tells says nothing of what requests are told by another.
            let info = |section: &Cmd| section.clone();
            let info = info(redis::cmd("INFO").arg("server"));
            let here = run_id(line.ask(&info).await?);
            let there = run_id(link.ask(&info).await.map_err(unable_or_unreached)?);
            match (here, there) {
                (Some(here), Some(there)) if here == there => Ok(line),
                (Some(_), Some(_)) => Err(Unheard::Unreached(format!(
                    "two connections to redis at {target} lead to different servers"
                ))),
                _ => Err(Unheard::Unable("redis does not say its run_id".to_owned())),
            }
        };
        let opened = timeout(patience, opening).await;
        opened.unwrap_or_else(|_| {
            Err(Unheard::Unreached(format!(
                "no answer from redis at {target} within {patience:?}"
            )))
        })
    }

    async fn connect(target: &Target, attempt: usize, desk: &Arc<Desk>) -> Result<Self, Unheard> {
        let unreached = |error: std::io::Error| Unheard::Unreached(clean(&error.to_string()));
        let (stream, meter) = Metered::new(target.dial(attempt).await.map_err(unreached)?);
        // What is told unasked has a form in this version alone.
        let hello = target.manner.hello.clone();
        let hello = hello.set_protocol(ProtocolVersion::RESP3);
        let voucher = desk.refused.voucher();
        let told = Arc::clone(desk);
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_connection_timeout(None)
            // In the task that reads the socket, in the order in which things
            // come over it: before whoever waits for a later reply has it.
            .set_push_sender(move |push: PushInfo| {
                hear(&told, push);
                Ok::<_, redis::aio::SendError>(())
            });
        let opened = MultiplexedConnection::new_with_config(&hello, stream, config).await;
        let (connection, driver) = opened.map_err(|error| of_error(&error))?;
        let ending = Arc::new(Notify::new());
        let end = Ending(Arc::clone(&voucher), Arc::clone(&ending));
        let driver = tokio::spawn(async move {
            let _end = end;
            driver.await;
        });
        Ok(Line {
            connection,
            driver,
            meter,
            ending,
            voucher,
        })
    }

    /// Waits until the connection is gone.
    pub(super) async fn is_over(&self) {
        self.ending.notified().await;
    }

    async fn ask(&self, command: &Cmd) -> Result<Value, Unheard> {
        let reply = self.connection.clone().send_packed_command(command).await;
        self.meter.replied();
        match reply {
            Ok(Value::ServerError(error)) => Err(unable_or_unreached(Fault::from_server(&error))),
            Ok(reply) => Ok(reply),
            Err(error) => Err(of_error(&error)),
        }
    }

    /// Sends commands in one write and waits for all replies. Returns when they
    /// were sent, too.
    pub(super) async fn ask_all(
        &self,
        commands: &Pipeline,
    ) -> Result<(Instant, Vec<Value>), Fault> {
        let mut connection = self.connection.clone();
        let sent = Instant::now();
        let replies = connection
            .send_packed_commands(commands, 0, commands.len())
            .await;
        self.meter.replied();
        Ok((sent, replies?))
    }
}

/// Takes what a server tells.
fn hear(desk: &Desk, push: PushInfo) {
    if push.kind != PushKind::Invalidate {
        return;
    }
    for told in push.data {
        match told {
            Value::Array(keys) => {
                for key in keys {
                    match key {
                        Value::BulkString(key) => desk.changed(&key),
                        _ => desk.refused.forget_all(),
                    }
                }
            }
            // Everything was thrown away, or it is something new.
            _ => desk.refused.forget_all(),
        }
    }
}

fn of_error(error: &RedisError) -> Unheard {
    let text = clean(&error.to_string());
    if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() {
        Unheard::Unreached(text)
    } else {
        Unheard::Unable(text)
    }
}

fn unable_or_unreached(fault: Fault) -> Unheard {
    match fault {
        Fault::Forbidden(text) => Unheard::Unable(text),
        // Redis before 6.0: unknown subcommand, or syntax error.
        Fault::Refusing(text) if text.contains(" ERR ") => Unheard::Unable(text),
        fault => Unheard::Unreached(fault.to_string()),
    }
}

/// The id of the process that answers `INFO server`.
fn run_id(info: Value) -> Option<String> {
    let text = match info {
        Value::BulkString(text) => String::from_utf8(text).ok()?,
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => text,
        _ => return None,
    };
    let id = text.lines().find_map(|line| line.strip_prefix(RUN_ID))?;
    Some(id.trim_end().to_owned()).filter(|id| !id.is_empty())
}
