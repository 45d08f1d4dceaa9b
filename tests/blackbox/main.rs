//! The black-box tests: the real program, a real redis-server, a recording
//! upstream, real sockets.
//!
//! Nothing here uses the library crate. What a test claims is what a client,
//! an operator or the upstream could see for themselves. `tests/README.md`
//! says how the pieces fit and what the tests take for granted.

// Here a panic is how a claim fails, and test data is known to be in bounds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

#[path = "../support/outside.rs"]
mod outside;
#[path = "../support/redis_cluster.rs"]
mod redis_cluster;
#[path = "../support/redis.rs"]
mod redis_server;
#[path = "../support/sentinel.rs"]
mod sentinel_service;
mod support;

mod admin_holds;
mod cli;
mod cli_explain;
mod cli_holds;
mod cluster;
mod connections;
mod cors;
mod counts;
mod framing;
mod grpc;
mod hold_answers;
mod holds;
mod holds_end;
mod holds_exact;
mod holds_faults;
mod holds_fleet;
mod holds_kill;
mod holds_replay;
mod holds_settle;
mod holds_upload;
mod holds_watch;
mod identity;
mod identity_jwt;
mod identity_mtls;
mod ids;
mod life;
mod limits;
mod linear;
mod names;
mod observe;
mod outage;
mod parties_secrets;
mod passthrough;
mod redis_urls;
mod refusal;
mod reload;
mod remembered;
mod replay;
mod routes;
mod runs;
mod sdk;
mod secrets;
mod shadow;
mod slack;
mod spellings;
mod streams;
mod team_from;
mod tls;
mod triggers;
mod upload;
mod upstream;
mod webhook_body;
mod webhook_flow;
mod wrong_deliveries;
