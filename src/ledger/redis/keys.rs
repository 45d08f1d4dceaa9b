//! Where in Redis things are: key templates with the placeholders filled in.
//!
//! No Redis command is made here, and no template is judged: that a template
//! has its placeholder is the business of the configuration.

use std::fmt;

use redis::{RedisWrite, ToRedisArgs};

/// A team's live holds and their totals.
pub(super) const HOLDS: &str = "tollgate:holds:{<team>}";

/// When each of a team's holds is up.
const DUE: &str = "tollgate:due:{<team>}";

/// What is remembered of a team's holds.
const DONE: &str = "tollgate:done:{<team>}";

/// A team's statement.
const STATEMENT: &str = "tollgate:statement:{<team>}";

/// Before a run's id: whose run it is.
pub(super) const RUN: &str = "tollgate:run:";

/// Before the name of what happened once.
pub(super) const MARK: &str = "tollgate:mark:";

/// The version of everything of ours in this Redis.
pub(super) const SCHEMA: &str = "tollgate:schema";

/// The version that is known. The scripts write and check it too.
pub(super) const SCHEMA_VERSION: &str = "1";

/// Replaced by the team's id.
const TEAM: &str = "<team>";

/// Replaced by the lower-case hex SHA-256 of an API key.
const SHA256: &str = "<sha256>";

/// The names of the keys, as the configuration gives them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The key of a team's balance, with `<team>` in it.
    pub balance: String,
    /// If the balance key is a hash: the field, with or without `<team>` in it.
    pub field: Option<String>,
    /// The hash of an API key, with `<sha256>` in it.
    pub api_key: String,
    /// A key that must exist, or the ledger counts as lost.
    pub canary: Option<String>,
}

/// The keys of a team's holds, whatever the configuration says.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) holds: Template,
    pub(super) due: Template,
    pub(super) done: Template,
    pub(super) statement: Template,
}

impl Layout {
    pub(super) fn new() -> Self {
        Layout {
            holds: Template::for_team(HOLDS),
            due: Template::for_team(DUE),
            done: Template::for_team(DONE),
            statement: Template::for_team(STATEMENT),
        }
    }
}

/// A key with a hole in it, taken apart once so that each request only copies.
#[derive(Debug)]
pub(super) struct Template {
    /// What stands before the first hole.
    head: Box<str>,
    /// What stands after each hole.
    tails: Box<[Box<str>]>,
}

impl Template {
    pub(super) fn for_team(text: &str) -> Self {
        Self::new(text, TEAM)
    }

    pub(super) fn for_api_key(text: &str) -> Self {
        Self::new(text, SHA256)
    }

    fn new(text: &str, placeholder: &str) -> Self {
        let mut parts = text.split(placeholder).map(Box::from);
        Template {
            head: parts.next().unwrap_or_default(),
            tails: parts.collect(),
        }
    }

    /// What is in the holes of a key of this form; empty if it has none.
    /// `None`: the key has another form.
    pub(super) fn holes<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        let key = std::str::from_utf8(key).ok()?;
        let fixed = self.tails.iter().map(|tail| tail.len()).sum::<usize>();
        let length = key
            .len()
            .checked_sub(fixed.saturating_add(self.head.len()))?;
        // Every hole holds the same.
        let length = length.checked_div(self.tails.len()).unwrap_or_default();
        let value = key.get(self.head.len()..)?.get(..length)?;
        (self.fill(value).to_string() == key).then_some(value)
    }

    /// The key with this value in every hole.
    pub(super) fn fill<'a>(&'a self, value: &'a str) -> Filled<'a> {
        Filled {
            template: self,
            value,
        }
    }
}

/// A template and what goes into its holes. Written straight into the command,
/// without a string of its own.
#[derive(Clone, Copy)]
pub(super) struct Filled<'a> {
    template: &'a Template,
    value: &'a str,
}

impl Filled<'_> {
    /// Writes it as a word of a command, as it goes over the wire.
    pub(super) fn pack(&self, out: &mut Vec<u8>) {
        let template = self.template;
        let length = template
            .tails
            .iter()
            .fold(template.head.len(), |sum, tail| {
                sum.saturating_add(self.value.len())
                    .saturating_add(tail.len())
            });
        out.push(b'$');
        digits(length, out);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(template.head.as_bytes());
        for tail in &template.tails {
            out.extend_from_slice(self.value.as_bytes());
            out.extend_from_slice(tail.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// A number in decimal.
pub(super) fn digits(number: usize, out: &mut Vec<u8>) {
    if number > 9 {
        digits(number / 10, out);
    }
    let digit = u8::try_from(number % 10).unwrap_or_default();
    out.push(b'0'.saturating_add(digit));
}

impl fmt::Display for Filled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.template.head)?;
        for tail in &self.template.tails {
            f.write_str(self.value)?;
            f.write_str(tail)?;
        }
        Ok(())
    }
}

impl ToRedisArgs for Filled<'_> {
    fn write_redis_args<W>(&self, out: &mut W)
    where
        W: ?Sized + RedisWrite,
    {
        out.write_arg_fmt(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_what_its_holes_were_filled_with() {
        for (template, key, value) in [
            ("credits:{<team>}", "credits:{acme}", Some("acme")),
            ("credits:{<team>}", "credits:{}", Some("")),
            ("credits:{<team>}", "credits:{acme", None),
            ("credits:{<team>}", "credit:{acme}", None),
            ("<team>", "acme", Some("acme")),
            ("<team>:credits:<team>", "acme:credits:acme", Some("acme")),
            ("<team>:credits:<team>", "acme:credits:acmf", None),
            ("<team>:credits:<team>", "acme:credits:acm", None),
            ("balances", "balances", Some("")),
            ("balances", "balances2", None),
            ("credits:<team>", "x", None),
        ] {
            let found = Template::for_team(template).holes(key.as_bytes());
            assert_eq!(found, value, "{template} {key}");
        }
        assert_eq!(Template::for_team("<team>").holes(b"\xff"), None);
    }

    #[test]
    fn every_hole_is_filled_and_the_rest_stays() {
        for (template, expected) in [
            ("credits:{<team>}", "credits:{acme}"),
            ("<team>", "acme"),
            ("<team>:credits:<team>", "acme:credits:acme"),
            ("balances", "balances"),
            ("<sha256>", "<sha256>"),
            (&"x".repeat(1234), &"x".repeat(1234)),
        ] {
            assert_eq!(
                Template::for_team(template).fill("acme").to_string(),
                expected
            );
            let mut word = Vec::new();
            Template::for_team(template).fill("acme").pack(&mut word);
            let packed = format!("${}\r\n{expected}\r\n", expected.len());
            assert_eq!(word, packed.as_bytes());
        }
    }
}
