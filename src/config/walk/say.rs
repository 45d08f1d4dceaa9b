//! What the walk says of mistakes. The rule: name the key, show the value if
//! it may be shown, say what to write instead.

use super::super::fill::{Filled, Origin};
use super::super::shape::{Field, Presence, Shape, Word};
use super::super::values::Shown;
use super::super::yaml::Content;
use super::suggest::nearest;

/// How much of a mistaken value a message shows.
const SHOWN_MAX_CHARS: usize = 60;

/// `` `a`, `b` or `c` ``.
pub fn words<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = words.map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => String::new(),
    }
}

/// A text as a message shows it: on one line and not too long.
pub fn shorten(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(SHOWN_MAX_CHARS)
        .flat_map(char::escape_debug)
        .collect();
    shown = shown.replace("\\'", "'").replace("\\\"", "\"");
    if text.chars().nth(SHOWN_MAX_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

/// The message for a value of the wrong form; never shows what was filled in.
pub fn explain(path: &str, filled: &Filled, shape: &Shape, why: &str) -> String {
    let secret = matches!(shape, Shape::Formed(form) if form.shown == Shown::No);
    match (filled.origin, shape) {
        // The particular advice may repeat a part of the value.
        (Origin::FilledIn, Shape::Formed(form)) if form.shown == Shown::Yes => {
            format!(
                "`{path}`: what was filled in is not {}: {}",
                form.noun, form.advice
            )
        }
        (Origin::FilledIn, _) => format!("`{path}`: what was filled in is {why}"),
        (Origin::Written, _) if secret => format!("`{path}`: the value is {why}"),
        (Origin::Written, _) => format!("`{path}`: `{}` is {why}", shorten(&filled.text)),
    }
}

pub fn not_a_choice(choices: &[Word], filled: &Filled) -> String {
    let names = || choices.iter().map(|choice| choice.word.as_str());
    let near = match filled.origin {
        Origin::Written => nearest(&filled.text, names()),
        Origin::FilledIn => None,
    };
    match near {
        Some(near) => format!("not one of {}; did you mean `{near}`?", words(names())),
        None => format!("not one of {}", words(names())),
    }
}

/// What to write for a key, in a few words.
pub fn how_to_write(shape: &Shape) -> String {
    match shape {
        Shape::Block(fields) => {
            let required = fields
                .iter()
                .filter(|field| field.presence == Presence::Required);
            let required: Vec<&str> = required.map(|field| field.name.as_str()).collect();
            match required.as_slice() {
                [] => one_of(fields),
                names => format!(
                    "write its keys indented below it, at least `{}`",
                    names.join("`, `")
                ),
            }
        }
        Shape::Kinds(kinds) => {
            let keys: Vec<String> = kinds
                .iter()
                .map(|kind| format!("{}: …", kind.name))
                .collect();
            format!("write {}", words(keys.iter().map(String::as_str)))
        }
        Shape::Either(scalar, more) => {
            format!("{}; or {}", how_to_write(scalar), how_to_write(more))
        }
        Shape::Map(form, _) => format!("write pairs, each beginning with {}", form.noun),
        Shape::List(_) => "write a list, one `- ` line per item".to_owned(),
        Shape::Choice(choices) => {
            format!(
                "write {}",
                words(choices.iter().map(|choice| choice.word.as_str()))
            )
        }
        Shape::Integer(..) => "write a whole number".to_owned(),
        Shape::Truth => "write true or false".to_owned(),
        Shape::Formed(form) => form.advice.to_owned(),
        Shape::Path => "write the path of a file".to_owned(),
        Shape::Text => "write a text".to_owned(),
    }
}

/// What to write for a block without required keys.
fn one_of(fields: &[Field]) -> String {
    let names = fields
        .iter()
        .filter(|field| field.presence == Presence::OneOf);
    let names: Vec<&str> = names.map(|field| field.name.as_str()).collect();
    match names.as_slice() {
        [] => "write its keys indented below it".to_owned(),
        names => format!(
            "write its keys, exactly one of {} among them",
            words(names.iter().copied())
        ),
    }
}

pub fn missing(field: &Field, path: &str) -> String {
    let within = if path.is_empty() {
        String::new()
    } else {
        format!(" in `{path}`")
    };
    format!(
        "missing key `{}`{within}: {}",
        field.name,
        how_to_write(&field.shape)
    )
}

pub fn empty(path: &str, shape: &Shape, presence: &Presence) -> String {
    let braces = if shape.may_be_empty() {
        ", or `{}` for all defaults"
    } else {
        ""
    };
    let leave_out = match presence {
        Presence::Required | Presence::OneOf => "",
        Presence::Default(_) | Presence::Optional => ", or leave the key out",
    };
    format!(
        "`{path}` is empty: {}{braces}{leave_out}",
        how_to_write(shape)
    )
}

pub fn wrong_kind(path: &str, shape: &Shape, content: &Content) -> String {
    let path = if path.is_empty() {
        "the file".to_owned()
    } else {
        format!("`{path}`")
    };
    let found = match content {
        Content::Mapping(_) => "a mapping (`key: value`)",
        Content::List(_) => "a list",
        Content::Scalar(_) | Content::Nothing | Content::Broken => "a single value",
    };
    let wanted = match shape {
        Shape::Block(_) | Shape::Kinds(_) | Shape::Map(..) => "a mapping",
        Shape::Either(_, more) if matches!(**more, Shape::List(_)) => "a single value or a list",
        Shape::Either(..) => "a single value or a mapping",
        Shape::List(_) => "a list",
        _ => "a single value",
    };
    let advice = match (content, shape) {
        (Content::Scalar(_), Shape::List(_)) => {
            "put it in brackets, [\"…\"], or write one `- ` line per item".to_owned()
        }
        (Content::Mapping(_), shape) if shape.is_scalar() => {
            format!(
                "{}; a text with `{{` or `: ` in it needs quotes",
                how_to_write(shape)
            )
        }
        _ => how_to_write(shape),
    };
    format!("{path} must be {wanted}, not {found}: {advice}")
}

/// The message for a text that is not a whole number in its bounds.
pub fn not_an_integer(min: u64, max: u64, text: &str) -> String {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u64>() {
        Ok(number) if digits && number < min => format!("too small: write at least {min}"),
        _ if digits => format!("too large: write at most {max}"),
        _ => format!("not a whole number: write digits alone, at least {min}"),
    }
}
