//! Durations, sizes and credits: amounts that carry their unit.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{Form, Numeric, Unfit, text_form};
use crate::billing::credits::Credits;

/// The longest span, a year of 365 days. Clocks overflow far beyond it, and
/// nobody means more.
const SPAN_MAX_MILLIS: u64 = 365 * 24 * 3_600_000;

/// The largest size, 1 TiB.
const SIZE_MAX_BYTES: u64 = 1 << 40;

/// Digits behind the point that credits are told apart by.
const FRACTION_DIGITS: usize = 6;

/// Units of time in milliseconds, largest first.
const TIME_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Units of size in bytes, largest first.
const SIZE_UNITS: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// A duration, to the millisecond: `50ms`, `2s`, `5m`, `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(Duration);

impl Span {
    /// So many seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Span(Duration::from_secs(secs))
    }

    /// So many milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Span(Duration::from_millis(millis))
    }

    /// The duration.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// Whether it is `0s`.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl Form for Span {
    const FORMAT: &'static str = "time-span";
    const NOUN: &'static str = "a duration";
    const ADVICE: &'static str = "write digits and a unit, such as 50ms, 2s, 5m or 1h";
    const EXAMPLES: &'static [&'static str] = &["2s", "50ms", "5m", "1h"];
    const PATTERN: Option<&'static str> = Some("^[0-9]+(ms|s|m|h)$");
}

impl FromStr for Span {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let (digits, unit) = split_unit(text);
        let Ok(number) = digits.parse::<u64>() else {
            return Err(Self::unfit());
        };
        let Some((_, millis)) = TIME_UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(match unit {
                "" => Self::unfit_because(format!(
                    "the unit is missing, write {digits}ms, {digits}s, {digits}m or {digits}h"
                )),
                _ if unit.starts_with('.') => {
                    Self::unfit_because("write a whole number in a smaller unit, such as 1500ms")
                }
                "d" | "days" | "w" => Self::unfit_because(in_hours(number, unit)),
                _ => Self::unfit_because(
                    "write ms, s, m or h directly behind the digits, such as 90s",
                ),
            });
        };
        match number.checked_mul(*millis) {
            Some(millis) if millis <= SPAN_MAX_MILLIS => Ok(Self::from_millis(millis)),
            _ => Err(Self::unfit_because(
                "it is too long, write at most 8760h (a year)",
            )),
        }
    }
}

/// How to write a number of days or weeks.
fn in_hours(number: u64, unit: &str) -> String {
    let hours = number.saturating_mul(if unit == "w" { 7 * 24 } else { 24 });
    format!("the largest unit is the hour, write {hours}h (90 days are 2160h)")
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if millis == 0 {
            return f.write_str("0s");
        }
        write_in_largest_unit(f, millis, &TIME_UNITS)
    }
}

/// A number of bytes: `512B`, `64KiB`, `1MiB`, or plain digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

impl Size {
    /// So many bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Size(bytes)
    }

    /// So many times 1024 bytes, saturating.
    #[must_use]
    pub const fn from_kib(kib: u64) -> Self {
        Size(kib.saturating_mul(1024))
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl Form for Size {
    const FORMAT: &'static str = "byte-size";
    const NOUN: &'static str = "a size";
    const ADVICE: &'static str = "write digits and a unit, such as 512B, 64KiB, 1MiB or 2GiB";
    const EXAMPLES: &'static [&'static str] = &["64KiB", "1MiB", "512B", "4096"];
    const PATTERN: Option<&'static str> = Some("^[0-9]+(B|KiB|MiB|GiB)?$");
    const NUMERIC: Numeric = Numeric::Integer;
}

impl FromStr for Size {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let (digits, unit) = split_unit(text);
        let Ok(number) = digits.parse::<u64>() else {
            return Err(Self::unfit());
        };
        let unit_bytes = match SIZE_UNITS.iter().find(|(name, _)| *name == unit) {
            Some((_, bytes)) => *bytes,
            None if unit.is_empty() => 1,
            None => return Err(Self::unfit_because(size_advice(digits, unit))),
        };
        match number.checked_mul(unit_bytes) {
            Some(bytes) if bytes <= SIZE_MAX_BYTES => Ok(Size(bytes)),
            _ => Err(Self::unfit_because(
                "it is too large, write at most 1024GiB",
            )),
        }
    }
}

/// What to write instead of a unit that is not ours.
fn size_advice(digits: &str, unit: &str) -> String {
    let meant = match unit.trim().chars().next().map(|c| c.to_ascii_lowercase()) {
        Some('k') => "KiB",
        Some('m') => "MiB",
        Some('g') => "GiB",
        Some('b') => "B",
        _ => return Size::ADVICE.to_owned(),
    };
    format!("write {digits}{meant}; units are B, KiB, MiB and GiB, directly behind the digits")
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0B");
        }
        write_in_largest_unit(f, self.0, &SIZE_UNITS)
    }
}

/// An amount of credits: `20`, `0.5`, `-3.25`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CreditAmount(Credits);

impl CreditAmount {
    /// The credits.
    #[must_use]
    pub const fn credits(self) -> Credits {
        self.0
    }
}

impl Form for CreditAmount {
    const FORMAT: &'static str = "credits";
    const NOUN: &'static str = "an amount of credits";
    const ADVICE: &'static str =
        "write an optional sign, digits and an optional fraction, such as 20, 0.5 or -3.25";
    const EXAMPLES: &'static [&'static str] = &["20", "0.5", "-3.25"];
    const PATTERN: Option<&'static str> = Some(r"^[+-]?[0-9]+(\.[0-9]+)?$");
    const NUMERIC: Numeric = Numeric::Number;
}

