//! Filling in `${VAR}`, `${VAR:-default}` and `${file:PATH}`.
//!
//! This happens inside scalar values after the YAML was read, so that what is
//! filled in cannot become YAML. What was filled in is marked, and messages
//! never show it: it is most likely a secret.

use std::io::Read;
use std::path::{Path, PathBuf};

/// The largest file that a configuration may name: certificates and secrets
/// are far smaller.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// Where the values come from.
pub struct Sources<'a> {
    /// The environment.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// The folder of the configuration file, which relative paths begin at.
    pub folder: PathBuf,
}

/// A scalar with everything filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filled {
    pub text: String,
    pub origin: Origin,
}

/// Where a text comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It stands in the file like this.
    Written,
    /// Some of it was filled in.
    FilledIn,
}

impl Sources<'_> {
    /// Fills in a scalar. `$${` is a plain `${`.
    ///
    /// # Errors
    /// What is wrong and what to do, without any value.
    pub fn fill(&self, scalar: &str) -> Result<Filled, String> {
        let mut text = String::with_capacity(scalar.len());
        let mut origin = Origin::Written;
        let mut rest = scalar;
        while let Some((before, after)) = rest.split_once("${") {
            if let Some(before) = before.strip_suffix('$') {
                text.push_str(before);
                text.push_str("${");
                rest = after;
                continue;
            }
            let Some((inner, behind)) = after.split_once('}') else {
                return Err(
                    "`${` without `}`: close it, or write `$${` for the text itself".to_owned(),
                );
            };
            text.push_str(before);
            text.push_str(&self.one(inner)?);
            origin = Origin::FilledIn;
            rest = behind;
        }
        text.push_str(rest);
        Ok(Filled { text, origin })
    }

    /// What stands between `${` and `}`.
    fn one(&self, inner: &str) -> Result<String, String> {
        if let Some(path) = inner.strip_prefix("file:") {
            return self.file(path);
        }
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty()
            || name.starts_with(|c: char| c.is_ascii_digit())
            || !name.bytes().all(fits)
        {
            return Err(format!(
                "`${{{name}}}` names no variable: write ${{VAR}}, ${{VAR:-default}} or ${{file:PATH}}, or `$${{` for the text itself"
            ));
        }
        match ((self.env)(name), default) {
            // As in a shell, `:-` stands in for an empty variable too.
            (Some(value), None) => Ok(value),
            (Some(value), Some(_)) if !value.is_empty() => Ok(value),
            (_, Some(default)) => Ok(default.to_owned()),
            (None, None) => Err(format!(
                "the environment variable {name} is not set: set it, or write ${{{name}:-default}}"
            )),
        }
    }

    /// The text of a file, without one line break at its end.
    fn file(&self, path: &str) -> Result<String, String> {
        let bytes = read_bounded(&self.resolve(path))
            .map_err(|why| format!("cannot fill in ${{file:{path}}}: {why}"))?;
        let mut text = String::from_utf8(bytes)
            .map_err(|_| format!("cannot fill in ${{file:{path}}}: it is not UTF-8 text"))?;
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        Ok(text)
    }

    /// A path as seen from the folder of the configuration file.
    pub fn resolve(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }
}

/// Reads a regular file of bounded size. Anything else could block or never end.
///
/// # Errors
/// Why not, in words.
pub fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    let describe = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission to read it is missing".to_owned(),
        _ => error.to_string(),
    };
    let metadata = std::fs::metadata(path).map_err(describe)?;
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let file = std::fs::File::open(path).map_err(describe)?;
    let mut bytes = Vec::new();
    file.take(FILE_MAX_BYTES.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(describe)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_MAX_BYTES) {
        return Err("it is larger than 1 MiB".to_owned());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(scalar: &str) -> Result<String, String> {
        let env = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            "YAML" => Some("x\n${A}: [".to_owned()),
            _ => None,
        };
        let sources = Sources {
            env: &env,
            folder: PathBuf::from("/nonexistent"),
        };
        sources.fill(scalar).map(|filled| filled.text)
    }

    #[test]
    fn fills_in_variables() {
        for (scalar, expected) in [
            ("plain $ {A} $A", "plain $ {A} $A"),
            ("${A}", "1"),
            ("x${A}y${A}", "x1y1"),
            ("${B:-2}", "2"),
            ("${EMPTY:-2}", "2"),
            ("${EMPTY}", ""),
            ("${B:-}", ""),
            ("$${A}", "${A}"),
            ("${YAML}", "x\n${A}: ["),
        ] {
            assert_eq!(fill(scalar).unwrap(), expected, "{scalar}");
        }
    }

    #[test]
    fn says_what_is_missing() {
        for (scalar, expected) in [
            ("${B}", "the environment variable B is not set"),
            ("${A", "without `}`"),
            ("${}", "names no variable"),
            ("${A B}", "names no variable"),
            ("${1}", "names no variable"),
            (
                "${file:x}",
                "cannot fill in ${file:x}: there is no such file",
            ),
            ("${file:/dev/null}", "it is not a regular file"),
        ] {
            let error = fill(scalar).unwrap_err();
            assert!(error.contains(expected), "{scalar}: {error}");
        }
    }
}
