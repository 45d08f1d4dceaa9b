//! Hold mode: gateways that hold, a task API whose runs follow their holds,
//! and what an operator can see of it all.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Client, Response};
use super::gateway::{Builder, Gateway, tollgate};
use super::request::Req;
use super::upstream::Upstream;
use super::wait::{SOON, eventually, throughout};

/// What the admin listener wants to see before it changes anything.
pub const TOKEN: &str = "sesame-open-0123456789abcdef-0123456789abcdef";

/// The sentence for a team whose credits are all held.
pub const SET_ASIDE: &str = "Your team's remaining add-on credits are set aside for runs in progress. Wait for them to finish, or purchase more credits in your team's billing settings.";

/// A run's own address.
pub fn run_path(run: &str) -> String {
    format!("/api/v1/agent/runs/{run}")
}

/// The cancel of a run.
pub fn cancel(run: &str) -> Req {
    Req::post(&format!("{}/cancel", run_path(run)))
}

/// A gateway in hold mode: 20 credits for half an hour, runs that can be
/// watched and cancelled, an admin listener that changes things.
pub fn holding(upstream: &Upstream) -> Builder {
    holding_before(upstream.address)
}

/// As [`holding`], in front of this address.
pub fn holding_before(upstream: SocketAddr) -> Builder {
    Gateway::before_address(upstream)
        .set("server.admin.token", TOKEN)
        .set(
            "identity",
            json!([{"header": {"name": "x-team-id", "from": ["127.0.0.0/8"]}}]),
        )
        .set(
            "admission",
            json!({"mode": "hold", "hold": 20, "hold_for": "30m", "run_id": "/run_id"}),
        )
        .set(
            "routes",
            json!([
                {"start": "POST /api/v1/agent/tasks"},
                {"start": "POST /api/v1/agent/runs"},
                {"ends": "POST /api/v1/agent/runs/{run}/cancel"},
                {"watch": "GET /api/v1/agent/runs/{run}"},
            ]),
        )
}

/// A task API: the run of a start is called after its hold.
pub fn task_api() -> Upstream {
    Upstream::answering(|exchange| {
        let body = started(&exchange.request.all("x-tollgate-hold").concat());
        exchange.json(200, &body)
    })
}

/// The run of this hold, in [`task_api`].
pub fn run_of(hold: &str) -> String {
    format!("run-{hold}")
}

/// The answer to the start of this hold.
pub fn started(hold: &str) -> String {
    json!({"run_id": run_of(hold), "state": "QUEUED"}).to_string()
}

/// Starts a run, which must be admitted, and says which hold it got.
#[track_caller]
pub fn start(gateway: &Gateway, upstream: &Upstream, team: &str) -> String {
    let answer = gateway.ask(&Req::start(team));
    assert_eq!(answer.status, 200, "{}{}", answer.head, answer.text());
    last_hold(upstream, team)
}

/// The hold of the last start of this team that reached the upstream.
#[track_caller]
pub fn last_hold(upstream: &Upstream, team: &str) -> String {
    let requests = upstream.requests();
    let of_team = |request: &&super::upstream::Recorded| {
        request.header("x-tollgate-team").as_deref() == Some(team)
    };
    let last = requests.iter().rev().find(of_team).expect("a start came");
    let hold = last.header("x-tollgate-hold").expect("it has a hold");
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    assert!(
        (1..=64).contains(&hold.len()) && hold.bytes().all(fits),
        "the id of a hold: {hold:?}"
    );
    hold
}

/// The answer says that the credits are held.
#[track_caller]
pub fn assert_credits_held(answer: &Response) {
    assert_eq!(answer.status, 403, "{}{}", answer.head, answer.text());
    assert_eq!(
        answer.json()["title"],
        SET_ASIDE,
        "not the sentence of held credits: {}",
        answer.text()
    );
}

/// A team's credits, as operators are told.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The balance.
    pub balance: String,
    /// What is set aside.
    pub held: String,
    /// What can be spent.
    pub spendable: String,
    /// How many holds are live.
    pub live: u64,
}

impl Standing {
    /// Out of the JSON of `tollgate balance get` or the admin listener.
    #[track_caller]
    pub fn of(found: &Value) -> Self {
        let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
        Standing {
            balance: text("balance"),
            held: text("held"),
            spendable: text("spendable"),
            live: found["live_holds"]
                .as_u64()
                .unwrap_or_else(|| panic!("no `live_holds` in {found}")),
        }
    }
}

/// Runs a command with this gateway's configuration; its JSON.
#[track_caller]
pub fn command(gateway: &Gateway, words: &[&str]) -> Value {
    let file = gateway.config_file();
    let output = tollgate(&[words, &["--json", "--config", &file]].concat());
    assert!(
        output.status.success(),
        "{words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "{words:?}: {error}: {}",
            String::from_utf8_lossy(&output.stdout)
        )
    })
}

/// What the team has now, as the admin listener tells it.
#[track_caller]
pub fn standing(gateway: &Gateway, team: &str) -> Standing {
    let answer = read(gateway, &format!("/v1/teams/{team}"));
    assert_eq!(answer.status, 200, "{}{}", answer.head, answer.text());
    Standing::of(&answer.json())
}

/// Reads what only the token may see.
#[track_caller]
pub fn read(gateway: &Gateway, path: &str) -> Response {
    let request = Req::get(path).bearer(TOKEN);
    Client::connect(gateway.admin).ask(&request.header("Connection", "close"))
}

/// Waits until so many of the team's holds are live.
#[track_caller]
pub fn until_live(gateway: &Gateway, team: &str, live: u64) {
    let claim = format!("{live} live holds of {team}");
    let path = format!("/v1/teams/{team}");
    // The ledger may just come back from an outage.
    eventually(SOON, &claim, || {
        let answer = read(gateway, &path);
        (answer.status == 200 && Standing::of(&answer.json()).live == live).then_some(())
    });
}

/// So many holds stay live, for a while in which they would have ended.
#[track_caller]
pub fn stays_live(gateway: &Gateway, team: &str, live: u64) {
    let claim = format!("{live} live holds of {team}");
    throughout(Duration::from_millis(400), &claim, || {
        standing(gateway, team).live == live
    });
}

/// Changes something through the admin listener.
#[track_caller]
pub fn change(gateway: &Gateway, path: &str, body: &Value) -> Response {
    let request = Req::new("POST", path)
        .bearer(TOKEN)
        .header("Content-Type", "application/json")
        .header("Connection", "close")
        .body(body.to_string());
    Client::connect(gateway.admin).ask(&request)
}

/// Settles a hold, by its id or its run's.
#[track_caller]
pub fn settle(gateway: &Gateway, team: &str, hold: &str, credits: &str) -> Response {
    let path = format!("/v1/teams/{team}/holds/{hold}/settle");
    change(gateway, &path, &json!({"credits": credits}))
}

/// Charges a part, under this id.
#[track_caller]
pub fn charge(gateway: &Gateway, team: &str, hold: &str, credits: &str, id: &str) -> Response {
    let path = format!("/v1/teams/{team}/holds/{hold}/charge");
    change(gateway, &path, &json!({"credits": credits, "id": id}))
}

/// What `tollgate audit` finds: nothing amiss.
#[track_caller]
pub fn assert_sound(gateway: &Gateway, team: &str) {
    let found = command(gateway, &["audit", team]);
    assert_eq!(found[0]["sound"], true, "{found}");
    assert_eq!(found[0]["drift"], "0", "{found}");
    assert_eq!(found[0]["strays"], 0, "{found}");
}
