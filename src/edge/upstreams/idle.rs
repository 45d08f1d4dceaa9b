//! Connections to one address of the upstream that wait for their next request.
//!
//! Each thread has its own, because a connection is served by the runtime that
//! it was made in. The one that waits for the shortest time is taken first: it
//! is the likeliest to be open still. Nobody watches them one by one; they are
//! looked at when they are taken, and from time to time ([`Idle::sweep`]) so
//! that those that nobody takes are closed too.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::TcpStream;

use super::clock::Clock;

/// Threads that keep connections apart; more than that share them.
const SHARDS: usize = 64;

/// Connections that wait, for each thread, whatever their address.
const WAITING_MAX: usize = 1024;

/// A connection that waited longer is looked at through the kernel's eyes: the
/// runtime may not have heard yet that it was closed. One that is used all the
/// time is not worth the system call.
const LONG: Duration = Duration::from_millis(5);

/// What the addresses of an upstream share: how long a connection may wait, and
/// how many may.
pub struct Room {
    timeout: Duration,
    waiting: [AtomicUsize; SHARDS],
}

impl Room {
    /// Room for connections that wait for `timeout` at most.
    pub fn new(timeout: Duration) -> Arc<Self> {
        Arc::new(Room {
            timeout,
            waiting: [const { AtomicUsize::new(0) }; SHARDS],
        })
    }

    /// How often those that wait are to be looked at.
    pub fn sweep_every(&self) -> Duration {
        let quarter = self.timeout.checked_div(4).unwrap_or_default();
        quarter.clamp(Duration::from_millis(50), Duration::from_secs(1))
    }
}

/// A place in the room, given back when it is dropped.
struct Place {
    room: Arc<Room>,
    shard: usize,
}

impl Place {
    fn take(room: &Arc<Room>, shard: usize) -> Option<Self> {
        let waiting = room.waiting.get(shard)?;
        let place = Place {
            room: Arc::clone(room),
            shard,
        };
        (waiting.fetch_add(1, Ordering::Relaxed) < WAITING_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(waiting) = self.room.waiting.get(self.shard) {
            waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A connection, the buffer in which its writes are gathered, and its clock.
#[derive(Debug)]
pub struct Line {
    /// The connection.
    pub stream: TcpStream,
    /// Empty, with the room that it has grown.
    pub buffer: Vec<u8>,
    /// Its clock.
    pub clock: Clock,
}

impl Line {
    /// A connection that was just made.
    pub fn new(stream: TcpStream) -> Self {
        Line {
            stream,
            buffer: Vec::new(),
            clock: Clock::default(),
        }
    }
}

struct Waiting {
    line: Line,
    since: Instant,
    _place: Place,
}

/// The connections that wait.
pub struct Idle {
    address: SocketAddr,
    room: Arc<Room>,
    shards: [Mutex<Vec<Waiting>>; SHARDS],
}

impl fmt::Debug for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Idle").field(&self.address).finish()
    }
}

impl Idle {
    /// None waits yet.
    pub fn new(address: SocketAddr, room: &Arc<Room>) -> Arc<Self> {
        Arc::new(Idle {
            address,
            room: Arc::clone(room),
            shards: [const { Mutex::new(Vec::new()) }; SHARDS],
        })
    }

    /// Takes one that is open.
    pub fn take(&self) -> Option<Line> {
        let now = Instant::now();
        let shard = self.shards.get(shard())?;
        loop {
            let waiting = lock(shard).pop()?;
            let waited = now.saturating_duration_since(waiting.since);
            let stream = &waiting.line.stream;
            let is_quiet = || self.is_quiet(stream) && (waited < LONG || is_silent(stream));
            if waited < self.room.timeout && is_quiet() {
                return Some(waiting.line);
            }
        }
    }

    /// Lets one wait, or closes it: if it is closed at the other end already, if
    /// something came that nobody asked for, or if there is no room.
    pub fn put(&self, line: Line) {
        let shard = shard();
        if !self.is_quiet(&line.stream) {
            return;
        }
        let (Some(waiting), Some(place)) = (self.shards.get(shard), Place::take(&self.room, shard))
        else {
            return;
        };
        lock(waiting).push(Waiting {
            line,
            since: Instant::now(),
            _place: place,
        });
    }

    /// Closes those that waited for too long, or are closed at the other end.
    pub fn sweep(&self) {
        let now = Instant::now();
        for shard in &self.shards {
            let goes = |waiting: &mut Waiting| {
                let waited = now.saturating_duration_since(waiting.since);
                waited >= self.room.timeout || !self.is_quiet(&waiting.line.stream)
            };
            let gone: Vec<Waiting> = lock(shard).extract_if(.., goes).collect();
            // Closed when nobody waits for the lock.
            drop(gone);
        }
    }

    /// Whether a connection is quiet, as far as the runtime heard.
    fn is_quiet(&self, stream: &TcpStream) -> bool {
        match stream.try_read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
            Ok(0) | Err(_) => false,
            Ok(_) => {
                tracing::warn!(
                    address = %self.address,
                    "the upstream sent more than its answer: the connection is closed"
                );
                false
            }
        }
    }
}

/// Whether a connection is quiet, as far as the kernel heard.
fn is_silent(stream: &TcpStream) -> bool {
    let peeked = SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]);
    peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

