//! What passing answers tell of runs: which run a start began and what it
//! cost, and whether a run is over.
//!
//! An answer is never delayed or changed by looking. Its body is copied as it
//! passes, up to a bound; what is large or compressed is looked into elsewhere
//! ([`Keeper::look`]). Whether there is anything to look for is decided once,
//! when the head of the request is read. Event streams and upgraded
//! connections are never copied: they are not JSON.
//!
//! Requests about runs match as they were received and in no other reading: a
//! request that an upstream might take for a cancel frees nothing.

mod path;
mod room;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, Method, StatusCode};
use pingora_http::{RequestHeader, ResponseHeader};

use super::admit;
use super::context::Context;
use super::live::{Live, RunRoute};
use super::peek::{COPY_MAX_BYTES, Coding, Found, is_json, peek};
use crate::billing::credits::Credits;
use crate::billing::hold::{HoldId, RunId};
use crate::billing::team::TeamId;
use crate::keeper::{Keeper, Look, Task};
use crate::telemetry::holds::Unread;
pub use path::run_in;
use path::run_of;
use room::Claim;

/// The most bytes of an answer that are looked into on the spot: that takes
/// microseconds.
const AT_ONCE_MAX_BYTES: usize = 16 * 1024;

/// What is looked for in the answer to a request.
#[derive(Debug)]
pub enum Looking {
    /// Whether it is a success: then this run is over.
    ForSuccess(RunId),
    /// The state of this run; the number is its route's place.
    ForState(RunId, usize),
    /// Something in the body, which is being copied.
    In(Copy),
    /// Nothing any more.
    Done,
}

/// The copy of a body, and what to do with it.
#[derive(Debug)]
pub struct Copy {
    bytes: Vec<u8>,
    claim: Claim,
    /// The length that the head tells.
    length: Option<usize>,
    coding: Coding,
    pointer: Arc<str>,
    wanted: Wanted,
}

/// What the value at the pointer stands for.
#[derive(Debug)]
enum Wanted {
    /// The run that a start began.
    Run {
        team: TeamId,
        hold: HoldId,
        hold_for: Duration,
    },
    /// The state of a run.
    State {
        run: RunId,
        end_states: Arc<[String]>,
    },
}

/// Whether a request that is no start is about a run, and what is to be looked
/// for in the answer to it.
pub fn request(context: &mut Context, head: &RequestHeader) {
    let Some((run, place, route)) = about(&context.live, head) else {
        return;
    };
    let (name, looking) = match route {
        RunRoute::Ends(_) => ("ends", Looking::ForSuccess(run.clone())),
        RunRoute::Watch { .. } => ("watch", Looking::ForState(run.clone(), place)),
    };
    context.looking = Some(looking);
    context.run.route = Some(name);
    context.run.run = Some(run);
}

/// Whether a request is about a run, whether or not anything is looked for.
#[must_use]
pub fn is_about_run(live: &Live, head: &RequestHeader) -> bool {
    find(&live.runs, head).is_some()
}

fn about<'a>(live: &'a Live, head: &RequestHeader) -> Option<(RunId, usize, &'a RunRoute)> {
    live.holding.as_ref()?;
    find(&live.runs, head)
}

fn find<'a>(routes: &'a [RunRoute], head: &RequestHeader) -> Option<(RunId, usize, &'a RunRoute)> {
    let mut routes = routes.iter().enumerate();
    let found = routes.find_map(|(place, route)| {
        let (RunRoute::Ends(pattern) | RunRoute::Watch { pattern, .. }) = route;
        Some((run_of(pattern, head)?, place, route))
    });
    // What carries another method may not be what it looks like.
    found.filter(|_| admit::overrides(head).next().is_none())
}

/// The head of the upstream's answer has come.
pub fn answer(context: &mut Context, method: &Method, head: &ResponseHeader) {
    let is_about_runs = context.start.is_some() || context.looking.is_some();
    if !is_about_runs || head.status.is_informational() {
        return;
    }
    let live = Arc::clone(&context.live);
    let Some(holding) = &live.holding else {
        return;
    };
    if context.start.is_some() {
        context.cost = cost_of_start(context, &live, head);
        context.looking = answer_to_start(context, &live, method, head);
        if context.looking.is_none() {
            tell_cost(context);
        }
        return;
    }
    let Some(looking) = context.looking.take() else {
        return;
    };
    context.looking = match looking {
        Looking::ForSuccess(run) => {
            if head.status.is_success() {
                holding.keeper.offer(Task::Over(run));
            }
            None
        }
        Looking::ForState(run, place) => {
            let copy = copy_of_state(&live, run, place, head);
            copy.and_then(|copy| counted(copy, &holding.keeper))
        }
        Looking::In(_) | Looking::Done => None,
    };
}

