//! YAML text as a tree of nodes that know their line and column.
//!
//! What a configuration does not need is refused with a sentence that says so:
//! anchors and aliases, tags, merge keys, several documents, keys that are not
//! text, keys that stand twice. Depth is bounded. What a scalar means (number,
//! truth value, text) is not decided here but by the schema.

use std::collections::BTreeMap;
use std::fmt;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError};

/// The deepest nesting. The configuration needs five levels.
const DEPTH_MAX: usize = 32;

const ALIAS: &str = "aliases (`*name`) are not read: write the value out, or put quotes around a text that begins with `*`";

/// A position in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

impl Place {
    /// The beginning of a file.
    pub const START: Place = Place { line: 1, column: 1 };

    fn at(marker: &Marker) -> Self {
        Place {
            line: marker.line().max(1),
            column: marker.col().saturating_add(1),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Something wrong at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub place: Place,
    pub message: String,
}

/// A value and where it begins.
#[derive(Clone, Debug)]
pub struct Node {
    pub place: Place,
    pub content: Content,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub enum Content {
    /// Nothing: an empty value, `~` or `null`.
    Nothing,
    /// A scalar as it stands.
    Scalar(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file; no key stands twice.
    Mapping(Vec<Entry>),
    /// Something that was already reported.
    Broken,
}

/// One key of a mapping with its value.
#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub place: Place,
    pub value: Node,
}

/// Reads a text. The tree is `None` where the text is not YAML at all.
pub fn read(text: &str) -> (Option<Node>, Vec<Fault>) {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let step = match event {
            Ok((event, span)) => builder.take(event, Place::at(&span.start)),
            Err(error) => Err(syntax(text, &error)),
        };
        if let Err(fault) = step {
            builder.faults.push(fault);
            return (None, builder.faults);
        }
    }
    let root = builder.root.unwrap_or(Node {
        place: Place::START,
        content: Content::Nothing,
    });
    (Some(root), builder.faults)
}

/// Puts events together. Without recursion: the depth is the file's.
#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    faults: Vec<Fault>,
    documents: usize,
}

/// A list or mapping whose end has not come yet.
enum Open {
    List(Place, Vec<Node>),
    Mapping(Place, Fields),
}

/// The entries of a mapping so far.
#[derive(Default)]
struct Fields {
    entries: Vec<Entry>,
    /// Where each key stands; a file may have many thousands.
    seen: BTreeMap<String, Place>,
    pending: Option<Key>,
}

/// A key whose value has not come yet; without text if it cannot be used.
struct Key {
    text: Option<String>,
    place: Place,
}

impl Key {
    /// A node as a key, and what is wrong with it as one.
    fn of(node: Node) -> (Self, Option<(Place, &'static str)>) {
        let place = node.place;
        let (text, complaint) = match node.content {
            Content::Scalar(text) if text == "<<" => (
                None,
                Some("merge keys (`<<`) are not read: write the keys out"),
            ),
            Content::Scalar(text) => (Some(text), None),
            Content::Broken => (None, None),
            Content::Nothing | Content::List(_) | Content::Mapping(_) => (
                None,
                Some(
                    "a key must be plain text: write `key: value`, and quotes around a value that holds `{` or `[`",
                ),
            ),
        };
        (
            Key { text, place },
            complaint.map(|message| (place, message)),
        )
    }
}

impl Builder {
    /// Takes the next event; an error is one after which nothing can be read.
    fn take(&mut self, event: Event<'_>, place: Place) -> Result<(), Fault> {
        match event {
            Event::DocumentStart(_) => {
                self.documents = self.documents.saturating_add(1);
                if self.documents > 1 {
                    let message = "a second document begins here: leave out `---`, one file is one configuration";
                    return Err(Fault {
                        place,
                        message: message.to_owned(),
                    });
                }
            }
            Event::Alias(_) => {
                self.fault(place, ALIAS);
                self.close(Node {
                    place,
                    content: Content::Broken,
                });
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_properties(anchor, tag.map(|tag| tag.to_string()), place);
                let plain = style == ScalarStyle::Plain;
                let content = match text.as_ref() {
                    "" | "~" | "null" | "Null" | "NULL" if plain => Content::Nothing,
                    text => Content::Scalar(text.to_owned()),
                };
                self.close(Node { place, content });
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_properties(anchor, tag.map(|tag| tag.to_string()), place);
                self.open(Open::List(place, Vec::new()), place)?;
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_properties(anchor, tag.map(|tag| tag.to_string()), place);
                self.open(Open::Mapping(place, Fields::default()), place)?;
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List(place, items)) => {
                    self.close(Node {
                        place,
                        content: Content::List(items),
                    });
                }
                Some(Open::Mapping(place, fields)) => {
                    self.close(Node {
                        place,
                        content: Content::Mapping(fields.entries),
                    });
                }
                None => {}
            },
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn open(&mut self, open: Open, place: Place) -> Result<(), Fault> {
        if self.open.len() >= DEPTH_MAX {
            let message = format!(
                "nested more than {DEPTH_MAX} levels deep: check the brackets and the indentation"
            );
            return Err(Fault { place, message });
        }
        self.open.push(open);
        Ok(())
    }

    /// Files a finished node: as the root, an item, a key or a value.
    fn close(&mut self, node: Node) {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Mapping(_, fields)) => match fields.pending.take() {
                None => {
                    let (key, complaint) = Key::of(node);
                    fields.pending = Some(key);
                    if let Some((place, message)) = complaint {
                        self.fault(place, message);
                    }
                }
                Some(Key { text: None, .. }) => {}
                Some(Key {
                    text: Some(key),
                    place,
                }) => match fields.seen.get(&key) {
                    None => {
                        fields.seen.insert(key.clone(), place);
                        fields.entries.push(Entry {
                            key,
                            place,
                            value: node,
                        });
                    }
                    Some(first) => {
                        let line = first.line;
                        self.fault(place, &format!("`{key}` stands twice in this mapping, first on line {line}: keep one of them"));
                    }
                },
            },
        }
    }

