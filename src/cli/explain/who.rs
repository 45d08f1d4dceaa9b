//! What `tollgate explain` says of who pays: where that is looked for and in
//! which order, what happens when two apply, and what is never reached.

use serde::Serialize;

use crate::config::values::{Cidr, OneOrMore, Place};
use crate::config::{
    CertificateField, Config, HeaderIdentity, Identity, JwtIdentity, MtlsIdentity, Otherwise,
    Route, TeamFrom, Webhook, WebhookKind,
};

/// Who pays for the starts of a route.
#[derive(Serialize)]
pub struct WhoPays {
    /// Where the team is looked for, in order.
    who_pays: Vec<String>,
    /// What happens when two of them apply, and to what is found wrong.
    when_two_apply: Vec<String>,
    /// What is configured and cannot decide here, and why.
    never_reached: Vec<String>,
    /// What a start is answered with for which none of them applies.
    nobody: &'static str,
}

impl WhoPays {
    /// Who pays for the starts of this route.
    pub fn of(config: &Config, route: &Route) -> Self {
        match (&route.webhook, &route.team_from) {
            (Some(webhook), _) => Self::delivery(config, webhook),
            (None, Some(from)) => Self::path(config, from),
            (None, None) => Self::identities(&config.identity),
        }
    }

    fn identities(identities: &[Identity]) -> Self {
        WhoPays {
            who_pays: identities.iter().map(who).collect(),
            when_two_apply: when_two_apply(identities),
            never_reached: never_reached(identities),
            nobody: "401 authentication_required",
        }
    }

    fn delivery(config: &Config, webhook: &Webhook) -> Self {
        let sender = sender(webhook.kind);
        let mut who_pays = Vec::new();
        if !webhook.teams.is_empty() {
            who_pays.push(format!(
                "the delivery's workspace, once the signature of {sender} holds, by `teams` ({})",
                webhook.teams.len()
            ));
        }
        if let Some(key) = &webhook.team_key {
            who_pays.push(format!(
                "the delivery's workspace, once the signature of {sender} holds, as the Redis string or hash `{key}`"
            ));
        }
        let unasked = |(index, identity): (usize, &Identity)| {
            format!(
                "identity[{index}].{}: a delivery says itself who pays, and no header of it is believed",
                kind(identity)
            )
        };
        WhoPays {
            who_pays,
            when_two_apply: vec![
                "the first that knows the workspace decides; a signature that does not hold is 401, whatever else the delivery says".to_owned(),
            ],
            never_reached: config.identity.iter().enumerate().map(unasked).collect(),
            nobody: "400 integration_not_configured",
        }
    }

    fn path(config: &Config, from: &TeamFrom) -> Self {
        let token = match &from.token {
            Some(token) => format!(", if the path's {{{token}}} matches the hash's token_sha256"),
            None => ", unless that is a hash with token_sha256".to_owned(),
        };
        let first = format!(
            "the path's {{{}}}, as the Redis string or hash `{}`{token}",
            from.path, from.team_key
        );
        let refused = "a token that does not match is 401, whoever else would pay, and so is one that is missing";
        let Some(Otherwise::Identity) = from.otherwise else {
            let unasked = |(index, identity): (usize, &Identity)| {
                format!(
                    "identity[{index}].{}: the path alone says who pays; write `else: identity` for what Redis does not know",
                    kind(identity)
                )
            };
            return WhoPays {
                who_pays: vec![first],
                when_two_apply: vec![refused.to_owned()],
                never_reached: config.identity.iter().enumerate().map(unasked).collect(),
                nobody: "401 authentication_required",
            };
        };
        let mut all = Self::identities(&config.identity);
        all.who_pays.insert(0, first);
        let known = format!(
            "where Redis knows what the path names, its owner pays, and no identity is asked; {refused}"
        );
        all.when_two_apply.insert(0, known);
        all
    }

    /// Labels and what belongs to them.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let sources = self.who_pays.iter().enumerate();
        let mut lines: Vec<_> = sources
            .map(|(index, who)| {
                let label = if index == 0 { "who pays" } else { "  or else" };
                (label, who.clone())
            })
            .collect();
        lines.push(("nobody", self.nobody.to_owned()));
        let of = |label: &'static str, all: &[String]| {
            let said = all.iter().map(move |said| (label, said.clone()));
            said.collect::<Vec<_>>()
        };
        lines.extend(of("two apply", &self.when_two_apply));
        lines.extend(of("never asked", &self.never_reached));
        lines
    }
}

/// Who delivers, as people say it.
pub const fn sender(kind: WebhookKind) -> &'static str {
    match kind {
        WebhookKind::Slack => "Slack",
        WebhookKind::Linear => "Linear",
    }
}

/// The key that says what an identity is.
pub const fn kind(identity: &Identity) -> &'static str {
    match identity {
        Identity::ApiKey(_) => "api_key",
        Identity::Header(_) => "header",
        Identity::Jwt(_) => "jwt",
        Identity::Mtls(_) => "mtls",
    }
}

/// Where an identity looks for the team.
pub fn who(identity: &Identity) -> String {
    match identity {
        Identity::ApiKey(key) => {
            let pick = key.team_header.as_ref().map_or(String::new(), |header| {
                format!(
                    ", where a personal key picks its team with `{}`",
                    header.name()
                )
            });
            format!(
                "the bearer token, looked up as the Redis hash `{}`{pick}",
                key.key.as_str()
            )
        }
        Identity::Header(header) => {
            format!(
                "the header `{}`, from {} only",
                header.name.name(),
                ranges(&header.from)
            )
        }
        Identity::Jwt(jwt) => format!(
            "the bearer token, if it is a JWT: `{}` of one by {} for {}, verified with {}",
            jwt.team_claim,
            jwt.issuer,
            audience(jwt),
            keys(jwt)
        ),
        Identity::Mtls(mtls) => format!("the TLS client certificate: {}", field(mtls)),
    }
}

