//! The deliveries beside this file, built and signed as their senders do it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue};
use ring::hmac;
use serde_json::Value;
use tollgate::config::{RefuseWith, WebhookKind};
use tollgate::edge::webhooks::{DEFAULT_STOP_ACTIONS, Delivery, Unread, Webhook};
use tollgate::notices::Via;

/// What the tests sign with.
pub const SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";

/// When the deliveries were sent, in seconds since 1970.
pub const SENT: u64 = 1_700_000_000;

/// When they come.
pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(SENT)
}

/// The deliveries of a route.
pub fn webhook(kind: WebhookKind) -> Webhook {
    Webhook {
        kind,
        secrets: vec![SECRET.parse().unwrap()],
        teams: BTreeMap::new(),
        team_key: None,
        stop_actions: DEFAULT_STOP_ACTIONS
            .iter()
            .map(ToString::to_string)
            .collect(),
        refuse_with: RefuseWith::Message,
        via: Arc::new(Via::default()),
    }
}

/// One file.
pub struct Sample {
    /// `slack/app_mention`.
    pub name: String,
    /// Who sends it.
    pub kind: WebhookKind,
    /// The body as it is sent.
    pub body: Vec<u8>,
    /// The JSON in it, and whether that stands in the form field `payload`.
    pub document: Option<(Value, bool)>,
    /// Whether nothing of the body can be left out.
    pub is_json: bool,
    /// `Linear-Delivery`.
    pub delivery_id: Option<String>,
    /// What it has to be read as.
    pub expect: Value,
}

impl Sample {
    /// As it is sent.
    pub fn signed(&self) -> Signed {
        let mut headers = HeaderMap::new();
        if let Some(id) = &self.delivery_id {
            headers.insert("linear-delivery", HeaderValue::from_str(id).unwrap());
        }
        Signed::new(self.kind, &self.body, &headers)
    }
}

/// A delivery with the headers that belong to it.
#[derive(Clone)]
pub struct Signed {
    pub kind: WebhookKind,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Signed {
    /// Signs a body, and sends these headers, too.
    pub fn new(kind: WebhookKind, body: &[u8], headers: &HeaderMap) -> Self {
        let mut headers = headers.clone();
        match kind {
            WebhookKind::Slack => {
                let signature = hex(&[format!("v0:{SENT}:").as_bytes(), body].concat());
                let signature = format!("v0={signature}").parse().unwrap();
                headers.insert("x-slack-signature", signature);
                headers.insert("x-slack-request-timestamp", SENT.into());
            }
            WebhookKind::Linear => {
                headers.insert("linear-signature", hex(body).parse().unwrap());
            }
        }
        Signed {
            kind,
            headers,
            body: body.to_vec(),
        }
    }

    /// As the gateway reads it.
    pub fn read(&self, now: SystemTime) -> Result<Delivery, Unread> {
        webhook(self.kind).read(&self.headers, &self.body, now)
    }
}

fn hex(message: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag = hmac::sign(&key, message);
    tag.as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Every file, in order.
pub fn corpus() -> &'static [Sample] {
    static CORPUS: LazyLock<Vec<Sample>> = LazyLock::new(load);
    &CORPUS
}

fn load() -> Vec<Sample> {
    let kinds = [
        ("slack", WebhookKind::Slack),
        ("linear", WebhookKind::Linear),
    ];
    let mut samples: Vec<Sample> = kinds
        .into_iter()
        .flat_map(|(folder, kind)| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/deliveries");
            let files = std::fs::read_dir(path.join(folder)).unwrap();
            files.map(move |file| sample(folder, kind, &file.unwrap().path()))
        })
        .collect();
    samples.sort_by(|a, b| a.name.cmp(&b.name));
    samples
}

fn sample(folder: &str, kind: WebhookKind, path: &Path) -> Sample {
    let name = format!("{folder}/{}", path.file_stem().unwrap().to_str().unwrap());
    let text = std::fs::read_to_string(path).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut document = None;
    let body = if let Some(json) = file.get("json") {
        document = Some((json.clone(), false));
        json.to_string()
    } else if let Some(body) = file.get("body") {
        body.as_str().unwrap().to_owned()
    } else {
        let mut form = form_urlencoded::Serializer::new(String::new());
        for field in file["form"].as_array().unwrap() {
            let name = field[0].as_str().unwrap();
            match &field[1] {
                Value::String(text) => form.append_pair(name, text),
                value => {
                    document = Some((value.clone(), true));
                    form.append_pair(name, &value.to_string())
                }
            };
        }
        form.finish()
    };
    Sample {
        name,
        kind,
        body: body.into_bytes(),
        is_json: document.is_some(),
        document,
        delivery_id: file["delivery_id"].as_str().map(str::to_owned),
        expect: file["expect"].clone(),
    }
}
