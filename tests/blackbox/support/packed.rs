//! Bodies in the codings of HTTP, made by hand: the smallest legal form of
//! each, in which the content stands as it is.

/// `gzip`: one stored block.
pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    out.extend(stored(content));
    out.extend(crc32(content).to_le_bytes());
    out.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
    out
}

/// `deflate`, which means zlib: one stored block.
pub fn zlib(content: &[u8]) -> Vec<u8> {
    let mut out = vec![0x78, 0x01];
    out.extend(stored(content));
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in content {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    out.extend((b << 16 | a).to_be_bytes());
    out
}

/// The last block of a deflate stream, stored.
fn stored(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("a small body");
    let mut out = vec![1];
    out.extend(length.to_le_bytes());
    out.extend((!length).to_le_bytes());
    out.extend(content);
    out
}

/// `br`: one uncompressed meta-block and the empty last one.
pub fn brotli(content: &[u8]) -> Vec<u8> {
    let length = u32::from(u16::try_from(content.len()).expect("a small body"));
    // A window of 16 bits, not the last, four nibbles of length, uncompressed.
    let header = (length - 1) << 4 | 1 << 20;
    let mut out = header.to_le_bytes()[..3].to_vec();
    out.extend(content);
    out.push(3);
    out
}

/// `zstd`: one raw block.
pub fn zstd(content: &[u8]) -> Vec<u8> {
    let length = u32::from(u8::try_from(content.len()).expect("a tiny body"));
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0x20];
    out.push(length.to_le_bytes()[0]);
    out.extend(&(length << 3 | 1).to_le_bytes()[..3]);
    out.extend(content);
    out
}

/// `gzip` of about so many spaces, in 160 times fewer bytes.
pub fn gzip_bomb(length: usize) -> Vec<u8> {
    // Fixed codes: a space, then repeats of 258 from one byte back, the end.
    let repeats = length / 258;
    let mut bits = Bits::default();
    bits.push(1, 1);
    bits.push(1, 2);
    bits.push(reversed(0x30 + u32::from(b' '), 8), 8);
    for _ in 0..repeats {
        bits.push(reversed(0b1100_0101, 8), 8);
        bits.push(0, 5);
    }
    bits.push(0, 7);
    let content = vec![b' '; 1 + repeats * 258];
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    out.extend(bits.bytes);
    out.extend(crc32(&content).to_le_bytes());
    out.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
    out
}

#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    free: u32,
}

impl Bits {
    fn push(&mut self, value: u32, count: u32) {
        for at in 0..count {
            if self.free == 0 {
                self.bytes.push(0);
                self.free = 8;
            }
            let bit = u8::try_from(value >> at & 1).unwrap();
            *self.bytes.last_mut().unwrap() |= bit << (8 - self.free);
            self.free -= 1;
        }
    }
}

/// Huffman codes are packed from their top bit on.
fn reversed(code: u32, bits: u32) -> u32 {
    code.reverse_bits() >> (32 - bits)
}

fn crc32(content: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    };
    !content.iter().fold(u32::MAX, step)
}
