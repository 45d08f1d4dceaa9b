//! Texts with rules: secrets, headers, key templates, team names.

use std::borrow::Cow;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::sync::OnceLock;

use http::{HeaderName, HeaderValue};

use super::{Form, Shown, Unfit, text_form};
use crate::billing::team::TeamId;

/// What a key template has replaced by the team's id.
const TEAM: &str = "<team>";

/// What an API key template has replaced by the digest of the key.
const SHA256: &str = "<sha256>";

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Form for Secret {
    const FORMAT: &'static str = "secret";
    const NOUN: &'static str = "a secret";
    const ADVICE: &'static str =
        "write ${VAR} or ${file:PATH}, so that the text itself stays out of this file";
    const EXAMPLES: &'static [&'static str] = &["secret"];
    const SHOWN: Shown = Shown::No;
}

impl FromStr for Secret {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        if text.trim().is_empty() {
            return Err(Self::unfit_because("it is blank"));
        }
        Ok(Secret(text.to_owned()))
    }
}

impl TryFrom<String> for Secret {
    type Error = Unfit;

    fn try_from(text: String) -> Result<Self, Unfit> {
        text.parse()
    }
}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for Secret {
    /// Writes a mark that differs when the secret differs, and means nothing
    /// outside this process: its hash under a key drawn at start.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        static KEY: OnceLock<RandomState> = OnceLock::new();
        let mark = KEY.get_or_init(RandomState::new).hash_one(&self.0);
        serializer.collect_str(&format_args!("Secret({mark:016x})"))
    }
}

impl schemars::JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        super::form_schema::<Self>()
    }
}

/// The name of a header, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderField(HeaderName);

impl HeaderField {
    /// The name.
    #[must_use]
    pub const fn name(&self) -> &HeaderName {
        &self.0
    }
}

impl PartialOrd for HeaderField {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for HeaderField {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.as_str().cmp(other.0.as_str())
    }
}

