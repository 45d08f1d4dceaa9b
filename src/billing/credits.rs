//! [`Credits`]: an amount of credits, exact to a millionth.
//!
//! Balances occur in fractions of a credit and below zero, because usage is
//! charged while runs go on. A binary float would round them; an integer count
//! of micro-credits does not.

use std::fmt;
use std::str::FromStr;

/// Micro-credits in one credit.
const MICRO: i64 = 1_000_000;

/// Digits kept after the point.
const FRACTION_DIGITS: usize = 6;

/// The largest amount: 2^53 − 1 micro-credits, the largest integer that a
/// Redis script, whose numbers are doubles, still counts exactly.
const BOUND: i64 = (1 << 53) - 1;

/// An amount of credits, as a whole number of micro-credits.
///
/// A finer fraction is rounded down, towards less credit; a figure beyond
/// ±(2^53 − 1) micro-credits counts as that bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Credits(i64);

/// Why a text is not an amount of credits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an amount of credits: write an optional sign, digits and an optional fraction, such as 20, 0.5 or -3.25"
)]
pub struct NotCredits;

impl Credits {
    /// No credits.
    pub const ZERO: Credits = Credits(0);
    /// The largest amount that is told apart from a larger one.
    pub const MAX: Credits = Credits(BOUND);
    /// The smallest amount that is told apart from a smaller one.
    pub const MIN: Credits = Credits(-BOUND);

    /// A whole number of micro-credits, held to the bounds.
    #[must_use]
    pub const fn from_micro(micro: i64) -> Self {
        if micro > BOUND {
            Self::MAX
        } else if micro < -BOUND {
            Self::MIN
        } else {
            Credits(micro)
        }
    }

    /// The amount in micro-credits.
    #[must_use]
    pub const fn micro(self) -> i64 {
        self.0
    }

    /// The sum, held to the bounds.
    #[must_use]
    pub const fn saturating_add(self, other: Credits) -> Self {
        Self::from_micro(self.0.saturating_add(other.0))
    }

    /// The difference, held to the bounds.
    #[must_use]
    pub const fn saturating_sub(self, other: Credits) -> Self {
        Self::from_micro(self.0.saturating_sub(other.0))
    }

    /// Reads the decimal form that billing writes: an optional sign, digits,
    /// an optional fraction. No exponent, no blanks, no grouping.
    ///
    /// # Errors
    /// [`NotCredits`] for anything else. It is never taken for zero.
    pub fn parse(text: &[u8]) -> Result<Self, NotCredits> {
        let (negative, unsigned) = match text.split_first() {
            Some((b'-', rest)) => (true, rest),
            Some((b'+', rest)) => (false, rest),
            _ => (false, text),
        };
        let mut halves = unsigned.splitn(2, |byte| *byte == b'.');
        let whole = halves.next().unwrap_or_default();
        let fraction = halves.next();
        if whole.is_empty() || fraction.is_some_and(<[u8]>::is_empty) {
            return Err(NotCredits);
        }
        let fraction = fraction.unwrap_or_default();
        if !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
            return Err(NotCredits);
        }
        Ok(Self::from_digits(negative, whole, fraction))
    }

    /// Puts checked digits together. Saturates: more digits than an `i64`
    /// holds are a figure beyond the bound.
    fn from_digits(negative: bool, whole: &[u8], fraction: &[u8]) -> Self {
        let value = |digits: &[u8]| {
            digits.iter().fold(0_i64, |sum, digit| {
                sum.saturating_mul(10)
                    .saturating_add(i64::from(digit.saturating_sub(b'0')))
            })
        };
        let (kept, dropped) = fraction.split_at(fraction.len().min(FRACTION_DIGITS));
        let mut micro = value(kept);
        for _ in kept.len()..FRACTION_DIGITS {
            micro = micro.saturating_mul(10);
        }
        let magnitude = value(whole).saturating_mul(MICRO).saturating_add(micro);
        if !negative {
            return Self::from_micro(magnitude);
        }
        // Rounded down is away from zero below it.
        let below = i64::from(dropped.iter().any(|digit| *digit != b'0'));
        Self::from_micro(magnitude.saturating_neg().saturating_sub(below))
    }
}

impl FromStr for Credits {
    type Err = NotCredits;

    fn from_str(text: &str) -> Result<Self, NotCredits> {
        Self::parse(text.as_bytes())
    }
}

impl fmt::Display for Credits {
    /// The shortest decimal that reads back as the same amount.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.unsigned_abs();
        let micro = MICRO.unsigned_abs();
        let whole = magnitude.checked_div(micro).unwrap_or_default();
        let fraction = magnitude.checked_rem(micro).unwrap_or_default();
        let sign = if self.0 < 0 { "-" } else { "" };
        if fraction == 0 {
            return write!(f, "{sign}{whole}");
        }
        let digits = format!("{fraction:0width$}", width = FRACTION_DIGITS);
        write!(f, "{sign}{whole}.{}", digits.trim_end_matches('0'))
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "an overflow fails the test")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn micro(text: &str) -> Option<i64> {
        Credits::parse(text.as_bytes()).ok().map(Credits::micro)
    }

    #[test]
    fn reads_what_billing_writes() {
        for (text, expected) in [
            ("0", 0),
            ("-0", 0),
            ("+7", 7_000_000),
            ("20", 20_000_000),
            ("0.5", 500_000),
            ("007.250", 7_250_000),
            ("-3.25", -3_250_000),
            ("0.000001", 1),
            ("0.0000019", 1),
            ("-0.0000001", -1),
            ("-1.0000000", -1_000_000),
            ("-1.0000001", -1_000_001),
            ("9007199254.740991", BOUND),
            ("9007199254.740992", BOUND),
            ("99999999999999999999999999", BOUND),
            ("-99999999999999999999999999.9", -BOUND),
        ] {
            assert_eq!(micro(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "", "-", "+", ".", "1.", ".5", "1e3", " 1", "1 ", "1\n", "1,5", "1_000", "0x10", "NaN",
            "inf", "--1", "+-1", "1.2.3", "١", "1\0",
        ] {
            assert_eq!(micro(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_printed_amount_reads_back_the_same(micro in -BOUND..=BOUND) {
            let credits = Credits::from_micro(micro);
            prop_assert_eq!(Credits::parse(credits.to_string().as_bytes()), Ok(credits));
        }

        #[test]
        fn reading_rounds_down_and_keeps_order(whole in -1_000_000_i64..1_000_000, fraction in "[0-9]{1,12}") {
            let text = format!("{whole}.{fraction}");
            let read = Credits::parse(text.as_bytes()).unwrap().micro();
            // Pico-credits, exact in an i128.
            let pico = i128::from(whole.unsigned_abs()) * 1_000_000_000_000
                + format!("{fraction:0<12}").parse::<i128>().unwrap();
            let exact = if text.starts_with('-') { -pico } else { pico };
            prop_assert!(i128::from(read) * 1_000_000 <= exact);
            prop_assert!(exact < (i128::from(read) + 1) * 1_000_000);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Credits::parse(&bytes);
        }
    }
}
