//! [`Question`]: what is asked of Redis at once, over one connection.

use redis::{Cmd, Value};

use super::fault::Fault;
use super::slots::key_of;

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
fn one(replies: Vec<Value>) -> Result<Value, Fault> {
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
