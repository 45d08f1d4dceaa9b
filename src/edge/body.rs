//! Reading a whole request body before anything is decided, and sending it on
//! as it came.
//!
//! Pingora forwards what it reads itself, and keeps no more than 64 KiB of
//! what somebody else has read; with none of it kept it would wait for a body
//! that has gone. So the body is held here, and Pingora is left with a piece
//! that is not empty: when it offers that piece to the upstream, the whole
//! body takes its place ([`Held::put_back`]), on each attempt. Which piece
//! that is depends on the protocol:
//!
//! - with a length: what is kept begins where 64 KiB are left;
//! - HTTP/2 without one: the first piece, the rest is read past Pingora;
//! - HTTP/1.1 in chunks: all, up to 64 KiB; when it is more, a stand-in of one
//!   byte (`stand_in`), and the connection closes after its answer.
//!
//! All bodies held at once have one bound in bytes, and their beginnings one of
//! their own ([`Room`]); each body has one, and reading has two in time.

use std::fmt;
use std::future::poll_fn;
use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Version;
use http::header::{CONTENT_LENGTH, EXPECT, HeaderMap, TRANSFER_ENCODING};
use pingora_core::protocols::http::ServerSession;
use pingora_error::{Error, ErrorType};
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// What Pingora keeps at most of a body that it did not forward itself.
pub const KEPT_MAX_BYTES: u64 = 64 * 1024;

/// The most bytes of bodies held at once, beyond the first
/// `BEGINNING_BYTES` of each: sixty-four deliveries of the largest size
/// allowed by default.
pub const ROOM_BYTES: u32 = 64 * 1024 * 1024;

/// The most bytes of the beginnings of bodies held at once.
const BEGINNINGS_BYTES: u32 = 32 * 1024 * 1024;

/// How much of a body is its beginning. What Slack and Linear send is hardly
/// ever longer, so it has a place whoever fills the rest of the room: that
/// takes sixty-four connections and no secret, this takes a thousand.
const BEGINNING_BYTES: usize = 32 * 1024;

/// The body that stands in for one that Pingora could not keep.
const STAND_IN: &[u8] = b"1\r\n \r\n0\r\n\r\n";

/// Room for the bodies that are held. Clones share it.
#[derive(Clone, Debug)]
pub struct Room {
    beginnings: Arc<Semaphore>,
    rest: Arc<Semaphore>,
}

impl Default for Room {
    fn default() -> Self {
        Room::of(BEGINNINGS_BYTES, ROOM_BYTES)
    }
}

impl Room {
    fn of(beginnings: u32, rest: u32) -> Self {
        let [beginnings, rest] = [beginnings, rest].map(|bytes| {
            let bytes = usize::try_from(bytes).unwrap_or(Semaphore::MAX_PERMITS);
            Arc::new(Semaphore::new(bytes))
        });
        Room { beginnings, rest }
    }

    /// Takes room for more of a body of which `read` bytes have theirs, if
    /// there is any left. Never waits: whoever holds some may be waiting for
    /// more.
    fn take(&self, read: usize, more: usize) -> Option<Place> {
        let beginning = BEGINNING_BYTES.saturating_sub(read).min(more);
        Some(Place {
            beginning: permits(&self.beginnings, beginning)?,
            rest: permits(&self.rest, more.saturating_sub(beginning))?,
        })
    }
}

fn permits(lane: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let bytes = u32::try_from(bytes).ok()?;
    Arc::clone(lane).try_acquire_many_owned(bytes).ok()
}

/// The room that a body takes until it is dropped.
#[derive(Debug)]
struct Place {
    beginning: OwnedSemaphorePermit,
    rest: OwnedSemaphorePermit,
}

impl Place {
    fn merge(&mut self, more: Place) {
        self.beginning.merge(more.beginning);
        self.rest.merge(more.rest);
    }
}

/// A whole body, and the room it takes until it is dropped.
pub struct Held {
    bytes: Bytes,
    _place: Option<Place>,
}

impl fmt::Debug for Held {
    /// Without a byte of it: there are tokens and addresses for replies in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({} bytes)", self.bytes.len())
    }
}

impl Held {
    /// The body, out of its chunks.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Puts the whole body in the place of the piece that Pingora kept. To be
    /// called with everything that goes to the upstream.
    pub fn put_back(&self, piece: &mut Option<Bytes>) {
        if piece.as_ref().is_some_and(|piece| !piece.is_empty()) {
            *piece = Some(self.bytes.clone());
        }
    }
}

/// Bounds on reading one body.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The largest body, in bytes.
    pub max_bytes: u64,
    /// The longest wait for more of it.
    pub patience: Duration,
    /// The longest wait for all of it.
    pub total: Duration,
}

/// Why a body is not there.
#[derive(Debug)]
pub enum Missing {
    /// It is larger than allowed.
    TooLarge,
    /// Too much is held already. What was read of it is lost.
    NoRoom,
    /// More of it did not come in time.
    Slow,
    /// The client is gone, or what it sends is no body.
    Gone(Box<Error>),
}

