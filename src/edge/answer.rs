//! Writing an answer of our own to a client that may still be sending.
//!
//! A client must get to read the answer whatever it is doing. Closing a
//! connection with unread bytes on it makes the kernel send a reset that
//! overtakes the answer, so the bytes are read away first. With a short body
//! of known length the connection can be kept; in all other cases the answer
//! says `connection: close`, and what still arrives is read and dropped for a
//! bounded time before the connection goes.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT};
use pingora_error::Result;
use pingora_proxy::Session;
use tokio::time::{Instant, timeout_at};

use super::problem::style::Rendered;

/// The longest unread body for whose sake a connection is kept.
const KEEP_BODY_MAX_BYTES: u64 = 64 * 1024;

/// How long an unread body may take to arrive before the connection goes.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// How much of an unread body is read away.
const DRAIN_MAX_BYTES: usize = 16 * 1024 * 1024;

/// Writes an answer, header and body in one go.
///
/// # Errors
/// If the client is gone.
pub async fn write(session: &mut Session, rendered: Rendered) -> Result<()> {
    let unread = !session.as_downstream_mut().is_body_done();
    let is_http2 = session.is_http2();
    let draining = unread && !is_http2 && !keep_connection(session);
    if draining {
        session.set_keepalive(None);
    }
    let Rendered {
        header,
        body,
        trailers,
    } = rendered;
    let downstream = session.as_downstream_mut();
    let bodiless = body.is_empty() || downstream.req_header().method == http::Method::HEAD;
    if let Some(trailers) = trailers {
        downstream.write_response_header(header).await?;
        downstream.write_response_trailers(trailers).await?;
    } else if bodiless {
        session.write_response_header(header, true).await?;
        session.as_downstream_mut().finish_body().await?;
    } else {
        downstream.write_response_header(header).await?;
        // In HTTP/1 the length ends the body, which is then sent off; Pingora
        // would do it twice.
        downstream
            .write_response_body(Bytes::from(body), is_http2)
            .await?;
    }
    if draining {
        session.as_downstream_mut().finish_body().await?;
        drain(session).await;
    }
    Ok(())
}

/// Sets a connection up to be kept, if what is unread is short and its end is
/// known. After a chunked body or an `Expect` it cannot be: the client may or
/// may not send the rest, and a rest would be taken for the next request.
fn keep_connection(session: &mut Session) -> bool {
    let http1 = session.as_downstream().as_http1();
    if !http1.is_some_and(|http1| http1.will_keepalive()) {
        return false;
    }
    let headers = &session.req_header().headers;
    let length = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let short = length.is_some_and(|length: u64| length <= KEEP_BODY_MAX_BYTES);
    if !short || headers.contains_key(EXPECT) {
        return false;
    }
    let downstream = session.as_downstream_mut();
    downstream.set_close_on_response_before_downstream_finish(false);
    downstream.set_total_drain_timeout(Some(DRAIN_MAX));
    true
}

async fn drain(session: &mut Session) {
    let deadline = Instant::now()
        .checked_add(DRAIN_MAX)
        .unwrap_or_else(Instant::now);
    let mut dropped = 0_usize;
    while dropped < DRAIN_MAX_BYTES {
        match timeout_at(deadline, session.as_downstream_mut().read_request_body()).await {
            Ok(Ok(Some(bytes))) => dropped = dropped.saturating_add(bytes.len()),
            _ => return,
        }
    }
}
