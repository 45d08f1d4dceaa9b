//! Histories of everything that can be done to a team, compared with the model
//! after each step.
//!
//! A history is generated from a seed and shrunk when it fails; the seed is
//! printed and belongs into [`KEPT_SEEDS`]. `TOLLGATE_SOAK_STEPS` and
//! `TOLLGATE_SOAK_REDIS_STEPS` say how many steps to try at the least,
//! `TOLLGATE_SOAK_SEED` where to begin (`make soak` chooses another each time).
//!
//! In memory the clock is in the test's hand and goes forwards and back. Redis
//! has real time alone: there a hold either lasts for hours, or for a
//! millisecond that the test waits out before it goes on, so that at each
//! step everybody knows which holds are live.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use tollgate::billing::admission::Rule;
use tollgate::billing::credits::Credits;
use tollgate::billing::hold::{Held, HoldId, RunId};
use tollgate::billing::team::TeamId;
use tollgate::ledger::LedgerError;
use tollgate::ledger::holds as real;
use tollgate::ledger::holds::{Expired, Holds, Release, Repair, Terms, WhenFull, Writer};

use super::model::{Change, Entry, Granted, Hold, Key, Line, Model, Outcome, Run, Start, Which};
use super::{Fixture, InMemory, TestClock, by_tollgate, hold_id, run_id};
use crate::{PATIENCE, fresh_team};

/// Seeds that failed once.
const KEPT_SEEDS: &[u64] = &[
    // A charge was known again when its hold, long forgotten, was given up.
    20_262_734, // A charge was debited twice by an attempt to mend the above.
    20_261_180,
];

/// How many histories come from one seed.
const HISTORIES_PER_SEED: u32 = 16;

/// How long the longest run may take.
const AT_MOST: Duration = Duration::from_secs(3600);

/// How many runs there are: few, so that they get several holds.
const RUNS: u8 = 3;

/// A hold that is up as soon as its clock has moved on.
const SHORT: u64 = 1;

/// How long the ledger in memory remembers: short, so that it forgets.
const REMEMBER: Duration = Duration::from_millis(2000);

/// One thing that somebody does. Small numbers say which of those there are.
#[derive(Clone, Debug)]
enum Op {
    Start {
        amount: u8,
        lasts: u8,
        line: u8,
        key: Option<(u8, u8, Option<u8>)>,
    },
    AskAgain(u8),
    NotStarted(u8),
    NotStartedBeforeItCame,
    Release(Target),
    Settle(Target, u8),
    Charge(Target, u8, u8),
    Extend(Target),
    Bind(u8, u8),
    Grant(i8),
    GrantOnce(i8, u8),
    SetBalance(i8),
    Sweep,
    Audit,
    Pass(u8),
    GoBack,
    /// A client forgets all that it was told.
    Crash,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    Hold(u8),
    Run(u8),
    EitherHold(u8),
    EitherRun(u8),
}

#[derive(Clone, Debug)]
pub struct Step {
    op: Op,
    /// The reply gets lost, and the same is sent again.
    is_lost: bool,
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        4 => any::<u8>().prop_map(Target::Hold),
        2 => (0..RUNS).prop_map(Target::Run),
        1 => any::<u8>().prop_map(Target::EitherHold),
        1 => (0..RUNS).prop_map(Target::EitherRun),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let key = (
        0..2_u8,
        prop_oneof![5 => Just(0_u8), 1 => Just(1)],
        prop::option::of(0..2_u8),
    );
    let start = (1..8_u8, any::<u8>(), 0..12_u8, prop::option::of(key));
    let start = start.prop_map(|(amount, lasts, line, key)| Op::Start {
        amount,
        lasts,
        line,
        key,
    });
    let op = prop_oneof![
        8 => start,
        4 => any::<u8>().prop_map(Op::AskAgain),
        4 => any::<u8>().prop_map(Op::NotStarted),
        1 => Just(Op::NotStartedBeforeItCame),
        2 => target().prop_map(Op::Release),
        3 => (target(), 0..4_u8).prop_map(|(target, amount)| Op::Settle(target, amount)),
        3 => (target(), 1..4_u8, 0..5_u8).prop_map(|(at, amount, id)| Op::Charge(at, amount, id)),
        2 => target().prop_map(Op::Extend),
        5 => (any::<u8>(), 0..RUNS).prop_map(|(hold, run)| Op::Bind(hold, run)),
        1 => (-3..9_i8).prop_map(Op::Grant),
        1 => ((1..4_i8), (0..3_u8)).prop_map(|(amount, id)| Op::GrantOnce(amount, id)),
        1 => (-2..30_i8).prop_map(Op::SetBalance),
        1 => Just(Op::Sweep),
        1 => Just(Op::Audit),
        5 => any::<u8>().prop_map(Op::Pass),
        1 => Just(Op::GoBack),
        1 => Just(Op::Crash),
    ];
    let is_lost = prop_oneof![4 => Just(false), 1 => Just(true)];
    (op, is_lost).prop_map(|(op, is_lost)| Step { op, is_lost })
}

