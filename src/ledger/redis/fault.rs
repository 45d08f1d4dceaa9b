//! [`Fault`]: what a command that got no proper answer says about Redis.
//!
//! The one question here is whom a fault concerns: everybody (the connection,
//! the server) or a single key. The texts are fit for logs: they never hold a
//! password, a key's content or the arguments of a command.

use redis::{ErrorKind, RedisError, ServerError};

/// The most characters of a server's error line that are repeated.
const TEXT_MAX_CHARS: usize = 160;

/// Error codes that are about the key of the command and nothing else. The
/// last three come from a node of a cluster that does not hold the key; the
/// next team's key may well be there.
const ABOUT_ONE_KEY: [&str; 4] = ["WRONGTYPE", "MOVED", "ASK", "CROSSSLOT"];

/// What a user may not do is said with this code, and with this word if it is
/// about the key; otherwise it is about the command, for whatever key.
const NO_PERMISSION: (&str, &str) = ("NOPERM", "keys");

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
    /// The server answers that this user may not ask such a thing at all.
    Forbidden(String),
    /// The canary key does not exist: the balances are gone, not zero.
    CanaryMissing,
    /// An error about the key that was asked for.
    Entry(String),
}

impl Fault {
    /// A reply of a form that this command cannot have.
    pub(super) fn nonsense() -> Self {
        Fault::Lost("redis sent something that is no reply to what was asked".to_owned())
    }

    /// What an error line says.
    pub(super) fn from_server(error: &ServerError) -> Self {
        let text = describe(error.code(), error.details());
        let is_about_key = error
            .details()
            .is_some_and(|details| details.contains(NO_PERMISSION.1));
        match error.code() {
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
        let forbidden_key =
            b"-NOPERM this user has no permissions to access one of the keys used as arguments\r\n";
        assert!(matches!(fault(forbidden_key), Fault::Entry(_)));
        let forbidden = b"-NOPERM this user has no permissions to run the 'get' command\r\n";
        assert!(matches!(fault(forbidden), Fault::Forbidden(_)));
        for code in [
            "LOADING",
            "NOAUTH",
            "MASTERDOWN",
            "READONLY",
            "CLUSTERDOWN",
            "BUSY",
            "OOM",
            "TRYAGAIN",
            "MISCONF",
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
