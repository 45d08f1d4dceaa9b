//! [`Fault`]: what a command that got no proper answer says about Redis.
//!
//! The one question here is whom a fault concerns: everybody (the connection,
//! the server) or a single key. The texts are fit for logs: they never hold a
//! password, a key's content or the arguments of a command.

use redis::{ErrorKind, RedisError, ServerError};

/// The most characters of a server's error line that are repeated.
const TEXT_MAX_CHARS: usize = 160;

/// Error codes that are about the key of the command and nothing else.
const ABOUT_ONE_KEY: [&str; 2] = ["WRONGTYPE", "CROSSSLOT"];

/// Error codes of a server that takes no writes for now: it has no memory left,
/// cannot write its disk, or lacks replicas. It says so before anything is
/// carried out, and answers whatever else it is asked.
const TAKES_NO_WRITES: [&str; 3] = ["OOM", "MISCONF", "NOREPLICAS"];

/// What a cluster says, with the first code, of one slot alone.
const SLOT_NOT_SERVED: (&str, &str) = ("CLUSTERDOWN", "Hash slot not served");

/// What a user may not do is said with this code, and with these words if it is
/// about the key (`to access one of the keys …`; from 7.2 on, `to access a
/// key`); otherwise it is about the command, for whatever key. A user's name,
/// which is repeated, has no blanks.
const NO_PERMISSION: (&str, &str) = ("NOPERM", "to access");

/// Why a command got no proper answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No reply in time.
    Silent,
    /// The connection broke, or what came over it is no reply to what was
    /// asked. Nothing more can be learnt from this connection.
    Lost(String),
    /// The server answers, with an error about itself (`LOADING`, `NOAUTH`…).
    Refusing(String),
    /// The server takes no writes for now, and says so: nothing was changed.
    NoWrites(String),
    /// What Redis holds was written by a version that is not known.
    Incompatible(String),
    /// The server answers that this user may not ask such a thing at all.
    Forbidden(String),
    /// The canary key does not exist: the balances are gone, not zero.
    CanaryMissing,
    /// An error about the key that was asked for.
    Entry(String),
    /// A node of a cluster names the one that holds the key.
    Elsewhere(Redirect),
    /// The key's slot of a cluster is being moved, or nobody serves it.
    Slot(String),
    /// The server is a replica: it may not change anything, and what it shows
    /// may be old.
    Demoted(String),
    /// Nothing was sent: there is no connection, and why.
    Down(String),
}

/// Where a node of a cluster says that a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// For how long.
    pub lasting: Lasting,
    /// The slot of the key.
    pub slot: u16,
    /// The other node. Empty: where the one that answers is.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The whole line, for messages.
    pub text: String,
}

/// How long a [`Redirect`] is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// The slot is there from now on (`MOVED`).
    FromNowOn,
    /// This one command alone (`ASK`).
    ThisOnce,
}

impl Redirect {
    /// Reads `MOVED 3999 10.0.0.1:6381`, without the code.
    fn read(lasting: Lasting, details: &str, text: &str) -> Option<Self> {
        let (slot, address) = details.split_once(' ')?;
        let (host, port) = address.trim_end().rsplit_once(':')?;
        Some(Redirect {
            lasting,
            slot: slot.parse().ok()?,
            host: host.to_owned(),
            port: port.parse().ok()?,
            text: text.to_owned(),
        })
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Fault::Silent => "redis did not reply in time",
            Fault::CanaryMissing => {
                "the canary key (`balances.canary`) is missing: the balances are lost, restore them and write it last"
            }
            Fault::Elsewhere(redirect) => &redirect.text,
            Fault::Lost(text)
            | Fault::Refusing(text)
            | Fault::NoWrites(text)
            | Fault::Incompatible(text)
            | Fault::Forbidden(text)
            | Fault::Entry(text)
            | Fault::Slot(text)
            | Fault::Demoted(text)
            | Fault::Down(text) => text,
        })
    }
}

