//! Names of what is looked up: keys with one hole, workspaces, files or URLs,
//! and one or more of a thing.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Form, Unfit, text_form};

/// The longest key template, in bytes.
const KEY_MAX_BYTES: usize = 512;

/// The longest id of a workspace, in bytes.
const WORKSPACE_MAX_BYTES: usize = 64;

/// A Redis key with one placeholder, such as `slack:<workspace>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LookupKey {
    text: String,
    from: usize,
    to: usize,
}

impl LookupKey {
    /// The name in the angle brackets.
    #[must_use]
    pub fn placeholder(&self) -> &str {
        let inner = self.from.saturating_add(1)..self.to.saturating_sub(1);
        self.text.get(inner).unwrap_or_default()
    }

    /// The key as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The key for this value.
    #[must_use]
    pub fn render(&self, value: &str) -> String {
        let head = self.text.get(..self.from).unwrap_or_default();
        let tail = self.text.get(self.to..).unwrap_or_default();
        [head, value, tail].concat()
    }
}

impl Form for LookupKey {
    const FORMAT: &'static str = "lookup-key";
    const NOUN: &'static str = "a key with a placeholder";
    const ADVICE: &'static str = "write the key with one name in angle brackets where the value stands, such as slack:<workspace>";
    const EXAMPLES: &'static [&'static str] = &["slack:<workspace>"];
    const PATTERN: Option<&'static str> = Some("^[^<>]*<[A-Za-z0-9_-]+>[^<>]*$");
}

impl FromStr for LookupKey {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let (from, end) = text.find('<').zip(text.find('>')).ok_or_else(Self::unfit)?;
        let name = text
            .get(from.saturating_add(1)..end)
            .ok_or_else(Self::unfit)?;
        let named = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        let once = text.matches(['<', '>']).count() == 2;
        if !named || !once || text.len() > KEY_MAX_BYTES || text.chars().any(char::is_control) {
            return Err(Self::unfit());
        }
        Ok(LookupKey {
            text: text.to_owned(),
            from,
            to: end.saturating_add(1),
        })
    }
}

impl fmt::Display for LookupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The id of a workspace, an enterprise or an organisation, as their owners
/// give them out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkspaceId(String);

impl WorkspaceId {
    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for WorkspaceId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Form for WorkspaceId {
    const FORMAT: &'static str = "workspace-id";
    const NOUN: &'static str = "a workspace id";
    const ADVICE: &'static str =
        "write 1 to 64 of A-Z a-z 0-9 _ -, such as T0123ABCD or the UUID of a Linear organisation";
    const EXAMPLES: &'static [&'static str] = &["T0123ABCD"];
    const PATTERN: Option<&'static str> = Some("^[A-Za-z0-9_-]{1,64}$");
}

impl FromStr for WorkspaceId {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let fits = (1..=WORKSPACE_MAX_BYTES).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        fits.then(|| WorkspaceId(text.to_owned()))
            .ok_or_else(Self::unfit)
    }
}

impl fmt::Display for WorkspaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A file on this machine, or an `https` URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileOrUrl(String);

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// A file.
    File(&'a Path),
    /// An `https` URL.
    Url(&'a str),
}

impl FileOrUrl {
    /// Which of the two it is.
    #[must_use]
    pub fn place(&self) -> Place<'_> {
        if self.0.starts_with("https://") {
            Place::Url(&self.0)
        } else {
            Place::File(Path::new(&self.0))
        }
    }
}

impl Form for FileOrUrl {
    const FORMAT: &'static str = "file-or-url";
    const NOUN: &'static str = "a file or an https URL";
    const ADVICE: &'static str = "write the path of a file, or a URL that begins with https://";
    const EXAMPLES: &'static [&'static str] = &["https://issuer.example/keys"];
}

impl FromStr for FileOrUrl {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let is_other_url = text.contains("://") && !text.starts_with("https://");
        if text.trim().is_empty() || is_other_url {
            return Err(Self::unfit());
        }
        if text.starts_with("https://") {
            let url: http::Uri = text.parse().map_err(|_| Self::unfit())?;
            url.host()
                .filter(|host| !host.is_empty())
                .ok_or_else(Self::unfit)?;
        }
        Ok(FileOrUrl(text.to_owned()))
    }
}

impl fmt::Display for FileOrUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_form!(LookupKey, WorkspaceId, FileOrUrl);

/// One of something, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum OneOrMore<T> {
    /// One.
    One(T),
    /// A list.
    More(Vec<T>),
}

impl<T> OneOrMore<T> {
    /// All of them.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        match self {
            OneOrMore::One(one) => std::slice::from_ref(one),
            OneOrMore::More(more) => more,
        }
    }
}

impl<T: schemars::JsonSchema> schemars::JsonSchema for OneOrMore<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMore{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let one = generator.subschema_for::<T>();
        schemars::json_schema!({
            "anyOf": [one, {"type": "array", "items": one, "minItems": 1}]
        })
    }
}
