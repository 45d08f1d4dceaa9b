//! Deliveries of integrations: whose they are, whether they start a run, and
//! where the person behind one can be told something.
//!
//! Pure: a delivery is read from its headers and its whole body, at a given
//! time. Nothing is read from it before its signature holds.

mod json;
mod linear;
pub mod signature;
mod slack;
mod written;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;
use http::header::HeaderName;
use serde::Deserialize;

use crate::billing::team::TeamId;
use crate::config::values::{LookupKey, Secret};
use crate::config::{RefuseWith, WebhookKind};
use crate::notices::{Recipient, Via};
use json::Loose;
use signature::SignatureFault;
pub use slack::DEFAULT_STOP_ACTIONS;

/// The longest id of a workspace, person, channel or session, in bytes: what
/// [`WorkspaceId`](crate::config::values::WorkspaceId) allows.
const ID_MAX_BYTES: usize = 64;

/// What a delivery is, once its signature holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Whether it starts a run.
    pub meaning: Meaning,
    /// The workspace or, where there is none, the enterprise; Linear's
    /// organisation.
    pub workspace: Option<String>,
    /// Who asked, such as `slack:U0123`.
    pub principal: Option<String>,
    /// What it is recognised by when it comes again: Slack's `event_id`,
    /// `Linear-Delivery`.
    pub id: Option<String>,
    /// What kind of delivery it is, which says how it is answered.
    pub surface: Surface,
    /// Where the person behind a start can be told something that its answer
    /// does not tell them.
    pub recipient: Result<Recipient, Nobody>,
}

/// Why a delivery names nobody to be told something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nobody {
    /// Nobody has to be told: a bot sent it, it starts nothing, or its answer
    /// tells whoever did.
    ToTell,
    /// Somebody may wait, and it does not say who or where.
    Named,
}

/// Whether a delivery starts a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// It does, or may.
    Start,
    /// It does not, and why: for the log.
    NoStart(&'static str),
}

/// What kind of delivery it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// Slack's Events API: nobody sees the answer.
    SlackEvent,
    /// A slash command: the answer is shown to whoever typed it.
    SlackCommand,
    /// Actions and shortcuts: nobody sees the answer.
    SlackInteraction,
    /// A form that was sent: the answer can replace it.
    SlackSubmission,
    /// Linear: nobody sees the answer.
    Linear,
}

/// Why a delivery is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Its signature does not hold: 401.
    Signature(SignatureFault),
    /// Its signature holds, and it makes no sense all the same, or names no
    /// workspace: 400, with this detail.
    Invalid(&'static str),
}

/// The deliveries of a route.
pub struct Webhook {
    /// Who delivers.
    pub kind: WebhookKind,
    /// The secrets that may have signed them.
    pub secrets: Vec<Secret>,
    /// Teams by workspace.
    pub teams: BTreeMap<String, TeamId>,
    /// Where the ledger has the team of a workspace.
    pub team_key: Option<LookupKey>,
    /// Slack: actions that stop or close something.
    pub stop_actions: Vec<String>,
    /// What a refused one is answered with.
    pub refuse_with: RefuseWith,
    /// What notices are sent with.
    pub via: Arc<Via>,
}

impl Webhook {
    /// Whether a signature could hold, as far as the head tells: nobody has to
    /// wait for a body of which that is known already.
    ///
    /// # Errors
    /// Why it does not hold.
    pub fn check_head(&self, headers: &HeaderMap, now: SystemTime) -> Result<(), SignatureFault> {
        match self.kind {
            WebhookKind::Slack => signature::claimed_by_slack(headers, now).map(|_| ()),
            WebhookKind::Linear => signature::claimed_by_linear(headers).map(|_| ()),
        }
    }

    /// Reads a delivery: its signature first and then, if that holds, what it
    /// says. The body is the whole of it, as it came.
    ///
    /// # Errors
    /// Why it is not read.
    pub fn read(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        now: SystemTime,
    ) -> Result<Delivery, Unread> {
        match self.kind {
            WebhookKind::Slack => signature::verify_slack(&self.secrets, headers, body, now),
            WebhookKind::Linear => signature::verify_linear(&self.secrets, headers, body),
        }
        .map_err(Unread::Signature)?;
        let written = written::of(headers)?;
        let body =
            std::str::from_utf8(body).map_err(|_| Unread::Invalid("the body is no UTF-8"))?;
        match self.kind {
            WebhookKind::Slack => slack::read(body, written, &self.stop_actions),
            WebhookKind::Linear => linear::read(headers, body, now),
        }
    }
}

/// The headers that [`Webhook::read`] looks at. A request in which one of them
/// stands twice has two meanings, and is not for the gateway to choose from.
#[must_use]
pub fn guarded(kind: WebhookKind) -> &'static [HeaderName] {
    static SLACK: [HeaderName; 2] = [signature::SLACK_SIGNATURE, signature::SLACK_TIMESTAMP];
    static LINEAR: [HeaderName; 2] = [signature::LINEAR_SIGNATURE, linear::DELIVERY];
    match kind {
        WebhookKind::Slack => &SLACK,
        WebhookKind::Linear => &LINEAR,
    }
}

/// An object of JSON that takes the whole text.
fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Unread> {
    match serde_json::from_str(text) {
        Ok(Loose::Object(object)) => Ok(*object),
        Ok(_) => Err(Unread::Invalid("the JSON is not an object")),
        // What serde says could repeat what was sent.
        Err(_) => Err(Unread::Invalid(
            "the JSON is broken, too deep, or says twice what decides",
        )),
    }
}

/// The workspace that a delivery names, if any. Its id becomes a part of a key
/// in the ledger, so a start with an id of another form is not read; what passes
/// anyway needs none.
fn workspace(named: Option<&str>, meaning: Meaning) -> Result<Option<String>, Unread> {
    let Some(named) = named else { return Ok(None) };
    match (id(named), meaning) {
        (None, Meaning::Start) => Err(Unread::Invalid("the workspace's id is not one")),
        (workspace, _) => Ok(workspace),
    }
}

/// An id as the senders give them out: letters, digits, `_` and `-`.
fn id(text: &str) -> Option<String> {
    let fits = (1..=ID_MAX_BYTES).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    fits.then(|| text.to_owned())
}