impl Fault {
    /// A reply of a form that this command cannot have.
    pub(super) fn nonsense() -> Self {
        Fault::Lost("redis sent something that is no reply to what was asked".to_owned())
    }

    /// Whether the server is none the worse for it: it answered properly, and
    /// another command may succeed.
    pub(super) fn is_answer(&self) -> bool {
        matches!(
            self,
            Fault::Entry(_) | Fault::Elsewhere(_) | Fault::Slot(_) | Fault::NoWrites(_)
        )
    }

    /// As a fault of something that only reads: there it is the server that is
    /// at fault.
    pub(super) fn of_a_read(self) -> Self {
        match self {
            Fault::NoWrites(text) => Fault::Refusing(text),
            fault => fault,
        }
    }

    /// As a fault of the only server: nobody else will serve a slot.
    pub(super) fn of_one_server(self) -> Self {
        match self {
            Fault::Slot(text) => Fault::Refusing(text),
            fault => fault,
        }
    }

    /// Whether the server does not know a script by its name.
    pub(super) fn is_unknown_script(&self) -> bool {
        matches!(self, Fault::Refusing(text) if text.starts_with("redis answered NOSCRIPT"))
    }

    /// What an error line says.
    pub(super) fn from_server(error: &ServerError) -> Self {
        let text = describe(error.code(), error.details());
        let details = error.details().unwrap_or_default();
        let is_about_key = details.contains(NO_PERMISSION.1);
        let redirect = match error.code() {
            "MOVED" => Redirect::read(Lasting::FromNowOn, details, &text),
            "ASK" => Redirect::read(Lasting::ThisOnce, details, &text),
            _ => None,
        };
        if let Some(redirect) = redirect {
            return Fault::Elsewhere(redirect);
        }
        match error.code() {
            "MOVED" | "ASK" => Fault::Entry(text),
            "TRYAGAIN" => Fault::Slot(text),
            code if code == SLOT_NOT_SERVED.0 && details.contains(SLOT_NOT_SERVED.1) => {
                Fault::Slot(text)
            }
            "READONLY" => Fault::Demoted(text),
            code if TAKES_NO_WRITES.contains(&code) => Fault::NoWrites(text),
            code if code == NO_PERMISSION.0 && is_about_key => Fault::Entry(text),
            code if code == NO_PERMISSION.0 => Fault::Forbidden(text),
            code if ABOUT_ONE_KEY.contains(&code) => Fault::Entry(text),
            _ => Fault::Refusing(text),
        }
    }
}

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Self {
        match error.kind() {
            ErrorKind::Server(_) | ErrorKind::Extension => {
                let text = describe(error.code().unwrap_or_default(), error.detail());
                match error.into_server_errors() {
                    Some(errors) => errors
                        .first()
                        .map_or(Fault::Refusing(text), |(_, first)| Self::from_server(first)),
                    None => Fault::Refusing(text),
                }
            }
            ErrorKind::Parse => Fault::Lost("what redis sent is not its protocol".to_owned()),
            _ => Fault::Lost(clean(&error.to_string())),
        }
    }
}

/// An error line, fit for a log.
fn describe(code: &str, detail: Option<&str>) -> String {
    let detail = detail.unwrap_or_default();
    clean(&format!("redis answered {code} {detail}"))
}

