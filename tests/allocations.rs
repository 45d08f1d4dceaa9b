//! What a request costs in memory: how often the gateway asks the allocator,
//! for how many bytes, and that it gives all of it back.
//!
//! The whole gateway runs in this process, in front of a real redis-server;
//! client and upstream are threads beside it that work in buffers of fixed
//! size, so that everything counted is the gateway's. Requests come one after
//! the other over one connection, and the access log is off. The bounds are in
//! `allocations.toml`; `UPDATE_COUNTS=1 cargo test --test allocations` writes
//! what is measured there.

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

#[path = "allocations/bounds.rs"]
mod bounds;
#[path = "allocations/rig.rs"]
mod rig;
#[allow(dead_code, reason = "the black-box tests use the rest")]
mod support {
    #[path = "../blackbox/support/ports.rs"]
    pub mod ports;
    #[path = "../blackbox/support/process.rs"]
    pub mod process;
    #[path = "../blackbox/support/redis.rs"]
    pub mod redis;
    #[path = "../blackbox/support/wait.rs"]
    pub mod wait;
}

use std::alloc::System;

use bounds::Cost;
use rig::{ADMITTED, HOLD, LOOKUP, PASSED, PATIENCE, REFUSED, Request, Turn};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use support::wait::eventually;

/// The system's, not the one that ships: who is asked makes no difference to
/// how often and for how much.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What the gateway does by the clock falls into some bursts and not into
/// others: the cheapest counts.
const BURSTS: usize = 20;
const REQUESTS: usize = 64;

/// Until pools, tables and buffers have the size that they keep.
const WARM_UP: usize = 200;

const MANY_REQUESTS: usize = 10_000;
const MANY_CONNECTIONS: usize = 2_000;

/// What may be there more than before: a batch of events under way, a table
/// that was extended, timers. One allocation left by each request, of whatever
/// size, is more.
const DRIFT_BYTES: usize = 64 * 1024;

/// What one request of this kind costs.
fn cost_of(turn: &Turn, request: &Request) -> Cost {
    let mut client = turn.client();
    (0..WARM_UP).for_each(|_| client.ask(request));
    let bursts = (0..BURSTS).map(|_| {
        let before = ALLOCATOR.stats();
        (0..REQUESTS).for_each(|_| client.ask(request));
        let spent = ALLOCATOR.stats() - before;
        Cost {
            allocations: (spent.allocations + spent.reallocations) as f64 / REQUESTS as f64,
            bytes: spent.bytes_allocated as f64 / REQUESTS as f64,
        }
    });
    bursts
        .min_by(|one, other| one.allocations.total_cmp(&other.allocations))
        .unwrap()
}

/// Bytes that the process holds.
fn in_use() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

#[test]
fn an_admitted_start_allocates_no_more_than_before() {
    let turn = LOOKUP.take();
    bounds::hold("admitted", cost_of(&turn, &ADMITTED));
}

#[test]
fn a_refused_start_allocates_no_more_than_before() {
    let turn = LOOKUP.take();
    bounds::hold("refused", cost_of(&turn, &REFUSED));
}

#[test]
fn a_request_that_starts_nothing_allocates_no_more_than_before() {
    let turn = LOOKUP.take();
    bounds::hold("passed", cost_of(&turn, &PASSED));
}

#[test]
fn an_admitted_start_in_hold_mode_allocates_no_more_than_before() {
    let turn = HOLD.take();
    bounds::hold("admitted_hold", cost_of(&turn, &ADMITTED));
}

#[test]
fn a_refused_start_in_hold_mode_allocates_no_more_than_before() {
    let turn = HOLD.take();
    bounds::hold("refused_hold", cost_of(&turn, &REFUSED));
}

#[test]
fn requests_leave_nothing_behind() {
    let turn = LOOKUP.take();
    let mut client = turn.client();
    let mut ask = |requests| {
        let kinds = [&ADMITTED, &REFUSED, &PASSED];
        for kind in kinds.into_iter().cycle().take(requests) {
            client.ask(kind);
        }
    };
    ask(WARM_UP);
    let before = in_use();
    ask(MANY_REQUESTS);
    let claim = format!("{MANY_REQUESTS} requests leave the {before} bytes in use as they were");
    // Timers go when their time is up, in a second or two.
    eventually(PATIENCE, &claim, || {
        (in_use() < before + DRIFT_BYTES).then_some(())
    });
}

#[test]
fn connections_leave_nothing_behind() {
    let turn = LOOKUP.take();
    let ask = |connections| (0..connections).for_each(|_| turn.client().ask(&REFUSED));
    ask(WARM_UP);
    let before = in_use();
    ask(MANY_CONNECTIONS);
    let claim = format!("{MANY_CONNECTIONS} connections leave the {before} bytes in use");
    eventually(PATIENCE, &claim, || {
        (in_use() < before + DRIFT_BYTES).then_some(())
    });
}
