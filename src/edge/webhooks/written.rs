//! How a body says that it is written, where that could change what it means.
//!
//! The headers that say so are not signed, and servers differ in which of them
//! they heed: Slack's Bolts look at the content type, or at the first byte, and
//! a framework before them may look at more. A body that another reader could
//! take for another delivery is not for the gateway to choose from.

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

use super::Unread;

/// As what a body is said to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// A form.
    Form,
    /// Something else, or nothing is said.
    Otherwise,
}

/// As what the headers say that the body is written.
///
/// # Errors
/// What they say makes another text of it.
pub(super) fn of(headers: &HeaderMap) -> Result<Written, Unread> {
    let encodings = headers.get_all(CONTENT_ENCODING);
    if encodings
        .iter()
        .any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        return Err(Unread::Invalid("a delivery has no Content-Encoding"));
    }
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let Some(content_type) = types.next() else {
        return Ok(Written::Otherwise);
    };
    let unclear = || Unread::Invalid("the Content-Type is not a delivery's");
    let content_type = content_type.to_str().map_err(|_| unclear())?;
    let mut parts = content_type.split(';').map(str::trim_ascii);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    if types.next().is_some() || essence.starts_with("multipart/") || !parts.all(keeps_text) {
        return Err(unclear());
    }
    if essence == "application/x-www-form-urlencoded" {
        Ok(Written::Form)
    } else {
        Ok(Written::Otherwise)
    }
}

/// Whether a parameter of a content type leaves the text what it is in UTF-8.
fn keeps_text(parameter: &str) -> bool {
    let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
    let value = value.trim_ascii().trim_matches('"');
    !name.trim_ascii().eq_ignore_ascii_case("charset")
        || ["utf-8", "utf8", "us-ascii"]
            .iter()
            .any(|known| value.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn read(sent: &[(&'static str, &str)]) -> Result<Written, Unread> {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        of(&headers)
    }

    #[test]
    fn what_the_senders_write_is_known() {
        let form = "application/x-www-form-urlencoded";
        for (content_type, expected) in [
            ("application/json", Written::Otherwise),
            ("application/json; charset=utf-8", Written::Otherwise),
            ("application/json;charset=\"UTF-8\"", Written::Otherwise),
            ("text/plain; version=1", Written::Otherwise),
            ("", Written::Otherwise),
            (form, Written::Form),
            (
                "Application/X-WWW-Form-Urlencoded ; Charset = utf-8",
                Written::Form,
            ),
        ] {
            let read = read(&[("content-type", content_type)]);
            assert_eq!(read, Ok(expected), "{content_type}");
        }
        assert_eq!(read(&[]), Ok(Written::Otherwise));
        assert_eq!(
            read(&[("content-encoding", "Identity")]),
            Ok(Written::Otherwise)
        );
    }

    #[test]
    fn what_makes_another_text_of_it_is_not_read() {
        let json = "application/json";
        for sent in [
            &[("content-encoding", "gzip")][..],
            &[("content-encoding", "")],
            &[
                ("content-encoding", "identity"),
                ("content-encoding", "deflate"),
            ],
            &[("content-type", "application/json; charset=utf-7")],
            &[(
                "content-type",
                "application/json; v=1; CHARSET = \"utf-16\"",
            )],
            &[("content-type", "application/json; charset")],
            &[("content-type", "multipart/form-data; boundary=x")],
            &[("content-type", json), ("content-type", json)],
        ] {
            assert!(matches!(read(sent), Err(Unread::Invalid(_))), "{sent:?}");
        }
    }
}
