//! Holds: credits set aside for a run when it starts.
//!
//! A hold lowers what its team can spend until it ends, in exactly one of
//! three ways ([`End`]). It is kept beside the balance and never subtracted
//! from it, and it stops counting by itself when its time is up: there is no
//! counter to give credits back to, so none can leak. Who keeps holds, and how
//! they are changed in one step, is the business of [`crate::ledger::holds`].

use std::fmt;
use std::sync::Arc;

use super::credits::Credits;

/// The most bytes of a hold's id.
const HOLD_ID_MAX_BYTES: usize = 64;

/// The most bytes of a run's id.
const RUN_ID_MAX_BYTES: usize = 256;

/// The id of a hold: `[A-Za-z0-9_-]{1,64}`. Whoever asks for a hold chooses
/// it, so that asking again holds once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldId(Arc<str>);

/// Why a text is not the id of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a hold: 1 to 64 of A-Z a-z 0-9 _ -")]
pub struct NotHoldId;

impl HoldId {
    /// Takes an id as it is.
    ///
    /// # Errors
    /// [`NotHoldId`] if it has another form.
    pub fn parse(text: &[u8]) -> Result<Self, NotHoldId> {
        let fits = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if text.is_empty() || text.len() > HOLD_ID_MAX_BYTES || !text.iter().all(fits) {
            return Err(NotHoldId);
        }
        let text = std::str::from_utf8(text).map_err(|_| NotHoldId)?;
        Ok(HoldId(text.into()))
    }

    /// The id made of 128 random bits: 32 hexadecimal digits.
    #[must_use]
    pub fn from_bits(bits: u128) -> Self {
        let mut text = [0; 32];
        let bytes = bits.to_be_bytes();
        for (digits, byte) in text.chunks_exact_mut(2).zip(bytes) {
            digits.copy_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
        }
        // Digits are text.
        HoldId(std::str::from_utf8(&text).unwrap_or_default().into())
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A hexadecimal digit of a number below 16.
const fn digit(number: u8) -> u8 {
    match number {
        0..=9 => b'0'.saturating_add(number),
        _ => b'a'.saturating_add(number.saturating_sub(10)),
    }
}

impl fmt::Display for HoldId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id that the upstream gave a run: 1 to 256 bytes of visible ASCII.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(Arc<str>);

/// Why a text is not the id of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a run: 1 to 256 visible ASCII characters")]
pub struct NotRunId;

impl RunId {
    /// Takes an id as it is.
    ///
    /// # Errors
    /// [`NotRunId`] if it has another form.
    pub fn parse(text: &[u8]) -> Result<Self, NotRunId> {
        if text.is_empty()
            || text.len() > RUN_ID_MAX_BYTES
            || !text.iter().all(u8::is_ascii_graphic)
        {
            return Err(NotRunId);
        }
        let text = std::str::from_utf8(text).map_err(|_| NotRunId)?;
        Ok(RunId(text.into()))
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a hold ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// The run did not begin, or is over: the credits are free again.
    Released,
    /// Billing said what the run cost.
    Settled,
    /// Nothing was heard of the run, and its time was up.
    Expired,
}

impl End {
    /// Every end.
    pub const ALL: [End; 3] = [End::Released, End::Settled, End::Expired];

    /// Its name in metrics, events, answers and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            End::Released => "released",
            End::Settled => "settled",
            End::Expired => "expired",
        }
    }
}

/// What a team's live holds amount to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The credits set aside, summed.
    pub credits: Credits,
    /// How many holds there are.
    pub live: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_written_as_hexadecimal_digits() {
        for bits in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210] {
            assert_eq!(HoldId::from_bits(bits).as_str(), format!("{bits:032x}"));
        }
    }
}
