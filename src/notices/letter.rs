//! [`Letter`]: a notice, ready to be posted.

use std::fmt;
use std::time::{Duration, Instant};

use http::HeaderValue;
use sha2::{Digest as _, Sha256};

use super::{Notice, Recipient, linear, slack};
use crate::billing::team::TeamId;
use crate::egress::Reply;
use crate::telemetry::notices::{Fate, Kind, NoticeMetrics};

/// The longest id that Slack or Linear give anything, and room to spare. What
/// is longer would fill the queue.
const ID_MAX_BYTES: usize = 64;

/// A notice, ready to be posted.
pub(super) struct Letter {
    pub(super) kind: Kind,
    pub(super) team: TeamId,
    pub(super) request_id: String,
    pub(super) url: String,
    pub(super) authorization: Option<HeaderValue>,
    /// JSON.
    pub(super) body: String,
    /// The conversation, if it is told only once in a while.
    pub(super) once: Option<Once>,
    /// After this it helps nobody.
    pub(super) due: Instant,
    /// What an answer means.
    pub(super) judge: fn(&Reply) -> Verdict,
}

impl fmt::Debug for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Letter")
            .field("kind", &self.kind)
            .field("team", &self.team)
            .field("request_id", &self.request_id)
            .finish_non_exhaustive()
    }
}

/// A conversation that is told once in a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Once {
    /// The mark that says that it was told.
    pub(super) name: String,
    /// How long that counts.
    pub(super) lasting: Duration,
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The notice was taken.
    Taken,
    /// Nothing was taken, and after this time it may be. The text is for the
    /// log and tells nothing secret.
    NotYet(Duration, String),
    /// It was not taken, or nobody knows. Likewise.
    Refused(String),
}

/// Counts a notice when it is gone, whatever becomes of it: as dropped, unless
/// something else is said.
#[derive(Debug)]
pub(super) struct Count {
    metrics: NoticeMetrics,
    kind: Kind,
    fate: Fate,
}

impl Count {
    pub(super) fn new(metrics: NoticeMetrics, kind: Kind) -> Self {
        Count {
            metrics,
            kind,
            fate: Fate::Dropped,
        }
    }

    pub(super) fn fared(mut self, fate: Fate) {
        self.fate = fate;
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.metrics.count(self.kind, self.fate);
    }
}

/// A letter in the queue, or on its way.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) letter: Letter,
    pub(super) count: Count,
}

impl Letter {
    /// What is to be posted.
    ///
    /// # Errors
    /// Why there is nobody to tell, or nothing to tell them with.
    pub(super) fn of(notice: &Notice) -> Result<Self, &'static str> {
        let post = match &notice.recipient {
            Recipient::LinearSession { workspace, session } => {
                linear::post(notice, workspace, session)?
            }
            _ => slack::post(notice)?,
        };
        let latest = match notice.recipient.kind() {
            Kind::Slack => slack::WITHIN,
            Kind::Linear => linear::WITHIN,
        };
        Ok(Letter {
            kind: notice.recipient.kind(),
            team: notice.team.clone(),
            request_id: notice.request_id.clone(),
            url: post.url,
            authorization: post.authorization,
            body: post.body,
            once: once(notice),
            // Only a clock at its very end has no such time.
            due: notice.since.checked_add(latest).unwrap_or(notice.since),
            judge: post.judge,
        })
    }
}

/// The part of a [`Letter`] that differs by where it goes.
pub(super) struct Post {
    pub(super) url: String,
    pub(super) authorization: Option<HeaderValue>,
    pub(super) body: String,
    pub(super) judge: fn(&Reply) -> Verdict,
}

