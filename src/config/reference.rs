//! The reference of the configuration, `docs/configuration.md`, from the same
//! schema that files are read by.

use std::fmt::Write;

use serde_json::Value;

use super::shape::{self, Field, Presence, Reload, Shape};
use super::values::{Shown, forms};
use super::walk::join;

/// What goes before the keys. The YAML in it is loaded by a test.
const INTRODUCTION: &str = include_str!("reference/introduction.md");

/// The reference, as Markdown.
#[must_use]
pub fn markdown() -> String {
    let mut page = String::from(INTRODUCTION);
    page.push_str("\n## Forms of values\n\n| form | how to write it | examples |\n|---|---|---|\n");
    for form in forms() {
        let examples: Vec<String> = match form.shown {
            Shown::Yes => form.examples.iter().map(|example| code(example)).collect(),
            Shown::No => vec![code("${VAR}"), code("${file:PATH}")],
        };
        line(
            &mut page,
            &[
                capitalized(without_article(form.noun)),
                form.advice
                    .trim_start_matches("write ")
                    .replace('<', "&lt;"),
                examples.join(", "),
            ],
        );
    }
    page.push_str(
        "\n## Keys\n\nRequired keys come first in each table, or those of which exactly one must be there. *Change* says what it takes to change a key in a running gateway: `reload` (SIGHUP) or `restart`.\n",
    );
    let about = "The whole file.";
    section(&mut page, shape::root(), "", about);
    page
}

/// A block's section, then those of the blocks in it.
fn section(page: &mut String, shape: &Shape, path: &str, description: &str) {
    let fields = shape.fields();
    let title = if path.is_empty() {
        "Top level".to_owned()
    } else {
        code(path)
    };
    let _ = write!(page, "\n### {title}\n\n{description}\n");
    if matches!(shape, Shape::Kinds(_)) {
        page.push_str("\nEach item is one of these:\n\n| kind | meaning |\n|---|---|\n");
        for kind in fields {
            line(
                page,
                &[link(&join(path, &kind.name)), kind.description.clone()],
            );
        }
    } else {
        page.push_str("\n| key | form | default | change | meaning |\n|---|---|---|---|---|\n");
        for field in fields {
            row(page, field, path);
        }
    }
    for field in fields {
        nested(page, field, &join(path, &field.name));
    }
}

/// The section of a field that holds blocks.
fn nested(page: &mut String, field: &Field, path: &str) {
    match &field.shape {
        shape if !shape.fields().is_empty() => {
            section(page, shape, path, &field.description);
        }
        Shape::List(item) if !item.fields().is_empty() => {
            section(page, item, &format!("{path}[]"), &field.description);
        }
        _ => {}
    }
}

fn row(page: &mut String, field: &Field, path: &str) {
    let change = match (&field.shape, field.reload) {
        (Shape::Block(_), Reload::Reload) => String::new(),
        (_, Reload::Reload) => "reload".to_owned(),
        (_, Reload::Restart) => "restart".to_owned(),
    };
    let mut meaning = field.description.clone();
    if let Shape::Choice(words) = &field.shape {
        for word in words {
            let description = word.description.trim_end_matches('.');
            let _ = write!(meaning, "<br>{}: {description}.", code(&word.word));
        }
    }
    line(
        page,
        &[
            code(&field.name),
            form_of(&field.shape, &join(path, &field.name)),
            default_of(field),
            change,
            meaning,
        ],
    );
}

/// What may stand at a key, in a few words.
fn form_of(shape: &Shape, path: &str) -> String {
    match shape {
        Shape::Block(_) => format!("block {}", link(path)),
        Shape::Kinds(_) => format!("one of {}", link(path)),
        Shape::Either(scalar, block) => {
            format!("{}, or {}", form_of(scalar, path), form_of(block, path))
        }
        Shape::Map(key, value) => {
            format!(
                "mapping of {} to {}",
                without_article(key.noun),
                form_of(value, path)
            )
        }
        Shape::List(item) => format!("list of {}", form_of(item, &format!("{path}[]"))),
        Shape::Choice(words) => {
            let words: Vec<String> = words.iter().map(|word| code(&word.word)).collect();
            words.join(", ")
        }
        Shape::Integer(min, _) => format!("whole number from {min}"),
        Shape::Truth => "`true` or `false`".to_owned(),
        Shape::Formed(form) => without_article(form.noun).to_owned(),
        Shape::Path => "path of a file".to_owned(),
        Shape::Text => "text".to_owned(),
    }
}

fn default_of(field: &Field) -> String {
    match &field.presence {
        Presence::Required => "**required**".to_owned(),
        Presence::OneOf => "**one of these**".to_owned(),
        Presence::Optional => String::new(),
        Presence::Default(Value::String(text)) => code(text),
        Presence::Default(Value::Object(_)) if matches!(field.shape, Shape::Block(_)) => {
            String::new()
        }
        Presence::Default(value) => code(&value.to_string()),
    }
}

/// A row of a table.
fn line(page: &mut String, cells: &[String]) {
    for cell in cells {
        let _ = write!(page, "| {} ", cell.replace('|', "\\|"));
    }
    page.push_str("|\n");
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

/// A link to a block's section, by the anchor that GitHub gives its heading.
fn link(path: &str) -> String {
    let kept = |c: &char| c.is_ascii_alphanumeric() || *c == '_' || *c == '-';
    let anchor: String = path.chars().filter(kept).collect();
    format!("[`{path}`](#{anchor})")
}

fn without_article(noun: &str) -> &str {
    noun.strip_prefix("a ")
        .or_else(|| noun.strip_prefix("an "))
        .unwrap_or(noun)
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|first| first.to_uppercase().chain(chars).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::load_str;

    #[test]
    fn the_yaml_in_the_introduction_loads() {
        let yaml = INTRODUCTION
            .split("```yaml\n")
            .nth(1)
            .unwrap()
            .split("```")
            .next()
            .unwrap();
        let loaded = load_str("introduction.yaml", yaml, &|_| {
            Some("redis://127.0.0.1".to_owned())
        });
        assert!(loaded.is_ok(), "{loaded:?}");
    }

    #[test]
    fn every_block_that_is_linked_has_a_section() {
        let page = markdown();
        for part in page.split("[`").skip(1) {
            let Some((path, _)) = part.split_once("`](#") else {
                continue;
            };
            assert!(page.contains(&format!("\n### `{path}`\n")), "{path}");
        }
    }
}
