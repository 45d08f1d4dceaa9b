//! How diagnostics are logged: to standard error, through `tracing`.
//!
//! Levels: `error`, something is broken and needs a person; `warn`, something
//! needs a look, the gateway goes on; `info`, what it does (start, reload,
//! stop, an outage's start and end); `debug`, for developers. Libraries are
//! never heard: Pingora prints whole request heads, credentials included, and
//! reports each failed request at `error`, which the access log has already.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config;

/// The form of log lines, decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON object per line.
    Json,
    /// Text for people.
    Text,
}

/// Decides the form of what goes to `output`: `auto` is text on a terminal and
/// JSON elsewhere.
#[must_use]
pub fn form(format: config::LogFormat, output: &impl IsTerminal) -> Form {
    match format {
        config::LogFormat::Json => Form::Json,
        config::LogFormat::Text => Form::Text,
        config::LogFormat::Auto if output.is_terminal() => Form::Text,
        config::LogFormat::Auto => Form::Json,
    }
}

/// Sets diagnostics up for the process. A second call changes nothing.
pub fn init(log: &config::Log) {
    let level = match log.level {
        config::LogLevel::Error => "error",
        config::LogLevel::Warn => "warn",
        config::LogLevel::Info => "info",
        config::LogLevel::Debug => "debug",
    };
    let filter = EnvFilter::new(format!("off,tollgate={level}"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let done = match form(log.format, &std::io::stderr()) {
        Form::Json => subscriber
            .json()
            .flatten_event(true)
            .with_target(false)
            .finish()
            .try_init(),
        Form::Text => subscriber.with_target(false).finish().try_init(),
    };
    drop(done);
}
