//! The real parties: published packages, unmodified, in Python and Node.
//!
//! They are installed below `target`, once, in the versions that
//! `tests/parties` pins. What cannot be installed fails the tests that need
//! it: they must not pass unrun.

use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use serde_json::{Value, json};

use super::process::{Folder, Lines, Supervised};
use super::wait::{SOON, eventually};

/// Where their programs, and the versions of what they need, are.
const PARTIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parties");

/// Says, of each line `name==version` of a file, whether it is installed.
const PYTHON_HAS: &str = "import sys; from importlib.metadata import version
for line in open(sys.argv[1]):
    name, _, wanted = line.strip().partition('==')
    assert not wanted or version(name) == wanted, line";

/// Says whether Linear's SDK is installed in the version that is pinned.
const NODE_HAS: &str = "const {createRequire} = require('module');
const version = createRequire(process.argv[1] + '/')('@linear/sdk/package.json').version;
const wanted = require(process.argv[2]).dependencies['@linear/sdk'];
process.exit(version === wanted ? 0 : 1)";

/// The Python of a virtual environment with `requirements.txt`.
pub fn python() -> &'static Path {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let python = PYTHON.get_or_init(|| {
        let venv = below_target("venv");
        let python = venv.join("bin/python");
        let requirements = format!("{PARTIES}/requirements.txt");
        let usable = || succeeds(Command::new(&python).args(["-c", PYTHON_HAS, &requirements]));
        install(
            "Python packages",
            "python3 >= 3.10 with venv, PyPI",
            usable,
            || {
                run(Command::new("python3")
                    .args(["-m", "venv", "--clear"])
                    .arg(&venv))?;
                run(Command::new(&python).args([
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "-r",
                    &requirements,
                ]))
            },
        )?;
        Ok(python)
    });
    python.as_ref().unwrap_or_else(|error| panic!("{error}"))
}

/// The folder with the Node packages of `package-lock.json`.
fn node_packages() -> &'static Path {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = below_target("node");
        let manifest = format!("{PARTIES}/package.json");
        let usable = || {
            succeeds(
                Command::new("node")
                    .args(["-e", NODE_HAS])
                    .arg(&folder)
                    .arg(&manifest),
            )
        };
        install(
            "Node packages",
            "node >= 18, npm, its registry",
            usable,
            || {
                fs::create_dir_all(&folder).expect("target can be written");
                for name in ["package.json", "package-lock.json"] {
                    fs::copy(format!("{PARTIES}/{name}"), folder.join(name))
                        .expect("target can be written");
                }
                let quietly = [
                    "ci",
                    "--ignore-scripts",
                    "--no-audit",
                    "--no-fund",
                    "--loglevel=error",
                    // Twice in a minute is how often it tries by itself.
                    "--fetch-retries=1",
                    "--fetch-retry-mintimeout=1000",
                ];
                run(Command::new("npm").args(quietly).current_dir(&folder))
            },
        )?;
        Ok(folder)
    });
    folder.as_ref().unwrap_or_else(|error| panic!("{error}"))
}

fn below_target(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name(name)
}

/// Installs what is not usable yet. Only one process of many does it. What went
/// wrong is for the caller to keep: every test that needs it fails of it, and
/// only the first waits for a registry that does not answer.
fn install(
    what: &str,
    needs: &str,
    usable: impl Fn() -> bool,
    work: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    if usable() {
        return Ok(());
    }
    let turn = File::create(below_target("parties.lock")).expect("target can be written");
    turn.lock().expect("target is on a file system with locks");
    if !usable() {
        work().map_err(|error| format!("{what}, which these tests need ({needs}): {error}"))?;
    }
    match usable() {
        true => Ok(()),
        false => Err(format!(
            "{what} were installed below target and do not work (needed: {needs})"
        )),
    }
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output();
    let output =
        output.map_err(|error| format!("{command:?}: {error}; `make setup` installs it"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {said}"))
}

/// A party that listens behind the gateway and tells what reaches it.
pub struct Party {
    /// Where it listens.
    pub address: SocketAddr,
    process: Mutex<Supervised>,
    stdin: Mutex<ChildStdin>,
    says: Lines,
    complains: Lines,
    questions: AtomicUsize,
}

impl Party {
    /// Slack's Bolt, with this signing secret.
    pub fn bolt(secret: &str) -> Self {
        Party::start(
            Command::new(python())
                .arg(format!("{PARTIES}/bolt_upstream.py"))
                .arg(secret),
        )
    }

    /// Linear's receiver, with this webhook secret.
    pub fn linear(secret: &str) -> Self {
        let program = format!("{PARTIES}/linear_upstream.mjs");
        Party::start(
            Command::new("node")
                .arg(program)
                .arg(node_packages())
                .arg(secret),
        )
    }

    fn start(command: &mut Command) -> Self {
        let folder = Folder::new("party");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = Supervised::spawn(command, &folder);
        let stdin = process.stdin();
        let (says, complains) = process.outputs();
        let port = eventually(SOON * 3, "the party listens", || {
            let status = process.ended();
            assert!(status.is_none(), "the party ended: {}", complains.text());
            says.json()
                .iter()
                .find_map(|line| line["listening"].as_u64())
        });
        Party {
            address: SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap())),
            process: Mutex::new(process),
            stdin: Mutex::new(stdin),
            says,
            complains,
            questions: AtomicUsize::new(1),
        }
    }

    /// What it has told under this name, oldest first.
    pub fn told(&self, name: &str) -> Vec<Value> {
        let lines = self.says.json();
        lines
            .into_iter()
            .filter(|line| line.get(name).is_some())
            .collect()
    }

    /// Waits until it has told this many times what it `handled`, exactly.
    #[track_caller]
    pub fn handled(&self, count: usize) -> Vec<Value> {
        eventually(SOON, &format!("{count} are handled"), || {
            Some(self.told("handled")).filter(|told| told.len() >= count)
        });
        let told = self.told("handled");
        assert_eq!(told.len(), count, "{told:#?}");
        told
    }

    /// Not one request has reached it.
    #[track_caller]
    pub fn assert_untouched(&self) {
        self.catch_up();
        let arrived = self.told("arrived");
        assert!(arrived.is_empty(), "{arrived:#?}");
    }

    /// Waits until all that it has told so far is here: it tells in order.
    #[track_caller]
    pub fn catch_up(&self) {
        self.ask(json!({"do": "nothing"}));
    }

    /// Asks it something and waits for the answer.
    #[track_caller]
    pub fn ask(&self, mut question: Value) -> Value {
        let number = self.questions.fetch_add(1, Ordering::Relaxed);
        question["id"] = json!(number);
        writeln!(self.stdin.lock().unwrap(), "{question}").expect("the party reads");
        let answer = eventually(SOON, "the party answers", || {
            let ended = self.process.lock().unwrap().ended();
            assert!(
                ended.is_none(),
                "the party ended: {}",
                self.complains.text()
            );
            self.told("id")
                .into_iter()
                .find(|line| line["id"] == number)
        });
        assert!(answer.get("error").is_none(), "{answer}");
        answer["answer"].clone()
    }
}