/// A history begins with credits, mostly.
fn history() -> impl Strategy<Value = Vec<Step>> {
    (
        prop::option::weighted(0.9, 0..40_i8),
        prop::collection::vec(step(), 1..60),
    )
        .prop_map(|(balance, mut steps)| {
            let first = balance.map(|balance| Step {
                op: Op::SetBalance(balance),
                is_lost: false,
            });
            steps.splice(0..0, first);
            steps
        })
}

fn micro(amount: impl Into<i64>) -> i64 {
    amount.into() * 500_000
}

fn amount(micro: i64) -> Credits {
    Credits::from_micro(micro)
}

fn hold_of(number: Hold) -> HoldId {
    hold_id(&format!("h{number}"))
}

fn number_of(hold: &HoldId) -> Hold {
    hold.as_str()[1..].parse().expect("a number")
}

fn run_of(number: Run) -> RunId {
    run_id(&format!("run:{number}"))
}

fn number_of_run(run: &RunId) -> Run {
    run.as_str()[4..].parse().expect("a number")
}

/// A team, what somebody knows of it, and the model of it.
struct History<'a> {
    ledger: &'a dyn Holds,
    fixture: &'a dyn Fixture,
    /// `None`: time is real.
    clock: Option<&'a TestClock>,
    team: TeamId,
    model: Model,
    asked: Vec<Start>,
    /// Whose hold a start was told to share.
    told: HashMap<Hold, Hold>,
    place: String,
    lines: usize,
}

pub type Checked = Result<(), TestCaseError>;

