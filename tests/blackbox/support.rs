//! What every test stands on.
//!
//! `process`, `redis` and `gateway` run real programs; `upstream` and
//! `h2_upstream` record what reaches them; `client` and `h2_client` send exact
//! bytes; `parties` are published packages, and `deliveries` what their makers
//! send; `problem` knows what an answer made at the edge looks like.
//!
//! A part that cannot run (no redis-server, no port) panics: a test that was
//! not run must not look like one that passed.

pub mod client;
pub mod config;
pub mod deliveries;
pub mod dns;
pub mod fake_redis;
pub mod gateway;
pub mod h2_client;
pub mod h2_upstream;
pub mod holding;
pub mod holds;
pub mod lossy;
pub mod metrics;
pub mod operator;
pub mod packed;
pub mod parties;
pub mod ports;
pub mod problem;
pub mod process;
pub mod redis;
pub mod request;
pub mod tls;
pub mod tokens;
pub mod upstream;
pub mod wait;
pub mod webhooks;

pub use client::{Client, Response};
pub use gateway::Gateway;
pub use redis::Redis;
pub use request::Req;
pub use upstream::Upstream;
pub use wait::{eventually, secs};
