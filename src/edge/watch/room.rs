//! The room that copies of answers share, in the whole process: each is small,
//! but there can be one per request.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The most bytes of answers that are copied at once, in the whole process.
const COPIES_MAX_BYTES: usize = 64 * 1024 * 1024;

/// How many are.
static COPIED_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Bytes of the room that all copies share, given back when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Claim(usize);

impl Claim {
    /// Claims so many bytes in all; false if there is no room.
    pub(super) fn raise_to(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.0);
        let taken = COPIED_BYTES.fetch_add(more, Ordering::Relaxed);
        if taken.saturating_add(more) > COPIES_MAX_BYTES {
            COPIED_BYTES.fetch_sub(more, Ordering::Relaxed);
            return false;
        }
        self.0 = self.0.saturating_add(more);
        true
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        COPIED_BYTES.fetch_sub(self.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::COPY_MAX_BYTES;
    use super::*;

    #[test]
    fn copies_share_a_room_and_give_it_back() {
        // Other tests take little of it.
        let (mut most, mut rest) = (Claim::default(), Claim::default());
        assert!(most.raise_to(COPIES_MAX_BYTES - 4 * COPY_MAX_BYTES));
        assert!(!rest.raise_to(8 * COPY_MAX_BYTES), "more than there is");
        drop(most);
        assert!(rest.raise_to(8 * COPY_MAX_BYTES));
        assert!(rest.raise_to(8 * COPY_MAX_BYTES), "it has them");
    }
}
