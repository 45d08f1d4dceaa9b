//! The configuration from outside: every shipped file loads, every wrong one
//! is refused with the message it was written for, and no text whatsoever
//! makes the loader panic.
//!
//! The files in `configs/wrong` hold one mistake each and are named after it.
//! Their first line says what must be reported; `UPDATE_EXPECT=1` writes what
//! is reported instead, for a person to read in the diff.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs,
    reason = "a panic is how a claim fails"
)]

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value;
use tollgate::config::load::{Mistake, load, load_str};
use tollgate::config::values::Span;
use tollgate::config::{
    Admission, Config, Hold, Identity, Mode, RefuseWith, Route, RouteKind, Statement, Trigger,
    check::needs_restart, reference, schema,
};

const EXPECT: &str = "# expect: ";

/// What the files in the corpus may fill in.
fn env(name: &str) -> Option<String> {
    (name == "TOLLGATE_TEST_SECRET").then(|| "hunter2".to_owned())
}

fn yaml_files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    files.sort();
    files
}

fn without_file(mistakes: &[Mistake]) -> String {
    let lines: Vec<String> = mistakes
        .iter()
        .map(|mistake| format!("{}:{}: {}", mistake.line, mistake.column, mistake.message))
        .collect();
    lines.join(" && ")
}

