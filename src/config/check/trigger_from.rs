//! Headers that say what set a run off.

use super::super::{Config, Hold, TriggerFrom};
use super::{Report, has_another_meaning, identity};

pub fn check(config: &Config, report: &mut Report) {
    if let Some(said) = &config.admission.trigger_from {
        trigger_from("admission", said, config, report);
    }
    for (index, route) in config.routes.iter().enumerate() {
        if let Some(said) = &route.trigger_from {
            trigger_from(&format!("routes[{index}]"), said, config, report);
        }
    }
}

fn trigger_from(block: &str, said: &TriggerFrom, config: &Config, report: &mut Report) {
    let at = format!("{block}.trigger_from");
    let advice = "nobody would be believed; write the addresses of your scheduler or of the proxy in front of the gateway, such as \"10.0.0.0/8\"";
    report.not_empty(&format!("{at}.from"), &said.from, advice);
    if said.map.is_empty() {
        let map = format!("{at}.map");
        report.value(
            &map,
            format!("`{map}` is empty: write what the header's values mean, such as `SCHEDULED_AGENT: schedule`"),
        );
    }
    let key = format!("{at}.header");
    let taken = identity::header_of(config, &said.header)
        .map(|other| (other, "which says who pays"))
        .or_else(|| Some((hold_header(config, said)?, "which says how many credits")));
    if let Some((other, what)) = taken {
        report.clash(
            &key,
            &other,
            format!(
                "`{key}` is the header of `{other}`, {what}: write another, such as x-oz-api-source"
            ),
        );
    } else if has_another_meaning(&said.header) {
        let message = "has a meaning of its own: write a header that says what set a run off, such as x-oz-api-source";
        report.shown(&key, said.header.to_string(), message);
    }
}

/// The path of the key that makes this header say how many credits a start
/// sets aside, if one does.
fn hold_header(config: &Config, said: &TriggerFrom) -> Option<String> {
    let is_it = |hold: Option<&Hold>| matches!(hold, Some(Hold::Header(hold)) if hold.header == said.header);
    if is_it(config.admission.hold.as_ref()) {
        return Some("admission.hold.header".to_owned());
    }
    let index = config
        .routes
        .iter()
        .position(|route| is_it(route.hold.as_ref()))?;
    Some(format!("routes[{index}].hold.header"))
}
