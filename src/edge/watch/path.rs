//! Which run a request is about, by its method and target as they were
//! received.

use pingora_http::RequestHeader;

use crate::billing::hold::RunId;
use crate::config::pattern::{Segment, StartPattern};

/// The name of the parameter that is the run's id.
const RUN: &str = "run";

/// The run in a request, if that matches the pattern as it was received.
pub(super) fn run_of(pattern: &StartPattern, head: &RequestHeader) -> Option<RunId> {
    if head.method.as_str() != pattern.method() {
        return None;
    }
    run_in(pattern, head.raw_path())
}

/// The run in a target, if that matches the pattern as it was received.
#[must_use]
pub fn run_in(pattern: &StartPattern, target: &[u8]) -> Option<RunId> {
    let end = target.iter().position(|byte| matches!(byte, b'?' | b'#'));
    let path = target.get(..end.unwrap_or(target.len()))?;
    let mut received = path.strip_prefix(b"/")?.split(|byte| *byte == b'/');
    let mut run = None;
    for segment in pattern.segments() {
        let received = received.next()?;
        match segment {
            Segment::Literal(text) if text.as_bytes() == received => {}
            Segment::Literal(_) => return None,
            Segment::Parameter(name) if name == RUN => run = Some(decoded(received)?),
            Segment::Parameter(_) => {
                if received.is_empty() {
                    return None;
                }
            }
            // It would have to be the last, and says nothing of the rest.
            Segment::CatchAll(_) => return RunId::parse(&run?).ok(),
        }
    }
    if received.next().is_some() {
        return None;
    }
    RunId::parse(&run?).ok()
}

/// A segment, percent-decoded once; `None` if that is not well-formed.
fn decoded(segment: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut bytes = segment.iter().copied();
    let mut decoded = Vec::with_capacity(segment.len());
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
            u8::try_from(high.saturating_mul(16).saturating_add(low)).ok()?
        } else {
            byte
        });
    }
    Some(decoded)
}