/// The length that a head states, if it states one.
#[must_use]
pub fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads the whole body. It has to be held until the upstream has it, or be no
/// longer than [`KEPT_MAX_BYTES`] as its head says.
///
/// # Errors
/// Why it is not there.
pub async fn read(session: &mut Session, bounds: Bounds, room: &Room) -> Result<Held, Missing> {
    let length = length(&session.req_header().headers);
    if length.is_some_and(|length| length > bounds.max_bytes) {
        return Err(Missing::TooLarge);
    }
    let waits = waits_for_continue(session.req_header());
    let downstream = session.as_downstream_mut();
    if waits && !downstream.is_body_done() {
        let written = downstream.write_continue_response().await;
        written.map_err(Error::into_down).map_err(Missing::Gone)?;
    }
    // It must not end before the clock here does.
    downstream.set_read_timeout(None);
    let read = gather(downstream, length, bounds, room).await;
    downstream.set_read_timeout(Some(bounds.patience));
    read
}

/// Whether a client holds its body back until it hears that it is wanted (RFC
/// 9110, section 10.1.1). Over HTTP/2 Pingora has no way to say so.
fn waits_for_continue(head: &RequestHeader) -> bool {
    head.version == Version::HTTP_11 && head.headers.contains_key(EXPECT)
}

async fn gather(
    downstream: &mut ServerSession,
    length: Option<u64>,
    bounds: Bounds,
    room: &Room,
) -> Result<Held, Missing> {
    let now = Instant::now();
    let until = now.checked_add(bounds.total).unwrap_or(now);
    let mut bytes = BytesMut::new();
    let mut place: Option<Place> = None;
    let mut keeps = Keeps::Nothing;
    loop {
        let read = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if length.is_none_or(|length| length.saturating_sub(read) <= KEPT_MAX_BYTES) {
            downstream.enable_retry_buffering();
            keeps = Keeps::Something;
        }
        let wait = Instant::now().checked_add(bounds.patience);
        let wait = wait.map_or(until, |wait| wait.min(until));
        let piece = match timeout_at(wait, next(downstream, length, read)).await {
            Ok(Ok(Some(piece))) => piece,
            Ok(Ok(None)) => break,
            Ok(Err(error)) => return Err(Missing::Gone(error.into_down())),
            Err(_) => return Err(Missing::Slow),
        };
        let more = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        if read.saturating_add(more) > bounds.max_bytes {
            return Err(Missing::TooLarge);
        }
        let taken = room.take(bytes.len(), piece.len()).ok_or(Missing::NoRoom)?;
        match place.as_mut() {
            Some(place) => place.merge(taken),
            None => place = Some(taken),
        }
        bytes.extend_from_slice(&piece);
    }
    let is_kept = keeps == Keeps::Something && !downstream.retry_buffer_truncated();
    if !bytes.is_empty() && !is_kept {
        stand_in(downstream, bounds).await?;
    }
    Ok(Held {
        bytes: bytes.freeze(),
        _place: place,
    })
}

/// Whether Pingora keeps what is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeps {
    Nothing,
    Something,
}

/// Reads the next piece, past Pingora where it is to keep no more.
async fn next(
    downstream: &mut ServerSession,
    length: Option<u64>,
    read: u64,
) -> Result<Option<Bytes>, Box<Error>> {
    match downstream {
        ServerSession::H2(stream) if length.is_none() && read > 0 => {
            let piece = poll_fn(|cx| stream.poll_read_body_bytes(cx)).await;
            piece.transpose().map_err(|error| {
                let what = "while reading the request body";
                Error::because(ErrorType::ReadError, what, error)
            })
        }
        _ => downstream.read_request_body().await,
    }
}

