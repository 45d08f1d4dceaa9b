//! Walks a file's tree and the schema side by side, and collects every
//! mistake on the way.
//!
//! A value that is mistaken is replaced by a valid one and its path kept as
//! *mended*, so that the rest of the file is still checked, and rules between
//! keys ([`super::check`]) are not broken by what is already reported.

mod say;
mod suggest;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::fill::{Filled, Origin, Sources};
use super::shape::{Field, Presence, Shape};
use super::values::{FileOrUrl, Form, FormEntry, HeaderField, Shown};
use super::yaml::{Content, Entry, Fault, Node, Place};
use say::{empty, explain, missing, not_a_choice, not_an_integer, shorten, words, wrong_kind};
use suggest::{nearest, owners};

/// The most items of any list. Rules between items compare each with each.
const LIST_MAX_ITEMS: usize = 1_000;

/// The mistakes up to which unknown keys are looked up elsewhere. A file with
/// more of them is not a configuration, and must not take long to refuse.
const SUGGESTIONS_MAX: usize = 100;

/// What the walk found.
#[derive(Debug, Default)]
pub struct Walked {
    /// The configuration as typed JSON; valid as far as single keys go.
    pub value: Value,
    /// The mistakes, in the order of the walk.
    pub faults: Vec<Fault>,
    /// Where every key and value stands, by its dotted path.
    pub spots: BTreeMap<String, Spot>,
    /// The paths that were mended.
    pub mended: Vec<String>,
}

/// Where a key stands.
#[derive(Clone, Copy, Debug)]
pub struct Spot {
    /// Where its name begins (for an item of a list: the item).
    pub key: Place,
    /// Where its value begins.
    pub value: Place,
    /// Whether its value may be shown.
    pub shown: Shown,
}

/// Walks a file.
pub fn walk(root: &Node, shape: &Shape, sources: &Sources<'_>) -> Walked {
    let mut walker = Walker {
        sources,
        shape,
        out: Walked::default(),
    };
    let value = match &root.content {
        Content::Nothing => {
            let required = shape
                .fields()
                .iter()
                .filter(|field| field.presence == Presence::Required);
            let required: Vec<&str> = required.map(|field| field.name.as_str()).collect();
            let names = required.join("`, `");
            walker.fault(
                Place::START,
                format!("the file is empty: write at least `{names}`"),
            );
            walker.mend(shape, "")
        }
        _ => walker.node(shape, root, "", Place::START),
    };
    walker.out.value = value;
    walker.out
}

struct Walker<'a> {
    sources: &'a Sources<'a>,
    shape: &'a Shape,
    out: Walked,
}

