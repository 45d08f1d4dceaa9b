//! The workspace that the gateway bills is the one that Bolt itself picks.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{SECRET, Slack, belongs, workspace};
use crate::support::Redis;
use crate::support::deliveries::Delivery;

/// Bolt's word on a delivery: the workspace or, where there is none, the
/// enterprise.
fn picked_by_bolt(slack: &Slack, delivery: &Delivery) -> Option<String> {
    let picked = slack.bolt.ask(json!({
        "do": "workspace", "body": delivery.body, "content_type": delivery.content_type,
    }));
    let said = |name: &str| picked[name].as_str().filter(|id| !id.is_empty());
    said("team")
        .or_else(|| said("enterprise"))
        .map(str::to_owned)
}

/// Ids of a test's own, by the place where they stand. Each has a team with
/// credits, so that the wrong one would pay, too.
struct Ids {
    teams: BTreeMap<String, String>,
    next: usize,
}

impl Ids {
    fn new() -> Self {
        Ids {
            teams: BTreeMap::new(),
            next: 0,
        }
    }

    /// One more.
    fn id(&mut self, first: char) -> Value {
        let redis = Redis::shared();
        let id = format!("{first}{}", &workspace(redis)[1..]);
        let team = redis.team("5");
        belongs(redis, &id, &team);
        self.teams.insert(id.clone(), team);
        self.next += 1;
        json!(id)
    }
}

/// Sends it and compares whom the gateway bills with whom Bolt picks.
#[track_caller]
fn assert_bills_whom_bolt_picks(slack: &Slack, ids: &Ids, delivery: &Delivery) {
    let wanted = picked_by_bolt(slack, delivery);
    slack.bolt.catch_up();
    let before = slack.bolt.told("arrived").len();
    let response = slack.gateway.ask(&delivery.by_slack(SECRET));
    slack.bolt.catch_up();
    let arrived = slack.bolt.told("arrived");
    match wanted {
        None => assert_eq!(response.status, 400, "Bolt picks none: {delivery:?}"),
        Some(id) => {
            assert_eq!(
                arrived.len(),
                before + 1,
                "Bolt picks {id} and got nothing: {delivery:?} {}",
                response.text()
            );
            let headers = arrived[before]["headers"].to_string().to_lowercase();
            let team = &ids.teams[&id];
            let billed = format!("[\"x-tollgate-team\",\"{team}\"]");
            assert!(
                headers.contains(&billed),
                "Bolt picks {id} ({team}): {delivery:?} {headers}"
            );
        }
    }
}

/// Puts a value at a dotted path; objects on the way are made.
fn put(body: &mut Value, path: &str, value: Value) {
    let mut place = body;
    for step in path.split('.') {
        if let Ok(index) = step.parse::<usize>() {
            if !place.is_array() {
                *place = json!([{}]);
            }
            place = &mut place[index];
        } else {
            if !place.is_object() {
                *place = json!({});
            }
            place = &mut place[step];
        }
    }
    *place = value;
}

/// Tries every subset of these places, each of them filled, empty or null.
#[track_caller]
fn try_all(places: &[&str], make: impl Fn(&Value) -> Delivery, base: &Value) {
    let slack = Slack::start("5");
    let mut ids = Ids::new();
    let filled: Vec<Value> = places
        .iter()
        .map(|path| {
            ids.id(if path.contains("enterprise") {
                'E'
            } else {
                'T'
            })
        })
        .collect();
    for chosen in 0..(1_usize << places.len()) {
        let mut body = base.clone();
        for (at, path) in places.iter().enumerate() {
            if chosen & (1 << at) != 0 {
                put(&mut body, path, filled[at].clone());
            }
        }
        assert_bills_whom_bolt_picks(&slack, &ids, &make(&body));
    }
    // Each of them once more, alone and as null.
    for (at, path) in places.iter().enumerate() {
        let mut body = base.clone();
        for (other, place) in places.iter().enumerate().filter(|(other, _)| *other > at) {
            put(&mut body, place, filled[other].clone());
        }
        put(&mut body, path, Value::Null);
        assert_bills_whom_bolt_picks(&slack, &ids, &make(&body));
    }
}

fn base_event() -> Value {
    json!({"type": "event_callback", "event": {"type": "app_mention", "user": "U0ASKS", "text": "x", "ts": "1.2", "channel": "C0ROOM"}})
}

#[test]
fn of_an_event() {
    try_all(
        &[
            "authorizations.0.team_id",
            "authorizations.0.enterprise_id",
            "team_id",
            "enterprise_id",
            "event.team",
            "event.team_id",
        ],
        Delivery::json,
        &base_event(),
    );
}

