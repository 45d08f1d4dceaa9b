//! The JSON Schema of the configuration, read into a tree without references.
//!
//! The loader, the reference and the comparison on reload all walk this tree,
//! so they agree with the published schema and with each other.

use std::sync::OnceLock;

use serde_json::{Map, Value};

use super::schema;
use super::values::{FormEntry, form};

/// What may stand at a place.
#[derive(Clone, Debug)]
pub enum Shape {
    /// A mapping with known keys.
    Block(Vec<Field>),
    /// A mapping with one key, which says what kind of thing it is.
    Kinds(Vec<Field>),
    /// A single value, or a block that says more.
    Either(Box<Shape>, Box<Shape>),
    /// A mapping whose keys the operator chooses.
    Map(&'static FormEntry, Box<Shape>),
    /// A list.
    List(Box<Shape>),
    /// One of a few words.
    Choice(Vec<Word>),
    /// A whole number between these two.
    Integer(u64, u64),
    /// `true` or `false`.
    Truth,
    /// A text with a form.
    Formed(&'static FormEntry),
    /// The path of a file.
    Path,
    /// Any text that is not empty.
    Text,
}

/// A key of a block.
#[derive(Clone, Debug)]
pub struct Field {
    pub name: String,
    pub description: String,
    pub shape: Shape,
    pub presence: Presence,
    pub reload: Reload,
}

/// Whether a key may be left out.
#[derive(Clone, Debug, PartialEq)]
pub enum Presence {
    /// It must be there.
    Required,
    /// Exactly one of the keys of the block that say so must be there.
    OneOf,
    /// It may be left out, and then this holds.
    Default(Value),
    /// It may be left out, and then there is none.
    Optional,
}

/// What it takes to change a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// SIGHUP.
    Reload,
    /// A new process.
    Restart,
}

/// One of a few words, and what it means.
#[derive(Clone, Debug)]
pub struct Word {
    pub word: String,
    pub description: String,
}

/// The shape of the whole configuration.
pub fn root() -> &'static Shape {
    static ROOT: OnceLock<Shape> = OnceLock::new();
    ROOT.get_or_init(|| {
        let schema = schema::plain();
        Reader { root: &schema }.shape(&schema)
    })
}

impl Shape {
    /// The keys of a block; none for anything else.
    pub fn fields(&self) -> &[Field] {
        match self {
            Shape::Block(fields) | Shape::Kinds(fields) => fields,
            Shape::Either(_, block) => block.fields(),
            _ => &[],
        }
    }

    /// The key of that name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields().iter().find(|field| field.name == name)
    }

    /// Whether it is written as a single value.
    pub fn is_scalar(&self) -> bool {
        match self {
            Shape::Block(_)
            | Shape::Kinds(_)
            | Shape::Either(..)
            | Shape::Map(..)
            | Shape::List(_) => false,
            Shape::Choice(_)
            | Shape::Integer(..)
            | Shape::Truth
            | Shape::Formed(_)
            | Shape::Path
            | Shape::Text => true,
        }
    }

    /// Whether an empty mapping is a valid value.
    pub fn may_be_empty(&self) -> bool {
        match self {
            Shape::Block(fields) => fields
                .iter()
                .all(|field| field.presence != Presence::Required),
            Shape::Map(..) => true,
            _ => false,
        }
    }
}

/// Follows references within one schema.
struct Reader<'a> {
    root: &'a Value,
}