/// Gives Pingora a body of one byte in place of one that it has read and not
/// kept: the request begins once more on the same connection, with the head as
/// it came. What a client sent ahead of its time may be lost with that, so the
/// connection carries no further request.
async fn stand_in(downstream: &mut ServerSession, bounds: Bounds) -> Result<(), Missing> {
    let gone = |error: Box<Error>| Missing::Gone(error.into_down());
    let unable = || {
        let what = "the body was read and cannot be put back";
        Missing::Gone(Error::explain(ErrorType::InternalError, what))
    };
    let ServerSession::H1(before) = &*downstream else {
        return Err(unable());
    };
    let mut again = BytesMut::from(&*before.get_headers_raw_bytes());
    again.extend_from_slice(STAND_IN);
    let write_timeout = before.get_write_timeout();
    let nothing = ServerSession::new_http1(Box::new(Cursor::new(Vec::new())));
    let ServerSession::H1(before) = std::mem::replace(downstream, nothing) else {
        return Err(unable());
    };
    *downstream = ServerSession::new_http1(before.into_inner());
    let ServerSession::H1(after) = &mut *downstream else {
        return Err(unable());
    };
    after.set_pipelined_prefix(again);
    after.set_write_timeout(write_timeout);
    after.read_request().await.map_err(gone)?;
    // Where there was a length, it is not that of the stand-in.
    let head = after.req_header_mut();
    let length = head.remove_header(&CONTENT_LENGTH);
    if length.is_some() {
        head.insert_header(TRANSFER_ENCODING, "chunked")
            .map_err(gone)?;
    }
    downstream.set_keepalive(None);
    downstream.set_read_timeout(Some(bounds.patience));
    downstream.enable_retry_buffering();
    while downstream
        .read_request_body()
        .await
        .map_err(gone)?
        .is_some()
    {}
    if let Some(length) = length {
        let head = downstream.req_header_mut();
        head.remove_header(&TRANSFER_ENCODING);
        head.insert_header(CONTENT_LENGTH, length).map_err(gone)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};

    /// A request that was read up to its body.
    async fn request(head: &str) -> (ServerSession, DuplexStream) {
        let (mut client, server) = duplex(1 << 20);
        client.write_all(head.as_bytes()).await.unwrap();
        let mut session = ServerSession::new_http1(Box::new(server));
        session.read_request().await.unwrap();
        session.set_read_timeout(None);
        (session, client)
    }

    fn bounds(patience_ms: u64, total_ms: u64) -> Bounds {
        Bounds {
            max_bytes: 200_000,
            patience: Duration::from_millis(patience_ms),
            total: Duration::from_millis(total_ms),
        }
    }

    const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";

    #[tokio::test]
    async fn a_body_that_drips_has_an_end() {
        let (mut session, mut client) = request(CHUNKED).await;
        let dripping = tokio::spawn(async move {
            while client.write_all(b"1\r\nx\r\n").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let began = Instant::now();
        let read = gather(&mut session, None, bounds(10_000, 100), &Room::default()).await;
        assert!(matches!(read, Err(Missing::Slow)), "{read:?}");
        assert!(began.elapsed() < Duration::from_secs(5));
        dripping.abort();
    }

    #[tokio::test]
    async fn more_is_waited_for_so_long() {
        let (mut session, _client) = request(CHUNKED).await;
        let read = gather(&mut session, None, bounds(50, 10_000), &Room::default()).await;
        assert!(matches!(read, Err(Missing::Slow)), "{read:?}");
    }

    #[tokio::test]
    async fn what_is_read_takes_room_until_it_is_dropped() {
        let room = Room::default();
        let before = room.beginnings.available_permits();
        let (mut session, mut client) = request(CHUNKED).await;
        client.write_all(b"5\r\nhello\r\n0\r\n\r\n").await.unwrap();
        let read = gather(&mut session, None, bounds(5_000, 10_000), &room).await;
        let held = read.unwrap();
        assert_eq!(held.bytes(), b"hello");
        assert_eq!(room.beginnings.available_permits(), before - 5);
        assert!(!format!("{held:?}").contains("hello"));
        drop(held);
        assert_eq!(room.beginnings.available_permits(), before);
    }

    #[tokio::test]
    async fn where_there_is_no_room_nothing_is_held() {
        let room = Room::of(4, 1 << 20);
        let (mut session, mut client) = request(CHUNKED).await;
        client
            .write_all(b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n")
            .await
            .unwrap();
        let read = gather(&mut session, None, bounds(5_000, 10_000), &room).await;
        assert!(matches!(read, Err(Missing::NoRoom)), "{read:?}");
        assert_eq!(room.beginnings.available_permits(), 4);
    }

    #[test]
    fn what_is_short_has_a_place_where_what_is_long_has_none() {
        let room = Room::of(2 * 32 * 1024, 100_000);
        let long = room.take(0, 32 * 1024 + 100_000).unwrap();
        assert_eq!(room.rest.available_permits(), 0);
        assert!(room.take(32 * 1024, 1).is_none());
        assert!(room.take(0, 32 * 1024 + 1).is_none(), "and it takes none");
        let mut short = room.take(0, 1000).unwrap();
        short.merge(room.take(1000, 31 * 1024).unwrap());
        drop((long, short));
        assert_eq!(room.beginnings.available_permits(), 2 * 32 * 1024);
        assert_eq!(room.rest.available_permits(), 100_000);
    }

    #[tokio::test]
    async fn what_stands_in_is_kept_and_leaves_the_head_as_it_was() {
        let body = vec![b'x'; 100_000];
        let head = CHUNKED.replace("Host: x", "Host: x\r\nX-Some: Thing");
        let (mut session, mut client) = request(&head).await;
        client.write_all(b"186a0\r\n").await.unwrap();
        client.write_all(&body).await.unwrap();
        client.write_all(b"\r\n0\r\n\r\n").await.unwrap();
        let before = session.req_header().clone();
        let read = gather(&mut session, None, bounds(5_000, 10_000), &Room::default()).await;
        let held = read.unwrap();
        assert!(held.bytes() == body);
        assert!(session.is_body_done() && !session.is_body_empty());
        let mut kept = session.get_retry_buffer();
        assert_eq!(kept.as_deref(), Some(&b" "[..]));
        held.put_back(&mut kept);
        assert!(kept.as_deref() == Some(&body[..]));
        assert_eq!(session.req_header().headers, before.headers);
        assert_eq!(session.req_header().raw_path(), before.raw_path());
        let mut end = None;
        held.put_back(&mut end);
        assert_eq!(end, None, "the end is no piece");
    }
}
