//! Parts of a JSON document that is read for a few names only.
//!
//! What is not asked for is skipped without being kept, and what is there but
//! of another type than expected is not a mistake of the document: the senders'
//! own libraries look at the type, too, and go on. A name that is asked for and
//! stands twice is one, since the two of us might each take another.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A value of which texts and objects are of interest.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Loose<T = IgnoredAny> {
    /// The name does not stand there.
    #[default]
    Absent,
    /// `null`.
    Null,
    /// A text.
    Text(String),
    /// A number.
    Number(f64),
    /// `true`.
    True,
    /// An object.
    Object(Box<T>),
    /// An array, or `false`.
    Other,
}

impl<T> Loose<T> {
    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Loose::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The text, if it is one that says something.
    pub fn said(&self) -> Option<&str> {
        self.text().filter(|text| !text.is_empty())
    }

    /// The object, if it is one.
    pub fn object(&self) -> Option<&T> {
        match self {
            Loose::Object(object) => Some(object),
            _ => None,
        }
    }

    /// Whether the name stands there, be it with `null`.
    pub fn stands(&self) -> bool {
        !matches!(self, Loose::Absent)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Loose<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor(PhantomData))
    }
}

struct LooseVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for LooseVisitor<T> {
    type Value = Loose<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Loose::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(if value { Loose::True } else { Loose::Other })
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Loose::Number(float(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Loose::Number(-float(value.unsigned_abs())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Loose::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Loose::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Self::Value, E> {
        Ok(Loose::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Loose::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(members))
            .map(|object| Loose::Object(Box::new(object)))
    }
}

/// The nearest `f64`: exact for every integer that JavaScript can write.
pub fn float(value: u64) -> f64 {
    let [high, low] = [value >> 32, value & u64::from(u32::MAX)]
        .map(|half| f64::from(u32::try_from(half).unwrap_or(u32::MAX)));
    high * 4_294_967_296.0 + low
}

/// The first `N` items of an array, and how many there are.
#[derive(Clone, Debug, PartialEq)]
pub struct Front<T, const N: usize> {
    items: Vec<Loose<T>>,
    count: usize,
}

impl<T, const N: usize> Front<T, N> {
    /// The first of them.
    pub fn first(&self) -> Option<&Loose<T>> {
        self.items.first()
    }

    /// All of them, unless there are none or more than are kept.
    pub fn all(&self) -> Option<&[Loose<T>]> {
        (1..=N).contains(&self.count).then_some(&self.items)
    }
}

impl<T, const N: usize> Default for Front<T, N> {
    fn default() -> Self {
        Front {
            items: Vec::new(),
            count: 0,
        }
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for Front<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FrontVisitor(PhantomData))
    }
}

struct FrontVisitor<T, const N: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for FrontVisitor<T, N> {
    type Value = Front<T, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Front::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Front::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Front::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Front::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Front::default())
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Front::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Front::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut front = Front::default();
        while front.items.len() < N {
            let Some(item) = elements.next_element()? else {
                break;
            };
            front.items.push(item);
        }
        front.count = front.items.len();
        while elements.next_element::<IgnoredAny>()?.is_some() {
            front.count = front.count.saturating_add(1);
        }
        Ok(front)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_another_type_is_no_mistake() {
        let read = |text: &str| serde_json::from_str::<Loose>(text).unwrap();
        assert_eq!(read("null"), Loose::Null);
        assert_eq!(read("true"), Loose::True);
        assert_eq!(read("false"), Loose::Other);
        assert_eq!(read("[1, {\"a\": []}]"), Loose::Other);
        assert_eq!(read("\"a\\u0062\""), Loose::Text("ab".to_owned()));
        assert!(read("{\"a\": 1, \"a\": 2}").object().is_some());
    }

    #[test]
    fn integers_that_javascript_can_write_are_exact() {
        let read = |text: &str| serde_json::from_str::<Loose>(text).unwrap();
        assert_eq!(read("1700000000123"), Loose::Number(1_700_000_000_123.0));
        assert_eq!(
            read("9007199254740991"),
            Loose::Number(9_007_199_254_740_991.0)
        );
        assert_eq!(read("-5"), Loose::Number(-5.0));
        assert_eq!(read("1.5e3"), Loose::Number(1500.0));
        assert_eq!(read("18446744073709551615"), Loose::Number(2f64.powi(64)));
    }

    #[test]
    fn the_front_of_an_array_is_kept_and_the_rest_counted() {
        let read = |text: &str| serde_json::from_str::<Front<IgnoredAny, 2>>(text).unwrap();
        assert_eq!(read("[\"a\"]").all().unwrap().len(), 1);
        assert_eq!(read("[\"a\", 2]").all().unwrap().len(), 2);
        assert_eq!(read("[\"a\", 2, 3]").all(), None);
        assert_eq!(read("[\"a\", 2, 3]").first().unwrap().text(), Some("a"));
        for text in [
            "[]",
            "null",
            "{\"a\": 1}",
            "\"a\"",
            "7",
            "-7",
            "7.5",
            "true",
        ] {
            assert_eq!(read(text).first(), None, "{text}");
            assert_eq!(read(text).all(), None, "{text}");
        }
        assert!(serde_json::from_str::<Front<IgnoredAny, 2>>("[1, 2, 3").is_err());
    }
}
