//! Actions that stop or close something: they always pass.

/// What counts as one where the configuration does not say: stop, cancel, close
/// and dismiss, alone or as a word at either end, set off by `_`, `-`, `.` or
/// `:`.
///
/// A word in the middle does not count, and neither does `stopwatch`: a pattern
/// that is too wide lets work through that nobody pays for.
pub const DEFAULT_STOP_ACTIONS: &[&str] = &[
    "stop",
    "stop_*",
    "stop-*",
    "stop.*",
    "stop:*",
    "*_stop",
    "*-stop",
    "*.stop",
    "*:stop",
    "cancel",
    "cancel_*",
    "cancel-*",
    "cancel.*",
    "cancel:*",
    "*_cancel",
    "*-cancel",
    "*.cancel",
    "*:cancel",
    "close",
    "close_*",
    "close-*",
    "close.*",
    "close:*",
    "*_close",
    "*-close",
    "*.close",
    "*:close",
    "dismiss",
    "dismiss_*",
    "dismiss-*",
    "dismiss.*",
    "dismiss:*",
    "*_dismiss",
    "*-dismiss",
    "*.dismiss",
    "*:dismiss",
];

/// Whether an action is one of these. Upper and lower case differ, as they do
/// for Slack.
pub(super) fn stops(patterns: &[String], action: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, action))
}

/// A `*` at either end stands for anything, nothing included; elsewhere it is
/// itself.
fn matches(pattern: &str, action: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (None, None) => action == pattern,
        (None, Some(head)) => action.starts_with(head),
        (Some(tail), None) => action.ends_with(tail),
        (Some(tail), Some(_)) => action.contains(tail.strip_suffix('*').unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn default_patterns() -> Vec<String> {
        DEFAULT_STOP_ACTIONS
            .iter()
            .map(|&pattern| pattern.to_owned())
            .collect()
    }

    #[test]
    fn the_words_count_alone_and_at_either_end() {
        let patterns = default_patterns();
        for word in ["stop", "cancel", "close", "dismiss"] {
            assert!(stops(&patterns, word));
            for mark in ["_", "-", ".", ":"] {
                assert!(stops(&patterns, &format!("{word}{mark}run")));
                assert!(stops(&patterns, &format!("agent{mark}{word}")));
                assert!(!stops(&patterns, &format!("a{mark}{word}{mark}b")));
            }
            assert!(!stops(&patterns, &format!("{word}run")));
            assert!(!stops(&patterns, &format!("non{word}")));
            assert!(!stops(&patterns, &word.to_uppercase()));
        }
        assert!(!stops(&patterns, ""));
        assert!(!stops(&patterns, "approve"));
        assert_eq!(patterns.len(), 4 * 9);
    }

    #[test]
    fn a_star_stands_for_anything_at_either_end_alone() {
        let table = [
            ("*", "", true),
            ("*", "anything", true),
            ("halt", "halt", true),
            ("halt", "halted", false),
            ("halt*", "halt", true),
            ("halt*", "halted", true),
            ("halt*", "a halt", false),
            ("*halt", "a halt", true),
            ("*halt", "halted", false),
            ("*halt*", "a halted b", true),
            ("*halt*", "hal", false),
            ("h*t", "halt", false),
            ("h*t", "h*t", true),
            ("**", "x", true),
            ("", "", true),
            ("", "x", false),
        ];
        for (pattern, action, expected) in table {
            assert_eq!(matches(pattern, action), expected, "{pattern} {action}");
        }
        assert!(!stops(&[], "stop"));
    }
}
