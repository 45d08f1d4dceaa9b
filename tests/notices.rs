//! Notices, with Slack and Linear played on this machine: what each is told,
//! how often, and what becomes of notices when the other side does not behave.

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

#[path = "notices/office.rs"]
mod office;
#[path = "support/outside.rs"]
mod outside;
#[path = "support/redis.rs"]
mod redis_server;

#[path = "notices/bounds.rs"]
mod bounds;
#[path = "notices/once.rs"]
mod once;
#[path = "notices/trouble.rs"]
mod trouble;
#[path = "notices/words.rs"]
mod words;
