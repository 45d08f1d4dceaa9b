//! [`Place`]: where a connection goes to, as far as that is known before it is
//! made. Behind sentinels it is found out each time.

use std::fmt;
use std::time::Duration;

use super::link::Link;
use super::sentinel::Sentinels;
use super::transport::{Target, Tls};
use super::{RedisSettings, Servers, SettingsError};

/// Where a connection goes to.
#[derive(Debug)]
pub(super) enum Place {
    /// Always there.
    Fixed(Target),
    /// To the master that the sentinels name.
    Elected(Sentinels),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Fixed(target) => target.fmt(f),
            Place::Elected(sentinels) => sentinels.fmt(f),
        }
    }
}

impl Place {
    /// The place of a ledger that is kept on one server at a time; `None` if
    /// it is spread over a cluster. Reads the certificate files.
    pub(super) fn new(settings: &RedisSettings) -> Result<Option<Self>, SettingsError> {
        let tls = Tls::new(settings.tls.as_ref());
        let place = match &settings.servers {
            Servers::One(url) => Place::Fixed(Target::new(url, &tls)?),
            Servers::Sentinel(sentinel) => Place::Elected(Sentinels::new(sentinel, &tls)?),
            Servers::Cluster(_) => return Ok(None),
        };
        tls.is_used_if_given()?;
        Ok(Some(place))
    }

    /// Whether it is found out each time.
    pub(super) fn is_elected(&self) -> bool {
        matches!(self, Place::Elected(_))
    }

    /// Where this link leads, which was opened here.
    pub(super) fn target_of(&self, link: &Link) -> Option<Target> {
        match self {
            Place::Fixed(target) => Some(target.clone()),
            Place::Elected(sentinels) => sentinels.target_of(link),
        }
    }

    /// Opens a connection, in the current runtime. The error is a sentence for
    /// people.
    pub(super) async fn open(
        &self,
        attempt: usize,
        connect_timeout: Duration,
    ) -> Result<Link, String> {
        match self {
            Place::Fixed(target) => Link::open(target, attempt, connect_timeout).await,
            Place::Elected(sentinels) => sentinels.open(attempt, connect_timeout).await,
        }
    }
}
