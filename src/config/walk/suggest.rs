//! `did you mean`: names near a misspelt one, and blocks that a misplaced key
//! belongs in.

use super::super::shape::Shape;
use super::join;

/// The most blocks that a message names for a misplaced key.
const OWNERS_MAX: usize = 3;

/// The name that is most likely meant, if any is near enough.
pub fn nearest<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.trim().to_ascii_lowercase().replace('-', "_");
    // A third of the letters may be wrong, and at most three.
    let allowed = written.chars().count().div_ceil(3).min(3);
    names
        .map(|name| (strsim::damerau_levenshtein(&written, name), name))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, name)| name)
}

/// The blocks that have a key of this name.
pub fn owners(root: &Shape, key: &str) -> Vec<String> {
    let mut found = Vec::new();
    collect(root, key, "", &mut found);
    found.sort_by_key(String::len);
    found.truncate(OWNERS_MAX);
    found
}

fn collect(shape: &Shape, key: &str, path: &str, found: &mut Vec<String>) {
    match shape {
        Shape::Block(fields) | Shape::Kinds(fields) => {
            for field in fields {
                let inner = join(path, &field.name);
                if field.name == key {
                    let owner = if path.is_empty() {
                        "the top level"
                    } else {
                        path
                    };
                    found.push(owner.to_owned());
                }
                collect(&field.shape, key, &inner, found);
            }
        }
        Shape::Either(_, block) => collect(block, key, path, found),
        Shape::List(inner) => collect(inner, key, &format!("{path}[]"), found),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let names = ["listen", "limits", "tls", "threads"];
        for (written, expected) in [
            ("lisen", Some("listen")),
            ("Listen", Some("listen")),
            ("limit", Some("limits")),
            ("tsl", Some("tls")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, names.into_iter()), expected, "{written}");
        }
    }
}
