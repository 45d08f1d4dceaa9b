//! Hold mode: what is set aside, for how long, and how it is given back.
//!
//! Single values are checked in lookup mode too, where they have no effect: a
//! slip must not wait for the day that the mode is changed.

use super::super::values::{HeaderField, HoldAmount, Span};
use super::super::{Config, Hold, HoldHeader, Mode, Route, RouteKind, Writer};
use super::{Report, has_another_meaning, identity};
use crate::billing::credits::Credits;

/// The bounds of `hold_for`. Shorter, and a hold would be gone before its run
/// shows; longer, and what is lost sight of would be held for ever.
const HOLD_FOR_MIN: Span = Span::from_millis(100);
const HOLD_FOR_MAX: Span = Span::from_secs(30 * 24 * 60 * 60);

/// The bounds of `admission.remember`. Shorter, and a settlement that is tried
/// again would count twice; longer, and Redis fills with what nobody asks for.
const REMEMBER_MIN: Span = Span::from_secs(60 * 60);
const REMEMBER_MAX: Span = Span::from_secs(90 * 24 * 60 * 60);

/// Headers of an answer that say something else than what a run cost.
const OTHER_ANSWERS: [&str; 14] = [
    "age",
    "allow",
    "cache-control",
    "content-encoding",
    "date",
    "etag",
    "expires",
    "last-modified",
    "location",
    "retry-after",
    "server",
    "set-cookie",
    "vary",
    "via",
];

pub fn check(config: &Config, report: &mut Report) {
    let admission = &config.admission;
    self::hold(config, "admission", admission.hold.as_ref(), report);
    hold_for("admission", admission.hold_for, report);
    for (index, route) in config.routes.iter().enumerate() {
        let at = format!("routes[{index}]");
        self::hold(config, &at, route.hold.as_ref(), report);
        hold_for(&at, route.hold_for, report);
        settle_from(&at, route, report);
    }
    if !(REMEMBER_MIN..=REMEMBER_MAX).contains(&admission.remember) {
        report.value(
            "admission.remember",
            format!("`admission.remember` must be between {REMEMBER_MIN} and {REMEMBER_MAX} (90 days): a settlement or charge that is sent again counts once for that long"),
        );
    }
    writer(config, report);
    if admission.mode == Mode::Hold {
        complete(config, report);
        run_routes(config, report);
    }
}

fn hold(config: &Config, block: &str, hold: Option<&Hold>, report: &mut Report) {
    let at = format!("{block}.hold");
    match hold {
        None => {}
        Some(Hold::Credits(amount)) => positive(&at, *amount, report),
        Some(Hold::Header(said)) => self::header(config, &at, said, report),
    }
}

fn positive(at: &str, amount: HoldAmount, report: &mut Report) {
    if amount.credits() <= Credits::ZERO {
        report.value(
            at,
            format!("`{at}` must be more than 0 credits: write for example 20"),
        );
    }
}

fn header(config: &Config, at: &str, said: &HoldHeader, report: &mut Report) {
    positive(&format!("{at}.default"), said.default, report);
    let advice = "nobody would be believed; write the addresses of the peer that says how many credits, such as \"10.0.0.0/8\"";
    report.not_empty(&format!("{at}.from"), &said.from, advice);
    let at = format!("{at}.header");
    if let Some(other) = identity::header_of(config, &said.header) {
        report.clash(
            &at,
            &other,
            format!("`{at}` is the header of `{other}`, which says who pays: write another, such as x-run-credits"),
        );
    } else if has_another_meaning(&said.header) {
        let message = "has a meaning of its own: write a header that is for the credits alone, such as x-run-credits";
        report.shown(&at, said.header.to_string(), message);
    }
}

fn hold_for(block: &str, span: Option<Span>, report: &mut Report) {
    let at = format!("{block}.hold_for");
    if span.is_some_and(|span| !(HOLD_FOR_MIN..=HOLD_FOR_MAX).contains(&span)) {
        report.value(
            &at,
            format!("`{at}` must be between {HOLD_FOR_MIN} and {HOLD_FOR_MAX} (30 days): write about as long as a run shows no sign of life, such as 30m"),
        );
    }
}

fn settle_from(block: &str, route: &Route, report: &mut Report) {
    let taken = |header: &HeaderField| {
        has_another_meaning(header) || OTHER_ANSWERS.contains(&header.name().as_str())
    };
    if let Some(header) = route.settle_from.as_ref().filter(|header| taken(header)) {
        let message = "has a meaning of its own: write a header that is for the credits alone, such as x-credits-used";
        report.shown(&format!("{block}.settle_from"), header.to_string(), message);
    }
}

fn writer(config: &Config, report: &mut Report) {
    let is_writer = config.balances.writer == Writer::Tollgate;
    if is_writer && config.admission.mode != Mode::Hold {
        report.clash(
            "balances.writer",
            "admission.mode",
            "`writer: tollgate` debits what is settled and charged, which needs holds: write `mode: hold` under `admission`, or `writer: billing`",
        );
    }
    if config.balances.statement.is_some() && !is_writer {
        report.key(
            "balances.statement",
            &["balances.statement", "balances.writer"],
            "`balances.statement` lists what tollgate debits and grants: write `writer: tollgate`, or leave it out",
        );
    }
}

/// In hold mode each start route sets something aside, and for some time.
fn complete(config: &Config, report: &mut Report) {
    let admission = &config.admission;
    let hold = |route: &Route| route.hold.is_none();
    let hold_for = |route: &Route| route.hold_for.is_none();
    if admission.hold.is_none() {
        lacking(config, ("hold", "20"), &hold, report);
    }
    if admission.hold_for.is_none() {
        lacking(config, ("hold_for", "30m"), &hold_for, report);
    }
}

/// Reports the start routes that lack a key which `admission` lacks too: one
/// by one, or all at once.
fn lacking(
    config: &Config,
    (key, example): (&str, &str),
    lacks: &dyn Fn(&Route) -> bool,
    report: &mut Report,
) {
    let common = format!("admission.{key}");
    let starts = config
        .routes
        .iter()
        .enumerate()
        .filter(|(_, route)| route.start.is_some());
    let (lacking, complete): (Vec<_>, Vec<_>) = starts.partition(|(_, route)| lacks(route));
    let advice = format!("write `{key}: {example}`");
    if complete.is_empty() && lacking.len() > 1 {
        report.key(
            &common,
            &[&common],
            format!("hold mode needs `{common}` where the start routes name none: {advice} there"),
        );
        return;
    }
    for (index, _) in lacking {
        let at = format!("routes[{index}].{key}");
        report.key(
            &at,
            &[&at, &common],
            format!("hold mode needs `{at}`: {advice} there, or under `admission` for all routes"),
        );
    }
}

/// Routes that tell of runs do something only for runs that are known.
fn run_routes(config: &Config, report: &mut Report) {
    let is_known = config.admission.run_id.is_some()
        || config.starts().any(|(_, route)| route.run_id.is_some());
    let mut tells = config
        .routes
        .iter()
        .enumerate()
        .filter_map(|(index, route)| {
            let (kind, _) = route.kinds().find(|(kind, _)| *kind != RouteKind::Start)?;
            Some(format!("routes[{index}].{}", kind.key()))
        });
    if let (false, Some(at)) = (is_known, tells.next()) {
        report.key(
            &at,
            &[&at, "admission.run_id", "admission.mode"],
            format!("`{at}` has no effect while no start route says where the answer holds the run's id: write `run_id: /run_id` under `admission`"),
        );
    }
}
