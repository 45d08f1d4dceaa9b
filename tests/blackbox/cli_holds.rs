//! The commands that see and change what is set aside.

use std::process::Output;

use serde_json::{Value, json};

use crate::support::config::Config;
use crate::support::gateway::tollgate;
use crate::support::holding::{self, Holding, Store};
use crate::support::process::Folder;
use crate::support::redis::fresh;
use crate::support::{Redis, Req, eventually, secs};

/// A configuration file and the commands that read it.
struct Desk {
    _folder: Folder,
    file: String,
}

impl Desk {
    fn new(config: &Config) -> Self {
        let folder = Folder::new("desk");
        let file = folder.write("tollgate.yaml", config.text());
        Desk {
            file: file.to_str().unwrap().to_owned(),
            _folder: folder,
        }
    }

    /// In hold mode, on the shared Redis.
    fn holding() -> Self {
        Desk::new(&holding::config())
    }

    fn run(&self, words: &[&str]) -> Output {
        tollgate(&[words, &["--config", &self.file]].concat())
    }

    /// What it prints if it succeeds.
    #[track_caller]
    fn text(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {output:?}");
        String::from_utf8(output.stdout)
            .unwrap()
            .trim_end()
            .to_owned()
    }

    /// The same for programs.
    #[track_caller]
    fn json(&self, words: &[&str]) -> Value {
        let text = self.text(&[words, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// What it complains of if it ends with this code.
    #[track_caller]
    fn complaint(&self, code: i32, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
        String::from_utf8(output.stderr)
            .unwrap()
            .trim_end()
            .to_owned()
    }
}

#[test]
fn a_balance_shows_what_is_held_and_what_is_left() {
    let (held, desk) = (Holding::start(Store::Redis, "100"), Desk::holding());
    let team = held.team.as_str();
    held.hold();
    held.hold();
    assert_eq!(
        desk.text(&["balance", "get", team]),
        format!("{team}: 100 credits, 40 credits held by 2 live holds, 60 spendable")
    );
    assert_eq!(
        desk.json(&["balance", "get", team]),
        json!({"team": team, "balance": "100", "held": "40", "spendable": "60", "live_holds": 2})
    );
    let nobody = desk.text(&["balance", "get", "nobody-has-this-one"]);
    assert!(nobody.contains("no balance"), "{nobody}");
}

#[test]
fn holds_are_listed_in_columns() {
    let (held, desk) = (Holding::start(Store::Redis, "100"), Desk::holding());
    let team = held.team.as_str();
    assert_eq!(
        desk.text(&["holds", "list", team]),
        format!("{team}: no live holds")
    );
    let holds = [held.hold(), held.hold()];
    let text = desk.text(&["holds", "list", team]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    let heading = lines[0].find("CREDITS").unwrap() + "CREDITS".len();
    for (line, hold) in lines[1..].iter().zip(&holds) {
        assert!(
            line.starts_with(hold.as_str()),
            "the next to expire first: {text}"
        );
        assert!(
            line[..heading].ends_with(" 20"),
            "figures stand under their heading: {text}"
        );
        assert!(line.contains("m "), "{text}");
    }
    let listed = desk.json(&["holds", "list", team, "--limit", "1"]);
    assert_eq!(
        listed["holds"].as_array().map(Vec::len),
        Some(1),
        "{listed}"
    );
    assert_eq!(listed["holds"][0]["hold"], json!(holds[0]));
    let cut = desk.text(&["holds", "list", team, "--limit", "1"]);
    assert!(cut.contains("--limit"), "{cut}");
}

#[test]
fn a_settlement_is_made_once() {
    let (held, desk) = (Holding::start(Store::Redis, "100"), Desk::holding());
    let (team, hold) = (held.team.as_str(), held.hold());
    let settle = |credits| ["holds", "settle", team, &hold, credits].map(str::to_owned);
    let words = settle("12.5");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    assert_eq!(
        desk.text(&words),
        format!("hold {hold}: settled with 12.5 credits, balance 87.5 credits")
    );
    let again = desk.text(&words);
    assert!(
        again.contains("already settled") && again.contains("nothing changed"),
        "{again}"
    );
    assert_eq!(desk.json(&words)["replayed"], true);
    let other = ["holds", "settle", team, &hold, "13"];
    let why = desk.complaint(1, &other);
    assert!(why.contains("12.5") && why.contains("grant"), "{why}");
    let output = desk.run(&[&other[..], &["--json"]].concat());
    let facts: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&facts["error"], &facts["earlier"]),
        (&json!("conflict"), &json!("12.5"))
    );
    assert_eq!(held.get("")["balance"], "87.5");
}

#[test]
fn a_part_is_charged_once_per_id_and_a_release_frees_the_rest() {
    let (held, desk) = (Holding::start(Store::Redis, "100"), Desk::holding());
    let (team, hold) = (held.team.as_str(), held.hold());
    let charge = ["holds", "charge", team, &hold, "1.5", "--id", "c1"];
    let text = desk.text(&charge);
    assert_eq!(
        text,
        format!(
            "hold {hold}: charged with 1.5 credits, 18.5 credits still held, balance 98.5 credits"
        )
    );
    assert!(desk.text(&charge).contains("already charged"));
    let why = desk.complaint(1, &["holds", "charge", team, &hold, "2", "--id", "c1"]);
    assert!(why.contains("an id of its own"), "{why}");
    let released = desk.json(&["holds", "release", team, &hold]);
    assert_eq!(
        (&released["end"], &released["replayed"]),
        (&json!("released"), &json!(false))
    );
    assert!(
        desk.text(&["holds", "release", team, &hold])
            .contains("already released")
    );
    let late = desk.text(&["holds", "settle", team, &hold, "3"]);
    assert!(
        late.contains("though it had been released before"),
        "{late}"
    );
    assert_eq!(
        held.get(""),
        json!({
            "team": team, "balance": "95.5", "held": "0", "spendable": "95.5", "live_holds": 0,
        })
    );
}

#[test]
fn a_hold_that_is_not_there_ends_with_1_and_advice() {
    let (held, desk) = (Holding::start(Store::Redis, "100"), Desk::holding());
    let team = held.team.as_str();
    for words in [
        &["holds", "settle", team, "run/1", "1"][..],
        &["holds", "charge", team, "run/1", "1", "--id", "c1"],
        &["holds", "release", team, "run/1"],
    ] {
        let why = desk.complaint(1, words);
        assert!(
            why.contains("run/1") && why.contains("tollgate holds list"),
            "{why}"
        );
    }
}

#[test]
fn a_grant_with_an_id_is_made_once_and_stands_on_the_statement() {
    let (desk, team) = (Desk::holding(), fresh("granted"));
    let team = team.as_str();
    assert!(desk.text(&["statement", team]).contains("no lines"));
    let grant = ["balance", "grant", team, "100", "--id", "inv-7"];
    assert_eq!(
        desk.text(&grant),
        format!("{team}: granted 100 credits, now 100")
    );
    assert!(desk.text(&grant).contains("already granted"));
    let why = desk.complaint(1, &["balance", "grant", team, "50", "--id", "inv-7"]);
    assert!(
        why.contains("100") && why.contains("an id of its own"),
        "{why}"
    );
    assert_eq!(
        desk.json(&["balance", "grant", team, "1", "--id", "inv-8"]),
        json!({"team": team, "granted": "1", "balance": "101", "replayed": false})
    );
    desk.text(&["balance", "set", team, "7"]);
    let text = desk.text(&["statement", team]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    for (line, words) in lines[1..].iter().zip([
        ["grant", "100", "inv-7"],
        ["grant", "101", "inv-8"],
        ["set", "7", "-"],
    ]) {
        for word in words {
            assert!(
                line.split_whitespace().any(|found| found == word),
                "{word}: {text}"
            );
        }
    }
    let page = desk.json(&["statement", team, "--limit", "2"]);
    assert_eq!(page["lines"].as_array().map(Vec::len), Some(2), "{page}");
    let next = page["next"].as_str().unwrap();
    let rest = desk.json(&["statement", team, "--after", next]);
    assert_eq!(rest["lines"][0]["kind"], "set", "{rest}");
    assert!(
        desk.text(&["statement", team, "--limit", "2"])
            .contains(next)
    );
}

#[test]
fn an_audit_of_sound_holds_ends_with_0() {
    let (held, desk) = (Holding::start(Store::Redis, "100"), Desk::holding());
    let team = held.team.as_str();
    held.hold();
    assert_eq!(
        desk.text(&["audit", team]),
        format!("{team}: sound, 20 credits held by 1 live hold")
    );
    let found = desk.json(&["audit", team]);
    assert_eq!(
        (&found[0]["sound"], &found[0]["drift"]),
        (&json!(true), &json!("0"))
    );
    let all = desk.run(&["audit"]);
    assert!(
        String::from_utf8_lossy(&all.stdout).contains(team),
        "{all:?}"
    );
}

#[test]
fn drift_ends_with_1_until_it_is_repaired() {
    let (held, desk) = (Holding::start(Store::Redis, "100"), Desk::holding());
    let team = held.team.as_str();
    held.hold();
    // As a lost write would leave it: 5 credits more than the holds add up to.
    let key = format!("tollgate:holds:{{{team}}}");
    let totals: String = Redis::shared().run(&["HGET", &key, "totals"]);
    let drifted = totals.replacen(" 20000000 ", " 25000000 ", 1);
    assert_ne!(totals, drifted, "the layout that this test knows");
    Redis::shared().run::<()>(&["HSET", &key, "totals", &drifted]);
    let why = desk.complaint(1, &["audit", team]);
    assert!(why.contains("--repair"), "{why}");
    let output = desk.run(&["audit", team, "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        (
            &found[0]["drift"],
            &found[0]["sound"],
            &found[0]["repaired"]
        ),
        (&json!("5"), &json!(false), &json!(false)),
        "{found}"
    );
    let repaired = desk.text(&["audit", team, "--repair"]);
    assert!(
        repaired.contains("5 credits") && repaired.contains("put right"),
        "{repaired}"
    );
    assert!(desk.text(&["audit", team]).contains("sound"));
    assert_eq!(held.get("")["held"], "20");
}

#[test]
fn holds_need_hold_mode() {
    let desk = Desk::new(&Config::new(([127, 0, 0, 1], 9).into()));
    let team = Redis::shared().team("5");
    for words in [
        &["holds", "list", &team][..],
        &["holds", "release", &team, "h1"],
        &["holds", "settle", &team, "h1", "1"],
        &["holds", "charge", &team, "h1", "1", "--id", "c1"],
        &["balance", "grant", &team, "1", "--id", "inv-7"],
        &["statement", &team],
        &["audit", &team],
    ] {
        let why = desk.complaint(64, words);
        assert!(why.contains("admission.mode: hold"), "{words:?}: {why}");
    }
    assert_eq!(
        desk.text(&["balance", "get", &team]),
        format!("{team}: 5 credits")
    );
    assert_eq!(
        desk.json(&["balance", "grant", &team, "1"]),
        json!({"team": team, "balance": "6"})
    );
}

#[test]
fn embedded_holds_are_reached_through_their_gateway() {
    let held = Holding::start(Store::Embedded, "100");
    let (team, hold) = (held.team.as_str(), held.hold());
    let mut config = holding::config();
    for (path, value) in holding::embedded(team, "100") {
        config.set(path, value);
    }
    config.set("server.admin.listen", json!(held.gateway.admin.to_string()));
    let desk = Desk::new(&config);
    for (words, path) in [
        (&["holds", "list", team][..], "/holds"),
        (
            &["holds", "settle", team, &hold, "1"],
            &format!("/holds/{hold}/settle"),
        ),
        (
            &["holds", "release", team, "run/1"],
            "/holds/run%2F1/release",
        ),
        (&["balance", "get", team], ""),
        (&["balance", "grant", team, "1"], "/grants"),
        (&["statement", team], "/statement"),
    ] {
        let why = desk.complaint(64, words);
        let url = format!("http://{}/v1/teams/{team}{path}", held.gateway.admin);
        assert!(why.contains(&url), "{url}: {why}");
        assert!(why.contains("gateway's own process"), "{why}");
    }
    assert!(
        desk.complaint(64, &["balance", "set", team, "1"])
            .contains("reload")
    );
    assert!(
        desk.complaint(64, &["audit"])
            .contains("gateway's own process")
    );
}

#[test]
fn bad_figures_and_ids_end_with_64_before_anything_is_asked() {
    let desk = Desk::holding();
    for (words, reason) in [
        (&["holds", "settle", "acme", "h1", "-1"][..], "below zero"),
        (&["holds", "settle", "acme", "h1", "0.0000001"], "millionth"),
        (&["holds", "settle", "acme", "h1", "1e3"], "12.5"),
        (&["holds", "settle", "acme", "no id", "1"], "visible ASCII"),
        (
            &["holds", "settle", "not a team", "h1", "1"],
            "not a team id",
        ),
        (
            &["holds", "charge", "acme", "h1", "0", "--id", "c1"],
            "zero",
        ),
        (
            &["holds", "charge", "acme", "h1", "1", "--id", ""],
            "1 to 64",
        ),
        (&["holds", "charge", "acme", "h1", "1"], "--id"),
        (&["holds", "list", "acme", "--limit", "0"], "limit"),
        (&["balance", "grant", "acme", "0", "--id", "x"], "zero"),
        (&["balance", "set", "acme", "99999999999999"], "exactly"),
        (&["statement", "acme", "--after", "x"], "line"),
        (&["statement", "acme", "--after", "1"], "line"),
    ] {
        let why = desk.complaint(64, words);
        assert!(why.contains(reason), "{words:?}: {why}");
    }
}

#[test]
fn a_ledger_that_does_not_answer_ends_with_1() {
    let refusing = crate::support::ports::Refusing::new();
    let mut config = holding::config();
    config.set(
        "balances.redis.url",
        json!(format!("redis://{}", refusing.address)),
    );
    let desk = Desk::new(&config);
    for words in [
        &["holds", "list", "acme"][..],
        &["holds", "settle", "acme", "h1", "1"],
        &["balance", "get", "acme"],
        &["statement", "acme"],
        &["audit"],
    ] {
        let why = desk.complaint(1, words);
        assert!(!why.is_empty());
    }
}

#[test]
fn a_release_by_hand_makes_room() {
    let (held, desk) = (Holding::start(Store::Redis, "20"), Desk::holding());
    let hold = held.hold();
    assert_eq!(held.gateway.ask(&Req::start(&held.team)).status, 403);
    desk.text(&["holds", "release", &held.team, &hold]);
    held.hold();
}

#[test]
fn every_command_has_help() {
    for words in [
        &["holds"][..],
        &["holds", "list"],
        &["holds", "settle"],
        &["holds", "charge"],
        &["holds", "release"],
        &["statement"],
        &["audit"],
        &["balance", "grant"],
    ] {
        let output = tollgate(&[words, &["--help"]].concat());
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert!(!output.stdout.is_empty());
    }
}

#[test]
fn a_full_statement_ends_with_1_and_says_which_stream_to_trim() {
    let mut config = holding::config();
    config.set(
        "balances.statement",
        json!({"length": 1, "when_full": "refuse"}),
    );
    let (team, desk) = (fresh("full"), Desk::new(&config));
    let team = team.as_str();
    desk.text(&["balance", "grant", team, "1", "--id", "g1"]);
    let full = desk.complaint(1, &["balance", "grant", team, "1", "--id", "g2"]);
    let stream = format!("tollgate:statement:{{{team}}}");
    assert!(full.contains(&stream) && full.contains("trim"), "{full}");
    assert!(full.contains("nothing was changed"), "{full}");
}

#[test]
fn where_billing_writes_nothing_is_debited_and_no_statement_kept() {
    let billing = [("balances.writer", json!("billing"))];
    let held = Holding::start_with(Store::Redis, "100", &billing);
    let mut config = holding::config();
    config.set("balances.writer", json!("billing"));
    let (team, desk) = (held.team.as_str(), Desk::new(&config));
    let hold = held.hold();
    let settled = desk.text(&["holds", "settle", team, &hold, "3"]);
    assert!(settled.contains("nothing was debited"), "{settled}");
    desk.json(&["holds", "charge", team, &held.hold(), "1", "--id", "c1"]);
    assert_eq!(held.get("")["balance"], "100");
    for words in [&["statement", team][..], &["statement", team, "--json"]] {
        let why = desk.complaint(64, words);
        assert!(why.contains("balances.writer: tollgate"), "{why}");
    }
}

#[test]
fn an_audit_of_a_team_that_nobody_knows_asks_about_the_name() {
    let desk = Desk::holding();
    let nobody = fresh("nobody");
    for more in [&[][..], &["--json"]] {
        let output = desk.run(&[&["audit", nobody.as_str()], more].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("is the name right?"), "{said}");
    }
    let poor = Redis::shared().team("0");
    assert!(desk.text(&["audit", &poor]).contains("sound"));
}

#[test]
fn a_balance_is_corrected_downwards_once_per_id() {
    let (team, desk) = (Redis::shared().team("20"), Desk::holding());
    let correct = ["balance", "grant", &team, "-2.5", "--id", "fix-1"];
    for _ in 0..2 {
        assert!(desk.text(&correct).contains("17.5"));
    }
    assert!(desk.text(&["statement", &team]).contains("-2.5"));
}

/// The events and what they say of a figure, oldest first.
fn events_of(redis: &Redis, team: &str) -> Vec<(String, String, String)> {
    type Entry = (String, Vec<(String, String)>);
    let entries: Vec<Entry> = redis.run(&["XRANGE", "tollgate:events", "-", "+"]);
    let field = |fields: &[(String, String)], name: &str| {
        let found = fields.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    entries
        .iter()
        .filter(|(_, fields)| field(fields, "team") == team)
        .map(|(_, fields)| ["event", "hold", "figure"].map(|name| field(fields, name)))
        .map(|[event, hold, figure]| (event, hold, figure))
        .collect()
}

#[test]
fn what_is_done_by_hand_is_told_on_the_stream_of_events() {
    let redis = Redis::private(&[]);
    redis.set_balance("acme", "100");
    let url = [("balances.redis.url", json!(redis.url()))];
    let held = Holding::with("acme", &url);
    let mut config = holding::config();
    config.set("balances.redis.url", json!(redis.url()));
    let desk = Desk::new(&config);
    let (first, second) = (held.hold(), held.hold());
    desk.text(&["holds", "charge", "acme", &first, "1", "--id", "c1"]);
    desk.text(&["holds", "settle", "acme", &first, "2"]);
    desk.text(&["holds", "settle", "acme", &first, "2"]);
    desk.text(&["holds", "release", "acme", &second]);
    let events = events_of(&redis, "acme");
    let by_hand: Vec<_> = events
        .iter()
        .filter(|(event, ..)| event != "held")
        .collect();
    let told = |event: &str, hold: &str, figure: &str| {
        (event.to_owned(), hold.to_owned(), figure.to_owned())
    };
    assert_eq!(
        by_hand,
        [
            &told("charged", &first, "1"),
            &told("settled", &first, "2"),
            &told("released", &second, ""),
        ]
    );
}

#[test]
fn what_an_audit_drops_is_told_and_a_stream_that_takes_nothing_is_no_failure() {
    let redis = Redis::private(&[]);
    redis.set_balance("acme", "100");
    let settings = [
        ("balances.redis.url", json!(redis.url())),
        ("admission.hold_for", json!("1s")),
    ];
    let held = Holding::with("acme", &settings);
    let (first, second) = (held.hold(), held.hold());
    let mut config = holding::config();
    config.set("balances.redis.url", json!(redis.url()));
    let desk = Desk::new(&config);
    // Nothing but the audit looks for what is due so soon.
    eventually(secs(20), "the audit drops them", || {
        desk.text(&["audit", "acme"]);
        let events = events_of(&redis, "acme");
        let expired = |hold: &String| {
            let fits =
                |(event, of, _): &&(String, String, String)| event == "expired" && of == hold;
            events.iter().filter(fits).count()
        };
        (expired(&first) == 1 && expired(&second) == 1).then_some(())
    });
    drop(held);
    redis.run::<()>(&["DEL", "tollgate:events"]);
    redis.run::<()>(&["SET", "tollgate:events", "no stream"]);
    let output = desk.run(&["holds", "settle", "acme", &first, "2"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let warned = String::from_utf8(output.stderr).unwrap();
    assert!(
        warned.contains("warning") && warned.contains("tollgate:events"),
        "{warned}"
    );
}
