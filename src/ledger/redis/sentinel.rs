//! [`Sentinels`]: finds the master of a service, and notices when it is
//! another one.
//!
//! All sentinels are asked at the same time, and a majority of all of them, not
//! only of those that answer, is followed: one that was cut off, or lies, is
//! outvoted even while others begin anew. Without a majority a master that works
//! is kept, and one that is looked for is looked for where a majority last said;
//! what fewer say is the last resort. Nobody is believed
//! altogether: a server counts as the master only when it says so itself
//! (`ROLE`), and it is asked again as long as it is used, because a demoted one
//! goes on answering reads, with balances that are getting old.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::{RedisConnectionInfo, Value};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::SettingsError;
use super::fault::Fault;
use super::link::Link;
use super::settings::{SentinelSettings, Transport};
use super::transport::{Manner, Target, Tls, address_text};

/// How many servers that sentinels name are tried in one attempt. More can
/// only be named if nearly every sentinel says something else.
const CANDIDATES_MAX: usize = 3;

/// The part of the time for an attempt that the sentinels get.
const SENTINELS_SHARE: u32 = 4;

/// Sentinels, and the service whose master they are asked for.
pub(super) struct Sentinels {
    service: Arc<str>,
    seats: Vec<Arc<Seat>>,
    /// How the master is spoken to.
    master: Manner,
    /// The last one that most sentinels named and that agreed.
    confirmed: ArcSwapOption<Named>,
}

/// One sentinel, and the connection to it.
struct Seat {
    target: Target,
    attempts: AtomicUsize,
    link: Mutex<Option<Link>>,
}

impl fmt::Debug for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the master of {}", self.service)
    }
}

impl Sentinels {
    /// Opens no socket.
    pub(super) fn new(settings: &SentinelSettings, tls: &Tls) -> Result<Self, SettingsError> {
        let seats = settings.nodes.iter().map(|url| {
            let target = Target::new(url, tls)?;
            Ok(Arc::new(Seat {
                target,
                attempts: AtomicUsize::new(0),
                link: Mutex::new(None),
            }))
        });
        let seats: Vec<_> = seats.collect::<Result<_, SettingsError>>()?;
        if seats.is_empty() {
            return Err(SettingsError::Servers("no sentinel is named".to_owned()));
        }
        let mut hello = RedisConnectionInfo::default().set_db(settings.db);
        if let Some(user) = &settings.user {
            hello = hello.set_username(user);
        }
        if let Some(password) = &settings.password {
            hello = hello.set_password(password);
        }
        let client = match settings.transport {
            Transport::Plain => None,
            Transport::Tls => Some(tls.client()?),
        };
        Ok(Sentinels {
            service: settings.service.as_str().into(),
            seats,
            master: Manner::new(hello, client),
            confirmed: ArcSwapOption::empty(),
        })
    }

    /// Opens a connection to the master. The error is a sentence for people.
    pub(super) async fn open(
        &self,
        attempt: usize,
        connect_timeout: Duration,
    ) -> Result<Link, String> {
        let votes = self.ask(connect_timeout).await;
        if let Some(named) = votes.agreed(self.seats.len()) {
            let link = self.try_master(named, attempt, connect_timeout).await?;
            self.confirmed.store(Some(Arc::new(named.clone())));
            return Ok(link);
        }
        let mut why = votes.why_none(&self.service);
        let confirmed = self.confirmed.load_full();
        for candidate in votes.candidates(confirmed.as_deref()) {
            match self.try_master(candidate, attempt, connect_timeout).await {
                Ok(link) => return Ok(link),
                Err(reason) => why = reason,
            }
        }
        Err(why)
    }

    async fn try_master(
        &self,
        candidate: &Named,
        attempt: usize,
        connect_timeout: Duration,
    ) -> Result<Link, String> {
        let target = self.master.at(&candidate.host, candidate.port);
        let target = target.map_err(|error| error.to_string())?;
        let link = Link::open(&target, attempt, connect_timeout).await?;
        match timeout(connect_timeout, is_master(&link)).await {
            Ok(Ok(())) => Ok(link),
            Ok(Err(fault)) => Err(format!("the sentinels name {target}: {fault}")),
            Err(_) => Err(format!(
                "the sentinels name {target}, which does not answer"
            )),
        }
    }

