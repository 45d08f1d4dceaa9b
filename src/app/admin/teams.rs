//! `/v1/teams/…`: what billing systems and operators see and change of a
//! team's credits, over HTTP.
//!
//! Nothing is answered without the bearer token. A request goes to the ledger
//! that is in force when it arrives, through all reloads. Every change of a
//! hold can be sent again and is made once.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Response, StatusCode};
use pingora_core::protocols::http::ServerSession;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::facts::{self, Act, When};
use super::figure::{self, JsonFigure, NotFigure};
use super::trouble::{Again, Trouble};
use super::{answer, request};
use crate::app::LiveSwap;
use crate::billing::credits::Credits;
use crate::billing::hold::RunId;
use crate::billing::team::TeamId;
use crate::config::values::Secret;
use crate::edge::live::{Holding, Live};
use crate::ledger::LedgerError;
use crate::ledger::holds::{Change, Which, Writer, release_all};

/// How long a ledger may take for whoever waits here. Changes have a shorter
/// deadline of their own; reading a whole team has none.
const LEDGER_MAX: Duration = Duration::from_secs(10);

/// Holds and lines in one answer: how many if nothing is said, and at most.
const LIMIT_DEFAULT: usize = 1_000;
const LIMIT_MAX: usize = 10_000;

/// What is answered under `/v1/`.
pub(super) struct Teams {
    live: LiveSwap,
    token: Option<Secret>,
}

/// What is asked for.
enum Wanted {
    Standing,
    Holds,
    Statement,
    Grant,
    Change(Act, String),
}

impl Wanted {
    fn of(rest: &[&str]) -> Option<Self> {
        match rest {
            [] => Some(Wanted::Standing),
            ["holds"] => Some(Wanted::Holds),
            ["statement"] => Some(Wanted::Statement),
            ["grants"] => Some(Wanted::Grant),
            ["holds", which, act] => {
                let acts = [Act::Settle, Act::Charge, Act::Release];
                let act = acts.into_iter().find(|known| known.name() == *act)?;
                Some(Wanted::Change(act, (*which).to_owned()))
            }
            _ => None,
        }
    }