#[test]
fn every_wrong_file_is_refused_with_its_one_message() {
    let files = yaml_files("tests/configs/wrong");
    assert!(files.len() >= 60, "only {} files", files.len());
    let mut wrong = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let (first, rest) = text.split_once('\n').unwrap();
        let expected = first
            .strip_prefix(EXPECT)
            .unwrap_or_else(|| panic!("{path:?}: no expectation"));
        let reported = match load_str(path.to_str().unwrap(), &text, &env) {
            Ok(_) => "nothing".to_owned(),
            Err(mistakes) => without_file(&mistakes),
        };
        assert!(
            !reported.contains("hunter2"),
            "{path:?} shows a secret: {reported}"
        );
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&path, format!("{EXPECT}{reported}\n{rest}")).unwrap();
        } else if reported != expected {
            wrong.push(format!(
                "{}\n  expected {expected}\n  reported {reported}",
                path.display()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn all_mistakes_of_a_file_are_reported_in_its_order() {
    let mistakes = load(Path::new("tests/configs/ten_mistakes.yaml")).unwrap_err();
    let places: Vec<(usize, usize)> = mistakes
        .iter()
        .map(|mistake| (mistake.line, mistake.column))
        .collect();
    let expected = [
        (3, 3),
        (6, 20),
        (7, 3),
        (9, 16),
        (9, 52),
        (10, 12),
        (12, 20),
        (13, 5),
        (16, 12),
        (18, 13),
    ];
    assert_eq!(places, expected, "{mistakes:#?}");
}

#[test]
fn a_mistake_names_file_line_and_column() {
    let mistakes = load_str("config/x.yaml", "server: {lisen: []}", &env).unwrap_err();
    assert_eq!(
        mistakes.last().unwrap().to_string(),
        "config/x.yaml:1:10: unknown key `lisen` in `server`; did you mean `listen`?"
    );
}

#[test]
fn every_shipped_file_loads() {
    let files = yaml_files("config");
    assert!(files.len() >= 2);
    for path in files {
        // With nothing but the file: no variable is set.
        let text = fs::read_to_string(&path).unwrap();
        let loaded = load_str(path.to_str().unwrap(), &text, &|_| None);
        assert!(loaded.is_ok(), "{path:?}: {loaded:?}");
    }
}

#[test]
fn the_reference_configuration_lists_every_start_route() {
    let config = load(Path::new("config/tollgate.yaml")).unwrap();
    let routes: Vec<String> = config
        .starts()
        .map(|(pattern, _)| pattern.to_string())
        .collect();
    for route in [
        "POST /api/v1/agent/tasks",
        "POST /api/v1/agent/runs",
        "POST /api/v1/agent/run",
        "POST /api/v1/agent/runs/{id}/followups",
        "POST /api/v1/agent/tasks/{id}/followups",
        "POST /api/v1/factory/{uid}/runs",
        "POST /api/v1/webhooks/w/{uid}",
        "POST /api/v1/webhooks/w/{uid}/{token}",
    ] {
        assert!(routes.iter().any(|listed| listed == route), "{route}");
    }
    assert!(matches!(config.identity.first(), Some(Identity::ApiKey(_))));
}

/// Lines of the reference that show hold mode are commented out; they must be
/// true all the same.
#[test]
fn the_reference_configuration_shows_hold_mode_as_it_loads() {
    let reference = fs::read_to_string("config/tollgate.yaml").unwrap();
    let shown = [
        "  # admin: {listen: \"127.0.0.1:9901\", token",
        "  # writer: tollgate",
        "  # statement:",
        "  # hold: {header",
        "  # hold_for:",
        "  # release_on:",
        "  # run_id:",
        "  # idempotency:",
        "  # remember:",
        "  # - ends:",
        "  # - watch:",
        "  #   state:",
        "  #   end_states:",
        "  # held_retry_after:",
        "# events:",
    ];
    let hidden = ["  admin:", "  writer: billing"];
    let mut text = String::new();
    for line in reference.lines() {
        if shown.iter().any(|start| line.starts_with(start)) {
            text += &line.replacen("# ", "", 1);
        } else if !hidden.iter().any(|start| line.starts_with(start)) {
            text += line;
        }
        text += "\n";
    }
    for start in shown {
        let lines = reference.lines();
        assert_eq!(
            lines.filter(|line| line.starts_with(start)).count(),
            1,
            "{start}"
        );
    }
    let text = text
        .replace("mode: lookup", "mode: hold")
        .replace("${file:admin.token}", "${TOLLGATE_TEST_SECRET}");
    let config = load_str("config/tollgate.yaml", &text, &env).unwrap();
    let defaults = Admission::default();
    assert_eq!(config.admission.mode, Mode::Hold);
    assert_eq!(config.admission.release_on, defaults.release_on);
    assert_eq!(config.admission.remember, defaults.remember);
    assert_eq!(config.balances.statement, Some(Statement::default()));
    let tells = config.routes.iter().filter(|route| route.start.is_none());
    assert_eq!(tells.count(), 2);
}

/// A file with these blocks in it that are commented out: the line that begins
/// so, and those after it that belong to it.
fn with_blocks(file: &str, blocks: &[&str]) -> String {
    let text = fs::read_to_string(file).unwrap();
    let mut missing = blocks.to_vec();
    let mut within = false;
    let mut whole = String::new();
    for line in text.lines() {
        let begins = missing.iter().position(|start| line.starts_with(start));
        within =
            begins.map(|at| missing.remove(at)).is_some() || within && line.starts_with("  #   ");
        let marks = if within { 1 } else { 0 };
        whole += &line.replacen("# ", "", marks);
        whole += "\n";
    }
    assert!(missing.is_empty(), "{missing:?}");
    whole
}

/// Secrets of Slack and Linear, and nothing else.
fn integration_secrets(name: &str) -> Option<String> {
    let is_theirs = name.starts_with("SLACK_") || name.starts_with("LINEAR_");
    is_theirs.then(|| "hunter2".to_owned())
}

/// What needs a secret or another host is commented out in the reference; it
/// must be true all the same.
#[test]
fn the_reference_configuration_shows_integrations_as_they_load() {
    let blocks = [
        "  # trigger_from:",
        "  # - jwt:",
        "  # - start: POST /integrations/slack",
        "  # - start: POST /integrations/linear",
    ];
    let text = with_blocks("config/tollgate.yaml", &blocks);
    let config = load_str("config/tollgate.yaml", &text, &integration_secrets)
        .unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    assert!(!format!("{config:?}").contains("hunter2"));
    let Some(Identity::Jwt(jwt)) = config.identity.last() else {
        panic!("{:?}", config.identity)
    };
    assert_eq!(jwt.principal_claim, "sub");
    assert_eq!(
        (jwt.leeway, jwt.refresh),
        (Span::from_secs(60), Span::from_secs(300))
    );
    assert_eq!(config.admission.trigger_from.unwrap().map.len(), 3);
    let triggers = config.routes.iter().map(Route::trigger);
    let triggers: Vec<Trigger> = triggers.collect();
    assert!(
        triggers.ends_with(&[Trigger::Webhook, Trigger::Slack, Trigger::Linear]),
        "{triggers:?}"
    );
}

/// Its routes of Slack and Linear are commented out, because no secret may be
/// shipped.
#[test]
fn the_example_of_integrations_is_whole_once_the_secrets_are_there() {
    let file = "config/integrations.yaml";
    let whole = with_blocks(
        file,
        &[
            "  # - start: POST /integrations/slack",
            "  # - start: POST /integrations/linear",
        ],
    );
    let mistakes = load_str(file, &whole, &|_| None).unwrap_err();
    let is_not_set = |mistake: &Mistake| mistake.message.contains("is not set");
    assert_eq!(mistakes.len(), 4, "{mistakes:?}");
    assert!(mistakes.iter().all(is_not_set), "{mistakes:?}");
    let config = load_str(file, &whole, &integration_secrets).unwrap();
    let routes = || config.routes.iter();
    let hooks: Vec<&Route> = routes().filter(|route| route.webhook.is_some()).collect();
    assert_eq!(hooks.len(), 2);
    let is_message = |route: &&Route| route.refuse_with == Some(RefuseWith::Message);
    assert!(hooks.iter().all(is_message));
    assert_eq!(
        routes().filter(|route| route.team_from.is_some()).count(),
        4
    );
}

#[test]
fn one_value_stands_for_a_list_of_one() {
    let load = |webhook: &str, audience: &str| {
        let text = fs::read_to_string("config/integrations.yaml").unwrap();
        let text = text.replace("audience: tasks", &format!("audience: {audience}")) + "log: {}\n";
        let route = format!(
            "routes:\n  - start: POST /hook\n    webhook: {{kind: slack, {webhook}, teams: {{T1: acme}}}}\n    refuse_with: problem\n"
        );
        load_str("x.yaml", &text.replace("routes:\n", &route), &env)
            .unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
    };
    let one = load("secret: one", "tasks");
    let list = load("secret: [one]", "[tasks]");
    let more = load(
        "secret: [two, \"${TOLLGATE_TEST_SECRET}\"]",
        "[tasks, runs]",
    );
    let secrets = |config: &Config| {
        let webhook = config.routes[0].webhook.clone().unwrap();
        let secrets = webhook.secret.as_slice().iter();
        secrets
            .map(|secret| secret.expose().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(secrets(&one), ["one"]);
    assert_eq!(secrets(&one), secrets(&list));
    assert_eq!(secrets(&more), ["two", "hunter2"]);
    assert!(!format!("{more:?}").contains("hunter2"));
    let audience = |config: &Config| match &config.identity[1] {
        Identity::Jwt(jwt) => jwt.audience.as_slice().len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        (audience(&one), audience(&list), audience(&more)),
        (1, 1, 2)
    );
    assert!(needs_restart(&one, &more).is_empty());
}

#[test]
fn the_token_of_a_path_is_a_secret_whatever_is_listed() {
    let route = |more: &str| {
        let text = fs::read_to_string("config/integrations.yaml").unwrap();
        let route = format!(
            "routes:\n  - start: POST /hooks/{{uid}}/{{key}}/{{token}}\n    team_from: {{path: uid, team_key: \"hook:<uid>\", token: key}}\n{more}"
        );
        load_str("x.yaml", &text.replace("routes:\n", &route), &env)
            .unwrap()
            .routes
            .remove(0)
    };
    assert_eq!(route("").secrets(), ["key", "token"]);
    assert_eq!(route("    secret_in_path: []\n").secrets(), ["key"]);
    assert_eq!(
        route("    secret_in_path: [token, key]\n").secrets(),
        ["key", "token"]
    );
}

#[test]
fn the_example_of_hold_mode_knows_every_way_to_end_and_to_watch_a_run() {
    let config = load(Path::new("config/hold.yaml")).unwrap();
    let routes = config.routes.iter().flat_map(Route::kinds);
    let told: Vec<String> = routes
        .filter(|(kind, _)| *kind != RouteKind::Start)
        .map(|(kind, pattern)| format!("{} {pattern}", kind.key()))
        .collect();
    assert_eq!(
        told,
        [
            "ends POST /api/v1/agent/runs/{run}/cancel",
            "ends POST /api/v1/agent/tasks/{run}/cancel",
            "watch GET /api/v1/agent/runs/{run}",
            "watch GET /api/v1/agent/tasks/{run}",
        ]
    );
    let ended = ["SUCCEEDED", "FAILED", "CANCELLED", "ERROR"];
    let goes_on = ["QUEUED", "PENDING", "CLAIMED", "INPROGRESS", "BLOCKED"];
    for route in config.routes.iter().filter(|route| route.watch.is_some()) {
        let states = route.end_states();
        assert!(
            ended
                .iter()
                .all(|state| states.iter().any(|end| end == state))
        );
        assert!(!states.iter().any(|end| goes_on.contains(&end.as_str())));
    }
}

#[test]
fn every_way_to_reach_redis_loads() {
    let text = fs::read_to_string("config/tollgate.yaml").unwrap();
    for url in [
        "redis://127.0.0.1",
        "redis://[::1]:6379/3",
        "redis://ann:p%40ss@redis.internal:6379/0",
        "redis://:password@redis.internal",
        "rediss://redis.internal:6380",
        "redis+unix:///run/redis.sock?db=2&user=ann&pass=secret",
    ] {
        let env = |name: &str| (name == "REDIS_URL").then(|| url.to_owned());
        let config = load_str("config/tollgate.yaml", &text, &env)
            .unwrap_or_else(|mistakes| panic!("{url}: {mistakes:?}"));
        assert_eq!(config.balances.redis.unwrap().url.unwrap().expose(), url);
    }
}

#[test]
fn the_keys_of_hold_mode_may_be_written_in_lookup_mode() {
    let text = fs::read_to_string("config/demo.yaml").unwrap()
        + "    trigger: schedule\n    hold: 20\n    hold_for: 30m\nadmission: {hold: 0.5, hold_for: 1h, idempotency: upstream}\n";
    let config = load_str("demo.yaml", &text, &env).unwrap();
    let (_, last) = config.starts().last().unwrap();
    let Some(Hold::Credits(amount)) = last.hold else {
        panic!("{:?}", last.hold)
    };
    assert_eq!(amount.credits().to_string(), "20");
}

#[test]
fn a_block_with_all_lines_commented_out_has_its_defaults() {
    let text = fs::read_to_string("config/demo.yaml").unwrap()
        + "problem:\n  # billing_url: https://example.com\nrefusals:\nlog: ~\nadmission: {}\n";
    let config = load_str("demo.yaml", &text, &env).unwrap();
    assert_eq!(config.problem, tollgate::config::Problem::default());
    assert!(config.admission.enforce);
}

#[test]
fn what_is_filled_in_is_one_value_and_typed_by_its_key() {
    let text = fs::read_to_string("config/demo.yaml").unwrap();
    let text = text
        .replace("\"127.0.0.1:9901\"", "\"${ADMIN}\"")
        .replace(
            "server:\n",
            "server:\n  threads: ${THREADS}\n  h2c: ${H2C:-true}\n",
        )
        .replace("acme: 100", "acme: \"${CREDITS}\"");
    let env = |name: &str| match name {
        "ADMIN" => Some("127.0.0.1:9902".to_owned()),
        "THREADS" => Some("3".to_owned()),
        "CREDITS" => Some("0.1".to_owned()),
        _ => None,
    };
    let config = load_str("demo.yaml", &text, &env).unwrap();
    assert_eq!(config.server.admin.unwrap().listen.addr().port(), 9902);
    assert_eq!(config.server.threads.unwrap().get(), 3);
    assert!(config.server.h2c);
    let balances = config.balances.memory.unwrap();
    let acme = balances
        .iter()
        .find(|(team, _)| team.team().as_str() == "acme")
        .unwrap()
        .1;
    assert_eq!(acme.credits().to_string(), "0.1");

    let injected = |name: &str| match name {
        "ADMIN" => Some("127.0.0.1:9902\", token: \"x".to_owned()),
        name => env(name),
    };
    let mistakes = load_str("demo.yaml", &text, &injected).unwrap_err();
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert!(!mistakes.first().unwrap().message.contains("token"));
}

#[test]
fn a_secret_is_read_from_a_file_beside_the_configuration_and_not_printed() {
    let folder = TempFolder::new("secret");
    fs::write(folder.path("token"), "hunter2\n").unwrap();
    let text = fs::read_to_string("config/demo.yaml").unwrap();
    let text = text.replace(
        "\"127.0.0.1:9901\"",
        "\"127.0.0.1:9901\", token: \"${file:token}\"",
    );
    fs::write(folder.path("x.yaml"), text).unwrap();
    let config = load(&folder.path("x.yaml")).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    assert_eq!(
        config.server.admin.unwrap().token.unwrap().expose(),
        "hunter2"
    );
}

#[test]
fn certificates_are_read_and_must_go_together() {
    let folder = TempFolder::new("certificates");
    for name in ["a", "b"] {
        let made = rcgen::generate_simple_self_signed(vec![format!("{name}.test")]).unwrap();
        fs::write(folder.path(&format!("{name}.pem")), made.cert.pem()).unwrap();
        fs::write(
            folder.path(&format!("{name}.key")),
            made.signing_key.serialize_pem(),
        )
        .unwrap();
    }
    let with = |cert: &str, key: &str, ca: &str| {
        let text = fs::read_to_string("config/demo.yaml").unwrap();
        let tls = format!(
            "server:\n  tls: {{listen: [\"127.0.0.1:8443\"], cert: {cert}, key: {key}, client_ca: {ca}}}\n"
        );
        let path = folder.path("x.yaml");
        fs::write(&path, text.replace("server:\n", &tls)).unwrap();
        load(&path)
    };
    let config = with("a.pem", "a.key", "b.pem").unwrap();
    assert_eq!(config.server.tls.unwrap().cert, folder.path("a.pem"));
    let text = fs::read_to_string(folder.path("x.yaml")).unwrap();
    let alone = text.replace("client_ca: b.pem", "client_auth: required");
    let file = folder.path("x.yaml").display().to_string();
    let mistakes = load_str(&file, &alone, &env).unwrap_err();
    assert!(
        without_file(&mistakes).starts_with("4:62: `client_auth` needs `client_ca`"),
        "{mistakes:?}"
    );
    let neither = text.replace(", client_ca: b.pem", "");
    assert!(load_str(&file, &neither, &env).is_ok());
    for (cert, key, ca, expected) in [
        (
            "a.pem",
            "b.key",
            "b.pem",
            "does not belong to the certificate",
        ),
        ("a.key", "a.key", "b.pem", "holds no certificate"),
        ("a.pem", "a.pem", "b.pem", "holds no private key"),
        ("a.pem", "a.key", "b.key", "holds no certificate"),
        ("a.pem", "a.key", ".", "it is not a regular file"),
    ] {
        let mistakes = with(cert, key, ca).unwrap_err();
        assert!(
            without_file(&mistakes).contains(expected),
            "{cert} {key} {ca}: {mistakes:?}"
        );
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    }
}

#[test]
fn what_is_no_text_file_is_a_mistake() {
    let folder = TempFolder::new("no-text");
    fs::write(folder.path("latin1.yaml"), b"server: {listen: [\"\xe4\"]}").unwrap();
    fs::write(folder.path("large.yaml"), " ".repeat((1 << 20) + 1)).unwrap();
    for (name, expected) in [
        ("latin1.yaml", "not UTF-8 text"),
        ("large.yaml", "larger than 1 MiB"),
        ("missing.yaml", "cannot read the file"),
        (".", "cannot read the file"),
    ] {
        let mistakes = load(&folder.path(name)).unwrap_err();
        assert!(
            without_file(&mistakes).contains(expected),
            "{name}: {mistakes:?}"
        );
    }
}

/// Large and odd texts are answered in time that people wait for.
#[test]
fn the_worst_file_is_answered_in_seconds() {
    let begun = std::time::Instant::now();
    let numbered = |line: &str| -> String {
        let lines = (0..).map(|i: usize| line.replace('#', &i.to_string()));
        lines
            .scan(0, |length, line| {
                *length += line.len();
                (*length < 1 << 20).then_some(line)
            })
            .collect()
    };
    for text in [
        numbered("k#: 1\n"),
        format!(
            "routes:\n{}",
            numbered("- start: POST /#\n")
                .chars()
                .take((1 << 20) - 10)
                .collect::<String>()
        ),
        format!(
            "balances:\n  memory:\n{}",
            numbered("    t#: 1\n")
                .chars()
                .take((1 << 20) - 30)
                .collect::<String>()
        ),
        numbered("? #\n"),
        "[".repeat(1 << 20),
        "a: ".repeat((1 << 20) / 3),
        format!("a: \"{}\"", "${".repeat((1 << 19) - 10)),
        "# ".repeat(1 << 19),
    ] {
        assert!(load_str("x.yaml", &text, &env).is_err());
    }
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(60),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn the_reference_is_up_to_date() {
    let page = reference::markdown();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::create_dir_all("docs").unwrap();
        fs::write("docs/configuration.md", page).unwrap();
        return;
    }
    let written = fs::read_to_string("docs/configuration.md").unwrap_or_default();
    assert!(
        written == page,
        "docs/configuration.md is stale: run UPDATE_DOCS=1 cargo test --test config"
    );
}

#[test]
fn every_key_of_the_schema_is_in_the_reference_with_a_meaning() {
    let schema = schema::schema();
    let page = reference::markdown();
    let mut keys = Vec::new();
    collect_keys(&schema, &mut keys);
    assert!(keys.len() > 80, "only {} keys", keys.len());
    for (key, property) in keys {
        // The meaning of a kind stands at the choice that it is.
        let has_meaning = property.get("description").is_some() || property.get("$ref").is_some();
        assert!(has_meaning, "{key} has no description");
        let in_reference =
            page.contains(&format!("| `{key}` |")) || page.contains(&format!(".{key}`"));
        assert!(in_reference, "{key} is not in the reference");
    }
}

#[test]
fn the_schema_says_its_draft_and_asks_for_what_is_required() {
    let schema = schema::schema();
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    assert_eq!(schema["additionalProperties"], false);
    let required: Vec<&str> = schema["required"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(required, ["server", "upstream", "balances", "routes"]);
}

fn collect_keys(schema: &Value, keys: &mut Vec<(String, Value)>) {
    match schema {
        Value::Array(items) => items.iter().for_each(|item| collect_keys(item, keys)),
        Value::Object(object) => {
            if let Some(Value::Object(properties)) = object.get("properties") {
                keys.extend(
                    properties
                        .iter()
                        .map(|(key, property)| (key.clone(), property.clone())),
                );
            }
            object.values().for_each(|value| collect_keys(value, keys));
        }
        _ => {}
    }
}

/// Pieces of YAML that are likely to confuse.
fn fragment() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("${".to_owned()),
        Just("${X}".to_owned()),
        Just("$${".to_owned()),
        Just("${file:/dev/zero}".to_owned()),
        Just("- ".to_owned()),
        Just("? ".to_owned()),
        Just(": ".to_owned()),
        Just("{".to_owned()),
        Just("]".to_owned()),
        Just("&a *a".to_owned()),
        Just("!!str ".to_owned()),
        Just("---\n".to_owned()),
        Just("|\n".to_owned()),
        Just("\"".to_owned()),
        Just("~".to_owned()),
        Just("\t".to_owned()),
        Just("\u{feff}".to_owned()),
        Just("99999999999999999999".to_owned()),
        "\\PC{0,8}",
        any::<char>().prop_map(String::from),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_change_of_a_good_file_makes_the_loader_panic(
        file in prop::sample::select(vec![
            include_str!("../config/tollgate.yaml"),
            include_str!("../config/hold.yaml"),
            include_str!("../config/integrations.yaml"),
        ]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, fragment()), 1..6),
    ) {
        let mut text: Vec<char> = file.chars().collect();
        for (at, drop, fragment) in changes {
            let at = at.index(text.len() + 1);
            let end = (at + drop).min(text.len());
            text.splice(at..end, fragment.chars());
        }
        loads_or_says_why(&text.into_iter().collect::<String>());
    }

    #[test]
    fn no_text_makes_the_loader_panic(text in "\\PC{0,200}") {
        loads_or_says_why(&text);
    }

    #[test]
    fn no_value_of_any_key_makes_the_loader_panic(line in any::<prop::sample::Index>(), value in "\\PC{0,20}") {
        let lines: Vec<&str> = include_str!("../config/tollgate.yaml").lines().collect();
        let at = line.index(lines.len());
        let changed = lines.iter().enumerate().map(|(i, line)| match line.split_once(": ") {
            Some((key, _)) if i == at => format!("{key}: {value}\n"),
            _ => format!("{line}\n"),
        });
        loads_or_says_why(&changed.collect::<String>());
    }
}

/// Either a configuration or at least one mistake, each within the text.
fn loads_or_says_why(text: &str) {
    let result: Result<Config, Vec<Mistake>> = load_str("x.yaml", text, &env);
    if let Err(mistakes) = result {
        assert!(!mistakes.is_empty());
        for mistake in mistakes {
            assert!(mistake.line >= 1 && mistake.column >= 1 && !mistake.message.is_empty());
            assert!(!mistake.message.contains('\n'), "{mistake:?}");
        }
    }
}

/// A folder that goes away with the test.
struct TempFolder(PathBuf);

impl TempFolder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("tollgate-config-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        TempFolder(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn nobody_has_to_be_asked_where_every_route_says_who_pays() {
    let yaml = "\
server: {listen: [\"127.0.0.1:0\"]}
upstream: {addresses: [\"127.0.0.1:9000\"]}
balances: {redis: {url: \"redis://127.0.0.1:6379\"}}
routes:
  - start: POST /slack
    webhook: {kind: slack, secret: a-secret, teams: {T0: acme}}
    refuse_with: message
  - start: POST /w/{uid}
    team_from: {path: uid, team_key: \"webhook:<uid>\"}
";
    let load = |text: &str| load_str("file.yaml", text, &|_| None);
    assert!(load(yaml).is_ok());
    let asks = yaml.replace("webhook:<uid>\"}", "webhook:<uid>\", else: identity}");
    assert_ne!(asks, yaml);
    let mistakes = format!("{:?}", load(&asks).unwrap_err());
    assert!(
        mistakes.contains("`routes[1].start` asks `identity`"),
        "{mistakes}"
    );
}