    /// Whether this link still leads to where the sentinels send one. The error
    /// says why not. What they do not agree on does not count, nor does their
    /// silence: the link is good until somebody better is known.
    pub(super) async fn confirm(
        &self,
        link: &Link,
        connect_timeout: Duration,
    ) -> Result<(), String> {
        let votes = self.ask(connect_timeout).await;
        match votes.agreed(self.seats.len()) {
            Some(named) if named.text() != link.at() => Err(format!(
                "the sentinels name another master: {}",
                named.text()
            )),
            Some(named) => {
                self.confirmed.store(Some(Arc::new(named.clone())));
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Where this link leads, which was opened here.
    pub(super) fn target_of(&self, link: &Link) -> Option<Target> {
        let (host, port) = link.at().rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        self.master.at(host, port.parse().ok()?).ok()
    }

    /// Asks every sentinel, until most of them agree or time is up.
    async fn ask(&self, connect_timeout: Duration) -> Votes {
        let share = connect_timeout.checked_div(SENTINELS_SHARE);
        let patience = share.unwrap_or(connect_timeout);
        let mut asking = JoinSet::new();
        for seat in &self.seats {
            let (seat, service) = (Arc::clone(seat), Arc::clone(&self.service));
            asking.spawn(async move {
                timeout(patience, seat.ask(&service, patience))
                    .await
                    .unwrap_or_else(|_| Err(format!("no answer from {}", seat.target)))
            });
        }
        let mut votes = Votes::default();
        while let Some(answer) = asking.join_next().await {
            match answer {
                Ok(answer) => votes.count(answer),
                Err(panic) => votes.count(Err(panic.to_string())),
            }
            if votes.agreed(self.seats.len()).is_some() {
                break;
            }
        }
        // The others end by themselves when their time is up. Cut short, they
        // would have to connect anew each time.
        asking.detach_all();
        votes
    }
}

impl Seat {
    /// Whom this sentinel names; `None` if it does not know the service.
    async fn ask(&self, service: &str, patience: Duration) -> Result<Option<Named>, String> {
        let mut place = self.link.lock().await;
        // Taken out, so that being abandoned half-way throws it away.
        let link = match place.take().filter(|link| !link.is_over()) {
            Some(link) => link,
            None => {
                let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
                Link::open(&self.target, attempt, patience).await?
            }
        };
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(service);
        let named = match link.ask(&command).await {
            Ok(Value::Nil) => Ok(None),
            Ok(reply) => Named::read(reply)
                .map(Some)
                .ok_or_else(|| format!("{} answers nonsense", self.target)),
            Err(fault) => Err(format!("{}: {fault}", self.target)),
        };
        if named.is_ok() {
            *place = Some(link);
        }
        named
    }
}

/// Asks a server whether it is a master.
pub(super) async fn is_master(link: &Link) -> Result<(), Fault> {
    match link.ask(&redis::cmd("ROLE")).await? {
        Value::Array(role) => match role.first() {
            Some(Value::BulkString(name)) if name == b"master" => Ok(()),
            Some(Value::BulkString(_)) => Err(Fault::Demoted(format!(
                "redis at {} is a replica",
                link.at()
            ))),
            _ => Err(Fault::nonsense()),
        },
        _ => Err(Fault::nonsense()),
    }
}

/// A server that a sentinel names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    host: String,
    port: u16,
}

impl Named {
    fn read(reply: Value) -> Option<Self> {
        let Value::Array(parts) = reply else {
            return None;
        };
        let [Value::BulkString(host), Value::BulkString(port)] = parts.as_slice() else {
            return None;
        };
        Some(Named {
            host: String::from_utf8(host.clone())
                .ok()
                .filter(|host| !host.is_empty())?,
            port: std::str::from_utf8(port).ok()?.parse().ok()?,
        })
    }

    fn text(&self) -> String {
        address_text(&self.host, self.port)
    }
}

/// What the sentinels said.
#[derive(Debug, Default)]
struct Votes {
    /// Each server that was named, the one with the most votes first.
    names: Vec<(Named, usize)>,
    /// How many answered, if only that they do not know.
    answered: usize,
    /// Why one of them could not be asked.
    why: Option<String>,
}

impl Votes {
    fn count(&mut self, answer: Result<Option<Named>, String>) {
        match answer {
            Err(why) => self.why = Some(why),
            Ok(named) => {
                self.answered = self.answered.saturating_add(1);
                if let Some(named) = named {
                    self.add(named);
                }
            }
        }
    }

    fn add(&mut self, named: Named) {
        match self.names.iter_mut().find(|(known, _)| *known == named) {
            Some((_, votes)) => *votes = votes.saturating_add(1),
            None => self.names.push((named, 1)),
        }
        self.names
            .sort_by_key(|(_, votes)| std::cmp::Reverse(*votes));
    }

    /// What most of so many sentinels say, whatever those say that were not
    /// heard of.
    fn agreed(&self, sentinels: usize) -> Option<&Named> {
        let (named, votes) = self.names.first()?;
        is_most(*votes, sentinels).then_some(named)
    }

    /// Where to look for the master while there is no majority.
    fn candidates<'a>(&'a self, confirmed: Option<&'a Named>) -> Vec<&'a Named> {
        let named = self.names.iter().map(|(named, _)| named);
        let others = named.filter(|named| Some(*named) != confirmed);
        let first = confirmed.into_iter();
        first.chain(others).take(CANDIDATES_MAX).collect()
    }

    fn why_none(&self, service: &str) -> String {
        match &self.why {
            Some(why) if self.answered == 0 => {
                format!("no sentinel can be asked for the master of {service}: {why}")
            }
            _ => format!("no sentinel knows a master of {service}"),
        }
    }
}

fn is_most(votes: usize, of: usize) -> bool {
    votes.saturating_mul(2) > of
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(port: u16) -> Named {
        Named {
            host: "10.0.0.1".to_owned(),
            port,
        }
    }

    fn votes(answers: &[Result<Option<u16>, &str>]) -> Votes {
        let mut votes = Votes::default();
        for answer in answers {
            votes.count(match answer {
                Ok(port) => Ok(port.map(named)),
                Err(why) => Err((*why).to_owned()),
            });
        }
        votes
    }

    #[test]
    fn one_that_lies_is_outvoted() {
        let votes = votes(&[Ok(Some(2)), Ok(Some(1)), Ok(Some(1))]);
        assert_eq!(votes.agreed(3), Some(&named(1)));
        assert_eq!(votes.names.first(), Some(&(named(1), 2)));
    }

    #[test]
    fn half_of_them_or_the_only_one_that_answers_is_not_enough() {
        assert_eq!(votes(&[Ok(Some(2)), Ok(Some(1))]).agreed(2), None);
        assert_eq!(votes(&[Ok(Some(2)), Ok(None)]).agreed(2), None);
        assert_eq!(votes(&[]).agreed(1), None);
        let silent = votes(&[Ok(Some(2)), Err("gone"), Err("gone")]);
        assert_eq!(silent.agreed(3), None);
        assert_eq!(votes(&[Ok(Some(2))]).agreed(1), Some(&named(2)));
    }

    #[test]
    fn without_a_majority_the_last_one_that_had_it_is_tried_first() {
        let said = votes(&[Ok(Some(2)), Ok(Some(1)), Err("gone")]);
        let (one, two, other) = (named(1), named(2), named(3));
        assert_eq!(said.candidates(None), [&two, &one]);
        assert_eq!(said.candidates(Some(&one)), [&one, &two]);
        assert_eq!(said.candidates(Some(&other)), [&other, &two, &one]);
        assert_eq!(votes(&[Err("gone")]).candidates(Some(&one)), [&one]);
    }

    #[test]
    fn it_says_whether_they_are_away_or_do_not_know() {
        let away = votes(&[Err("gone"), Err("lost")]).why_none("main");
        assert_eq!(
            away,
            "no sentinel can be asked for the master of main: lost"
        );
        let unknown = votes(&[Ok(None), Err("lost")]).why_none("main");
        assert_eq!(unknown, "no sentinel knows a master of main");
    }

    #[test]
    fn only_an_address_is_taken_for_one() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let good = Value::Array(vec![text("10.0.0.1"), text("6379")]);
        assert_eq!(Named::read(good), Some(named(6379)));
        for bad in [
            Value::Array(vec![text("10.0.0.1")]),
            Value::Array(vec![text(""), text("6379")]),
            Value::Array(vec![text("10.0.0.1"), text("65536")]),
            Value::Okay,
        ] {
            assert_eq!(Named::read(bad.clone()), None, "{bad:?}");
        }
    }
}
