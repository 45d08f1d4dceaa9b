//! What set a run off, where a listed peer says so in a header: a scheduler
//! that calls the API for its users, say.
//!
//! This decides nothing: it tells refusals apart in metrics, events and the
//! log. So whatever cannot be understood leaves the route's own trigger, and
//! the header goes on to the upstream as it came.

use std::net::IpAddr;

use http::HeaderMap;

use super::forward::is_listed;
use super::live::{StartRoute, TriggerFrom};
use crate::billing::trigger::Trigger;

/// What set the run off that this request starts.
#[must_use]
pub fn of(start: &StartRoute, headers: &HeaderMap, peer: Option<IpAddr>) -> Trigger {
    let from = start.trigger_from.as_ref();
    let said = from.and_then(|from| said(from, headers, peer));
    said.unwrap_or(start.trigger)
}

/// What a listed peer says, once and in a word that is known.
fn said(from: &TriggerFrom, headers: &HeaderMap, peer: Option<IpAddr>) -> Option<Trigger> {
    if !is_listed(&from.from, peer) {
        return None;
    }
    let mut values = headers.get_all(&from.name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let known = |(word, _): &&(String, Trigger)| word.as_bytes() == value.as_bytes();
    from.map.iter().find(known).map(|(_, trigger)| *trigger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_peer_says_it_once_in_a_known_word_or_not_at_all() {
        let from = TriggerFrom {
            name: "x-oz-api-source".parse().unwrap(),
            from: vec!["10.0.0.0/8".parse().unwrap()],
            map: vec![
                ("SCHEDULED_AGENT".to_owned(), Trigger::Schedule),
                ("SLACK".to_owned(), Trigger::Slack),
            ],
        };
        let listed: Option<IpAddr> = "10.1.2.3".parse().ok();
        let stranger: Option<IpAddr> = "192.0.2.1".parse().ok();
        let name = "x-oz-api-source";
        for (peer, sent, expected) in [
            (
                listed,
                vec![(name, "SCHEDULED_AGENT")],
                Some(Trigger::Schedule),
            ),
            (listed, vec![(name, "SLACK")], Some(Trigger::Slack)),
            (listed, vec![], None),
            (listed, vec![(name, "CLI")], None),
            (listed, vec![(name, "slack")], None),
            (listed, vec![(name, "SLACK"), (name, "SLACK")], None),
            (listed, vec![("x_oz_api_source", "SLACK")], None),
            (stranger, vec![(name, "SLACK")], None),
            (None, vec![(name, "SLACK")], None),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in &sent {
                headers.append(*name, value.parse().unwrap());
            }
            assert_eq!(said(&from, &headers, peer), expected, "{peer:?} {sent:?}");
        }
    }
}
