//! The memory of refusals.

use super::super::values::Span;
use super::super::{Config, Missing};
use super::Report;

/// The bounds of `admission.remember_refusals`. Shorter, and it would cost as
/// much as it saves; longer, and what Redis should ever fail to tell would keep
/// a team with credits out for longer than a person waits.
const LASTING_MIN: Span = Span::from_millis(50);
const LASTING_MAX: Span = Span::from_secs(1);

pub fn check(config: &Config, report: &mut Report) {
    let Some(lasting) = config.admission.remember_refusals else {
        return;
    };
    let at = "admission.remember_refusals";
    if !(LASTING_MIN..=LASTING_MAX).contains(&lasting) {
        report.value(
            at,
            format!("`{at}` must be between {LASTING_MIN} and {LASTING_MAX}: write for example 250ms, or leave it out to ask Redis each time"),
        );
    }
    if config.balances.missing != Missing::Refuse {
        report.clash(
            at,
            "balances.missing",
            format!("`{at}` needs `missing: refuse`: a balance whose time runs out in Redis would not be refused any more, and Redis tells of that late"),
        );
    }
}
