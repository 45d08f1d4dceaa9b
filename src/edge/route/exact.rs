//! Paths without parameters, found by their bytes as received.
//!
//! Most starts are spelled as their route is written. What such a path is found
//! to be was worked out when the table was made, in the same way as for any
//! other; here it is looked up, at a cost that does not grow with the number of
//! routes. Whatever is not found here says nothing: it is read closely.

use super::Found;

/// A path, and what it is found to be.
type Known = (Box<[u8]>, Found);

/// What paths are found to be, as received.
#[derive(Debug, Default)]
pub(super) struct Exact {
    /// By [`hash`], a power of two of them.
    buckets: Box<[Vec<Known>]>,
    longest: usize,
}

impl Exact {
    pub(super) fn new(paths: Vec<(Vec<u8>, Found)>) -> Self {
        let size = paths.len().saturating_mul(2).next_power_of_two();
        let mut buckets = vec![Vec::new(); size];
        let longest = paths.iter().map(|(path, _)| path.len()).max();
        for (path, found) in paths {
            let place = place(&path, size);
            if let Some(bucket) = buckets.get_mut(place) {
                bucket.push((path.into_boxed_slice(), found));
            }
        }
        Exact {
            buckets: buckets.into_boxed_slice(),
            longest: longest.unwrap_or_default(),
        }
    }

    pub(super) fn find(&self, target: &[u8]) -> Option<Found> {
        if target.len() > self.longest {
            return None;
        }
        let bucket = self.buckets.get(place(target, self.buckets.len()))?;
        let known = bucket.iter().find(|(path, _)| **path == *target);
        known.map(|(_, found)| *found)
    }
}

/// The bucket of a path among a power of two of them.
fn place(path: &[u8], size: usize) -> usize {
    let hash = usize::try_from(hash(path)).unwrap_or_default();
    hash & size.wrapping_sub(1)
}

/// Spreads paths over buckets. Keys come from the configuration alone, so
/// nobody can send such as would crowd one.
fn hash(path: &[u8]) -> u64 {
    const FACTOR: u64 = 0x517c_c1b7_2722_0a95;
    let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    let (words, rest) = path.as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    let rest = rest
        .iter()
        .fold(0, |word, byte| (word << 8) | u64::from(*byte));
    // The upper bits are the better mixed.
    mix(words.fold(0, mix), rest) >> 32
}
