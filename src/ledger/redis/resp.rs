//! [`Inbox`]: what Redis sent, taken apart into replies.
//!
//! Replies are those of the older protocol (RESP2), which is what a connection
//! is opened with. Whatever is no such reply breaks the connection, and so
//! does a reply that never ends: an inbox holds a bounded number of bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use redis::{Value, parse_redis_value};
use tokio::io::{AsyncRead, ReadBuf};

use super::fault::Fault;

/// The most bytes of what has come and is no complete reply yet. A reply that is
/// larger can only be a value that is no balance, or a peer that is no Redis.
const REPLY_MAX_BYTES: usize = 4 * 1024 * 1024;

/// The most bytes of a line. What is longer is no number and no error.
const LINE_MAX_BYTES: usize = 64 * 1024;

/// Room for what is read at once, most of the time.
const ROOM_BYTES: usize = 16 * 1024;

/// How deep arrays stand in arrays. The deepest that is asked for has three.
const DEPTH_MAX: u32 = 16;

/// What has come, as far as it is not taken out yet.
pub(super) struct Inbox {
    bytes: Vec<u8>,
    /// Where the first reply begins that was not taken out.
    start: usize,
    /// Where what has come ends.
    end: usize,
    /// How far the reply at `start`, an array, was looked through.
    scan: Scan,
}

/// How far an array was looked through, so that one that comes in many pieces
/// is looked through once.
#[derive(Clone, Copy, Default)]
struct Scan {
    /// After so many bytes …
    at: usize,
    /// … so many values are still due.
    due: usize,
    /// How many arrays begin right before, each in the one before it.
    depth: u32,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Inbox {
            bytes: vec![0; ROOM_BYTES],
            start: 0,
            end: 0,
            scan: Scan::default(),
        }
    }

    /// Reads once, and tells how many bytes came. None: the peer will send no
    /// more.
    pub(super) fn poll_fill<S>(
        &mut self,
        stream: Pin<&mut S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>>
    where
        S: AsyncRead + ?Sized,
    {
        self.make_room();
        let mut room = ReadBuf::new(self.bytes.get_mut(self.end..).unwrap_or_default());
        ready!(stream.poll_read(cx, &mut room))?;
        let read = room.filled().len();
        self.end = self.end.saturating_add(read);
        Poll::Ready(Ok(read))
    }

    /// Sees to it that something can be read.
    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            // What one large reply needed is not kept.
            if self.bytes.len() > ROOM_BYTES {
                self.bytes = vec![0; ROOM_BYTES];
            }
        } else if self.end == self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end.saturating_sub(self.start));
            if self.end > self.bytes.len() / 2 {
                self.bytes.resize(self.bytes.len().saturating_mul(2), 0);
            }
        }
    }

    /// Takes the next reply out, if all of it has come.
    ///
    /// # Errors
    /// [`Fault::Lost`] if what came is no reply, or holds more than one may.
    pub(super) fn take(&mut self) -> Result<Option<Value>, Fault> {
        let rest = self.bytes.get(self.start..self.end).unwrap_or_default();
        let found = match rest.first() {
            None => return Ok(None),
            Some(b'*') if !self.scan.is_through(rest)? => None,
            Some(_) => value(rest, DEPTH_MAX)?,
        };
        match found {
            Some((value, length)) => {
                self.start = self.start.saturating_add(length);
                self.scan = Scan::default();
                Ok(Some(value))
            }
            None if rest.len() > REPLY_MAX_BYTES => Err(too_much()),
            None => Ok(None),
        }
    }
}

impl Scan {
    /// Goes on looking through, and tells whether all of it has come.
    fn is_through(&mut self, bytes: &[u8]) -> Result<bool, Fault> {
        if self.at == 0 {
            self.due = 1;
        }
        while self.due > 0 {
            let rest = bytes.get(self.at..).unwrap_or_default();
            let Some((kind, text, length)) = line(rest)? else {
                return Ok(false);
            };
            let (length, inside) = match kind {
                b'*' => (length, count(text)?.unwrap_or_default()),
                b'$' => (after_bulk(length, count(text)?), 0),
                _ => (length, 0),
            };
            if length > rest.len() {
                return Ok(false);
            }
            self.depth = match inside {
                0 => 0,
                _ => self.depth.saturating_add(1),
            };
            if self.depth > DEPTH_MAX {
                return Err(broken());
            }
            self.at = self.at.saturating_add(length);
            self.due = self.due.saturating_sub(1).saturating_add(inside);
        }
        Ok(true)
    }
}

