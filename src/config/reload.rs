//! What a reload cannot change.

use serde_json::Value;

use super::Config;
use super::shape::{self, Reload, Shape};
use super::walk::join;

/// The keys that differ between two configurations and that only a new process
/// takes over, as dotted paths in the order of the reference. Empty: a reload
/// does it all.
#[must_use]
pub fn needs_restart(old: &Config, new: &Config) -> Vec<String> {
    let mut changed = Vec::new();
    // Secrets are written as marks that mean nothing outside this process.
    if let (Ok(old), Ok(new)) = (serde_json::to_value(old), serde_json::to_value(new)) {
        compare(shape::root(), &old, &new, "", &mut changed);
    }
    changed
}

fn compare(shape: &Shape, old: &Value, new: &Value, path: &str, changed: &mut Vec<String>) {
    for field in shape.fields() {
        let (old, new) = (value_of(old, &field.name), value_of(new, &field.name));
        let path = join(path, &field.name);
        if field.reload == Reload::Restart && old != new {
            changed.push(path);
        } else {
            compare(&field.shape, old, new, &path, changed);
        }
    }
}

/// A key's value; null if the block or the key is absent.
fn value_of<'a>(block: &'a Value, key: &str) -> &'a Value {
    block.get(key).unwrap_or(&Value::Null)
}

#[cfg(test)]
mod tests {
    use super::super::load::load_str;
    use super::*;

    const BASE: &str = include_str!("../../config/demo.yaml");

    fn config(text: &str) -> Config {
        load_str("demo.yaml", text, &|_| None).unwrap()
    }

    #[test]
    fn names_the_keys_that_a_reload_leaves() {
        let old = config(BASE);
        assert_eq!(needs_restart(&old, &old.clone()), Vec::<String>::new());
        for (from, to, expected) in [
            ("acme: 100", "acme: 50", vec![]),
            ("127.0.0.1:8080", "127.0.0.1:8081", vec!["server.listen"]),
            (
                "\"127.0.0.1:9901\"",
                "\"127.0.0.1:9902\"",
                vec!["server.admin.listen"],
            ),
            (
                "\"127.0.0.1:9901\"",
                "\"127.0.0.1:9901\", token: x",
                vec!["server.admin.token"],
            ),
            (
                "  admin: {listen: \"127.0.0.1:9901\"}\n",
                "",
                vec!["server.admin.listen"],
            ),
        ] {
            let new = BASE.replace(from, to);
            assert_ne!(new, BASE, "{from}");
            assert_eq!(needs_restart(&old, &config(&new)), expected, "{from}");
        }
    }

    #[test]
    fn a_changed_secret_counts_and_is_not_shown() {
        let with = |token: &str| {
            config(&BASE.replace(
                "\"127.0.0.1:9901\"",
                &format!("\"127.0.0.1:9901\", token: {token}"),
            ))
        };
        assert_eq!(
            needs_restart(&with("one"), &with("two")),
            ["server.admin.token"]
        );
        assert!(needs_restart(&with("one"), &with("one")).is_empty());
    }
}