fn counted(copy: Result<Copy, Unread>, keeper: &Keeper) -> Option<Looking> {
    match copy {
        Ok(copy) => Some(Looking::In(copy)),
        Err(why) => {
            keeper.unread(why);
            None
        }
    }
}

fn answer_to_start(
    context: &Context,
    live: &Live,
    method: &Method,
    head: &ResponseHeader,
) -> Option<Looking> {
    let keeper = &live.holding.as_ref()?.keeper;
    let start = context.start.as_ref()?;
    let rule = live.starts.get(start.route)?.hold.as_ref()?;
    let (held, payer) = (start.hold.as_ref()?, start.payer.as_ref()?);
    if rule.release_on.contains(head.status.as_u16()) {
        return None;
    }
    let pointer = rule.run_id.as_ref()?;
    if method == Method::HEAD || !has_body(head.status) {
        return None;
    }
    let wanted = Wanted::Run {
        team: payer.team.clone(),
        hold: held.hold.clone(),
        hold_for: rule.hold_for,
    };
    let copy = Copy::new(&head.headers, Arc::clone(pointer), wanted);
    // An answer that tells of a fault need not name a run.
    if copy.is_err() && !head.status.is_success() {
        return None;
    }
    counted(copy, keeper)
}

/// What the upstream says that the run of a start cost, as a task.
fn cost_of_start(context: &Context, live: &Live, head: &ResponseHeader) -> Option<Task> {
    let start = context.start.as_ref()?;
    let rule = live.starts.get(start.route)?.hold.as_ref()?;
    let (held, payer) = (start.hold.as_ref()?, start.payer.as_ref()?);
    if rule.release_on.contains(head.status.as_u16()) {
        return None;
    }
    let name = rule.settle_from.as_ref()?;
    Some(Task::Cost {
        team: payer.team.clone(),
        hold: held.hold.clone(),
        run: None,
        credits: cost(&head.headers, name, &held.hold)?,
    })
}

/// Offers what the run cost, after all else that the answer tells: the line of
/// the statement then says which run it was.
fn tell_cost(context: &mut Context) {
    if let (Some(cost), Some(holding)) = (context.cost.take(), &context.live.holding) {
        holding.keeper.offer(cost);
    }
}

fn copy_of_state(
    live: &Live,
    run: RunId,
    place: usize,
    head: &ResponseHeader,
) -> Option<Result<Copy, Unread>> {
    let Some(RunRoute::Watch {
        state, end_states, ..
    }) = live.runs.get(place)
    else {
        return None;
    };
    // A part of an answer may not be read as the whole.
    let is_whole = head.status.is_success() && head.status != StatusCode::PARTIAL_CONTENT;
    if !is_whole || !has_body(head.status) {
        return None;
    }
    let wanted = Wanted::State {
        run,
        end_states: Arc::clone(end_states),
    };
    Some(Copy::new(&head.headers, Arc::clone(state), wanted))
}

fn has_body(status: StatusCode) -> bool {
    !matches!(
        status,
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
    )
}

/// What the upstream says that a run cost.
fn cost(headers: &HeaderMap, name: &HeaderName, hold: &HoldId) -> Option<Credits> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    let credits = Credits::parse(value.as_bytes()).ok();
    let credits = credits.filter(|credits| *credits >= Credits::ZERO && values.next().is_none());
    if credits.is_none() {
        tracing::warn!(
            header = name.as_str(),
            hold = hold.as_str(),
            "the upstream said a cost that is none, write one decimal of zero or more: nothing was settled"
        );
    }
    credits
}

