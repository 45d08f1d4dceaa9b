//! Something that passes for Redis until it is told not to.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// How a command is answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// With these bytes.
    Say(Vec<u8>),
    /// With these bytes, after a while.
    Late(Duration, Vec<u8>),
    /// With these bytes and the end of the connection.
    Cut(Vec<u8>),
    /// Not at all.
    Nothing,
    /// With these bytes, and then more and more for ever.
    Endless(Vec<u8>),
}

/// Answers a command, given as its words.
type Behaviour = Arc<dyn Fn(&[String]) -> Answer + Send + Sync>;

struct Shared {
    behaviour: Mutex<Behaviour>,
    accepted: AtomicUsize,
    open: AtomicUsize,
    /// The most bytes that one endless answer could send.
    most_sent: AtomicUsize,
}

/// A listener that ends with this value.
pub struct FalseRedis {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for FalseRedis {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FalseRedis {
    /// Starts one that behaves well: every team has 20 credits.
    pub async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    /// Takes over a listener.
    pub fn on(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(Arc::new(well_behaved)),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            most_sent: AtomicUsize::new(0),
        });
        let task = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                let mut connections = JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let shared = Arc::clone(&shared);
                    shared.accepted.fetch_add(1, Ordering::SeqCst);
                    shared.open.fetch_add(1, Ordering::SeqCst);
                    connections.spawn(async move {
                        // Whatever ends the connection, it has ended.
                        let _ = serve(stream, &shared).await;
                        shared.open.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            }
        });
        FalseRedis {
            address,
            shared,
            task,
        }
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Changes how commands are answered from now on, on every connection.
    pub fn behave(&self, behaviour: impl Fn(&[String]) -> Answer + Send + Sync + 'static) {
        *self.shared.behaviour.lock().unwrap() = Arc::new(behaviour);
    }

    /// How many connections there have been.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How many connections there are.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// The most bytes that one endless answer got rid of.
    pub fn most_sent(&self) -> usize {
        self.shared.most_sent.load(Ordering::SeqCst)
    }
}

/// As Redis would answer, with 20 credits for every team.
pub fn well_behaved(command: &[String]) -> Answer {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    Answer::Say(match words.as_slice() {
        ["PING", nonce] => bulk(nonce),
        ["GET", _] | ["GETRANGE", _, _, _] => bulk("20"),
        ["EXISTS", _] => b":1\r\n".to_vec(),
        _ => b"+OK\r\n".to_vec(),
    })
}

/// A bulk string.
pub fn bulk(text: &str) -> Vec<u8> {
    format!("${}\r\n{text}\r\n", text.len()).into_bytes()
}

async fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut received = Vec::new();
    loop {
        while let Some((command, used)) = parse(&received) {
            received.drain(..used);
            let behaviour = Arc::clone(&shared.behaviour.lock().unwrap());
            match behaviour(&command) {
                Answer::Say(bytes) => stream.write_all(&bytes).await?,
                Answer::Late(after, bytes) => {
                    tokio::time::sleep(after).await;
                    stream.write_all(&bytes).await?;
                }
                Answer::Cut(bytes) => return stream.write_all(&bytes).await,
                Answer::Nothing => {}
                Answer::Endless(start) => {
                    stream.write_all(&start).await?;
                    let more = start.repeat(64 * 1024 / start.len());
                    let mut sent = 0;
                    loop {
                        sent += stream.write(&more).await?;
                        shared.most_sent.fetch_max(sent, Ordering::SeqCst);
                    }
                }
            }
        }
        if stream.read_buf(&mut received).await? == 0 {
            return Ok(());
        }
    }
}

/// The first command in the buffer and its length, if it is complete.
fn parse(buffer: &[u8]) -> Option<(Vec<String>, usize)> {
    let mut at = 0;
    let line = |from: &mut usize| -> Option<usize> {
        let rest = buffer.get(*from..)?;
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        let number = std::str::from_utf8(rest.get(1..end)?).ok()?.parse().ok()?;
        *from += end + 2;
        Some(number)
    };
    let count = line(&mut at)?;
    let mut words = Vec::new();
    for _ in 0..count {
        let length = line(&mut at)?;
        let word = buffer.get(at..at + length)?;
        words.push(String::from_utf8_lossy(word).into_owned());
        at += length + 2;
    }
    (at <= buffer.len()).then_some((words, at))
}