/// Cuts what may be secret or endless. Redis repeats a command's arguments
/// after `with args`, and of an AUTH that it does not know that is a password.
pub(super) fn clean(text: &str) -> String {
    let harmless = text.split(", with args").next().unwrap_or_default();
    harmless
        .trim_end()
        .chars()
        .take(TEXT_MAX_CHARS)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::{Value, parse_redis_value};

    fn fault(line: &[u8]) -> Fault {
        match parse_redis_value(line) {
            Ok(Value::ServerError(error)) => Fault::from_server(&error),
            other => panic!("not an error line: {other:?}"),
        }
    }

    #[test]
    fn only_errors_about_a_key_concern_one_team() {
        for code in ABOUT_ONE_KEY {
            let line = format!("-{code} something\r\n");
            assert!(matches!(fault(line.as_bytes()), Fault::Entry(_)), "{code}");
        }
        for key in [
            &b"-NOPERM this user has no permissions to access one of the keys used as arguments\r\n"[..],
            b"-NOPERM No permissions to access a key\r\n",
        ] {
            assert!(matches!(fault(key), Fault::Entry(_)));
        }
        for command in [
            &b"-NOPERM this user has no permissions to run the 'get' command\r\n"[..],
            b"-NOPERM User key-access has no permissions to run the 'get' command\r\n",
        ] {
            assert!(matches!(fault(command), Fault::Forbidden(_)));
        }
        for code in [
            "LOADING",
            "NOAUTH",
            "MASTERDOWN",
            "CLUSTERDOWN",
            "BUSY",
            "WRONGPASS",
            "ERR",
            "SOMETHINGNEW",
        ] {
            let line = format!("-{code} something\r\n");
            assert!(
                matches!(fault(line.as_bytes()), Fault::Refusing(_)),
                "{code}"
            );
        }
    }

    #[test]
    fn a_server_that_takes_no_writes_answers_all_the_same() {
        for code in TAKES_NO_WRITES {
            let fault = fault(format!("-{code} something\r\n").as_bytes());
            assert!(matches!(fault, Fault::NoWrites(_)), "{code}");
            assert!(fault.is_answer());
            assert!(!fault.of_a_read().is_answer());
        }
    }

    #[test]
    fn a_cluster_names_the_node_that_holds_the_key() {
        let Fault::Elsewhere(moved) = fault(b"-MOVED 3999 2001:db8::1:6381\r\n") else {
            panic!("not a redirect")
        };
        assert_eq!(moved.lasting, Lasting::FromNowOn);
        assert_eq!((moved.slot, moved.port), (3999, 6381));
        assert_eq!(moved.host, "2001:db8::1");
        let Fault::Elsewhere(ask) = fault(b"-ASK 0 :7001\r\n") else {
            panic!("not a redirect")
        };
        assert_eq!((ask.lasting, ask.host.as_str()), (Lasting::ThisOnce, ""));
        for line in [
            &b"-MOVED\r\n"[..],
            b"-MOVED x y\r\n",
            b"-ASK 1 host:99999\r\n",
        ] {
            assert!(matches!(fault(line), Fault::Entry(_)), "{line:?}");
        }
    }

    #[test]
    fn what_concerns_one_slot_or_a_replica_is_told_apart() {
        for line in [
            &b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n"[..],
            b"-CLUSTERDOWN Hash slot not served\r\n",
        ] {
            assert!(matches!(fault(line), Fault::Slot(_)), "{line:?}");
        }
        let down = fault(b"-CLUSTERDOWN The cluster is down\r\n");
        assert!(matches!(down, Fault::Refusing(_)), "{down:?}");
        let replica = fault(b"-READONLY You can't write against a read only replica.\r\n");
        assert!(matches!(replica, Fault::Demoted(_)), "{replica:?}");
    }

    #[test]
    fn arguments_are_never_repeated() {
        let line = b"-ERR unknown command 'AUTH', with args beginning with: 'ann' 'hunter2' \r\n";
        let Fault::Refusing(text) = fault(line) else {
            panic!("about one key")
        };
        assert_eq!(text, "redis answered ERR unknown command 'AUTH'");
    }

    #[test]
    fn a_text_is_one_short_line() {
        let text = clean(&format!("a\r\nb\x1b[31m{}", "x".repeat(10_000)));
        assert!(text.starts_with("a  b [31mx"));
        assert_eq!(text.chars().count(), TEXT_MAX_CHARS);
    }
}
