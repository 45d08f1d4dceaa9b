//! The JSON Schema of the configuration, for editors and for `tollgate schema`.
//!
//! It comes from the types in [`super`]; the loader reads files by the same
//! schema (`shape`), so the two cannot disagree.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::Config;

/// The JSON Schema (draft 2020-12) of the configuration.
///
/// Besides what the keys are, it says of each under `x-reload` whether
/// `restart` is needed to change it; keys without it change on reload.
#[must_use]
pub fn schema() -> Value {
    let mut schema = plain();
    accept_substitutions(&mut schema);
    schema
}

/// The schema without what is only for readers of YAML files as they stand:
/// here a number is a number.
pub(super) fn plain() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<Config>().to_value();
    drop_null(&mut schema);
    if let Value::Object(root) = &mut schema {
        root.insert("title".to_owned(), json!("tollgate configuration"));
    }
    schema
}

/// Takes `null` out: a key that is left out is absent here, never null.
fn drop_null(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(drop_null),
        Value::Object(object) => {
            drop_null_here(object);
            object.values_mut().for_each(drop_null);
        }
        _ => {}
    }
}

fn drop_null_here(object: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
        choices.retain(|choice| choice != &json!({"type": "null"}));
        if let [Value::Object(only)] = choices.as_slice() {
            let only = only.clone();
            object.remove("anyOf");
            for (key, value) in only {
                object.entry(key).or_insert(value);
            }
        }
    }
    match object.get_mut("default") {
        Some(Value::Null) => {
            object.remove("default");
        }
        Some(Value::Object(block)) => block.retain(|_, value| !value.is_null()),
        _ => {}
    }
}

/// Lets `${…}` stand where a number, a truth value or a text of a certain form
/// is asked for, so that an editor does not mark it.
fn accept_substitutions(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(accept_substitutions),
        Value::Object(object) => {
            object.values_mut().for_each(accept_substitutions);
            if let Some(Value::String(pattern)) = object.get_mut("pattern") {
                pattern.push_str(r"|\$\{");
            }
            let scalar = object.get("type").and_then(Value::as_str);
            if !matches!(scalar, Some("integer" | "boolean")) {
                return;
            }
            let mut typed = Map::new();
            for key in ["type", "format", "minimum", "maximum"] {
                if let Some(value) = object.remove(key) {
                    typed.insert(key.to_owned(), value);
                }
            }
            object.insert(
                "anyOf".to_owned(),
                json!([typed, {"type": "string", "pattern": r"\$\{"}]),
            );
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at<'a>(schema: &'a Value, pointer: &str) -> &'a Value {
        schema
            .pointer(pointer)
            .unwrap_or_else(|| panic!("{pointer}"))
    }

    #[test]
    fn says_what_needs_a_restart_and_what_is_the_default() {
        let schema = schema();
        assert_eq!(
            at(&schema, "/$defs/Server/properties/listen/x-reload"),
            "restart"
        );
        assert_eq!(
            at(&schema, "/$defs/Redis/properties/deadline/default"),
            "50ms"
        );
        assert_eq!(
            at(&schema, "/$defs/CreditAmount/type"),
            &json!(["string", "number"])
        );
    }

    #[test]
    fn says_which_keys_exclude_each_other_and_what_has_two_forms() {
        let schema = schema();
        assert_eq!(
            at(&schema, "/$defs/Route/oneOf"),
            &json!([{"required": ["start"]}, {"required": ["ends"]}, {"required": ["watch"]}])
        );
        let forms = at(&schema, "/$defs/Hold/anyOf");
        assert_eq!(at(forms, "/0/$ref"), "#/$defs/HoldAmount");
        assert_eq!(at(forms, "/1/$ref"), "#/$defs/HoldHeader");
    }

    #[test]
    fn null_is_nowhere() {
        assert!(!schema().to_string().contains("null"));
    }

    #[test]
    fn a_number_may_be_filled_in() {
        let threads = schema();
        let threads = at(&threads, "/$defs/Server/properties/threads");
        assert_eq!(at(threads, "/anyOf/0/type"), "integer");
        assert_eq!(at(threads, "/anyOf/1/type"), "string");
    }

    #[test]
    fn a_text_of_a_certain_form_may_be_filled_in() {
        fn patterns(schema: &Value, found: &mut Vec<String>) {
            match schema {
                Value::Array(items) => items.iter().for_each(|item| patterns(item, found)),
                Value::Object(object) => {
                    let pattern = object.get("pattern").and_then(Value::as_str);
                    found.extend(pattern.map(str::to_owned));
                    object.values().for_each(|value| patterns(value, found));
                }
                _ => {}
            }
        }
        let mut found = Vec::new();
        patterns(&schema(), &mut found);
        assert!(found.len() > 20, "{found:?}");
        for pattern in found {
            assert!(pattern.ends_with(r"\$\{"), "{pattern}");
        }
    }
}
