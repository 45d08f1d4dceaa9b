//! A Redis that says one thing to every command, or what a test wants to each.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// The fake. Serves as long as the process lives.
pub struct FakeRedis {
    /// Where it listens.
    pub address: SocketAddr,
}

impl FakeRedis {
    /// Sends these bytes once for each command it gets, after this delay.
    pub fn saying(answer: &'static [u8], delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || {
                    let mut commands = [0; 4096];
                    while let Ok(length) = stream.read(&mut commands) {
                        if length == 0 {
                            return;
                        }
                        // Each command is an array, and nothing else has a `*`.
                        let count = commands[..length]
                            .iter()
                            .filter(|byte| **byte == b'*')
                            .count()
                            .max(1);
                        std::thread::sleep(delay);
                        if stream.write_all(&answer.repeat(count)).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        FakeRedis { address }
    }

    /// Answers each command, given as its words, with what this returns;
    /// `None`: with silence.
    pub fn answering(
        answer: impl Fn(&[String]) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let answer = Arc::clone(&answer);
                std::thread::spawn(move || {
                    let mut commands = BufReader::new(stream.try_clone().unwrap());
                    let mut answers = stream;
                    while let Some(words) = command(&mut commands) {
                        let said = answer(&words).unwrap_or_default();
                        if answers.write_all(&said).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        FakeRedis { address }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }
}

/// The next command's words: an array of bulk strings.
fn command(from: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let count = length(from)?;
    let mut words = Vec::new();
    for _ in 0..count {
        let mut word = vec![0; length(from)? + 2];
        from.read_exact(&mut word).ok()?;
        word.truncate(word.len() - 2);
        words.push(String::from_utf8_lossy(&word).into_owned());
    }
    Some(words)
}

/// The number on a line, after the byte that says what it counts.
fn length(from: &mut BufReader<TcpStream>) -> Option<usize> {
    let mut line = String::new();
    from.read_line(&mut line).ok()?;
    line.get(1..)?.trim_end().parse().ok()
}