impl Reader<'_> {
    fn shape(&self, schema: &Value) -> Shape {
        let schema = self.resolved(schema);
        let text = |key: &str| schema.get(key).and_then(Value::as_str);
        if let Some(form) = text("format").and_then(form) {
            return Shape::Formed(form);
        }
        if text("format") == Some("path") {
            return Shape::Path;
        }
        let alternatives = |key: &str| schema.get(key).and_then(Value::as_array);
        // Beside `properties`, `oneOf` says which of them go together.
        if let (Some(choices), None) = (alternatives("oneOf"), schema.get("properties")) {
            return self.choices(choices);
        }
        if let Some([scalar, block]) = alternatives("anyOf").map(Vec::as_slice) {
            let (scalar, block) = (self.shape(scalar), self.shape(block));
            return Shape::Either(Box::new(scalar), Box::new(block));
        }
        match text("type") {
            Some("object") => self.object(&schema),
            Some("array") => Shape::List(Box::new(
                self.shape(schema.get("items").unwrap_or(&Value::Null)),
            )),
            Some("integer") => {
                let bound = |key: &str| schema.get(key).and_then(Value::as_u64);
                let widest = match text("format") {
                    Some("uint32") => u64::from(u32::MAX),
                    // What every program that reads the schema can count to.
                    _ => (1 << 53) - 1,
                };
                Shape::Integer(
                    bound("minimum").unwrap_or(0),
                    bound("maximum").unwrap_or(widest),
                )
            }
            Some("boolean") => Shape::Truth,
            _ => Shape::Text,
        }
    }

    /// A schema with its reference followed; what stands beside `$ref` wins.
    fn resolved(&self, schema: &Value) -> Map<String, Value> {
        let Value::Object(own) = schema else {
            return Map::new();
        };
        let target = own
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|reference| self.root.pointer(reference.strip_prefix('#')?));
        let mut resolved = target
            .map(|target| self.resolved(target))
            .unwrap_or_default();
        resolved.extend(own.iter().map(|(key, value)| (key.clone(), value.clone())));
        resolved
    }

    fn choices(&self, choices: &[Value]) -> Shape {
        let words: Vec<Word> = choices.iter().filter_map(word).collect();
        if words.len() == choices.len() {
            return Shape::Choice(words);
        }
        let kind = |choice: &Value| {
            let choice = self.resolved(choice);
            let mut fields = self.fields(&choice);
            // The comment of a variant is on the choice, not on its one key.
            if let ([field], about) = (fields.as_mut_slice(), description(&choice)) {
                field.description = about;
            }
            fields
        };
        Shape::Kinds(choices.iter().flat_map(kind).collect())
    }

    fn object(&self, schema: &Map<String, Value>) -> Shape {
        let key_form = schema
            .get("propertyNames")
            .and_then(|names| names.get("format"))
            .and_then(Value::as_str)
            .and_then(form);
        let Some(key_form) = key_form else {
            return Shape::Block(self.fields(schema));
        };
        let by_pattern = schema.get("patternProperties").and_then(Value::as_object);
        let value = by_pattern
            .and_then(|patterns| patterns.values().next())
            .or_else(|| schema.get("additionalProperties"));
        Shape::Map(
            key_form,
            Box::new(self.shape(value.unwrap_or(&Value::Null))),
        )
    }

    /// The keys of an object: the required ones first, in the order of the
    /// types, then those of which one is, then the others by name.
    fn fields(&self, schema: &Map<String, Value>) -> Vec<Field> {
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
            return Vec::new();
        };
        let required = required(schema).map(|name| (name, Presence::Required));
        let choices = schema.get("oneOf").and_then(Value::as_array);
        let choices = choices.into_iter().flatten().filter_map(Value::as_object);
        let one_of = choices.flat_map(self::required);
        let first: Vec<(&str, Presence)> = required
            .chain(one_of.map(|name| (name, Presence::OneOf)))
            .collect();
        let others = properties.iter().filter_map(|(name, property)| {
            let is_first = first.iter().any(|(first, _)| first == name);
            let presence = match property.get("default") {
                Some(default) => Presence::Default(default.clone()),
                None => Presence::Optional,
            };
            (!is_first).then(|| self.field(name, property, presence))
        });
        let others: Vec<Field> = others.collect();
        let first = first
            .into_iter()
            .filter_map(|(name, presence)| Some(self.field(name, properties.get(name)?, presence)));
        first.chain(others).collect()
    }

    fn field(&self, name: &str, property: &Value, presence: Presence) -> Field {
        let resolved = self.resolved(property);
        let restart = property.get("x-reload").and_then(Value::as_str) == Some("restart");
        Field {
            name: name.to_owned(),
            description: description(&resolved),
            shape: self.shape(property),
            presence,
            reload: if restart {
                Reload::Restart
            } else {
                Reload::Reload
            },
        }
    }
}

/// The names under `required`.
fn required(schema: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let names = schema.get("required").and_then(Value::as_array);
    names.into_iter().flatten().filter_map(Value::as_str)
}

fn word(schema: &Value) -> Option<Word> {
    Some(Word {
        word: schema.get("const")?.as_str()?.to_owned(),
        description: description(schema.as_object()?),
    })
}

/// The description on one line.
fn description(schema: &Map<String, Value>) -> String {
    schema
        .get("description")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .replace('\n', " ")
}