impl Form for HeaderField {
    const FORMAT: &'static str = "header-name";
    const NOUN: &'static str = "a header name";
    const ADVICE: &'static str =
        "write letters, digits and hyphens without a colon, such as x-team-id";
    const EXAMPLES: &'static [&'static str] = &["x-team-id"];
    const PATTERN: Option<&'static str> = Some(r"^[A-Za-z0-9!#$%&'*+.^`|~-]+$");
}

impl FromStr for HeaderField {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        // Many servers read `_` as `-`, so one of them would see another header.
        if text.contains('_') {
            return Err(Self::unfit_because("write hyphens instead of underscores"));
        }
        text.parse().map(HeaderField).map_err(|_| Self::unfit())
    }
}

impl fmt::Display for HeaderField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// The value of a header: printable ASCII, no blanks at the ends, not empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeaderText(Cow<'static, str>);

impl HeaderText {
    /// A value that is written in this program and known to be valid.
    #[must_use]
    pub const fn constant(text: &'static str) -> Self {
        HeaderText(Cow::Borrowed(text))
    }

    /// The value.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Form for HeaderText {
    const FORMAT: &'static str = "header-value";
    const NOUN: &'static str = "a header value";
    const ADVICE: &'static str =
        "write printable ASCII on one line, without blanks at the beginning or end";
    const EXAMPLES: &'static [&'static str] = &["text"];
    const PATTERN: Option<&'static str> = Some("^[!-~]([ -~]*[!-~])?$");
}

impl FromStr for HeaderText {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let printable = text
            .bytes()
            .all(|byte| byte == b' ' || byte.is_ascii_graphic());
        let trimmed = !text.is_empty() && text.trim() == text;
        if !printable || !trimmed || HeaderValue::from_str(text).is_err() {
            return Err(Self::unfit());
        }
        Ok(HeaderText(Cow::Owned(text.to_owned())))
    }
}

impl fmt::Display for HeaderText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A Redis key, or a field of a hash, with `<team>` in it.
///
/// Either the key or the field must name the team; which one is for
/// [`super::super::check`] to see.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyTemplate(String);

impl KeyTemplate {
    /// Whether `<team>` occurs.
    #[must_use]
    pub fn names_team(&self) -> bool {
        self.0.contains(TEAM)
    }

    /// The template as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of this team.
    #[must_use]
    pub fn render(&self, team: &TeamId) -> String {
        self.0.replace(TEAM, team.as_str())
    }
}

impl Default for KeyTemplate {
    fn default() -> Self {
        KeyTemplate("credits:{<team>}".to_owned())
    }
}

impl Form for KeyTemplate {
    const FORMAT: &'static str = "key-template";
    const NOUN: &'static str = "a key template";
    const ADVICE: &'static str =
        "write the key with <team> where the team's id stands, such as credits:{<team>}";
    const EXAMPLES: &'static [&'static str] = &["credits:{<team>}"];
}

impl FromStr for KeyTemplate {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        check_template::<Self>(text, TEAM)?;
        Ok(KeyTemplate(text.to_owned()))
    }
}

impl fmt::Display for KeyTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The Redis key of what an API key stands for, with `<sha256>` in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ApiKeyTemplate(String);

impl ApiKeyTemplate {
    /// The template as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key for this digest: lower-case hex.
    #[must_use]
    pub fn render(&self, sha256: &str) -> String {
        self.0.replace(SHA256, sha256)
    }
}

impl Default for ApiKeyTemplate {
    fn default() -> Self {
        ApiKeyTemplate("apikey:<sha256>".to_owned())
    }
}

impl Form for ApiKeyTemplate {
    const FORMAT: &'static str = "api-key-template";
    const NOUN: &'static str = "an API key template";
    const ADVICE: &'static str =
        "write the key with <sha256> where the digest stands, such as apikey:<sha256>";
    const EXAMPLES: &'static [&'static str] = &["apikey:<sha256>"];
    const PATTERN: Option<&'static str> = Some("<sha256>");
}

impl FromStr for ApiKeyTemplate {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        check_template::<Self>(text, SHA256)?;
        if !text.contains(SHA256) {
            return Err(Self::unfit());
        }
        Ok(ApiKeyTemplate(text.to_owned()))
    }
}

impl fmt::Display for ApiKeyTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of a team, as a key of `balances.memory`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TeamName(TeamId);

impl TeamName {
    /// The team.
    #[must_use]
    pub const fn team(&self) -> &TeamId {
        &self.0
    }
}

impl Form for TeamName {
    const FORMAT: &'static str = "team-id";
    const NOUN: &'static str = "a team id";
    const ADVICE: &'static str =
        "write 1 to 128 of A-Z a-z 0-9 _ . : @ -, the first a letter or digit";
    const EXAMPLES: &'static [&'static str] = &["acme"];
    const PATTERN: Option<&'static str> = Some("^[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127}$");
}

impl FromStr for TeamName {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        TeamId::parse(text.as_bytes())
            .map(TeamName)
            .map_err(|_| Self::unfit())
    }
}

impl fmt::Display for TeamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

text_form!(
    HeaderField,
    HeaderText,
    KeyTemplate,
    ApiKeyTemplate,
    TeamName
);

/// Whether a template is printable and names nothing but `placeholder`: a
/// misspelt one would send every team to the same key.
fn check_template<F: Form>(text: &str, placeholder: &str) -> Result<(), Unfit> {
    if text.trim().is_empty() {
        return Err(F::unfit_because(format!("it is blank; {}", F::ADVICE)));
    }
    if text.chars().any(char::is_control) {
        return Err(F::unfit_because(
            "leave out control characters and line breaks",
        ));
    }
    if text.replace(placeholder, "").contains(['<', '>']) {
        return Err(F::unfit_because(format!(
            "only {placeholder} is replaced here, leave out other < and >"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print_itself() {
        let secret: Secret = "hunter2".parse().unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert_eq!(secret.expose(), "hunter2");
        let written = serde_json::to_string(&secret).unwrap();
        assert!(!written.contains("hunter2"));
        assert_eq!(written, serde_json::to_string(&secret.clone()).unwrap());
        let other: Secret = "hunter3".parse().unwrap();
        assert_ne!(written, serde_json::to_string(&other).unwrap());
    }

    #[test]
    fn reads_header_names_and_values() {
        assert_eq!(
            "X-Team-Id".parse::<HeaderField>().unwrap().name(),
            "x-team-id"
        );
        for text in ["", "x team", "x-team:", "x_team", "x-täm"] {
            assert!(text.parse::<HeaderField>().is_err(), "{text}");
        }
        assert_eq!("a, b".parse::<HeaderText>().unwrap().as_str(), "a, b");
        for text in ["", " a", "a ", "a\nb", "a\r\nb: c", "ä", "a\0"] {
            assert!(text.parse::<HeaderText>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn templates_render_the_team() {
        let team = TeamId::parse(b"acme").unwrap();
        assert_eq!(KeyTemplate::default().render(&team), "credits:{acme}");
        assert_eq!(
            "b:<team>:<team>"
                .parse::<KeyTemplate>()
                .unwrap()
                .render(&team),
            "b:acme:acme"
        );
        assert!(!"all".parse::<KeyTemplate>().unwrap().names_team());
        for text in ["", " ", "credits:<tema>", "credits:<Team>", "a\nb", "<team"] {
            assert!(text.parse::<KeyTemplate>().is_err(), "{text:?}");
        }
        assert_eq!(ApiKeyTemplate::default().render("ab"), "apikey:ab");
        for text in ["apikey", "apikey:<team>", "apikey:<sha256>:<team>", ""] {
            assert!(text.parse::<ApiKeyTemplate>().is_err(), "{text:?}");
        }
    }
}
