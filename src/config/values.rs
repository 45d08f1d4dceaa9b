//! The forms of single values: durations, sizes, addresses, header names, ….
//!
//! Each is a type of its own that can only hold what is valid, reads itself
//! from text ([`std::str::FromStr`]) and says in one sentence what to write
//! instead. serde, the JSON Schema and the loader all go through that one
//! reading; [`form`] finds it by the schema's `format`.
//! What must hold between values is in [`super::check`].

mod amounts;
mod answer;
mod lookup;
mod net;
mod text;

pub use amounts::{CreditAmount, HoldAmount, Size, Span};
pub use answer::{JsonPointer, Statuses};
pub use lookup::{FileOrUrl, LookupKey, OneOrMore, Place, WorkspaceId};
pub use net::{Cidr, ListenAddress, Origin, UpstreamAddress, Url};
pub use text::{ApiKeyTemplate, HeaderField, HeaderText, KeyTemplate, Secret, TeamName};

use std::num::NonZeroUsize;
use std::str::FromStr;

use super::pattern::StartPattern;

/// Why a text does not have the form it should have.
///
/// The message never repeats the text: it may be a secret, and whoever prints
/// it knows better.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not {noun}: {advice}")]
pub struct Unfit {
    noun: &'static str,
    advice: String,
}

/// A text form: how it is called, and what to write.
pub trait Form: FromStr<Err = Unfit> {
    /// The `format` in the JSON Schema.
    const FORMAT: &'static str;
    /// What it is, with its article: `a duration`.
    const NOUN: &'static str;
    /// What to write, as an imperative clause.
    const ADVICE: &'static str;
    /// Valid examples; the first also stands in for a mistaken value while the
    /// rest of a file is checked.
    const EXAMPLES: &'static [&'static str];
    /// A regular expression that every valid text matches, where that is simple.
    const PATTERN: Option<&'static str> = None;
    /// Whether YAML may also write it as a plain number.
    const NUMERIC: Numeric = Numeric::No;
    /// Whether its text may be shown in messages.
    const SHOWN: Shown = Shown::Yes;

    /// The mistake, with the general advice.
    #[must_use]
    fn unfit() -> Unfit {
        Self::unfit_because(Self::ADVICE)
    }

    /// The mistake, with advice for this very case.
    #[must_use]
    fn unfit_because(advice: impl Into<String>) -> Unfit {
        Unfit {
            noun: Self::NOUN,
            advice: advice.into(),
        }
    }
}

/// Whether a form may also be written as a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numeric {
    /// Text only.
    No,
    /// A number without a fraction, too.
    Integer,
    /// A number, too.
    Number,
}

/// Whether a value's text may be shown in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// It may.
    Yes,
    /// It is a secret.
    No,
}

/// A [`Form`] as a value, for those who know its name only.
#[derive(Clone, Copy, Debug)]
pub struct FormEntry {
    /// [`Form::FORMAT`].
    pub format: &'static str,
    /// [`Form::NOUN`].
    pub noun: &'static str,
    /// [`Form::ADVICE`].
    pub advice: &'static str,
    /// [`Form::EXAMPLES`].
    pub examples: &'static [&'static str],
    /// [`Form::SHOWN`].
    pub shown: Shown,
    /// Whether a text has the form.
    pub check: fn(&str) -> Result<(), Unfit>,
}

impl FormEntry {
    const fn of<F: Form>() -> Self {
        FormEntry {
            format: F::FORMAT,
            noun: F::NOUN,
            advice: F::ADVICE,
            examples: F::EXAMPLES,
            shown: F::SHOWN,
            check: |text| F::from_str(text).map(drop),
        }
    }
}

static FORMS: [FormEntry; 21] = [
    FormEntry::of::<Span>(),
    FormEntry::of::<Size>(),
    FormEntry::of::<CreditAmount>(),
    FormEntry::of::<HoldAmount>(),
    FormEntry::of::<Cidr>(),
    FormEntry::of::<ListenAddress>(),
    FormEntry::of::<UpstreamAddress>(),
    FormEntry::of::<Url>(),
    FormEntry::of::<Origin>(),
    FormEntry::of::<Secret>(),
    FormEntry::of::<HeaderField>(),
    FormEntry::of::<HeaderText>(),
    FormEntry::of::<KeyTemplate>(),
    FormEntry::of::<ApiKeyTemplate>(),
    FormEntry::of::<TeamName>(),
    FormEntry::of::<StartPattern>(),
    FormEntry::of::<Statuses>(),
    FormEntry::of::<JsonPointer>(),
    FormEntry::of::<LookupKey>(),
    FormEntry::of::<WorkspaceId>(),
    FormEntry::of::<FileOrUrl>(),
];

/// The form that a schema's `format` names.
#[must_use]
pub fn form(format: &str) -> Option<&'static FormEntry> {
    FORMS.iter().find(|entry| entry.format == format)
}

/// Every form.
pub fn forms() -> impl Iterator<Item = &'static FormEntry> {
    FORMS.iter()
}

/// A count that is not zero; zero counts as one.
#[must_use]
pub const fn at_least_one(count: usize) -> NonZeroUsize {
    match NonZeroUsize::new(count) {
        Some(count) => count,
        None => NonZeroUsize::MIN,
    }
}

/// serde and the JSON Schema of a [`Form`], all by way of its `FromStr` and
/// `Display`.
macro_rules! text_form {
    ($($type:ty),+) => {$(
        impl TryFrom<String> for $type {
            type Error = $crate::config::values::Unfit;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                $crate::config::values::form_schema::<Self>()
            }
        }
    )+};
}
pub(crate) use text_form;

/// The JSON Schema of a form.
pub(crate) fn form_schema<F: Form>() -> schemars::Schema {
    let mut schema = schemars::json_schema!({
        "type": match F::NUMERIC {
            Numeric::No => serde_json::json!("string"),
            Numeric::Integer => serde_json::json!(["string", "integer"]),
            Numeric::Number => serde_json::json!(["string", "number"]),
        },
        "format": F::FORMAT,
        "description": format!("{}: {}.", F::NOUN, F::ADVICE),
    });
    if F::SHOWN == Shown::Yes {
        schema.insert("examples".to_owned(), F::EXAMPLES.into());
    }
    if let Some(pattern) = F::PATTERN {
        schema.insert("pattern".to_owned(), pattern.into());
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_has_its_form() {
        for form in &FORMS {
            assert!(
                form.examples.iter().all(|text| (form.check)(text).is_ok()),
                "{form:?}"
            );
            assert!(!form.examples.is_empty(), "{form:?}");
        }
    }

    #[test]
    fn every_format_names_one_form() {
        for (i, form) in FORMS.iter().enumerate() {
            assert!(
                FORMS[i + 1..]
                    .iter()
                    .all(|other| other.format != form.format)
            );
        }
    }
}
