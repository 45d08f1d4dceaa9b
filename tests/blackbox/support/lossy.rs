//! A wire to Redis that loses replies: what was written is done, and nobody
//! hears of it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::client::find;
use super::redis::Redis;

/// What becomes of a connection whose reply was lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Then {
    /// It is closed.
    Close,
    /// It stays, and says nothing more.
    Hang,
}

#[derive(Default)]
struct State {
    /// Replies to commands that name this are lost.
    about: Mutex<Vec<u8>>,
    left: AtomicUsize,
    lost: AtomicUsize,
    hang: AtomicBool,
}

/// The wire.
pub struct Lossy {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
}

impl Lossy {
    /// In front of this Redis; loses nothing until told to.
    pub fn before(redis: &Redis) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let (shared, port) = (Arc::clone(&state), redis.port);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else {
                    continue;
                };
                let _ = (near.set_nodelay(true), far.set_nodelay(true));
                carry(near, far, &shared);
            }
        });
        Lossy { address, state }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Loses the replies to the next so many commands that have this in them.
    pub fn lose(&self, about: &str, count: usize, then: Then) {
        *self.state.about.lock().unwrap() = about.as_bytes().to_vec();
        self.state.hang.store(then == Then::Hang, Ordering::SeqCst);
        self.state.left.store(count, Ordering::SeqCst);
    }

    /// How many replies were lost so far.
    pub fn lost(&self) -> usize {
        self.state.lost.load(Ordering::SeqCst)
    }
}

fn carry(near: TcpStream, far: TcpStream, state: &Arc<State>) {
    let doomed = Arc::new(AtomicBool::new(false));
    let (mut from, mut to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
    let (asking, dooming) = (Arc::clone(state), Arc::clone(&doomed));
    std::thread::spawn(move || {
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut chunk) {
            let about = asking.about.lock().unwrap().clone();
            let named = !about.is_empty() && find(&chunk[..length], &about).is_some();
            let less = |left: usize| left.checked_sub(1);
            if named
                && asking
                    .left
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
                    .is_ok()
            {
                dooming.store(true, Ordering::SeqCst);
            }
            if to.write_all(&chunk[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
    let state = Arc::clone(state);
    std::thread::spawn(move || answers(far, near, &state, &doomed));
}

fn answers(mut far: TcpStream, mut near: TcpStream, state: &State, doomed: &AtomicBool) {
    let mut chunk = vec![0; 64 * 1024];
    let mut silent = false;
    while let Ok(length @ 1..) = far.read(&mut chunk) {
        if doomed.swap(false, Ordering::SeqCst) {
            state.lost.fetch_add(1, Ordering::SeqCst);
            silent = true;
            if !state.hang.load(Ordering::SeqCst) {
                break;
            }
        }
        if !silent && near.write_all(&chunk[..length]).is_err() {
            break;
        }
    }
    let _ = near.shutdown(Shutdown::Both);
    let _ = far.shutdown(Shutdown::Both);
}
