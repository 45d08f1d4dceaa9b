//! The configuration that a test starts from, and its own words on top.
//!
//! It is written as JSON, which is YAML too: a test can set any key by its
//! path without knowing the rest.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::redis::Redis;

/// A configuration under construction.
#[derive(Clone, Debug)]
pub struct Config(Value);

impl Config {
    /// Everything on free ports, the shared Redis, patient deadlines, both
    /// identities, one route of each form.
    pub fn new(upstream: SocketAddr) -> Self {
        Config(json!({
            "server": {
                "listen": ["127.0.0.1:0"],
                "admin": {"listen": "127.0.0.1:0"},
                "threads": 2,
                "shutdown": {"lame_duck": "0s", "drain": "5s"},
            },
            "upstream": {
                "addresses": [upstream.to_string()],
                "read_timeout": "10s",
                "health": {"interval": "0s"},
            },
            "balances": {"redis": {"url": Redis::shared().url(), "deadline": "1s"}},
            "identity": [
                {"api_key": {"team_header": "x-warp-team-uid"}},
                {"header": {"name": "x-team-id", "from": ["127.0.0.0/8"]}},
            ],
            "routes": [
                {"start": "POST /api/v1/agent/tasks"},
                {"start": "POST /api/v1/agent/runs"},
                {"start": "POST /api/v1/agent/runs/{id}/followups"},
                {"start": "POST /files/{*rest}", "trigger": "webhook"},
            ],
            "log": {"format": "json"},
        }))
    }

    /// Sets the key at a dotted path (`routes.0.on_outage`); null removes it.
    pub fn set(&mut self, path: &str, value: Value) {
        let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
        let mut place = &mut self.0;
        for step in parents.split('.').filter(|step| !step.is_empty()) {
            place = match step.parse::<usize>() {
                Ok(index) => &mut place[index],
                Err(_) => &mut place[step],
            };
        }
        match (last.parse::<usize>(), value) {
            (Ok(index), value) => place[index] = value,
            (Err(_), Value::Null) => drop(place.as_object_mut().map(|object| object.remove(last))),
            (Err(_), value) => place[last] = value,
        }
    }

    /// What goes into the file.
    pub fn text(&self) -> String {
        serde_json::to_string_pretty(&self.0).unwrap()
    }
}
