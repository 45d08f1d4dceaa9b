//! Figures that people and billing systems give: credits, and the ids under
//! which they are changed once.
//!
//! A figure is taken exactly or not at all: rounding it, as a balance that was
//! found is rounded, would debit something else than was said.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use crate::billing::credits::Credits;

/// Digits behind the point that [`Credits`] tells apart.
const FRACTION_DIGITS: usize = 6;

/// Credits from here on cannot be told apart.
const LARGE: f64 = 9_007_199_254.740_99;

/// The most bytes of the id of a grant or a charge.
const ID_MAX_BYTES: usize = 64;

/// Why a figure is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFigure {
    /// It is no decimal.
    #[error("not an amount of credits: write digits and an optional fraction, such as 20 or 12.5")]
    Form,
    /// Rounding it would change it.
    #[error("finer than a millionth of a credit: write at most six digits behind the point")]
    TooFine,
    /// It is beyond what can be told apart.
    #[error("more than can be told exactly: it has to stay below 9007199254.740991")]
    TooLarge,
    /// It is below zero.
    #[error("below zero: give what is to be taken or added as a positive amount")]
    Negative,
    /// It is nothing.
    #[error("zero: there is nothing to change, so give another amount")]
    Zero,
}

/// Reads credits exactly.
///
/// # Errors
/// [`NotFigure`].
pub fn exact(text: &str) -> Result<Credits, NotFigure> {
    let credits: Credits = text.parse().map_err(|_| NotFigure::Form)?;
    let fraction = text.split_once('.').map_or("", |(_, fraction)| fraction);
    let too_fine = |byte: u8| byte != b'0';
    if fraction.bytes().skip(FRACTION_DIGITS).any(too_fine) {
        return Err(NotFigure::TooFine);
    }
    if credits >= Credits::MAX || credits <= Credits::MIN {
        return Err(NotFigure::TooLarge);
    }
    Ok(credits)
}

/// Reads what a run cost: exact, and not below zero.
///
/// # Errors
/// [`NotFigure`].
pub fn cost(text: &str) -> Result<Credits, NotFigure> {
    let credits = exact(text)?;
    if credits < Credits::ZERO {
        return Err(NotFigure::Negative);
    }
    Ok(credits)
}

/// Reads what a balance is changed by once: exact, and not zero. Below zero it
/// takes back.
///
/// # Errors
/// [`NotFigure`].
pub fn correction(text: &str) -> Result<Credits, NotFigure> {
    match exact(text)? {
        Credits::ZERO => Err(NotFigure::Zero),
        credits => Ok(credits),
    }
}

/// Reads what is charged or granted: exact, and above zero.
///
/// # Errors
/// [`NotFigure`].
pub fn amount(text: &str) -> Result<Credits, NotFigure> {
    let credits = cost(text)?;
    if credits == Credits::ZERO {
        return Err(NotFigure::Zero);
    }
    Ok(credits)
}

/// Why an id is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id for a change: 1 to 64 visible ASCII characters, such as inv-2026-07")]
pub struct NotChangeId;

/// Takes the id of a grant or a charge.
///
/// # Errors
/// [`NotChangeId`].
pub fn change_id(text: &str) -> Result<&str, NotChangeId> {
    let fits =
        (1..=ID_MAX_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if fits { Ok(text) } else { Err(NotChangeId) }
}

/// Whether a text can be the id of a statement's line, or nothing, which is
/// before the first.
#[must_use]
pub fn is_place(text: &str) -> bool {
    let is_number =
        |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()) && part.parse::<u64>().is_ok();
    text.is_empty()
        || text
            .split_once('-')
            .is_some_and(|(time, place)| is_number(time) && is_number(place))
}

/// Credits as they stand in JSON: the text of a decimal, or a whole number. A
/// number with a point or an exponent went through a binary float before it
/// came here, and is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JsonFigure(pub(super) String);

impl<'de> Deserialize<'de> for JsonFigure {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(FigureVisitor)
    }
}

struct FigureVisitor;

impl Visitor<'_> for FigureVisitor {
    type Value = JsonFigure;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("credits as the text of a decimal, such as \"12.5\", or as a whole number")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<JsonFigure, E> {
        Ok(JsonFigure(text.to_owned()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<JsonFigure, E> {
        Ok(JsonFigure(number.to_string()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<JsonFigure, E> {
        Ok(JsonFigure(number.to_string()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<JsonFigure, E> {
        // What a whole number too long for an integer is read as, too.
        if number.abs() >= LARGE {
            return Err(E::custom(format_args!(
                "credits are {}",
                NotFigure::TooLarge
            )));
        }
        Err(E::custom(if number.fract() == 0.0 {
            "credits are a whole number without a point or an exponent, such as 10, or the text of a decimal, such as \"12.5\""
        } else {
            "credits with a fraction are written in quotes, such as \"12.5\", so that no binary float rounds them"
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_exact_or_refused() {
        for (text, shown) in [
            ("12.5", "12.5"),
            ("0", "0"),
            ("0.000001", "0.000001"),
            ("1.50000000", "1.5"),
        ] {
            assert_eq!(cost(text).unwrap().to_string(), shown, "{text}");
        }
        for (text, why) in [
            ("0.0000001", NotFigure::TooFine),
            ("9007199254.740991", NotFigure::TooLarge),
            ("99999999999999999999", NotFigure::TooLarge),
            ("-1", NotFigure::Negative),
            ("1e3", NotFigure::Form),
            (" 1", NotFigure::Form),
            ("", NotFigure::Form),
            ("NaN", NotFigure::Form),
        ] {
            assert_eq!(cost(text), Err(why), "{text}");
        }
        assert_eq!(amount("0.0"), Err(NotFigure::Zero));
        assert_eq!(correction("-0.00"), Err(NotFigure::Zero));
        assert_eq!(correction("-1.5").unwrap().to_string(), "-1.5");
        assert_eq!(correction("1e3"), Err(NotFigure::Form));
    }

    #[test]
    fn a_place_in_a_statement_has_both_halves() {
        for place in ["", "0-0", "1700000000000-12"] {
            assert!(is_place(place), "{place}");
        }
        for other in [
            "1",
            "1-",
            "-1",
            "1-2-3",
            "+1-0",
            "1-x",
            "99999999999999999999-0",
        ] {
            assert!(!is_place(other), "{other}");
        }
    }

    #[test]
    fn json_figures_never_pass_through_a_float() {
        let read = |json: &str| serde_json::from_str::<JsonFigure>(json);
        assert_eq!(read("\"12.5\"").unwrap().0, "12.5");
        assert_eq!(read("12").unwrap().0, "12");
        assert_eq!(read("-3").unwrap().0, "-3");
        for json in [
            "12.5",
            "1e2",
            "12.0",
            "99999999999999999999",
            "null",
            "true",
            "[]",
        ] {
            assert!(read(json).is_err(), "{json}");
        }
        for (json, advice) in [
            ("12.5", "in quotes"),
            ("1e1", "without a point or an exponent"),
            ("12.0", "without a point or an exponent"),
            ("99999999999999999999", "more than can be told exactly"),
            ("-99999999999999999999", "more than can be told exactly"),
        ] {
            let why = read(json).unwrap_err().to_string();
            assert!(why.contains(advice), "{json}: {why}");
        }
    }
}
