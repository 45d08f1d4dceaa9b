//! From a configuration to the rules of hold mode. In lookup mode there are
//! none, whatever else is configured.

use std::sync::Arc;

use super::redis_settings;
use crate::config::{self, Config, Mode, Route, RouteKind};
use crate::edge::live::{HoldAmount, HoldRule, Idempotency, RunRoute, StatusSet};
use crate::ledger::holds::{Terms, WhenFull, Writer};
use crate::ledger::redis::RedisLedger;

/// How the ledger keeps holds; `None` in lookup mode.
#[must_use]
pub fn terms(config: &Config) -> Option<Terms> {
    is_hold(config).then(|| {
        let statement = config.balances.statement.clone().unwrap_or_default();
        Terms {
            writer: match config.balances.writer {
                config::Writer::Billing => Writer::Billing,
                config::Writer::Tollgate => Writer::Tollgate,
            },
            remember: config.admission.remember.duration(),
            statement_length: statement.length.get(),
            when_full: match statement.when_full {
                config::WhenFull::Trim => WhenFull::Trim,
                config::WhenFull::Refuse => WhenFull::Refuse,
            },
        }
    })
}

/// What of another version stands where holds would be kept from now on. A
/// Redis that does not answer is no reason: that may pass.
pub async fn conflict(old: &Config, new: &Config) -> Option<String> {
    let is_same = is_hold(old) && old.balances == new.balances;
    let settings = redis_settings(new).filter(|settings| settings.holds.is_some() && !is_same);
    let conflict = RedisLedger::look_ahead(&settings?).await;
    conflict.map(|conflict| format!("balances.redis: {conflict}"))
}

/// What a start on this route sets aside. What the route does not say,
/// `admission` does.
pub fn rule(config: &Config, route: &Route) -> Option<HoldRule> {
    let common = &config.admission;
    if !is_hold(config) {
        return None;
    }
    // A configuration that was checked has both.
    let hold = route.hold.as_ref().or(common.hold.as_ref())?;
    let hold_for = route.hold_for.or(common.hold_for)?;
    let release_on = route.release_on.as_ref().unwrap_or(&common.release_on);
    let run_id = route.run_id.as_ref().or(common.run_id.as_ref());
    let settle_from = route.settle_from.as_ref();
    Some(HoldRule {
        amount: amount(hold),
        hold_for: hold_for.duration(),
        release_on: StatusSet(release_on.iter().map(|statuses| statuses.range()).collect()),
        run_id: run_id.map(|pointer| Arc::from(pointer.as_str())),
        settle_from: settle_from.map(|header| header.name().clone()),
        idempotency: match route.idempotency.unwrap_or(common.idempotency) {
            config::Idempotency::Off => Idempotency::Off,
            config::Idempotency::Upstream => Idempotency::Upstream,
        },
    })
}

fn amount(hold: &config::Hold) -> HoldAmount {
    match hold {
        config::Hold::Credits(amount) => HoldAmount::Fixed(amount.credits()),
        config::Hold::Header(said) => HoldAmount::Header {
            name: said.header.name().clone(),
            from: said.from.clone(),
            default: said.default.credits(),
        },
    }
}

/// The routes that tell of runs that began earlier, in their order. In lookup
/// mode they say no more than that somebody knows of them.
pub fn runs(config: &Config) -> Vec<RunRoute> {
    let run = |route: &Route| {
        let (kind, pattern) = route.kinds().next()?;
        match kind {
            RouteKind::Start => None,
            RouteKind::Ends => Some(RunRoute::Ends(pattern.clone())),
            RouteKind::Watch => Some(RunRoute::Watch {
                pattern: pattern.clone(),
                state: route.state().into(),
                end_states: route.end_states().into(),
            }),
        }
    };
    config.routes.iter().filter_map(run).collect()
}

