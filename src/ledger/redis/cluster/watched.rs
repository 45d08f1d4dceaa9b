//! Which masters are watched for changes of balances, and what becomes of what
//! is remembered when others serve them.

use std::sync::Arc;

use super::Cluster;
use crate::ledger::redis::slots::slot_of;
use crate::ledger::redis::supervisor::Core;
use crate::ledger::refused::Refused;

impl Cluster {
    /// From now on all that is remembered is forgotten whenever a slot has
    /// another owner.
    pub(in crate::ledger::redis) fn forget_in(&self, memory: &Arc<Refused>) {
        // A ledger has one.
        let _ = self.memory.set(Arc::clone(memory));
    }

    /// A slot has another owner: what the one before tells of it may come late,
    /// or never. After the map was replaced, so that what was read by the one
    /// before is not remembered either.
    pub(super) fn forget_refusals(&self) {
        if let Some(memory) = self.memory.get() {
            memory.forget_all();
        }
    }

    /// Every master that serves slots.
    pub(in crate::ledger::redis) fn cores(&self) -> Vec<Arc<Core>> {
        let masters = self.masters().into_iter();
        masters.map(|node| Arc::clone(&node.core)).collect()
    }

    /// The master that serves the slot of this key, as far as is known.
    pub(in crate::ledger::redis) fn core_of(&self, key: &[u8]) -> Option<Arc<Core>> {
        let node = self.owner(slot_of(key)).ok()?;
        Some(Arc::clone(&node.core))
    }
}
