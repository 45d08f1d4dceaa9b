//! The bounds in `allocations.toml`, one line for each kind of request.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// What one request costs.
#[derive(Clone, Copy, PartialEq)]
pub struct Cost {
    /// How often the allocator is asked for memory, or for more of it.
    pub allocations: f64,
    /// For how many bytes.
    pub bytes: f64,
}

/// What the gateway does by the clock (timers, batches of events) falls into
/// measurements; for each request it is less than this.
const STRAY_ALLOCATIONS: f64 = 1.5;
const STRAY_BYTES: f64 = 1_024.0;

impl Cost {
    fn is_within(self, bound: Cost) -> bool {
        self.allocations < bound.allocations + STRAY_ALLOCATIONS
            && self.bytes < bound.bytes + STRAY_BYTES
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{{allocations = {:.0}, bytes = {:.0}}}",
            self.allocations, self.bytes
        )
    }
}

/// Compares with the bound of this name, or makes it the bound.
pub fn hold(name: &str, cost: Cost) {
    static FILE: Mutex<()> = Mutex::new(());
    let _one_at_a_time = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/allocations.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let start = format!("{name} = ");
    let line = text.lines().find(|line| line.starts_with(&start));
    let line = line.unwrap_or_else(|| panic!("no line `{start}…` in {}", file.display()));
    eprintln!(
        "{name}: {:.3} allocations, {:.1} bytes",
        cost.allocations, cost.bytes
    );
    if std::env::var_os("UPDATE_COUNTS").is_some() {
        std::fs::write(&file, text.replace(line, &format!("{start}{cost}"))).unwrap();
        return;
    }
    let bound = Cost {
        allocations: number(line, "allocations"),
        bytes: number(line, "bytes"),
    };
    assert!(
        cost.is_within(bound),
        "{name}: a request costs {cost} now, and may cost {bound}; find out why, and if it has \
         to be: UPDATE_COUNTS=1 cargo test --test allocations"
    );
}

/// The number after `key = ` in a line.
fn number(line: &str, key: &str) -> f64 {
    let rest = line.split(&format!("{key} = ")).nth(1).unwrap_or_default();
    let digits = rest.split([',', '}']).next().unwrap_or_default();
    digits
        .parse()
        .unwrap_or_else(|_| panic!("no number `{key}` in: {line}"))
}
