//! A gateway in hold mode, in front of an upstream that tells which hold each
//! start was given.

use serde_json::{Value, json};

use super::client::Response;
use super::config::Config;
use super::operator::{self, TOKEN};
use super::redis::fresh;
use super::request::Req;
use super::{Gateway, Redis, Upstream};

/// Where balances and holds are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// In the gateway's process.
    Embedded,
    /// In the shared Redis.
    Redis,
}

/// Every place that balances and holds are kept.
pub const STORES: [Store; 2] = [Store::Embedded, Store::Redis];

/// What hold mode is configured by: each start holds 20 credits, and tollgate
/// writes balances.
pub fn settings() -> [(&'static str, Value); 3] {
    [
        ("server.admin.token", json!(TOKEN)),
        (
            "admission",
            json!({"mode": "hold", "hold": 20, "hold_for": "30m"}),
        ),
        ("balances.writer", json!("tollgate")),
    ]
}

/// What it takes besides to keep balances in the gateway's process.
pub fn embedded(team: &str, balance: &str) -> [(&'static str, Value); 3] {
    [
        ("balances.redis", Value::Null),
        ("balances.memory", json!({team: balance})),
        (
            "identity",
            json!([{"header": {"name": "x-team-id", "from": ["127.0.0.0/8"]}}]),
        ),
    ]
}

/// A configuration in hold mode for commands; nothing listens at its upstream.
pub fn config() -> Config {
    let mut config = Config::new(([127, 0, 0, 1], 9).into());
    for (path, value) in settings() {
        config.set(path, value);
    }
    config
}

/// A gateway in hold mode and one team.
pub struct Holding {
    /// The gateway.
    pub gateway: Gateway,
    /// What is behind it.
    pub upstream: Upstream,
    /// The team.
    pub team: String,
}

impl Holding {
    /// Starts it for a new team with this balance.
    #[track_caller]
    pub fn start(store: Store, balance: &str) -> Self {
        Holding::start_with(store, balance, &[])
    }

    /// The same, with more settings.
    #[track_caller]
    pub fn start_with(store: Store, balance: &str, more: &[(&str, Value)]) -> Self {
        let team = fresh("held");
        match store {
            Store::Embedded => {
                let settings = [&embedded(&team, balance), more].concat();
                Holding::with(&team, &settings)
            }
            Store::Redis => {
                Redis::shared().set_balance(&team, balance);
                Holding::with(&team, more)
            }
        }
    }

    /// Starts it with more settings than hold mode's.
    #[track_caller]
    pub fn with(team: &str, more: &[(&str, Value)]) -> Self {
        // Each run has the id of its hold, behind a slash.
        let upstream = Upstream::answering(|exchange| {
            let hold = exchange
                .request
                .header("x-tollgate-hold")
                .unwrap_or_default();
            exchange.json(200, &json!({"run_id": format!("run/{hold}")}).to_string())
        });
        let mut builder = Gateway::before(&upstream);
        for (path, value) in settings() {
            builder = builder.set(path, value);
        }
        for (path, value) in more {
            builder = builder.set(path, value.clone());
        }
        Holding {
            gateway: builder.start(),
            upstream,
            team: team.to_owned(),
        }
    }

    /// Starts a run and returns its hold.
    #[track_caller]
    pub fn hold(&self) -> String {
        self.upstream.forget();
        let response = self.gateway.ask(&Req::start(&self.team));
        assert_eq!(response.status, 200, "{}", response.text());
        let request = self.upstream.only_request();
        request.header("x-tollgate-hold").expect("the hold's id")
    }

    /// The team's path on the admin listener, and what follows.
    pub fn path(&self, rest: &str) -> String {
        format!("/v1/teams/{}{rest}", self.team)
    }

    /// What the admin listener shows of the team.
    #[track_caller]
    pub fn get(&self, rest: &str) -> Value {
        let response = operator::get(&self.gateway, &self.path(rest));
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()
    }

    /// A change through the admin listener.
    #[track_caller]
    pub fn post(&self, rest: &str, body: &Value) -> Response {
        operator::post(&self.gateway, &self.path(rest), body)
    }
}