impl FromStr for CreditAmount {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        text.parse().map(CreditAmount).map_err(|_| Self::unfit())
    }
}

impl fmt::Display for HoldAmount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Credits that a start sets aside: `20`, `0.5`. They are taken exactly or not
/// at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldAmount(Credits);

impl HoldAmount {
    /// The credits.
    #[must_use]
    pub const fn credits(self) -> Credits {
        self.0
    }
}

impl Form for HoldAmount {
    const FORMAT: &'static str = "credits-to-hold";
    const NOUN: &'static str = "an amount of credits to set aside";
    const ADVICE: &'static str = "write digits and an optional fraction, such as 20 or 0.5";
    const EXAMPLES: &'static [&'static str] = &["20", "0.5"];
    const PATTERN: Option<&'static str> = CreditAmount::PATTERN;
    const NUMERIC: Numeric = Numeric::Number;
}

impl FromStr for HoldAmount {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let credits: Credits = text.parse().map_err(|_| Self::unfit())?;
        let (_, fraction) = text.split_once('.').unwrap_or((text, ""));
        if fraction.bytes().skip(FRACTION_DIGITS).any(|b| b != b'0') {
            return Err(Self::unfit_because(
                "it is finer than a millionth, write at most six digits behind the point",
            ));
        }
        if credits >= Credits::MAX || credits <= Credits::MIN {
            return Err(Self::unfit_because(
                "it is more than a balance can be, write at most 9007199254",
            ));
        }
        Ok(HoldAmount(credits))
    }
}

impl fmt::Display for CreditAmount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

text_form!(Span, Size, CreditAmount, HoldAmount);

/// Leading digits, and what follows them.
fn split_unit(text: &str) -> (&str, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at_checked(digits).unwrap_or((text, ""))
}

/// Writes an amount in the largest unit that divides it.
fn write_in_largest_unit(
    f: &mut fmt::Formatter<'_>,
    amount: u64,
    units: &[(&str, u64)],
) -> fmt::Result {
    for (unit, size) in units {
        if let (Some(0), Some(count)) = (amount.checked_rem(*size), amount.checked_div(*size)) {
            return write!(f, "{count}{unit}");
        }
    }
    write!(f, "{amount}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints_durations() {
        for (text, millis, printed) in [
            ("50ms", 50, "50ms"),
            ("2s", 2_000, "2s"),
            ("0s", 0, "0s"),
            ("0ms", 0, "0s"),
            ("90s", 90_000, "90s"),
            ("120s", 120_000, "2m"),
            ("5m", 300_000, "5m"),
            ("1h", 3_600_000, "1h"),
            ("8760h", SPAN_MAX_MILLIS, "8760h"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.duration(), Duration::from_millis(millis), "{text}");
            assert_eq!(span.to_string(), printed);
        }
        for text in [
            "",
            "5",
            "s",
            "1.5s",
            "-1s",
            "+1s",
            "1 s",
            "1S",
            "1d",
            "8761h",
            "99999999999999999999s",
            "1sec",
            "٣s",
        ] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn says_which_duration_to_write() {
        let advice = |text: &str| text.parse::<Span>().unwrap_err().to_string();
        assert_eq!(
            advice("50"),
            "not a duration: the unit is missing, write 50ms, 50s, 50m or 50h"
        );
        for (text, hours) in [("91d", "2184h"), ("2w", "336h"), ("90days", "2160h")] {
            assert!(advice(text).contains(hours), "{text}");
        }
        assert_eq!(
            advice("1.5s"),
            "not a duration: write a whole number in a smaller unit, such as 1500ms"
        );
    }

    #[test]
    fn reads_and_prints_sizes() {
        for (text, bytes, printed) in [
            ("512B", 512, "512B"),
            ("64KiB", 65_536, "64KiB"),
            ("1024KiB", 1 << 20, "1MiB"),
            ("2GiB", 2 << 30, "2GiB"),
            ("1000", 1000, "1000B"),
            ("0", 0, "0B"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!(
                (size.bytes(), size.to_string().as_str()),
                (bytes, printed),
                "{text}"
            );
        }
        for text in [
            "", "KiB", "64KB", "64k", "1.5MiB", "-1", "64 KiB", "1025GiB",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        assert_eq!(
            "64KB".parse::<Size>().unwrap_err().to_string(),
            "not a size: write 64KiB; units are B, KiB, MiB and GiB, directly behind the digits"
        );
    }

    #[test]
    fn what_is_held_is_exact_or_refused() {
        for (text, micro) in [
            ("0.000001", 1),
            ("1.50000000", 1_500_000),
            ("9007199254", 9_007_199_254_000_000),
        ] {
            let amount: HoldAmount = text.parse().unwrap();
            assert_eq!(amount.credits(), Credits::from_micro(micro), "{text}");
        }
        for text in ["0.0000001", "9007199254.740992", "10000000000", "1e3"] {
            assert!(text.parse::<HoldAmount>().is_err(), "{text}");
        }
    }

    #[test]
    fn reads_credits_without_a_float_in_between() {
        let amount: CreditAmount = "0.1".parse().unwrap();
        assert_eq!(amount.credits(), Credits::from_micro(100_000));
        for text in ["1e3", "1_000", " 1", "", "ten"] {
            assert!(text.parse::<CreditAmount>().is_err(), "{text}");
        }
    }
}