/// A part of the answer's body passes.
pub fn body(context: &mut Context, part: Option<&Bytes>, is_last: End) {
    let Some(Looking::In(copy)) = &mut context.looking else {
        return;
    };
    let Some(holding) = &context.live.holding else {
        return;
    };
    let why = match copy.add(part.map_or(&b""[..], |part| &**part), is_last) {
        Added::More => return,
        Added::Complete => return finish(context, Unread::Malformed),
        Added::TooLarge => Unread::TooLarge,
        Added::NoRoom => Unread::Busy,
    };
    holding.keeper.unread(why);
    context.looking = Some(Looking::Done);
    tell_cost(context);
}

/// The request is over, however it went.
pub fn over(context: &mut Context) {
    // What came may be all there is: the client went, or the end was told in
    // a way that does not show here.
    finish(context, Unread::Cut);
    tell_cost(context);
}

/// Looks into a copy.
fn finish(context: &mut Context, if_malformed: Unread) {
    if !matches!(context.looking, Some(Looking::In(_))) {
        return;
    }
    let Some(Looking::In(mut copy)) = context.looking.replace(Looking::Done) else {
        return;
    };
    let Some(holding) = &context.live.holding else {
        return;
    };
    if copy.bytes.is_empty() {
        tell_cost(context);
        return;
    }
    let is_quick = copy.coding == Coding::Identity && copy.bytes.len() <= AT_ONCE_MAX_BYTES;
    if !is_quick {
        let work = Box::new(move || copy.told(if_malformed).map(|told| told.task));
        let then = context.cost.take();
        holding.keeper.look(Look { work, then });
        return;
    }
    match copy.told(if_malformed) {
        Ok(told) => {
            if let Task::Began { run, .. } = &told.task {
                if let Some(cost) = &mut context.cost {
                    cost.name(run);
                }
                context.run.run = Some(run.clone());
            }
            context.run.state = told.state;
            holding.keeper.offer(told.task);
        }
        Err(why) => holding.keeper.unread(why),
    }
    tell_cost(context);
}

/// Whether a part is the last of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is.
    Last,
    /// More may follow.
    More,
}

/// What adding to a copy came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Added {
    More,
    Complete,
    TooLarge,
    NoRoom,
}

impl Copy {
    fn new(headers: &HeaderMap, pointer: Arc<str>, wanted: Wanted) -> Result<Self, Unread> {
        if !is_json(headers) {
            return Err(Unread::NotJson);
        }
        let length = headers.get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > COPY_MAX_BYTES) {
            return Err(Unread::TooLarge);
        }
        Ok(Copy {
            bytes: Vec::new(),
            claim: Claim::default(),
            length,
            coding: Coding::of(headers)?,
            pointer,
            wanted,
        })
    }

    fn add(&mut self, part: &[u8], end: End) -> Added {
        let length = self.bytes.len().saturating_add(part.len());
        if length > COPY_MAX_BYTES {
            return Added::TooLarge;
        }
        if length > self.bytes.capacity() {
            let told = self.length.unwrap_or_default();
            let doubled = self.bytes.capacity().saturating_mul(2);
            let wanted = length.max(told).max(doubled).min(COPY_MAX_BYTES);
            if !self.claim.raise_to(wanted) {
                return Added::NoRoom;
            }
            let more = wanted.saturating_sub(self.bytes.len());
            self.bytes.reserve_exact(more);
        }
        self.bytes.extend_from_slice(part);
        if end == End::Last || self.length.is_some_and(|told| length >= told) {
            Added::Complete
        } else {
            Added::More
        }
    }

    /// What the answer says.
    fn told(&mut self, if_malformed: Unread) -> Result<Told, Unread> {
        let found = peek(&self.bytes, self.coding, &self.pointer).map_err(|why| match why {
            Unread::Malformed => if_malformed,
            why => why,
        })?;
        match (&self.wanted, found) {
            (
                Wanted::Run {
                    team,
                    hold,
                    hold_for,
                },
                Found::Text(run) | Found::Integer(run),
            ) => Ok(Told {
                task: Task::Began {
                    team: team.clone(),
                    hold: hold.clone(),
                    run: RunId::parse(run.as_bytes()).map_err(|_| Unread::Absent)?,
                    hold_for: *hold_for,
                },
                state: None,
            }),
            (Wanted::State { run, end_states }, Found::Text(state)) => {
                let run = run.clone();
                let is_over = end_states
                    .iter()
                    .any(|end| end.eq_ignore_ascii_case(&state));
                Ok(Told {
                    task: if is_over {
                        Task::Over(run)
                    } else {
                        Task::Alive(run)
                    },
                    state: Some(state),
                })
            }
            (Wanted::State { .. }, Found::Integer(_)) => Err(Unread::Absent),
        }
    }
}

