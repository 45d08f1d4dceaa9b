//! [`Question`]: what is asked of Redis at once, over one connection; and
//! [`BalanceRead`], the one that nearly every request asks.

use redis::{Cmd, Value};

use super::fault::Fault;
use super::keys::Filled;
use super::slots::key_of;
use super::wire::Pack;

/// What Redis says of a key that holds something of another type than the
/// command is for.
const WRONG_TYPE: &str = "WRONGTYPE";

/// What is asked at once. All of it is about one key, and so in one slot of a
/// cluster.
#[derive(Clone, Debug)]
pub(super) enum Question {
    /// One command.
    One(Cmd),
    /// Two, for types of which the key has one. The reply is an array of both
    /// replies; of a command for another type, the error line stands there.
    Both([Cmd; 2]),
    /// One command that requests can do without. That the user may not do it
    /// is no reason to take the server for one that does not answer.
    Aside(Cmd),
}

impl From<Cmd> for Question {
    fn from(command: Cmd) -> Self {
        Question::One(command)
    }
}

impl Question {
    /// The commands, in order.
    pub(super) fn commands(&self) -> &[Cmd] {
        match self {
            Question::One(command) | Question::Aside(command) => std::slice::from_ref(command),
            Question::Both(commands) => commands,
        }
    }

    /// The key that it is about.
    pub(super) fn key(&self) -> &[u8] {
        let first = self.commands().first();
        first.and_then(key_of).unwrap_or_default()
    }

    /// What a fault says, of this question.
    pub(super) fn fault(&self, fault: Fault) -> Fault {
        match (self, fault) {
            (Question::Aside(_), Fault::Forbidden(text)) => Fault::NoWrites(text),
            (_, fault) => fault,
        }
    }

    /// The reply from the replies to its commands, in order.
    pub(super) fn reply(&self, replies: Vec<Value>) -> Result<Value, Fault> {
        match self {
            Question::One(_) | Question::Aside(_) => one(replies),
            Question::Both(_) => both(replies),
        }
    }
}

/// The one reply.
pub(super) fn one(replies: Vec<Value>) -> Result<Value, Fault> {
    let [reply] = <[Value; 1]>::try_from(replies).map_err(|_| Fault::nonsense())?;
    match reply {
        Value::ServerError(error) => Err(Fault::from_server(&error)),
        reply => Ok(reply),
    }
}

/// Both replies, if they are replies or errors that say that the key has
/// another type.
pub(super) fn both(replies: Vec<Value>) -> Result<Value, Fault> {
    let pair = <[Value; 2]>::try_from(replies).map_err(|_| Fault::nonsense())?;
    for reply in &pair {
        if let Value::ServerError(error) = reply
            && error.code() != WRONG_TYPE
        {
            return Err(Fault::from_server(error));
        }
    }
    Ok(Value::Array(pair.into()))
}

/// The command that reads a team's balance, written straight to the wire.
pub(super) struct BalanceRead<'a> {
    /// Where it is.
    pub(super) key: Filled<'a>,
    /// The field of the hash, if it is in one.
    pub(super) field: Option<Filled<'a>>,
}

/// The same, together with the canary.
pub(super) struct Guarded<'a> {
    read: &'a BalanceRead<'a>,
    canary: &'a Cmd,
}

impl BalanceRead<'_> {
    /// Together with this command, in the same instant.
    pub(super) fn guarded<'a>(&'a self, canary: &'a Cmd) -> Guarded<'a> {
        Guarded { read: self, canary }
    }
}

impl Pack for BalanceRead<'_> {
    fn pack(&self, out: &mut Vec<u8>) {
        match &self.field {
            None => {
                out.extend_from_slice(b"*2\r\n$3\r\nGET\r\n");
                self.key.pack(out);
            }
            Some(field) => {
                out.extend_from_slice(b"*3\r\n$4\r\nHGET\r\n");
                self.key.pack(out);
                field.pack(out);
            }
        }
    }

    fn replies(&self) -> usize {
        1
    }
}

impl Pack for Guarded<'_> {
    fn pack(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"*1\r\n$5\r\nMULTI\r\n");
        self.canary.pack(out);
        self.read.pack(out);
        out.extend_from_slice(b"*1\r\n$4\r\nEXEC\r\n");
    }

    fn replies(&self) -> usize {
        4
    }
}