fn is_hold(config: &Config) -> bool {
    config.admission.mode == Mode::Hold
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::load::load_str;

    const HOLD: &str = include_str!("../../../config/hold.yaml");

    fn config(text: &str) -> Config {
        load_str("hold.yaml", text, &|_| None).unwrap()
    }

    /// The rule of the first start route, whose keys these are.
    fn first(keys: &str) -> HoldRule {
        let start = "  - start: POST /api/v1/agent/runs\n";
        let text = HOLD.replacen(start, &format!("{start}{keys}"), 1);
        assert!(keys.is_empty() || text != HOLD);
        let config = config(&text);
        let (_, route) = config.starts().next().unwrap();
        rule(&config, route).unwrap()
    }

    fn fixed(rule: &HoldRule) -> String {
        match &rule.amount {
            HoldAmount::Fixed(credits) => credits.to_string(),
            HoldAmount::Header { .. } => "from a header".to_owned(),
        }
    }

    #[test]
    fn a_route_that_says_nothing_goes_by_admission() {
        let rule = first("");
        assert_eq!(fixed(&rule), "20");
        assert_eq!(rule.hold_for, Duration::from_secs(30 * 60));
        assert_eq!(rule.run_id.as_deref(), Some("/run_id"));
        assert_eq!(rule.settle_from, None);
        assert_eq!(rule.idempotency, Idempotency::Off);
        let released = |status| rule.release_on.contains(status);
        assert!(released(400) && released(409) && released(499));
        assert!(!released(399) && !released(500) && !released(200));
    }

    #[test]
    fn what_a_route_says_goes_before_admission() {
        let rule = first(
            "    hold: 0.5\n    hold_for: 90s\n    run_id: /data/id\n    settle_from: X-Credits-Used\n    idempotency: upstream\n    release_on: [409, 5xx]\n",
        );
        assert_eq!(fixed(&rule), "0.5");
        assert_eq!(rule.hold_for, Duration::from_secs(90));
        assert_eq!(rule.run_id.as_deref(), Some("/data/id"));
        assert_eq!(rule.settle_from.unwrap(), "x-credits-used");
        assert_eq!(rule.idempotency, Idempotency::Upstream);
        assert_eq!(rule.release_on, StatusSet(vec![(409, 409), (500, 599)]));
        assert!(first("    release_on: []\n").release_on.0.is_empty());
    }

    #[test]
    fn credits_to_hold_may_be_read_from_a_header() {
        let rule = first("    hold: {header: X-Run-Credits, from: [\"10.0.0.0/8\"], default: 7}\n");
        let HoldAmount::Header {
            name,
            from,
            default,
        } = rule.amount
        else {
            panic!("{:?}", rule.amount);
        };
        assert_eq!(
            (name.as_str(), default.to_string().as_str()),
            ("x-run-credits", "7")
        );
        assert!(from.first().unwrap().contains("10.1.2.3".parse().unwrap()));
    }

    #[test]
    fn the_routes_that_tell_of_runs_keep_their_order() {
        let text = HOLD.replacen(
            "    state: /state\n    end_states: [SUCCEEDED, FAILED, CANCELLED, ERROR]\n",
            "",
            1,
        );
        let text = text.replacen("state: /state", "state: /run/state", 1);
        let text = text.replacen("[SUCCEEDED, FAILED, CANCELLED, ERROR]", "[DONE]", 1);
        let runs: Vec<String> = runs(&config(&text))
            .iter()
            .map(|run| match run {
                RunRoute::Ends(pattern) => format!("ends {pattern}"),
                RunRoute::Watch {
                    pattern,
                    state,
                    end_states,
                } => format!("watch {pattern} {state} {}", end_states.join(" ")),
            })
            .collect();
        assert_eq!(
            runs,
            [
                "ends POST /api/v1/agent/runs/{run}/cancel",
                "ends POST /api/v1/agent/tasks/{run}/cancel",
                "watch GET /api/v1/agent/runs/{run} /state SUCCEEDED FAILED CANCELLED ERROR",
                "watch GET /api/v1/agent/tasks/{run} /run/state DONE",
            ]
        );
    }

    #[test]
    fn the_terms_are_those_of_the_file() {
        assert_eq!(terms(&config(HOLD)), Some(Terms::default()));
        let text = HOLD
            .replace(
                "  writer: billing ",
                "  writer: tollgate\n  statement: {length: 10, when_full: refuse} ",
            )
            .replace("remember: 24h", "remember: 48h");
        let expected = Terms {
            writer: Writer::Tollgate,
            remember: Duration::from_secs(48 * 60 * 60),
            statement_length: 10,
            when_full: WhenFull::Refuse,
        };
        assert_eq!(terms(&config(&text)), Some(expected));
    }

    #[test]
    fn nothing_is_set_aside_in_lookup_mode() {
        let config = config(&HOLD.replace("mode: hold", "mode: lookup"));
        assert_eq!(terms(&config), None);
        for (_, route) in config.starts() {
            assert!(rule(&config, route).is_none());
        }
    }
}