/// The value at the beginning and its length, if all of it is there.
fn value(bytes: &[u8], depth: u32) -> Result<Option<(Value, usize)>, Fault> {
    let Some((kind, text, length)) = line(bytes)? else {
        return Ok(None);
    };
    let value = match kind {
        b'$' => match count(text)? {
            None => Value::Nil,
            Some(size) => {
                let end = after_bulk(length, Some(size));
                let Some(bulk) = bytes.get(length..end) else {
                    return Ok(None);
                };
                let content = bulk.strip_suffix(b"\r\n").ok_or_else(broken)?;
                return Ok(Some((Value::BulkString(content.to_vec()), end)));
            }
        },
        b'+' if text == b"OK" => Value::Okay,
        b'+' => Value::SimpleString(String::from_utf8(text.to_vec()).map_err(|_| broken())?),
        b':' => Value::Int(integer(text)?),
        b'-' => {
            let error = bytes.get(..length).unwrap_or_default();
            parse_redis_value(error).map_err(|_| broken())?
        }
        b'*' => match count(text)? {
            None => Value::Nil,
            Some(due) => return array(bytes, length, due, depth),
        },
        _ => return Err(broken()),
    };
    Ok(Some((value, length)))
}

/// So many values from there on.
fn array(
    bytes: &[u8],
    mut at: usize,
    due: usize,
    depth: u32,
) -> Result<Option<(Value, usize)>, Fault> {
    let depth = depth.checked_sub(1).ok_or_else(broken)?;
    // Each takes some bytes that have come: nobody is believed a number.
    let mut values = Vec::with_capacity(due.min(bytes.len()));
    for _ in 0..due {
        let Some((value, length)) = value(bytes.get(at..).unwrap_or_default(), depth)? else {
            return Ok(None);
        };
        values.push(value);
        at = at.saturating_add(length);
    }
    Ok(Some((Value::Array(values), at)))
}

/// A line: its first byte, its text, and its length with its end.
type Line<'a> = (u8, &'a [u8], usize);

/// The first line, if all of it is there.
fn line(bytes: &[u8]) -> Result<Option<Line<'_>>, Fault> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\r') else {
        return match bytes.len() {
            0..=LINE_MAX_BYTES => Ok(None),
            _ => Err(too_much()),
        };
    };
    let (line, rest) = bytes.split_at_checked(end).ok_or_else(broken)?;
    match (line.split_first(), rest.get(1)) {
        (_, None) => Ok(None),
        (Some((kind, text)), Some(b'\n')) => Ok(Some((*kind, text, end.saturating_add(2)))),
        _ => Err(broken()),
    }
}

/// Where a bulk string ends, from the length of its first line.
fn after_bulk(line: usize, size: Option<usize>) -> usize {
    match size {
        None => line,
        Some(size) => line.saturating_add(size).saturating_add(2),
    }
}

/// A number of bytes or values; `None` for what is not there.
fn count(text: &[u8]) -> Result<Option<usize>, Fault> {
    if text == b"-1" {
        return Ok(None);
    }
    let count = usize::try_from(integer(text)?).map_err(|_| broken())?;
    if count > REPLY_MAX_BYTES {
        return Err(too_much());
    }
    Ok(Some(count))
}

fn integer(text: &[u8]) -> Result<i64, Fault> {
    let text = std::str::from_utf8(text).map_err(|_| broken())?;
    text.parse().map_err(|_| broken())
}

fn broken() -> Fault {
    Fault::Lost("what redis sent is not its protocol".to_owned())
}

