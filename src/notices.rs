//! Notices: people are told of a refusal where they look, off the request path.
//!
//! Whoever has a notice [offers](Notices::offer) it and goes on. One [`Worker`]
//! sends them, a few at a time, with a lane for each [`Kind`] so that trouble
//! with one does not cost the other's people.
//!
//! Promises: bounded memory and time; nothing of this on the request path; each
//! notice is counted once in `tollgate_notices_total`, with a log line where
//! nobody was told. Nothing goes anywhere but to Slack's and Linear's own hosts
//! over HTTPS. Addresses, tokens and texts are in no log.
//!
//! A conversation is told once in a while ([`Via::every`]), through all
//! gateways: whoever is first marks it in the ledger and sends. It is marked
//! before it is sent, so a notice that fails is lost until that time is over;
//! marking it after would send it as often as there are gateways, and a Slack
//! that answers slowly would be asked again for every refusal. While the ledger
//! is away each gateway knows only what it marked itself. A button's
//! `response_url` is no conversation: each press gets its answer. Neither is a
//! session in Linear, where somebody waits for an answer to each prompt.
//!
//! What deliveries say, and when there is a notice, is elsewhere
//! ([`crate::edge`]); how requests leave is in [`crate::egress`].

mod carry;
mod letter;
mod linear;
mod marks;
mod slack;
mod worker;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::billing::team::TeamId;
use crate::egress::Egress;
use crate::ledger::Ledger;
use crate::telemetry::notices::{Fate, Kind, NoticeMetrics};
use carry::Hands;
use letter::{Count, Letter, Waiting};
pub use slack::is_reply_url;
pub use worker::Worker;

/// How many notices of a kind may wait.
const QUEUE: usize = 1000;

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Where the person behind a delivery can be told something. Made only of
/// deliveries whose signature held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// Slack's `response_url`: whoever pressed the button or used the shortcut.
    SlackReply(Hidden),
    /// A conversation in Slack.
    SlackThread {
        /// The workspace whose bot speaks.
        workspace: String,
        /// The channel.
        channel: String,
        /// The thread that what was said stands in (`thread_ts`).
        thread: Option<String>,
        /// What was said itself (`ts`), which a thread could begin with. It is
        /// told apart because Slack shows a message for one person's eyes in a
        /// thread only if the thread exists.
        message: Option<String>,
        /// Who asked, and alone gets to see it.
        user: Option<String>,
    },
    /// A person in Slack, without a conversation: a direct message.
    SlackUser {
        /// The workspace whose bot speaks.
        workspace: String,
        /// Who asked.
        user: String,
    },
    /// An agent session in Linear.
    LinearSession {
        /// The organisation that it belongs to.
        workspace: String,
        /// The session.
        session: String,
    },
}

impl Recipient {
    /// Through whom they are told.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Recipient::SlackReply(_)
            | Recipient::SlackThread { .. }
            | Recipient::SlackUser { .. } => Kind::Slack,
            Recipient::LinearSession { .. } => Kind::Linear,
        }
    }
}

/// What notices of one route are sent with.
#[derive(Clone, Debug, Default)]
pub struct Via {
    /// Slack's bot tokens.
    pub bot_token: Tokens,
    /// Linear's API tokens.
    pub api_token: Tokens,
    /// For how long one notice stands for all that follow; zero: each is sent.
    pub every: Duration,
}

/// What workspaces are told something with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tokens {
    /// Nothing is configured.
    #[default]
    None,
    /// The same for every workspace.
    One(Hidden),
    /// By workspace.
    Each(BTreeMap<String, Hidden>),
}

impl Tokens {
    /// The token of a workspace, never another's: what is told would be known
    /// to people whom it does not concern.
    #[must_use]
    pub fn of(&self, workspace: &str) -> Option<&Hidden> {
        match self {
            Tokens::None => None,
            Tokens::One(token) => Some(token),
            Tokens::Each(tokens) => tokens.get(workspace),
        }
    }
}

/// Something that a person is to be told.
#[derive(Clone, Debug)]
pub struct Notice {
    /// Whose credits it is about.
    pub team: TeamId,
    /// Who is told, and where.
    pub recipient: Recipient,
    /// The sentence, plain text.
    pub sentence: String,
    /// Where credits can be bought.
    pub billing_url: Option<Arc<str>>,
    /// What it is sent with.
    pub via: Arc<Via>,
    /// When the delivery came.
    pub since: Instant,
    /// The request's id, for the log.
    pub request_id: String,
}

/// What a [`Worker`] works with. A reload may put other in its place.
#[derive(Clone)]
pub struct Means {
    /// How requests leave.
    pub egress: Egress,
    /// Where conversations that were told are marked.
    pub ledger: Arc<dyn Ledger>,
}

impl fmt::Debug for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Means").finish_non_exhaustive()
    }
}

/// Takes notices. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Notices(Option<Arc<Desk>>);

/// What clones share.
#[derive(Debug)]
struct Desk {
    slack: mpsc::Sender<Waiting>,
    linear: mpsc::Sender<Waiting>,
    means: Arc<ArcSwap<Means>>,
    metrics: NoticeMetrics,
}

impl Notices {
    /// Nobody is told anything, and nothing is counted.
    #[must_use]
    pub fn off() -> Self {
        Notices(None)
    }

    /// Takes notices for the worker, which is to be run.
    #[must_use]
    pub fn new(means: Means, metrics: NoticeMetrics) -> (Self, Worker) {
        let (slack, slack_queue) = mpsc::channel(QUEUE);
        let (linear, linear_queue) = mpsc::channel(QUEUE);
        let means = Arc::new(ArcSwap::from_pointee(means));
        let worker = Worker::new([slack_queue, linear_queue], Hands::new(Arc::clone(&means)));
        let desk = Desk {
            slack,
            linear,
            means,
            metrics,
        };
        (Notices(Some(Arc::new(desk))), worker)
    }

    /// Notices that are not on their way yet are sent with these from now on.
    pub fn work_with(&self, means: Means) {
        if let Some(desk) = &self.0 {
            desk.means.store(Arc::new(means));
        }
    }

    /// Takes a notice, or drops and counts it if there are too many, or if
    /// there is nothing to send it with. Never waits.
    pub fn offer(&self, notice: Notice) {
        let Some(desk) = &self.0 else { return };
        let kind = notice.recipient.kind();
        let letter = match Letter::of(&notice) {
            Ok(letter) => letter,
            Err(why) => return self.untold(kind, &notice.team, &notice.request_id, why),
        };
        let queue = match kind {
            Kind::Slack => &desk.slack,
            Kind::Linear => &desk.linear,
        };
        let count = Count::new(desk.metrics.clone(), kind);
        let why = match queue.try_send(Waiting { letter, count }) {
            Ok(()) => return,
            Err(TrySendError::Full(_)) => "too many wait already",
            Err(TrySendError::Closed(_)) => "the gateway is ending",
        };
        tracing::warn!(
            kind = kind.name(),
            team = %notice.team,
            request_id = notice.request_id,
            reason = why,
            "a notice was dropped"
        );
    }

    /// Says that nobody can be told of a refusal, and why.
    pub fn untold(&self, kind: Kind, team: &TeamId, request_id: &str, why: &'static str) {
        let Some(desk) = &self.0 else { return };
        desk.metrics.count(kind, Fate::Untold);
        tracing::info!(
            kind = kind.name(),
            %team,
            request_id,
            reason = why,
            "nobody could be told of a refusal"
        );
    }
}