/// Addresses, for people.
pub fn ranges(from: &[Cidr]) -> String {
    let from: Vec<String> = from.iter().map(ToString::to_string).collect();
    from.join(", ")
}

fn audience(jwt: &JwtIdentity) -> String {
    match &jwt.audience {
        OneOrMore::One(audience) => audience.to_string(),
        OneOrMore::More(all) => {
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            all.join(" or ")
        }
    }
}

fn keys(jwt: &JwtIdentity) -> String {
    match jwt.jwks.as_ref().map(|keys| keys.place()) {
        Some(Place::File(path)) => format!("the keys in {}", path.display()),
        Some(Place::Url(url)) => format!("the keys at {url}"),
        None => "the secret (HS256)".to_owned(),
    }
}

fn field(mtls: &MtlsIdentity) -> String {
    let field = match mtls.team_from {
        CertificateField::SanUri => "a URI among its alternative names",
        CertificateField::SubjectCn => "the subject's common name",
    };
    match &mtls.prefix {
        Some(prefix) => format!("what follows {prefix} in {field}"),
        None => format!("what follows the last slash of {field}"),
    }
}

/// What decides between identities that apply to one request.
fn when_two_apply(identities: &[Identity]) -> Vec<String> {
    let has = |wanted: fn(&Identity) -> bool| identities.iter().any(wanted);
    let mut said = Vec::new();
    if identities.len() > 1 {
        said.push("the first that applies decides; what it finds wrong is refused, and no later one is asked".to_owned());
    }
    let jwt = has(|identity| matches!(identity, Identity::Jwt(_)));
    if jwt && has(|identity| matches!(identity, Identity::ApiKey(_))) {
        said.push("`jwt` and `api_key` never both apply: a bearer token that is a JWT is never looked up as a key, so their order does not matter".to_owned());
    }
    let jwts = identities
        .iter()
        .filter(|identity| matches!(identity, Identity::Jwt(_)));
    if jwts.count() > 1 {
        said.push("of several `jwt` the one applies whose issuer the token names, and the first to a token that names none of them, which refuses it".to_owned());
    }
    for (later, identity) in identities.iter().enumerate() {
        let before = identities.iter().take(later).enumerate();
        for (earlier, other) in before.filter(|(_, other)| may_meet(other, identity)) {
            said.push(format!(
                "identity[{earlier}].{} and identity[{later}].{}: with {}, the first decides",
                kind(other),
                kind(identity),
                both(other, identity)
            ));
        }
    }
    said
}

/// Whether one request can be the business of both.
fn may_meet(one: &Identity, other: &Identity) -> bool {
    !matches!(
        (one, other),
        (
            Identity::ApiKey(_) | Identity::Jwt(_),
            Identity::ApiKey(_) | Identity::Jwt(_)
        )
    )
}

fn both(one: &Identity, other: &Identity) -> String {
    format!("{} and {}", shown(one), shown(other))
}

/// What a request has that an identity applies to.
fn shown(identity: &Identity) -> String {
    match identity {
        Identity::ApiKey(_) => "a bearer token".to_owned(),
        Identity::Jwt(_) => "a JWT".to_owned(),
        Identity::Mtls(_) => "a client certificate that says a team".to_owned(),
        Identity::Header(header) => format!("`{}` from a listed peer", header.name.name()),
    }
}

/// Identities before which another always applies when they would.
fn never_reached(identities: &[Identity]) -> Vec<String> {
    let hidden = identities.iter().enumerate().filter_map(|(index, later)| {
        let mut before = identities.iter().take(index).enumerate();
        let (other, why) =
            before.find_map(|(other, earlier)| Some((other, hides(earlier, later)?)))?;
        Some(format!(
            "identity[{index}].{}: {why} is the business of identity[{other}]",
            kind(later)
        ))
    });
    hidden.collect()
}

/// What of a request the earlier one always takes, if it leaves the later one
/// nothing.
fn hides(earlier: &Identity, later: &Identity) -> Option<&'static str> {
    match (earlier, later) {
        (Identity::ApiKey(_), Identity::ApiKey(_)) => Some("every bearer token that is a key"),
        (Identity::Header(earlier), Identity::Header(later)) => {
            covers(earlier, later).then_some("that header from all of these peers")
        }
        (Identity::Mtls(earlier), Identity::Mtls(later)) => {
            let begins = |prefix: &str| {
                let later = later.prefix.as_ref();
                later.is_some_and(|later| later.as_str().starts_with(prefix))
            };
            let takes_all = match &earlier.prefix {
                None => true,
                Some(prefix) => begins(prefix.as_str()),
            };
            (takes_all && earlier.team_from == later.team_from)
                .then_some("what such a certificate says")
        }
        _ => None,
    }
}

/// Whether an earlier header is believed from every peer that a later one is.
fn covers(earlier: &HeaderIdentity, later: &HeaderIdentity) -> bool {
    let listed = |cidr: &Cidr| {
        let mut from = earlier.from.iter();
        from.any(|wide| wide.net().contains(&cidr.net()))
    };
    earlier.name == later.name && later.from.iter().all(listed)
}
