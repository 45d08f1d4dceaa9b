//! Addresses that behave badly in a known way.

use std::net::{SocketAddr, TcpListener, TcpStream};

/// An address that refuses connections, kept from others while this lives:
/// the port is bound and nobody listens.
pub struct Refusing {
    _socket: tokio::net::TcpSocket,
    /// The address.
    pub address: SocketAddr,
}

impl Refusing {
    /// Takes a free port.
    pub fn new() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket
            .bind("127.0.0.1:0".parse().unwrap())
            .expect("a free port");
        let address = socket.local_addr().expect("a bound socket has an address");
        Refusing {
            _socket: socket,
            address,
        }
    }
}

/// An address where a connection attempt gets no answer at all: its queue of
/// connections is full and nobody takes one off.
pub struct BlackHole {
    _listener: std::net::TcpListener,
    _fillers: Vec<TcpStream>,
    /// The address.
    pub address: SocketAddr,
}

impl BlackHole {
    /// Opens and fills it.
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _inside = runtime.enter();
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket
            .bind("127.0.0.1:0".parse().unwrap())
            .expect("a free port");
        let listener = socket
            .listen(1)
            .and_then(|l| l.into_std())
            .expect("a listener");
        let address = listener.local_addr().unwrap();
        let mut fillers = Vec::new();
        while let Ok(stream) =
            TcpStream::connect_timeout(&address, std::time::Duration::from_millis(100))
        {
            fillers.push(stream);
            assert!(
                fillers.len() < 64,
                "the queue does not fill: this system has no black holes"
            );
        }
        BlackHole {
            _listener: listener,
            _fillers: fillers,
            address,
        }
    }
}

/// A port that was free a moment ago, for a program that cannot be asked to
/// choose one. Others may take it meanwhile: try again with another one then.
pub fn recently_free() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().unwrap().port()
}