impl History<'_> {
    async fn go(&mut self, steps: &[Step]) -> Checked {
        // From here on the ledger knows what time it is.
        self.observe().await?;
        for step in steps {
            self.take(&step.op).await?;
            self.observe().await?;
            if !step.is_lost {
                continue;
            }
            match (&step.op, self.asked.last()) {
                // Sent again, a start is the same start.
                (Op::Start { .. }, Some(start)) => self.hold(*start).await?,
                (op, _) => self.take(op).await?,
            }
            self.observe().await?;
        }
        self.audit().await
    }

    fn is_exact(&self) -> bool {
        self.clock.is_some()
    }

    /// One of the starts so far, often of the last few, or rarely one that
    /// nobody asked for.
    fn nth(&self, nth: u8) -> Hold {
        let asked = Hold::try_from(self.asked.len()).expect("few");
        if asked == 0 || nth % 16 == 15 {
            return 9_999;
        }
        let among = if nth.is_multiple_of(2) {
            asked
        } else {
            asked.min(3)
        };
        asked - 1 - Hold::from(nth / 2) % among
    }

    fn which(&self, target: Target) -> (Which, real::Which) {
        match target {
            Target::Hold(nth) => {
                let hold = self.nth(nth);
                (Which::Hold(hold), real::Which::Hold(hold_of(hold)))
            }
            Target::Run(run) => (Which::Run(run), real::Which::Run(run_of(run))),
            Target::EitherHold(nth) => {
                let hold = self.nth(nth);
                (
                    Which::Hold(hold),
                    real::Which::Either(hold_of(hold).as_str().into()),
                )
            }
            Target::EitherRun(run) => (
                Which::Run(run),
                real::Which::Either(run_of(run).as_str().into()),
            ),
        }
    }

    async fn take(&mut self, op: &Op) -> Checked {
        let (ledger, team) = (self.ledger, self.team.clone());
        match op {
            Op::Start {
                amount,
                lasts,
                line,
                key,
            } => {
                let start = self.start(*amount, *lasts, *line, *key);
                self.asked.push(start);
                self.hold(start).await
            }
            Op::AskAgain(nth) => {
                match self.asked.get(usize::from(*nth) % self.asked.len().max(1)) {
                    Some(start) => self.hold(*start).await,
                    None => Ok(()),
                }
            }
            Op::NotStarted(nth) => self.not_started(self.nth(*nth)).await,
            Op::NotStartedBeforeItCame => {
                let start = self.start(1, 0, 0, None);
                self.asked.push(start);
                self.not_started(start.id).await
            }
            Op::Release(_) | Op::Settle(..) | Op::Charge(..) | Op::Extend(_) | Op::Bind(..) => {
                self.change(op).await?;
                self.same_runs().await
            }
            Op::Grant(_) | Op::GrantOnce(..) | Op::SetBalance(_) => self.pay(op).await,
            Op::Sweep => {
                let (held, expired) = ledger.sweep(&team).await.expect("a sweep");
                self.all_told(&expired)?;
                self.same_held(held)
            }
            Op::Audit => self.audit().await,
            Op::Pass(_) | Op::GoBack => {
                self.pass(op).await;
                Ok(())
            }
            Op::Crash => {
                self.told.clear();
                Ok(())
            }
        }
    }

    /// Changes a hold that is there, or is not.
    async fn change(&mut self, op: &Op) -> Checked {
        let (ledger, team) = (self.ledger, self.team.clone());
        match op {
            Op::Release(target) => {
                let (which, real) = self.which(*target);
                let change = ledger.release(&team, &real, &Release::Over).await;
                let expected = self.model.release_over(which);
                same_change(change, expected)
            }
            Op::Settle(target, cost) => {
                let (which, real) = self.which(*target);
                let change = ledger.settle(&team, &real, amount(micro(*cost))).await;
                same_change(change, self.model.settle(which, micro(*cost)))
            }
            Op::Charge(target, cost, id) => {
                let (which, real) = self.which(*target);
                let name = format!("c{id}");
                let change = ledger
                    .charge(&team, &real, amount(micro(*cost)), &name)
                    .await;
                same_change(change, self.model.charge(which, micro(*cost), *id))
            }
            Op::Extend(target) => {
                let (which, real) = self.which(*target);
                let change = ledger.extend(&team, &real).await;
                same_change(change, self.model.extend(which))
            }
            Op::Bind(nth, run) => {
                let hold = self.nth(*nth);
                let change = ledger.bind(&team, &hold_of(hold), &run_of(*run)).await;
                same_change(change, self.model.bind(hold, *run))
            }
            other => panic!("no change: {other:?}"),
        }
    }

    async fn same_runs(&self) -> Checked {
        for run in 0..RUNS {
            let found = self.ledger.of_run(&self.team, &run_of(run)).await;
            let found: Vec<_> = found.expect("holds").iter().map(number_of).collect();
            prop_assert_eq!(found, self.model.of_run(run));
        }
        Ok(())
    }

    fn start(&self, amount: u8, lasts: u8, line: u8, key: Option<(u8, u8, Option<u8>)>) -> Start {
        let times: &[u64] = if self.is_exact() {
            &[1, 10, 50, 1000, 3_600_000]
        } else {
            &[SHORT, 3_600_000, 7_200_000]
        };
        Start {
            id: Hold::try_from(self.asked.len()).expect("few"),
            micro: micro(amount),
            hold_for: times[usize::from(lasts) % times.len()],
            line: micro(i64::from(line) - 9).max(0),
            key: key.map(|(key, route, body)| Key { key, route, body }),
        }
    }

    async fn hold(&mut self, start: Start) -> Checked {
        if self.model.is_used_up(start.id) {
            return Ok(());
        }
        let replay = start.key.map(|key| real::Replay {
            key: [key.key; 32],
            route: [key.route; 32],
            body: key.body.map(|body| [body; 32]),
        });
        let ask = real::Ask {
            team: self.team.clone(),
            id: hold_of(start.id),
            credits: amount(start.micro),
            hold_for: Duration::from_millis(start.hold_for),
            rule: Rule {
                refuse_at_or_below: amount(start.line),
                ..Rule::default()
            },
            replay,
        };
        let answer = self.ledger.hold_by(&ask, Instant::now() + PATIENCE).await;
        let expected = self.model.hold(start);
        let answer = match answer {
            Err(LedgerError::Outage(_)) if expected == Outcome::TooLate => return Ok(()),
            Err(error) => return Err(TestCaseError::fail(format!("{error} for {expected:?}"))),
            Ok(answer) => answer,
        };
        match (&answer.outcome, expected) {
            (
                real::Outcome::Refused {
                    refusal,
                    balance,
                    next_end,
                },
                Outcome::Refused(why, micro, end),
            ) => {
                prop_assert_eq!((*refusal, balance.micro()), (why, micro));
                self.same_end(*next_end, end)?;
            }
            (real::Outcome::Replayed { hold, end }, expected) => {
                prop_assert_eq!(Outcome::Replayed(number_of(hold), *end), expected);
                self.told.insert(start.id, number_of(hold));
            }
            (real::Outcome::Held, expected) => prop_assert_eq!(Outcome::Held, expected),
            (real::Outcome::NoBalance, expected) => prop_assert_eq!(Outcome::NoBalance, expected),
            (real::Outcome::Conflict, expected) => prop_assert_eq!(Outcome::Conflict, expected),
            (other, expected) => {
                return Err(TestCaseError::fail(format!("{other:?} for {expected:?}")));
            }
        }
        self.all_told(&answer.expired)?;
        self.same_held(answer.held)?;
        if !self.is_exact() && start.hold_for == SHORT {
            self.pass(&Op::Pass(0)).await;
        }
        Ok(())
    }

    /// A start gives up: on the hold that it was told of, or else on its own.
    async fn not_started(&mut self, ask: Hold) -> Checked {
        if self.model.is_used_up(ask) {
            return Ok(());
        }
        let hold = self.told.get(&ask).copied().unwrap_or(ask);
        let why = Release::NotStarted(hold_of(ask));
        let which = real::Which::Hold(hold_of(hold));
        let change = self.ledger.release(&self.team, &which, &why).await;
        same_change(change, self.model.not_started(hold, ask))
    }

    async fn pay(&mut self, op: &Op) -> Checked {
        let (ledger, team) = (self.ledger, &self.team);
        match op {
            Op::Grant(credits) => {
                let granted = ledger.grant(team, amount(micro(*credits))).await;
                let expected = self.model.grant(micro(*credits));
                prop_assert_eq!(granted.ok(), expected.map(amount));
            }
            Op::GrantOnce(credits, id) => {
                let name = format!("g{id}");
                let granted = ledger
                    .grant_once(team, amount(micro(*credits)), &name)
                    .await;
                let granted = match granted {
                    Ok(real::Granted::Done(balance)) => Granted::Done(balance.micro()),
                    Ok(real::Granted::Again(balance)) => Granted::Again(balance.micro()),
                    Ok(real::Granted::Conflict(earlier)) => Granted::Conflict(earlier.micro()),
                    Err(_) => Granted::NoRoom,
                };
                prop_assert_eq!(granted, self.model.grant_once(micro(*credits), *id));
            }
            Op::SetBalance(credits) => {
                let set = ledger.set_balance(team, amount(micro(*credits))).await;
                prop_assert_eq!(set.is_ok(), self.model.set_balance(micro(*credits)));
            }
            other => panic!("no payment: {other:?}"),
        }
        Ok(())
    }

    async fn pass(&mut self, op: &Op) {
        let Some(clock) = self.clock else {
            self.fixture.pass(Duration::from_millis(2)).await;
            self.model.now += SHORT;
            return;
        };
        let times = [1, 9, 10, 41, 950, 1999, 2000];
        match op {
            Op::Pass(by) => {
                clock.pass(Duration::from_millis(times[usize::from(*by) % times.len()]))
            }
            _ => clock.go_back(Duration::from_millis(20)),
        }
        // For a team, time never goes back.
        self.model.now = self.model.now.max(clock.millis());
    }

    async fn audit(&mut self) -> Checked {
        let audit = self
            .ledger
            .audit(&self.team, Repair::Report)
            .await
            .expect("an audit");
        prop_assert!(audit.is_sound(), "{:?}", audit);
        self.all_told(&audit.expired)?;
        self.same_held(audit.counted)
    }

    /// Everything that can be seen, but for what would change it.
    async fn observe(&mut self) -> Checked {
        let standing = self.ledger.standing(&self.team).await.expect("a standing");
        self.same_standing(standing)?;
        let balance = self.ledger.balance(&self.team).await.expect("a balance");
        prop_assert_eq!(balance, self.model.balance().map(amount));

        let listed = self.ledger.list(&self.team, 1000).await.expect("a list");
        prop_assert!(listed.is_sorted_by_key(|live| live.ends_in), "{:?}", listed);
        let mut live = self.model.live();
        live.sort_unstable();
        let mut listed: Vec<_> = listed
            .iter()
            .map(|one| (number_of(&one.hold), one))
            .collect();
        listed.sort_unstable_by_key(|(number, _)| *number);
        prop_assert_eq!(
            listed.iter().map(|(number, _)| *number).collect::<Vec<_>>(),
            live
        );
        for (number, one) in listed {
            prop_assert_eq!(one.credits, amount(self.model.set_aside(number)));
            prop_assert_eq!(one.run.clone(), self.model.run(number).map(run_of));
            let left = self.model.end_of_time(number) - self.model.now;
            self.same_end(Some(one.ends_in), Some(left))?;
        }
        self.observe_statement().await
    }

    async fn observe_statement(&mut self) -> Checked {
        let lines = self
            .ledger
            .statement(&self.team, &self.place, 1000)
            .await
            .expect("lines");
        let written = self.model.statement();
        let expected = &written[self.lines..];
        prop_assert_eq!(lines.len(), expected.len());
        for (line, expected) in lines.iter().zip(expected) {
            let named = |name: &String| name[1..].parse().expect("a number");
            let found = Line {
                kind: line.kind,
                added: line.credits.micro(),
                balance: line.balance.micro(),
                reference: line.reference.as_ref().map(named),
                hold: line.hold.as_ref().map(number_of),
                run: line.run.as_ref().map(number_of_run),
            };
            prop_assert_eq!(found, *expected);
            self.place.clone_from(&line.id);
        }
        self.lines = written.len();
        let sum: i64 = written.iter().map(|line| line.added).sum();
        prop_assert!(written.is_empty() || Some(sum) == self.model.balance());
        Ok(())
    }

    /// What expired was told to somebody, all of it, for the first time.
    fn all_told(&mut self, expired: &[Expired]) -> Checked {
        let mut told: Vec<_> = expired
            .iter()
            .map(|one| {
                let run = one.run.as_ref().map(number_of_run);
                (number_of(&one.hold), one.credits.micro(), run)
            })
            .collect();
        told.sort_unstable();
        let mut up: Vec<_> = self
            .model
            .up()
            .into_iter()
            .map(|hold| (hold, self.model.set_aside(hold), self.model.run(hold)))
            .collect();
        up.sort_unstable();
        prop_assert_eq!(told, &*up);
        for (hold, _, _) in up {
            self.model.expire(hold);
        }
        Ok(())
    }

    fn same_held(&self, held: Held) -> Checked {
        let live = u64::try_from(self.model.live().len()).expect("few");
        prop_assert_eq!(
            held,
            Held {
                credits: amount(self.model.held()),
                live
            }
        );
        Ok(())
    }

    fn same_standing(&self, standing: real::Standing) -> Checked {
        prop_assert_eq!(standing.balance, self.model.balance().map(amount));
        self.same_held(standing.held)
    }

    /// In real time some of it has passed that the model does not know of.
    fn same_end(&self, found: Option<Duration>, expected: Option<u64>) -> Checked {
        let expected = expected.map(Duration::from_millis);
        let is_near = match (found, expected) {
            (Some(found), Some(expected)) => found.abs_diff(expected) < PATIENCE,
            (None, None) => true,
            _ => false,
        };
        prop_assert!(
            found == expected || is_near && !self.is_exact(),
            "ends in {:?}, not in {:?}",
            found,
            expected
        );
        Ok(())
    }
}

