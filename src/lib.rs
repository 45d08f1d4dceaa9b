//! tollgate: an edge gateway that lets a request start a run only if the team
//! that pays for it has credits.
//!
//! The path of a start request, floor by floor:
//!
//! 1. [`edge`] reads the head, refuses broken framing, works out which route
//!    the request is ([`edge::route`]) and who pays: by what the request shows
//!    or its path names ([`edge::identify`]), or, on a route of Slack's or
//!    Linear's, by the workspace of a delivery, whose body is read whole and
//!    whose signature is verified first ([`edge::webhooks`]). A delivery that
//!    starts nothing passes here.
//! 2. [`ledger`] reads the team's balance, in one round trip; in hold mode it
//!    sets credits aside in the same step ([`ledger::holds`]).
//! 3. [`billing`] decides: [`billing::admission::decide`] returns a verdict. In
//!    hold mode the ledger does, by [`billing::admission::decide_hold`].
//! 4. [`edge`] forwards the request or answers it ([`edge::problem`]); a
//!    refusal also becomes an event ([`refusals`]) and, where people would not
//!    see the answer, a notice to them ([`notices`], through [`egress`]).
//! 5. In hold mode [`edge`] looks at what comes back ([`edge::watch`]), and
//!    [`keeper`] binds, extends, settles and releases holds, off the request
//!    path; [`events`] tell of it.
//!
//! Imports point down: `billing` knows nothing of the rest, `ledger` and
//! `config` know `billing`, `keeper` and `notices` know the ledger, `edge` knows
//! them all, and [`app`] wires them.

pub mod app;
pub mod billing;
pub mod cli;
pub mod config;
pub mod edge;
pub mod egress;
pub mod events;
pub mod keeper;
pub mod ledger;
pub mod notices;
pub mod refusals;
pub mod sync;
pub mod telemetry;
