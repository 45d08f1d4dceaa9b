//! The block `upstream`: the service that runs are started at.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::{self, HeaderText, ListenAddress, Span, UpstreamAddress};

/// The service that runs are started at.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// `host:port`. Several are balanced; a name stands for all its addresses
    /// and is resolved again as they expire.
    pub addresses: Vec<UpstreamAddress>,
    /// Speak TLS to it.
    pub tls: Option<UpstreamTls>,
    /// Speak HTTP/2 to it: by ALPN with `tls`, with prior knowledge without.
    #[serde(default)]
    pub http2: bool,
    /// Send this as `Host` instead of the client's.
    pub host: Option<HeaderText>,
    /// How long a connection attempt may take, TLS included.
    #[serde(default = "defaults::connect_timeout")]
    pub connect_timeout: Span,
    /// The longest wait for more of an answer.
    #[serde(default = "defaults::io_timeout")]
    pub read_timeout: Span,
    /// The longest wait for the upstream to take more of a request.
    #[serde(default = "defaults::io_timeout")]
    pub write_timeout: Span,
    /// How long an unused connection is kept. Keep it below the upstream's own.
    #[serde(default = "defaults::pool_idle_timeout")]
    pub idle_timeout: Span,
    /// Health checks.
    #[serde(default)]
    pub health: HealthCheck,
    /// How names are resolved.
    #[serde(default)]
    pub dns: Dns,
}

/// TLS towards the upstream.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct UpstreamTls {
    /// The name asked for and checked. Left out: the host of the address.
    pub sni: Option<HeaderText>,
    /// PEM file with the CAs to trust. Left out: the system's.
    #[schemars(extend("format" = "path"))]
    pub ca: Option<PathBuf>,
    /// PEM file with a client certificate chain to show.
    #[schemars(extend("format" = "path"))]
    pub cert: Option<PathBuf>,
    /// PEM file with the client certificate's key.
    #[schemars(extend("format" = "path"))]
    pub key: Option<PathBuf>,
}

/// Health checks of upstream addresses.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct HealthCheck {
    /// How often each address is tried; 0s switches the checks off.
    pub interval: Span,
    /// How long one try may take.
    pub timeout: Span,
    /// Fails in a row until an address is passed over.
    pub unhealthy_after: std::num::NonZeroUsize,
    /// Successes in a row until it is used again.
    pub healthy_after: std::num::NonZeroUsize,
}

impl Default for HealthCheck {
    fn default() -> Self {
        HealthCheck {
            interval: Span::from_secs(2),
            timeout: Span::from_secs(1),
            unhealthy_after: values::at_least_one(2),
            healthy_after: values::at_least_one(1),
        }
    }
}

/// How upstream names are resolved.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// Name servers, `ip:port`. Left out: the system's.
    pub servers: Vec<ListenAddress>,
    /// A name is resolved again no sooner than this, whatever its TTL says.
    pub min_ttl: Span,
    /// A name is resolved again no later than this, whatever its TTL says.
    pub max_ttl: Span,
}

impl Default for Dns {
    fn default() -> Self {
        Dns {
            servers: Vec::new(),
            min_ttl: Span::from_secs(1),
            max_ttl: Span::from_secs(60),
        }
    }
}

/// Values of keys that are left out.
mod defaults {
    use super::Span;

    pub fn connect_timeout() -> Span {
        Span::from_secs(1)
    }
    pub fn io_timeout() -> Span {
        Span::from_secs(60)
    }
    pub fn pool_idle_timeout() -> Span {
        Span::from_secs(30)
    }
}
