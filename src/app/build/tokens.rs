//! From a configuration to the keys of its token issuers, and what keeps those
//! of a URL fresh.
//!
//! A file is read at the start and on each reload; one that cannot be used is
//! a mistake, as a certificate would be. A URL that does not answer is none:
//! the gateway serves meanwhile, and says of that issuer's tokens alone that
//! it cannot tell. A reload never forgets the keys of a URL that stays.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use super::{BuildError, Shared};
use crate::config::values::Place;
use crate::config::{self, Config, JwtIdentity};
use crate::edge::identify::keyring::keys::Keys;
use crate::edge::identify::keyring::{Keyring, Pace, Refresher, Source};
use crate::egress::Egress;
use crate::telemetry::Metrics;

/// The largest answer of an issuer that is read, as for a file.
const ANSWER_MAX_BYTES: usize = 1024 * 1024;

/// The keys of the configured token issuers.
#[derive(Clone, Default)]
pub struct Issuers {
    /// In the order of the configuration.
    known: Vec<(String, Keyring)>,
}

/// What keeps new keyrings fresh, not yet begun.
#[derive(Default)]
pub struct Refreshers(Vec<(Keyring, Refresher)>);

impl Issuers {
    /// The keys, in the order of the configuration.
    #[must_use]
    pub fn keyrings(&self) -> Vec<Keyring> {
        let known = self.known.iter();
        known.map(|(_, keyring)| keyring.clone()).collect()
    }

    /// How long ago each issuer that is asked last said what its keys are, in
    /// seconds.
    pub fn ages(&self) -> impl Iterator<Item = (&str, f64)> {
        self.known
            .iter()
            .filter_map(|(issuer, keyring)| Some((issuer.as_str(), keyring.age()?.as_secs_f64())))
    }
}

impl Refreshers {
    /// Begins, and gives each issuer a moment to answer.
    pub async fn begin(self, runtime: &Handle, within: Duration) {
        let mut begun = Vec::new();
        for (keyring, refresher) in self.0 {
            runtime.spawn(refresher.run());
            begun.push(keyring);
        }
        // One moment for all of them: they are asked at the same time.
        let deadline = Instant::now().checked_add(within);
        let all = async {
            for keyring in &begun {
                keyring.settled(within).await;
            }
        };
        if let Some(deadline) = deadline {
            drop(timeout_at(deadline, all).await);
        }
    }
}

/// Gets the keys of the configured token issuers, or finds out how to.
///
/// # Errors
/// [`BuildError::Keys`]: a file that gives no keys.
pub fn issuers(
    config: &Config,
    egress: &Egress,
    metrics: &Metrics,
    before: Option<(&Config, &Shared)>,
) -> Result<(Issuers, Refreshers), BuildError> {
    let (mut issuers, mut refreshers) = (Issuers::default(), Refreshers::default());
    for (index, jwt) in jwts(config) {
        let keyring = match (&jwt.secret, &jwt.jwks) {
            (Some(secret), _) => Keyring::fixed(Keys::of_secret(secret.expose().as_bytes())),
            (None, None) => Keyring::empty(),
            (None, Some(jwks)) => match jwks.place() {
                Place::File(path) => Keyring::fixed(read(index, path)?),
                Place::Url(url) => match kept(jwt, config, before) {
                    Kept::Whole(keyring) => keyring,
                    Kept::Keys(old) => {
                        let source = OfUrl {
                            egress: egress.clone(),
                            url: url.to_owned(),
                        };
                        let (keyring, refresher) = Keyring::refreshed(
                            Box::new(source),
                            Pace::every(jwt.refresh.duration()),
                            jwt.issuer.as_str(),
                            metrics.tokens.refreshes.clone(),
                            old.as_ref(),
                        );
                        refreshers.0.push((keyring.clone(), refresher));
                        keyring
                    }
                },
            },
        };
        let issuer = jwt.issuer.as_str().to_owned();
        issuers.known.push((issuer, keyring));
    }
    Ok((issuers, refreshers))
}

/// The token issuers, each with its place among the identities.
fn jwts(config: &Config) -> impl Iterator<Item = (usize, &JwtIdentity)> {
    let identities = config.identity.iter().enumerate();
    identities.filter_map(|(index, identity)| match identity {
        config::Identity::Jwt(jwt) => Some((index, jwt)),
        _ => None,
    })
}

/// What a reload keeps of what it finds.
enum Kept {
    /// The keyring, and what keeps it fresh.
    Whole(Keyring),
    /// Its keys, if there are any, until those are asked for anew.
    Keys(Option<Keyring>),
}

fn kept(jwt: &JwtIdentity, config: &Config, before: Option<(&Config, &Shared)>) -> Kept {
    let Some((old, shared)) = before else {
        return Kept::Keys(None);
    };
    let known = shared.issuers.known.iter().map(|(_, keyring)| keyring);
    let mut same = jwts(old)
        .map(|(_, old)| old)
        .zip(known)
        .filter(|(old, _)| old.secret.is_none() && old.jwks == jwt.jwks);
    // Certificates may have changed in a file whose name did not.
    let same_egress = old.egress == config.egress && config.egress.ca.is_none();
    match same.next() {
        Some((old, keyring)) if same_egress && asked_alike(old, jwt) => {
            Kept::Whole(keyring.clone())
        }
        found => Kept::Keys(found.map(|(_, keyring)| keyring.clone())),
    }
}

/// Whether both are asked for their keys in the same way.
fn asked_alike(one: &JwtIdentity, other: &JwtIdentity) -> bool {
    let how = |jwt: &JwtIdentity| (jwt.jwks.clone(), jwt.issuer.clone(), jwt.refresh);
    how(one) == how(other)
}

/// Reads a file with keys.
fn read(index: usize, path: &Path) -> Result<Keys, BuildError> {
    let trouble = |why: String| {
        let path = path.display();
        BuildError::Keys(format!("identity[{index}].jwt.jwks: {path}: {why}"))
    };
    let json = config::read_bounded(path).map_err(trouble)?;
    Keys::read(&json).map_err(|error| trouble(error.to_string()))
}

/// An issuer that is asked at a URL.
struct OfUrl {
    egress: Egress,
    url: String,
}

#[async_trait]
impl Source for OfUrl {
    async fn read(&self) -> Result<Keys, String> {
        let reply = self.egress.get(&self.url, ANSWER_MAX_BYTES).await;
        let reply = reply.map_err(|error| error.to_string())?;
        if reply.status != http::StatusCode::OK {
            return Err(format!("it answers with status {}", reply.status.as_u16()));
        }
        Keys::read(&reply.body).map_err(|error| error.to_string())
    }
}
