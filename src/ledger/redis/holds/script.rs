//! The scripts: what each is put together from, and how it is sent.

use std::sync::LazyLock;

use redis::Cmd;

use super::words::Words;

/// Room for a command with a team's keys, so that it is allocated once.
const COMMAND_BYTES: usize = 512;

/// A script that Redis knows by the SHA-1 of its text.
#[derive(Debug)]
pub(in super::super) struct Script {
    text: String,
    sha1: String,
}

/// Declares a script of its parts. The first line is Redis's: without
/// `allow-oom`, a server that is out of memory refuses the script as a whole.
macro_rules! script {
    ($(#[$doc:meta])* $name:ident = $flags:literal $(, $part:literal)+) => {
        $(#[$doc])*
        pub(in super::super) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!($flags, "\n" $(, include_str!(concat!("../scripts/", $part, ".lua")))+))
        });
    };
}

script!(
    /// Sets credits aside.
    HOLD = "#!lua", "clock", "hold_totals", "base", "amounts", "hold", "due", "hold_rest"
);
script!(
    /// Ends a hold without a cost. That frees memory in the end, so it is
    /// done even when there is none.
    RELEASE = "#!lua flags=allow-oom", "clock", "canary", "totals", "base", "due", "entry", "release"
);
script!(
    /// Settles or charges.
    DEBIT = "#!lua flags=allow-oom", "clock", "totals", "base", "amounts", "statement", "due", "entry", "debit"
);
script!(
    /// Lets a hold begin its time anew.
    EXTEND = "#!lua flags=allow-oom", "clock", "canary", "totals", "base", "due", "entry", "extend"
);
script!(
    /// Binds a hold to its run.
    BIND = "#!lua", "clock", "canary", "totals", "base", "due", "entry", "bind"
);
script!(
    /// The live holds of a run.
    OF_RUN = "#!lua flags=no-writes", "clock", "canary", "totals", "base", "due", "entry", "of_run"
);
script!(
    /// Drops and forgets.
    SWEEP = "#!lua flags=allow-oom", "clock", "canary", "totals", "base", "due", "sweep"
);
script!(
    /// The balance and what is set aside.
    STANDING = "#!lua flags=no-writes", "clock", "totals", "base", "due", "page", "standing"
);
script!(
    /// The live holds.
    LIST = "#!lua flags=no-writes", "clock", "canary", "totals", "base", "due", "page", "list"
);
script!(
    /// Adds up again.
    AUDIT = "#!lua flags=allow-oom", "clock", "canary", "totals", "base", "due", "audit"
);
script!(
    /// Puts live holds into the index again.
    INDEX = "#!lua flags=allow-oom", "clock", "canary", "totals", "base", "due", "index"
);
script!(
    /// Adds to a balance or sets it.
    BALANCE = "#!lua", "clock", "amounts", "statement", "balance"
);
script!(
    /// Adds to a balance once per id.
    GRANT_ONCE = "#!lua", "clock", "totals", "base", "amounts", "statement", "due", "grant_once"
);

impl Script {
    fn new(text: &str) -> Self {
        let text = without_comments(text);
        Script {
            sha1: redis::Script::new(&text).get_hash().to_owned(),
            text,
        }
    }

    /// Every script, to be loaded on a fresh connection.
    pub(in super::super) fn all() -> [&'static Script; 13] {
        [
            &HOLD,
            &RELEASE,
            &DEBIT,
            &EXTEND,
            &BIND,
            &OF_RUN,
            &SWEEP,
            &STANDING,
            &LIST,
            &AUDIT,
            &INDEX,
            &BALANCE,
            &GRANT_ONCE,
        ]
    }

    /// The command that asks which of all scripts Redis knows.
    pub(in super::super) fn are_known() -> Cmd {
        let mut exists = redis::cmd("SCRIPT");
        exists.arg("EXISTS");
        for script in Self::all() {
            exists.arg(&script.sha1);
        }
        exists
    }

    /// The command that makes Redis know it.
    pub(in super::super) fn load(&self) -> Cmd {
        let mut load = redis::cmd("SCRIPT");
        load.arg("LOAD").arg(&self.text);
        load
    }

    /// The beginning of a command that runs it by its name.
    pub(in super::super) fn by_name(&self) -> Cmd {
        let mut run = Cmd::with_capacity(16, COMMAND_BYTES);
        self.name(&mut run);
        run
    }

    /// The first words of a command that runs it by its name.
    pub(super) fn name(&self, run: &mut impl Words) {
        run.arg("EVALSHA").arg(&self.sha1);
    }

    /// The beginning of a command that runs it, known or not.
    pub(in super::super) fn by_text(&self) -> Cmd {
        let mut run = redis::cmd("EVAL");
        run.arg(&self.text);
        run
    }
}

/// Leaves out what is for people: lines that are comments, and white space at
/// the edges. No text of a script goes over several lines.
fn without_comments(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    let code: Vec<_> = lines
        .filter(|line| !line.is_empty() && !line.starts_with("--"))
        .collect();
    code.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_code_and_begins_with_its_flags() {
        for script in Script::all() {
            assert!(script.text.starts_with("#!lua"), "{}", script.text);
            for line in script.text.lines() {
                assert!(!line.is_empty() && !line.starts_with("--"), "{line}");
                // Of those that could go over several lines.
                assert!(!line.contains("[[") && !line.ends_with('\\'), "{line}");
            }
        }
        assert_eq!(
            without_comments("#!lua\n\n-- a\n  b() -- c\n"),
            "#!lua\nb() -- c"
        );
    }
}
