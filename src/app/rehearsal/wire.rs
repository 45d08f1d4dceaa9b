//! A request as it goes over the wire, from a file: request line, headers, an
//! empty line, body. Lines may end in LF or CRLF; all that follows the empty
//! line is the body.

use std::io::Read;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use pingora_http::RequestHeader;

/// The largest file that is read: more than the largest delivery.
pub const FILE_MAX_BYTES: u64 = 32 * 1024 * 1024;

/// The most headers, as the gateway itself has it.
const HEADERS_MAX: usize = 256;

/// A request.
pub struct Wire {
    /// Its head.
    pub head: RequestHeader,
    /// The head as it stands in the file.
    pub raw_head: Vec<u8>,
    /// All that follows it.
    pub body: Vec<u8>,
    /// What is odd about the file, for whoever wrote it.
    pub notes: Vec<String>,
}

/// Why a file is no request. Nothing of it is shown: there are secrets in it.
#[derive(Debug, thiserror::Error)]
pub enum NoRequest {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// It is too large.
    #[error("is larger than 32 MiB")]
    TooLarge,
    /// The head is malformed.
    #[error(
        "does not begin with a request head, and would be answered 400: {0}; write a line such as `POST /path HTTP/1.1`, then `Name: value` lines, an empty line and the body"
    )]
    Head(String),
}

impl Wire {
    /// Reads a request from a file.
    ///
    /// # Errors
    /// [`NoRequest`].
    pub fn read(file: impl Read) -> Result<Self, NoRequest> {
        let mut bytes = Vec::new();
        file.take(FILE_MAX_BYTES.saturating_add(1))
            .read_to_end(&mut bytes)?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_MAX_BYTES) {
            return Err(NoRequest::TooLarge);
        }
        Self::parse(bytes)
    }

    fn parse(mut bytes: Vec<u8>) -> Result<Self, NoRequest> {
        let mut notes = Vec::new();
        let (head, length) = match head(&bytes)? {
            Some(found) => found,
            None => {
                notes.push(
                    "no empty line follows the headers: taken as a request without a body"
                        .to_owned(),
                );
                bytes.extend_from_slice(b"\r\n\r\n");
                let (head, length) = head(&bytes)?
                    .ok_or_else(|| NoRequest::Head("the head does not end".to_owned()))?;
                bytes.truncate(length);
                (head, length)
            }
        };
        let body = bytes.split_off(length.min(bytes.len()));
        notes.extend(length_note(&head, &body));
        if head.headers.contains_key(TRANSFER_ENCODING) {
            notes.push(
                "Transfer-Encoding: the body is taken as it stands in the file, not as chunks"
                    .to_owned(),
            );
        }
        Ok(Wire {
            head,
            raw_head: bytes,
            body,
            notes,
        })
    }
}

/// The head and its length; `None` if it does not end.
fn head(bytes: &[u8]) -> Result<Option<(RequestHeader, usize)>, NoRequest> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let malformed = |why: &dyn std::fmt::Display| NoRequest::Head(why.to_string());
    let length = match request.parse(bytes).map_err(|error| malformed(&error))? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let (method, path) = request.method.zip(request.path).unwrap_or_default();
    let head = RequestHeader::build(method, path.as_bytes(), Some(request.headers.len()));
    let mut head = head.map_err(|_| malformed(&"the target is malformed"))?;
    head.set_version(match request.version {
        Some(0) => http::Version::HTTP_10,
        _ => http::Version::HTTP_11,
    });
    for header in request.headers.iter() {
        head.append_header(header.name.to_owned(), header.value)
            .map_err(|_| malformed(&"a header is malformed"))?;
    }
    Ok(Some((head, length)))
}

/// What there is to say if `Content-Length` is not the length of the body.
fn length_note(head: &RequestHeader, body: &[u8]) -> Option<String> {
    let said = head.headers.get(CONTENT_LENGTH)?.to_str().ok()?;
    let said: usize = said.parse().ok()?;
    if said == body.len() {
        return None;
    }
    let ends = without_line_end(body).is_some_and(|body| body.len() == said);
    let hint = if ends {
        ", the last of it a line break that an editor may have added"
    } else {
        ""
    };
    Some(format!(
        "Content-Length says {said} bytes, and {} follow the head{hint}: all of them are taken as the body",
        body.len()
    ))
}

/// A body without one line break at its end, if it has one.
pub fn without_line_end(body: &[u8]) -> Option<&[u8]> {
    let body = body.strip_suffix(b"\n")?;
    Some(body.strip_suffix(b"\r").unwrap_or(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_in_either_way_and_all_that_follows_is_the_body() {
        for (text, body, noted) in [
            ("POST /a HTTP/1.1\r\nHost: h\r\n\r\nx\r\n", "x\r\n", false),
            ("POST /a HTTP/1.1\nHost: h\n\nx", "x", false),
            ("POST /a HTTP/1.1\nHost: h\n", "", true),
            ("POST /a HTTP/1.1\nHost: h", "", true),
            (
                "POST /a HTTP/1.1\nHost: h\nContent-Length: 1\n\nx\n",
                "x\n",
                true,
            ),
            (
                "POST /a HTTP/1.1\nHost: h\nContent-Length: 1\n\nx",
                "x",
                false,
            ),
        ] {
            let wire = Wire::read(text.as_bytes()).unwrap();
            assert_eq!(wire.body, body.as_bytes(), "{text:?}");
            assert_eq!(wire.head.headers.get("host").unwrap(), "h");
            assert_eq!(!wire.notes.is_empty(), noted, "{text:?} {:?}", wire.notes);
        }
    }

    #[test]
    fn what_is_no_request_is_said_without_showing_it() {
        for text in [
            "",
            "hunter2",
            "POST /hunter2\nHost: h\n\n",
            "POST /a HTTP/1.1\nhunter2\n\n",
            "POST /a HTTP/1.1\nAuthorization : hunter2\n\n",
            "POST /a HTTP/1.1\nA: b\n hunter2\n\n",
        ] {
            let error = Wire::read(text.as_bytes()).err().unwrap().to_string();
            assert!(
                !error.contains("hunter2") && error.contains("would be answered 400"),
                "{error}"
            );
        }
    }
}