    fn takes(&self, method: &Method) -> Result<(), Trouble> {
        match self {
            Wanted::Standing | Wanted::Holds | Wanted::Statement => {
                let reads = method == Method::GET || method == Method::HEAD;
                reads.then_some(()).ok_or(Trouble::method("GET, HEAD"))
            }
            Wanted::Grant | Wanted::Change(..) => (method == Method::POST)
                .then_some(())
                .ok_or(Trouble::method("POST")),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settle {
    credits: JsonFigure,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Charge {
    credits: JsonFigure,
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Grant {
    credits: JsonFigure,
    #[serde(default)]
    id: Option<String>,
}

/// A body that was read and understood.
enum Order {
    Settle(Credits),
    Charge(Credits, String),
    Release,
}

impl Teams {
    pub(super) fn new(live: LiveSwap, token: Option<Secret>) -> Self {
        Teams { live, token }
    }

    /// The answer to a request that is not answered otherwise.
    pub(super) fn refuse(&self, trouble: Trouble, session: &ServerSession) -> Response<Vec<u8>> {
        let live = self.live.load();
        trouble.response(live.style.type_base(), session.req_header().uri.path())
    }

    /// The answer to a request under `/v1/`.
    pub(super) async fn respond(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let instance = session.req_header().uri.path().to_owned();
        let answered = self.decide(session, &instance).await;
        match answered {
            Ok(value) => {
                let body = format!("{value}\n").into_bytes();
                answer(StatusCode::OK, "application/json", body)
            }
            Err(trouble) => {
                request::drain(session).await;
                self.refuse(trouble, session)
            }
        }
    }

    async fn decide(&self, session: &mut ServerSession, path: &str) -> Result<Value, Trouble> {
        let head = session.req_header();
        request::authorize(&head.headers, self.token.as_ref())?;
        let segments = request::segments(path)
            .ok_or_else(|| Trouble::invalid("the path is not percent-encoded UTF-8"))?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let ["v1", "teams", team, rest @ ..] = segments.as_slice() else {
            return Err(Trouble::no_such_path());
        };
        let wanted = Wanted::of(rest).ok_or_else(Trouble::no_such_path)?;
        wanted.takes(&head.method)?;
        let team = TeamId::parse(team.as_bytes())
            .map_err(|error| Trouble::invalid(format!("the team in the path is {error}")))?;
        let query = head.uri.query().map(str::to_owned);
        let query = query.as_deref();
        // One ledger for the whole request, whatever is reloaded meanwhile.
        let live = self.live.load_full();
        match wanted {
            Wanted::Standing => {
                let [] = request::query(query, [])?;
                standing(&live, &team).await
            }
            Wanted::Holds => {
                let [limit] = request::query(query, ["limit"])?;
                let limit = limited(limit.as_deref())?;
                let holding = holding(&live)?;
                let holds = read(holding.ledger.list(&team, limit)).await?;
                Ok(facts::holds(&team, &holds))
            }
            Wanted::Statement => {
                let [after, limit] = request::query(query, ["after", "limit"])?;
                let (after, limit) = (after.unwrap_or_default(), limited(limit.as_deref())?);
                if !figure::is_place(&after) {
                    return Err(Trouble::invalid(
                        "`after` is the id of a line, such as `next` of the answer before",
                    ));
                }
                let holding = holding(&live)?;
                if holding.writer == Writer::Billing {
                    return Err(Trouble::needs_writer());
                }
                let lines = read(holding.ledger.statement(&team, &after, limit)).await?;
                Ok(facts::statement(&team, &lines))
            }
            Wanted::Grant => {
                let [] = request::query(query, [])?;
                let grant = request::json(session).await?;
                self::grant(&live, &team, grant).await
            }
            Wanted::Change(act, which) => {
                let [] = request::query(query, [])?;
                let order = order(session, act).await?;
                change(holding(&live)?, &team, &which, order).await
            }
        }
    }
}

async fn change(
    holding: &Holding,
    team: &TeamId,
    which: &str,
    order: Order,
) -> Result<Value, Trouble> {
    // Every id of a hold is one that a run could have too.
    RunId::parse(which.as_bytes())
        .map_err(|error| Trouble::invalid(format!("the hold or run in the path is {error}")))?;
    let either = Which::Either(which.into());
    let ledger = &holding.ledger;
    let (act, change) = match order {
        Order::Settle(credits) => {
            let change = bounded(ledger.settle(team, &either, credits)).await;
            (Act::Settle, told(holding, team, Act::Settle, change)?)
        }
        Order::Charge(credits, ref id) => {
            let change = bounded(ledger.charge(team, &either, credits, id)).await;
            (Act::Charge, told(holding, team, Act::Charge, change)?)
        }
        Order::Release => (Act::Release, release(holding, team, &either).await?),
    };
    match change {
        Change::Done(entry) => Ok(Value::Object(facts::changed(team, act, &entry, When::Now))),
        Change::Again(entry) => Ok(Value::Object(facts::changed(
            team,
            act,
            &entry,
            When::Before,
        ))),
        Change::Conflict(entry) => Err(Trouble::conflict(
            "The hold is not changed.",
            facts::why_not(act, &entry),
            facts::conflicting(team, &entry),
        )),
        Change::Unknown => Err(Trouble::unknown_hold(which)),
    }
}

/// Releases a hold, or all of a run's. What is answered is of the newest.
async fn release(holding: &Holding, team: &TeamId, which: &Which) -> Result<Change, Trouble> {
    let mut newest = None;
    let note = |change: &Change| {
        tell(holding, team, Act::Release, change);
        newest.get_or_insert_with(|| change.clone());
    };
    let released = bounded(release_all(&*holding.ledger, team, which, note)).await;
    let last = released.map_err(|error| Trouble::ledger(&error, Again::Safe))?;
    Ok(newest.unwrap_or(last))
}

fn told(
    holding: &Holding,
    team: &TeamId,
    act: Act,
    change: Result<Change, LedgerError>,
) -> Result<Change, Trouble> {
    let change = change.map_err(|error| Trouble::ledger(&error, Again::Safe))?;
    tell(holding, team, act, &change);
    Ok(change)
}

/// Tells of a change that was asked for here: metrics, events and the log.
fn tell(holding: &Holding, team: &TeamId, act: Act, change: &Change) {
    holding.keeper.changed(team, change, act.told());
    if let Change::Done(entry) = change {
        tracing::info!(
            team = team.as_str(),
            hold = entry.hold.as_str(),
            credits = %entry.figure,
            end = entry.end.map(|end| end.name()),
            change = act.done(),
            "a hold was changed through the admin listener"
        );
    }
}

/// The ledger where it sets credits aside.
fn holding(live: &Live) -> Result<&Holding, Trouble> {
    live.holding.as_ref().ok_or_else(Trouble::needs_hold_mode)
}

async fn standing(live: &Arc<Live>, team: &TeamId) -> Result<Value, Trouble> {
    match &live.holding {
        Some(holding) => {
            let standing = read(holding.ledger.standing(team)).await?;
            Ok(facts::standing(team, &standing))
        }
        None => {
            let balance = read(live.ledger.balance(team)).await?;
            Ok(facts::balance(team, balance))
        }
    }
}

async fn grant(live: &Arc<Live>, team: &TeamId, grant: Grant) -> Result<Value, Trouble> {
    let rule = match grant.id {
        None => figure::amount,
        Some(_) => figure::correction,
    };
    let credits = rule(&grant.credits.0).map_err(|why| match (why, &grant.id) {
        (NotFigure::Negative, None) => Trouble::invalid(
            "`credits` is below zero: what corrects a balance downwards needs an `id`, so that it is done once",
        ),
        (why, _) => not_figure(why),
    })?;
    let (balance, when) = match (&grant.id, &live.holding) {
        (None, _) => {
            let granted = bounded(live.ledger.grant(team, credits)).await;
            let balance = granted.map_err(|error| Trouble::ledger(&error, Again::Unsafe))?;
            (balance, When::Now)
        }
        (Some(_), None) => {
            return Err(Trouble::conflict(
                "In lookup mode no ids of grants are kept.",
                "granting once per id needs admission.mode: hold; without `id` it is granted each time that it is sent",
                Map::new(),
            ));
        }
        (Some(id), Some(holding)) => {
            let id = change_id(id)?;
            let granted = bounded(holding.ledger.grant_once(team, credits, id)).await;
            let granted = granted.map_err(|error| Trouble::ledger(&error, Again::Safe))?;
            facts::grant_outcome(granted).map_err(|earlier| {
                let mut facts = Map::new();
                facts.insert("team".to_owned(), team.as_str().into());
                facts.insert("earlier".to_owned(), earlier.to_string().into());
                let detail = format!(
                    "{earlier} credits were granted under this id before, and nothing was granted now: give each grant an id of its own"
                );
                Trouble::conflict("Another figure was granted under this id.", detail, facts)
            })?
        }
    };
    tracing::info!(
        team = team.as_str(),
        %credits,
        id = grant.id,
        replayed = when == When::Before,
        "credits were granted through the admin listener"
    );
    Ok(facts::granted(team, credits, balance, when))
}

async fn order(session: &mut ServerSession, act: Act) -> Result<Order, Trouble> {
    match act {
        Act::Settle => {
            let body: Settle = request::json(session).await?;
            let credits = figure::cost(&body.credits.0).map_err(not_figure)?;
            Ok(Order::Settle(credits))
        }
        Act::Charge => {
            let body: Charge = request::json(session).await?;
            let credits = figure::amount(&body.credits.0).map_err(not_figure)?;
            change_id(&body.id)?;
            Ok(Order::Charge(credits, body.id))
        }
        Act::Release => {
            let Nothing {} = request::json(session).await?;
            Ok(Order::Release)
        }
    }
}

fn not_figure(why: NotFigure) -> Trouble {
    Trouble::invalid(format!("`credits` is {why}"))
}

fn change_id(id: &str) -> Result<&str, Trouble> {
    figure::change_id(id).map_err(|error| Trouble::invalid(format!("`id` is {error}")))
}

fn limited(text: Option<&str>) -> Result<usize, Trouble> {
    let Some(text) = text else {
        return Ok(LIMIT_DEFAULT);
    };
    let limit = text.parse().ok();
    let limit = limit.filter(|limit| (1..=LIMIT_MAX).contains(limit));
    limit
        .ok_or_else(|| Trouble::invalid(format!("`limit` is a whole number from 1 to {LIMIT_MAX}")))
}

/// Waits for the ledger, for a bounded time.
async fn bounded<T>(work: impl Future<Output = Result<T, LedgerError>>) -> Result<T, LedgerError> {
    timeout(LEDGER_MAX, work).await.unwrap_or_else(|_| {
        let seconds = LEDGER_MAX.as_secs();
        Err(LedgerError::OutcomeUnknown(format!(
            "no reply within {seconds} s"
        )))
    })
}

async fn read<T>(work: impl Future<Output = Result<T, LedgerError>>) -> Result<T, Trouble> {
    let done = bounded(work).await;
    done.map_err(|error| match error {
        LedgerError::OutcomeUnknown(why) => LedgerError::Outage(why),
        error => error,
    })
    .map_err(|error| Trouble::ledger(&error, Again::Safe))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::billing::admission::{Missing, OnOutage, Rule};
    use crate::billing::hold::HoldId;
    use crate::keeper::Keeper;
    use crate::ledger::Ledger as _;
    use crate::ledger::holds::{Ask, Holds, Terms};
    use crate::ledger::memory::MemoryLedger;

    fn first_ask(team: &TeamId) -> Ask {
        Ask {
            team: team.clone(),
            id: HoldId::parse(b"h1").unwrap(),
            credits: "20".parse().unwrap(),
            hold_for: Duration::from_secs(1800),
            rule: Rule {
                refuse_at_or_below: Credits::ZERO,
                missing: Missing::Refuse,
                on_outage: OnOutage::Refuse,
            },
            replay: None,
        }
    }

    /// A team with 100 credits, of which 20 are set aside for run `r/1`.
    async fn held() -> (Holding, TeamId) {
        let team = TeamId::parse(b"acme").unwrap();
        let balances = BTreeMap::from([(team.clone(), "100".parse().unwrap())]);
        let ledger = MemoryLedger::new(balances).with_terms(Terms {
            writer: Writer::Tollgate,
            ..Terms::default()
        });
        let ask = first_ask(&team);
        ledger.hold_by(&ask, ledger.until()).await.unwrap();
        let run = RunId::parse(b"r/1").unwrap();
        ledger.bind(&team, &ask.id, &run).await.unwrap();
        let holding = Holding {
            ledger: Arc::new(ledger),
            keeper: Keeper::default(),
            writer: Writer::Tollgate,
        };
        (holding, team)
    }

    async fn changed(holding: &Holding, team: &TeamId, which: &str, order: Order) -> (u16, Value) {
        match change(holding, team, which, order).await {
            Ok(value) => (200, value),
            Err(trouble) => {
                let response = trouble.response("/errors/", "/v1/teams/acme");
                let body = serde_json::from_slice(response.body()).unwrap();
                (response.status().as_u16(), body)
            }
        }
    }

    fn settle(credits: &str) -> Order {
        Order::Settle(credits.parse().unwrap())
    }

    #[tokio::test]
    async fn a_settlement_is_made_once_and_another_figure_conflicts() {
        let (holding, team) = held().await;
        let (status, first) = changed(&holding, &team, "r/1", settle("12.5")).await;
        assert_eq!(status, 200, "{first}");
        assert_eq!(
            first,
            serde_json::json!({
                "team": "acme", "hold": "h1", "run": "r/1", "end": "settled", "credits": "0",
                "settled": "12.5", "balance": "87.5", "replayed": false,
            })
        );
        let (status, again) = changed(&holding, &team, "h1", settle("12.5")).await;
        assert_eq!(
            (status, &again["replayed"]),
            (200, &Value::Bool(true)),
            "{again}"
        );
        let (status, other) = changed(&holding, &team, "h1", settle("13")).await;
        assert_eq!(status, 409, "{other}");
        assert_eq!(
            (&other["earlier"], &other["end"]),
            (&"12.5".into(), &"settled".into())
        );
        assert_eq!(
            holding
                .ledger
                .balance(&team)
                .await
                .unwrap()
                .unwrap()
                .to_string(),
            "87.5"
        );
    }

    #[tokio::test]
    async fn a_charge_shrinks_the_hold_once_per_id() {
        let (holding, team) = held().await;
        let charge =
            |id: &str, credits: &str| Order::Charge(credits.parse().unwrap(), id.to_owned());
        let (_, first) = changed(&holding, &team, "h1", charge("c1", "1.5")).await;
        assert_eq!(
            (&first["charged"], &first["credits"]),
            (&"1.5".into(), &"18.5".into())
        );
        assert_eq!(
            (&first["end"], &first["balance"]),
            (&Value::Null, &"98.5".into())
        );
        let (_, again) = changed(&holding, &team, "r/1", charge("c1", "1.5")).await;
        assert_eq!(again["replayed"], true, "{again}");
        let (status, other) = changed(&holding, &team, "h1", charge("c1", "2")).await;
        assert_eq!((status, &other["earlier"]), (409, &"1.5".into()), "{other}");
        assert!(
            other["detail"]
                .as_str()
                .unwrap()
                .contains("an id of its own"),
            "{other}"
        );
    }

    #[tokio::test]
    async fn what_is_released_can_still_be_settled_and_what_is_settled_not_released() {
        let (holding, team) = held().await;
        let (_, released) = changed(&holding, &team, "h1", Order::Release).await;
        assert_eq!(
            (&released["end"], &released["credits"]),
            (&"released".into(), &"0".into())
        );
        let (_, again) = changed(&holding, &team, "h1", Order::Release).await;
        assert_eq!(again["replayed"], true);
        let (status, late) = changed(&holding, &team, "h1", settle("3")).await;
        assert_eq!(
            (status, &late["end"], &late["balance"]),
            (200, &"released".into(), &"97".into())
        );
        let (holding, team) = held().await;
        changed(&holding, &team, "h1", settle("3")).await;
        let (status, refused) = changed(&holding, &team, "h1", Order::Release).await;
        assert_eq!(status, 409, "{refused}");
    }

    #[tokio::test]
    async fn a_run_is_released_with_its_follow_ups() {
        let (holding, team) = held().await;
        let mut ask = first_ask(&team);
        ask.id = HoldId::parse(b"h2").unwrap();
        holding
            .ledger
            .hold_by(&ask, holding.ledger.until())
            .await
            .unwrap();
        let run = RunId::parse(b"r/1").unwrap();
        holding.ledger.bind(&team, &ask.id, &run).await.unwrap();
        let (_, released) = changed(&holding, &team, "r/1", Order::Release).await;
        assert_eq!(
            (&released["hold"], &released["end"], &released["replayed"]),
            (&"h2".into(), &"released".into(), &Value::Bool(false)),
            "the newest"
        );
        let standing = holding.ledger.standing(&team).await.unwrap();
        assert_eq!(standing.held.live, 0);
        let (status, again) = changed(&holding, &team, "r/1", Order::Release).await;
        assert_eq!((status, &again["replayed"]), (200, &Value::Bool(true)));
    }

    #[tokio::test]
    async fn a_hold_that_is_not_there_is_not_found() {
        let (holding, team) = held().await;
        let (status, body) = changed(&holding, &team, "h2", settle("3")).await;
        assert_eq!(status, 404);
        assert!(
            body["type"]
                .as_str()
                .unwrap()
                .ends_with("/resource-not-found/"),
            "{body}"
        );
        let (status, _) = changed(&holding, &team, "not an id", settle("3")).await;
        assert_eq!(status, 400);
    }
}
