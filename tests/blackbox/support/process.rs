//! Programs that end with the test that started them, however it ends.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::wait::eventually;

/// A running program. Killed on drop; killed too when this test process goes
/// away without dropping anything, by a watchdog that reads a pipe from us.
pub struct Supervised {
    child: Child,
    watchdog: Child,
    over: bool,
}

impl Supervised {
    /// Starts it. Its folder goes with it if nobody is left to remove it.
    pub fn spawn(command: &mut Command, folder: &Folder) -> Self {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("cannot start `{program}`, which these tests need: {error}")
        });
        let watchdog = Command::new("sh")
            .args([
                "-c",
                "read -r _; kill -KILL \"$0\" 2>/dev/null; rm -rf \"$1\"",
                &child.id().to_string(),
            ])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh is there");
        Supervised {
            child,
            watchdog,
            over: false,
        }
    }

    /// Its memory that is resident now, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("it runs, and this is Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kibibytes
            .and_then(|k| k.parse::<u64>().ok())
            .expect("a size")
            * 1024
    }

    /// Its standard input.
    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("stdin is piped")
    }

    /// Its standard output and error, gathered line by line.
    pub fn outputs(&mut self) -> (Lines, Lines) {
        let stdout = self.child.stdout.take().expect("stdout is piped");
        let stderr = self.child.stderr.take().expect("stderr is piped");
        (Lines::gather(stdout), Lines::gather(stderr))
    }

    /// Sends it a signal: `TERM`, `HUP`, `STOP`, `CONT`, `KILL`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("sh")
            .args(["-c", &format!("kill -{name} {}", self.child.id())])
            .status()
            .expect("sh is there");
        assert!(status.success(), "could not send SIG{name}");
    }

    /// Its status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("the child can be waited for");
        self.over |= status.is_some();
        status
    }

    /// Waits for its end; panics if it has not ended by then.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        eventually(deadline, "the program ends", || self.ended())
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if !self.over {
            let _ = self.child.kill();
        }
        // A program that has ended has given its id back, so its watchdog must
        // not fire; one that was just killed still owns its id until `wait`.
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        let _ = self.child.wait();
    }
}

/// The lines that a program has written so far.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn gather(source: impl Read + Send + 'static) -> Self {
        let lines = Lines::default();
        let sink = lines.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(source);
            let mut line = Vec::new();
            while reader
                .read_until(b'\n', &mut line)
                .is_ok_and(|read| read > 0)
            {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                sink.0.lock().unwrap().push(text);
                line.clear();
            }
        });
        lines
    }

    /// All of them.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// As one text.
    pub fn text(&self) -> String {
        self.all().join("\n")
    }

    /// Those that are JSON objects.
    pub fn json(&self) -> Vec<serde_json::Value> {
        self.all()
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

/// A folder of a test's own, removed on drop.
pub struct Folder(PathBuf);

impl Folder {
    /// A new one. Not below `target`: a Unix socket's path must stay short.
    pub fn new(purpose: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tollgate-{purpose}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("the temporary folder can be written");
        Folder(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file into it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).expect("the temporary folder can be written");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