fn same_change(found: Result<real::Change, LedgerError>, expected: Change) -> Checked {
    let (found, wanted, is_same_kind) = match (found, expected) {
        (Ok(real::Change::Unknown), Change::Unknown) | (Err(_), Change::NoRoom) => return Ok(()),
        (Ok(real::Change::Done(found)), Change::Done(wanted)) => (found, wanted, true),
        (Ok(real::Change::Again(found)), Change::Again(wanted)) => (found, wanted, true),
        (Ok(real::Change::Conflict(found)), Change::Conflict(wanted)) => (found, wanted, true),
        (found, expected) => {
            return Err(TestCaseError::fail(format!("{found:?} for {expected:?}")));
        }
    };
    let found = Entry {
        hold: number_of(&found.hold),
        run: found.run.as_ref().map(number_of_run),
        micro: found.credits.micro(),
        end: found.end,
        ended_now: found.ended_now,
        figure: wanted.figure.map(|_| found.figure.micro()),
        balance: found.balance.map(Credits::micro),
        has_others: found.has_others,
    };
    prop_assert!(
        is_same_kind && found == wanted,
        "{:?} for {:?}",
        found,
        wanted
    );
    Ok(())
}

/// The terms that histories are tried on.
pub fn all_terms(remember: Duration) -> [Terms; 4] {
    let length = |statement_length, when_full| Terms {
        writer: Writer::Tollgate,
        remember,
        statement_length,
        when_full,
    };
    [
        Terms {
            remember,
            ..Terms::default()
        },
        Terms {
            remember,
            ..by_tollgate()
        },
        length(5, WhenFull::Trim),
        length(12, WhenFull::Refuse),
    ]
}

