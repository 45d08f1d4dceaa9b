//! tollgate: an edge gateway that lets a request start a run only if the team
//! that pays for it has credits.
//!
//! The path of a start request, floor by floor:
//!
//! 1. [`edge`] reads the head, refuses broken framing, works out which route
//!    the request is ([`edge::route`]) and who pays ([`edge::identify`]).
//! 2. [`ledger`] reads the team's balance, in one round trip.
//! 3. [`billing`] decides: [`billing::admission::decide`] returns a verdict.
//! 4. [`edge`] forwards the request or answers it ([`edge::problem`]); a
//!    refusal also becomes an event ([`refusals`]).
//!
//! Imports point down: `billing` knows nothing of the rest, `ledger` and
//! `config` know `billing`, `edge` knows all three, and [`app`] wires them.

pub mod app;
pub mod billing;
pub mod cli;
pub mod config;
pub mod edge;
pub mod ledger;
pub mod refusals;
pub mod telemetry;