/// What an answer tells.
struct Told {
    task: Task,
    /// The state of the run, as it stands there.
    state: Option<String>,
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "test data is in bounds"
)]
mod tests {

    use super::*;
    use http::HeaderValue;
    use http::header::CONTENT_TYPE;

    const CANCEL: &str = "POST /api/v1/agent/runs/{run}/cancel";

    fn run_of(pattern: &str, target: &str) -> Option<String> {
        let pattern = pattern.parse().unwrap();
        let run = run_in(&pattern, target.as_bytes())?;
        Some(run.as_str().to_owned())
    }

    #[test]
    fn a_run_is_found_as_it_was_received() {
        for (target, run) in [
            ("/api/v1/agent/runs/r1/cancel", "r1"),
            ("/api/v1/agent/runs/r1/cancel?force=1", "r1"),
            ("/api/v1/agent/runs/a%2Fb/cancel", "a/b"),
            ("/api/v1/agent/runs/a%252Fb/cancel", "a%2Fb"),
            ("/api/v1/agent/runs/a;b/cancel", "a;b"),
            ("/api/v1/agent/runs/../cancel", ".."),
        ] {
            assert_eq!(run_of(CANCEL, target).as_deref(), Some(run), "{target}");
        }
    }

    #[test]
    fn no_other_reading_frees_anything() {
        for target in [
            "/api/v1/agent/runs/r1/cancel/",
            "/api/v1/agent/runs/r1/Cancel",
            "/API/v1/agent/runs/r1/cancel",
            "//api/v1/agent/runs/r1/cancel",
            "/api//v1/agent/runs/r1/cancel",
            "/api/v1/agent/runs/r1%2Fcancel",
            "/api/v1/agent/runs/r1/%63ancel",
            "/api/v1/agent/runs/x/../r1/cancel",
            "/api/v1/agent/runs/r1/cancel;x",
            "/api/v1/agent/runs/r1/cancel/x",
            "/api/v1/agent/runs/r1",
            "/api/v1/agent/runs//cancel",
            "/api/v1/agent/runs/%/cancel",
            "/api/v1/agent/runs/%zz/cancel",
            "/api/v1/agent/runs/r%4/cancel",
            "/api/v1/agent/runs/r%00/cancel",
            "/api/v1/agent/runs/r%20/cancel",
            "/api/v1/agent/runs/%C3%A4/cancel",
            "http://host/api/v1/agent/runs/r1/cancel",
            "api/v1/agent/runs/r1/cancel",
            "?/api/v1/agent/runs/r1/cancel",
            "",
        ] {
            assert_eq!(run_of(CANCEL, target), None, "{target}");
        }
        let long = format!("/api/v1/agent/runs/{}/cancel", "x".repeat(257));
        assert_eq!(run_of(CANCEL, &long), None);
    }

    #[test]
    fn other_parameters_may_be_anything_but_empty() {
        let pattern = "GET /t/{team}/runs/{run}/{*rest}";
        assert_eq!(run_of(pattern, "/t/%zz/runs/r1/a/b").as_deref(), Some("r1"));
        assert_eq!(run_of(pattern, "/t//runs/r1/a"), None);
        assert_eq!(run_of(pattern, "/t/x/runs/r1"), None);
    }

    fn headers(values: &[(HeaderName, &str)]) -> HeaderMap {
        let value = |text: &str| HeaderValue::from_str(text).unwrap();
        let values = values
            .iter()
            .map(|(name, text)| (name.clone(), value(text)));
        values.collect()
    }

    fn state_copy(head: &[(HeaderName, &str)]) -> Result<Copy, Unread> {
        let wanted = Wanted::State {
            run: RunId::parse(b"r1").unwrap(),
            end_states: ["SUCCEEDED".to_owned()].into(),
        };
        Copy::new(&headers(head), "/state".into(), wanted)
    }