fn lock(shard: &Mutex<Vec<Waiting>>) -> MutexGuard<'_, Vec<Waiting>> {
    // A list stays whole, whoever panics.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number of this thread.
fn shard() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SHARD: usize = THREADS.fetch_add(1, Ordering::Relaxed) % SHARDS;
    }
    SHARD.with(|shard| *shard)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    async fn line(listener: &TcpListener) -> (Line, TcpStream) {
        let address = listener.local_addr().unwrap();
        let (stream, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let line = Line::new(stream.unwrap());
        (line, accepted.unwrap().0)
    }

    async fn idle(timeout: Duration) -> (Arc<Idle>, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Idle::new(address, &Room::new(timeout)), listener)
    }

    #[tokio::test]
    async fn the_last_that_came_is_the_first_that_goes() {
        let (idle, listener) = idle(Duration::from_secs(60)).await;
        let (first, _one) = line(&listener).await;
        let (last, _other) = line(&listener).await;
        let expected = last.stream.local_addr().unwrap();
        idle.put(first);
        idle.put(last);
        assert_eq!(idle.take().unwrap().stream.local_addr().unwrap(), expected);
        assert!(idle.take().is_some());
        assert!(idle.take().is_none());
    }

    #[tokio::test]
    async fn one_that_waited_too_long_is_not_taken() {
        let (idle, listener) = idle(Duration::ZERO).await;
        let (waiting, _other) = line(&listener).await;
        idle.put(waiting);
        assert!(idle.take().is_none());
    }

    #[tokio::test]
    async fn one_that_was_closed_or_spoke_is_not_taken() {
        let (idle, listener) = idle(Duration::from_secs(60)).await;
        let (closed, other) = line(&listener).await;
        let (spoken, mut talker) = line(&listener).await;
        drop(other);
        talker.write_all(b"x").await.unwrap();
        closed.stream.readable().await.unwrap();
        spoken.stream.readable().await.unwrap();
        idle.put(closed);
        idle.put(spoken);
        assert!(idle.take().is_none());
        // The runtime need not have heard: what waited is asked for.
        let (waiting, other) = line(&listener).await;
        assert!(is_silent(&waiting.stream));
        drop(other);
        assert!(!is_silent(&waiting.stream));
    }

    #[tokio::test]
    async fn the_sweep_closes_what_need_not_wait_and_gives_back_its_place() {
        let (idle, listener) = idle(Duration::ZERO).await;
        let (waiting, _other) = line(&listener).await;
        idle.put(waiting);
        let waiting = || -> usize {
            let counts = idle.room.waiting.iter();
            counts.map(|count| count.load(Ordering::Relaxed)).sum()
        };
        assert_eq!(waiting(), 1);
        idle.sweep();
        assert_eq!(waiting(), 0);
    }

    #[test]
    fn there_is_room_for_so_many_and_no_more() {
        let room = Room::new(Duration::from_secs(60));
        let mut places: Vec<Place> = (0..WAITING_MAX)
            .map_while(|_| Place::take(&room, 3))
            .collect();
        assert_eq!(places.len(), WAITING_MAX);
        assert!(Place::take(&room, 3).is_none());
        assert!(Place::take(&room, 4).is_some());
        places.pop();
        assert!(Place::take(&room, 3).is_some());
    }
}
