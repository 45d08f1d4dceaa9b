//! Reading the version of what a cluster holds: from the node that has it,
//! wherever that is sent to look for it.
//!
//! It is one key for all nodes. As long as it was never read nothing is asked
//! of any of them: another version may have written there.

use std::time::Duration;

use redis::{Cmd, Value};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Cluster, REDIRECTS_MAX};
use crate::ledger::redis::fault::{Fault, Lasting};
use crate::ledger::redis::keys::SCHEMA;
use crate::ledger::redis::prepare::{News, Whereabouts, read_schema};
use crate::ledger::redis::slots::slot_of;
use crate::ledger::redis::supervisor::from_now;

/// The pause after reading, however much changes meanwhile.
const READ_PAUSE: Duration = Duration::from_millis(20);

impl Cluster {
    /// Reads the version again and again. Without hold mode it is done at once.
    pub(super) async fn keep_learning_schema(&self) {
        let Some(holds) = &self.holds else {
            return;
        };
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            self.learn_schema().await;
            sleep(READ_PAUSE).await;
            tokio::select! {
                () = sleep(self.probe_interval) => {}
                // A node went or came, and everybody waits for this.
                _ = changes.changed(), if holds.is_unread() => {}
            }
        }
    }

    /// Reads the version once. Without hold mode there is nothing to read.
    pub(super) async fn learn_schema(&self) {
        let Some(holds) = &self.holds else {
            return;
        };
        let until = from_now(self.connect_timeout);
        let search = Search {
            cluster: self,
            until,
        };
        let found = timeout_at(until, read_schema(&search)).await;
        let found = found.unwrap_or(Err(Fault::Silent));
        if holds.learn(&found) == News::Changed {
            if let Err(fault) = holds.has_known_schema() {
                tracing::warn!(reason = %fault, "the cluster cannot keep holds");
            }
            self.changes.send_replace(());
        }
    }
}

/// Looks for the node that has the key.
struct Search<'a> {
    cluster: &'a Cluster,
    until: Instant,
}

impl Whereabouts for Search<'_> {
    /// Neither a node's breaker nor its probes take notice: it is not what
    /// requests ask for.
    async fn ask(&self, command: &Cmd) -> Result<Value, Fault> {
        let cluster = self.cluster;
        let mut node = cluster.owner(slot_of(SCHEMA.as_bytes()))?;
        let mut lasting = Lasting::FromNowOn;
        for _ in 0..=REDIRECTS_MAX {
            let link = cluster.link(&node, self.until).await?;
            let outcome = match lasting {
                Lasting::FromNowOn => link.ask(command).await,
                Lasting::ThisOnce => link.ask_ahead(command, None).await,
            };
            let Err(Fault::Elsewhere(redirect)) = outcome else {
                return outcome;
            };
            node = cluster.follow(&node, &redirect)?;
            lasting = redirect.lasting;
        }
        Err(Fault::Down(
            "the cluster's nodes disagree about who has it".to_owned(),
        ))
    }
}
