//! The JSON of Slack's deliveries: events, and the `payload` of interactivity.
//!
//! Whose installation a delivery belongs to, and who did it, stands in many
//! places. They are looked at in the order of Slack's own Bolt (for Python:
//! `slack_bolt/request/internals.py`), so that the gateway charges the workspace
//! whose token the upstream is going to use.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::json::{Front, Loose};

/// Actions of one delivery that are looked at. Slack sends one at a time; with
/// more than these, a delivery is not taken for a stop.
const ACTIONS_MAX: usize = 32;

/// A whole delivery: the payload, its event, and what the event is about.
pub(super) type Body = Payload<Event>;

/// The `event` of a delivery; `authorizations[0]` has the same members.
pub(super) type Event = Payload<Payload<IgnoredAny>>;

/// An object of a delivery, with what is of interest on any floor of it. `I` is
/// what may be inside.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Payload<I> {
    #[serde(rename = "type")]
    pub kind: Loose,
    pub subtype: Loose,
    pub bot_id: Loose,
    pub is_bot: Loose,
    pub event_id: Loose,
    pub command: Loose,
    pub response_url: Loose,
    pub actions: Front<Action, ACTIONS_MAX>,
    pub ts: Loose,
    pub authorizations: Front<I, 1>,
    pub event: Loose<I>,
    pub user_id: Loose,
    view: Loose<Named>,
    team: Loose<Named>,
    team_id: Loose,
    enterprise: Loose<Named>,
    enterprise_id: Loose,
    user: Loose<Named>,
    channel: Loose<Named>,
    channel_id: Loose,
    thread_ts: Loose,
    item: Loose<I>,
    assistant_thread: Loose<I>,
    message: Loose<I>,
    previous_message: Loose<I>,
}

/// An object with an id.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    id: Loose,
    team_id: Loose,
    enterprise_id: Loose,
    app_installed_team_id: Loose,
}

/// Something that was pressed or chosen.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Action {
    action_id: Loose,
    name: Loose,
}

impl Action {
    /// Its `action_id` or, in an interactive message of old, its `name`.
    pub fn id(&self) -> Option<&str> {
        self.action_id.said().or_else(|| self.name.said())
    }
}

/// What can be asked of an object of a delivery.
pub(super) trait Says {
    /// Bolt's `extract_team_id`.
    fn team(&self) -> Option<&str>;
    /// Bolt's `extract_enterprise_id`.
    fn enterprise(&self) -> Option<&str>;
    /// Bolt's `extract_user_id`, and whoever opened an assistant's thread.
    fn user(&self) -> Option<&str>;
    /// Bolt's `extract_channel_id`.
    fn channel(&self) -> Option<&str>;
    /// Bolt's `extract_thread_ts`.
    fn thread(&self) -> Option<&str>;
}

/// What is too deep to be looked at says nothing.
impl Says for IgnoredAny {
    fn team(&self) -> Option<&str> {
        None
    }

    fn enterprise(&self) -> Option<&str> {
        None
    }

    fn user(&self) -> Option<&str> {
        None
    }

    fn channel(&self) -> Option<&str> {
        None
    }

    fn thread(&self) -> Option<&str> {
        None
    }
}

impl<I: Says> Says for Payload<I> {
    fn team(&self) -> Option<&str> {
        let view = self.view.object();
        // A form that was opened from another workspace of a shared channel.
        if let Some(view) = view
            && !matches!(view.app_installed_team_id, Loose::Absent | Loose::Null)
        {
            return view.app_installed_team_id.said();
        }
        if let Some(id) = text_or_id(&self.team) {
            return id.said();
        }
        // In a shared channel the outer `team_id` may be another company's.
        if let Some(installation) = self.authorizations.first() {
            return installation.object().and_then(I::team);
        }
        if self.team_id.stands() {
            return self.team_id.said();
        }
        if let Some(event) = self.event.object() {
            return event.team();
        }
        // Installed for a whole organisation: `team` is null.
        if let Some(user) = self.user.object() {
            return user.team_id.said();
        }
        view.and_then(|view| view.team_id.said())
    }

    fn enterprise(&self) -> Option<&str> {
        if let Some(id) = text_or_id(&self.enterprise) {
            return id.said();
        }
        if let Some(installation) = self.authorizations.first() {
            return installation.object().and_then(I::enterprise);
        }
        if self.enterprise_id.stands() {
            return self.enterprise_id.said();
        }
        if let Some(team) = self.team.object()
            && team.enterprise_id.stands()
        {
            return team.enterprise_id.said();
        }
        self.event.object().and_then(I::enterprise)
    }

    fn user(&self) -> Option<&str> {
        if let Some(id) = text_or_id(&self.user) {
            return id.said();
        }
        if self.user_id.stands() {
            return self.user_id.said();
        }
        let inside = [
            &self.event,
            &self.message,
            &self.previous_message,
            &self.assistant_thread,
        ];
        inside.into_iter().find_map(Loose::object)?.user()
    }

    fn channel(&self) -> Option<&str> {
        if let Some(id) = text_or_id(&self.channel) {
            return id.said();
        }
        if self.channel_id.stands() {
            return self.channel_id.said();
        }
        let inside = [&self.event, &self.item, &self.assistant_thread];
        inside.into_iter().find_map(Loose::object)?.channel()
    }

    fn thread(&self) -> Option<&str> {
        if !matches!(self.thread_ts, Loose::Absent | Loose::Null) {
            return self.thread_ts.said();
        }
        let inside = [
            &self.event,
            &self.assistant_thread,
            &self.message,
            &self.previous_message,
        ];
        inside.into_iter().find_map(Loose::object)?.thread()
    }
}

/// The id where it is a text or the `id` of an object, be it `null`; `None`
/// where it is neither and Bolt looks further.
fn text_or_id(value: &Loose<Named>) -> Option<Id<'_>> {
    match value {
        Loose::Text(text) => Some(Id(Some(text))),
        Loose::Object(named) if named.id.stands() => Some(Id(named.id.text())),
        _ => None,
    }
}

/// An id that stands where ids are looked for, and may be `null`.
struct Id<'a>(Option<&'a str>);

impl<'a> Id<'a> {
    fn said(self) -> Option<&'a str> {
        self.0.filter(|id| !id.is_empty())
    }
}
