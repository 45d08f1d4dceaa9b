//! What the product is about, in values: credits, teams, triggers, holds and
//! the decision whether a run may start.
//!
//! Promises: no I/O, no clock, no async, no HTTP, no serde. Everything here is
//! a pure function of its arguments, so it can be read in ten minutes and
//! tested without a server. Reading a balance, and setting
//! credits aside, is the business of [`crate::ledger`]; saying no over HTTP that of [`crate::edge`].

pub mod admission;
pub mod credits;
pub mod hold;
pub mod team;
pub mod trigger;
