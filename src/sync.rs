//! The locks of the parts whose interleavings are tried one by one.
//!
//! They are the standard library's. With the feature `shuttle`, which only
//! `tests/interleavings.rs` asks for, they are a scheduler's that runs the
//! threads of a test in every order that it can think of.

#[cfg(not(feature = "shuttle"))]
pub use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(feature = "shuttle")]
pub use shuttle::sync::{Mutex, MutexGuard};
#[cfg(feature = "shuttle")]
pub use std::sync::PoisonError;
