//! The house rules that a compiler does not check: imports point down, every
//! file says what it is for, and nothing grows past what one can read.
//!
//! Floors, top to bottom: `main`, `cli`, `app`, then `edge`, then `keeper`,
//! `notices` and `refusals`, then `events`, `egress`, `telemetry`, then `ledger`
//! (with `sync`) and `config`, then `billing`.

// Here a panic is how a claim fails, and test data is known to be in bounds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Lines of code a file may have before its tests.
const FILE_LINES_MAX: usize = 400;
/// Lines a function may have, its signature and closing brace included.
const FUNCTION_LINES_MAX: usize = 69;

/// What each module may import of this crate. `billing` knows nobody; nobody
/// but `cli` knows `app`; nobody below `app` knows `edge`.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("billing", &["billing"]),
    ("config", &["config", "billing"]),
    ("sync", &[]),
    ("ledger", &["ledger", "config", "billing", "sync"]),
    ("telemetry", &["telemetry", "ledger", "config", "billing"]),
    (
        "refusals",
        &[
            "refusals",
            "events",
            "telemetry",
            "ledger",
            "config",
            "billing",
        ],
    ),
    (
        "events",
        &["events", "telemetry", "ledger", "config", "billing"],
    ),
    (
        "keeper",
        &[
            "keeper",
            "events",
            "telemetry",
            "ledger",
            "config",
            "billing",
        ],
    ),
    ("egress", &["egress", "config"]),
    (
        "notices",
        &[
            "notices",
            "egress",
            "telemetry",
            "ledger",
            "config",
            "billing",
        ],
    ),
    (
        "edge",
        &[
            "edge",
            "keeper",
            "notices",
            "egress",
            "events",
            "refusals",
            "telemetry",
            "ledger",
            "config",
            "billing",
        ],
    ),
    (
        "app",
        &[
            "app",
            "edge",
            "keeper",
            "notices",
            "egress",
            "events",
            "refusals",
            "telemetry",
            "ledger",
            "config",
            "billing",
        ],
    ),
    (
        "cli",
        &[
            "cli",
            "app",
            "edge",
            "keeper",
            "notices",
            "egress",
            "events",
            "refusals",
            "telemetry",
            "ledger",
            "config",
            "billing",
        ],
    ),
    ("lib", &[]),
    ("main", &["cli"]),
];

/// What would make `billing` depend on the world: I/O, clocks, async, HTTP,
/// serialisation.
const UNWORLDLY: &[&str] = &[
    "tokio",
    "async",
    "await",
    "http::",
    "serde",
    "std::time",
    "std::io",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "redis",
    "pingora",
    "tracing",
    "rand::",
];

struct Source {
    path: PathBuf,
    /// Its lines before the tests, with comments and strings emptied.
    code: Vec<String>,
    text: String,
}

impl Source {
    /// The module on the first floor below `src`: `edge` for `edge/route.rs`.
    fn module(&self) -> String {
        let first = self.path.iter().next().unwrap_or_default();
        Path::new(first)
            .with_extension("")
            .to_string_lossy()
            .into_owned()
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let code = blanked(&text)
                    .lines()
                    .take_while(|line| line.trim() != "mod tests {")
                    .map(str::to_owned)
                    .collect();
                found.push(Source {
                    path: path.strip_prefix(&root).unwrap().to_owned(),
                    code,
                    text,
                });
            }
        }
    }
    assert!(found.len() > 5, "src/ is not where it was");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The text without what stands in comments, strings and characters; every
/// line stays where it is.
fn blanked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if c == '"' {
            string_length(rest)
        } else if let Some(length) = raw_string_length(rest).or_else(|| char_length(rest)) {
            length
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            // `r` or `b` inside a word begins no string.
            if c.is_alphanumeric() || c == '_' {
                let word = rest
                    .find(|c: char| !(c.is_alphanumeric() || c == '_'))
                    .unwrap_or(rest.len());
                out.push_str(&rest[..word]);
                rest = &rest[word..];
            }
            continue;
        };
        out.extend(rest[..length].chars().filter(|c| *c == '\n'));
        rest = &rest[length..];
    }
    out
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn raw_string_length(text: &str) -> Option<usize> {
    let after = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = body.find(&close)?;
    Some(text.len() - body.len() + end + close.len())
}

/// `'{'`, `'\n'`, `'\u{7f}'`; not a lifetime.
fn char_length(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    if let Some(escape) = inner.strip_prefix('\\') {
        let end = escape.char_indices().skip(1).find(|(_, c)| *c == '\'')?.0;
        return Some(2 + end + 1);
    }
    let c = inner.chars().next()?;
    inner[c.len_utf8()..]
        .starts_with('\'')
        .then_some(2 + c.len_utf8())
}

/// The modules of this crate that a file names: `crate::x`, `use crate::{x, y}`,
/// `tollgate::x`.
fn imports(source: &Source) -> BTreeSet<String> {
    let code: String = source.code.join("\n");
    let mut found = BTreeSet::new();
    for prefix in ["crate::", "tollgate::"] {
        for (at, _) in code.match_indices(prefix) {
            let inside_a_path = code[..at]
                .ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '$');
            if inside_a_path {
                continue;
            }
            let rest = &code[at + prefix.len()..];
            match rest.strip_prefix('{') {
                Some(group) => found.extend(group_heads(group)),
                None => found.extend(head(rest)),
            }
        }
    }
    found
}