/// The conversation, unless each of its notices is sent.
fn once(notice: &Notice) -> Option<Once> {
    if notice.via.every.is_zero() {
        return None;
    }
    let place = match &notice.recipient {
        // Each press of a button gets its answer, and Linear takes an agent
        // that says nothing to a prompt for one that is gone.
        Recipient::SlackReply(_) | Recipient::LinearSession { .. } => return None,
        Recipient::SlackThread {
            workspace,
            channel,
            thread,
            message,
            ..
        } => {
            let thread = thread.as_deref().or(message.as_deref()).unwrap_or_default();
            vec!["slack thread", workspace, channel, thread]
        }
        Recipient::SlackUser { workspace, user } => vec!["slack user", workspace, user],
    };
    let mut hash = Sha256::new();
    for part in place.into_iter().chain([notice.team.as_str()]) {
        hash.update(part);
        // Part of no id, so that parts cannot run into each other.
        hash.update([0]);
    }
    let hex: String = hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Some(Once {
        name: format!("notice:{hex}"),
        lasting: notice.via.every,
    })
}

/// Whether a text can be an id of Slack's or Linear's: of a team, a channel, a
/// message, a person, a session.
pub(super) fn is_id(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=ID_MAX_BYTES).contains(&text.len()) && text.bytes().all(fits)
}

/// A word of theirs that says what went wrong, if it looks like one: it goes to
/// the log.
pub(super) fn word(text: Option<&str>) -> &str {
    let fits = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    match text {
        Some(text) if (1..=ID_MAX_BYTES).contains(&text.len()) && text.bytes().all(fits) => text,
        _ => "not said in a word",
    }
}

/// The value of `authorization` with a token.
///
/// # Errors
/// If no header can say it.
pub(super) fn authorization(value: &str) -> Result<HeaderValue, &'static str> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| "the token that is configured has letters that no token has")?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Hidden, Via};
    use super::*;

    fn notice(team: &str, recipient: Recipient) -> Notice {
        Notice {
            team: TeamId::parse(team.as_bytes()).unwrap(),
            recipient,
            sentence: "Out of credits.".to_owned(),
            billing_url: None,
            via: Arc::new(Via {
                every: Duration::from_secs(600),
                ..Via::default()
            }),
            since: Instant::now(),
            request_id: "r".to_owned(),
        }
    }

    fn said(channel: &str, thread: Option<&str>, message: &str, user: &str) -> Recipient {
        Recipient::SlackThread {
            workspace: "T1".to_owned(),
            channel: channel.to_owned(),
            thread: thread.map(str::to_owned),
            message: Some(message.to_owned()),
            user: Some(user.to_owned()),
        }
    }

    fn name(team: &str, recipient: Recipient) -> String {
        once(&notice(team, recipient)).unwrap().name
    }

    #[test]
    fn a_thread_is_one_conversation_from_its_first_message_on() {
        let begins = name("acme", said("C1", None, "1.0", "U1"));
        let goes_on = name("acme", said("C1", Some("1.0"), "2.0", "U2"));
        assert_eq!(begins, goes_on);
    }

    #[test]
    fn other_threads_channels_and_teams_are_other_conversations() {
        let names = [
            name("acme", said("C1", None, "1.0", "U1")),
            name("acme", said("C1", None, "2.0", "U1")),
            name("acme", said("C2", None, "1.0", "U1")),
            name("other", said("C1", None, "1.0", "U1")),
            name(
                "acme",
                Recipient::SlackUser {
                    workspace: "T1".to_owned(),
                    user: "U1".to_owned(),
                },
            ),
        ];
        let distinct: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        for name in &names {
            let hex = name.strip_prefix("notice:").unwrap();
            assert_eq!(hex.len(), 64);
        }
    }

    #[test]
    fn each_press_of_a_button_and_each_prompt_gets_its_answer() {
        let press = Recipient::SlackReply(Hidden("https://hooks.slack.com/x".to_owned()));
        assert_eq!(once(&notice("acme", press)), None);
        let session = Recipient::LinearSession {
            workspace: "1".to_owned(),
            session: "1.0".to_owned(),
        };
        assert_eq!(once(&notice("acme", session)), None);
    }

    #[test]
    fn only_words_get_into_the_log() {
        assert_eq!(word(Some("channel_not_found")), "channel_not_found");
        let long = "a".repeat(65);
        for other in [None, Some(""), Some("a b"), Some("https://x"), Some(&long)] {
            assert_eq!(word(other), "not said in a word", "{other:?}");
        }
    }
}