fn too_much() -> Fault {
    Fault::Lost("redis sent more than a reply may hold".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What comes out when this comes in, in pieces of this size.
    fn read(bytes: &[u8], piece: usize) -> Result<Vec<Value>, Fault> {
        let mut inbox = Inbox::new();
        let mut values = Vec::new();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for mut piece in bytes.chunks(piece) {
            while !piece.is_empty() {
                let filled = inbox.poll_fill(Pin::new(&mut piece), &mut cx);
                assert!(matches!(filled, Poll::Ready(Ok(1..))), "{filled:?}");
            }
            while let Some(value) = inbox.take()? {
                values.push(value);
            }
        }
        Ok(values)
    }

    fn reply() -> impl Strategy<Value = Vec<u8>> {
        let leaf = prop_oneof![
            Just(b"$-1\r\n".to_vec()),
            Just(b"*-1\r\n".to_vec()),
            Just(b"*0\r\n".to_vec()),
            Just(b"+OK\r\n".to_vec()),
            "[+][a-z ]{0,9}\r\n".prop_map(String::into_bytes),
            "-ERR [a-z ]{0,9}\r\n".prop_map(String::into_bytes),
            any::<i64>().prop_map(|number| format!(":{number}\r\n").into_bytes()),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(|bulk| {
                let head = format!("${}\r\n", bulk.len()).into_bytes();
                [head, bulk, b"\r\n".to_vec()].concat()
            }),
        ];
        leaf.prop_recursive(5, 40, 6, |inner| {
            proptest::collection::vec(inner, 0..6).prop_map(|values| {
                let head = format!("*{}\r\n", values.len()).into_bytes();
                [head, values.concat()].concat()
            })
        })
    }

    proptest! {
        #[test]
        fn replies_read_as_redis_rs_reads_them_in_pieces_of_any_size(
            replies in proptest::collection::vec(reply(), 1..6),
            piece in 1_usize..50,
        ) {
            let expected: Vec<_> = replies
                .iter()
                .map(|reply| parse_redis_value(reply).expect("a reply"))
                .collect();
            prop_assert_eq!(read(&replies.concat(), piece), Ok(expected));
        }

        #[test]
        fn nothing_that_comes_makes_it_panic(
            bytes in proptest::collection::vec(prop_oneof![
                any::<u8>(), Just(b'*'), Just(b'$'), Just(b'1'), Just(b'\r'), Just(b'\n'),
            ], 1..200),
            piece in 1_usize..50,
        ) {
            let whole = read(&bytes, bytes.len());
            prop_assert_eq!(read(&bytes, piece).is_ok(), whole.is_ok());
        }
    }

    #[test]
    fn what_is_no_reply_breaks_the_connection() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"\r\n",
            b":1\r:1\r\n",
            b":\r\n",
            b":1x\r\n",
            b"$2\r\n200\r\n",
            b"$-2\r\n\r\n",
            b"+\xff\r\n",
            b",0\r\n",
            b"%1\r\n+a\r\n+b\r\n",
            b"*2\r\n:1\r\n?\r\n",
        ] {
            assert!(matches!(read(bytes, 1), Err(Fault::Lost(_))), "{bytes:?}");
        }
    }

    #[test]
    fn what_never_ends_is_not_kept() {
        for (start, more) in [
            (&b"$9223372036854775807\r\n"[..], &b"x"[..]),
            (b"$4194303\r\n", b"x"),
            (b"*9223372036854775807\r\n", b":1\r\n"),
            (b"*4194303\r\n", b":1\r\n"),
            (b"", b"*1\r\n"),
            (b"", b"+"),
        ] {
            let bytes = [start, &more.repeat(2 * REPLY_MAX_BYTES)].concat();
            assert!(
                matches!(read(&bytes, 8192), Err(Fault::Lost(_))),
                "{start:?}"
            );
        }
        let whole = [&b"$100000\r\n"[..], &b"x".repeat(100_000), b"\r\n"].concat();
        let large = Value::BulkString(b"x".repeat(100_000));
        let outcome = read(&[whole.clone(), whole].concat(), 8192);
        assert_eq!(outcome, Ok(vec![large.clone(), large]));
    }
}
