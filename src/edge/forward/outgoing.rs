//! A head on its way to the upstream, and what is added to it.
//!
//! Behind it may stand only what Pingora neither reads nor writes once the head
//! was filtered: not `Host`, `Content-Length`, `Transfer-Encoding`,
//! `Connection`, `Upgrade` or `Expect`. It cannot see them there, and would set
//! them a second time.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use pingora_error::{Error, ErrorType, OrErr as _, Result};
use pingora_http::RequestHeader;

/// What the lines of an admitted start take, as a rule.
const LINES_BYTES: usize = 320;

/// A head that is being completed.
pub struct Outgoing<'a> {
    head: &'a mut RequestHeader,
    /// What is to be written behind it, where that can be done.
    behind: Option<Vec<u8>>,
}

impl<'a> Outgoing<'a> {
    /// A head that takes everything in itself.
    pub fn within(head: &'a mut RequestHeader) -> Self {
        Outgoing { head, behind: None }
    }

    /// A head behind which somebody writes the [`Outgoing::lines`].
    pub fn behind(head: &'a mut RequestHeader) -> Self {
        let behind = Some(Vec::with_capacity(LINES_BYTES));
        Outgoing { head, behind }
    }

    /// The headers that the head has; not those that were added behind it.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// Sets a header, in place of all of that name. To be called once for each
    /// name.
    ///
    /// # Errors
    /// If the value cannot stand in a header.
    pub fn insert_header(&mut self, name: &HeaderName, value: impl AsRef<[u8]>) -> Result<()> {
        if self.behind.is_none() || self.head.headers.contains_key(name) {
            return self.insert_within(name, value.as_ref());
        }
        self.add_header(name, value)
    }

    /// Sets a header that the head has not. To be called once for each name.
    ///
    /// # Errors
    /// If the value cannot stand in a header.
    pub fn add_header(&mut self, name: &HeaderName, value: impl AsRef<[u8]>) -> Result<()> {
        let value = value.as_ref();
        let Some(behind) = self.behind.as_mut() else {
            return self.insert_within(name, value);
        };
        // They were checked where they came from; a line that ends before its
        // end would be a header that nobody set.
        if value.iter().any(u8::is_ascii_control) {
            return Error::e_explain(ErrorType::InvalidHTTPHeader, "a value for the upstream");
        }
        for part in [name.as_str().as_bytes(), b": ", value, b"\r\n"] {
            behind.extend_from_slice(part);
        }
        Ok(())
    }

    fn insert_within(&mut self, name: &HeaderName, value: &[u8]) -> Result<()> {
        let value = HeaderValue::from_bytes(value)
            .or_err(ErrorType::InvalidHTTPHeader, "a value for the upstream")?;
        self.head.insert_header(name, value)
    }

    /// What is to be written behind the head: whole lines.
    #[must_use]
    pub fn lines(self) -> Vec<u8> {
        self.behind.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: HeaderName = HeaderName::from_static("x-a");

    fn head() -> RequestHeader {
        RequestHeader::build("GET", b"/", None).unwrap()
    }

    #[test]
    fn what_is_new_stands_behind_and_what_is_there_is_replaced() {
        let mut request = head();
        request.insert_header("X-B", "old").unwrap();
        let mut head = Outgoing::behind(&mut request);
        head.insert_header(&NAME, "1").unwrap();
        let known = HeaderName::from_static("x-b");
        head.insert_header(&known, "new").unwrap();
        assert_eq!(head.lines(), b"x-a: 1\r\n");
        assert_eq!(request.headers.len(), 1);
        assert_eq!(request.headers["x-b"], "new");
    }

    #[test]
    fn everything_stands_within_where_nobody_writes_behind() {
        let mut request = head();
        let mut head = Outgoing::within(&mut request);
        head.insert_header(&NAME, "1").unwrap();
        assert_eq!(head.lines(), b"");
        assert_eq!(request.headers["x-a"], "1");
    }

    #[test]
    fn a_value_cannot_end_its_line() {
        for value in ["a\r\nx-b: c", "a\n", "a\0"] {
            let mut request = head();
            let mut within = Outgoing::within(&mut request);
            assert!(within.insert_header(&NAME, value).is_err());
            let mut behind = Outgoing::behind(&mut request);
            assert!(behind.insert_header(&NAME, value).is_err());
            assert_eq!(behind.lines(), b"");
        }
    }
}