pub async fn one_history(
    fixture: &dyn Fixture,
    clock: Option<&TestClock>,
    terms: Terms,
    steps: &[Step],
) -> Checked {
    let ledger = fixture.ledger();
    let now = clock.map_or(0, TestClock::millis);
    let mut history = History {
        ledger: &*ledger,
        fixture,
        clock,
        team: fresh_team(),
        model: Model::new(terms, now),
        asked: Vec::new(),
        told: HashMap::new(),
        place: String::new(),
        lines: 0,
    };
    history.go(steps).await
}

pub fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[allow(
    clippy::print_stdout,
    reason = "how much was tried is what a soak is for"
)]
/// Tries histories of seed after seed, until there were so many steps.
pub fn try_histories(what: &str, steps_wanted: u64, mut one: impl FnMut(u64, &[Step]) -> Checked) {
    let first = from_environment("TOLLGATE_SOAK_SEED", 1);
    let (begun, steps) = (Instant::now(), AtomicU64::new(0));
    let mut seeds = KEPT_SEEDS.iter().copied().chain(first..);
    let one = std::cell::RefCell::new(&mut one);
    while steps.load(Ordering::Relaxed) < steps_wanted {
        let seed = seeds.next().expect("a seed");
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let config = Config {
            cases: HISTORIES_PER_SEED,
            failure_persistence: None,
            ..Config::default()
        };
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let outcome = TestRunner::new_with_rng(config, rng).run(&history(), |history| {
            let taken = history.iter().map(|step| 1 + u64::from(step.is_lost)).sum();
            steps.fetch_add(taken, Ordering::Relaxed);
            (one.borrow_mut())(seed, &history)
        });
        if let Err(error) = outcome {
            panic!("{what}, seed {seed} (add it to KEPT_SEEDS): {error}");
        }
        assert!(
            begun.elapsed() < AT_MOST,
            "{what}: only {steps:?} steps in {AT_MOST:?}"
        );
    }
    println!(
        "{what}: {steps:?} steps from seed {first} on in {:.1?}",
        begun.elapsed()
    );
}

/// Which of the terms a seed tries.
pub fn nth_terms(seed: u64) -> usize {
    usize::try_from(seed % 4).expect("small")
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_in_memory_match_the_model() {
    let runtime = tokio::runtime::Handle::current();
    let wanted = from_environment("TOLLGATE_SOAK_STEPS", 10_000);
    let run = move || {
        try_histories("in memory", wanted, |seed, steps| {
            let terms = all_terms(REMEMBER)[nth_terms(seed)];
            let fixture = InMemory::new(terms);
            let clock: Arc<TestClock> = Arc::clone(&fixture.clock);
            runtime.block_on(one_history(&fixture, Some(&clock), terms, steps))
        });
    };
    tokio::task::spawn_blocking(run)
        .await
        .expect("every history matches");
}
