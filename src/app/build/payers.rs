//! Who says who pays for the starts of a route, from what the configuration
//! says.

use std::sync::Arc;

use crate::config::pattern::StartPattern;
use crate::config::values::Secret;
use crate::config::{self, RefuseWith, WorkspaceToken};
use crate::edge::body;
use crate::edge::live::{PaidBy, PathPayer};
use crate::edge::webhooks::{DEFAULT_STOP_ACTIONS, Webhook};
use crate::notices::{Hidden, Tokens, Via};

/// The largest body of a delivery where its route names none. Slack's and
/// Linear's have some kilobytes.
const DELIVERY_MAX_BYTES: u64 = 1024 * 1024;

/// Who says who pays.
#[must_use]
pub fn paid_by(pattern: &StartPattern, route: &config::Route) -> PaidBy {
    match (&route.webhook, &route.team_from) {
        (Some(configured), _) => {
            let refuse_with = route.refuse_with.unwrap_or(RefuseWith::Problem);
            PaidBy::Webhook(Arc::new(webhook(configured, refuse_with)))
        }
        (None, Some(from)) => PaidBy::Path(Arc::new(PathPayer {
            pattern: pattern.clone(),
            path: from.path.clone(),
            team_key: from.team_key.clone(),
            token: from.token.clone(),
            otherwise: from.otherwise,
        })),
        (None, None) => PaidBy::Identity,
    }
}

/// The largest body of a start on this route, in bytes. That of a delivery is
/// held until it is decided, so it has a bound in any case.
#[must_use]
pub fn max_body(route: &config::Route) -> Option<u64> {
    let configured = route.max_body.map(|size| size.bytes());
    match &route.webhook {
        None => configured,
        Some(_) => {
            let held = configured.unwrap_or(DELIVERY_MAX_BYTES);
            Some(held.min(body::ROOM_BYTES.into()))
        }
    }
}

/// An integration, as it is configured.
#[must_use]
pub fn webhook(configured: &config::Webhook, refuse_with: RefuseWith) -> Webhook {
    let teams = configured.teams.iter();
    let stop_actions = match &configured.stop_actions {
        Some(actions) => actions.clone(),
        None => {
            let usual = DEFAULT_STOP_ACTIONS.iter();
            usual.map(|action| (*action).to_owned()).collect()
        }
    };
    Webhook {
        kind: configured.kind,
        secrets: configured.secret.as_slice().to_vec(),
        teams: teams
            .map(|(workspace, team)| (workspace.as_str().to_owned(), team.team().clone()))
            .collect(),
        team_key: configured.team_key.clone(),
        stop_actions,
        refuse_with,
        via: Arc::new(via(configured)),
    }
}

/// What its notices are sent with.
fn via(configured: &config::Webhook) -> Via {
    Via {
        bot_token: tokens(configured.bot_token.as_ref()),
        api_token: tokens(configured.api_token.as_ref()),
        every: configured.notice_every.duration(),
    }
}

fn tokens(configured: Option<&WorkspaceToken>) -> Tokens {
    let hidden = |secret: &Secret| Hidden(secret.expose().to_owned());
    match configured {
        None => Tokens::None,
        Some(WorkspaceToken::One(token)) => Tokens::One(hidden(token)),
        Some(WorkspaceToken::Each(tokens)) => {
            let tokens = tokens.0.iter();
            let tokens = tokens.map(|(id, token)| (id.as_str().to_owned(), hidden(token)));
            Tokens::Each(tokens.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::load_str;

    const DEMO: &str = include_str!("../../../config/demo.yaml");

    fn token_of(bot_token: &str) -> Tokens {
        let route = format!(
            "  - {{start: POST /slack, refuse_with: message, webhook: {{kind: slack, secret: hunter2, teams: {{T1: acme}}, bot_token: {bot_token}}}}}\n"
        );
        let text = DEMO.replace("routes:\n", &format!("routes:\n{route}"));
        let config = load_str("demo.yaml", &text, &|_| None).unwrap();
        let configured = config.routes[0].webhook.as_ref().unwrap();
        let via = webhook(configured, RefuseWith::Message).via;
        via.bot_token.clone()
    }

    #[test]
    fn a_bot_speaks_in_its_own_workspace_alone_unless_there_is_one_for_all() {
        let hidden = |token: &str| Hidden(token.to_owned());
        let each = [("T1", "one"), ("T2", "two")];
        let each = each.map(|(id, token)| (id.to_owned(), hidden(token)));
        assert_eq!(token_of("{T1: one, T2: two}"), Tokens::Each(each.into()));
        assert_eq!(token_of("one"), Tokens::One(hidden("one")));
    }
}
