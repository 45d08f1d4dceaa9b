//! What is read from an answer of the upstream: statuses, and places in a
//! JSON body.

use std::fmt;
use std::str::FromStr;

use super::{Form, Numeric, Unfit, text_form};

/// The statuses that can say that no run began: a 2xx says that one did, and a
/// 1xx is no answer yet.
const STATUS_MIN: u16 = 300;
const STATUS_MAX: u16 = 599;

/// A status, `409`, or a class of statuses, `4xx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Statuses {
    from: u16,
    to: u16,
}

impl Statuses {
    /// `4xx`.
    pub const CLIENT_ERRORS: Statuses = Statuses { from: 400, to: 499 };

    /// The first and the last status of it.
    #[must_use]
    pub const fn range(self) -> (u16, u16) {
        (self.from, self.to)
    }
}

impl Form for Statuses {
    const FORMAT: &'static str = "http-status";
    const NOUN: &'static str = "a status or class";
    const ADVICE: &'static str =
        "write a status from 300 to 599, such as 409, or a class, 3xx, 4xx or 5xx";
    const EXAMPLES: &'static [&'static str] = &["4xx", "409", "503"];
    const PATTERN: Option<&'static str> = Some("^[345]([0-9][0-9]|[xX][xX])$");
    const NUMERIC: Numeric = Numeric::Integer;
}

impl FromStr for Statuses {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let class = text.to_ascii_lowercase();
        let (from, to) = match class.strip_suffix("xx") {
            Some(class) => (format!("{class}00"), format!("{class}99")),
            None => (class.clone(), class),
        };
        let status = |digits: &str| {
            let plain = digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse::<u16>().ok().filter(|_| plain)
        };
        let (Some(from), Some(to)) = (status(&from), status(&to)) else {
            return Err(Self::unfit());
        };
        if (200..300).contains(&from) {
            return Err(Self::unfit_because(
                "a 2xx says that the run began, leave it out",
            ));
        }
        if from < STATUS_MIN || to > STATUS_MAX {
            return Err(Self::unfit());
        }
        Ok(Statuses { from, to })
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from == self.to {
            write!(f, "{}", self.from)
        } else {
            write!(f, "{}xx", self.from.div_euclid(100))
        }
    }
}

/// A place in a JSON text (RFC 6901): `/run_id`, `/data/run/id`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JsonPointer(String);

impl JsonPointer {
    /// The pointer as written; it begins with `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Form for JsonPointer {
    const FORMAT: &'static str = "json-pointer";
    const NOUN: &'static str = "a JSON pointer";
    const ADVICE: &'static str = "write the names on the way to the value, each behind a slash, such as /run_id or /data/run/id";
    const EXAMPLES: &'static [&'static str] = &["/run_id", "/data/run/id"];
    const PATTERN: Option<&'static str> = Some("^(/([^/~]|~[01])+)+$");
}

impl FromStr for JsonPointer {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let Some(names) = text.strip_prefix('/') else {
            return Err(without_slash(text));
        };
        if names.split('/').any(str::is_empty) {
            return Err(Self::unfit_because(
                "write a name behind each slash, such as /run_id",
            ));
        }
        let escaped = |rest: &str| rest.starts_with(['0', '1']);
        if !names.split('~').skip(1).all(escaped) {
            return Err(Self::unfit_because(
                "write ~0 for a `~` and ~1 for a `/` in a name",
            ));
        }
        if names.chars().any(char::is_control) {
            return Err(Self::unfit_because(
                "leave out control characters and line breaks",
            ));
        }
        Ok(JsonPointer(text.to_owned()))
    }
}

/// What to write instead of a path in another notation: `run.id`, `$.run.id`.
fn without_slash(text: &str) -> Unfit {
    let names = text.trim_start_matches("$.").trim_start_matches('.');
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if names.is_empty() || names.split('.').any(str::is_empty) || !names.bytes().all(fits) {
        return JsonPointer::unfit();
    }
    JsonPointer::unfit_because(format!("write /{}", names.replace('.', "/")))
}

impl fmt::Display for JsonPointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_form!(Statuses, JsonPointer);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints_statuses() {
        for (text, range, printed) in [
            ("4xx", (400, 499), "4xx"),
            ("5XX", (500, 599), "5xx"),
            ("409", (409, 409), "409"),
            ("300", (300, 300), "300"),
        ] {
            let statuses: Statuses = text.parse().unwrap();
            assert_eq!(statuses.range(), range, "{text}");
            assert_eq!(statuses.to_string(), printed);
        }
        for text in [
            "", "xx", "4", "4x", "44xx", "2xx", "200", "299", "1xx", "100", "6xx", "600", "+409",
            "0409", "-409", "٤xx", "4.9",
        ] {
            assert!(text.parse::<Statuses>().is_err(), "{text}");
        }
    }

    #[test]
    fn reads_pointers_into_json_and_says_how_to_write_other_paths() {
        for text in ["/run_id", "/data/run/id", "/a~1b/~0", "/0", "/ü"] {
            assert_eq!(text.parse::<JsonPointer>().unwrap().as_str(), text);
        }
        for (text, advice) in [
            ("run_id", "write /run_id"),
            ("$.data.run.id", "write /data/run/id"),
            (".run_id", "write /run_id"),
            ("", JsonPointer::ADVICE),
            ("$", JsonPointer::ADVICE),
            ("/", "write a name behind each slash, such as /run_id"),
            ("/a//b", "write a name behind each slash, such as /run_id"),
            ("/a/", "write a name behind each slash, such as /run_id"),
            ("/a~2", "write ~0 for a `~` and ~1 for a `/` in a name"),
            ("/a~", "write ~0 for a `~` and ~1 for a `/` in a name"),
            ("/a\nb", "leave out control characters and line breaks"),
        ] {
            let unfit = text.parse::<JsonPointer>().unwrap_err().to_string();
            assert_eq!(unfit, format!("not a JSON pointer: {advice}"), "{text:?}");
        }
    }
}
