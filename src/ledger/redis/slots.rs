//! Slots of a cluster: which one a key is in, which key a command is about,
//! and what `CLUSTER SLOTS` says of who serves them.
//!
//! Nothing here talks to anybody.

use redis::{Arg, Cmd, Value};

/// How many slots a cluster has.
pub(super) const SLOTS: u16 = 16_384;

/// The most nodes that are believed to be masters. Clusters are made for up to
/// a thousand.
pub(super) const MASTERS_MAX: usize = 1000;

/// The slot that a key is in.
pub(super) fn slot_of(key: &[u8]) -> u16 {
    let crc = crc16::State::<crc16::XMODEM>::calculate(tag_of(key));
    crc.checked_rem(SLOTS).unwrap_or_default()
}

/// What is between the first `{` and the next `}`, unless that is nothing.
fn tag_of(key: &[u8]) -> &[u8] {
    let tag = || {
        let open = key.iter().position(|byte| *byte == b'{')?;
        let rest = key.get(open.checked_add(1)?..)?;
        let close = rest.iter().position(|byte| *byte == b'}')?;
        rest.get(..close).filter(|tag| !tag.is_empty())
    };
    tag().unwrap_or(key)
}

/// The key of a command as the ledger sends them, scripts aside: it comes after
/// the command's name.
pub(super) fn key_of(command: &Cmd) -> Option<&[u8]> {
    simple(command.args_iter().nth(1)?)
}

fn simple(argument: Arg<&[u8]>) -> Option<&[u8]> {
    match argument {
        Arg::Simple(bytes) => Some(bytes),
        _ => None,
    }
}

/// Slots that one master serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) host: String,
    pub(super) port: u16,
}

/// Reads what `CLUSTER SLOTS` says. A master without a name of its own is where
/// the one that answers is. `None`: this is no such answer.
pub(super) fn read_slots(reply: Value, host_of_answerer: &str) -> Option<Vec<Range>> {
    let Value::Array(entries) = reply else {
        return None;
    };
    let mut ranges = Vec::with_capacity(entries.len().min(usize::from(SLOTS)));
    for entry in entries {
        let Value::Array(parts) = entry else {
            return None;
        };
        // The first node is the master, the others are its replicas.
        let [
            Value::Int(first),
            Value::Int(last),
            Value::Array(master),
            ..,
        ] = parts.as_slice()
        else {
            return None;
        };
        let [host, Value::Int(port), ..] = master.as_slice() else {
            return None;
        };
        let host = match host {
            Value::Nil => host_of_answerer,
            Value::BulkString(host) => match std::str::from_utf8(host).ok()? {
                "" => host_of_answerer,
                // The node does not know its own name yet.
                "?" => continue,
                host => host,
            },
            _ => return None,
        };
        let range = Range {
            first: u16::try_from(*first).ok()?,
            last: u16::try_from(*last).ok().filter(|last| *last < SLOTS)?,
            host: host.to_owned(),
            port: u16::try_from(*port).ok()?,
        };
        ranges.push(range);
    }
    Some(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_the_slots_that_the_specification_says() {
        for (key, slot) in [
            ("123456789", 0x31c3),
            ("foo", 12182),
            ("{foo}.bar", 12182),
            ("a{foo}{bar}", 12182),
            ("{}foo", slot_of(b"{}foo")),
            ("", 0),
        ] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
        assert_eq!(tag_of(b"foo{}{bar}"), b"foo{}{bar}");
        assert_eq!(tag_of(b"foo{{bar}}"), b"{bar");
        assert_eq!(tag_of(b"foo{bar"), b"foo{bar");
        assert_eq!(
            slot_of(b"credits:{acme}"),
            slot_of(b"tollgate:holds:{acme}")
        );
    }

    #[test]
    fn a_command_is_about_its_first_key() {
        for (words, key) in [
            (&["GET", "credits:{a}"][..], Some("credits:{a}")),
            (&["HGET", "credits:{a}", "field"], Some("credits:{a}")),
            (
                &["XADD", "tollgate:events", "*", "a", "b"],
                Some("tollgate:events"),
            ),
            (&["GET"], None),
        ] {
            let mut command = Cmd::new();
            for word in words {
                command.arg(*word);
            }
            assert_eq!(key_of(&command), key.map(str::as_bytes), "{words:?}");
        }
    }

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn entry(first: i64, last: i64, host: Value, port: i64) -> Value {
        let node = |host, port| Value::Array(vec![host, Value::Int(port), text("id")]);
        Value::Array(vec![
            Value::Int(first),
            Value::Int(last),
            node(host, port),
            node(text("10.0.0.9"), 9),
        ])
    }

    #[test]
    fn the_master_of_each_range_is_read() {
        let reply = Value::Array(vec![
            entry(0, 99, text("10.0.0.1"), 7001),
            entry(100, 199, Value::Nil, 7002),
            entry(200, 299, text(""), 7003),
            entry(300, 399, text("?"), 7004),
        ]);
        let ranges = read_slots(reply, "self").expect("ranges");
        let short: Vec<_> = ranges
            .iter()
            .map(|range| (range.first, range.last, range.host.as_str(), range.port))
            .collect();
        assert_eq!(
            short,
            [
                (0, 99, "10.0.0.1", 7001),
                (100, 199, "self", 7002),
                (200, 299, "self", 7003)
            ]
        );
    }

    #[test]
    fn nonsense_is_no_map_of_slots() {
        for reply in [
            Value::Okay,
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![entry(0, 16_384, text("h"), 1)]),
            Value::Array(vec![entry(-1, 5, text("h"), 1)]),
            Value::Array(vec![entry(0, 5, text("h"), 65_536)]),
            Value::Array(vec![entry(0, 5, Value::Int(1), 1)]),
        ] {
            assert_eq!(read_slots(reply.clone(), "self"), None, "{reply:?}");
        }
    }
}