    fn refuse_properties(&mut self, anchor: usize, tag: Option<String>, place: Place) {
        if anchor != 0 {
            self.fault(place, "anchors (`&name`) are not read: leave the anchor out, or put quotes around a text that begins with `&`");
        }
        if let Some(tag) = tag {
            self.fault(place, &format!("tags are not read: leave out `{tag}`, or put quotes around a text that begins with `!`"));
        }
    }

    fn fault(&mut self, place: Place, message: &str) {
        self.faults.push(Fault {
            place,
            message: message.to_owned(),
        });
    }
}

/// A text that is not YAML, with the likely reason where there is a common one.
fn syntax(text: &str, error: &ScanError) -> Fault {
    let place = Place::at(error.marker());
    if error.info().contains("unknown anchor") {
        return Fault {
            place,
            message: ALIAS.to_owned(),
        };
    }
    let line = text
        .lines()
        .nth(place.line.saturating_sub(1))
        .unwrap_or_default();
    let before: String = line.chars().take(place.column).collect();
    let indent: String = line.chars().take_while(|c| c.is_whitespace()).collect();
    let hint = if line.contains("${") && line.contains(['[', '{']) {
        "; inside [ ] and { } put quotes around \"${…}\""
    } else if indent.contains('\t') {
        "; indent with blanks, not with tabs"
    } else if before.contains('*') {
        "; put quotes around a text that begins with `*`"
    } else if before.contains(['@', '`', '%']) {
        "; put quotes around a text that begins with `@`, ` or `%`"
    } else {
        "; look at the indentation, the quotes and the brackets just before"
    };
    Fault {
        place,
        message: format!("not YAML: {}{hint}", error.info()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let (_, faults) = read(text);
        faults
            .iter()
            .map(|fault| format!("{}: {}", fault.place, fault.message))
            .collect()
    }

    #[test]
    fn knows_where_things_are() {
        let (root, faults) = read("a:\n  - b: {c: ~}\n  - 'null'\n");
        assert!(faults.is_empty());
        let Content::Mapping(entries) = root.unwrap().content else {
            panic!()
        };
        assert_eq!(entries[0].place, Place { line: 1, column: 1 });
        let Content::List(items) = &entries[0].value.content else {
            panic!()
        };
        assert_eq!(items[0].place, Place { line: 2, column: 5 });
        assert!(matches!(&items[1].content, Content::Scalar(text) if text == "null"));
    }

    #[test]
    fn refuses_what_a_configuration_does_not_need() {
        for (text, expected) in [
            (
                "a: 1\na: 2\n",
                "2:1: `a` stands twice in this mapping, first on line 1",
            ),
            ("a: &x 1\n", "anchors"),
            ("a: &x 1\nb: *x\n", "aliases"),
            ("a: !secret 1\n", "leave out `!secret`"),
            ("<<: {a: 1}\n", "1:1: merge keys"),
            ("a: 1\n---\nb: 2\n", "2:1: a second document"),
            ("? [a]\n: 1\n", "a key must be plain text"),
            ("a: [\n", "not YAML"),
            ("a:\n\tb: 1\n", "tabs"),
            ("a: [*]\n", "quotes around a text that begins with `*`"),
        ] {
            let faults = faults(text);
            assert!(
                faults.iter().any(|fault| fault.contains(expected)),
                "{text:?}: {faults:?}"
            );
        }
    }

    #[test]
    fn depth_is_bounded() {
        for text in [
            "[".repeat(100),
            "- ".repeat(100_000),
            "a: ".repeat(50),
            "? ".repeat(50_000),
        ] {
            assert!(!faults(&text).is_empty());
        }
    }
}