    fn task_of(body: &str) -> Result<Task, Unread> {
        let mut copy = state_copy(&[(CONTENT_TYPE, "application/json")]).unwrap();
        assert_eq!(copy.add(body.as_bytes(), End::Last), Added::Complete);
        copy.told(Unread::Malformed).map(|told| told.task)
    }

    #[test]
    fn a_state_says_whether_the_run_is_over() {
        for body in [r#"{"state":"SUCCEEDED"}"#, r#"{"state":"succeeded"}"#] {
            assert!(matches!(task_of(body), Ok(Task::Over(_))), "{body}");
        }
        for body in [r#"{"state":"INPROGRESS"}"#, r#"{"state":""}"#] {
            assert!(matches!(task_of(body), Ok(Task::Alive(_))), "{body}");
        }
        for body in [r#"{"state":1}"#, r#"{"state":null}"#, "{}", "[]"] {
            assert!(matches!(task_of(body), Err(Unread::Absent)), "{body}");
        }
        assert!(matches!(
            task_of(r#"{"state":"SUC"#),
            Err(Unread::Malformed)
        ));
    }

    #[test]
    fn an_answer_names_its_run() {
        let task = |body: &str| {
            let wanted = Wanted::Run {
                team: TeamId::parse(b"acme").unwrap(),
                hold: HoldId::from_bits(1),
                hold_for: Duration::from_secs(1),
            };
            let head = headers(&[(CONTENT_TYPE, "application/json")]);
            let mut copy = Copy::new(&head, "/run_id".into(), wanted).unwrap();
            copy.add(body.as_bytes(), End::Last);
            copy.told(Unread::Malformed).map(|told| told.task)
        };
        for (body, id) in [(r#"{"run_id":"r1"}"#, "r1"), (r#"{"run_id":17}"#, "17")] {
            let Ok(Task::Began { run, .. }) = task(body) else {
                panic!("{body}");
            };
            assert_eq!(run.as_str(), id);
        }
        for body in [
            r#"{"run_id":""}"#,
            r#"{"run_id":"a b"}"#,
            r#"{"run_id":1.5}"#,
        ] {
            assert!(matches!(task(body), Err(Unread::Absent)), "{body}");
        }
    }

    #[test]
    fn a_copy_is_complete_at_its_length_or_its_end_and_bounded() {
        let json = (CONTENT_TYPE, "application/json");
        let mut copy = state_copy(&[json.clone(), (CONTENT_LENGTH, "4")]).unwrap();
        assert_eq!(copy.add(b"{", End::More), Added::More);
        assert_eq!(copy.add(b"  }", End::More), Added::Complete);
        let mut copy = state_copy(std::slice::from_ref(&json)).unwrap();
        assert_eq!(copy.add(b"{}", End::More), Added::More);
        assert_eq!(copy.add(b"", End::Last), Added::Complete);
        let mut copy = state_copy(std::slice::from_ref(&json)).unwrap();
        let half = vec![b' '; COPY_MAX_BYTES / 2];
        assert_eq!(copy.add(&half, End::More), Added::More);
        assert_eq!(copy.add(&half, End::More), Added::More);
        assert_eq!(copy.add(b"x", End::More), Added::TooLarge);
        let large = (COPY_MAX_BYTES + 1).to_string();
        let told = state_copy(&[json, (CONTENT_LENGTH, &large)]);
        assert_eq!(told.unwrap_err(), Unread::TooLarge);
        let events = state_copy(&[(CONTENT_TYPE, "text/event-stream")]);
        assert_eq!(events.unwrap_err(), Unread::NotJson);
    }

    #[test]
    fn a_cost_is_one_decimal_of_zero_or_more() {
        let name = HeaderName::from_static("x-credits-used");
        let says = |values: &[&str]| {
            let values: Vec<_> = values.iter().map(|value| (name.clone(), *value)).collect();
            cost(&headers(&values), &name, &HoldId::from_bits(1)).map(Credits::micro)
        };
        assert_eq!(says(&["12.5"]), Some(12_500_000));
        assert_eq!(says(&["0"]), Some(0));
        for values in [&[][..], &["-1"], &["1e3"], &[""], &["1", "1"], &["1, 2"]] {
            assert_eq!(says(values), None, "{values:?}");
        }
    }
}
