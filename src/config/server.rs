//! The block `server`: where the gateway listens, and its limits.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::{self, Cidr, ListenAddress, Secret, Size, Span};

/// Where the gateway listens, and its limits.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Addresses for HTTP in the clear, `ip:port`. Port 0 takes a free one.
    #[serde(default)]
    #[schemars(extend("x-reload" = "restart"))]
    pub listen: Vec<ListenAddress>,
    /// Accept HTTP/2 in the clear (prior knowledge) on `listen` too.
    #[serde(default)]
    #[schemars(extend("x-reload" = "restart"))]
    pub h2c: bool,
    /// HTTPS: HTTP/1.1 and HTTP/2 by ALPN.
    pub tls: Option<ServerTls>,
    /// The listener for `/healthz`, `/readyz` and `/metrics`, and in hold mode
    /// for billing to settle and charge holds.
    pub admin: Option<Admin>,
    /// Worker threads. Left out: one per core.
    #[schemars(extend("x-reload" = "restart"))]
    pub threads: Option<std::num::NonZeroUsize>,
    /// TCP peers (CIDR) whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.
    #[serde(default)]
    pub trusted_proxies: Vec<Cidr>,
    /// What happens on SIGTERM.
    #[serde(default)]
    pub shutdown: Shutdown,
    /// Bounds on connections, heads and waits.
    #[serde(default)]
    pub limits: Limits,
}

/// HTTPS on the public side.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ServerTls {
    /// Addresses for HTTPS, `ip:port`.
    #[schemars(extend("x-reload" = "restart"))]
    pub listen: Vec<ListenAddress>,
    /// PEM file with the certificate chain. Read again on reload.
    #[schemars(extend("format" = "path"))]
    pub cert: PathBuf,
    /// PEM file with the private key. Read again on reload.
    #[schemars(extend("format" = "path"))]
    pub key: PathBuf,
    /// PEM file with the CAs that client certificates must come from; when it
    /// is given, clients are asked for one.
    #[schemars(extend("format" = "path"))]
    pub client_ca: Option<PathBuf>,
    /// With `client_ca`: whether a client has to have a certificate.
    #[serde(default)]
    pub client_auth: ClientAuth,
}

/// Whether a client has to have a certificate.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// It does: without one there is no connection.
    #[default]
    Required,
    /// It may come without; one that it shows has to be good.
    Optional,
}

/// The admin listener.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Its address, `ip:port`; never one of the public ones.
    #[schemars(extend("x-reload" = "restart"))]
    pub listen: ListenAddress,
    /// Whether `/readyz` stays 200 while the ledger does not answer. Leave it
    /// false where another gateway may still reach it; set it true where all
    /// gateways would turn unready together and nothing would pass any more,
    /// not even what is not metered.
    #[serde(default)]
    pub ready_in_outage: bool,
    /// The bearer token of admin calls that change credits or show them. Left
    /// out: there are no such calls.
    #[schemars(extend("x-reload" = "restart"))]
    pub token: Option<Secret>,
}

/// What happens on SIGTERM.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// How long to keep accepting after `/readyz` turned to 503, so that load
    /// balancers notice first.
    pub lame_duck: Span,
    /// How long requests in flight may take to finish, after `lame_duck`.
    pub drain: Span,
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown {
            lame_duck: Span::from_secs(5),
            drain: Span::from_secs(30),
        }
    }
}

/// Bounds on connections, heads and waits.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Client connections at once; one more is answered 503 and closed.
    #[schemars(extend("x-reload" = "restart"))]
    pub connections: std::num::NonZeroUsize,
    /// Requests in flight at once; one more is answered 503.
    pub requests: std::num::NonZeroUsize,
    /// The largest request head; a larger one is answered 431. At most 1MiB.
    #[schemars(extend("x-reload" = "restart"))]
    pub header_size: Size,
    /// How long a request head may take from its first byte to its last.
    #[schemars(extend("x-reload" = "restart"))]
    pub header_timeout: Span,
    /// How long a connection may stay open without a request.
    #[schemars(extend("x-reload" = "restart"))]
    pub idle_timeout: Span,
    /// The longest wait for more of a request body.
    pub body_timeout: Span,
    /// The longest wait for a client to take more of an answer.
    #[schemars(extend("x-reload" = "restart"))]
    pub write_timeout: Span,
    /// How long a TLS handshake may take.
    #[schemars(extend("x-reload" = "restart"))]
    pub handshake_timeout: Span,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: values::at_least_one(20_000),
            requests: values::at_least_one(20_000),
            header_size: Size::from_kib(64),
            header_timeout: Span::from_secs(10),
            idle_timeout: Span::from_secs(75),
            body_timeout: Span::from_secs(60),
            write_timeout: Span::from_secs(60),
            handshake_timeout: Span::from_secs(5),
        }
    }
}
