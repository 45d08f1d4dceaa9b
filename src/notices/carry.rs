//! [`Hands`]: carry one notice out, within its time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::time::{sleep, timeout_at};

use super::Means;
use super::letter::{Letter, Once, Verdict, Waiting};
use super::marks::Marks;
use crate::egress::{EgressError, TOTAL_MAX};
use crate::ledger::{Ledger, Mark};
use crate::telemetry::notices::Fate;

/// How much of an answer is read, in bytes: Slack repeats the whole message.
const ANSWER_MAX: usize = 64 * 1024;

/// The pause after which somebody who was not reached is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What carries notices out. Shared by all that are on their way.
#[derive(Debug)]
pub(super) struct Hands {
    means: Arc<ArcSwap<Means>>,
    marks: Marks,
}

impl Hands {
    pub(super) fn new(means: Arc<ArcSwap<Means>>) -> Self {
        Hands {
            means,
            marks: Marks::default(),
        }
    }

    /// Carries one out, counts it, and logs it if nobody was told.
    pub(super) async fn carry(self: Arc<Self>, waiting: Waiting) {
        let Waiting { letter, count } = waiting;
        let (fate, why) = self.send(&letter).await;
        let (kind, team, request_id) = (letter.kind.name(), &letter.team, &letter.request_id);
        match fate {
            Fate::Sent | Fate::Repeated => {
                tracing::debug!(kind, %team, request_id, result = fate.name(), "a notice");
            }
            _ => {
                let reason = why.as_deref().unwrap_or_default();
                tracing::warn!(
                    kind,
                    %team,
                    request_id,
                    result = fate.name(),
                    reason,
                    "nobody was told of a refusal"
                );
            }
        }
        count.fared(fate);
    }

    async fn send(&self, letter: &Letter) -> (Fate, Option<String>) {
        let late = || (Fate::Late, Some("its time was over".to_owned()));
        if Instant::now() >= letter.due {
            return late();
        }
        let means = self.means.load_full();
        if let Some(once) = &letter.once
            && self.mark(&*means.ledger, once).await == Mark::Again
        {
            return (Fate::Repeated, None);
        }
        // For both tries together: a slot is not to be had for longer.
        let until = Instant::now().checked_add(TOTAL_MAX);
        let until = until.map_or(letter.due, |until| until.min(letter.due));
        let mut verdict = match self.try_once(&means, letter, until).await {
            Some(verdict) => verdict,
            None => return late(),
        };
        if let Verdict::NotYet(pause, _) = verdict {
            let then = Instant::now().checked_add(pause);
            if then.is_some_and(|then| then < until) {
                sleep(pause).await;
                verdict = match self.try_once(&means, letter, until).await {
                    Some(verdict) => verdict,
                    None => return late(),
                };
            }
        }
        match verdict {
            Verdict::Taken => (Fate::Sent, None),
            Verdict::Refused(why) | Verdict::NotYet(_, why) => (Fate::Failed, Some(why)),
        }
    }

    /// Posts it; `None` if its time is over.
    async fn try_once(&self, means: &Means, letter: &Letter, until: Instant) -> Option<Verdict> {
        let asked = means.egress.post_json(
            &letter.url,
            letter.authorization.clone(),
            letter.body.clone(),
            ANSWER_MAX,
        );
        match timeout_at(until.into(), asked).await {
            Ok(Ok(reply)) => Some((letter.judge)(&reply)),
            Ok(Err(error @ EgressError::Unreachable(_))) => {
                Some(Verdict::NotYet(AGAIN_AFTER, error.to_string()))
            }
            Ok(Err(error)) => Some(Verdict::Refused(error.to_string())),
            Err(_) if until >= letter.due => None,
            Err(_) => Some(Verdict::Refused(EgressError::Late.to_string())),
        }
    }

    /// Says that a conversation is told now, unless it was told a while ago:
    /// by this gateway, which knows it by heart, or by another, which the
    /// ledger knows.
    async fn mark(&self, ledger: &dyn Ledger, once: &Once) -> Mark {
        if self.marks.mark(&once.name, once.lasting, Instant::now()) == Mark::Again {
            return Mark::Again;
        }
        match ledger
            .mark_by(&once.name, once.lasting, ledger.until())
            .await
        {
            Ok(Mark::First) => Mark::First,
            Ok(Mark::Again) => {
                // It ends when the other gateway's does, not later.
                self.marks.unmark(&once.name);
                Mark::Again
            }
            Err(error) => {
                tracing::debug!(%error, "a notice is marked in this gateway alone");
                Mark::First
            }
        }
    }
}
