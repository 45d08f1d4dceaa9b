//! [`Words`]: what a script is called with; and [`Packed`], a call that is
//! written as it goes over the wire.
//!
//! redis-rs's command keeps its words apart, to be put together when it is
//! sent: with a score of them, that costs three times as much as writing them
//! down once.

use redis::{Cmd, RedisWrite, ToRedisArgs};

use super::super::keys::{Filled, digits};
use super::super::wire::Pack;
use super::script::Script;

/// Room for a call of a common length, so that it is allocated once.
const CALL_BYTES: usize = 512;

/// A command that is being put together.
pub(super) trait Words {
    /// Adds a word.
    fn arg(&mut self, word: impl ToRedisArgs) -> &mut Self;

    /// Adds a key.
    fn key(&mut self, key: Filled<'_>) -> &mut Self;

    /// Adds one word that is made of these parts.
    fn parts(&mut self, parts: [&str; 2]) -> &mut Self;
}

impl Words for Cmd {
    fn arg(&mut self, word: impl ToRedisArgs) -> &mut Self {
        Cmd::arg(self, word)
    }

    fn key(&mut self, key: Filled<'_>) -> &mut Self {
        Cmd::arg(self, key)
    }

    fn parts(&mut self, parts: [&str; 2]) -> &mut Self {
        Cmd::arg(self, parts.concat())
    }
}

/// A call of a script, as it goes over the wire but for the number of words.
#[derive(Debug)]
pub(super) struct Packed {
    words: usize,
    bytes: Vec<u8>,
}

impl Packed {
    /// A call of this script by its name.
    pub(super) fn new(script: &Script) -> Self {
        let mut call = Packed {
            words: 0,
            bytes: Vec::with_capacity(CALL_BYTES),
        };
        script.name(&mut call);
        call
    }

    fn begin_word(&mut self, length: usize) {
        self.words = self.words.saturating_add(1);
        header(b'$', length, &mut self.bytes);
    }

    fn end_word(&mut self) {
        self.bytes.extend_from_slice(b"\r\n");
    }
}

impl Words for Packed {
    fn arg(&mut self, word: impl ToRedisArgs) -> &mut Self {
        word.write_redis_args(self);
        self
    }

    fn key(&mut self, key: Filled<'_>) -> &mut Self {
        self.words = self.words.saturating_add(1);
        key.pack(&mut self.bytes);
        self
    }

    fn parts(&mut self, parts: [&str; 2]) -> &mut Self {
        let lengths = parts.iter().map(|part| part.len());
        self.begin_word(lengths.fold(0, usize::saturating_add));
        for part in parts {
            self.bytes.extend_from_slice(part.as_bytes());
        }
        self.end_word();
        self
    }
}

impl RedisWrite for Packed {
    fn write_arg(&mut self, word: &[u8]) {
        self.begin_word(word.len());
        self.bytes.extend_from_slice(word);
        self.end_word();
    }

    fn writer_for_next_arg(&mut self) -> impl std::io::Write + '_ {
        Buffered {
            call: self,
            word: Vec::new(),
        }
    }
}

/// A word whose length is known when all of it is there.
struct Buffered<'a> {
    call: &'a mut Packed,
    word: Vec<u8>,
}

impl std::io::Write for Buffered<'_> {
    fn write(&mut self, part: &[u8]) -> std::io::Result<usize> {
        self.word.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Buffered<'_> {
    fn drop(&mut self) {
        let word = std::mem::take(&mut self.word);
        self.call.write_arg(&word);
    }
}

impl Pack for Packed {
    fn pack(&self, out: &mut Vec<u8>) {
        header(b'*', self.words, out);
        out.extend_from_slice(&self.bytes);
    }

    fn replies(&self) -> usize {
        1
    }
}

fn header(kind: u8, number: usize, out: &mut Vec<u8>) {
    out.push(kind);
    digits(number, out);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::super::super::keys::Template;
    use super::super::script;
    use super::*;

    fn fill(call: &mut impl Words) {
        let key = Template::for_team("credits:{<team>}");
        call.arg(4).key(key.fill("acme")).parts(["h:", "0123"]);
        call.arg(i64::MIN).arg("").arg("x".repeat(1000));
        call.arg(None::<&str>).arg(Some("canary"));
    }

    #[test]
    fn a_packed_call_is_the_command_that_redis_rs_makes() {
        let mut command = script::HOLD.by_name();
        fill(&mut command);
        let mut call = Packed::new(&script::HOLD);
        fill(&mut call);
        let mut packed = Vec::new();
        call.pack(&mut packed);
        assert_eq!(packed, command.get_packed_command());
        assert_eq!(call.replies(), 1);
    }
}