impl Walker<'_> {
    /// Reads a node as this shape. `key` is where its key stands.
    fn node(&mut self, shape: &Shape, node: &Node, path: &str, key: Place) -> Value {
        let spot = Spot {
            key,
            value: node.place,
            shown: Shown::Yes,
        };
        self.out.spots.insert(path.to_owned(), spot);
        match (&node.content, shape) {
            (Content::Broken, _) => self.mend(shape, path),
            (Content::Nothing, _) => {
                self.fault(key, empty(path, shape, &Presence::Required));
                self.mend(shape, path)
            }
            (Content::Mapping(_), Shape::Either(_, block))
                if !matches!(**block, Shape::List(_)) =>
            {
                self.node(block, node, path, key)
            }
            (Content::List(_), Shape::Either(_, list)) if matches!(**list, Shape::List(_)) => {
                self.node(list, node, path, key)
            }
            (Content::Scalar(_), Shape::Either(scalar, _)) => self.node(scalar, node, path, key),
            (Content::Mapping(entries), Shape::Block(fields)) => {
                self.block(fields, entries, path, key)
            }
            (Content::Mapping(entries), Shape::Kinds(kinds)) => {
                self.kind(kinds, entries, path, node.place)
            }
            (Content::Mapping(entries), Shape::Map(form, inner)) => {
                self.map(form, inner, entries, path)
            }
            (Content::List(items), Shape::List(_)) if items.len() > LIST_MAX_ITEMS => {
                self.fault(
                    key,
                    format!("`{path}` has more than {LIST_MAX_ITEMS} items: write fewer"),
                );
                self.mend(shape, path)
            }
            (Content::List(items), Shape::List(inner)) => {
                let item = |(index, item): (usize, &Node)| {
                    self.node(inner, item, &format!("{path}[{index}]"), item.place)
                };
                items.iter().enumerate().map(item).collect()
            }
            (Content::Scalar(text), shape) if shape.is_scalar() => {
                self.scalar(shape, text, path, node.place)
            }
            (content, shape) => {
                self.fault(node.place, wrong_kind(path, shape, content));
                self.mend(shape, path)
            }
        }
    }

    fn block(&mut self, fields: &[Field], entries: &[Entry], path: &str, place: Place) -> Value {
        let mut object = Map::new();
        let mut meant = Vec::new();
        for entry in entries {
            let Some(field) = fields.iter().find(|field| field.name == entry.key) else {
                let message = self.unknown(&entry.key, fields, path);
                meant.extend(self.meant(&entry.key, fields));
                self.fault(entry.place, message);
                continue;
            };
            let inner = join(path, &entry.key);
            let value = self.field(field, entry, &inner);
            object.insert(field.name.clone(), value);
        }
        for field in fields
            .iter()
            .filter(|field| field.presence == Presence::Required)
        {
            if !object.contains_key(&field.name) {
                // A misspelt key is one mistake, not also a missing one.
                if !meant.contains(&field.name.as_str()) {
                    self.fault(place, missing(field, path));
                }
                let value = self.mend(&field.shape, &join(path, &field.name));
                object.insert(field.name.clone(), value);
            }
        }
        let meant = meant.into_iter().filter(|name| !object.contains_key(*name));
        self.out.mended.extend(meant.map(|name| join(path, name)));
        Value::Object(object)
    }

    /// The value of a known key. A block that is there and empty has its
    /// defaults, as when every line in it is commented out; but one that
    /// switches something on by being there must say so.
    fn field(&mut self, field: &Field, entry: &Entry, path: &str) -> Value {
        if !matches!(entry.value.content, Content::Nothing) {
            return self.node(&field.shape, &entry.value, path, entry.place);
        }
        let spot = Spot {
            key: entry.place,
            value: entry.place,
            shown: Shown::Yes,
        };
        self.out.spots.insert(path.to_owned(), spot);
        if matches!(&field.presence, Presence::Default(Value::Object(_))) {
            return Value::Object(Map::new());
        }
        self.fault(entry.place, empty(path, &field.shape, &field.presence));
        self.mend(&field.shape, path)
    }

    /// A mapping with one key that says what kind of thing this is.
    fn kind(&mut self, kinds: &[Field], entries: &[Entry], path: &str, place: Place) -> Value {
        let names = words(kinds.iter().map(|kind| kind.name.as_str()));
        let mut chosen: Option<(&Field, Value)> = None;
        for entry in entries {
            let known = kinds.iter().find(|kind| kind.name == entry.key);
            let Some(kind) = known else {
                let message = match &chosen {
                    Some((kind, _)) if kind.shape.field(&entry.key).is_some() => {
                        format!(
                            "`{}` belongs under `{}`: indent it by two more blanks",
                            entry.key, kind.name
                        )
                    }
                    _ => self.unknown(&entry.key, kinds, path),
                };
                self.fault(entry.place, message);
                continue;
            };
            if chosen.is_some() {
                self.fault(
                    entry.place,
                    format!(
                        "`{path}` names two kinds: begin a list item of its own (`- {}:`)",
                        entry.key
                    ),
                );
                continue;
            }
            let inner = join(path, &entry.key);
            let bare = matches!(entry.value.content, Content::Nothing);
            let outdented = |other: &Entry| kind.shape.field(&other.key).is_some();
            let value = if bare && entries.iter().any(outdented) {
                // Its keys stand beside it, which is reported for each.
                self.mend(&kind.shape, &inner)
            } else if bare && kind.shape.may_be_empty() {
                Value::Object(Map::new())
            } else {
                self.node(&kind.shape, &entry.value, &inner, entry.place)
            };
            chosen = Some((kind, value));
        }
        let Some((kind, value)) = chosen else {
            if entries.is_empty() {
                self.fault(place, format!("`{path}` is empty: write one of {names}"));
            }
            return self.mend_kind(kinds, path);
        };
        Value::Object(Map::from_iter([(kind.name.clone(), value)]))
    }

    fn map(&mut self, form: &FormEntry, inner: &Shape, entries: &[Entry], path: &str) -> Value {
        let mut object = Map::new();
        for entry in entries {
            // Header names do not differ by case; anything else does.
            let name = match form.format {
                HeaderField::FORMAT => entry.key.to_ascii_lowercase(),
                _ => entry.key.clone(),
            };
            let inner_path = join(path, &name);
            if entry.key.contains("${") {
                self.fault(
                    entry.place,
                    format!(
                        "`{path}`: `{}` is not filled in, because it is a key and no value: write what it stands for",
                        shorten(&entry.key)
                    ),
                );
                self.out.mended.push(inner_path);
                continue;
            }
            if object.contains_key(&name) {
                self.fault(
                    entry.place,
                    format!("`{name}` stands twice in `{path}`, in other case: keep one of them"),
                );
                continue;
            }
            let value = self.node(inner, &entry.value, &inner_path, entry.place);
            match (form.check)(&entry.key) {
                Ok(()) => {
                    object.insert(name, value);
                }
                Err(unfit) => {
                    self.fault(
                        entry.place,
                        format!("`{path}`: `{}` is {unfit}", shorten(&entry.key)),
                    );
                    self.out.mended.push(inner_path);
                }
            }
        }
        Value::Object(object)
    }

    fn scalar(&mut self, shape: &Shape, written: &str, path: &str, place: Place) -> Value {
        let read = self
            .sources
            .fill(written)
            .map_err(|why| format!("`{path}`: {why}"));
        let read = read.and_then(|filled| {
            let hidden = filled.origin == Origin::FilledIn
                || matches!(shape, Shape::Formed(form) if form.shown == Shown::No);
            if let (true, Some(spot)) = (hidden, self.out.spots.get_mut(path)) {
                spot.shown = Shown::No;
            }
            self.typed(shape, &filled)
                .map_err(|why| explain(path, &filled, shape, &why))
        });
        match read {
            Ok(value) => value,
            Err(message) => {
                self.fault(place, message);
                self.mend(shape, path)
            }
        }
    }

    /// The typed value of a text, or what is wrong: `not …: write …`.
    fn typed(&self, shape: &Shape, filled: &Filled) -> Result<Value, String> {
        let text = filled.text.as_str();
        match shape {
            Shape::Formed(form) => {
                (form.check)(text).map_err(|unfit| unfit.to_string())?;
                if form.format == FileOrUrl::FORMAT && !text.starts_with("https://") {
                    return Ok(Value::from(self.sources.resolve(text).to_string_lossy()));
                }
                Ok(Value::from(text))
            }
            Shape::Choice(choices) => match choices.iter().find(|choice| choice.word == text) {
                Some(choice) => Ok(Value::from(choice.word.as_str())),
                None => Err(not_a_choice(choices, filled)),
            },
            Shape::Integer(min, max) => {
                let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                match text.parse::<u64>() {
                    Ok(number) if digits && (*min..=*max).contains(&number) => {
                        Ok(Value::from(number))
                    }
                    _ => Err(not_an_integer(*min, *max, text)),
                }
            }
            Shape::Truth => match text {
                "true" => Ok(Value::Bool(true)),
                "false" => Ok(Value::Bool(false)),
                _ => Err("not a truth value: write true or false".to_owned()),
            },
            _ if text.trim().is_empty() => {
                Err("not a text: it is blank, write one or leave the key out".to_owned())
            }
            Shape::Path => Ok(Value::from(self.sources.resolve(text).to_string_lossy())),
            _ => Ok(Value::from(text)),
        }
    }

    /// The key of a block that a misspelt one stands for.
    fn meant<'f>(&self, key: &str, fields: &'f [Field]) -> Option<&'f str> {
        let names = fields.iter().map(|field| field.name.as_str());
        (self.out.faults.len() < SUGGESTIONS_MAX)
            .then(|| nearest(key, names))
            .flatten()
    }

    fn unknown(&self, key: &str, fields: &[Field], path: &str) -> String {
        let within = if path.is_empty() {
            String::new()
        } else {
            format!(" in `{path}`")
        };
        let names = || fields.iter().map(|field| field.name.as_str());
        let near = self.meant(key, fields);
        let owners = || match self.out.faults.len() {
            ..SUGGESTIONS_MAX => owners(self.shape, key),
            _ => Vec::new(),
        };
        let advice = match near.map_or_else(|| Err(owners()), Ok) {
            Ok(near) => format!("did you mean `{near}`?"),
            Err(owners) if !owners.is_empty() => {
                format!("it belongs in {}", words(owners.iter().map(String::as_str)))
            }
            Err(_) => format!("known here: {}", words(names())),
        };
        format!("unknown key `{}`{within}; {advice}", shorten(key))
    }

    fn fault(&mut self, place: Place, message: String) {
        self.out.faults.push(Fault { place, message });
    }

    /// A valid value in place of a mistaken one.
    fn mend(&mut self, shape: &Shape, path: &str) -> Value {
        self.out.mended.push(path.to_owned());
        stand_in(shape)
    }

    fn mend_kind(&mut self, kinds: &[Field], path: &str) -> Value {
        self.out.mended.push(path.to_owned());
        stand_in_kind(kinds)
    }
}

/// A valid value of this shape.
fn stand_in(shape: &Shape) -> Value {
    match shape {
        Shape::Block(fields) => fields
            .iter()
            .filter(|field| field.presence == Presence::Required)
            .map(|field| (field.name.clone(), stand_in(&field.shape)))
            .collect::<Map<_, _>>()
            .into(),
        Shape::Kinds(kinds) => stand_in_kind(kinds),
        Shape::Either(scalar, _) => stand_in(scalar),
        Shape::Map(..) => Value::Object(Map::new()),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::Choice(choices) => choices.first().map(|choice| choice.word.as_str()).into(),
        Shape::Integer(min, _) => Value::from(*min),
        Shape::Truth => Value::Bool(false),
        Shape::Formed(form) => form.examples.first().copied().into(),
        Shape::Path | Shape::Text => Value::from("text"),
    }
}

fn stand_in_kind(kinds: &[Field]) -> Value {
    let first = kinds
        .first()
        .map(|kind| (kind.name.clone(), stand_in(&kind.shape)));
    Value::Object(first.into_iter().collect())
}

/// The dotted path of a key.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}
