//! The commands.
//!
//! People read text; `--json` gives programs the same facts. Exit codes: 0
//! fine, 64 bad usage or configuration, 1 could not start, serve or do it.

mod audit;
mod balance;
mod demo;
mod explain;
mod holds;
mod ledger;
mod ready;
mod statement;
mod table;
mod worst_case;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use crate::app::App;
use crate::config::{Config, load, schema};
use crate::telemetry::logging;

/// Bad usage or configuration (`EX_USAGE` of sysexits).
const EXIT_USAGE: u8 = 64;

/// Could not start or serve.
const EXIT_FAULT: u8 = 1;

/// An edge gateway that lets a request start a run only if its team has credits.
#[derive(Parser)]
#[command(name = "tollgate", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve.
    Run(ConfigArg),
    /// Validate configuration files, without opening a socket.
    Check {
        /// The files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Tell programs: a JSON array of mistakes.
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of the configuration.
    Schema,
    /// Show an admitted and a refused start against a stand-in API, then serve.
    Demo {
        /// Exit after showing.
        #[arg(long)]
        once: bool,
    },
    /// Read or change a team's balance.
    Balance(balance::BalanceArgs),
    /// List, release, settle or charge a team's holds (hold mode).
    Holds(holds::HoldsArgs),
    /// Print what was added to and taken from a team's balance.
    ///
    /// Lines are written for grants and debits with balances.writer: tollgate.
    Statement(statement::StatementArgs),
    /// Add up the holds of a team, or of all, and report any drift.
    ///
    /// Ends with 1 if there is drift that was not put right, or a team that
    /// could not be read.
    Audit(audit::AuditArgs),
    /// Tell which route a request is, what it would need, and why.
    Explain(explain::ExplainArgs),
    /// Ask the admin listener whether the gateway is ready; for health checks.
    Ready {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Tell programs: what `/readyz` says.
        #[arg(long)]
        json: bool,
    },
}

/// Where the configuration is.
#[derive(Args)]
struct ConfigArg {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Why a command ends without success.
enum Failure {
    /// The operator has to change something: exit 64.
    Usage(String),
    /// Something outside did not work: exit 1.
    Fault(String),
}

type Outcome = Result<(), Failure>;

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::Fault(format!("{error:#}"))
    }
}

/// Runs the program: arguments to exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    // The only one there is; an error says that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let shown = matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            );
            // Nobody is left to tell when the terminal is gone.
            let _ = error.print();
            return if shown {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(EXIT_USAGE)
            };
        }
    };
    let outcome = match cli.command {
        Command::Run(config) => run(config),
        Command::Check { files, json } => check(&files, Style::of(json)),
        Command::Schema => {
            say(&format!("{:#}", schema::schema()));
            Ok(())
        }
        Command::Demo { once } => demo::run(if once {
            demo::Then::Exit
        } else {
            demo::Then::Serve
        }),
        Command::Balance(args) => balance::run(args),
        Command::Holds(args) => holds::run(args),
        Command::Statement(args) => statement::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Ready { config, json } => ready::run(&config, Style::of(json)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(why)) => {
            complain(&why);
            ExitCode::from(EXIT_USAGE)
        }
        Err(Failure::Fault(why)) => {
            complain(&why);
            ExitCode::from(EXIT_FAULT)
        }
    }
}

/// Who reads the output.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// People.
    Text,
    /// Programs.
    Json,
}

impl Style {
    fn of(json: bool) -> Self {
        if json { Style::Json } else { Style::Text }
    }
}

/// Writes to standard output. A reader that went away is no fault of ours.
fn say(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Writes to standard error.
fn complain(text: &str) {
    use std::io::Write as _;
    if !text.is_empty() {
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }
}

/// Reads a configuration, or says everything that is wrong with it.
fn read(file: &std::path::Path) -> Result<Config, Failure> {
    load::load(file).map_err(|mistakes| {
        let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        Failure::Usage(format!("{}\n{}", lines.join("\n"), count(mistakes.len())))
    })
}

/// So many of something, whose plural is regular.
fn counted(number: u64, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{number} {noun}s")
    }
}

fn count(mistakes: usize) -> String {
    counted(mistakes.try_into().unwrap_or(u64::MAX), "mistake")
}

fn run(arguments: ConfigArg) -> Outcome {
    let config = read(&arguments.config)?;
    logging::init(&config.log);
    let app = App::prepare(config, Some(arguments.config));
    app.map_err(|error| Failure::Fault(error.to_string()))?
        .run();
    Ok(())
}

fn check(files: &[PathBuf], style: Style) -> Outcome {
    let mut mistakes = Vec::new();
    for file in files {
        match load::load(file) {
            Ok(_) if style == Style::Text => say(&format!("{}: fine", file.display())),
            Ok(_) => {}
            Err(found) => mistakes.extend(found),
        }
    }
    if style == Style::Json {
        let list: Vec<serde_json::Value> = mistakes
            .iter()
            .map(|mistake| {
                serde_json::json!({
                    "file": mistake.file,
                    "line": mistake.line,
                    "column": mistake.column,
                    "message": mistake.message,
                })
            })
            .collect();
        say(&serde_json::Value::Array(list).to_string());
    }
    if mistakes.is_empty() {
        return Ok(());
    }
    if style == Style::Json {
        return Err(Failure::Usage(String::new()));
    }
    let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    Err(Failure::Usage(format!(
        "{}\n{}",
        lines.join("\n"),
        count(mistakes.len())
    )))
}
