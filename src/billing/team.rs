//! [`TeamId`]: who pays; [`Principal`]: who asked, within a team.

use std::fmt;
use std::sync::Arc;

/// The most bytes a team id may have.
pub const TEAM_ID_MAX_BYTES: usize = 128;

/// The id of a team: `[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127}`, used as it is.
///
/// The alphabet leaves out braces, blanks and slashes, so that an id can stand
/// in a Redis key, a header and a path without being encoded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TeamId(Arc<str>);

/// Why a text is not a team id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a team id: 1 to 128 of A-Z a-z 0-9 _ . : @ -, the first a letter or digit")]
pub struct NotTeamId;

impl TeamId {
    /// Takes a team id as it is.
    ///
    /// # Errors
    /// [`NotTeamId`] if it has another form.
    pub fn parse(text: &[u8]) -> Result<Self, NotTeamId> {
        let head_fits = text.first().is_some_and(u8::is_ascii_alphanumeric);
        let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.:@-".contains(byte);
        if !head_fits || text.len() > TEAM_ID_MAX_BYTES || !text.iter().all(fits) {
            return Err(NotTeamId);
        }
        let text = std::str::from_utf8(text).map_err(|_| NotTeamId)?;
        Ok(TeamId(text.into()))
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TeamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who asked, within a team: a name that is safe to log and to forward, never
/// a credential.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Principal(Arc<str>);

impl Principal {
    /// Takes a name. Anything outside visible ASCII becomes `_`, so that it
    /// can stand in a header and a log line.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let safe = |c: char| if c.is_ascii_graphic() { c } else { '_' };
        let safe: String = name.chars().take(TEAM_ID_MAX_BYTES).map(safe).collect();
        Principal(safe.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_ids_as_they_are_and_nothing_else() {
        let longest = "a".repeat(TEAM_ID_MAX_BYTES);
        for good in ["a", "0", "acme", "A1_.:@-", &longest] {
            assert_eq!(TeamId::parse(good.as_bytes()).unwrap().as_str(), good);
        }
        let longer = "a".repeat(TEAM_ID_MAX_BYTES + 1);
        for bad in [
            "", "-a", ".a", ":a", "a b", "a/b", "a}{b", "a\n", "ä", "a,b", &longer,
        ] {
            assert!(TeamId::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_principal_cannot_break_a_line() {
        assert_eq!(
            Principal::new("ann\r\nx-evil: 1").as_str(),
            "ann__x-evil:_1"
        );
    }
}
