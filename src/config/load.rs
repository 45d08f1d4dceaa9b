//! From a file to a [`Config`], or to every mistake in it.
//!
//! The steps: read the text (`yaml`), fill in variables and check
//! each value by the schema (`walk`, `fill`), check what
//! must hold between keys ([`super::check`]). Promises: all mistakes of a file
//! are reported at once, in the order of the file, each with line and column;
//! no secret and nothing that was filled in is shown; a valid file needs no
//! network and opens no socket.

use std::fmt;
use std::io::Read;
use std::path::Path;

use super::values::Shown;
use super::walk::{self, Walked};
use super::yaml::{self, Fault, Place};
use super::{Config, check, fill, shape};

/// The largest configuration file.
const FILE_MAX_BYTES: usize = 1 << 20;

/// A mistake in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}: {}",
            self.file, self.line, self.column, self.message
        )
    }
}

/// Reads a configuration file, with variables from the environment.
///
/// # Errors
/// Every mistake, in the order of the file; at least one.
pub fn load(path: &Path) -> Result<Config, Vec<Mistake>> {
    let name = path.display().to_string();
    match read(path) {
        Ok(text) => load_str(&name, &text, &|variable| std::env::var(variable).ok()),
        Err(message) => Err(vec![mistake(
            &name,
            Fault {
                place: Place::START,
                message,
            },
        )]),
    }
}

/// Reads a configuration from a text. `name` is the file's name for messages;
/// its folder is where relative paths begin. `env` looks variables up.
///
/// # Errors
/// Every mistake, in the order of the text; at least one.
pub fn load_str(
    name: &str,
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, Vec<Mistake>> {
    let folder = Path::new(name).parent().unwrap_or(Path::new("")).to_owned();
    let sources = fill::Sources { env, folder };
    read_config(text, &sources).map_err(|mut faults| {
        faults.sort_by_key(|fault| fault.place);
        faults
            .into_iter()
            .map(|fault| mistake(name, fault))
            .collect()
    })
}

fn mistake(file: &str, fault: Fault) -> Mistake {
    Mistake {
        file: file.to_owned(),
        line: fault.place.line,
        column: fault.place.column,
        message: fault.message,
    }
}

/// The text of the file. It need not be a regular one: `check /dev/stdin`.
fn read(path: &Path) -> Result<String, String> {
    let file =
        std::fs::File::open(path).map_err(|error| format!("cannot read the file: {error}"))?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(FILE_MAX_BYTES)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot read the file: {error}"))?;
    String::from_utf8(bytes).map_err(|_| "the file is not UTF-8 text: save it as UTF-8".to_owned())
}

fn read_config(text: &str, sources: &fill::Sources<'_>) -> Result<Config, Vec<Fault>> {
    let fail = |message: String| {
        vec![Fault {
            place: Place::START,
            message,
        }]
    };
    if text.len() > FILE_MAX_BYTES {
        return Err(fail(
            "the file is larger than 1 MiB: a configuration never is".to_owned(),
        ));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (root, mut faults) = yaml::read(text);
    let Some(root) = root else { return Err(faults) };
    let mut walked = walk::walk(&root, shape::root(), sources);
    faults.append(&mut walked.faults);
    match serde_json::from_value::<Config>(walked.value.take()) {
        Ok(config) => {
            faults.extend(
                check::check(&config)
                    .into_iter()
                    .filter_map(|finding| locate(finding, &walked)),
            );
            if faults.is_empty() {
                Ok(config)
            } else {
                Err(faults)
            }
        }
        // The walk lets nothing through that serde refuses; should it ever,
        // the file is still not accepted.
        Err(error) if faults.is_empty() => Err(fail(error.to_string())),
        Err(_) => Err(faults),
    }
}

/// Finds the place of a finding. None if it is about something that was
/// mended, because that is already reported.
fn locate(finding: check::Finding, walked: &Walked) -> Option<Fault> {
    let mended = |path: &String| {
        walked
            .mended
            .iter()
            .any(|mended| within(path, mended) || within(mended, path))
    };
    if finding.about.iter().any(mended) {
        return None;
    }
    if finding.side == check::Side::Written && !walked.spots.contains_key(&finding.at) {
        return None;
    }
    // A key that was left out has no place: another one of the rule, or the
    // block it would be in.
    let written = std::iter::once(&finding.at)
        .chain(&finding.about)
        .find_map(|path| walked.spots.get(path));
    let block = || enclosing(&finding.at).find_map(|path| walked.spots.get(path));
    let place = match (written, finding.side) {
        (Some(spot), check::Side::Value) => spot.value,
        (Some(spot), check::Side::Key | check::Side::Written) => spot.key,
        (None, _) => block().map_or(Place::START, |spot| spot.key),
    };
    let shown = written.is_none_or(|spot| spot.shown == Shown::Yes);
    let message = match finding.value {
        Some(value) if shown => format!("`{}`: `{value}` {}", finding.at, finding.message),
        Some(_) => format!("`{}`: what was filled in {}", finding.at, finding.message),
        None => finding.message,
    };
    Some(Fault { place, message })
}

/// Whether a dotted path is the other one or lies in it.
fn within(outer: &str, inner: &str) -> bool {
    outer.is_empty()
        || inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// The blocks around a path, from the inside out.
fn enclosing(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| {
        if path.is_empty() {
            return None;
        }
        let end = path.rfind(['.', '[']).unwrap_or_default();
        path.get(..end)
    })
}
