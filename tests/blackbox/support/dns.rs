//! A name server that answers every A question with the address of the day.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

/// The name server. Serves as long as the process lives.
pub struct NameServer {
    /// Where it listens (UDP).
    pub address: SocketAddr,
    answers: Arc<Mutex<Vec<Ipv4Addr>>>,
}

impl NameServer {
    /// One that gives these addresses with a TTL of one second.
    pub fn answering(addresses: &[Ipv4Addr]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().unwrap();
        let answers = Arc::new(Mutex::new(addresses.to_vec()));
        let current = Arc::clone(&answers);
        std::thread::spawn(move || {
            let mut packet = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut packet) {
                if let Some(reply) = reply(&packet[..length], &current.lock().unwrap()) {
                    let _ = socket.send_to(&reply, peer);
                }
            }
        });
        NameServer { address, answers }
    }

    /// From now on it gives these.
    pub fn answer(&self, addresses: &[Ipv4Addr]) {
        *self.answers.lock().unwrap() = addresses.to_vec();
    }
}

/// RFC 1035, section 4: the question repeated, then one A record per address;
/// for other types, no record.
fn reply(query: &[u8], addresses: &[Ipv4Addr]) -> Option<Vec<u8>> {
    let mut end = 12;
    while *query.get(end)? != 0 {
        end += usize::from(*query.get(end)?) + 1;
    }
    let question = query.get(12..end + 5)?;
    let is_a = query.get(end + 1..end + 3)? == [0, 1];
    let records = if is_a { addresses } else { &[] };
    let mut reply = query.get(..2)?.to_vec();
    reply.extend([
        0x81,
        0x80,
        0,
        1,
        0,
        u8::try_from(records.len()).ok()?,
        0,
        0,
        0,
        0,
    ]);
    reply.extend(question);
    for address in records {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        reply.extend(address.octets());
    }
    Some(reply)
}