fn head(path: &str) -> Option<String> {
    let end = path
        .find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .unwrap_or(path.len());
    (end > 0).then(|| path[..end].to_owned())
}

/// The first words of each entry of `{a::b, c::{d, e}, f}`.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut entry) = (0_usize, Vec::new(), String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.extend(head(std::mem::take(&mut entry).trim())),
            _ => {}
        }
        if c != ',' {
            entry.push(c);
        }
    }
    heads.extend(head(entry.trim()));
    heads
}

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    for source in sources() {
        let module = source.module();
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
            panic!("src/{module}: give it a floor in MAY_IMPORT");
        };
        let known = |name: &String| MAY_IMPORT.iter().any(|(module, _)| module == name);
        for import in imports(&source).iter().filter(|name| known(name)) {
            if !allowed.contains(&import.as_str()) {
                wrong.push(format!("{} imports {import}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn billing_knows_no_world() {
    let mut wrong = Vec::new();
    for source in sources()
        .iter()
        .filter(|source| source.module() == "billing")
    {
        for (at, line) in source.code.iter().enumerate() {
            let named = UNWORLDLY.iter().filter(|name| line.contains(*name));
            wrong.extend(named.map(|name| format!("{}:{}: {name}", source.path.display(), at + 1)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_the_edge_and_the_wiring_know_the_proxy() {
    let wrong: Vec<String> = sources()
        .iter()
        .filter(|source| !matches!(source.module().as_str(), "edge" | "app" | "cli"))
        .filter(|source| {
            source
                .code
                .iter()
                .any(|line| line.contains("pingora_proxy") || line.contains("pingora_http"))
        })
        .map(|source| source.path.display().to_string())
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent = |source: &&Source| !source.text.starts_with("//! ");
    let wrong: Vec<_> = sources()
        .iter()
        .filter(silent)
        .map(|source| source.path.clone())
        .collect();
    assert!(wrong.is_empty(), "no `//!` at the top: {wrong:#?}");
}

#[test]
fn no_module_is_called_mod() {
    assert!(
        sources()
            .iter()
            .all(|source| !source.path.ends_with("mod.rs")),
        "foo.rs beside foo/, never mod.rs"
    );
}

#[test]
fn every_file_can_be_read_at_once() {
    let mut wrong = Vec::new();
    for source in sources() {
        let lines = source
            .code
            .iter()
            .filter(|line| !line.trim().is_empty())
            .count();
        if lines > FILE_LINES_MAX {
            wrong.push(format!("{}: {lines} lines of code", source.path.display()));
        }
    }
    assert!(
        wrong.is_empty(),
        "split what passes {FILE_LINES_MAX}: {wrong:#?}"
    );
}

#[test]
fn every_function_can_be_read_at_once() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (name, line, length) in functions(&source.code) {
            if length > FUNCTION_LINES_MAX {
                wrong.push(format!(
                    "{}:{line}: `{name}` has {length} lines",
                    source.path.display()
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "split what passes {FUNCTION_LINES_MAX}: {wrong:#?}"
    );
}

/// Name, line and length of each function with a body, by counting braces.
fn functions(code: &[String]) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (at, line) in code.iter().enumerate() {
        let Some(after) = line
            .split_once("fn ")
            .filter(|(before, _)| is_signature(before))
            .map(|(_, after)| after)
        else {
            continue;
        };
        let name = head(after).unwrap_or_default();
        let (mut depth, mut opened) = (0_i32, false);
        for (further, line) in code[at..].iter().enumerate() {
            for c in line.chars() {
                depth += i32::from(c == '{') - i32::from(c == '}');
                opened |= c == '{';
            }
            if !opened && line.trim_end().ends_with(';') {
                break;
            }
            if opened && depth == 0 {
                found.push((name, at + 1, further + 1));
                break;
            }
        }
    }
    found
}

/// What may stand before `fn` where a function begins.
fn is_signature(before: &str) -> bool {
    let words = [
        "pub",
        "const",
        "async",
        "unsafe",
        "extern",
        "pub(crate)",
        "pub(super)",
    ];
    before
        .split_whitespace()
        .all(|word| words.contains(&word) || word.starts_with("pub(in"))
}

#[test]
fn the_checks_see_what_they_should() {
    let text = "//! x\nuse crate::{billing::credits, edge};\n// crate::app\nfn f() {\n let s = \"}{ crate::cli\";\n let c = '{';\n let r = r#\"{\"#;\n}\n";
    let code: Vec<String> = blanked(text).lines().map(str::to_owned).collect();
    let source = Source {
        path: "ledger/x.rs".into(),
        code,
        text: text.to_owned(),
    };
    assert_eq!(source.module(), "ledger");
    assert_eq!(
        imports(&source),
        BTreeSet::from(["billing".to_owned(), "edge".to_owned()])
    );
    assert_eq!(functions(&source.code), [("f".to_owned(), 4, 5)]);
}