#[test]
fn of_an_event_whose_event_says() {
    try_all(
        &[
            "event.view.app_installed_team_id",
            "event.user.team_id",
            "event.enterprise_id",
            "event.view.team_id",
            "team.id",
            "team.enterprise_id",
        ],
        Delivery::json,
        &base_event(),
    );
}

#[test]
fn of_an_interaction() {
    try_all(
        &[
            "view.app_installed_team_id",
            "team.id",
            "user.team_id",
            "view.team_id",
            "enterprise.id",
            "team.enterprise_id",
        ],
        Delivery::payload,
        &json!({"type": "block_actions", "user": {"id": "U0ASKS"}, "view": {"id": "V0"}, "actions": [{"type": "button", "action_id": "go", "block_id": "b"}]}),
    );
}

#[test]
fn of_a_team_or_an_enterprise_that_is_a_text() {
    try_all(
        &["team", "enterprise", "team_id", "enterprise_id"],
        Delivery::payload,
        &json!({"type": "shortcut", "callback_id": "run", "user": {"id": "U0ASKS"}}),
    );
}

#[test]
fn of_a_command() {
    let slack = Slack::start("5");
    let mut ids = Ids::new();
    let (team, enterprise) = (ids.id('T'), ids.id('E'));
    let (team, enterprise) = (team.as_str().unwrap(), enterprise.as_str().unwrap());
    for fields in [
        vec![("team_id", team)],
        vec![("team_id", team), ("enterprise_id", enterprise)],
        vec![("enterprise_id", enterprise)],
        vec![("team_id", ""), ("enterprise_id", enterprise)],
        vec![],
    ] {
        let all = [
            &[
                ("command", "/agent"),
                ("user_id", "U0ASKS"),
                ("channel_id", "C0ROOM"),
            ][..],
            &fields,
        ]
        .concat();
        assert_bills_whom_bolt_picks(&slack, &ids, &Delivery::form(&all));
    }
}

/// What the unit tests read, and the workspace that they expect: the body, how
/// it is sent, and whether it starts a run.
fn corpus() -> Vec<(String, Delivery, Option<String>, bool)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/deliveries/slack");
    let mut found = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let sample: Value = serde_json::from_str(&text).unwrap();
        let delivery = if let Some(body) = sample.get("json") {
            Delivery::json(body)
        } else if let Some(body) = sample["body"].as_str() {
            Delivery {
                body: body.to_owned(),
                ..Delivery::form(&[])
            }
        } else {
            let fields = sample["form"].as_array().unwrap().iter();
            let fields = fields.map(|field| match &field[1] {
                Value::String(text) => (field[0].as_str().unwrap(), text.clone()),
                value => (field[0].as_str().unwrap(), value.to_string()),
            });
            let fields: Vec<(&str, String)> = fields.collect();
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            Delivery::form(&fields)
        };
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let workspace = sample["expect"]["workspace"].as_str().map(str::to_owned);
        found.push((
            name,
            delivery,
            workspace,
            sample["expect"]["meaning"] == "start",
        ));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Words that could be the id of a workspace or an enterprise.
fn ids_in(body: &str) -> Vec<String> {
    let words = body.split(|c: char| !c.is_ascii_alphanumeric());
    let could = |word: &&str| {
        word.len() > 3
            && word.starts_with(['T', 'E'])
            && word
                .chars()
                .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
    };
    words.filter(could).map(str::to_owned).collect()
}

#[test]
fn of_every_delivery_that_we_know() {
    let redis = Redis::private(&[]);
    let slack = Slack::start_with(&redis, "5", |builder| builder);
    let mut ids = Ids::new();
    let corpus = corpus();
    assert!(corpus.len() > 50, "{}", corpus.len());
    for (_, delivery, _, _) in &corpus {
        let decoded: String = form_urlencoded::parse(delivery.body.as_bytes())
            .flat_map(|(name, value)| [name, " ".into(), value, " ".into()])
            .collect();
        for id in ids_in(&delivery.body).into_iter().chain(ids_in(&decoded)) {
            let team = ids.teams.entry(id.clone());
            let team = team.or_insert_with(|| redis.team("5"));
            belongs(&redis, &id, team);
        }
    }
    let mut differ = Vec::new();
    for (name, delivery, expected, starts) in &corpus {
        let picked = picked_by_bolt(&slack, delivery);
        if picked != *expected {
            differ.push(format!("{name}: Bolt picks {picked:?}, we {expected:?}"));
        }
        if *starts {
            assert_bills_whom_bolt_picks(&slack, &ids, delivery);
        }
    }
    assert!(differ.is_empty(), "{differ:#?}");
}
